// Builds pages from values. Text only ever becomes text: nothing here reads markup.

/** Make an element: `h("p", {class: "quiet", onclick: f}, "text", child, null)`. */
export function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A link to somewhere else, or only its words where the address is not one that may be followed. */
export function link(address, words) {
  return isWeb(address) ? h("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, words) : h("span", {}, words);
}

/** Whether an address from an alert is safe to follow: `javascript:` and the like are not. */
export function isWeb(address) {
  try {
    return ["http:", "https:"].includes(new URL(address).protocol);
  } catch {
    return false;
  }
}

/** Text in which web addresses can be followed. */
export function linked(text) {
  return String(text).split(/(https?:\/\/[^\s<>"']+)/).map((part) => (isWeb(part) ? link(part, part) : part));
}

/** Put other children into `element`, keeping what is unfolded and where the keyboard is. */
export function replace(element, ...children) {
  const open = new Set([...element.querySelectorAll("details[open][data-key]")].map((each) => each.dataset.key));
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  for (const each of element.querySelectorAll("details[data-key]")) if (open.has(each.dataset.key)) each.open = true;
  if (focused) [...element.querySelectorAll("[data-key]")].find((each) => each.dataset.key === focused)?.focus();
}

/** Tell what has happened, also to a screen reader. */
export function notice(text) {
  const place = document.getElementById("notice");
  place.textContent = text;
  clearTimeout(notice.timer);
  notice.timer = setTimeout(() => (place.textContent = ""), 8000);
}

/** A sentence about something that went wrong. */
export function problem(text) {
  return h("p", { class: "problem", role: "alert" }, text);
}

/** Say that something was changed on this page, so that it is loaded again. */
export const changed = () => document.dispatchEvent(new Event("tocsin:changed"));
