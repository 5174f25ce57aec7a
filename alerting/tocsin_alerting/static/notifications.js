// #/notifications: what was sent, to whom, and what came of it.

import * as api from "./api.js";
import { h, problem, replace } from "./dom.js";
import { ago, clock } from "./time.js";

/** Fill `main` and return what loads it again. */
export function notificationsPage(main) {
  const list = h("div", {}, h("p", { class: "quiet" }, "Loading ..."));
  main.replaceChildren(h("h1", {}, "Notifications"), list);
  return async () => {
    let found;
    try {
      found = await api.notifications(100);
    } catch (error) {
      if (error.status !== 404) throw error;
      replace(list, problem("This router keeps no list of notifications."));
      return;
    }
    replace(list, found.length ? found.map(row) : h("p", { class: "empty" }, "Nothing has been sent yet."));
  };
}

function row(each) {
  return h(
    "details",
    { class: `notification ${each.state}`, "data-key": `notification-${each.id}` },
    h(
      "summary",
      { "data-key": `notification-summary-${each.id}` },
      h("time", { datetime: each.at, title: `${ago(each.at)} ago` }, clock(each.at)),
      h("span", { class: "title" }, each.title),
      h("span", { class: "quiet" }, `${each.receiver} by ${each.integration}`),
      h("span", { class: `state ${each.state}` }, each.state, each.attempts > 1 ? ` after ${each.attempts} attempts` : ""),
    ),
    h(
      "dl",
      {},
      [h("dt", {}, "Why"), h("dd", {}, each.reason)],
      each.error && [h("dt", {}, "Answer"), h("dd", { class: "problem" }, each.error)],
      [h("dt", {}, "Alerts"), h("dd", {}, each.alerts)],
    ),
    each.text && h("pre", {}, each.text),
  );
}
