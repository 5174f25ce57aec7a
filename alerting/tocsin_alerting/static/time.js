// Times and durations for a person.

const UNITS = { w: 604800, d: 86400, h: 3600, m: 60, s: 1 };

/** Seconds of a duration in Prometheus' notation (`1h30m`), or NaN. */
export function seconds(text) {
  const match = /^(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$/.exec(text.trim());
  if (!match || text.trim() === "") return NaN;
  return Object.values(UNITS).reduce((sum, unit, index) => sum + unit * Number(match[index + 1] ?? 0), 0);
}

/** The notation of a whole number of seconds: 5400 -> `1h30m`. */
export function notation(total) {
  let left = Math.max(0, Math.round(total));
  let text = "";
  for (const [unit, size] of Object.entries(UNITS).filter(([unit]) => unit !== "w")) {
    if (left >= size) text += `${Math.floor(left / size)}${unit}`;
    left %= size;
  }
  return text || "0s";
}

/** A length of time in words: `42 s`, `3 min`, `2 h 5 min`, `4 d 3 h`. */
export function human(total) {
  if (total < 120) return `${Math.max(0, Math.round(total))} s`;
  const minutes = Math.round(total / 60);
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${Math.floor(hours / 24)} d`;
}

export const ago = (text) => human((Date.now() - Date.parse(text)) / 1000);
export const until = (text) => human((Date.parse(text) - Date.now()) / 1000);

/** An instant: the time of day, with its date unless it is today; the zone is the reader's. */
export function clock(text) {
  const at = new Date(text);
  if (Number.isNaN(at.getTime())) return String(text);
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  if (at.toDateString() === new Date().toDateString()) return time;
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

/** An instant as `<input type="datetime-local">` wants it. */
export function local(at) {
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}T${two(at.getHours())}:${two(at.getMinutes())}`;
}

const two = (number) => String(number).padStart(2, "0");
