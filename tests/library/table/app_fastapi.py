"""The table's application with FastAPI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import shop
from fastapi import APIRouter, BackgroundTasks, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, Router


async def hosted(request: Request) -> Response:
    return PlainTextResponse("ok")


items = APIRouter()


@items.get("/items/{item}")
async def item(item: int) -> int:
    return item


def sub() -> FastAPI:
    app = FastAPI()
    app.include_router(items)

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("boom")

    return app


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
    yield {"ready": "ready"}


def make() -> FastAPI:
    app = FastAPI(lifespan=lifespan)
    nested = APIRouter(prefix="/shops/{shop}")
    nested.include_router(items)
    first = APIRouter(prefix="/v1")
    first.include_router(items)
    first.include_router(nested)
    app.include_router(first)
    app.mount("/mounted", sub())
    app.mount("/again", shop.instrumented(sub(), "again"))
    app.mount("/tenants/{tenant}", sub())
    app.host("api.example.com", Router([Route("/hosted/{x}", hosted)]))

    @app.get("/")
    async def ok() -> str:
        return "ok"

    @app.get("/quiet/{x}")
    async def quiet(x: str) -> str:
        return x

    @app.get("/checked")
    async def checked(n: int) -> int:
        return n

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("boom")

    @app.get("/teapot")
    def teapot() -> None:
        raise HTTPException(418)

    @app.get("/later")
    async def later(tasks: BackgroundTasks) -> str:
        tasks.add_task(shop.later)
        return "ok"

    @app.get("/big")
    async def big(request: Request) -> StreamingResponse:
        return StreamingResponse(shop.big(request.headers["x-gate"]))

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(shop.pieces())

    @app.get("/broken")
    async def broken() -> StreamingResponse:
        return StreamingResponse(shop.broken())

    @app.get("/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(shop.events(), media_type="text/event-stream")

    @app.get("/cancelled")
    async def cancelled() -> None:
        await shop.cancelled()

    @app.get("/state")
    async def state(request: Request) -> Response:
        return PlainTextResponse(request.state.ready)

    @app.get("/cookies")
    async def cookies() -> Response:
        response = PlainTextResponse("ok")
        response.raw_headers.extend((name.encode(), value.encode()) for name, value in shop.COOKIES)
        return response

    @app.get("/context")
    def context() -> dict[str, str]:
        return shop.inside()

    @app.websocket("/ws/{room}")
    async def ws(socket: WebSocket, room: str) -> None:
        await socket.accept()
        await socket.send_text((await socket.receive_text()).upper())
        await socket.close()

    return app


application = shop.beside(shop.instrumented(make()), shop.instrumented(sub(), "second"))
