// Which page an address stands for, and keeping it fresh. The addresses are those of Alertmanager's own page.

import { alertsPage } from "./alerts.js";
import { h, problem } from "./dom.js";
import { explainPage } from "./explain.js";
import { formPage } from "./form.js";
import { notificationsPage } from "./notifications.js";
import { silencePage, silencesPage } from "./silences.js";
import { statusPage } from "./status.js";

const EVERY = 10_000; // milliseconds between two looks
const main = document.getElementById("main");
let reload = null;
let visit = 0;

const PAGES = [
  [/^\/?$/, (parameters) => alertsPage(main, parameters, go)],
  [/^\/alerts\/?$/, (parameters) => alertsPage(main, parameters, go)],
  [/^\/alert\/([^/]+)$/, (_, fingerprint) => explainPage(main, fingerprint)],
  [/^\/silences\/?$/, (parameters) => silencesPage(main, parameters, go)],
  [/^\/silences\/new\/?$/, (parameters) => formPage(main, parameters, go)],
  [/^\/silences\/([^/]+)\/edit$/, (parameters, id) => formPage(main, parameters, go, id)],
  [/^\/silences\/([^/]+)$/, (_, id) => silencePage(main, id, go)],
  [/^\/notifications\/?$/, () => notificationsPage(main)],
  [/^\/status\/?$/, () => statusPage(main)],
];

function go(address) {
  if (location.hash === address) show();
  else location.hash = address;
}

async function show() {
  const mine = ++visit;
  const address = location.hash.replace(/^#/, "");
  const [path, query = ""] = split(address);
  reload = null;
  document.title = "tocsin alerts";
  mark(path);
  try {
    const [match, page] = find(path);
    if (!page) {
      main.replaceChildren(h("h1", {}, "There is no such page"), h("p", {}, h("a", { href: "#/alerts" }, "All alerts")));
      return;
    }
    const found = await page(new URLSearchParams(query), ...match.slice(1).map(decoded));
    if (mine !== visit) return;
    reload = found ?? null;
    await refresh(mine);
  } catch (error) {
    if (mine === visit) main.replaceChildren(problem(error.message));
  }
}

// A filter in an address may hold anything; only the first question mark divides.
function split(address) {
  const at = address.indexOf("?");
  return at < 0 ? [address] : [address.slice(0, at), address.slice(at + 1)];
}

function find(path) {
  for (const [pattern, page] of PAGES) {
    const match = pattern.exec(path);
    if (match) return [match, page];
  }
  return [];
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function mark(path) {
  for (const each of document.querySelectorAll("header nav a")) {
    const here = path.startsWith(each.getAttribute("href").slice(1).replace(/s$/, ""));
    if (here) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
}

const stale = h("p", { class: "problem stale", role: "alert" });

async function refresh(mine) {
  if (!reload || mine !== visit) return;
  try {
    await reload();
    stale.remove();
  } catch (error) {
    if (mine !== visit) return;
    stale.textContent = `${error.message} What is shown is old.`;
    main.prepend(stale);
  }
}

addEventListener("hashchange", show);
document.addEventListener("tocsin:changed", () => refresh(visit));
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && refresh(visit));
setInterval(() => document.visibilityState === "visible" && refresh(visit), EVERY);
show();
