"""Against a real uvicorn, with both of its HTTP parsers."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import structlog
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from prometheus_client import CollectorRegistry

import tocsin
from tocsin.testing import Capture, active, counted, dropped

PARSERS = pytest.mark.parametrize("http", ["h11", "httptools"])


def shop() -> FastAPI:
    app = FastAPI()
    log = tocsin.get_logger()

    @app.get("/items/{item}")
    async def item(item: int) -> dict[str, str]:
        log.info("handler")
        return tocsin.trace_headers()

    @app.get("/thread")
    def thread() -> None:
        structlog.contextvars.bind_contextvars(leak="me")
        log.info("thread")

    @app.get("/bind")
    async def bind() -> None:
        structlog.contextvars.bind_contextvars(leak="me")

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("boom")

    @app.post("/body")
    async def body(request: Request) -> int:
        return len(await request.body())

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 1_000
                await asyncio.sleep(0.005)

        return StreamingResponse(body())

    return app


def until(condition: Callable[[], bool]) -> None:
    """Wait for what the server does after the client has its answer."""
    limit = threading.Event()
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "did not happen within 10 s"
        limit.wait(0.005)


def raw(url: str, request: bytes, *, read: int = 1 << 20) -> bytes:
    """Send bytes as they are; return what comes until the server closes or `read` bytes are there."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(request)
        found = b""
        while len(found) < read and (chunk := connection.recv(65_536)):
            found += chunk
        return found


