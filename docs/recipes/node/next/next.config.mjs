/** @type {import('next').NextConfig} */
export default {
  // Loaded as they are, not bundled: OpenTelemetry has to see modules being loaded, and there must be one prom-client.
  serverExternalPackages: [
    '@opentelemetry/core',
    '@opentelemetry/exporter-trace-otlp-proto',
    '@opentelemetry/instrumentation',
    '@opentelemetry/instrumentation-express',
    '@opentelemetry/instrumentation-http',
    '@opentelemetry/instrumentation-undici',
    '@opentelemetry/resources',
    '@opentelemetry/sdk-trace-node',
    'prom-client',
  ],
};
