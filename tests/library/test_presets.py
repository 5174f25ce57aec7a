"""Migration: the same requests, counted by the library that is left and by ours under its names, give the same page."""

from __future__ import annotations

import http.client
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from prometheus_client import REGISTRY, CollectorRegistry, values
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette_exporter import PrometheusMiddleware

import tocsin
from tocsin.metrics import presets
from tocsin.metrics.families import families_of
from tocsin.metrics.http import http_metrics
from tocsin.names import Metric
from tocsin.request import Facts

INSTRUMENTATOR = (
    presets.REQUESTS,
    presets.REQUEST_SIZE,
    presets.RESPONSE_SIZE,
    presets.DURATION_HIGHR,
    presets.DURATION_LOWR,
)
STARLETTE_EXPORTER = (presets.STARLETTE_REQUESTS, presets.STARLETTE_DURATION, presets.STARLETTE_ACTIVE)

REQUESTS = (
    ("GET", "/items/1"),
    ("GET", "/items/2"),
    ("HEAD", "/items/2"),
    ("POST", "/items", b"x" * 100),
    ("DELETE", "/items"),  # not allowed
    ("GET", "/refused"),
    ("GET", "/broken"),
    ("GET", "/nowhere/1"),
    ("GET", "/nowhere/2"),
    ("GET", "/api/orders/7"),
    ("GET", "/shop/things/7"),
    ("GET", "/shop/nowhere"),
    ("GET", "/stream"),
)
Page = dict[tuple[str, tuple[tuple[str, str], ...]], float | None]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is not one of several workers, whatever another test made of it."""
    monkeypatch.setenv("TOCSIN_WORKERS", "off")
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)


def application() -> FastAPI:
    """Return an application with all kinds of routes."""
    app, router, mounted = FastAPI(openapi_url=None), APIRouter(prefix="/orders"), FastAPI(openapi_url=None)

    @app.api_route("/items/{item}", methods=["GET", "HEAD"])
    def item(item: int) -> str:
        return "x" * item

    @app.post("/items")
    def make() -> str:
        return "made"

    @app.get("/refused")
    def refused() -> None:
        raise HTTPException(404)

    @app.get("/broken")
    def broken() -> None:
        raise ValueError("broken")

    @app.get("/stream")
    def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"part"

        return StreamingResponse(parts())

    @router.get("/{order}")
    def order(order: int) -> str:
        return "an order"

    @mounted.get("/things/{thing}")
    def thing(thing: int) -> PlainTextResponse:
        return PlainTextResponse("a thing")

    app.include_router(router, prefix="/api")
    app.mount("/shop", mounted)
    return app


def visit(url: str, registry: CollectorRegistry, total: str, count: int) -> None:
    """Send all requests, and wait until so many are counted: the client has its answer a moment before."""
    host = url.removeprefix("http://")
    for method, path, *body in REQUESTS:
        with closing(http.client.HTTPConnection(host, timeout=20)) as connection:
            connection.request(method, path, body=body[0] if body else None)
            connection.getresponse().read()
    counted = 0.0
    deadline = time.monotonic() + 20
    while counted < count:
        assert time.monotonic() < deadline, f"{counted} of {count} requests were counted"
        samples = [sample for family in registry.collect() for sample in family.samples]
        counted = sum(sample.value for sample in samples if sample.name == total)
        counted -= sum(sample.value for sample in samples if sample.name == "starlette_requests_in_progress")


def page_of(registry: CollectorRegistry, expected: tuple[Metric, ...]) -> Page:
    """Return the samples of these families by name and labels; None for a number that depends on the clock."""
    stems = {metric.name.removesuffix("_total"): metric for metric in expected}
    found: Page = {}
    for family in registry.collect():
        for sample in family.samples if family.name in stems else ():
            timed = "duration" in sample.name and (
                sample.name.endswith("_sum") or sample.labels.get("le", "+Inf") != "+Inf"
            )
            if not sample.name.endswith("_created"):
                found[sample.name, tuple(sorted(sample.labels.items()))] = None if timed else sample.value
    return found


@pytest.fixture
def clean() -> Iterator[None]:
    """starlette_exporter keeps its metrics in the registry of the process."""
    yield
    for metric in PrometheusMiddleware._metrics.values():
        REGISTRY.unregister(metric)
    PrometheusMiddleware._metrics.clear()


def test_the_page_is_that_of_the_instrumentator(registry: CollectorRegistry, serve: Callable[..., str]) -> None:
    """Its five families with the same labels, buckets and counts; more is seen only of sizes.

    It takes `Content-Length` for the size of an answer: nothing for a stream. And it does not see the answer of the
    framework's own error middleware, which is outside of it.
    """
    theirs = CollectorRegistry()
    app = application()
    Instrumentator(registry=theirs).instrument(app)
    ours = tocsin.instrument(application(), names="instrumentator", registry=registry, logs=False, traces=False)
    visit(serve(app), theirs, "http_requests_total", len(REQUESTS))
    visit(serve(ours), registry, "http_requests_total", len(REQUESTS))
    found, expected = page_of(registry, INSTRUMENTATOR), page_of(theirs, INSTRUMENTATOR)
    size = "http_response_size_bytes_sum"
    for handler, seen in (("/stream", len("part") * 3), ("/broken", len("Internal Server Error"))):
        key = (size, (("handler", handler),))
        assert (expected.pop(key), found.pop(key)) == (0, seen)
    assert found == expected
    assert found["http_requests_total", (("handler", "none"), ("method", "GET"), ("status", "4xx"))] == 3


def test_the_page_is_that_of_starlette_exporter(
    registry: CollectorRegistry, serve: Callable[..., str], clean: None
) -> None:
    """Its three families with the same labels, buckets and counts; what no route matched is left out there as well.

    So is there a method that a route does not allow; ours counts that.
    """
    app = application()
    app.add_middleware(PrometheusMiddleware)
    ours = tocsin.instrument(application(), names="starlette_exporter", registry=registry, logs=False, traces=False)
    visit(serve(app), REGISTRY, "starlette_requests_total", len(REQUESTS) - 4)
    visit(serve(ours), registry, "starlette_requests_total", len(REQUESTS) - 3)
    found, expected = page_of(registry, STARLETTE_EXPORTER), page_of(REGISTRY, STARLETTE_EXPORTER)
    refused = {key: value for key, value in found.items() if ("status_code", "405") in key[1]}
    assert {key: value for key, value in found.items() if key not in refused} == expected
    assert {labels for name, labels in refused if name == "starlette_requests_total"} == {
        (("app_name", "starlette"), ("method", "DELETE"), ("path", "/items"), ("status_code", "405"))
    }
    assert not any("nowhere" in str(labels) for _, labels in found)
    assert found["starlette_requests_in_progress", (("app_name", "starlette"), ("method", "GET"))] == 0


def facts(**changed: Any) -> Facts:
    return Facts("GET", "/a", "/a", 200, 0.3, 1.7e9, None, None)._replace(**changed)


@pytest.mark.parametrize("style", ["instrumentator", "starlette_exporter"])
def test_presets_take_labels_and_buckets(style: str, registry: CollectorRegistry) -> None:
    """Added labels are on what is told apart by route; buckets are those of its histogram."""
    counter = http_metrics(families_of(registry), style, (0.2, 0.4), ("tenant",))
    counter.started("GET")
    counter.ended(facts(labels=("t",)))
    total, histogram = {
        "instrumentator": ("http_requests_total", "http_request_duration_seconds"),
        "starlette_exporter": ("starlette_requests_total", "starlette_request_duration_seconds"),
    }[style]
    samples = [sample for family in registry.collect() for sample in family.samples]
    assert [sample.labels["tenant"] for sample in samples if sample.name == total] == ["t"]
    buckets = {sample.labels["le"]: sample.value for sample in samples if sample.name == f"{histogram}_bucket"}
    assert buckets == {"0.2": 0, "0.4": 1, "+Inf": 1}


def test_an_application_has_its_name(registry: CollectorRegistry) -> None:
    """starlette_exporter's `app_name` is on every series."""
    counter = presets.StarletteExporter(families_of(registry), None, (), app_name="shop")
    counter.started("GET")
    counter.ended(facts())
    samples = [sample for family in registry.collect() for sample in family.samples]
    assert {sample.labels["app_name"] for sample in samples} == {"shop"}


def test_sizes_are_only_asked_for_where_they_are_shown(registry: CollectorRegistry) -> None:
    """They cost a look at each message."""
    families = families_of(registry)
    styles = ("otel", "instrumentator", "starlette_exporter")
    assert [http_metrics(families, style).sizes for style in styles] == [False, True, False]


def test_the_library_that_is_left_must_be_gone(registry: CollectorRegistry) -> None:
    """Two of one name cannot be on one page; the message says so."""
    app = application()
    Instrumentator(registry=registry).instrument(app)
    app.build_middleware_stack()
    with pytest.raises(ValueError, match="already has a metric named like http_requests_total"):
        tocsin.instrument(application(), names="instrumentator", registry=registry, logs=False)
