// A shop to try the recipe with:  node --import ./instrumentation.mjs server.mjs
import express from 'express';
import { errors, log } from './tocsin/index.cjs';

const app = express();

app.get('/items/:item', (request, response) => {
  log.info('item read', { item: request.params.item });
  response.json({ item: request.params.item });
});

app.get('/boom', () => {
  throw new Error('boom');
});

app.use(errors); // last: puts exceptions into the access line and counts them

const server = app.listen(Number(process.env.PORT ?? 3000), '127.0.0.1', () => {
  log.info('listening', { port: server.address().port });
});
