"""Before every endpoint: limits on requests, and what is counted of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tocsin_alerting.front import Front, handler
from tocsin_alerting.options import Options
from tocsin_service.testing import serving


class Slow:
    """An app whose answers wait until they may go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.waiting = 0
        self.arrived = asyncio.Event()

    async def answer(self, _: Request) -> Response:
        self.waiting += 1
        self.arrived.set()
        try:
            await self.go.wait()
        finally:
            self.waiting -= 1
        return PlainTextResponse("x" * 5000)

    async def at_once(self, _: Request) -> Response:
        return PlainTextResponse("OK")


@contextlib.asynccontextmanager
async def fronted(slow: Slow, registry: CollectorRegistry, options: Options) -> AsyncIterator[httpx.AsyncClient]:
    routes = [
        Route("/api/v2/alerts", slow.answer, methods=["GET", "POST"]),
        Route("/-/healthy", slow.at_once),
        Route("/metrics", slow.at_once),
    ]
    async with (
        serving(Front(Starlette(routes=routes), options, registry)) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        yield client


async def test_more_gets_than_the_limit_are_answered_503() -> None:
    """Posts are not, and whoever asks for health or metrics wants to know how bad it is."""
    slow, registry = Slow(), CollectorRegistry()
    async with fronted(slow, registry, Options(get_concurrency=1)) as client:
        first = asyncio.create_task(client.get("/api/v2/alerts"))
        await slow.arrived.wait()
        assert registry.get_sample_value("alertmanager_http_requests_in_flight", {"method": "get"}) == 1
        refused = await client.get("/api/v2/alerts")
        assert (refused.status_code, refused.headers["content-type"]) == (503, "text/plain; charset=utf-8")
        assert refused.text == "1 GET requests are being answered already, which is the limit; try again later.\n"
        for path in ("/-/healthy", "/metrics"):
            assert (await client.get(path)).text == "OK"
        slow.go.set()
        assert (await first).status_code == 200
        assert (await client.get("/api/v2/alerts")).status_code == 200
    limited = registry.get_sample_value("alertmanager_http_concurrency_limit_exceeded_total", {"method": "get"})
    assert limited == 1


async def test_a_request_that_takes_longer_than_the_limit_is_answered_503() -> None:
    """What it was doing is ended."""
    slow = Slow()
    async with fronted(slow, CollectorRegistry(), Options(web_timeout=0.05)) as client:
        for method in ("GET", "POST"):
            answer = await client.request(method, "/api/v2/alerts")
            assert (answer.status_code, answer.text) == (503, "Exceeded configured timeout of 0.05s.\n")
        assert slow.waiting == 0


async def test_requests_are_counted_by_handler_method_and_code() -> None:
    """With the size of their answers; a prefix does not show."""
    slow, registry = Slow(), CollectorRegistry()
    slow.go.set()
    async with fronted(slow, registry, Options()) as client:
        await client.get("/api/v2/alerts")
        await client.get("/api/v2/whatever/123")
        await client.delete("/api/v2/alerts")
    seconds = "alertmanager_http_request_duration_seconds_count"
    alerts = {"handler": "/api/v2/alerts", "method": "get"}
    assert registry.get_sample_value(seconds, alerts | {"code": "200"}) == 1
    assert registry.get_sample_value(seconds, {"handler": "other", "method": "get", "code": "404"}) == 1
    assert registry.get_sample_value(seconds, alerts | {"method": "delete", "code": "405"}) == 1
    assert registry.get_sample_value("alertmanager_http_response_size_bytes_sum", alerts) == 5000


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/v2/alerts/groups", "/api/v2/alerts/groups"),
        ("/api/v2/silence/0f1d7b1c", "/api/v2/silence/{silenceID}"),
        ("/api/v1/alerts/d258efc389808447/explain", "/api/v1/alerts/{fingerprint}"),
        ("/-/profile", "/-/"),
        ("/wp-login.php", "other"),
    ],
)
def test_a_path_is_counted_under_a_name_of_a_few(path: str, name: str) -> None:
    """Anybody may ask for any path."""
    assert handler(path) == name
