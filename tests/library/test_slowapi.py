"""Rejections of slowapi's limits are counted by route template and policy; the limiter behaves as before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.middleware import SlowAPIASGIMiddleware, SlowAPIMiddleware
from slowapi.util import get_remote_address

import tocsin
from tocsin.integrations.slowapi import instrument, uninstrument
from tocsin.names import RATELIMIT_REJECTED
from tocsin.testing import Capture, call

Serve = Callable[..., str]


def rejected(registry: CollectorRegistry) -> dict[tuple[str, str], int]:
    return {
        (sample.labels["http_route"], sample.labels["policy"]): int(sample.value)
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == RATELIMIT_REJECTED.name
    }


def shop(limiter: Limiter, *, prefix: str = "") -> FastAPI:
    app = FastAPI()
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]  # as documented
    router = APIRouter(prefix=prefix)

    @router.get("/items/{item}")
    @limiter.limit("2/minute", key_func=lambda: "everybody")
    async def item(request: Request, item: int) -> PlainTextResponse:
        return PlainTextResponse(str(item))

    @router.get("/search")
    @limiter.shared_limit("1/hour", scope="search")
    def search(request: Request) -> PlainTextResponse:
        return PlainTextResponse("found")

    app.include_router(router)

    @app.get("/free/{what}")
    async def free(what: str) -> PlainTextResponse:
        return PlainTextResponse(what)

    return app


def test_rejections_through_a_real_server(serve: Serve, registry: CollectorRegistry, lines: Capture) -> None:
    """The application answers 429 with slowapi's own body and headers; each rejection is counted with its template."""
    limiter = Limiter(key_func=get_remote_address, headers_enabled=True)
    app = shop(limiter, prefix="/v1")
    tocsin.instrument(app, registry=registry, log_stream=lines)
    instrument(limiter)
    url = serve(app)
    with httpx.Client(base_url=url) as client:
        answers = [client.get(f"/v1/items/{number}") for number in range(2)]
        answers += [client.get("/v1/items/0"), client.get("/v1/items/0"), client.get("/v1/items/0")]
        searches = [client.get("/v1/search") for _ in range(2)]
        assert client.get("/free/air").status_code == 200
    tocsin.uninstrument(app)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.status_code for answer in searches] == [200, 429]
    assert answers[-1].json() == {"error": "Rate limit exceeded: 2 per 1 minute"}
    assert answers[-1].headers["x-ratelimit-remaining"] == "0"
    assert rejected(registry) == {("/v1/items/{item}", "2 per 1 minute"): 2, ("/v1/search", "search: 1 per 1 hour"): 1}


@pytest.mark.parametrize("middleware", [SlowAPIMiddleware, SlowAPIASGIMiddleware])
async def test_limits_of_the_whole_application_are_counted(registry: CollectorRegistry, middleware: Any) -> None:
    """A middleware rejects before routing; the route is known all the same."""
    limiter = Limiter(key_func=get_remote_address, default_limits=["1/minute"], application_limits=["3/minute"])
    app = shop(limiter)
    app.add_middleware(middleware)
    instrument(app, registry)
    statuses = [(await call(app, "/free/air")).status for _ in range(4)]
    assert statuses == [200, 429, 429, 429]
    assert rejected(registry) == {("/free/{what}", "1 per 1 minute"): 2, ("/free/{what}", "global: 3 per 1 minute"): 1}


async def test_a_mounted_application_has_its_prefix(registry: CollectorRegistry) -> None:
    """The template is the whole one when the outer application is given."""
    limiter = Limiter(key_func=get_remote_address)
    outer = FastAPI()
    outer.state.limiter = limiter
    outer.mount("/api", shop(limiter))
    instrument(outer, registry)
    for _ in range(2):
        await call(outer, "/api/search")
    assert rejected(registry) == {("/api/search", "search: 1 per 1 hour"): 1}


async def test_a_storage_that_is_down_is_counted_once(registry: CollectorRegistry) -> None:
    """slowapi asks itself again when it falls back to memory: that is one rejection, and it falls back as before."""
    limiter = Limiter(
        key_func=get_remote_address,
        in_memory_fallback=["1/minute"],
    )
    app = shop(limiter)

    def down(*_: Any, **__: Any) -> bool:
        raise ConnectionError("storage is down")

    limiter._limiter.hit = down  # a storage that fails, not slowapi itself
    instrument(limiter, registry)
    statuses = [(await call(app, "/items/1")).status for _ in range(2)]
    assert statuses == [200, 429]
    assert rejected(registry) == {("/items/{item}", "1 per 1 minute"): 1}


async def test_an_own_handler_answers_as_before(registry: CollectorRegistry) -> None:
    """The very exception reaches it."""
    limiter = Limiter(key_func=get_remote_address)
    app = shop(limiter)
    seen: list[RateLimitExceeded] = []

    async def handler(_request: Request, error: RateLimitExceeded) -> PlainTextResponse:
        seen.append(error)
        return PlainTextResponse("slow down", status_code=503)

    app.add_exception_handler(RateLimitExceeded, handler)  # type: ignore[arg-type]  # as documented
    instrument(app, registry)
    await call(app, "/search")
    answer = await call(app, "/search")
    assert (answer.status, answer.body) == (503, b"slow down")
    assert seen[0].detail == "1 per 1 hour"
    assert rejected(registry) == {("/search", "search: 1 per 1 hour"): 1}


async def test_instrumenting_twice_counts_once_and_uninstrument_undoes_it(registry: CollectorRegistry) -> None:
    """The limiter is as it was found."""
    limiter = Limiter(key_func=get_remote_address)
    before = dict(vars(limiter))
    app = shop(limiter)
    instrument(limiter, CollectorRegistry())
    instrument(app, registry)
    await call(app, "/search")
    await call(app, "/search")
    assert sum(rejected(registry).values()) == 1
    uninstrument(app)
    uninstrument(app)
    assert vars(limiter).keys() == before.keys()
    assert (await call(app, "/search")).status == 429
    assert sum(rejected(registry).values()) == 1


def test_what_has_no_limiter_is_refused() -> None:
    """The message says what to do."""
    with pytest.raises(TypeError, match=r"Set app\.state\.limiter first"):
        instrument(FastAPI())
