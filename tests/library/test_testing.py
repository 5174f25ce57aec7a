"""`tocsin.testing.recorded`: what applications' own tests see of what was counted, logged and traced."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask
from prometheus_client import REGISTRY

import tocsin
from tocsin.testing import call, counted, recorded
from tocsin.tracing.spans import span


def shop() -> FastAPI:
    app = FastAPI()

    @app.get("/items/{item}")
    async def read(item: int) -> None:
        tocsin.get_logger().info("item read", item=item)
        with span("load"):
            pass

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("boom")

    return app


async def test_all_three_signals_are_seen_and_point_at_each_other() -> None:
    """Requests, lines and spans of the block; nothing of it anywhere else."""
    before = counted(REGISTRY)
    with recorded(shop()) as seen:
        await call(seen.app, "/items/7")
        await call(seen.app, "/nowhere")
    assert seen.requests == {("GET", "/items/{item}", "200"): 1, ("GET", "", "404"): 1}
    assert [line["message"] for line in seen.lines.events] == ["item read", "GET /items/7 200", "GET /nowhere 404"]
    load, server, unmatched = seen.spans
    assert (load["name"], server["name"], unmatched["name"]) == ("load", "GET /items/{item}", "GET")
    assert load["parent_id"] == server["span_id"] == seen.lines.access[0]["span.id"]
    assert server["attributes"]["http.response.status_code"] == 200
    assert seen.value("http_server_active_requests", http_request_method="GET") == 0
    assert counted(REGISTRY) == before


async def test_an_exception_is_in_all_of_them() -> None:
    """Counted, told in the line, and an event of the span."""
    with recorded(shop()) as seen, pytest.raises(RuntimeError):
        await call(seen.app, "/boom")
    (server,) = seen.spans
    assert server["status"] == "error"
    assert [event["name"] for event in server["events"]] == ["exception"]
    assert seen.lines.access[0]["error.type"] == "RuntimeError"
    labels = {"http_request_method": "GET", "http_route": "/boom", "error_type": "RuntimeError"}
    assert seen.value("http_server_exceptions_total", **labels) == 1


@pytest.mark.parametrize("again", range(2))
async def test_each_block_begins_at_zero(again: int) -> None:
    """The application is as it was afterwards, and may be recorded again."""
    app = shop()
    for _ in range(2):
        with recorded(app) as seen:
            await call(app, "/items/7")
        assert sum(seen.requests.values()) == 1
        await call(app, "/items/8")
        assert sum(seen.requests.values()) == 1


def test_wsgi_applications_too() -> None:
    """The same, through the framework's own test client."""
    app = Flask(__name__)

    @app.get("/items/<int:item>")
    def read(item: int) -> str:
        return str(item)

    with recorded(app) as seen, app.test_client() as client, client.get("/items/7") as answer:
        assert answer.text == "7"
    assert seen.requests == {("GET", "/items/{item}", "200"): 1}
    assert [each["name"] for each in seen.spans] == ["GET /items/{item}"]


@pytest.mark.parametrize(("options", "spans", "lines"), [({"traces": False}, 0, 1), ({"logs": False}, 1, 0)])
async def test_options_are_those_of_instrument(options: dict[str, Any], spans: int, lines: int) -> None:
    """A signal that is off has nothing."""
    with recorded(shop(), **options) as seen:
        await call(seen.app, "/nowhere")
    assert (len(seen.spans), len(seen.lines.access)) == (spans, lines)


def test_an_application_that_is_instrumented_is_refused(registry: Any) -> None:
    """Its requests would be counted elsewhere."""
    app = tocsin.instrument(shop(), registry=registry, logs=False)
    with pytest.raises(ValueError, match="instrumented already"), recorded(app):
        raise AssertionError
