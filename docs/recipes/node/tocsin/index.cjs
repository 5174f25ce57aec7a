'use strict';
// One call that gives a Node.js service metrics, traces and logs. See README.md beside this folder.

const client = require('prom-client');
const { flush, ids, log } = require('./log.cjs');
const { METRICS } = require('./names.cjs');
const { failed, watch } = require('./requests.cjs');
const { state } = require('./state.cjs');
const { trace } = require('./tracing.cjs');

const LAG_EVERY_MS = 500;

/**
 * Start everything; a second call changes nothing.
 *
 * service, version: go into logs, traces and target_info; default: OTEL_SERVICE_NAME, else unknown_service.
 * metricsPath: where metrics are served; null for nowhere.
 * exclude: paths that are neither counted nor logged nor traced.
 * serverSpans: false if the framework makes the span of a request itself, as Next.js does.
 */
function start({ service, version, metricsPath = '/metrics', exclude = [], serverSpans = true } = {}) {
  if (state.started) return;
  state.started = true;
  state.service = service ?? state.service;
  state.version = version ?? state.version;
  state.families.add(METRICS.TARGET_INFO, [state.service, state.version, 'tocsin']);
  client.collectDefaultMetrics(); // process_* and nodejs_*
  measureLag();
  // In this order: what is watched inside of OpenTelemetry's layer knows the ids and the route of a request.
  watch({ metricsPath, exclude });
  const provider = trace({ serverSpans, metricsPath, exclude });
  process.stdout.on('error', () => {}); // a reader that went away is counted, and no reason to end
  process.on('exit', flush);
  process.once('beforeExit', () => provider.shutdown().catch(() => {}));
  process.once('SIGTERM', async () => {
    const alone = process.listenerCount('SIGTERM') === 0;
    await provider.shutdown().catch(() => {});
    if (alone) process.kill(process.pid, 'SIGTERM'); // as if nobody had listened
  });
}

function measureLag() {
  let expected = performance.now() + LAG_EVERY_MS;
  setInterval(() => {
    const now = performance.now();
    state.families.observe(METRICS.LOOP_LAG, [], Math.max(0, now - expected) / 1000);
    expected = now + LAG_EVERY_MS;
  }, LAG_EVERY_MS).unref();
}

/** Express: `app.use(errors)` as the last one, so that exceptions get into the access line and are counted. */
function errors(error, _request, _response, next) {
  failed(error);
  next(error);
}

const REASONS = new Set(['missing', 'malformed', 'expired', 'bad_signature', 'bad_audience', 'unknown_kid']);

/** Count a request that was refused for its credentials: missing, malformed, expired, bad_signature, bad_audience, unknown_kid. */
function authFailed(reason) {
  state.families.add(METRICS.AUTH_FAILURES, [REASONS.has(reason) ? reason : '_OTHER']);
}

/** Count a request that was refused by a rate limit, by its route's template and the name of the policy. */
function rateLimited(route, policy) {
  state.families.add(METRICS.RATELIMIT_REJECTED, [route, policy]);
}

module.exports = { authFailed, errors, failed, ids, log, rateLimited, start };
