"""Litestar: routes, statuses, exceptions and streams of applications instrumented in place, under uvicorn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from litestar import Controller, Litestar, Router, WebSocket, asgi, get, post, websocket
from litestar.background_tasks import BackgroundTask
from litestar.exceptions import HTTPException, NotFoundException
from litestar.params import FromPath
from litestar.response import Response, Stream
from litestar.testing import TestClient
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

import tocsin
from tocsin.integrations.litestar import claims
from tocsin.names import HTTP_SERVER_EXCEPTIONS
from tocsin.testing import Capture, active, call, counted, dropped, seconds

Serve = Callable[..., str]


class ShopError(Exception):
    pass


@get("/")
async def index() -> str:
    return "ok"


@get("/items/{number:int}")
async def item(number: FromPath[int]) -> str:
    return f"item {number}"


@post("/items/{number:int}")
async def change(number: FromPath[int]) -> str:
    return f"item {number}"


@get("/files/{name:path}")
async def file(name: FromPath[str]) -> str:
    return name


@get("/boom")
async def boom() -> str:
    raise ShopError("boom")


@get("/sync-boom", sync_to_thread=True)
def sync_boom() -> str:
    raise ShopError("boom")


@get("/meant")
async def meant() -> str:
    raise HTTPException(status_code=503)


@get("/gone/{number:int}")
async def gone(number: FromPath[int]) -> str:
    raise NotFoundException


@get("/stream")
async def stream() -> Stream:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0.02)
            yield b"x"

    return Stream(pieces())


@get("/later")
async def later() -> Response[str]:
    return Response("ok", background=BackgroundTask(asyncio.sleep, 0.4))


class Users(Controller):
    path = "/users/{user:str}"

    @get("/orders/{order:uuid}")
    async def order(self, user: FromPath[str], order: FromPath[UUID]) -> str:
        return user


@asgi("/mounted", is_mount=True, copy_scope=True)
async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("mounted")(scope, receive, send)


@websocket("/ws/{room:str}")
async def ws(socket: WebSocket[Any, Any, Any], room: FromPath[str]) -> None:
    await socket.accept()
    await socket.send_text(room)
    await socket.close()


def shop(**options: Any) -> Litestar:
    handlers = [index, item, change, file, boom, sync_boom, meant, gone, stream, later, mounted, ws]
    router = Router("/api/{version:int}", route_handlers=[Users])
    return Litestar([*handlers, router], openapi_config=None, logging_config=None, **options)


@pytest.fixture
def app(registry: CollectorRegistry, lines: Capture) -> Litestar:
    return tocsin.instrument(shop(), registry=registry, log_stream=lines)


def exceptions(registry: CollectorRegistry) -> dict[tuple[str, str], int]:
    return {
        (sample.labels["http_route"], sample.labels["error_type"].rpartition(".")[2]): int(sample.value)
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == HTTP_SERVER_EXCEPTIONS.name
    }


def written(lines: Capture) -> list[dict[str, Any]]:
    """Return the access lines; they may be a moment behind what the client has seen."""
    deadline = time.monotonic() + 10
    while not lines.access and time.monotonic() < deadline:
        time.sleep(0.01)
    return lines.access


@pytest.mark.parametrize(
    ("method", "path", "label", "route", "status"),
    [
        ("GET", "/", "GET", "/", 200),
        ("GET", "/items/7", "GET", "/items/{number}", 200),
        ("POST", "/items/7", "POST", "/items/{number}", 201),
        ("GET", "/files/a/b.txt", "GET", "/files/{name}", 200),
        ("GET", "/api/2/users/ann/orders/12345678-1234-5678-1234-567812345678", "GET", None, 200),
        ("GET", "/mounted/any/thing", "GET", "/mounted/{path}", 200),
        ("GET", "/gone/7", "GET", "/gone/{number}", 404),
        ("GET", "/meant", "GET", "/meant", 503),
        ("GET", "/nowhere/7", "GET", "", 404),
        ("GET", "/items/seven", "GET", "", 404),
        ("DELETE", "/items/7", "DELETE", "", 405),
        ("HEAD", "/items/7", "HEAD", "", 405),
        ("BREW", "/items/7", "_OTHER", "", 405),
    ],
)
async def test_each_request_is_counted_under_its_route(
    method: str,
    path: str,
    label: str,
    route: str | None,
    status: int,
    app: Litestar,
    serve: Serve,
    registry: CollectorRegistry,
    lines: Capture,
) -> None:
    """Method, full template and status; one line of the same; nothing in flight, no exception, nothing dropped."""
    if route is None:
        route = "/api/{version}/users/{user}/orders/{order}"
    async with httpx.AsyncClient(base_url=serve(app)) as client:
        assert (await client.request(method, path)).status_code == status
    (line,) = written(lines)
    assert counted(registry) == {(label, route, str(status)): 1}
    assert (line["http.request.method"], line["http.route"], line["url.path"]) == (label, route, path)
    assert "error.type" not in line
    assert active(registry) == 0
    assert exceptions(registry) == {}
    assert dropped(registry) == {}


@pytest.mark.parametrize("path", ["/boom", "/sync-boom"])
async def test_an_exception_that_litestar_answers_is_told_in_the_line_and_counted_once(
    path: str, app: Litestar, serve: Serve, registry: CollectorRegistry, lines: Capture
) -> None:
    """It never leaves the application; type, message and stack are in the access line all the same."""
    async with httpx.AsyncClient(base_url=serve(app)) as client:
        assert (await client.get(path)).status_code == 500
    (line,) = written(lines)
    assert counted(registry) == {("GET", path, "500"): 1}
    assert exceptions(registry) == {(path, "ShopError"): 1}
    assert line["error.message"] == "boom"
    assert 'raise ShopError("boom")' in line["error.stack_trace"]


@pytest.mark.parametrize(("status", "told"), [(503, 1), (409, 0)])
async def test_an_exception_with_a_handler_is_told_if_the_answer_is_a_server_error(
    status: int, told: int, registry: CollectorRegistry, lines: Capture
) -> None:
    """A handler that answers 409 means it; one that answers 5xx hides nothing."""

    def sorry(_request: Any, _error: Exception) -> Response[str]:
        return Response("sorry", status_code=status)

    app = tocsin.instrument(shop(exception_handlers={ShopError: sorry}), registry=registry, log_stream=lines)
    await call(app, "/boom")
    assert counted(registry) == {("GET", "/boom", str(status)): 1}
    assert sum(exceptions(registry).values()) == told
    assert ("error.type" in lines.access[0]) == bool(told)


async def test_a_stream_lasts_until_its_last_piece(
    app: Litestar, serve: Serve, registry: CollectorRegistry, lines: Capture
) -> None:
    """The time it takes is the request's."""
    async with httpx.AsyncClient(base_url=serve(app)) as client:
        assert (await client.get("/stream")).content == b"xxx"
    written(lines)
    assert counted(registry) == {("GET", "/stream", "200"): 1}
    assert seconds(registry) >= 0.06


