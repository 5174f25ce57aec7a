"""What requests made with httpx are recorded as, against real servers; and the trace they carry."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, use_span
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from tocsin import names
from tocsin.integrations.httpx import instrument, uninstrument
from tocsin.metrics.families import families_of
from tocsin.request import CURRENT, Current
from tocsin.tracing.context import Trace

TRACE = Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True, "vendor=1")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REQUEST_SPAN = NonRecordingSpan(
    SpanContext(
        int(TRACE.trace_id, 16),
        int(TRACE.span_id, 16),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState([("vendor", "1")]),
    )
)
NAME = names.HTTP_CLIENT_REQUEST_DURATION.name
Counted = dict[tuple[str, str, str, str], int]


async def headers(request: Request) -> Response:
    """Say what came, each header that was sent twice too."""
    return JSONResponse([[name.decode(), value.decode()] for name, value in request.headers.raw])


async def moved(request: Request) -> Response:
    return RedirectResponse("/headers", 302)


async def missing(request: Request) -> Response:
    return Response(status_code=404)


async def slow(request: Request) -> Response:
    await asyncio.sleep(30)
    return Response()


async def drip(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(5):
            await asyncio.sleep(0.1)
            yield b"drop"

    return StreamingResponse(body())


@pytest.fixture
def server(serve: Callable[..., str]) -> str:
    """The base URL of a server that answers in several ways."""
    handlers = (headers, moved, missing, slow, drip)
    routes = [Route(f"/{handler.__name__}", handler, methods=["GET", "POST", "BREW"]) for handler in handlers]
    return serve(Starlette(routes=routes), timeout_graceful_shutdown=0)


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Every test ends with httpx as it was."""
    steps = httpx.Client._send_single_request, httpx.AsyncClient._send_single_request
    yield
    uninstrument()
    assert steps == (httpx.Client._send_single_request, httpx.AsyncClient._send_single_request)


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client
    uninstrument(client)


@pytest.fixture
def inside(registry: CollectorRegistry) -> Iterator[None]:
    """Run the test inside of a request with a trace."""
    token = CURRENT.set(Current(TRACE, families_of(registry), None))
    yield
    CURRENT.reset(token)


def counted(registry: CollectorRegistry) -> Counted:
    """Return how many requests were counted, by (method, server, status, error type)."""
    return {
        tuple(sample.labels[label] for label in names.HTTP_CLIENT_REQUEST_DURATION.labels): int(sample.value)
        for family in registry.collect()
        for sample in family.samples
        if sample.name == f"{NAME}_count"
    }


def seconds(registry: CollectorRegistry) -> float:
    return sum(s.value for family in registry.collect() for s in family.samples if s.name == f"{NAME}_sum")


def sent(response: httpx.Response, name: str) -> list[str]:
    return [value for found, value in response.json() if found == name]


# --- metrics ------------------------------------------------------------------


def test_requests_are_counted_by_server_and_status(
    server: str, client: httpx.Client, registry: CollectorRegistry
) -> None:
    """The server's name without port and path; what was not found is an answer like others."""
    instrument(client, registry=registry)
    client.get(f"{server}/headers?page=1")
    client.post(f"{server}/headers", json={})
    client.get(f"{server}/missing")
    assert counted(registry) == {
        ("GET", "127.0.0.1", "200", ""): 1,
        ("POST", "127.0.0.1", "200", ""): 1,
        ("GET", "127.0.0.1", "404", ""): 1,
    }


async def test_an_async_client_is_counted_likewise(server: str, registry: CollectorRegistry) -> None:
    """Also when many requests are under way at once."""
    async with httpx.AsyncClient() as client:
        instrument(client, registry=registry)
        await asyncio.gather(*(client.get(f"{server}/headers") for _ in range(5)))
        uninstrument(client)
    assert counted(registry) == {("GET", "127.0.0.1", "200", ""): 5}


def test_each_redirect_is_a_request(server: str, client: httpx.Client, registry: CollectorRegistry) -> None:
    """It goes over the wire, perhaps to another server, and takes its own time."""
    instrument(client, registry=registry)
    assert client.get(f"{server}/moved", follow_redirects=True).status_code == 200
    assert counted(registry) == {("GET", "127.0.0.1", "302", ""): 1, ("GET", "127.0.0.1", "200", ""): 1}


