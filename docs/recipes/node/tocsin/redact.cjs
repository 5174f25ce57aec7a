'use strict';
// Takes secrets out of log fields and texts, by the names that tocsin for Python goes by.

const REDACTED = '[redacted]';

// A name with one of these words in it is secret: X-Auth-Token, userPassword, client_secret.
const SECRET_WORDS = new Set(
  (
    'apikey authorization bearer cookie cookies credential credentials csrf jwt passphrase passwd password pwd ' +
    'secret secrets session sessionid signature token xsrf'
  ).split(' '),
);
// Names that are secret only when they stand alone: code, but not status_code.
const SECRET_NAMES = new Set(['auth', 'code', 'otp', 'pin', 'sid', 'sig']);
const SECRET_PHRASES = ['_api_key_', '_access_key_', '_private_key_', '_session_id_'];

const WORD = /[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])/g;
const PAIR = /(?<![\w.%-])([\w.%-]{1,64})=("[^"]*"|'[^']*'|[^&\s#;,"']+)/g;
const USERINFO = /(:\/\/[^/\s:@]{0,256}:)[^/\s@]{1,256}@/g;
const CREDENTIALS = /\b(bearer|basic) +[\w.~+/=-]{8,}/gi;
const DEPTH_LIMIT = 8;

/** Whether a field or query key of this name holds a secret. Case, dashes and camelCase do not matter. */
function isSecret(name) {
  const words = (name.slice(0, 128).match(WORD) ?? []).map((word) => word.toLowerCase());
  const joined = `_${words.join('_')}_`;
  return (
    SECRET_NAMES.has(joined.slice(1, -1)) ||
    words.some((word) => SECRET_WORDS.has(word)) ||
    SECRET_PHRASES.some((phrase) => joined.includes(phrase))
  );
}

/** Return the text without the values of secret name=value pairs, passwords in URLs, and HTTP credentials. */
function redactText(text, { query = false } = {}) {
  return text
    .replace(PAIR, (pair, key, _value, at, whole) => {
      const name = decode(key);
      // `code=403` in a sentence is no secret, `?code=...` in a URL is.
      const inQuery = query || '?&'.includes(whole[at - 1] ?? ' ');
      return isSecret(name) && (inQuery || !SECRET_NAMES.has(name.toLowerCase())) ? `${key}=${REDACTED}` : pair;
    })
    .replace(USERINFO, `$1${REDACTED}@`)
    .replace(CREDENTIALS, `$1 ${REDACTED}`);
}

/** Return a value without secrets, made of JSON's types only. Nesting deeper than 8 is cut, so that cycles end. */
function clean(value, depth = 0) {
  if (typeof value === 'string') return redactText(value);
  if (value === null || value === undefined || typeof value === 'boolean') return value ?? null;
  if (typeof value === 'number') return Number.isFinite(value) ? value : null;
  if (depth >= DEPTH_LIMIT) return '<nested too deep>';
  if (value instanceof Error) return redactText(`${value.name}: ${value.message}`);
  if (Array.isArray(value)) return value.map((item) => clean(item, depth + 1));
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString();
  if (value instanceof Map) return cleanFields(Object.fromEntries(value), depth + 1);
  if (value instanceof Set) return [...value].map((item) => clean(item, depth + 1));
  if (typeof value === 'object') return cleanFields(value, depth + 1);
  return redactText(String(value));
}

/** Return the fields with secrets redacted, and values as `clean` gives them. */
function cleanFields(fields, depth = 0) {
  return Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [name, isSecret(name) && value != null ? REDACTED : clean(value, depth)]),
  );
}

/** Return the text without percent-encoding, or as it is if that is broken. */
function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

module.exports = { REDACTED, clean, cleanFields, decode, isSecret, redactText };
