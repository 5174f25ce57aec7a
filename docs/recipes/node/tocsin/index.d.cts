/** The names of a trace's ids as log fields; empty outside of a request. */
export function ids(): Record<string, string>;

type Write = (message: string, fields?: Record<string, unknown>, error?: unknown) => void;

export const log: Record<'debug' | 'info' | 'warning' | 'error' | 'critical', Write>;

export interface Options {
  /** Goes into logs, traces and target_info; default: OTEL_SERVICE_NAME, else unknown_service. */
  service?: string;
  version?: string;
  /** Where metrics are served; null for nowhere. */
  metricsPath?: string | null;
  /** Paths that are neither counted nor logged nor traced. */
  exclude?: string[];
  /** False if the framework makes the span of a request itself, as Next.js does. */
  serverSpans?: boolean;
}

/** Start metrics, traces and logs; a second call changes nothing. */
export function start(options?: Options): void;

/** Remember the exception that left the application: for the line and the counter of this request. */
export function failed(error: unknown): void;

/** Express: `app.use(errors)` as the last one, so that exceptions get into the access line and are counted. */
export function errors(error: unknown, request: unknown, response: unknown, next: (error: unknown) => void): void;

/** Count a request that was refused for its credentials. */
export function authFailed(reason: 'missing' | 'malformed' | 'expired' | 'bad_signature' | 'bad_audience' | 'unknown_kid'): void;

/** Count a request that was refused by a rate limit, by its route's template and the name of the policy. */
export function rateLimited(route: string, policy: string): void;
