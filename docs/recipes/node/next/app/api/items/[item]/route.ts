import { log } from '../../../../tocsin/index.cjs';

/** Reads an item from the service behind this one; the trace goes along. */
export async function GET(_: Request, { params }: { params: Promise<{ item: string }> }): Promise<Response> {
  const { item } = await params;
  log.info('item read', { item });
  const answer = await fetch(`${process.env.SHOP_URL}/items/${encodeURIComponent(item)}`, { cache: 'no-store' });
  return Response.json(await answer.json(), { status: answer.status });
}
