// One alert, as it is shown in lists and on its own page.

import { unacknowledge } from "./api.js";
import { changed, h, link, linked, notice } from "./dom.js";
import { equal, render, satisfies, show } from "./matchers.js";
import { ago, clock, until } from "./time.js";

const NAMED = ["alertname", "severity"];
const WORDS = ["summary", "description", "message"];
const LOUD = { page: "loud", critical: "loud", error: "loud", warning: "middle", ticket: "middle" };
// Shape and word tell severities apart as well as colour does.
const SIGNS = { loud: "▲", middle: "◆", calm: "●" };

/** How much an alert wants to be seen: `loud`, `middle` or `calm`. */
export const loudness = (labels) => LOUD[(labels.severity ?? "").toLowerCase()] ?? "calm";

/** The badge that names a severity. */
export function badge(labels) {
  const kind = loudness(labels);
  return h("span", { class: `badge ${kind}` }, h("span", { "aria-hidden": "true" }, `${SIGNS[kind]} `), labels.severity || "no severity");
}

/** An alert. `silences` maps ids to silences; `acks` are those in force; `pick` is called with a matcher when somebody chooses a label. */
export function card(alert, { silences = new Map(), acks = [], pick, skip = {}, own = false } = {}) {
  const { labels, annotations } = alert;
  const shown = Object.entries(labels).filter(([name, value]) => !NAMED.includes(name) && skip[name] !== value);
  const texts = WORDS.filter((name) => annotations[name]);
  const rest = Object.entries(annotations).filter(([name, value]) => !WORDS.includes(name) && !isLink(name, value));
  const muted = alert.status.state === "suppressed";
  return h(
    "article",
    { class: `alert ${loudness(labels)}${muted ? " muted" : ""}` },
    h("div", { class: "top" }, badge(labels), h(own ? "h1" : "h3", {}, labels.alertname ?? "(no alertname)"), since(alert)),
    texts.map((name, index) => h("p", { class: index === 0 ? "summary" : "description" }, linked(annotations[name]))),
    acknowledged(alert, acks),
    state(alert, silences),
    h("ul", { class: "chips", "aria-label": "Labels" }, shown.map(([name, value]) => h("li", {}, chip(name, value, pick)))),
    rest.length > 0 &&
      h(
        "details",
        { "data-key": `notes-${alert.fingerprint}`, open: own },
        h("summary", { "data-key": `notes-summary-${alert.fingerprint}` }, `${rest.length} more annotation${rest.length > 1 ? "s" : ""}`),
        h("dl", {}, rest.map(([name, value]) => [h("dt", {}, name), h("dd", {}, linked(value))])),
      ),
    actions(alert, own),
  );
}

function since(alert) {
  return h("time", { class: "since", datetime: alert.startsAt, title: alert.startsAt }, `since ${clock(alert.startsAt)} (${ago(alert.startsAt)})`);
}

function chip(name, value, pick) {
  const text = show({ name, value, isRegex: false, isEqual: true });
  if (!pick) return h("span", { class: "chip" }, text);
  const title = `Show only alerts with ${text}`;
  return h("button", { type: "button", class: "chip", title, "data-key": `chip-${text}`, onclick: () => pick({ name, value, isRegex: false, isEqual: true }) }, text);
}

function acknowledged(alert, acks) {
  const covers = (ack) => (ack.fingerprint ? ack.fingerprint === alert.fingerprint : satisfies(alert.labels, ack.matchers ?? []));
  return acks
    .filter(covers)
    .map((ack) => h("p", { class: "why" }, h("span", { "aria-hidden": "true" }, "✓ "), `Acknowledged by ${ack.createdBy || "somebody"} until ${clock(ack.endsAt)} (${until(ack.endsAt)} left)`, ack.comment && `: ${ack.comment} `, " ", takeBack(ack)));
}

function takeBack(ack) {
  const press = async () => {
    try {
      await unacknowledge(ack.id);
      notice("The acknowledgement is taken back.");
    } catch (error) {
      notice(`It is not taken back: ${error.message}`);
    }
    changed();
  };
  return h("button", { type: "button", class: "small", "data-key": `unack-${ack.id}`, onclick: press }, "Take back");
}

/** Who keeps an alert from being told, and until when. */
export function state(alert, silences) {
  const { silencedBy = [], inhibitedBy = [], mutedBy = [] } = alert.status;
  const lines = [
    ...silencedBy.map((id) => silenceLine(id, silences.get(id))),
    ...inhibitedBy.map((id) => ["Inhibited by ", h("a", { href: `#/alert/${encodeURIComponent(id)}` }, `another alert (${id.slice(0, 8)})`), " for as long as that one fires"]),
    ...mutedBy.map((name) => `Muted by the time interval ${name}`),
  ];
  return lines.map((line) => h("p", { class: "why" }, h("span", { "aria-hidden": "true" }, "◌ "), line));
}

function silenceLine(id, silence) {
  const to = h("a", { href: `#/silences/${encodeURIComponent(id)}` }, silence ? "Silenced" : `Silenced (${id.slice(0, 8)})`);
  if (!silence) return to;
  const who = silence.createdBy ? ` by ${silence.createdBy}` : "";
  return [to, `${who} until ${clock(silence.endsAt)} (${until(silence.endsAt)} left)${silence.comment ? `: ${silence.comment}` : ""}`];
}

const isLink = (name, value) => /(?:_url|_link|runbook|dashboard)$/.test(name) && /^https?:\/\/\S+$/.test(value);

function actions(alert, own) {
  const links = Object.entries(alert.annotations)
    .filter(([name, value]) => isLink(name, value))
    .map(([name, value]) => link(value, name.replace(/_(?:url|link)$/, "").replaceAll("_", " ")));
  if (/^https?:/.test(alert.generatorURL ?? "")) links.push(link(alert.generatorURL, "graph"));
  const filter = encodeURIComponent(render(equal(alert.labels)));
  const name = alert.labels.alertname ?? "this alert";
  return h(
    "div",
    { class: "actions" },
    !own && h("a", { class: "button", href: `#/alert/${alert.fingerprint}`, "aria-label": `Why is ${name} told or not told?` }, "Why?"),
    h("a", { class: "button", href: `#/silences/new?ack=1&filter=${filter}`, "aria-label": `Acknowledge ${name}` }, "Acknowledge"),
    h("a", { class: "button", href: `#/silences/new?filter=${filter}`, "aria-label": `Silence ${name}` }, "Silence"),
    links,
  );
}
