'use strict';
// Watches every request of every HTTP server of the process, from outside: nothing is buffered or changed.

const http = require('node:http');
const https = require('node:https');
const { isIP } = require('node:net');
const { context, trace } = require('@opentelemetry/api');
const { getRPCMetadata } = require('@opentelemetry/core');
const client = require('prom-client');
const log = require('./log.cjs');
const { METHODS, METRICS, OTHER } = require('./names.cjs');
const { decode } = require('./redact.cjs');
const { state } = require('./state.cjs');

const CLIENT_CLOSED = 499; // as nginx counts it
const SAMPLED = 1;
// What Next.js calls the page it shows when nothing matched.
const NO_ROUTE = new Set(['/_not-found', '/_not-found/page', '/404', '/_error']);

/** One request and its answer. */
class Exchange {
  #began = process.hrtime.bigint();
  #request;
  #response;
  #rpc;
  // Set by whoever knows: Express by way of OpenTelemetry, Next.js by its spans.
  route = undefined;
  trace = undefined;
  error = undefined;

  constructor(request, response) {
    this.#request = request;
    this.#response = response;
    this.#rpc = getRPCMetadata(context.active());
    this.trace = trace.getSpanContext(context.active());
    this.method = METHODS.has(request.method) ? request.method : OTHER;
    this.path = pathOf(request);
    state.families.add(METRICS.ACTIVE, [this.method]);
    response.once('close', () => guarded('record', () => this.#over()));
  }

  #over() {
    const seconds = Number(process.hrtime.bigint() - this.#began) / 1e9;
    const status = this.#response.writableFinished ? this.#response.statusCode : CLIENT_CLOSED;
    const route = this.#template();
    const sampled = this.trace && this.trace.traceFlags & SAMPLED ? this.trace : undefined;
    const { families } = state;
    families.add(METRICS.ACTIVE, [this.method], -1);
    families.observe(METRICS.DURATION, [this.method, route, String(status)], seconds, sampled);
    if (this.error !== undefined) {
      families.add(METRICS.EXCEPTIONS, [this.method, route, this.error?.name ?? typeof this.error]);
    }
    log.access({
      method: this.method,
      route,
      path: decode(this.path),
      status,
      seconds,
      client: address(this.#request),
      trace: this.trace,
      error: this.error,
    });
  }

  /** The full template, never a concrete path: what nothing matched is one label value. */
  #template() {
    const { app, baseUrl, route } = this.#request; // Express's: `route` is there if one matched, `app` always
    let found = this.route ?? this.#rpc?.route ?? '';
    if (app && !route) found = ''; // OpenTelemetry names the router that was tried last
    else if (route && !found && !baseUrl) found = String(route.path); // a base may hold values: never shown
    if (!found && this.path.startsWith('/_next/')) return '/_next/*';
    return NO_ROUTE.has(found) ? '' : found;
  }
}

function pathOf(request) {
  return request.url.split(/[?#]/, 1)[0];
}

function address(request) {
  const found = (request.socket?.remoteAddress ?? '').replace(/^::ffff:/, '');
  return isIP(found) ? found : undefined;
}

// Our own mistakes cost a count, never an answer.
function guarded(reason, act) {
  try {
    return act();
  } catch {
    state.families.dropped('metrics', reason);
    return undefined;
  }
}

/** Remember the exception that left the application: for the line and the counter of this request. */
function failed(error) {
  const exchange = state.exchanges.getStore();
  if (exchange) exchange.error ??= error;
}

/** Watch all servers, and answer `metricsPath` (null: nowhere). `exclude` lists paths that are nobody's business. */
function watch({ metricsPath, exclude }) {
  const ignored = new Set(exclude);
  for (const prototype of [http.Server.prototype, https.Server.prototype]) {
    const emit = prototype.emit;
    prototype.emit = function (event, request, response) {
      if (event !== 'request') return emit.apply(this, arguments);
      const path = pathOf(request);
      if (path === metricsPath) {
        scrape(request, response);
        return true;
      }
      if (ignored.has(path)) return emit.apply(this, arguments);
      const exchange = guarded('begin', () => new Exchange(request, response));
      return state.exchanges.run(exchange, () => emit.apply(this, arguments));
    };
  }
}

async function scrape(request, response) {
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.writeHead(405, { allow: 'GET, HEAD' }).end();
    return;
  }
  const others = await client.register.getMetricsAsJSON().catch(() => {
    state.families.dropped('metrics', 'collect');
    return [];
  });
  const [type, body] = state.families.page(request.headers.accept, others);
  response.writeHead(200, { 'content-type': type, 'content-length': Buffer.byteLength(body) });
  response.end(request.method === 'HEAD' ? undefined : body);
}

module.exports = { failed, pathOf, watch };
