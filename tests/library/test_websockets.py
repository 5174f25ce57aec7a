"""WebSockets have metrics of their own, one access line and one span each; through real servers."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from prometheus_client import CollectorRegistry
from starlette.routing import Mount, Router, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import tocsin
from tocsin.testing import Capture, counted
from tocsin_service.testing import eventually


def shop() -> FastAPI:
    app = FastAPI()

    @app.websocket("/rooms/{room}")
    async def room(socket: WebSocket, room: str) -> None:
        await socket.accept()
        tocsin.get_logger().info("joined", room=room)
        while True:
            text = await socket.receive_text()
            if text == "boom":
                raise RuntimeError("boom")
            if text == "enough":
                await socket.close(4001)
                return
            await socket.send_text(text.upper())

    @app.websocket("/private")
    async def private(socket: WebSocket) -> None:
        await socket.close(1008)

    @app.websocket("/patient")
    async def patient(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                await socket.receive_text()
        except WebSocketDisconnect:
            return

    async def inner(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    app.router.routes.append(Mount("/tenants/{tenant}", app=Router([WebSocketRoute("/feed/{feed}", inner)])))
    return app


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


async def until(registry: CollectorRegistry, name: str, expected: float, **labels: str) -> None:
    """Wait for the server to have noticed the end of a connection."""
    await eventually(lambda: value(registry, name, **labels) == expected)


DONE = "tocsin_websocket_duration_seconds_count"


async def test_a_conversation_is_counted_while_it_runs_and_when_it_ends(
    serve: Any, registry: CollectorRegistry, lines: Capture
) -> None:
    """Open connections are a gauge, messages a counter; the end is a duration, under the template and the code."""
    url = serve(tocsin.instrument(shop(), registry=registry, log_stream=lines)).replace("http", "ws")
    route = {"http_route": "/rooms/{room}"}
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with connect(f"{url}/rooms/7", additional_headers={"traceparent": traceparent}) as socket:
        await socket.send("hello")
        assert await socket.recv() == "HELLO"
        assert value(registry, "tocsin_websocket_active", **route) == 1
    await until(registry, DONE, 1, close_code="1000", **route)
    assert value(registry, "tocsin_websocket_active", **route) == 0
    assert value(registry, "tocsin_websocket_messages_total", direction="received", **route) == 1
    assert value(registry, "tocsin_websocket_messages_total", direction="sent", **route) == 1
    assert counted(registry) == {}, "a WebSocket is no HTTP request"
    (line,) = lines.access
    assert (line["http.route"], line["http.response.status_code"]) == ("/rooms/{room}", 101)
    (joined,) = [line for line in lines.application if line["message"] == "joined"]
    assert joined["trace.id"] == line["trace.id"] == traceparent[3:35]


@pytest.mark.parametrize(
    ("path", "send", "route", "code"),
    [
        ("/rooms/7", "enough", "/rooms/{room}", "4001"),
        ("/tenants/acme/feed/3", None, "/tenants/{tenant}/feed/{feed}", "1000"),
    ],
)
async def test_the_code_is_what_the_application_closed_with(
    path: str, send: str | None, route: str, code: str, serve: Any, registry: CollectorRegistry, lines: Capture
) -> None:
    """Codes of the application's own are kept; routes are full templates, through mounts too."""
    url = serve(tocsin.instrument(shop(), registry=registry, log_stream=lines)).replace("http", "ws")
    async with connect(f"{url}{path}") as socket:
        if send is not None:
            await socket.send(send)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    await until(registry, DONE, 1, http_route=route, close_code=code)


async def test_an_exception_is_counted_once_and_told(serve: Any, registry: CollectorRegistry, lines: Capture) -> None:
    """The server closes with 1011; the exception is in the access line."""
    url = serve(tocsin.instrument(shop(), registry=registry, log_stream=lines)).replace("http", "ws")
    async with connect(f"{url}/rooms/7") as socket:
        await socket.send("boom")
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    await until(registry, DONE, 1, http_route="/rooms/{room}", close_code="1011")
    name = "http_server_exceptions_total"
    labels = {"http_request_method": "GET", "http_route": "/rooms/{room}", "error_type": "RuntimeError"}
    assert value(registry, name, **labels) == 1
    (line,) = lines.access
    assert line["error.type"] == "RuntimeError"
    assert value(registry, "tocsin_websocket_active", http_route="/rooms/{room}") == 0


@pytest.mark.parametrize(("path", "route"), [("/private", "/private"), ("/nowhere", "")])
async def test_a_refused_handshake_is_counted_as_rejected(
    path: str, route: str, serve: Any, registry: CollectorRegistry, lines: Capture
) -> None:
    """It was never open; a path without a route is the empty one."""
    url = serve(tocsin.instrument(shop(), registry=registry, log_stream=lines)).replace("http", "ws")
    with pytest.raises(InvalidStatus):
        await connect(f"{url}{path}")
    await until(registry, DONE, 1, http_route=route, close_code="rejected")
    assert value(registry, "tocsin_websocket_active", http_route=route) in (None, 0)
    (line,) = lines.access
    assert line["http.response.status_code"] == 403


async def test_a_connection_that_breaks_is_no_exception(
    serve: Any, registry: CollectorRegistry, lines: Capture
) -> None:
    """A client that vanishes without a closing handshake ends with no code, in the log at level info."""
    url = serve(tocsin.instrument(shop(), registry=registry, log_stream=lines)).replace("http", "ws")
    socket = await connect(f"{url}/patient")
    socket.transport.abort()
    # uvicorn says "no code was received" (1005) of a connection that just ends; the protocol would have it 1006.
    await until(registry, DONE, 1, http_route="/patient", close_code="1005")
    (line,) = lines.access
    assert line["log.level"] == "info"
    assert "error.type" not in line


async def nothing(*_: Any) -> dict[str, Any]:
    return {}


async def test_excluded_paths_are_not_watched(registry: CollectorRegistry, lines: Capture) -> None:
    """`exclude` means WebSockets too."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    layer: Any = tocsin.instrument(app, registry=registry, log_stream=lines, exclude=("/live", "/internal/*"))
    for path in ("/live", "/internal/x", "/internals"):
        await layer({"type": "websocket", "path": path, "headers": []}, nothing, nothing)
    assert [line["url.path"] for line in lines.access] == ["/internals"]


async def test_the_line_has_what_was_bound(registry: CollectorRegistry, lines: Capture) -> None:
    """As that of a request does; and nothing of it stays behind."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        structlog.contextvars.bind_contextvars(user="ann")
        await send({"type": "websocket.accept"})

    layer: Any = tocsin.instrument(app, registry=registry, log_stream=lines)
    await layer({"type": "websocket", "path": "/", "headers": []}, nothing, nothing)
    assert lines.access[0]["user"] == "ann"
    assert structlog.contextvars.get_contextvars() == {}
