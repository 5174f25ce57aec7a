"""The table's application as a bare ASGI callable."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import shop

TEXT = [(b"content-type", b"text/plain")]


async def answer(send: Any, body: bytes = b"ok", status: int = 200, headers: Any = TEXT) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def stream(receive: Any, send: Any, pieces: Any) -> None:
    """Pass pieces on until there are no more, or nobody takes them."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    await send({"type": "http.response.start", "status": 200, "headers": TEXT})
    left = asyncio.create_task(gone())
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        if left.done():
            await pieces.aclose()
            return
    left.cancel()
    await send({"type": "http.response.body", "body": b""})


async def http(scope: Any, receive: Any, send: Any) -> None:
    path = scope["path"]
    streams = {
        "/big": lambda: shop.big(dict(scope["headers"])[b"x-gate"].decode()),
        "/stream": shop.pieces,
        "/broken": shop.broken,
        "/events": shop.events,
    }
    if scope["method"] not in ("GET", "HEAD"):
        await answer(send, b"", 405)
    elif path in streams:
        await stream(receive, send, streams[path]())
    elif path == "/later":
        await answer(send)
        await shop.later()
    elif path in ANSWERS:
        await answer(send, **await ANSWERS[path](scope))
    elif path == "/" or path.startswith(("/v1/", "/quiet", "/items/")):
        await answer(send)
    else:
        await answer(send, b"nothing", 404)


async def boom(scope: Any) -> dict[str, Any]:
    raise RuntimeError("boom")


async def cancelled(scope: Any) -> dict[str, Any]:
    await shop.cancelled()
    return {"body": b"too late"}


async def teapot(scope: Any) -> dict[str, Any]:
    return {"status": 418}


async def state(scope: Any) -> dict[str, Any]:
    return {"body": scope["state"]["ready"].encode()}


async def cookies(scope: Any) -> dict[str, Any]:
    return {"headers": [(name.encode(), value.encode()) for name, value in shop.COOKIES]}


async def context(scope: Any) -> dict[str, Any]:
    return {"body": json.dumps(await asyncio.to_thread(shop.inside)).encode()}


ANSWERS = {
    "/boom": boom,
    "/cancelled": cancelled,
    "/teapot": teapot,
    "/state": state,
    "/cookies": cookies,
    "/context": context,
}


async def bare(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await http(scope, receive, send)
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"].upper()})
        await send({"type": "websocket.close", "code": 1000})
    else:
        await receive()
        scope["state"]["ready"] = "ready"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


async def other(scope: Any, receive: Any, send: Any) -> None:
    await answer(send)


application = shop.beside(shop.instrumented(bare), shop.instrumented(other, "second"))
