'use strict';
// Names of metrics and log fields: the same as those of tocsin for Python, so that one dashboard shows both.

const HTTP_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10];

const METRICS = {
  DURATION: {
    name: 'http_server_request_duration_seconds',
    kind: 'histogram',
    help: 'Seconds from the first byte of the request to the last byte of the answer.',
    labels: ['http_request_method', 'http_route', 'http_response_status_code'],
    buckets: HTTP_SECONDS,
  },
  ACTIVE: {
    name: 'http_server_active_requests',
    kind: 'gauge',
    help: 'Requests being answered now.',
    labels: ['http_request_method'],
  },
  EXCEPTIONS: {
    name: 'http_server_exceptions_total',
    kind: 'counter',
    help: 'Exceptions that left the application, each counted once.',
    labels: ['http_request_method', 'http_route', 'error_type'],
  },
  TARGET_INFO: {
    name: 'target_info',
    kind: 'info',
    help: 'The service behind this page.',
    labels: ['service_name', 'service_version', 'telemetry_sdk_name'],
  },
  DROPPED: {
    name: 'tocsin_dropped_total',
    kind: 'counter',
    help: 'Telemetry the library could not record, write or export, by signal and reason.',
    labels: ['signal', 'reason'],
  },
  SPANS_EXPORTED: {
    name: 'tocsin_spans_exported_total',
    kind: 'counter',
    help: 'Spans a collector has accepted.',
    labels: [],
  },
  AUTH_FAILURES: {
    name: 'tocsin_auth_failures_total',
    kind: 'counter',
    help: 'Requests refused for their credentials: missing, malformed, expired, bad_signature, bad_audience, unknown_kid.',
    labels: ['reason'],
  },
  RATELIMIT_REJECTED: {
    name: 'tocsin_ratelimit_rejected_total',
    kind: 'counter',
    help: 'Requests refused by a rate limit, by route and policy.',
    labels: ['http_route', 'policy'],
  },
  LOOP_LAG: {
    name: 'tocsin_event_loop_lag_seconds',
    kind: 'histogram',
    help: 'Seconds the event loop was late for a timer: how long every request waits for code that blocks.',
    labels: [],
    buckets: [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
  },
};

const FIELD = {
  TIMESTAMP: '@timestamp',
  LEVEL: 'log.level',
  MESSAGE: 'message',
  LOGGER: 'log.logger',
  ECS_VERSION: 'ecs.version',
  SERVICE_NAME: 'service.name',
  SERVICE_VERSION: 'service.version',
  DATASET: 'event.dataset',
  DURATION_NS: 'event.duration',
  TRACE_ID: 'trace.id',
  SPAN_ID: 'span.id',
  TRACE_ID_FLAT: 'trace_id',
  METHOD: 'http.request.method',
  STATUS: 'http.response.status_code',
  ROUTE: 'http.route',
  PATH: 'url.path',
  CLIENT_IP: 'client.ip',
  ERROR_TYPE: 'error.type',
  ERROR_MESSAGE: 'error.message',
  ERROR_STACK: 'error.stack_trace',
};

const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'CONNECT', 'TRACE', 'QUERY']);
// The label value for everything that would otherwise be unbounded.
const OTHER = '_OTHER';

module.exports = { METRICS, FIELD, METHODS, OTHER };
