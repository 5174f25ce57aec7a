// #/silences/new and #/silences/ID/edit: making a silence, with what it will mute in view.

import * as api from "./api.js";
import { badge } from "./card.js";
import { h, notice, problem, replace } from "./dom.js";
import { equal, parse, render, show } from "./matchers.js";
import { local, notation, seconds } from "./time.js";

const REMEMBERED = "tocsin.createdBy";

/** Fill `main`; there is nothing to load again. `id` is the silence that is changed, if any. */
export async function formPage(main, parameters, go, id) {
  const old = id ? await api.silence(id) : null;
  const ack = parameters.get("ack") === "1";
  const starts = old ? new Date(old.startsAt) : new Date();
  const length = old ? (Date.parse(old.endsAt) - starts) / 1000 : seconds(parameters.get("for") ?? "") || 7200;
  const given = old ? render(old.matchers) : parameters.get("filter") ?? "";

  const matchers = h("textarea", { id: "matchers", rows: "3", required: true, spellcheck: "false", autocapitalize: "off", "aria-describedby": "matchers-help matchers-wrong" });
  matchers.value = given;
  const start = h("input", { id: "start", type: "datetime-local", required: true, value: local(starts) });
  const duration = h("input", { id: "duration", value: notation(length), autocomplete: "off", "aria-describedby": "duration-help" });
  const end = h("input", { id: "end", type: "datetime-local", required: true, value: local(new Date(+starts + length * 1000)) });
  const by = h("input", { id: "by", required: true, autocomplete: "name", value: old?.createdBy ?? parameters.get("createdBy") ?? remembered() });
  const comment = h("input", { id: "comment", required: true, autocomplete: "off", value: old?.comment ?? parameters.get("comment") ?? (ack ? "I am on it" : "") });
  const wrong = h("p", { class: "problem", id: "matchers-wrong", role: "alert", hidden: true });
  const chips = h("p", { class: "matchers" });
  const preview = h("section", { class: "preview", "aria-live": "polite" });
  const refused = h("div", {});

  const quick = ["30m", "2h", "8h", "1d", "1w"].map((text) =>
    h("button", { type: "button", class: "chip", onclick: () => ((duration.value = text), fromDuration()) }, text));
  const fromDuration = () => {
    const total = seconds(duration.value);
    duration.setCustomValidity(total > 0 ? "" : "Write a duration such as 2h or 1d12h.");
    if (total > 0) end.value = local(new Date(Date.parse(start.value) + total * 1000));
  };
  const fromTimes = () => {
    const total = (Date.parse(end.value) - Date.parse(start.value)) / 1000;
    end.setCustomValidity(total > 0 ? "" : "The end must be after the start.");
    if (total > 0) duration.value = notation(total);
  };
  const read = () => {
    const found = parse(matchers.value);
    if (!found.length) throw new Error("a silence needs at least one matcher");
    if (found.every((each) => each.isEqual === false || (each.isRegex ? matchesNothing(each.value) : each.value === "")) && !found.some((each) => each.isEqual === false))
      throw new Error("at least one matcher must not match an absent label");
    return found;
  };
  let turn = 0;
  const look = async () => {
    const mine = ++turn;
    let found;
    try {
      found = read();
      wrong.hidden = true;
      matchers.setCustomValidity("");
    } catch (error) {
      wrong.textContent = `Not yet matchers: ${error.message}.`;
      wrong.hidden = matchers.value.trim() === "";
      matchers.setCustomValidity(error.message);
      replace(chips);
      replace(preview);
      return;
    }
    replace(chips, found.map((each, index) => [chipOf(each, () => ((matchers.value = render(found.filter((_, other) => other !== index))), look())), " "]));
    try {
      const affected = await api.alerts({ filter: found.map(show) });
      if (mine === turn) replace(preview, previewOf(affected, ack));
    } catch (error) {
      if (mine === turn) replace(preview, problem(`What it will mute cannot be shown: ${error.message}`));
    }
  };
  let waiting;
  matchers.addEventListener("input", () => (clearTimeout(waiting), (waiting = setTimeout(look, 250))));
  duration.addEventListener("input", fromDuration);
  start.addEventListener("input", fromDuration);
  end.addEventListener("input", fromTimes);

  const acknowledge = async ({ matchers: about, endsAt, createdBy, comment: words }) => {
    remember(createdBy);
    try {
      await api.acknowledge({ matchers: about, endsAt, createdBy, comment: words });
      notice("Acknowledged.");
      go("#/alerts");
    } catch (error) {
      const unknown = [404, 405, 410].includes(error.status);
      replace(refused, problem(unknown ? "This router takes no acknowledgements. A short silence comes near." : `It was not acknowledged: ${error.message}`));
    }
  };
  const save = async (event) => {
    event.preventDefault();
    replace(refused);
    const body = { matchers: read(), startsAt: instant(start.value, old?.startsAt, starts), endsAt: new Date(end.value).toISOString(), createdBy: by.value.trim(), comment: comment.value.trim() };
    if (ack) return acknowledge(body);
    if (old) body.id = old.id;
    remember(body.createdBy);
    try {
      const { silenceID } = await api.saveSilence(body);
      notice("The silence is in force.");
      go(`#/silences/${encodeURIComponent(silenceID)}`);
    } catch (error) {
      replace(refused, problem(`The silence was not saved: ${error.message}`));
    }
  };

  const title = old ? "Change a silence" : ack ? "Acknowledge" : "New silence";
  replace(
    main,
    h("h1", {}, title),
    ack && h("p", { class: "quiet" }, "It says that you are on it, and stops the reminders while you work. What is new is told all the same, and so is the end."),
    h(
      "form",
      { class: "silence-form", onsubmit: save },
      h("label", { class: "wide", for: "matchers" }, "Alerts that match all of", matchers),
      h("p", { class: "quiet wide", id: "matchers-help" }, 'For example: alertname="DiskFull", instance=~"web.*"'),
      wrong,
      chips,
      h("label", { for: "start", hidden: ack }, "From", start),
      h("label", { for: "duration" }, "For", duration),
      h("label", { for: "end" }, "Until", end),
      h("p", { class: "quick wide", id: "duration-help" }, quick),
      h("label", { for: "by" }, "Your name", by),
      h("label", { class: "wide", for: "comment" }, "Why", comment),
      h("div", { class: "wide" }, h("button", { type: "submit", class: "primary" }, ack ? "Acknowledge" : old ? "Save" : "Silence them"), " ", h("a", { class: "button", href: ack ? "#/alerts" : "#/silences" }, "Cancel")),
      refused,
    ),
    preview,
  );
  (given ? (by.value ? comment : by) : matchers).focus();
  await look();
}

