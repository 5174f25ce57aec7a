"""What the library promises about traces, point by point: real servers that call each other, and a real collector."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import httpx
import pytest
import sqlalchemy
from fastapi import BackgroundTasks, FastAPI, Request
from opentelemetry import baggage
from opentelemetry import trace as otel
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.util._once import Once
from prometheus_client import CollectorRegistry

import tocsin
from tocsin import lifecycle
from tocsin.testing import Capture
from tocsin.tracing.spans import span
from tocsin.tracing.testing import OtlpCollector, SeenSpan, reset_tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=1", "baggage": "tenant=blue"}
UNSAMPLED = {**SAMPLED, "traceparent": f"00-{TRACE}-{CALLER}-00"}

tracer = otel.get_tracer("shop", "2.0")


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpCollector]:
    """Spans of applications instrumented now are exported here."""
    monkeypatch.setattr(otel, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(otel, "_TRACER_PROVIDER_SET_ONCE", Once())
    with OtlpCollector() as listening:
        for name, value in listening.environ.items():
            monkeypatch.setenv(name, value)
        HTTPXClientInstrumentor().instrument()
        yield listening
        HTTPXClientInstrumentor().uninstrument()
        SQLAlchemyInstrumentor().uninstrument()
        reset_tracing()


class Town:
    """Two services: `shop` asks `stock`. Their spans, and the headers that `stock` was sent."""

    def __init__(self, collector: OtlpCollector, serve: Callable[..., str], lines: Capture) -> None:
        self.collector = collector
        self.sent: list[dict[str, str]] = []
        self.later = threading.Event()
        stock, shop = FastAPI(), FastAPI()

        @stock.get("/items/{item}")
        async def item(item: str, request: Request) -> str:
            self.sent.append(dict(request.headers))
            return item

        options: dict[str, Any] = {"log_stream": lines}
        stock_url = serve(tocsin.instrument(stock, service_name="stock", registry=CollectorRegistry(), **options))
        engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.pool.StaticPool)
        SQLAlchemyInstrumentor().instrument(engine=engine, skip_dep_check=True)

        @tracer.start_as_current_span("price")
        async def price() -> None:
            await asyncio.sleep(0)
            otel.get_current_span().set_attribute("currency", "eur")

        @shop.get("/async")
        async def asynchronous() -> None:
            await price()
            async with httpx.AsyncClient() as client:
                await client.get(f"{stock_url}/items/1")

        @shop.get("/sync")
        def synchronous() -> None:
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text("select 1"))
            with ThreadPoolExecutor(1) as pool:
                pool.submit(copy_context().run, httpx.get, f"{stock_url}/items/2").result()

        @shop.get("/later")
        async def background(tasks: BackgroundTasks) -> None:
            tasks.add_task(self._afterwards)

        @shop.get("/declined")
        async def declined() -> None:
            current = otel.get_current_span()
            for attempt in range(3):
                try:
                    raise ValueError(attempt)
                except ValueError as error:
                    current.record_exception(error)
            current.set_status(otel.StatusCode.ERROR, "card declined")
            raise TimeoutError

        self.url = serve(tocsin.instrument(shop, service_name="shop", registry=CollectorRegistry(), **options))

    def _afterwards(self) -> None:
        with span("receipt"):
            self.later.set()

    def ask(self, path: str, headers: dict[str, str]) -> httpx.Response:
        """Be a browser: no part of this process's traces."""
        from opentelemetry.instrumentation.utils import suppress_instrumentation  # noqa: PLC0415  # beside its use

        with suppress_instrumentation():
            return httpx.get(f"{self.url}{path}", headers=headers)

    def spans(self, count: int) -> dict[str, SeenSpan]:
        """All spans by service and name."""
        self.collector.wait_for(count)
        assert lifecycle.force_flush(20)
        assert len(self.collector.spans) == count
        return {f"{seen.resource['service.name']}: {seen.name}": seen for seen in self.collector.spans}


@pytest.fixture
def town(collector: OtlpCollector, serve: Callable[..., str], lines: Capture) -> Town:
    return Town(collector, serve, lines)


