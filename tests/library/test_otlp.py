"""Our OTLP against the classes made from the `.proto` files: what is encoded here is what they read."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tocsin.redact import DEFAULT
from tocsin.request import Facts, Wire
from tocsin.tracing import http, otlp, protobuf
from tocsin.tracing.recording import Details, Scope, SpanEvent, SpanLink
from tocsin.tracing.settings import TraceSettings, trace_settings
from tocsin.tracing.spans import Span
from tocsin.tracing.testing import decoded

SETTINGS = trace_settings("shop", "1.2", None, {})
NOW = 1_700_000_000.25


class Nobody:
    """Where spans of these tests would go."""

    redact = DEFAULT
    value_limit = 16_384
    attribute_limit = 128
    event_limit = 128

    def put(self, item: Span) -> None:
        raise AssertionError(item)


def server(trace_id: str = "0" * 31 + "1", parent: str = "", state: str = "") -> Span:
    return Span(trace_id, "00000000000000ab", True, state, parent, Nobody())


def facts(trace: Span, **changed: Any) -> Facts:
    wire = Wire("https", b"page=2", "2", ((b"host", b"shop.example"), (b"user-agent", b"curl/8")))
    made = Facts("GET", "/items/{item}", "/items/5", 200, 0.25, NOW, "192.0.2.7", trace, wire)
    return made._replace(**changed)


def read(*items: otlp.Item, settings: TraceSettings = SETTINGS) -> ExportTraceServiceRequest:
    body, count, failures = otlp.Encoder(settings).request(items)
    assert (count, failures) == (len(items), 0)
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    # Nothing in it that the classes do not know, and nothing twice.
    assert request.SerializeToString(deterministic=True) == request.FromString(body).SerializeToString(
        deterministic=True
    )
    return request


def only(request: ExportTraceServiceRequest) -> trace_pb2.Span:
    ((span,),) = [scope.spans for scope in request.resource_spans[0].scope_spans]
    return span


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: plain(pair.value) for pair in value.kvlist_value.values}
    return None if kind is None else getattr(value, kind)


def attributes(pairs: Any) -> dict[str, Any]:
    found = {pair.key: plain(pair.value) for pair in pairs}
    assert len(found) == len(pairs)
    return found


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
NANOSECONDS = st.integers(0, 2**63)
HEX = st.integers(1, 2**64 - 1).map(lambda number: f"{number:016x}")


@given(VALUES)
def test_every_value_survives(value: object) -> None:
    """All types of attributes, nested, of any length."""
    assert plain(AnyValue.FromString(protobuf.any_value(value))) == value


@given(st.text())
def test_text_that_is_not_unicode_is_still_sent(text: str) -> None:
    """A lone surrogate, from a broken header, costs backslashes and not the batch."""
    assert plain(AnyValue.FromString(protobuf.any_value(text))) == text.encode("utf-8", "backslashreplace").decode()


@given(
    name=NAMES,
    kind=st.integers(1, 5),
    times=st.tuples(NANOSECONDS, NANOSECONDS),
    shown=st.dictionaries(NAMES, VALUES, max_size=5),
    events=st.lists(st.builds(SpanEvent, NANOSECONDS, NAMES, st.dictionaries(NAMES, VALUES, max_size=2)), max_size=3),
    links=st.lists(
        st.builds(SpanLink, HEX.map(lambda h: h + h), HEX, NAMES, st.dictionaries(NAMES, VALUES, max_size=1)),
        max_size=3,
    ),
    status=st.tuples(st.integers(0, 2), NAMES),
    dropped=st.tuples(*[st.integers(0, 2**31)] * 3),
    parent=st.one_of(st.just(""), HEX),
    state=NAMES,
)
def test_every_span_survives(
    name: str,
    kind: int,
    times: tuple[int, int],
    shown: dict[str, object],
    events: list[SpanEvent],
    links: list[SpanLink],
    status: tuple[int, str],
    dropped: tuple[int, int, int],
    parent: str,
    state: str,
) -> None:
    """All fields, as the reference classes read them; and our own decoder reads the same."""
    span = Span("ab" * 16, "cd" * 8, True, state, parent, Nobody())
    span.details = details = Details(name, kind, Scope("lib", "3"), times[0])
    details.end, details.attributes, details.events, details.links = times[1], shown, events, links
    details.code, details.message = status
    details.dropped_attributes, details.dropped_events, details.dropped_links = dropped
    request = read(span)
    scope = request.resource_spans[0].scope_spans[0].scope
    assert (scope.name, scope.version) == ("lib", "3")
    found = only(request)
    assert (found.trace_id.hex(), found.span_id.hex(), found.parent_span_id.hex()) == ("ab" * 16, "cd" * 8, parent)
    assert (found.name, found.kind, found.trace_state, found.flags) == (name, kind, state, 0x101)
    assert (found.start_time_unix_nano, found.end_time_unix_nano) == times
    assert attributes(found.attributes) == shown
    assert [(e.time_unix_nano, e.name, attributes(e.attributes)) for e in found.events] == [
        (e.at, e.name, e.attributes) for e in events
    ]
    assert [(k.trace_id.hex(), k.span_id.hex(), k.trace_state, attributes(k.attributes)) for k in found.links] == [
        (k.trace_id, k.span_id, k.state, k.attributes) for k in links
    ]
    assert (found.status.code, found.status.message) == (status if status[0] else (0, ""))
    assert (
        found.dropped_attributes_count,
        found.dropped_events_count,
        found.dropped_links_count,
    ) == dropped
    (seen,) = decoded(request.SerializeToString())
    assert (seen.name, seen.attributes, seen.dropped, seen.scope) == (name, shown, dropped, "lib")


@given(
    method=st.sampled_from(["GET", "POST", "_OTHER"]),
    route=st.sampled_from(["", "/items/{item}"]),
    path=st.text(max_size=300).map(lambda text: "/" + text),
    status=st.integers(100, 599),
    client=st.sampled_from([None, "192.0.2.7", "::1"]),
    scheme=st.sampled_from(["http", "https", "ws"]),
    query=st.binary(max_size=40),
    version=st.sampled_from(["1.1", "2", ""]),
    host=st.one_of(st.binary(max_size=20), st.sampled_from([b"a.example:81", b"[::1]:80", b"a", b"[::1]"])),
    agent=st.binary(max_size=20),
)
def test_the_fast_way_and_the_plain_way_say_the_same(
    method: str,
    route: str,
    path: str,
    status: int,
    client: str | None,
    scheme: str,
    query: bytes,
    version: str,
    host: bytes,
    agent: bytes,
) -> None:
    """A request put together from pieces encoded before reads as one whose attributes were encoded one by one."""
    wire = Wire(scheme, query, version, ((b"accept", b"*/*"), (b"host", host), (b"user-agent", agent)))
    told = server()
    told.details = Details("", 2, Scope("tocsin"), 0)
    made = facts(server(), method=method, route=route, path=path, status=status, client=client, wire=wire)
    fast, again, plain_way = read(made, made, made._replace(trace=told)).resource_spans[0].scope_spans[0].spans
    assert fast == again
    assert attributes(fast.attributes) == attributes(plain_way.attributes)
    assert (fast.name, fast.kind, fast.status) == (plain_way.name, plain_way.kind, plain_way.status)
    assert (fast.start_time_unix_nano, fast.end_time_unix_nano) == (
        plain_way.start_time_unix_nano,
        plain_way.end_time_unix_nano,
    )


def test_a_request_follows_the_conventions() -> None:
    """Name, kind, attributes and times of a server span; the parent is marked as another process's."""
    trace = server(parent="00000000000000cd", state="a=1")
    trace.remote = True
    request = read(facts(trace, wire=facts(trace).wire._replace(query=b"page=2&token=abc")))  # type: ignore[union-attr]
    (resource_spans,) = request.resource_spans
    assert attributes(resource_spans.resource.attributes) == dict(SETTINGS.resource)
    span = only(request)
    assert (span.name, span.kind) == ("GET /items/{item}", trace_pb2.Span.SPAN_KIND_SERVER)
    assert (span.parent_span_id.hex(), span.trace_state, span.flags) == ("00000000000000cd", "a=1", 0x301)
    assert span.end_time_unix_nano == int(NOW * 1e9)
    assert span.end_time_unix_nano - span.start_time_unix_nano == 250_000_000
    assert attributes(span.attributes) == {
        "http.request.method": "GET",
        "http.route": "/items/{item}",
        "http.response.status_code": 200,
        "url.scheme": "https",
        "url.path": "/items/5",
        "url.query": "page=2&token=[redacted]",
        "network.protocol.version": "2",
        "server.address": "shop.example",
        "server.port": 443,
        "client.address": "192.0.2.7",
        "user_agent.original": "curl/8",
    }
    assert span.status.code == trace_pb2.Status.STATUS_CODE_UNSET