async def test_a_client_that_leaves_a_stream_is_499(app: Litestar, registry: CollectorRegistry) -> None:
    """Litestar stops the stream when it is told."""
    await call(app, "/stream", disconnect_after=1)
    assert counted(registry) == {("GET", "/stream", "499"): 1}
    assert active(registry) == 0


async def test_background_tasks_are_no_time_the_client_waited(app: Litestar, registry: CollectorRegistry) -> None:
    """The answer was out before."""
    await call(app, "/later")
    assert seconds(registry) < 0.35


def test_websockets_are_no_http_requests(app: Litestar, registry: CollectorRegistry) -> None:
    """They have metrics of their own, with the template."""
    with TestClient(app) as client, client.websocket_connect("/ws/blue") as socket:
        assert socket.receive_text() == "blue"
    assert counted(registry) == {}
    routes = {
        sample.labels["http_route"]
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "tocsin_websocket_duration_seconds_count"
    }
    assert routes == {"/ws/{room}"}


async def test_under_a_root_path_the_path_is_shown_as_the_client_asked(
    app: Litestar, registry: CollectorRegistry, lines: Capture
) -> None:
    """Litestar changes the path of the scope to its own part of it."""
    await call(app, "/shop/mounted/a/", root_path="/shop")
    assert counted(registry) == {("GET", "/mounted/{path}", "200"): 1}
    assert lines.access[0]["url.path"] == "/shop/mounted/a/"


async def test_the_metrics_page_is_none_of_the_applications_routes(app: Litestar, registry: CollectorRegistry) -> None:
    """Answered by the layer; not counted."""
    assert b"# TYPE http_server_request_duration_seconds histogram" in (await call(app, "/metrics")).body
    assert counted(registry) == {}


async def test_uninstrument_gives_back_what_was(registry: CollectorRegistry, lines: Capture) -> None:
    """The same object before and after, instrumented once; then nothing is recorded."""
    app = shop()
    handler, hooks = app.asgi_handler, list(app.on_startup)
    assert claims(app)
    assert tocsin.instrument(app, registry=registry, log_stream=lines) is app
    changed = app.asgi_handler
    assert tocsin.instrument(app, registry=registry, log_stream=lines) is app
    assert app.asgi_handler is changed
    assert tocsin.uninstrument(app) is app
    assert app.asgi_handler is handler
    assert (app.on_startup, app.after_exception) == (hooks, [])
    await call(app, "/boom")
    assert counted(registry) == {}
