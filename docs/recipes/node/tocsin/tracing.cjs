'use strict';
// Traces with OpenTelemetry: W3C context in and out, spans to OTEL_EXPORTER_OTLP_ENDPOINT if that is set.

const { ExportResultCode } = require('@opentelemetry/core');
const { OTLPTraceExporter } = require('@opentelemetry/exporter-trace-otlp-proto');
const { registerInstrumentations } = require('@opentelemetry/instrumentation');
const { ExpressInstrumentation } = require('@opentelemetry/instrumentation-express');
const { HttpInstrumentation } = require('@opentelemetry/instrumentation-http');
const { UndiciInstrumentation } = require('@opentelemetry/instrumentation-undici');
const { detectResources, envDetector, resourceFromAttributes } = require('@opentelemetry/resources');
const {
  AlwaysOffSampler,
  AlwaysOnSampler,
  BatchSpanProcessor,
  NodeTracerProvider,
  ParentBasedSampler,
  SamplingDecision,
  TraceIdRatioBasedSampler,
} = require('@opentelemetry/sdk-trace-node');
const { METRICS } = require('./names.cjs');
const { REDACTED, isSecret, redactText } = require('./redact.cjs');
const { pathOf } = require('./requests.cjs');
const { state } = require('./state.cjs');

// How OpenTelemetry calls what holds routes of its own.
const NESTED = /^router - |mounted_app$/;

/** Return the sampler that OTEL_TRACES_SAMPLER names; by default everything, unless the caller decided otherwise. */
function samplerOf(env) {
  const ratio = Number(env.OTEL_TRACES_SAMPLER_ARG || 1);
  const roots = {
    always_on: () => new AlwaysOnSampler(),
    always_off: () => new AlwaysOffSampler(),
    traceidratio: () => new TraceIdRatioBasedSampler(ratio),
  };
  const name = env.OTEL_TRACES_SAMPLER || 'parentbased_always_on';
  const root = (roots[name.replace(/^parentbased_/, '')] ?? roots.always_on)();
  return name.startsWith('parentbased_') ? new ParentBasedSampler({ root }) : root;
}

/** Records what is not sampled too, without exporting it: Next.js says the route of a request on its spans only. */
class RecordingSampler {
  constructor(inner) {
    this.inner = inner;
  }

  shouldSample(...facts) {
    const result = this.inner.shouldSample(...facts);
    return result.decision === SamplingDecision.NOT_RECORD ? { ...result, decision: SamplingDecision.RECORD } : result;
  }

  toString() {
    return `Recording{${this.inner}}`;
  }
}

/** Passes spans on to be exported, without secrets; and tells the request what its spans know. */
class RequestSpans {
  #next;

  constructor(next) {
    this.#next = next;
  }

  onStart(span, parent) {
    const exchange = state.exchanges.getStore();
    if (exchange) {
      exchange.trace ??= span.spanContext();
      exchange.route = span.attributes['next.route'] ?? exchange.route;
    }
    this.#next?.onStart(span, parent);
  }

  onEnd(span) {
    const exchange = state.exchanges.getStore();
    const { attributes } = span;
    if (exchange) exchange.route = attributes['next.route'] ?? exchange.route;
    if (attributes['express.type'] === 'router') return; // of no length, and nobody's parent
    hideSecrets(attributes);
    for (const event of span.events) hideSecrets(event.attributes ?? {});
    if (span.status.message) span.status.message = redactText(span.status.message);
    this.#next?.onEnd(span);
  }

  async forceFlush() {
    await this.#next?.forceFlush();
  }

  async shutdown() {
    await this.#next?.shutdown();
  }
}

function hideSecrets(attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (isSecret(name)) attributes[name] = REDACTED;
    else if (typeof value === 'string') attributes[name] = redactText(value, { query: name === 'url.query' });
  }
}

/** Counts what a collector took, and what was lost. */
class CountingExporter extends OTLPTraceExporter {
  export(spans, done) {
    super.export(spans, (result) => {
      if (result.code === ExportResultCode.SUCCESS) state.families.add(METRICS.SPANS_EXPORTED, [], spans.length);
      else state.families.add(METRICS.DROPPED, ['traces', 'export'], spans.length);
      done(result);
    });
  }
}

/** Start tracing; returns the provider. `serverSpans` false: the framework makes them itself (Next.js). */
function trace({ serverSpans, metricsPath, exclude }) {
  const { env } = process;
  const exporting = env.OTEL_EXPORTER_OTLP_ENDPOINT || env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT;
  const named = { 'service.name': state.service, ...(state.version && { 'service.version': state.version }) };
  const provider = new NodeTracerProvider({
    resource: detectResources({ detectors: [envDetector] }).merge(resourceFromAttributes(named)),
    sampler: serverSpans ? samplerOf(env) : new RecordingSampler(samplerOf(env)),
    spanProcessors: [new RequestSpans(exporting ? new BatchSpanProcessor(new CountingExporter()) : undefined)],
  });
  provider.register();
  const silent = new Set([metricsPath, ...exclude]);
  registerInstrumentations({
    tracerProvider: provider,
    instrumentations: [
      new HttpInstrumentation({
        disableIncomingRequestInstrumentation: !serverSpans,
        ignoreIncomingRequestHook: (request) => silent.has(pathOf(request)),
      }),
      // For the templates of routes. It forgets the path of what is ignored, so routers and mounted applications stay.
      ...(serverSpans ? [new ExpressInstrumentation({ ignoreLayers: [(name) => !NESTED.test(name)] })] : []),
      new UndiciInstrumentation(),
    ],
  });
  // Instrumented when next required; an application that only imports them would not do so.
  require('node:http');
  require('node:https');
  return provider;
}

module.exports = { trace };