def test_a_request_without_an_answer_is_counted_under_its_error(
    server: str, client: httpx.Client, registry: CollectorRegistry
) -> None:
    """Refused, or too late: no status, but the reason; and the application sees the same exception as ever."""
    instrument(client, registry=registry)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(httpx.ConnectError):
            client.get(f"http://localhost:{closed.getsockname()[1]}")
    with pytest.raises(httpx.ReadTimeout):
        client.get(f"{server}/slow", timeout=httpx.Timeout(20.0, read=0.1))
    assert counted(registry) == {
        ("GET", "localhost", "", "httpx.ConnectError"): 1,
        ("GET", "127.0.0.1", "", "httpx.ReadTimeout"): 1,
    }


async def test_a_cancelled_request_is_counted(server: str, registry: CollectorRegistry) -> None:
    """Nobody waits for the answer any more."""
    async with httpx.AsyncClient() as client:
        instrument(client, registry=registry)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.get(f"{server}/slow")
        uninstrument(client)
    assert counted(registry) == {("GET", "127.0.0.1", "", "asyncio.exceptions.CancelledError"): 1}


def test_the_duration_ends_with_the_headers_of_the_answer(
    server: str, client: httpx.Client, registry: CollectorRegistry
) -> None:
    """How slowly a stream comes or is read is not the time of the request."""
    instrument(client, registry=registry)
    with client.stream("GET", f"{server}/drip") as response:
        assert counted(registry) == {("GET", "127.0.0.1", "200", ""): 1}
        assert response.read() == b"drop" * 5
    assert response.elapsed.total_seconds() >= 0.5
    assert seconds(registry) < response.elapsed.total_seconds() - 0.3


def test_made_up_methods_share_one_label(server: str, client: httpx.Client, registry: CollectorRegistry) -> None:
    """What an application takes from its users cannot make series without end."""
    instrument(client, registry=registry)
    client.request("BREW", f"{server}/headers")
    client.request("get", f"{server}/headers")
    assert counted(registry) == {("_OTHER", "127.0.0.1", "200", ""): 1, ("GET", "127.0.0.1", "200", ""): 1}


def test_servers_without_end_share_one_series(client: httpx.Client, registry: CollectorRegistry) -> None:
    """A crawler's thousands of servers stay within the limit of a family."""
    with httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200))) as crawler:
        instrument(crawler, registry=registry)
        for number in range(2_010):
            crawler.get(f"http://site-{number}.example/")
        uninstrument(crawler)
    assert counted(registry)[("_OTHER",) * 4] == 10


# --- traces -------------------------------------------------------------------


@pytest.mark.usefixtures("inside")
def test_a_request_carries_the_trace_on(server: str, client: httpx.Client, registry: CollectorRegistry) -> None:
    """Over redirects too, once each; and the trace is the example of the duration."""
    instrument(client, registry=registry)
    response = client.get(f"{server}/moved", follow_redirects=True)
    assert sent(response, "traceparent") == [TRACEPARENT]
    assert sent(response, "tracestate") == ["vendor=1"]
    examples = {s.exemplar.labels["trace_id"] for f in registry.collect() for s in f.samples if s.exemplar}
    assert examples == {TRACE.trace_id}


def test_a_request_that_is_sent_again_carries_the_trace_it_is_sent_in(
    server: str, client: httpx.Client, registry: CollectorRegistry
) -> None:
    """Not the one of its first time; and none outside of one."""
    instrument(client, registry=registry)
    request = client.build_request("GET", f"{server}/headers")
    for trace in (TRACE, Trace("c" * 32, "d" * 16, True)):
        token = CURRENT.set(Current(trace, families_of(registry), None))
        assert [trace.trace_id in value for value in sent(client.send(request), "traceparent")] == [True]
        CURRENT.reset(token)
    response = client.send(request)
    assert sent(response, "traceparent") == sent(response, "tracestate") == []


@pytest.mark.usefixtures("inside")
def test_a_trace_that_the_application_names_is_left_alone(
    server: str, client: httpx.Client, registry: CollectorRegistry
) -> None:
    """Who sets the header knows why."""
    instrument(client, registry=registry)
    response = client.get(f"{server}/headers", headers={"Traceparent": "00-mine"})
    assert sent(response, "traceparent") == ["00-mine"]
    assert sent(response, "tracestate") == []


