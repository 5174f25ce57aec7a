"""Whole applications: whoever traces them beside us, there is one server span a request, and everybody has its ids."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from opentelemetry import trace as otel
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.util._once import Once
from prometheus_client import CollectorRegistry

import tocsin
from tocsin import lifecycle
from tocsin.integrations import opentelemetry as coexistence
from tocsin.testing import Capture, call
from tocsin.tracing.testing import OtlpCollector, SeenSpan, reset_tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
CONTINUED = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


@pytest.fixture(autouse=True)
def no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API means its provider to be set once in a process; here, once in a test."""
    monkeypatch.setattr(otel, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(otel, "_TRACER_PROVIDER_SET_ONCE", Once())


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpCollector]:
    """Spans of applications instrumented now are exported here."""
    with OtlpCollector() as listening:
        for name, value in listening.environ.items():
            monkeypatch.setenv(name, value)
        yield listening
        reset_tracing()


class Theirs:
    """The application's own OpenTelemetry SDK."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(resource=Resource({}), shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def server(self) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.kind is otel.SpanKind.SERVER]

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.exporter.get_finished_spans()]


@pytest.fixture
def theirs() -> Iterator[Theirs]:
    made = Theirs()
    yield made
    made.provider.shutdown()


def shop(**options: Any) -> FastAPI:
    """Routes of all kinds, one of them in an application that is mounted."""
    app, admin, router = FastAPI(**options), FastAPI(), APIRouter(prefix="/items")

    @router.get("/{item}")
    async def read(item: str) -> dict[str, str]:
        with tocsin_span("look up"):
            return {**tocsin.trace_headers(), "item": item}

    @app.get("/theirs")
    async def by_hand() -> dict[str, str]:
        with otel.get_tracer("shop").start_as_current_span("work"):
            return tocsin.trace_headers()

    @app.get("/broken")
    async def broken() -> None:
        raise ValueError("token=s3cret")

    @admin.get("/users/{user}")
    def user(user: str) -> dict[str, str]:
        return tocsin.trace_headers()

    app.include_router(router)
    app.mount("/admin", admin)
    return app


def tocsin_span(name: str) -> Any:
    from tocsin.tracing.spans import span  # noqa: PLC0415  # read as an application would

    return span(name)


def by_name(collector: OtlpCollector) -> dict[str, SeenSpan]:
    assert lifecycle.force_flush(20)
    return {span.name: span for span in collector.spans}


def server_spans(collector: OtlpCollector) -> list[SeenSpan]:
    assert lifecycle.force_flush(20)
    return [span for span in collector.spans if span.kind == "server"]


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_one_server_span_a_request(
    http: str, collector: OtlpCollector, registry: CollectorRegistry, lines: Capture, serve: Callable[..., str]
) -> None:
    """Through a real server: template, status, addresses, redacted query, parent, and the same ids in the log."""
    app = tocsin.instrument(shop(), service_name="shop", registry=registry, log_stream=lines)
    url = serve(app, http=http)
    answers = [
        httpx.get(f"{url}/items/5?token=s3cret&page=2", headers={**CONTINUED, "user-agent": "test/1"}),
        httpx.get(f"{url}/admin/users/7"),
        httpx.get(f"{url}/nowhere"),
        httpx.get(f"{url}/broken"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 500]
    collector.wait_for(5)
    seen = by_name(collector)
    assert set(seen) == {"GET /items/{item}", "look up", "GET /admin/users/{user}", "GET", "GET /broken"}
    items = seen["GET /items/{item}"]
    assert (items.trace_id, items.parent_id, items.kind, items.status) == (TRACE, CALLER, "server", "unset")
    port = int(url.rpartition(":")[2])
    assert items.attributes == {
        "http.request.method": "GET",
        "http.route": "/items/{item}",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/items/5",
        "url.query": "token=[redacted]&page=2",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": port,
        "client.address": "127.0.0.1",
        "user_agent.original": "test/1",
    }
    assert answers[0].json()["traceparent"] == f"00-{TRACE}-{seen['look up'].span_id}-01"
    assert seen["look up"].parent_id == items.span_id
    broken = seen["GET /broken"]
    assert (broken.status, broken.attributes["error.type"], len(broken.events)) == ("error", "ValueError", 1)
    assert "s3cret" not in repr(seen)
    # The line of the error comes after its span, and both after the answer.
    served = {(span.trace_id, span.span_id) for span in seen.values() if span.kind == "server"}
    deadline, turn = time.monotonic() + 20, threading.Event()
    while len(lines.access) < 4 and time.monotonic() < deadline:
        turn.wait(0.005)
    assert {(line["trace.id"], line["span.id"]) for line in lines.access} == served
    assert {span.resource["service.name"] for span in seen.values()} == {"shop"}


async def test_the_callers_decision_is_kept(
    collector: OtlpCollector, registry: CollectorRegistry, lines: Capture
) -> None:
    """`sample=0`: only traces that a caller records are recorded."""
    app = tocsin.instrument(shop(), sample=0.0, registry=registry, log_stream=lines)
    fresh = await call(app, "/items/1")
    assert b"-00" in fresh.body
    await call(app, "/items/2", headers=CONTINUED)
    await call(app, "/items/3", headers={"traceparent": f"00-{TRACE}-{CALLER}-00"})
    (span,) = server_spans(collector)
    assert span.attributes["url.path"] == "/items/2"


async def test_two_applications_have_their_own_settings(
    collector: OtlpCollector, registry: CollectorRegistry, lines: Capture
) -> None:
    """In one process: each span says which service it is of, its children too."""
    one = tocsin.instrument(shop(), service_name="one", registry=registry, log_stream=lines)
    two = tocsin.instrument(shop(), service_name="two", registry=CollectorRegistry(), log_stream=lines)
    for app in (one, two, one):
        await call(app, "/theirs")
    assert lifecycle.force_flush(20)
    services = [(span.name, span.resource["service.name"]) for span in collector.spans]
    assert sorted(services) == sorted(
        [("GET /theirs", "one"), ("work", "one")] * 2 + [("GET /theirs", "two"), ("work", "two")]
    )


# --- a provider of the application's own -------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_provider_of_the_application_is_used(
    when: str,
    collector: OtlpCollector,
    theirs: Theirs,
    registry: CollectorRegistry,
    lines: Capture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Set before `instrument` or after it: our server span goes through it, in mounts too; none is exported twice."""
    if when == "before":
        otel.set_tracer_provider(theirs.provider)
    app = tocsin.instrument(shop(), registry=registry, log_stream=lines)
    if when == "after":
        otel.set_tracer_provider(theirs.provider)
    answer = await call(app, "/theirs?token=s3cret", headers=CONTINUED)
    await call(app, "/items/5")
    await call(app, "/admin/users/7")
    assert theirs.names == ["work", "GET /theirs", "look up", "GET /items/{item}", "GET /admin/users/{user}"]
    work, server = theirs.exporter.get_finished_spans()[:2]
    assert server.context is not None
    assert server.parent is not None
    assert work.parent is not None
    assert (f"{server.context.trace_id:032x}", f"{server.parent.span_id:016x}") == (TRACE, CALLER)
    assert work.parent.span_id == server.context.span_id
    assert f"-{work.context.span_id:016x}-".encode() in answer.body  # type: ignore[union-attr]
    assert server.attributes is not None
    assert server.attributes["http.route"] == "/theirs"
    assert server.attributes["url.query"] == "token=[redacted]"
    assert lines.access[0]["span.id"] == f"{server.context.span_id:016x}"
    assert [scope.name for span in theirs.server if (scope := span.instrumentation_scope)] == ["tocsin"] * 3
    assert collector.posts == []
    assert "Overriding" not in caplog.text


