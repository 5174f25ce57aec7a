"""Spans inside of a request: the application's own, and those OpenTelemetry's instrumentations make."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import sqlalchemy
from opentelemetry import baggage, context, propagate
from opentelemetry import trace as otel
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import CollectorRegistry

from tocsin.metrics.families import families_of
from tocsin.redact import Redactor
from tocsin.request import Current, Facts, Wire, current_trace, trace_headers
from tocsin.tracing import bridge
from tocsin.tracing.context import Trace, server_span
from tocsin.tracing.settings import trace_settings
from tocsin.tracing.spans import Span, leave, span
from tocsin.tracing.testing import OtlpCollector, SeenSpan, reset_tracing
from tocsin.tracing.tracer import RequestTracer, tracer_for

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACEPARENT = (b"traceparent", f"00-{TRACE}-{CALLER}-01".encode())
UNSAMPLED = (b"traceparent", f"00-{TRACE}-{CALLER}-00".encode())


class Shop:
    """A service that exports to a collector."""

    def __init__(self, collector: OtlpCollector, **environ: str) -> None:
        self.collector = collector
        self.families = families_of(CollectorRegistry())
        environ = {**collector.environ, "OTEL_BSP_SCHEDULE_DELAY": "60000", **environ}
        self.tracer: RequestTracer = tracer_for(trace_settings("shop", None, None, environ), self.families)

    @contextmanager
    def request(self, *headers: tuple[bytes, bytes], status: int = 200) -> Iterator[Span]:
        """Be inside of a request, as the ASGI layer is."""
        trace = self.tracer.begin(headers)
        token = self.tracer.enter(trace, Current(trace, self.families, None))
        failure = None
        began = time.perf_counter()
        try:
            yield trace  # type: ignore[misc]  # a span of ours
        except Exception as error:
            failure, status = error, 500
            raise
        finally:
            leave(token)
            wire = Wire("http", b"", "1.1", headers)
            seconds = time.perf_counter() - began
            facts = Facts("GET", "/items/{item}", "/items/5", status, seconds, time.time(), None, trace, wire)
            self.tracer.ended(facts, failure)

    def exported(self) -> dict[str, SeenSpan]:
        """All spans up to now, by name."""
        assert self.tracer._exporter is None or self.tracer._exporter.flush(20)
        found = {seen.name: seen for seen in self.collector.spans}
        assert len(found) == len(self.collector.spans)
        return found


@pytest.fixture
def shop() -> Iterator[Shop]:
    with OtlpCollector() as collector:
        made = Shop(collector)
        yield made
        reset_tracing()


GET = "GET /items/{item}"


# --- our own -----------------------------------------------------------------------------------------------------


def test_a_span_is_a_child_of_the_request(shop: Shop) -> None:
    """Ids, kind, attributes and times, all the way to the collector."""
    with shop.request(TRACEPARENT) as server, span("charge card", "client", {"card.kind": "visa"}) as work:
        assert current_trace() is work
        work.set_attribute("amount", 12)
        work.set_attributes({"tags": ["a", "b"], "fast": True})
        work.add_event("asked", {"attempt": 1})
    found = shop.exported()
    child, request = found["charge card"], found[GET]
    assert (child.trace_id, child.parent_id, child.kind) == (TRACE, server.span_id, "client")
    assert (request.trace_id, request.span_id, request.parent_id) == (TRACE, server.span_id, CALLER)
    assert child.attributes == {"card.kind": "visa", "amount": 12, "tags": ["a", "b"], "fast": True}
    assert [(event.name, event.attributes) for event in child.events] == [("asked", {"attempt": 1})]
    assert child.start <= child.events[0].at <= child.end
    # Both clocks are read a little before or after the other.
    assert request.start - 1_000_000 <= child.start
    assert child.end <= request.end + 1_000_000


def test_spans_nest_and_outgoing_calls_name_the_innermost(shop: Shop) -> None:
    """`trace_headers` inside of a span has that span's id; afterwards the one around again."""
    with shop.request() as server:
        with span("outer") as outer:
            with span("inner") as inner:
                assert trace_headers()["traceparent"] == f"00-{server.trace_id}-{inner.span_id}-01"
                found = server_span()
                assert found is server
            assert trace_headers()["traceparent"].split("-")[2] == outer.span_id
        assert current_trace() is server
    assert current_trace() is None
    seen = shop.exported()
    assert (seen["inner"].parent_id, seen["outer"].parent_id) == (seen["outer"].span_id, seen[GET].span_id)


