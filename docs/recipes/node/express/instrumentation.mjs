// Loaded before the application:  node --import ./instrumentation.mjs server.js
import { register } from 'node:module';
import tocsin from './tocsin/index.cjs';

// Lets OpenTelemetry see what applications written with `import` load.
register('@opentelemetry/instrumentation/hook.mjs', import.meta.url);

tocsin.start({ service: 'shop', exclude: ['/healthz'] });
