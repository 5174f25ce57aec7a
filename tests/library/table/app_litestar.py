"""The table's application with Litestar."""

from __future__ import annotations

from typing import Any

import shop
from litestar import Litestar, Request, Router, WebSocket, asgi, get, websocket
from litestar.background_tasks import BackgroundTask
from litestar.exceptions import HTTPException
from litestar.params import FromPath
from litestar.response import Response, Stream
from starlette.responses import PlainTextResponse


@get("/")
async def ok() -> str:
    return "ok"


@get("/quiet/{x:str}")
async def quiet(x: FromPath[str]) -> str:
    return x


@get("/items/{item:int}")
async def item(item: FromPath[int]) -> str:
    return str(item)


@get("/checked")
async def checked(n: int) -> str:
    return str(n)


@get("/boom")
async def boom() -> str:
    raise RuntimeError("boom")


@get("/teapot")
async def teapot() -> str:
    raise HTTPException(status_code=418)


@get("/later")
async def later() -> Response[str]:
    return Response("ok", background=BackgroundTask(shop.later))


@get("/big")
async def big(request: Request[Any, Any, Any]) -> Stream:
    return Stream(shop.big(request.headers["x-gate"]))


@get("/stream")
async def stream() -> Stream:
    return Stream(shop.pieces())


@get("/broken")
async def broken() -> Stream:
    return Stream(shop.broken())


@get("/events")
async def events() -> Stream:
    return Stream(shop.events(), media_type="text/event-stream")


@get("/cancelled")
async def cancelled() -> str:
    await shop.cancelled()
    return "too late"


@get("/state")
async def state(request: Request[Any, Any, Any]) -> str:
    return str(request.app.state.ready)


@asgi("/cookies", copy_scope=True)
async def cookies(scope: Any, receive: Any, send: Any) -> None:
    response = PlainTextResponse("ok")
    response.raw_headers.extend((name.encode(), value.encode()) for name, value in shop.COOKIES)
    await response(scope, receive, send)


@get("/context", sync_to_thread=True)
def context() -> dict[str, str]:
    return shop.inside()


@asgi("/mounted", is_mount=True, copy_scope=True)
async def mounted(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"].startswith("/boom"):
        raise RuntimeError("boom")
    await PlainTextResponse("ok")(scope, receive, send)


@websocket("/ws/{room:str}")
async def ws(socket: WebSocket[Any, Any, Any], room: FromPath[str]) -> None:
    await socket.accept()
    await socket.send_text((await socket.receive_text()).upper())
    await socket.close()


def ready(app: Litestar) -> None:
    app.state.ready = "ready"


HANDLERS = [ok, quiet, checked, boom, teapot, later, big, stream, broken, events, cancelled, state, cookies, context]
nested = Router("/shops/{shop:str}", route_handlers=[item])
first = Router("/v1", route_handlers=[item, nested])
application = shop.beside(
    shop.instrumented(Litestar([*HANDLERS, mounted, ws, first], on_startup=[ready], logging_config=None)),
    shop.instrumented(Litestar([item], logging_config=None), "second"),
)