async def test_concurrent_work_keeps_its_parents(shop: Shop) -> None:
    """Tasks, and threads that take the context along."""

    async def work(number: int) -> None:
        with span(f"task {number}"):
            await asyncio.sleep(0)
            await asyncio.to_thread(thread, number)

    def thread(number: int) -> None:
        with span(f"thread {number}"):
            pass

    with shop.request() as server:
        await asyncio.gather(*(work(number) for number in range(5)))
    seen = shop.exported()
    for number in range(5):
        assert seen[f"task {number}"].parent_id == server.span_id
        assert seen[f"thread {number}"].parent_id == seen[f"task {number}"].span_id


def test_an_exception_is_told_with_its_secrets_hidden(shop: Shop) -> None:
    """On the span it leaves and on the request, each once; it is raised on."""
    with pytest.raises(ValueError, match="broken"), shop.request(), span("work"):
        raise ValueError("broken: password=hunter2")
    for seen in shop.exported().values():
        assert seen.status == "error"
        assert seen.attributes["error.type"] == "ValueError"
        (event,) = seen.events
        assert event.name == "exception"
        assert event.attributes["exception.type"] == "ValueError"
        assert event.attributes["exception.message"] == "broken: password=[redacted]"
        assert "test_spans.py" in event.attributes["exception.stacktrace"]
        assert "hunter2" not in repr(seen)


def test_an_exception_recorded_by_hand_is_not_told_twice(shop: Shop) -> None:
    """The application noted it before it left."""
    error = KeyError("x")

    def handler() -> None:
        with shop.request() as server:
            server.record_exception(error)
            raise error

    with pytest.raises(KeyError):
        handler()
    assert len(shop.exported()[GET].events) == 1


def test_a_cancelled_span_is_no_error(shop: Shop) -> None:
    """A client that went away is not a failure of the work."""
    with pytest.raises(asyncio.CancelledError), shop.request(), span("work"):
        raise asyncio.CancelledError
    work = shop.exported()["work"]
    assert (work.status, work.events) == ("unset", ())


def test_secrets_are_hidden_by_name_and_in_texts(shop: Shop) -> None:
    """In attributes, events, links and status messages, whatever type they have."""
    with shop.request() as server, span("work", attributes={"db.password": "s3cret"}) as work:
        work.set_attribute("http.request.header.authorization", ["Bearer s3cret"])
        work.set_attribute("url.full", "https://a.example/?token=s3cret&page=1")
        work.add_event("login", {"api_key": "s3cret"})
        work.add_link(server, {"cookie": "s3cret"})
        work.set_status("error", "failed with token=s3cret")
    seen = shop.exported()["work"]
    assert "s3cret" not in repr(seen)
    assert seen.attributes["url.full"] == "https://a.example/?token=[redacted]&page=1"
    assert seen.links == ((server.trace_id, server.span_id),)
    assert (seen.status, seen.message) == ("error", "failed with token=[redacted]")


@pytest.mark.parametrize(("redact", "shown"), [(Redactor(["iban"]), "[redacted]"), (Redactor(enabled=False), "DE1")])
def test_what_is_secret_can_be_said(redact: Redactor, shown: str) -> None:
    """`instrument(redact=...)` holds for spans too: queries of requests and attributes."""
    with OtlpCollector() as collector:
        tracer = tracer_for(
            trace_settings("shop", None, None, collector.environ), families_of(CollectorRegistry()), redact
        )
        trace = tracer.begin([])
        trace.set_attribute("iban", "DE1")  # type: ignore[attr-defined]
        wire = Wire("http", b"iban=DE1", "1.1", ())
        tracer.ended(Facts("GET", "/", "/", 200, 0.1, time.time(), None, trace, wire), None)
        (seen,) = collector.wait_for(1)
        reset_tracing()
    assert (seen.attributes["iban"], seen.attributes["url.query"]) == (shown, f"iban={shown}")


def test_limits_are_counted(shop: Shop) -> None:
    """128 attributes, events and links; long texts are cut."""
    with shop.request() as server, span("work") as work:
        for number in range(130):
            work.set_attribute(f"a{number}", number)
            work.add_event("e")
            work.add_link(server)
        work.set_attribute("a0", "x" * 20_000)
    seen = shop.exported()["work"]
    assert (len(seen.attributes), len(seen.events), len(seen.links), seen.dropped) == (128, 128, 128, (2, 2, 2))
    assert len(seen.attributes["a0"]) == 16_384