@pytest.mark.parametrize(
    ("changed", "name", "status", "error"),
    [
        ({"status": 404, "route": ""}, "GET", "UNSET", None),
        ({"status": 499}, "GET /items/{item}", "UNSET", None),
        ({"status": 503}, "GET /items/{item}", "ERROR", "503"),
        ({"method": "_OTHER", "route": ""}, "HTTP", "UNSET", None),
    ],
)
def test_names_and_statuses(changed: dict[str, Any], name: str, status: str, error: str | None) -> None:
    """Without a route the name is the method; only 5xx is the server's error."""
    span = only(read(facts(server(), **changed)))
    assert (span.name, span.status.code) == (name, trace_pb2.Status.StatusCode.Value(f"STATUS_CODE_{status}"))
    assert attributes(span.attributes).get("error.type") == error


@pytest.mark.parametrize(
    ("host", "scheme", "expected"),
    [
        (b"shop.example", "http", ("shop.example", 80)),
        (b"shop.example:8080", "https", ("shop.example", 8080)),
        (b"[2001:db8::1]:81", "http", ("2001:db8::1", 81)),
        (b"[::1]", "https", ("::1", 443)),
        (b"shop.example", "gopher", ("shop.example", None)),
        (b"shop.example:port", "http", (None, None)),
        (b"shop.example:99999", "http", (None, None)),
        (b"me@shop.example", "http", (None, None)),
        (b"a/b", "http", (None, None)),
        (b"[::1", "http", (None, None)),
        (b"x" * 300, "http", (None, None)),
        (b"", "http", (None, None)),
    ],
)
def test_hosts_are_taken_apart(host: bytes, scheme: str, expected: tuple[str | None, int | None]) -> None:
    """What is no host is left out: a client can send anything there."""
    found = http.server_of(host, scheme)
    assert (found.get("server.address"), found.get("server.port")) == expected