def test_a_trace_goes_through_both_services(town: Town) -> None:
    """In by its headers, through a decorated coroutine and an instrumented client, and out again, state and all."""
    assert town.ask("/async", SAMPLED).status_code == 200
    seen = town.spans(4)
    server, price = seen["shop: GET /async"], seen["shop: price"]
    client, remote = seen["shop: GET"], seen["stock: GET /items/{item}"]
    assert {each.trace_id for each in seen.values()} == {TRACE}
    assert {each.state for each in seen.values()} == {"vendor=1"}
    assert [each.kind for each in (server, price, client, remote)] == ["server", "internal", "client", "server"]
    assert [server.parent_id, price.parent_id, client.parent_id, remote.parent_id] == [
        *(CALLER, server.span_id, server.span_id, client.span_id),
    ]
    assert (price.scope, price.attributes) == ("shop", {"currency": "eur"})
    (sent,) = town.sent
    assert sent["traceparent"] == f"00-{TRACE}-{client.span_id}-01"
    assert (sent["tracestate"], sent["baggage"]) == ("vendor=1", "tenant=blue")


def test_threads_and_databases_have_the_right_parent(town: Town) -> None:
    """A handler in the server's thread pool, an instrumented engine, and a pool of its own that takes the context."""
    assert town.ask("/sync", SAMPLED).status_code == 200
    seen = town.spans(5)
    server = seen.pop("shop: GET /sync")
    remote = seen.pop("stock: GET /items/{item}")
    assert sorted(name.split()[1].lower() for name in seen) == ["connect", "get", "select"]
    assert {each.parent_id for each in seen.values()} == {server.span_id}
    assert remote.parent_id == seen["shop: GET"].span_id


def test_what_the_caller_does_not_record_is_carried_on_all_the_same(town: Town) -> None:
    """No span anywhere; ids, state and the decision reach the next service, through contrib's client too."""
    for path in ("/async", "/sync"):
        assert town.ask(path, UNSAMPLED).status_code == 200
    assert len(town.sent) == 2
    for sent in town.sent:
        version, trace_id, span_id, flags = sent["traceparent"].split("-")
        assert (version, trace_id, flags) == ("00", TRACE, "00")
        assert span_id != CALLER
        assert sent["baggage"] == "tenant=blue"
    assert lifecycle.force_flush(20)
    assert town.collector.spans == []


def test_work_after_the_answer_is_a_child_of_the_request(town: Town) -> None:
    """A background task: its span is exported too, and the request's does not wait for it."""
    town.ask("/later", SAMPLED)
    assert town.later.wait(20)
    seen = town.spans(2)
    assert seen["shop: receipt"].parent_id == seen["shop: GET /later"].span_id


def test_what_the_application_said_of_a_failure_stays(town: Town) -> None:
    """Each exception it recorded, the one that left it, and its own description."""
    assert town.ask("/declined", SAMPLED).status_code == 500
    seen = town.spans(1)["shop: GET /declined"]
    assert (seen.status, seen.message) == ("error", "card declined")
    assert [event.attributes["exception.type"] for event in seen.events] == ["ValueError"] * 3 + ["TimeoutError"]
    assert seen.attributes["error.type"] == "TimeoutError"


def test_a_collector_that_hangs_costs_a_request_nothing(town: Town) -> None:
    """Spans wait, requests do not: one that did would be given up by its client, for the collector never answers."""
    town.collector.gate.clear()
    town.ask("/later", SAMPLED)
    town.collector.wait_for_posts(1)
    for _ in range(5):
        assert town.ask("/later", SAMPLED).status_code == 200
    assert len(town.collector.posts) == 1
    town.collector.gate.set()
    town.collector.wait_for(12)


def test_nothing_of_a_request_is_left_for_the_next(town: Town) -> None:
    """With and without headers: each has the trace and baggage that it came with."""
    for headers in (SAMPLED, {}, UNSAMPLED, {}):
        town.ask("/async", headers)
    assert [sent.get("baggage") for sent in town.sent] == ["tenant=blue", None, "tenant=blue", None]
    traces = [sent["traceparent"].split("-")[1] for sent in town.sent]
    assert traces[0] == traces[2] == TRACE
    assert len(set(traces)) == 3
    assert baggage.get_all() == {}