def test_each_exception_is_told_and_none_twice(shop: Shop) -> None:
    """Those of attempts that failed one after the other too, although Python gives them one address."""
    same = ValueError("raised for ever")
    with shop.request() as server, span("work") as work:
        for attempt in range(5):
            try:
                raise ValueError(attempt)
            except ValueError as error:
                work.record_exception(error)
        for _ in range(3):
            work.record_exception(same)
        server.record_exception(same)
    for _ in range(100):
        with shop.request() as other:
            other.record_exception(same)
    assert len(repr(vars(same))) < 1_000
    assert shop.tracer._exporter is not None
    assert shop.tracer._exporter.flush(20)
    works = [seen for seen in shop.collector.spans if seen.name == "work"]
    messages = [event.attributes["exception.message"] for event in works[0].events]
    assert messages == ["0", "1", "2", "3", "4", "raised for ever"]
    assert [len(seen.events) for seen in shop.collector.spans if seen.name == GET] == [1] * 101


def test_lists_without_an_end_do_no_harm(shop: Shop) -> None:
    """One that has itself in it, one of a million items, one of long texts, an exception that cannot be printed."""
    cycle: list[Any] = [1]
    cycle.append(cycle)

    class UnfinishedError(SyntaxError):
        def __init__(self) -> None:
            self.lineno = self.text = self.offset = "x"  # type: ignore[assignment]

    with shop.request(), span("work") as work:
        work.set_attributes({"cycle": cycle, "long": list(range(1_000_000)), "texts": ["x" * 20_000]})
        work.record_exception(UnfinishedError())
    seen = shop.exported()["work"]
    assert seen.attributes["cycle"][0] == 1
    assert (len(seen.attributes["long"]), len(seen.attributes["texts"][0])) == (4_096, 16_384)
    assert len(seen.events) == 1


def test_values_of_any_kind_are_taken(shop: Shop) -> None:
    """What OTLP has no type for becomes text; what cannot even be printed does not raise."""

    class Rude:
        def __str__(self) -> str:
            raise RuntimeError

    with shop.request(), span("work") as work:
        values = {"none": None, "rude": Rude(), "big": 2**70, "bytes": b"x", "map": {"a": 1}, "mixed": [1, "a", None]}
        work.set_attributes(values)
    assert shop.exported()["work"].attributes == {
        "rude": "<unprintable Rude>",
        "big": str(2**70),
        "bytes": "x",
        "map": {"a": 1},
        "mixed": [1, "a", None],
    }


def test_ok_is_final_and_after_the_end_nothing_is_taken(shop: Shop) -> None:
    """As OpenTelemetry's specification says."""
    with shop.request(), span("work") as work:
        work.set_status("ok")
        work.set_status("error", "no")
    work.set_attribute("late", 1)
    work.end()
    seen = shop.exported()["work"]
    assert (seen.status, seen.attributes) == ("ok", {})


@pytest.mark.parametrize(
    ("name", "root", "sampled", "unsampled"),
    [
        ("always_on", True, True, True),
        ("always_off", False, False, False),
        ("traceidratio", False, False, False),
        ("parentbased_always_on", True, True, False),
        ("parentbased_always_off", False, True, False),
        ("parentbased_traceidratio", False, True, False),
    ],
)
def test_samplers_decide_for_requests_and_jobs(name: str, root: bool, sampled: bool, unsampled: bool) -> None:
    """Without a caller, below one that records, and below one that does not; children do as their request does."""
    with OtlpCollector() as collector:
        shop = Shop(collector, OTEL_TRACES_SAMPLER=name, OTEL_TRACES_SAMPLER_ARG="0")
        for headers, expected in (((), root), ((TRACEPARENT,), sampled), ((UNSAMPLED,), unsampled)):
            with shop.request(*headers) as server, span("child") as child:
                assert (server.sampled, server.is_recording(), child.is_recording()) == (expected,) * 3
                assert trace_headers()["traceparent"].endswith("-01" if expected else "-00")
            caller = Trace(TRACE, CALLER, headers == (TRACEPARENT,)) if headers else None
            with span("job", "consumer", parent=caller) as job:
                assert job.is_recording() is expected
        reset_tracing()


