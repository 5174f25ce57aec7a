// Next.js calls `register` once, before the first request; and `onRequestError` for what a page or route throws.

export async function register(): Promise<void> {
  if (process.env.NEXT_RUNTIME !== 'nodejs') return; // nothing of this runs on the edge
  const { start } = await import('./tocsin/index.cjs');
  start({ service: 'shop-web', serverSpans: false }); // Next.js makes the span of a request itself
}

export async function onRequestError(error: unknown): Promise<void> {
  if (process.env.NEXT_RUNTIME !== 'nodejs') return;
  const { failed } = await import('./tocsin/index.cjs');
  failed(error);
}
