'use strict';
// Log lines as JSON with Elastic Common Schema names and the ids of the trace they belong to, without secrets.
//
//   const { log } = require('./tocsin/log.cjs');
//   log.info('item read', { item: 7 });
//   log.error('payment failed', { order: 42 }, error);

const { context, trace } = require('@opentelemetry/api');
const { FIELD, METRICS } = require('./names.cjs');
const { cleanFields, redactText } = require('./redact.cjs');
const { state } = require('./state.cjs');

const ECS_VERSION = '8.11.0';
const STACK_LIMIT = 32768;
const LEVELS = ['debug', 'info', 'warning', 'error', 'critical'];
const LINES_LIMIT = 10000;
// Elasticsearch maps these as objects: a plain value of the same name would get the whole line refused.
const OBJECTS = new Set(Object.values(FIELD).filter((name) => name.includes('.')).map((name) => name.split('.')[0]));

/** Return the ids of what runs now as log fields; empty outside of a request. For loggers of your own (pino: mixin). */
function ids() {
  const found = trace.getSpanContext(context.active()) ?? state.exchanges.getStore()?.trace;
  return found ? idFields(found) : {};
}

function idFields({ traceId, spanId }) {
  return { [FIELD.TRACE_ID]: traceId, [FIELD.TRACE_ID_FLAT]: traceId, [FIELD.SPAN_ID]: spanId };
}

function service() {
  const fields = { [FIELD.ECS_VERSION]: ECS_VERSION, [FIELD.SERVICE_NAME]: state.service };
  if (state.version) fields[FIELD.SERVICE_VERSION] = state.version;
  return fields;
}

/** Write one event of the application. Never throws. */
function event(level, message, fields = {}, error = undefined) {
  if (LEVELS.indexOf(level) < LEVELS.indexOf(process.env.TOCSIN_LOG_LEVEL ?? 'info')) return;
  try {
    const line = {
      [FIELD.TIMESTAMP]: new Date().toISOString(),
      [FIELD.LEVEL]: level,
      [FIELD.MESSAGE]: redactText(String(message)),
      ...service(),
      ...ids(),
      ...errorFields(error),
    };
    for (const [name, value] of Object.entries(cleanFields(fields))) {
      const taken = name in line || (OBJECTS.has(name) && (value === null || typeof value !== 'object'));
      line[taken ? `labels.${name}` : name] = value;
    }
    write(line);
  } catch {
    state.families.dropped('logs', 'encode'); // a getter or toString of the application's own
  }
}

/** Write the one line of a request that is over. */
function access({ method, route, path, status, seconds, client, trace: found, error }) {
  const shown = redactText(path); // `%3Ftoken=` is part of the path
  const line = {
    [FIELD.TIMESTAMP]: new Date().toISOString(),
    [FIELD.LEVEL]: status >= 500 ? 'error' : 'info',
    [FIELD.MESSAGE]: `${method} ${shown} ${status}`,
    ...service(),
    [FIELD.DATASET]: `${state.service}.access`,
    [FIELD.METHOD]: method,
    [FIELD.ROUTE]: route,
    [FIELD.PATH]: shown,
    [FIELD.STATUS]: status,
    [FIELD.DURATION_NS]: Math.round(seconds * 1e9),
    ...(found ? idFields(found) : {}),
    ...errorFields(error),
  };
  if (client) line[FIELD.CLIENT_IP] = client;
  write(line);
}

function errorFields(error) {
  if (error === undefined || error === null) return {};
  const known = error instanceof Error;
  return {
    [FIELD.ERROR_TYPE]: known ? error.name : typeof error,
    [FIELD.ERROR_MESSAGE]: redactText(String(known ? error.message : error)),
    [FIELD.ERROR_STACK]: redactText(String((known && error.stack) || error)).slice(-STACK_LIMIT),
  };
}

// One write for all lines of a turn of the event loop: a write costs more than a line does.
function write(line) {
  if (state.lines.length >= LINES_LIMIT) {
    state.families.dropped('logs', 'queue');
    return;
  }
  if (state.lines.push(`${JSON.stringify(line)}\n`) === 1) setImmediate(flush);
}

/** Write what waits. Done by itself at the end of each turn of the event loop, and when the process exits. */
function flush() {
  const lines = state.lines.splice(0);
  if (lines.length === 0) return;
  process.stdout.write(lines.join(''), (error) => {
    if (error) state.families.add(METRICS.DROPPED, ['logs', 'write'], lines.length);
  });
}

const log = Object.fromEntries(
  LEVELS.map((level) => [level, (message, fields, error) => event(level, message, fields, error)]),
);

module.exports = { access, flush, ids, log };