def test_what_is_not_sampled_is_not_recorded(shop: Shop) -> None:
    """The caller does not record: no spans, but its ids go on."""
    with shop.request(UNSAMPLED) as server, span("work") as work:
        assert not work.is_recording()
        assert trace_headers()["traceparent"] == f"00-{TRACE}-{server.span_id}-00"
    assert shop.exported() == {}


def test_without_an_exporter_there_are_ids_and_headers_all_the_same() -> None:
    """Nothing is recorded, nothing is started, and the OpenTelemetry API is left as it was."""
    families = families_of(CollectorRegistry())
    tracer = tracer_for(trace_settings("shop", None, None, {}), families)
    assert not tracer.exporting
    trace = tracer.begin([TRACEPARENT])
    token = tracer.enter(trace, Current(trace, families, None))
    with span("work") as work:
        assert not work.is_recording()
        assert otel.get_current_span().get_span_context().trace_id == int(TRACE, 16)
    leave(token)
    assert bridge.real_provider() is None


def test_a_span_of_a_kind_that_is_none_is_an_error() -> None:
    """What a programmer writes is refused at once."""
    with pytest.raises(ValueError, match="expected one of internal, server"):
        span("x", "clinet")


def test_outside_of_a_request_jobs_begin_traces_and_helpers_do_not(shop: Shop) -> None:
    """Kinds `server` and `consumer` are roots, or go on with the trace of who asked for the job."""
    with span("helper") as helper:
        assert not helper.is_recording()
        assert current_trace() is None
    with span("job", "consumer") as job:
        assert current_trace() is job
        with span("step"):
            pass
    asked_by = shop.tracer.begin([TRACEPARENT])
    with span("continued", "consumer", parent=asked_by):
        pass
    seen = shop.exported()
    assert set(seen) == {"job", "step", "continued"}
    assert (seen["job"].parent_id, seen["step"].parent_id) == ("", seen["job"].span_id)
    assert (seen["continued"].trace_id, seen["continued"].parent_id) == (TRACE, asked_by.span_id)


async def test_a_generator_closed_elsewhere_does_no_harm(shop: Shop) -> None:
    """An asynchronous generator may be closed in another context than the one it ran in."""

    async def lines() -> Any:
        with span("stream"):
            yield 1
            yield 2

    with shop.request():
        opened = lines()
        await asyncio.create_task(opened.__anext__())
        await opened.aclose()
    assert "stream" in shop.exported()


# --- with the OpenTelemetry API ----------------------------------------------------------------------------------


def test_the_applications_tracers_work_without_the_sdk(shop: Shop) -> None:
    """Made before or after the first request: `start_as_current_span` gives children of the request."""
    early = otel.get_tracer("shop.early", "1")
    with shop.request(TRACEPARENT) as server:
        with early.start_as_current_span("early", kind=otel.SpanKind.CLIENT, attributes={"a": 1}) as current:
            assert otel.get_current_span() is current
            assert current_trace() is current
            current.set_status(otel.Status(otel.StatusCode.ERROR, "no"))
            late = otel.get_tracer("shop.late")
            with late.start_as_current_span("late", links=[otel.Link(server.get_span_context())]):  # type: ignore[attr-defined]
                pass
            inside = late.start_span("by hand", start_time=5)
            inside.end(9)
        otel.get_current_span().set_attribute("user.name", "ada")
        otel.get_current_span().update_name("GET renamed")
    seen = shop.exported()
    assert (seen["early"].trace_id, seen["early"].parent_id) == (TRACE, server.span_id)
    assert (seen["early"].kind, seen["early"].status, seen["early"].message) == ("client", "error", "no")
    assert (seen["early"].scope, seen["late"].scope) == ("shop.early", "shop.late")
    assert seen["late"].parent_id == seen["by hand"].parent_id == seen["early"].span_id
    assert seen["late"].links == ((TRACE, server.span_id),)
    assert (seen["by hand"].start, seen["by hand"].end) == (5, 9)
    assert seen["GET renamed"].attributes["user.name"] == "ada"
    assert seen["GET renamed"].attributes["http.route"] == "/items/{item}"


def test_ours_and_theirs_nest_in_each_other(shop: Shop) -> None:
    """`span()` inside of an OpenTelemetry span, and the other way round."""
    tracer = otel.get_tracer("shop")
    with shop.request(), tracer.start_as_current_span("a"), span("b"), tracer.start_as_current_span("c"):
        pass
    seen = shop.exported()
    assert [seen[name].parent_id for name in "abc"] == [seen[name].span_id for name in (GET, "a", "b")]


