// Asks the router. Addresses are relative, so that the page works under any prefix.

/** An answer that is not a success; `message` is what the router said. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch {
    throw new Refused(0, "The router does not answer. Is it running, and is this device connected?");
  }
  const text = await response.text();
  if (!response.ok) throw new Refused(response.status, reason(text) || `The router answered ${response.status}.`);
  return text === "" ? null : JSON.parse(text);
}

// Alertmanager's handlers answer a bare JSON string, its request layer {"code", "message"}.
function reason(text) {
  try {
    const said = JSON.parse(text);
    return typeof said === "string" ? said : said.message ?? "";
  } catch {
    return text.trim().slice(0, 300);
  }
}

const post = (path, body) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

function query(values) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(values))
    for (const each of Array.isArray(value) ? value : [value])
      if (each !== undefined && each !== null && each !== "") found.append(name, each);
  return `?${found}`;
}

export const groups = (values) => call(`api/v2/alerts/groups${query(values)}`);
export const alerts = (values) => call(`api/v2/alerts${query(values)}`);
export const receivers = () => call("api/v2/receivers");
export const status = () => call("api/v2/status");
export const silences = () => call("api/v2/silences");
export const silence = (id) => call(`api/v2/silence/${encodeURIComponent(id)}`);
export const saveSilence = (body) => post("api/v2/silences", body);
export const expireSilence = (id) => call(`api/v2/silence/${encodeURIComponent(id)}`, { method: "DELETE" });
export const acknowledge = (body) => post("api/v1/acks", body);
export const unacknowledge = (id) => call(`api/v1/acks/${encodeURIComponent(id)}`, { method: "DELETE" });
export const notifications = (limit) => call(`api/v1/notifications${query({ limit })}`);
export const explain = (fingerprint) => call(`api/v1/alerts/${encodeURIComponent(fingerprint)}/explain`);

/** Acknowledgements in force; Alertmanager itself knows none. */
export async function acks() {
  try {
    return (await call("api/v1/acks")).filter((ack) => ack.status.state === "active");
  } catch (error) {
    if ([404, 410].includes(error.status)) return [];
    throw error;
  }
}
