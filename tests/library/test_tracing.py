"""W3C trace context: what is believed, what is carried on, and whose ids win."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace as otel
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

import tocsin
from tocsin.testing import Capture, call
from tocsin.tracing.context import parse_traceparent, state_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"

_REFERENCE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (GOOD, (TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-00", (TRACE, SPAN, False)),
        (f"00-{TRACE}-{SPAN}-03", (TRACE, SPAN, True)),
        (f"01-{TRACE}-{SPAN}-01-what-comes-later", (TRACE, SPAN, True)),
        (f"cc-{TRACE}-{SPAN}-01", (TRACE, SPAN, True)),
    ],
)
def test_valid_headers_are_read(header: str, expected: tuple[str, str, bool]) -> None:
    """Version 00, and what is common to later versions."""
    assert parse_traceparent(header.encode()) == expected


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x",
        GOOD[:-1],
        f"{GOOD}-more",
        f"{GOOD} ",
        f"01-{TRACE}-{SPAN}-01.more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}0-01",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"{TRACE}-00-{SPAN}-01",
        "00-" + "a" * 70_000,
    ],
)
def test_bad_headers_are_ignored(header: str) -> None:
    """Whatever is not exactly a header of the standard is as good as none."""
    assert parse_traceparent(header.encode()) is None


_LONG = [f"k{number}={'v' * 50}" for number in range(20)]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ([], ""),
        (["a=1"], "a=1"),
        (["a=1", "b@c=2, ,d=3"], "a=1,b@c=2, ,d=3"),
        (["a=1,a=2"], ""),
        ([",".join(f"k{number}=v" for number in range(32))], ",".join(f"k{number}=v" for number in range(32))),
        ([",".join(f"k{number}=v" for number in range(33))], ""),
        (["a=1,b"], ""),
        (["A=1"], ""),
        ([",".join(_LONG)], ",".join(_LONG[:9])),
        ([f"a=1,big={'v' * 200},{','.join(_LONG[:8])}"], f"a=1,{','.join(_LONG[:8])}"),
        ([f"big={'v' * 600}"], ""),
        ([" " * 60_000 + "!"], ""),
    ],
)
def test_tracestate_is_kept_as_the_standard_says(sent: list[str], kept: str) -> None:
    """32 members, no name twice; of more than 512 characters, long members are left out first and then the last."""
    assert len(kept) <= 512
    assert state_of([(b"tracestate", each.encode()) for each in sent]) == kept


@given(st.one_of(st.binary(max_size=70), st.text("0123456789abcdef-g", min_size=50, max_size=60).map(str.encode)))
def test_any_bytes_are_read_as_the_standard_says(header: bytes) -> None:
    """Never an exception; a result only for what the standard's grammar allows."""
    found = parse_traceparent(header)
    text = header.decode("latin-1")
    matches = _REFERENCE.match(text) is not None and (len(text) == 55 or (text[:2] != "00" and text[55] == "-"))
    assert (found is not None) == matches


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255))
def test_what_is_written_is_read_back(trace: int, span: int, flags: int) -> None:
    """All ids and flags survive."""
    header = f"00-{trace:032x}-{span:016x}-{flags:02x}".encode()
    assert parse_traceparent(header) == (f"{trace:032x}", f"{span:016x}", bool(flags & 1))


def outgoing() -> FastAPI:
    """An application that answers with the headers it would call others with, and logs two ways."""
    app = FastAPI()
    log = tocsin.get_logger("shop")

    @app.get("/headers")
    async def headers() -> dict[str, str]:
        log.info("async")
        return tocsin.trace_headers()

    @app.get("/thread")
    def thread() -> dict[str, str]:
        log.info("thread")
        logging.getLogger("stdlib").warning("thread")
        return tocsin.trace_headers()

    return app


async def ask(app: Any, path: str, headers: dict[str, str] | None = None) -> dict[str, str]:
    answer = await call(app, path, headers=headers)
    found: dict[str, str] = httpx.Response(200, content=answer.body).json()
    return found