def test_exceptions_in_their_spans_are_recorded_once(shop: Shop) -> None:
    """`use_span` records them on our span; `with start_span()` does too."""
    tracer = otel.get_tracer("shop")
    with pytest.raises(ValueError, match="x"), shop.request(), tracer.start_as_current_span("work"):
        raise ValueError("x")
    with pytest.raises(ValueError, match="y"), tracer.start_span("alone"):
        raise ValueError("y")
    seen = shop.exported()
    for name in ("work", "alone"):
        assert (len(seen[name].events), seen[name].status) == (1, "error")
    assert seen["alone"].parent_id == ""


def test_our_span_is_a_span_of_the_api(shop: Shop) -> None:
    """Everything the API's Span has."""
    with shop.request(TRACEPARENT, (b"tracestate", b"a=1")):
        current = otel.get_current_span()
        assert isinstance(current, otel.Span)
        ids = current.get_span_context()
        assert (f"{ids.trace_id:032x}", ids.is_remote, ids.trace_flags) == (TRACE, False, 1)
        assert ids.trace_state.to_header() == "a=1"
        assert current.is_recording()
        assert hash(current) == hash(current)
        current.end()
        assert current.is_recording()
    assert not current.is_recording()
    assert len(shop.exported()) == 1


def test_an_unsampled_request_has_no_children_of_theirs(shop: Shop) -> None:
    """The ids go on all the same."""
    with shop.request(UNSAMPLED), otel.get_tracer("shop").start_as_current_span("work") as work:
        assert not work.is_recording()
        headers: dict[str, str] = {}
        propagate.inject(headers)
        assert headers["traceparent"].startswith(f"00-{TRACE}-")
        assert headers["traceparent"].endswith("-00")
    assert shop.exported() == {}


def test_a_span_used_as_a_block_does_as_it_was_told(shop: Shop) -> None:
    """`record_exception` and `set_status_on_exception`, and an exception that cannot be printed is raised on."""

    class RudeError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    tracer = otel.get_tracer("shop")
    for told in (True, False):
        name = f"told {told}"
        with (
            pytest.raises(RudeError),
            shop.request(),
            tracer.start_span(name, record_exception=told, set_status_on_exception=told),
        ):
            raise RudeError
    assert shop.tracer._exporter is not None
    assert shop.tracer._exporter.flush(20)
    found = {seen.name: (seen.status, len(seen.events)) for seen in shop.collector.spans if seen.name != GET}
    assert found == {"told True": ("error", 1), "told False": ("unset", 0)}


def test_links_say_whose_span_it_is(shop: Shop) -> None:
    """Sampled or not, of this process or another, what was too much for it counted: as the reference classes read."""
    far = otel.SpanContext(int(TRACE, 16), int(CALLER, 16), True, otel.TraceFlags(1))
    near = otel.SpanContext(int(TRACE, 16), int(CALLER, 16), False, otel.TraceFlags(0))
    many = {f"a{number}": number for number in range(130)}
    with shop.request():
        otel.get_tracer("shop").start_span("work", links=[otel.Link(far, many), otel.Link(near)]).end()
    assert set(shop.exported()) == {"work", GET}
    (post,) = shop.collector.posts
    spans = ExportTraceServiceRequest.FromString(post.body).resource_spans[0].scope_spans
    (work,) = [each for scope in spans for each in scope.spans if each.name == "work"]
    assert [(link.flags, link.dropped_attributes_count) for link in work.links] == [(0x301, 2), (0x100, 0)]


@pytest.mark.parametrize("remote", [True, False])
def test_flags_say_where_the_parent_is(shop: Shop, remote: bool) -> None:
    """A parent that somebody else's code of this process made is no remote one."""
    shop.tracer.settle()
    parent = otel.NonRecordingSpan(otel.SpanContext(int(TRACE, 16), int(CALLER, 16), remote, otel.TraceFlags(1)))
    otel.get_tracer("worker").start_span("work", otel.set_span_in_context(parent)).end()
    assert shop.exported()["work"].parent_id == CALLER
    (post,) = shop.collector.posts
    (scope,) = ExportTraceServiceRequest.FromString(post.body).resource_spans[0].scope_spans
    assert scope.spans[0].flags == (0x301 if remote else 0x101)