@PARSERS
def test_the_whole_way(http: str, serve: Any, registry: CollectorRegistry, lines: Capture) -> None:
    """Answers are unchanged, each request is counted and logged once with its exception, uvicorn is silent."""
    app = tocsin.instrument(shop(), service_name="shop", registry=registry, log_stream=lines)
    url = serve(app, http=http)
    with httpx.Client(base_url=url) as client:
        carried = client.get("/items/1", headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
        assert carried.json()["traceparent"].startswith(f"00-{'a' * 32}-")
        assert client.get("/thread").status_code == 200
        assert client.get("/nothing?token=SECRET").status_code == 404
        assert client.get("/boom").status_code == 500
        page = client.get("/metrics")
    assert 'http_route="/items/{item}"' in page.text
    until(lambda: len(lines.access) == 4)
    assert counted(registry) == {
        ("GET", "/items/{item}", "200"): 1,
        ("GET", "/thread", "200"): 1,
        ("GET", "", "404"): 1,
        ("GET", "/boom", "500"): 1,
    }
    assert active(registry) == 0
    assert dropped(registry) == {}
    assert [line["client.ip"] for line in lines.access] == ["127.0.0.1"] * 4
    handler = next(line for line in lines.application if line["message"] == "handler")
    assert handler["trace.id"] == "a" * 32
    assert not any(line.get("log.logger") == "uvicorn.access" for line in lines.events)
    assert [line.get("http.route") for line in lines.events if "error.type" in line] == ["/boom"]
    assert "SECRET" not in lines.getvalue().decode()


@PARSERS
def test_a_client_that_hangs_up(http: str, serve: Any, registry: CollectorRegistry, lines: Capture) -> None:
    """A stream whose client is gone ends, is counted as 499, and leaves nothing in flight."""
    url = serve(tocsin.instrument(shop(), registry=registry, log_stream=lines), http=http)
    raw(url, b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n", read=5_000)
    until(lambda: bool(counted(registry)))
    assert counted(registry) == {("GET", "/endless", "499"): 1}
    assert active(registry) == 0


@PARSERS
def test_half_a_body_is_one_line_and_no_failure(
    http: str, serve: Any, registry: CollectorRegistry, lines: Capture
) -> None:
    """The framework raises when the client goes away; neither we nor the server tell that with a stack."""
    url = serve(tocsin.instrument(shop(), registry=registry, log_stream=lines), http=http)
    raw(url, b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc", read=0)
    until(lambda: bool(counted(registry)))
    assert counted(registry) == {("POST", "/body", "499"): 1}
    until(lambda: bool(lines.access))
    assert [line["log.level"] for line in lines.access] == ["info"]
    assert not [line for line in lines.events if "error.type" in line]


@PARSERS
def test_pipelined_requests_share_no_variables(
    http: str, serve: Any, registry: CollectorRegistry, lines: Capture
) -> None:
    """The server makes the next request's task from inside the one before; what that one bound stays behind."""
    url = serve(tocsin.instrument(shop(), registry=registry, log_stream=lines), http=http)
    request = "GET {} HTTP/1.1\r\nHost: x\r\n{}\r\n"
    raw(
        url,
        "".join(
            (
                request.format("/bind", ""),
                request.format("/items/1", ""),
                request.format("/items/2", "Connection: close\r\n"),
            )
        ).encode(),
    )
    until(lambda: len(lines.access) == 3)
    assert lines.access[0]["leak"] == "me"
    assert all("leak" not in line for line in lines.events if line["message"] != "GET /bind 200")
    assert len({line["trace.id"] for line in lines.access}) == 3


@PARSERS
def test_an_application_without_a_framework(http: str, serve: Any, registry: CollectorRegistry, lines: Capture) -> None:
    """A wrapped callable is an ASGI application to the server: lifespan, answers, the page."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await PlainTextResponse("ok")(scope, receive, send)
        else:
            assert (await receive())["type"] == "lifespan.startup"
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            await send({"type": "lifespan.shutdown.complete"})

    url = serve(tocsin.instrument(app, registry=registry, log_stream=lines), http=http, lifespan="on")
    assert httpx.get(url).text == "ok"
    assert "http_server_request_duration_seconds_count" in httpx.get(f"{url}/metrics").text
    until(lambda: len(lines.access) == 1)
    assert counted(registry) == {("GET", "", "200"): 1}


def test_made_up_methods_share_one_label(serve: Any, registry: CollectorRegistry, lines: Capture) -> None:
    """h11 lets any method through to the application (httptools refuses it)."""
    url = serve(tocsin.instrument(shop(), registry=registry, log_stream=lines), http="h11")
    answer = raw(url, b"BREW /items/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 405")
    until(lambda: bool(lines.access))
    assert counted(registry) == {("_OTHER", "/items/{item}", "405"): 1}


APPLICATION = """
import logging
import tocsin
from fastapi import FastAPI

app = FastAPI()
tocsin.instrument(app, service_name="shop")
log = tocsin.get_logger("shop")

@app.get("/items/{item}")
def item(item: int) -> int:
    log.info("structlog")
    logging.getLogger("lib").warning("stdlib")
    return item

@app.get("/boom")
def boom() -> None:
    raise RuntimeError("boom")
"""


def test_as_a_process_of_its_own(tmp_path: Path) -> None:
    """`uvicorn shop:app`: every line on stdout is JSON of one schema, uvicorn's own included, correlated."""
    (tmp_path / "shop.py").write_text(APPLICATION)
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "shop:app", "--port", "0", "--log-level", "info"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    seen: list[str] = []
    try:
        for line in process.stdout:
            seen.append(line)
            if "running on" in line:
                break
        url = next(json.loads(line)["message"] for line in seen if "running on" in line).split()[3]
        with httpx.Client(base_url=url) as client:
            assert client.get("/items/1").status_code == 200
            assert client.get("/boom").status_code == 500
    finally:
        process.terminate()
        rest, _ = process.communicate(timeout=20)
    events = [json.loads(line) for line in [*seen, *rest.splitlines()] if line.startswith("{")]
    plain = [line for line in [*seen, *rest.splitlines()] if line and not line.startswith("{")]
    # What uvicorn writes before it starts the application, it writes in its own way.
    assert all("Started server process" in line or "Waiting for application startup" in line for line in plain)
    access = [event for event in events if event.get("event.dataset") == "shop.access"]
    assert [(event["http.route"], event["http.response.status_code"]) for event in access] == [
        ("/items/{item}", 200),
        ("/boom", 500),
    ]
    inside = {event["message"]: event["trace.id"] for event in events if event["message"] in ("structlog", "stdlib")}
    assert inside == {"structlog": access[0]["trace.id"], "stdlib": access[0]["trace.id"]}
    assert {event["service.name"] for event in events} == {"shop"}