function chipOf(matcher, remove) {
  const text = show(matcher);
  return h("span", { class: "chip" }, text, h("button", { type: "button", class: "remove", "aria-label": `Remove ${text}`, onclick: remove }, "×"));
}

function previewOf(affected, ack) {
  const receivers = [...new Set(affected.flatMap((alert) => alert.receivers.map(({ name }) => name)))].sort();
  const words = affected.length === 0 ? "It matches no alert that fires now." : `${ack ? "It is about" : "It mutes"} ${affected.length === 1 ? "1 alert" : `${affected.length} alerts`} that fire${affected.length === 1 ? "s" : ""} now${receivers.length ? `, for ${receivers.join(", ")}` : ""}.`;
  return [
    h("h2", {}, words),
    h("ul", { class: "affected" }, affected.slice(0, 50).map((alert) => h("li", {}, badge(alert.labels), " ", h("a", { href: `#/alert/${alert.fingerprint}` }, alert.labels.alertname ?? alert.fingerprint), " ", h("span", { class: "quiet" }, rest(alert.labels))))),
    affected.length > 50 && h("p", { class: "quiet" }, `and ${affected.length - 50} more`),
  ];
}

const rest = (labels) => equal(labels).filter(({ name }) => !["alertname", "severity"].includes(name)).map(show).join(", ");

function matchesNothing(pattern) {
  try {
    return new RegExp(`^(?:${pattern})$`).test("");
  } catch {
    return false; // the router knows the grammar better and will say what is wrong
  }
}

// The field shows minutes: a start that nobody touched keeps its seconds, so that the silence keeps its id.
const instant = (text, before, shown) => (before && local(shown) === text ? before : local(new Date()) === text ? new Date().toISOString() : new Date(text).toISOString());

function remembered() {
  try {
    return localStorage.getItem(REMEMBERED) ?? "";
  } catch {
    return "";
  }
}

function remember(name) {
  try {
    localStorage.setItem(REMEMBERED, name);
  } catch {
    // a browser that keeps nothing asks again
  }
}