def test_a_message_from_elsewhere_continues_its_trace(shop: Shop) -> None:
    """A consumer extracts a context by hand; the caller's decision to record holds."""
    tracer = otel.get_tracer("worker")
    shop.tracer.settle()
    for header in (TRACEPARENT, UNSAMPLED):
        parent = propagate.extract({"traceparent": header[1].decode()})
        with tracer.start_as_current_span("process", context=parent, kind=otel.SpanKind.CONSUMER):
            pass
    (seen,) = shop.exported().values()
    assert (seen.trace_id, seen.parent_id, seen.kind) == (TRACE, CALLER, "consumer")


def test_baggage_comes_in_and_goes_out(shop: Shop) -> None:
    """In OpenTelemetry's context, where the application may add to it, and in the headers of calls."""
    with shop.request((b"baggage", b"tenant=a%20b")):
        assert baggage.get_baggage("tenant") == "a b"
        token = context.attach(baggage.set_baggage("more", "1"))
        assert set(trace_headers()["baggage"].split(",")) == {"tenant=a+b", "more=1"}
        context.detach(token)


def test_one_request_sees_nothing_of_another(shop: Shop) -> None:
    """A pipelined request begins inside of the one before it: its context is new."""
    with shop.request(TRACEPARENT, (b"baggage", b"tenant=a")) as first:
        with shop.request() as second:
            assert second.trace_id != first.trace_id
            assert baggage.get_all() == {}
            assert otel.get_current_span() is second
        assert otel.get_current_span() is first


def test_contrib_httpx_spans_are_children_and_carry_the_context(shop: Shop) -> None:
    """The instrumentation of httpx: a client span below the request's, its id in the header that is sent."""
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200)

    client = httpx.Client(transport=httpx.MockTransport(answer))
    HTTPXClientInstrumentor.instrument_client(client)
    with shop.request(TRACEPARENT) as server:
        client.get("http://inventory.example/stock?token=s3cret")
    (child,) = [seen for seen in shop.exported().values() if seen.kind == "client"]
    assert (child.trace_id, child.parent_id) == (TRACE, server.span_id)
    assert sent[0].headers["traceparent"] == f"00-{TRACE}-{child.span_id}-01"
    assert "s3cret" not in repr(child)


def test_contrib_sqlalchemy_spans_are_children(shop: Shop) -> None:
    """The instrumentation of SQLAlchemy: a span per statement below the request's."""
    engine = sqlalchemy.create_engine("sqlite://")
    instrumentor = SQLAlchemyInstrumentor()
    instrumentor.instrument(engine=engine, skip_dep_check=True)
    try:
        with shop.request() as server, engine.connect() as connection:
            connection.execute(sqlalchemy.text("select 1"))
    finally:
        instrumentor.uninstrument()
        engine.dispose()
    children = [seen for seen in shop.exported().values() if seen.name != GET]
    assert children
    assert {(child.kind, child.parent_id) for child in children} == {("client", server.span_id)}


def test_many_threads_at_once(shop: Shop) -> None:
    """Ids are never shared, and every span arrives."""

    def requests(_: int) -> list[str]:
        ids = []
        for _ in range(50):
            with shop.request() as server, span("work"):
                ids.append(server.span_id)
        return ids

    with ThreadPoolExecutor(8) as pool:
        ids = [each for some in pool.map(requests, range(8)) for each in some]
    assert len(set(ids)) == 400
    assert shop.tracer._exporter is not None
    assert shop.tracer._exporter.flush(20)
    parents = [seen.parent_id for seen in shop.collector.spans if seen.name == "work"]
    assert sorted(parents) == sorted(ids)


# --- without the OpenTelemetry API -------------------------------------------------------------------------------

WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
import asyncio
from tocsin import lifecycle
from prometheus_client import CollectorRegistry
from tocsin.metrics.families import families_of
from tocsin.redact import Redactor
from tocsin.request import Current, Facts, Wire, current_trace, trace_headers
from tocsin.tracing.settings import trace_settings
from tocsin.tracing.spans import leave, span
from tocsin.tracing.tracer import tracer_for

families = families_of(CollectorRegistry())
tracer = tracer_for(trace_settings("shop", None, None, {"OTEL_EXPORTER_OTLP_ENDPOINT": sys.argv[1]}), families)
trace = tracer.begin([(b"traceparent", sys.argv[2].encode()), (b"baggage", b"a=1")])
token = tracer.enter(trace, Current(trace, families, None))
assert current_trace() is trace

