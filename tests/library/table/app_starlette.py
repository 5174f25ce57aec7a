"""The table's application with Starlette."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import shop
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.websockets import WebSocket


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


async def boom(request: Request) -> Response:
    raise RuntimeError("boom")


async def teapot(request: Request) -> Response:
    raise HTTPException(418)


async def later(request: Request) -> Response:
    return PlainTextResponse("ok", background=BackgroundTask(shop.later))


async def big(request: Request) -> Response:
    return StreamingResponse(shop.big(request.headers["x-gate"]))


async def stream(request: Request) -> Response:
    return StreamingResponse(shop.pieces())


async def broken(request: Request) -> Response:
    return StreamingResponse(shop.broken())


async def events(request: Request) -> Response:
    return StreamingResponse(shop.events(), media_type="text/event-stream")


async def cancelled(request: Request) -> Response:
    await shop.cancelled()
    return PlainTextResponse("too late")


async def state(request: Request) -> Response:
    return PlainTextResponse(request.state.ready)


async def cookies(request: Request) -> Response:
    response = PlainTextResponse("ok")
    response.raw_headers.extend((name.encode(), value.encode()) for name, value in shop.COOKIES)
    return response


async def context(request: Request) -> Response:
    return JSONResponse(await run_in_threadpool(shop.inside))


async def ws(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text((await socket.receive_text()).upper())
    await socket.close()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
    yield {"ready": "ready"}


items = [Route("/items/{item:int}", ok)]
application = shop.beside(
    shop.instrumented(
        Starlette(
            lifespan=lifespan,
            routes=[
                Route("/", ok),
                Mount("/v1", routes=[*items, Mount("/shops/{shop}", routes=items)]),
                Mount("/mounted", app=Starlette(routes=[*items, Route("/boom", boom)])),
                Mount("/again", app=shop.instrumented(Starlette(routes=items), "again")),
                Mount("/tenants/{tenant}", app=Router(items)),
                Host("api.example.com", app=Router([Route("/hosted/{x}", ok)])),
                Route("/boom", boom),
                Route("/teapot", teapot),
                Route("/later", later),
                Route("/big", big),
                Route("/stream", stream),
                Route("/broken", broken),
                Route("/events", events),
                Route("/cancelled", cancelled),
                Route("/state", state),
                Route("/cookies", cookies),
                Route("/context", context),
                Route("/quiet/{x}", ok),
                WebSocketRoute("/ws/{room}", ws),
            ],
        )
    ),
    shop.instrumented(Starlette(routes=items), "second"),
)