async def test_a_trace_is_carried_on(registry: CollectorRegistry, lines: Capture) -> None:
    """Same trace, a span of our own, the caller's flags and state; the access line says the same."""
    app = tocsin.instrument(outgoing(), registry=registry, log_stream=lines)
    got = await ask(app, "/headers", {"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "a=1,b=2"})
    version, trace_id, span_id, flags = got["traceparent"].split("-")
    assert (version, trace_id, flags, got["tracestate"]) == ("00", TRACE, "00", "a=1,b=2")
    assert span_id != SPAN
    (access,) = lines.access
    assert (access["trace.id"], access["trace_id"], access["span.id"]) == (TRACE, TRACE, span_id)


async def test_without_a_header_a_trace_begins(registry: CollectorRegistry, lines: Capture) -> None:
    """Every request has an id of its own, and says it is recorded, as OpenTelemetry's default sampler would."""
    app = tocsin.instrument(outgoing(), registry=registry, log_stream=lines)
    first, second = [(await ask(app, "/headers"))["traceparent"] for _ in range(2)]
    assert parse_traceparent(first.encode()) is not None
    assert first.endswith("-01")
    assert first.split("-")[1] != second.split("-")[1]


async def test_two_traceparents_are_none(registry: CollectorRegistry, lines: Capture) -> None:
    """The standard says: more than one is not valid."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["headers"].update(tocsin.trace_headers())

    instrumented: Any = tocsin.instrument(app, registry=registry, log_stream=lines)
    state: dict[str, Any] = {"headers": {}}
    header = (b"traceparent", GOOD.encode())

    async def nothing(*_: Any) -> dict[str, Any]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "path": "/", "method": "GET", "headers": [header, header], "state": state}
    await instrumented(scope, nothing, nothing)
    assert TRACE not in state["headers"]["traceparent"]


def test_outside_of_a_request_there_are_no_headers() -> None:
    """Nothing to carry on, nothing made up."""
    assert tocsin.trace_headers() == {}


async def test_threads_of_the_pool_belong_to_the_trace(registry: CollectorRegistry, lines: Capture) -> None:
    """A plain `def` handler runs in a thread: its structlog and standard library lines have the request's ids."""
    app = tocsin.instrument(outgoing(), registry=registry, log_stream=lines)
    logger = logging.getLogger("stdlib")
    handler = tocsin.stdlib_handler()
    logger.addHandler(handler)
    try:
        got = await ask(app, "/thread", {"traceparent": GOOD})
    finally:
        logger.removeHandler(handler)
    assert TRACE in got["traceparent"]
    assert [(line["log.logger"], line["trace.id"]) for line in lines.application] == [
        ("shop", TRACE),
        ("stdlib", TRACE),
    ]


async def test_concurrent_requests_keep_their_ids(registry: CollectorRegistry, lines: Capture) -> None:
    """Fifty at once: each sees its own trace."""
    app = tocsin.instrument(outgoing(), registry=registry, log_stream=lines)
    ids = [f"{n:032x}" for n in range(1, 51)]
    got = await asyncio.gather(
        *(ask(app, "/thread" if n % 2 else "/headers", {"traceparent": f"00-{i}-{SPAN}-01"}) for n, i in enumerate(ids))
    )
    assert [headers["traceparent"].split("-")[1] for headers in got] == ids


async def test_traces_can_be_off(registry: CollectorRegistry, lines: Capture) -> None:
    """`traces=False`: no ids in lines or headers."""
    app = tocsin.instrument(outgoing(), registry=registry, log_stream=lines, traces=False)
    assert await ask(app, "/headers", {"traceparent": GOOD}) == {}
    assert all("trace.id" not in line for line in lines.events)


# --- with OpenTelemetry -------------------------------------------------------------------------------------------


@pytest.fixture
def spans() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


def _server_ids(exporter: InMemorySpanExporter) -> tuple[str, str]:
    (span,) = [span for span in exporter.get_finished_spans() if span.kind is otel.SpanKind.SERVER]
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


@pytest.mark.parametrize("header", [{}, {"traceparent": GOOD}], ids=["root", "continued"])
async def test_fastapis_own_spans_give_the_ids(
    header: dict[str, str],
    spans: tuple[TracerProvider, InMemorySpanExporter],
    registry: CollectorRegistry,
    lines: Capture,
) -> None:
    """Where FastAPI traces by itself, lines and headers have its ids, and there is one server span."""
    provider, exporter = spans
    app = FastAPI(telemetry={"tracer_provider": provider, "operation_spans": False, "auto_configure": False})
    app.router.routes.extend(outgoing().router.routes)
    tocsin.instrument(app, registry=registry, log_stream=lines)
    got = await ask(app, "/headers", header)
    trace_id, span_id = _server_ids(exporter)
    assert got["traceparent"] == f"00-{trace_id}-{span_id}-01"
    for line in lines.events:
        assert (line["trace.id"], line["span.id"]) == (trace_id, span_id)


@pytest.mark.parametrize("first", ["tocsin", "opentelemetry"])
async def test_contrib_instrumentation_gives_the_ids(
    first: str, spans: tuple[TracerProvider, InMemorySpanExporter], registry: CollectorRegistry, lines: Capture
) -> None:
    """Before or after ours, the OpenTelemetry instrumentation of FastAPI works, and its ids are in our lines."""
    provider, exporter = spans
    app = outgoing()
    if first == "tocsin":
        tocsin.instrument(app, registry=registry, log_stream=lines)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    tocsin.instrument(app, registry=registry, log_stream=lines)
    try:
        got = await ask(app, "/headers")
    finally:
        FastAPIInstrumentor.uninstrument_app(app)
    trace_id, span_id = _server_ids(exporter)
    assert got["traceparent"].split("-")[1] == trace_id
    assert len(lines.access) == 1
    for line in lines.events:
        assert (line["trace.id"], line["span.id"]) == (trace_id, span_id)


async def test_a_span_of_the_application_is_the_parent_of_what_it_calls(
    spans: tuple[TracerProvider, InMemorySpanExporter], registry: CollectorRegistry, lines: Capture
) -> None:
    """Inside of a span, lines and headers name that span."""
    tracer = spans[0].get_tracer("app")
    app = FastAPI()

    @app.get("/")
    async def handler() -> dict[str, str]:
        with tracer.start_as_current_span("work") as span:
            tocsin.get_logger().info("working")
            return {**tocsin.trace_headers(), "span": f"{span.get_span_context().span_id:016x}"}

    got = await ask(tocsin.instrument(app, registry=registry, log_stream=lines), "/")
    assert got["traceparent"].split("-")[2] == got["span"]
    assert lines.application[0]["span.id"] == got["span"]