def test_outside_of_a_request_there_is_no_trace(server: str, client: httpx.Client, registry: CollectorRegistry) -> None:
    """No header is better than the beginning of a trace that has nothing else in it."""
    instrument(client, registry=registry)
    assert sent(client.get(f"{server}/headers"), "traceparent") == []


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("first", ["tocsin", "opentelemetry"])
async def test_with_opentelemetrys_instrumentation_its_span_is_the_parent(
    server: str, client: httpx.Client, registry: CollectorRegistry, first: str
) -> None:
    """Whoever came first: exactly one header, and it names the client span, which is in the trace of the request."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    theirs = HTTPXClientInstrumentor()
    if first == "tocsin":
        instrument(registry=registry)
    theirs.instrument(tracer_provider=provider)
    try:
        instrument(registry=registry)
        with use_span(REQUEST_SPAN):
            answers = [await asyncio.to_thread(client.get, f"{server}/headers")]
            async with httpx.AsyncClient() as another:
                answers.append(await another.get(f"{server}/headers"))
    finally:
        theirs.uninstrument()
    made = [(f"{s.context.trace_id:032x}", f"{s.context.span_id:016x}") for s in spans.get_finished_spans()]
    assert [trace_id for trace_id, _ in made] == [TRACE.trace_id] * 2
    assert [[header[3:-3].split("-") for header in sent(answer, "traceparent")] for answer in answers] == [
        [[trace_id, span_id]] for trace_id, span_id in made
    ]
    assert [sent(answer, "tracestate") for answer in answers] == [["vendor=1"]] * 2
    assert counted(registry) == {("GET", "127.0.0.1", "200", ""): 2}


# --- in and out ---------------------------------------------------------------


def test_only_the_client_that_was_named_is_recorded(
    server: str, client: httpx.Client, registry: CollectorRegistry
) -> None:
    """Twice is once, and after `uninstrument` nothing of ours is left."""
    original = httpx.Client._send_single_request
    instrument(client, registry=registry)
    instrument(client, registry=registry)
    with httpx.Client() as other:
        other.get(f"{server}/headers")
    assert counted(registry) == {}
    client.get(f"{server}/headers")
    uninstrument(client)
    uninstrument(client)
    client.get(f"{server}/headers")
    assert counted(registry) == {("GET", "127.0.0.1", "200", ""): 1}
    assert httpx.Client._send_single_request is original


def test_without_a_client_all_are_recorded(server: str, client: httpx.Client, registry: CollectorRegistry) -> None:
    """Those that were made before, those made later, and httpx's own functions."""
    instrument(registry=registry)
    client.get(f"{server}/headers")
    httpx.get(f"{server}/headers")
    with httpx.Client() as later:
        later.get(f"{server}/headers")
    assert counted(registry) == {("GET", "127.0.0.1", "200", ""): 3}
    uninstrument()
    client.get(f"{server}/headers")
    assert counted(registry) == {("GET", "127.0.0.1", "200", ""): 3}


def test_hooks_mounts_and_authentication_work_as_before(server: str, registry: CollectorRegistry) -> None:
    """The client's own ways are its own: each hook is called once for each request, and mounts are counted too."""
    heard: list[str] = []

    def teapot(request: httpx.Request) -> httpx.Response:
        return httpx.Response(418, headers={"x-user": request.headers.get("authorization", "")})

    with httpx.Client(
        mounts={"all://mounted.example": httpx.MockTransport(teapot)},
        event_hooks={
            "request": [lambda request: heard.append(f"> {request.url.path}")],
            "response": [lambda response: heard.append(f"< {response.status_code}")],
        },
        auth=("shop", "secret"),
    ) as client:
        instrument(client, registry=registry)
        assert client.get("http://mounted.example/tea").headers["x-user"].startswith("Basic ")
        client.get(f"{server}/moved", follow_redirects=True)
        assert list(client.event_hooks) == ["request", "response"]
        uninstrument(client)
    assert heard == ["> /tea", "< 418", "> /moved", "< 302", "> /headers", "< 200"]
    assert counted(registry)["GET", "mounted.example", "418", ""] == 1


def test_another_wrapper_around_ours_stays(
    server: str, client: httpx.Client, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another library has put around ours is not torn away, and instrumenting again counts once."""
    instrument(client, registry=registry)
    ours = httpx.Client._send_single_request
    heard: list[str] = []

    def theirs(self: httpx.Client, request: httpx.Request) -> httpx.Response:
        heard.append(request.method)
        return ours(self, request)

    with monkeypatch.context() as patched:
        patched.setattr(httpx.Client, "_send_single_request", theirs)
        uninstrument(client)
        client.get(f"{server}/headers")
        assert counted(registry) == {}
        instrument(client, registry=registry)
        client.get(f"{server}/headers")
        assert heard == ["GET", "GET"]
        assert counted(registry) == {("GET", "127.0.0.1", "200", ""): 1}
    uninstrument(client)
