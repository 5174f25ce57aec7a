'use strict';
// What there is once per process. On globalThis, because bundlers (Next.js) give each bundle a copy of this file.

const { AsyncLocalStorage } = require('node:async_hooks');
const { Families } = require('./families.cjs');

const state = (globalThis[Symbol.for('tocsin')] ??= {
  // The request being answered.
  exchanges: new AsyncLocalStorage(),
  families: new Families(),
  // Lines that wait for the end of this turn of the event loop.
  lines: [],
  service: process.env.OTEL_SERVICE_NAME || 'unknown_service',
  version: '',
  started: false,
});

module.exports = { state };