async def test_its_sampler_decides(theirs: Theirs, registry: CollectorRegistry, lines: Capture) -> None:
    """What it does not record is not recorded, and is told so to those called."""
    never = Theirs(sampler=ALWAYS_OFF)
    otel.set_tracer_provider(never.provider)
    app = tocsin.instrument(shop(), registry=registry, log_stream=lines)
    answer = await call(app, "/items/5")
    assert b"-00" in answer.body
    assert never.names == []
    assert lines.access[0]["trace.id"].encode() in answer.body
    never.provider.shutdown()


async def test_its_sampler_is_asked_about_method_and_path(registry: CollectorRegistry, lines: Capture) -> None:
    """So that it may leave out what it knows to be noise; secrets are hidden from it too."""
    asked: list[tuple[str, dict[str, Any]]] = []

    class Choosy(Sampler):
        def should_sample(  # type: ignore[override]  # only what is asked for here
            self, parent_context: Any, trace_id: int, name: str, kind: Any, attributes: Any, *more: Any
        ) -> SamplingResult:
            known = attributes or {}  # a span inside of the request has none
            asked.append((name, dict(known)))
            noise = known.get("url.path", "").startswith("/items") or kind is otel.SpanKind.INTERNAL
            return SamplingResult(Decision.DROP if noise else Decision.RECORD_AND_SAMPLE)

        def get_description(self) -> str:
            return "choosy"

    chosen = Theirs(sampler=Choosy())
    otel.set_tracer_provider(chosen.provider)
    app = tocsin.instrument(shop(), registry=registry, log_stream=lines)
    await call(app, "/items/5")
    await call(app, "/admin/users/token=s3cret")
    assert [span.name for span in chosen.server] == ["GET /admin/users/{user}"]
    assert asked[0] == ("GET", {"http.request.method": "GET", "url.path": "/items/5"})
    assert asked[-1][1]["url.path"] == "/admin/users/token=[redacted]"
    chosen.provider.shutdown()


