// Matchers as people write them: {alertname="Down", service=~"a|b"}.

const BARE = /^[^\s{}!=~,\\"'`]+/;
const ESCAPES = { n: "\n", t: "\t", '"': '"', "\\": "\\" };

/** Read a list of matchers, with or without braces; throws an Error whose message says where it ends to make sense. */
export function parse(text) {
  let rest = text.trim();
  const braced = rest.startsWith("{");
  if (braced) rest = rest.slice(1).trimStart();
  const found = [];
  while (rest !== "" && rest !== "}") {
    let name, op, value;
    [name, rest] = word(rest, "a label name");
    op = /^(?:=~|!~|!=|=)/.exec(rest)?.[0];
    if (!op) throw new Error(`expected =, !=, =~ or !~ after ${name}`);
    [value, rest] = word(rest.slice(op.length).trimStart(), `a value for ${name}`);
    found.push({ name, value, isRegex: op.endsWith("~"), isEqual: op.startsWith("=") });
    if (rest.startsWith(",")) rest = rest.slice(1).trimStart();
    else if (rest !== "" && rest !== "}") throw new Error(`expected a comma before ${rest.slice(0, 20)}`);
  }
  if (braced !== (rest === "}")) throw new Error("a brace is missing");
  return found;
}

function word(text, what) {
  if (text.startsWith('"')) {
    const quoted = /^"((?:[^"\\]|\\.)*)"\s*/s.exec(text);
    if (!quoted) throw new Error("a quote is not closed");
    return [quoted[1].replace(/\\(.)/gs, (pair, char) => ESCAPES[char] ?? pair), text.slice(quoted[0].length)];
  }
  const bare = BARE.exec(text)?.[0];
  if (!bare) throw new Error(`expected ${what}`);
  return [bare, text.slice(bare.length).trimStart()];
}

/** One matcher as text. */
export function show({ name, value, isRegex, isEqual }) {
  const op = isRegex ? (isEqual === false ? "!~" : "=~") : isEqual === false ? "!=" : "=";
  return `${BARE.exec(name)?.[0] === name ? name : quote(name)}${op}${quote(value)}`;
}

const quote = (text) => `"${text.replace(/["\\]/g, "\\$&").replace(/\n/g, "\\n").replace(/\t/g, "\\t")}"`;

/** A list of matchers as text. */
export const render = (matchers) => `{${matchers.map(show).join(", ")}}`;

/** The matchers that match exactly these labels. */
export const equal = (labels) =>
  Object.entries(labels).map(([name, value]) => ({ name, value, isRegex: false, isEqual: true }));

/** Whether labels satisfy all matchers. Expressions match whole values, and an absent label is empty. */
export function satisfies(labels, matchers) {
  return matchers.every(({ name, value, isRegex, isEqual }) => {
    const found = labels[name] ?? "";
    return (isRegex ? expression(value).test(found) : found === value) === (isEqual !== false);
  });
}

function expression(text) {
  try {
    return new RegExp(`^(?:${text})$`);
  } catch {
    return /^\b$/; // RE2 knows a few things that browsers do not: those match nothing here
  }
}
