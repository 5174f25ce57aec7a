// #/alert/FINGERPRINT: who was told when, and why somebody was not.

import * as api from "./api.js";
import { card } from "./card.js";
import { h, problem, replace } from "./dom.js";
import { ago, clock, human, until } from "./time.js";

/** Fill `main` and return what loads it again. */
export function explainPage(main, fingerprint) {
  const place = h("div", {}, h("p", { class: "quiet" }, "Loading ..."));
  main.replaceChildren(h("p", {}, h("a", { href: "#/alerts" }, "← All alerts")), place);
  return async () => {
    const rest = Promise.all([api.silences(), api.acks()]).catch(() => [[], []]);
    let found;
    try {
      found = await api.explain(fingerprint);
    } catch (error) {
      if (error.status !== 404) throw error;
      replace(place, problem("This alert is not known: it may have ended and been forgotten, or the router does not keep reasons."));
      return;
    }
    const [silences, acks] = await rest;
    const known = new Map(silences.map((silence) => [silence.id, silence]));
    document.title = `${found.alert.labels.alertname ?? fingerprint}: tocsin`;
    replace(place, card(found.alert, { silences: known, acks, own: true }), found.routes.map(route));
  };
}

function route({ receiver, path, group, muted, integrations }) {
  return h(
    "section",
    { class: "route" },
    h("h2", {}, "To ", h("strong", {}, receiver)),
    path?.length > 0 && h("ol", { class: "path", "aria-label": "Route" }, path.map((node) => h("li", {}, h("code", {}, matchersOf(node)), node.continue && h("span", { class: "quiet" }, " continue")))),
    group && groupLine(group),
    mutes(muted ?? {}),
    (integrations ?? []).length === 0 ? h("p", { class: "quiet" }, "This receiver has no integration: it swallows what it gets.") : integrations.map(integration),
  );
}

const matchersOf = (node) => {
  const shown = Array.isArray(node.matchers) ? node.matchers.join(", ") : node.matchers;
  return shown || "every alert";
};

function groupLine(group) {
  const labels = Object.entries(group.labels ?? {}).map(([name, value]) => `${name}=${value}`).join(", ");
  const timers = [["waits", group.group_wait], ["looks again every", group.group_interval], ["repeats after", group.repeat_interval]]
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([words, value]) => `${words} ${typeof value === "number" ? human(value) : value}`);
  return h(
    "dl",
    { class: "facts" },
    [h("dt", {}, "Group"), h("dd", {}, labels || "one group for all")],
    timers.length > 0 && [h("dt", {}, "Timers"), h("dd", {}, timers.join(", "))],
    typeof group.ticked === "string" && [h("dt", {}, "Last looked at"), h("dd", {}, instant(group.ticked))],
    group.due && [h("dt", {}, "Looked at next"), h("dd", {}, instant(group.due))],
  );
}

const instant = (text) => {
  const seconds = (Date.parse(text) - Date.now()) / 1000;
  return h("time", { datetime: text, title: text }, `${clock(text)} (${seconds > 0 ? `in ${human(seconds)}` : `${ago(text)} ago`})`);
};

const instantOf = ({ until: end, endsAt }) => `${clock(end ?? endsAt)} (${until(end ?? endsAt)} left)`;

function mutes({ silences = [], inhibitedBy = [], intervals = [], until: end }) {
  const lines = [
    ...silences.map((silence) => [h("a", { href: `#/silences/${encodeURIComponent(silence.id)}` }, "Silenced"), ` by ${silence.createdBy || "somebody"} until ${instantOf(silence)}`, silence.comment && `: ${silence.comment}`]),
    ...inhibitedBy.map((source) => ["Inhibited by ", h("a", { href: `#/alert/${encodeURIComponent(source.fingerprint)}` }, source.labels?.alertname ?? source.fingerprint.slice(0, 8)), source.rule && ` (rule ${source.rule})`]),
    ...intervals.map((name) => `Muted by the time interval ${name}`),
  ];
  if (!lines.length) return null;
  return h("div", { class: "why" }, lines.map((line) => h("p", {}, "◌ ", line)), end && h("p", {}, "It can be told again from ", instant(end), "."));
}

function integration(each) {
  const told = each.told;
  return h(
    "article",
    { class: "integration" },
    h("h3", {}, each.integration, each.position ? ` #${each.position + 1}` : ""),
    h("p", { class: "decision" }, each.decision, each.next && [/ at$/.test(each.decision) ? " " : "; next look ", instant(each.next)]),
    told?.at && h("p", {}, told.firing ? "It was told as firing, last " : "It is not told as firing; the group's last message was ", instant(told.at), "."),
    (each.messages ?? []).map((message, index) =>
      h(
        "details",
        { open: index === 0, "data-key": `message-${each.integration}-${each.position}-${message.at}` },
        h("summary", {}, `${clock(message.at)}  ${message.status}: ${message.reason}  `, h("span", { class: `state ${message.state}` }, message.state)),
        h("ul", {}, runs(message.attempts ?? []).map(attemptLine)),
      ),
    ),
  );
}

// The same answer many times over is one line.
function runs(attempts) {
  const found = [];
  for (const attempt of attempts) {
    const last = found.at(-1)?.[0];
    if (last && last.outcome === attempt.outcome && last.detail === attempt.detail) found.at(-1).push(attempt);
    else found.push([attempt]);
  }
  return found;
}

function attemptLine(same) {
  const [first, last] = [same[0], same.at(-1)];
  const when = same.length === 1 ? clock(first.at) : `${clock(first.at)} to ${clock(last.at)}, ${same.length} times:`;
  return h("li", {}, h("time", { datetime: first.at }, when), ` ${first.outcome}`, first.detail && h("span", { class: "quiet" }, ` ${first.detail}`));
}