async def main():
    assert trace_headers()["baggage"] == "a=1"
    with span("outer") as outer:
        assert current_trace() is outer
        with span("inner") as inner:
            assert trace_headers() == {
                "traceparent": f"00-{trace.trace_id}-{inner.span_id}-01", "baggage": "a=1"
            }
        assert current_trace() is outer

asyncio.run(main())
leave(token)
tracer.ended(Facts("GET", "/x", "/x", 200, 0.1, 1700000000.0, None, trace, Wire("http", b"", "1.1", ())), None)
assert lifecycle.force_flush(20)
assert not [name for name in sys.modules if name.startswith("opentelemetry.")]
"""


def test_everything_works_where_opentelemetry_is_not_installed() -> None:
    """Ids, headers, spans, export, baggage."""
    with OtlpCollector() as collector:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", WITHOUT, collector.url, TRACEPARENT[1].decode()],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        seen = {each.name: each for each in collector.spans}
    assert set(seen) == {"GET /x", "outer", "inner"}
    assert seen["inner"].parent_id == seen["outer"].span_id
    assert seen["outer"].parent_id == seen["GET /x"].span_id
    assert seen["GET /x"].parent_id == CALLER


LATE = """
import sys
from prometheus_client import CollectorRegistry
from tocsin.metrics.families import families_of
from tocsin.redact import Redactor
from tocsin.request import current_trace
from tocsin.tracing.settings import trace_settings
from tocsin.tracing.spans import span
from tocsin.tracing.tracer import tracer_for

families = families_of(CollectorRegistry())
tracer = tracer_for(trace_settings("shop", None, None, {"OTEL_EXPORTER_OTLP_ENDPOINT": sys.argv[1]}), families)
assert "opentelemetry.trace" not in sys.modules
with span("job", "consumer") as job:
    from opentelemetry import trace
    assert current_trace() is job
    with span("inner") as inner:
        assert trace.get_current_span() is inner
tracer.begin([])
with span("job 2", "consumer") as job, trace.get_tracer("x").start_as_current_span("theirs"):
    pass
assert tracer.close(20)
assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk")]
"""


def test_opentelemetry_loaded_in_the_middle_is_noticed() -> None:
    """An import inside of a handler: what is opened afterwards is seen by both, and the SDK is never imported."""
    with OtlpCollector() as collector:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", LATE, collector.url], capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        seen = {each.name: each for each in collector.spans}
    assert seen["inner"].parent_id == seen["job"].span_id
    assert seen["theirs"].parent_id == seen["job 2"].span_id


# --- other headers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("propagators", "headers", "continued", "written"),
    [
        ("tracecontext", [TRACEPARENT, (b"baggage", b"a=1")], True, {"traceparent"}),
        ("none", [TRACEPARENT], False, set()),
        ("baggage", [TRACEPARENT, (b"baggage", b"a=1")], False, {"baggage"}),
    ],
)
def test_propagators_can_be_fewer(
    propagators: str, headers: Iterable[tuple[bytes, bytes]], continued: bool, written: set[str]
) -> None:
    """What OTEL_PROPAGATORS does not name is neither read nor written."""
    with OtlpCollector() as collector:
        shop = Shop(collector, OTEL_PROPAGATORS=propagators)
        try:
            with shop.request(*headers) as server:
                assert (server.trace_id == TRACE) is continued
                assert set(trace_headers()) == written
        finally:
            reset_tracing()


def test_a_propagator_that_is_not_installed_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The others work."""
    families = families_of(CollectorRegistry())
    script = (
        "import sys\n"
        "from prometheus_client import CollectorRegistry\n"
        "from tocsin.metrics.families import families_of\n"
        "from tocsin.tracing.settings import trace_settings\n"
        "from tocsin.tracing.tracer import tracer_for\n"
        "import os\n"
        "t = tracer_for(trace_settings(None, None, None, os.environ), families_of(CollectorRegistry()))\n"
        f"print(t.begin([(b'traceparent', {TRACEPARENT[1]!r})]).trace_id)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"OTEL_PROPAGATORS": "tracecontext,starlight"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.decode().strip() == TRACE
    assert done.stderr.decode().count("OTEL_PROPAGATORS") == 1
    assert families is not None