def test_made_up_values_cost_no_memory() -> None:
    """Caches begin anew when full; long texts are not kept."""
    encoder = otlp.Encoder(SETTINGS)
    for number in range(3000):
        wire = Wire("http", b"", "1.1", ((b"host", b"h%d" % number), (b"user-agent", b"a%d" % number)))
        encoder.request([facts(server(), path=f"/{number}", client=str(number), wire=wire)])
    encoder.request([facts(server(), path="/" + "x" * 5000)])
    caches = [value for value in vars(encoder).values() if isinstance(value, otlp._Cache)]
    assert len(caches) == 5
    for cache in caches:
        assert 0 < len(cache) <= 1024
        assert max(map(len, cache.values())) <= 256


def test_what_cannot_be_encoded_costs_one_span() -> None:
    """The others of the batch are sent."""
    never_begun = server()
    body, count, failures = otlp.Encoder(SETTINGS).request([facts(server()), never_begun])
    assert (count, failures) == (1, 1)
    assert len(list(decoded(body))) == 1


@given(st.integers(0, 2**40), st.text(st.characters(exclude_categories=["Cs"])))
def test_partial_success_is_read(count: int, message: str) -> None:
    """What a collector says it did not take."""
    said = ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=count, error_message=message)
    )
    assert otlp.rejected(said.SerializeToString()) == (count, message)


@given(st.binary(max_size=60))
def test_any_answer_can_be_read(answer: bytes) -> None:
    """A proxy's page instead of protobuf is no rejection, and never an exception."""
    count, _ = otlp.rejected(answer)
    assert isinstance(count, int)


def test_a_tenth_of_the_time_of_the_stock_exporter() -> None:
    """The same spans, in the same run, by OpenTelemetry's SDK and by us; printed, and held to a fifth."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource(dict(SETTINGS.resource)), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("tocsin")
    ours = [facts(server(), path=f"/items/{number}") for number in range(256)]
    for each in ours:
        tracer.start_span("GET /items/{item}", attributes=http.attributes_of(each, DEFAULT)).end()  # type: ignore[arg-type]
    theirs = memory.get_finished_spans()
    encoder = otlp.Encoder(SETTINGS)

    def best(work: Any) -> float:
        times = []
        for _ in range(5):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        return min(times) / 256 * 1e6

    stock = best(lambda: encode_spans(theirs).SerializeToString())
    own = best(lambda: encoder.request(ours))
    print(f"one span: stock {stock:.1f} us, ours {own:.2f} us")
    assert own < stock / 5