LAST = """
import asyncio
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
import tocsin
from tocsin.testing import call

app = tocsin.instrument(FastAPI(), metrics=False, logs=False)
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)
asyncio.run(call(app, "/docs"))
"""


def test_the_last_spans_of_a_process_reach_a_provider_that_came_late() -> None:
    """It shuts down at exit before what was registered earlier; what waits here is ended before that."""
    done = subprocess.run([sys.executable, "-c", LAST], capture_output=True, timeout=60, check=True, text=True)
    assert '"name": "GET /docs"' in done.stdout


async def test_errors_in_a_provided_span(theirs: Theirs, registry: CollectorRegistry, lines: Capture) -> None:
    """Status and exception, redacted, once."""
    otel.set_tracer_provider(theirs.provider)
    app = tocsin.instrument(shop(), registry=registry, log_stream=lines)
    with pytest.raises(ValueError, match="s3cret"):
        await call(app, "/broken")
    (span,) = theirs.server
    assert span.status.status_code is otel.StatusCode.ERROR
    (event,) = span.events
    assert event.attributes is not None
    assert event.attributes["exception.message"] == "token=[redacted]"
    assert "s3cret" not in span.to_json()


async def test_a_provider_set_after_ours_is_refused_by_the_api(
    collector: OtlpCollector,
    theirs: Theirs,
    registry: CollectorRegistry,
    lines: Capture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After the first request it is too late, as OpenTelemetry says; ours goes on."""
    app = tocsin.instrument(shop(), registry=registry, log_stream=lines)
    await call(app, "/items/1")
    otel.set_tracer_provider(theirs.provider)
    await call(app, "/items/2")
    assert len(server_spans(collector)) == 2
    assert "Overriding of current TracerProvider is not allowed" in caplog.text


async def test_without_an_exporter_a_provider_may_come_at_any_time(
    theirs: Theirs, registry: CollectorRegistry, lines: Capture
) -> None:
    """We set none of our own then, so nothing is in its way."""
    app = tocsin.instrument(shop(), registry=registry, log_stream=lines)
    await call(app, "/items/1")
    otel.set_tracer_provider(theirs.provider)
    await call(app, "/items/2")
    assert len(theirs.server) == 1


# --- FastAPI's own telemetry -------------------------------------------------------------------------------------


async def test_fastapis_own_telemetry_does_not_double_ours(
    collector: OtlpCollector, registry: CollectorRegistry, lines: Capture
) -> None:
    """It starts as soon as there is a provider, ours included: once per request all the same, in mounts too."""
    app = tocsin.instrument(shop(), registry=registry, log_stream=lines)
    for _ in range(2):
        await call(app, "/items/5")
        await call(app, "/admin/users/7")
    assert lifecycle.force_flush(20)
    assert {span.scope for span in collector.spans} == {"tocsin"}
    assert len(server_spans(collector)) == 4


async def test_what_was_switched_off_is_switched_on_again(
    theirs: Theirs, registry: CollectorRegistry, lines: Capture
) -> None:
    """`uninstrument` leaves the application as it was, those mounted in it too."""
    otel.set_tracer_provider(theirs.provider)
    app = shop(telemetry={"metrics": False})
    tocsin.uninstrument(tocsin.instrument(app, registry=registry, log_stream=lines))
    assert (app._telemetry["tracing"], app._telemetry["metrics"]) == (True, False)
    await call(app, "/admin/users/7")
    assert {scope.name for span in theirs.server if (scope := span.instrumentation_scope)} == {"fastapi"}


def test_a_provider_given_to_fastapi_by_name_is_wanted(theirs: Theirs) -> None:
    """Then its telemetry stays on, and those mounted are left to it."""
    app = shop(telemetry={"tracer_provider": theirs.provider})
    coexistence.quiet_native(app)
    assert app._telemetry["tracing"] is True
    assert app._telemetry["metrics"] is False
    coexistence.restore_native(app)
    assert app._telemetry["metrics"] is True


# --- OpenTelemetry's instrumentation of FastAPI ------------------------------------------------------------------


@pytest.mark.parametrize("first", ["tocsin", "opentelemetry"])
async def test_contrib_makes_the_spans_where_it_is(
    first: str, collector: OtlpCollector, registry: CollectorRegistry, lines: Capture
) -> None:
    """Without an SDK, its spans go through our exporter; ours step back, and logs have its ids."""
    app = shop()
    if first == "tocsin":
        tocsin.instrument(app, registry=registry, log_stream=lines)
    FastAPIInstrumentor.instrument_app(app)
    tocsin.instrument(app, registry=registry, log_stream=lines)
    try:
        # The first request settles whose spans there are: around ours, theirs began before that.
        await call(app, "/theirs", headers={"traceparent": f"00-{TRACE}-{CALLER}-00"})
        for path in ("/items/5", "/admin/users/7"):
            await call(app, path, headers=CONTINUED)
    finally:
        FastAPIInstrumentor.uninstrument_app(app)
    items, mounted = server_spans(collector)
    assert items.scope == mounted.scope == "opentelemetry.instrumentation.fastapi"
    assert (items.trace_id, items.parent_id) == (TRACE, CALLER)
    assert [line["span.id"] for line in lines.access[1:]] == [items.span_id, mounted.span_id]
    assert by_name(collector)["look up"].parent_id == items.span_id


async def test_the_compatibility_mode(theirs: Theirs, registry: CollectorRegistry, lines: Capture) -> None:
    """`traces="opentelemetry"`: its spans, our metrics and logs with its ids; once per request, in mounts too."""
    otel.set_tracer_provider(theirs.provider)
    app = shop()
    tocsin.instrument(app, traces="opentelemetry", exclude=["/theirs"], registry=registry, log_stream=lines)
    try:
        for path in ("/items/5", "/admin/users/7", "/metrics", "/theirs"):
            await call(app, path, headers=CONTINUED)
    finally:
        FastAPIInstrumentor.uninstrument_app(app)
    spans = theirs.server
    assert len(spans) == 2
    assert theirs.names == ["look up", "GET /items/{item}", "GET /admin", "work"]
    assert [line["span.id"] for line in lines.access] == [f"{s.context.span_id:016x}" for s in spans if s.context]
    assert {line["trace.id"] for line in lines.access} == {TRACE}
    assert tocsin.uninstrument(app) is app


async def test_a_middleware_around_ours_makes_the_span(
    collector: OtlpCollector, theirs: Theirs, registry: CollectorRegistry, lines: Capture
) -> None:
    """OpenTelemetryMiddleware wrapped around an instrumented application: one server span, its ids in the log."""
    inner = tocsin.instrument(shop(), registry=registry, log_stream=lines)
    app: Any = OpenTelemetryMiddleware(inner, tracer_provider=theirs.provider)
    await call(app, "/items/5", headers=CONTINUED)
    (span,) = theirs.server
    assert span.context is not None
    assert server_spans(collector) == []
    assert [line["span.id"] for line in lines.access] == [f"{span.context.span_id:016x}"]


async def test_a_middleware_around_ours_without_an_sdk(
    collector: OtlpCollector, registry: CollectorRegistry, lines: Capture
) -> None:
    """Its span goes through our exporter, and stays the only server span."""
    inner = tocsin.instrument(shop(), registry=registry, log_stream=lines)
    await call(inner, "/items/4")  # the first request settles whose spans there are
    app: Any = OpenTelemetryMiddleware(inner)
    await call(app, "/items/5", headers=CONTINUED)
    _, span = server_spans(collector)
    assert (span.scope, span.parent_id) == ("opentelemetry.instrumentation.asgi", CALLER)
    assert [line["span.id"] for line in lines.access][1] == span.span_id


def test_contrib_is_found_wherever_it_sits() -> None:
    """As a flag, among the application's middleware, in a stack that is built, around or inside a wrapper."""
    plain, added, built, flagged = FastAPI(), FastAPI(), FastAPI(), FastAPI()
    added.add_middleware(OpenTelemetryMiddleware)
    built.add_middleware(OpenTelemetryMiddleware)
    built.middleware_stack = built.build_middleware_stack()
    built.user_middleware.clear()
    flagged._is_instrumented_by_opentelemetry = True  # type: ignore[attr-defined]
    wrapped: Any = OpenTelemetryMiddleware(plain)
    found = [coexistence.contrib_spans(app) for app in (plain, added, built, flagged, wrapped, object())]
    assert found == [False, True, True, True, True, False]


def test_without_its_package_the_mode_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an ImportError from somewhere inside."""
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.fastapi", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "tocsin\[otel\]"'):
        coexistence.contrib_instrument(FastAPI())


INSTRUMENTED = """
import sys, time
from fastapi import FastAPI
app = FastAPI()
import tocsin
began = time.perf_counter()
tocsin.instrument(app)
took = time.perf_counter() - began
heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "google.protobuf")
bad = [name for name in sys.modules if name.startswith(heavy)]
assert not bad, bad
print(f"instrument() took {took * 1e3:.1f} ms")
"""


def test_the_sdk_is_never_imported(collector: OtlpCollector) -> None:
    """Exporting needs neither OpenTelemetry's SDK nor protobuf."""
    done = subprocess.run([sys.executable, "-c", INSTRUMENTED], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    print(done.stdout.decode())
