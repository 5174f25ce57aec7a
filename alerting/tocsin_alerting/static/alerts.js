// #/alerts: what fires, in the groups it is told in.

import * as api from "./api.js";
import { card, loudness } from "./card.js";
import { h, replace } from "./dom.js";
import { parse, render, show } from "./matchers.js";

const RANK = ["loud", "middle", "calm"];
const SHOWN = 300; // alerts on one page: in a storm the rest is counted, and found with the filter

/** Fill `main` and return what loads it again. Links such as `#/alerts?receiver=team&filter={a="b"}` lead here. */
export function alertsPage(main, parameters, go) {
  const wanted = {
    filter: parameters.get("filter") ?? "",
    receiver: parameters.get("receiver") ?? "",
    silenced: parameters.get("silenced") === "true",
    inhibited: parameters.get("inhibited") === "true",
    active: parameters.get("active") !== "false",
  };
  const list = h("div", { class: "groups" });
  const count = h("h1", {}, "Alerts");
  const wrong = h("p", { class: "problem", role: "alert", hidden: true });

  const visit = (changes) => {
    const next = { ...wanted, ...changes };
    const found = new URLSearchParams();
    for (const name of ["filter", "receiver"]) if (next[name]) found.set(name, next[name]);
    for (const name of ["silenced", "inhibited"]) if (next[name]) found.set(name, "true");
    if (!next.active) found.set("active", "false");
    go(`#/alerts${found.size ? `?${found}` : ""}`);
  };
  const pick = (matcher) => {
    const kept = matchers().filter((each) => show(each) !== show(matcher));
    visit({ filter: render([...kept, matcher]) });
  };
  const matchers = () => (wanted.filter.trim() === "" ? [] : parse(wanted.filter));

  const input = h("input", { id: "filter", type: "search", value: wanted.filter, placeholder: 'severity="page", service=~"api|shop"', autocomplete: "off", spellcheck: "false", autocapitalize: "off" });
  const receiver = h("select", { id: "receiver", onchange: () => visit({ receiver: receiver.value }) }, h("option", { value: "" }, "all"));
  const box = (name, words) =>
    h("label", { class: "box" }, h("input", { type: "checkbox", checked: wanted[name], onchange: (event) => visit({ [name]: event.target.checked }) }), words);
  main.replaceChildren(
    h(
      "form",
      { class: "filters", role: "search", onsubmit: (event) => (event.preventDefault(), visit({ filter: input.value.trim() })) },
      h("label", { class: "wide", for: "filter" }, "Filter", input),
      h("label", { for: "receiver" }, "Receiver", receiver),
      h("fieldset", {}, h("legend", {}, "Show"), box("active", "active"), box("silenced", "silenced"), box("inhibited", "inhibited")),
      h("button", { type: "submit" }, "Apply"),
    ),
    wrong,
    count,
    list,
  );
  api.receivers().then((found) => fillReceivers(receiver, found, wanted.receiver), () => {});

  let shown = "";
  return async () => {
    let filters;
    try {
      filters = matchers().map(show);
      wrong.hidden = true;
    } catch (error) {
      wrong.textContent = `This is not a filter: ${error.message}. Write name="value", with commas between.`;
      wrong.hidden = false;
      return;
    }
    const { active, silenced, inhibited } = wanted;
    const [groups, silences, acks] = await Promise.all([api.groups({ filter: filters, receiver: wanted.receiver, active, silenced, inhibited }), api.silences(), api.acks()]);
    const known = new Map(silences.map((silence) => [silence.id, silence]));
    const fingerprints = new Set(groups.flatMap((group) => group.alerts.map((alert) => alert.fingerprint)));
    count.textContent = fingerprints.size === 1 ? "1 alert" : `${fingerprints.size} alerts`;
    document.title = fingerprints.size ? `(${fingerprints.size}) tocsin alerts` : "tocsin alerts";
    const news = JSON.stringify([groups, silences, acks, Math.floor(Date.now() / 60_000)]);
    if (news === shown) return; // what somebody has selected with the mouse stays selected
    shown = news;
    replace(list, groups.length ? sections(ordered(groups), { silences: known, acks, pick }) : nothing(wanted, filters));
  };
}

function fillReceivers(select, receivers, chosen) {
  // A link names the receiver as an expression: `team\.a` is the receiver `team.a`.
  const names = receivers.map(({ name }) => [name, name.replace(/[\\.+*?()|[\]{}^$]/g, "\\$&")]);
  if (chosen && !names.some(([name, expression]) => chosen === expression || chosen === name)) names.push([chosen, chosen]);
  for (const [name, expression] of names) select.append(h("option", { value: expression, selected: chosen === expression || chosen === name }, name));
}

// Groups with something loud come first, then the youngest.
function ordered(groups) {
  const rank = (group) => Math.min(...group.alerts.map((alert) => RANK.indexOf(loudness(alert.labels))));
  const youngest = (group) => Math.max(...group.alerts.map((alert) => Date.parse(alert.startsAt)));
  return [...groups].sort((a, b) => rank(a) - rank(b) || youngest(b) - youngest(a));
}

function sections(groups, options) {
  const found = [];
  let left = SHOWN;
  for (const group of groups) {
    if (left <= 0) break;
    found.push(section({ ...group, total: group.alerts.length, alerts: loudest(group.alerts).slice(0, left) }, options));
    left -= group.alerts.length;
  }
  const all = groups.reduce((sum, group) => sum + group.alerts.length, 0);
  if (all > SHOWN) found.push(h("p", { class: "empty" }, `These are the first ${SHOWN} of ${all}. Narrow the filter to see the others.`));
  return found;
}

const loudest = (alerts) =>
  [...alerts].sort((a, b) => RANK.indexOf(loudness(a.labels)) - RANK.indexOf(loudness(b.labels)) || Date.parse(b.startsAt) - Date.parse(a.startsAt));

function section(group, options) {
  const labels = Object.entries(group.labels);
  const title = labels.length ? labels.map(([name, value]) => `${name}=${value}`).join("  ") : "Not grouped by a label";
  return h(
    "section",
    { class: "group" },
    h("h2", {}, h("span", { class: "name" }, title), h("span", { class: "quiet" }, ` to ${group.receiver.name}, ${group.total} alert${group.total > 1 ? "s" : ""}`)),
    group.alerts.map((alert) => card(alert, { ...options, skip: group.labels })),
  );
}

function nothing(wanted, filters) {
  const narrowed = filters.length || wanted.receiver || !wanted.active;
  const hidden = [!wanted.silenced && "silenced", !wanted.inhibited && "inhibited"].filter(Boolean).join(" or ");
  const words = narrowed ? "No alert matches." : "Nothing fires.";
  return h("p", { class: "empty" }, words, hidden && ` Alerts that are ${hidden} are not shown here.`, narrowed && [" ", h("a", { href: "#/alerts" }, "Show everything")]);
}

