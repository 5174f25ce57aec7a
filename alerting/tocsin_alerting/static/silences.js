// #/silences and #/silences/ID: who has silenced what until when.

import * as api from "./api.js";
import { card } from "./card.js";
import { h, notice, problem, replace } from "./dom.js";
import { render, show } from "./matchers.js";
import { ago, clock, until } from "./time.js";

const STATES = ["active", "pending", "expired"];

/** Fill `main` and return what loads it again. */
export function silencesPage(main, parameters, go) {
  const chosen = STATES.includes(parameters.get("state")) ? parameters.get("state") : "active";
  const tabs = h("nav", { class: "tabs", "aria-label": "States" });
  const list = h("div", {});
  main.replaceChildren(h("h1", {}, "Silences"), tabs, list);
  const reload = async () => {
    const found = await api.silences();
    const of = (state) => found.filter((silence) => silence.status.state === state);
    replace(tabs, STATES.map((state) => h("a", { href: `#/silences?state=${state}`, "aria-current": state === chosen && "page", "data-key": `tab-${state}` }, `${state} (${of(state).length})`)));
    const shown = of(chosen);
    replace(list, shown.length ? shown.map((silence) => row(silence, reload, go)) : h("p", { class: "empty" }, `No silence is ${chosen}.`));
  };
  return reload;
}

function row(silence, reload, go) {
  return h("article", { class: "silence" }, facts(silence), buttons(silence, reload, go, true));
}

function facts(silence) {
  const { state } = silence.status;
  const when = { active: () => `until ${clock(silence.endsAt)} (${until(silence.endsAt)} left)`, pending: () => `from ${clock(silence.startsAt)} (in ${until(silence.startsAt)}) until ${clock(silence.endsAt)}`, expired: () => `ended ${clock(silence.endsAt)} (${ago(silence.endsAt)} ago)` }[state];
  return [
    h("p", { class: "matchers" }, silence.matchers.map((matcher) => [h("span", { class: "chip" }, show(matcher)), " "])),
    h("p", {}, h("strong", {}, when()), ` by ${silence.createdBy || "nobody named"}`),
    silence.comment && h("p", { class: "comment" }, silence.comment),
  ];
}

function buttons(silence, reload, go, more) {
  const id = encodeURIComponent(silence.id);
  const ended = silence.status.state === "expired";
  const expire = h("button", { type: "button", class: "danger", "data-key": `expire-${silence.id}`, onclick: () => confirmed(expire, () => end(silence, reload)) }, "Expire now");
  return h(
    "div",
    { class: "actions" },
    more && h("a", { class: "button", href: `#/silences/${id}` }, "Show"),
    h("a", { class: "button", href: ended ? `#/silences/new?filter=${encodeURIComponent(render(silence.matchers))}&comment=${encodeURIComponent(silence.comment)}` : `#/silences/${id}/edit` }, ended ? "Silence again" : "Change"),
    !ended && expire,
  );
}

// Two presses instead of a dialogue: the second within five seconds.
function confirmed(button, act) {
  if (button.dataset.armed) return act();
  button.dataset.armed = "yes";
  const words = button.textContent;
  button.textContent = "Press again to expire";
  setTimeout(() => {
    delete button.dataset.armed;
    button.textContent = words;
  }, 5000);
}

async function end(silence, reload) {
  try {
    await api.expireSilence(silence.id);
    notice("The silence has ended.");
  } catch (error) {
    notice(`The silence has not ended: ${error.message}`);
  }
  await reload();
}

/** One silence, and the alerts it keeps quiet. */
export function silencePage(main, id, go) {
  const place = h("div", {}, h("p", { class: "quiet" }, "Loading ..."));
  main.replaceChildren(h("p", {}, h("a", { href: "#/silences" }, "← All silences")), place);
  const reload = async () => {
    let silence;
    try {
      silence = await api.silence(id);
    } catch (error) {
      if (![404, 422].includes(error.status)) throw error;
      replace(place, problem(`There is no silence ${id}: it ended long ago, or the link is cut off.`));
      return;
    }
    const affected = (await api.alerts({ filter: silence.matchers.map(show) }));
    replace(
      place,
      h("h1", {}, `Silence, ${silence.status.state}`),
      h("article", { class: "silence" }, facts(silence), h("p", { class: "quiet" }, silence.id), buttons(silence, reload, go, false)),
      h("h2", {}, affected.length === 1 ? "It matches 1 alert" : `It matches ${affected.length} alerts`),
      affected.map((alert) => card(alert, { silences: new Map([[silence.id, silence]]) })),
    );
  };
  return reload;
}
