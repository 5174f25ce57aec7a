"""What requests made with requests are recorded as, against real servers; and the trace they carry."""

from __future__ import annotations

import asyncio
import pickle
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import requests
from prometheus_client import CollectorRegistry
from requests.adapters import HTTPAdapter
from requests.auth import HTTPDigestAuth
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from tocsin import names
from tocsin.integrations.requests import instrument, uninstrument
from tocsin.metrics.families import families_of
from tocsin.request import CURRENT, Current
from tocsin.tracing.context import Trace

TRACE = Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True, "vendor=1")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NAME = names.HTTP_CLIENT_REQUEST_DURATION.name
Counted = dict[tuple[str, ...], int]


async def headers(request: Request) -> Response:
    """Say what came, each header that was sent twice too."""
    return JSONResponse([[name.decode(), value.decode()] for name, value in request.headers.raw])


async def moved(request: Request) -> Response:
    return RedirectResponse("/headers", 302)


async def digest(request: Request) -> Response:
    if "authorization" in request.headers:
        return await headers(request)
    return Response(status_code=401, headers={"www-authenticate": 'Digest realm="shop", nonce="1", qop="auth"'})


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
    handlers = (headers, moved, digest, slow, drip)
    routes = [Route(f"/{handler.__name__}", handler, methods=["GET", "POST", "BREW"]) for handler in handlers]
    return serve(Starlette(routes=routes), timeout_graceful_shutdown=0)


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Every test ends with requests as it was."""
    found = HTTPAdapter.send, requests.Session.get_adapter
    yield
    uninstrument()
    assert found == (HTTPAdapter.send, requests.Session.get_adapter)


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session
    uninstrument(session)


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


def sent(response: requests.Response, name: str) -> list[str]:
    return [value for found, value in response.json() if found == name]


# --- metrics ------------------------------------------------------------------


def test_requests_are_counted_by_server_and_status(
    server: str, session: requests.Session, registry: CollectorRegistry
) -> None:
    """The server's name without port and path; what was not found is an answer like others."""
    instrument(session, registry=registry)
    session.get(f"{server}/headers?page=1")
    session.post(f"{server}/headers", json={})
    session.get(f"{server}/missing")
    assert counted(registry) == {
        ("GET", "127.0.0.1", "200", ""): 1,
        ("POST", "127.0.0.1", "200", ""): 1,
        ("GET", "127.0.0.1", "404", ""): 1,
    }


def test_each_redirect_and_each_login_is_a_request(
    server: str, session: requests.Session, registry: CollectorRegistry
) -> None:
    """Everything that goes over the wire is counted, once."""
    instrument(session, registry=registry)
    assert session.get(f"{server}/moved").status_code == 200
    assert session.get(f"{server}/digest", auth=HTTPDigestAuth("shop", "secret")).status_code == 200
    assert counted(registry) == {
        ("GET", "127.0.0.1", "302", ""): 1,
        ("GET", "127.0.0.1", "200", ""): 2,
        ("GET", "127.0.0.1", "401", ""): 1,
    }


def test_a_request_without_an_answer_is_counted_under_its_error(
    server: str, session: requests.Session, registry: CollectorRegistry
) -> None:
    """Refused, or too late: no status, but the reason; and the application sees the same exception as ever."""
    instrument(session, registry=registry)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(requests.ConnectionError):
            session.get(f"http://LOCALHOST:{closed.getsockname()[1]}")
    with pytest.raises(requests.ReadTimeout):
        session.get(f"{server}/slow", timeout=(20, 0.1))
    assert counted(registry) == {
        ("GET", "localhost", "", "requests.exceptions.ConnectionError"): 1,
        ("GET", "127.0.0.1", "", "requests.exceptions.ReadTimeout"): 1,
    }


def test_what_is_no_request_is_not_counted(session: requests.Session, registry: CollectorRegistry) -> None:
    """A URL that cannot be asked for is the application's error, and goes nowhere."""
    instrument(session, registry=registry)
    for url, error in (("ftp://shop.example", requests.exceptions.InvalidSchema), ("http://[", ValueError)):
        with pytest.raises(error):
            session.get(url)
    assert counted(registry) == {}


def test_the_duration_ends_with_the_headers_of_the_answer(
    server: str, session: requests.Session, registry: CollectorRegistry
) -> None:
    """How slowly a body comes or is read is not the time of the request."""
    instrument(session, registry=registry)
    began = time.perf_counter()
    assert session.get(f"{server}/drip").content == b"drop" * 5
    with session.get(f"{server}/drip", stream=True) as response:
        assert counted(registry) == {("GET", "127.0.0.1", "200", ""): 2}
        assert b"".join(response.iter_content(4)) == b"drop" * 5
    took = sum(s.value for f in registry.collect() for s in f.samples if s.name == f"{NAME}_sum")
    assert took < time.perf_counter() - began - 0.6


def test_made_up_methods_share_one_label(server: str, session: requests.Session, registry: CollectorRegistry) -> None:
    """What an application takes from its users cannot make series without end."""
    instrument(session, registry=registry)
    session.request("BREW", f"{server}/headers")
    assert counted(registry) == {("_OTHER", "127.0.0.1", "200", ""): 1}


# --- traces -------------------------------------------------------------------


@pytest.mark.usefixtures("inside")
def test_a_request_carries_the_trace_on(server: str, session: requests.Session, registry: CollectorRegistry) -> None:
    """Over redirects too, once each; and the trace is the example of the duration."""
    instrument(session, registry=registry)
    response = session.get(f"{server}/moved")
    assert sent(response, "traceparent") == [TRACEPARENT]
    assert sent(response, "tracestate") == ["vendor=1"]
    examples = {s.exemplar.labels["trace_id"] for f in registry.collect() for s in f.samples if s.exemplar}
    assert examples == {TRACE.trace_id}


def test_a_request_that_is_sent_again_carries_the_trace_it_is_sent_in(
    server: str, session: requests.Session, registry: CollectorRegistry
) -> None:
    """Not the one of its first time; and none outside of one."""
    instrument(session, registry=registry)
    request = session.prepare_request(requests.Request("GET", f"{server}/headers"))
    for trace in (TRACE, Trace("c" * 32, "d" * 16, True)):
        token = CURRENT.set(Current(trace, families_of(registry), None))
        assert [trace.trace_id in value for value in sent(session.send(request), "traceparent")] == [True]
        CURRENT.reset(token)
    response = session.send(request)
    assert sent(response, "traceparent") == sent(response, "tracestate") == []


@pytest.mark.usefixtures("inside")
def test_a_trace_that_is_there_already_is_left_alone(
    server: str, session: requests.Session, registry: CollectorRegistry
) -> None:
    """Set by the application, or by OpenTelemetry's instrumentation, which comes before us."""
    instrument(session, registry=registry)
    response = session.get(f"{server}/headers", headers={"Traceparent": "00-mine"})
    assert sent(response, "traceparent") == ["00-mine"]
    assert sent(response, "tracestate") == []


def test_outside_of_a_request_there_is_no_trace(
    server: str, session: requests.Session, registry: CollectorRegistry
) -> None:
    """No header is better than the beginning of a trace that has nothing else in it."""
    instrument(session, registry=registry)
    assert sent(session.get(f"{server}/headers"), "traceparent") == []


# --- in and out ---------------------------------------------------------------


def test_only_the_session_that_was_named_is_recorded(
    server: str, session: requests.Session, registry: CollectorRegistry
) -> None:
    """Twice is once, and after `uninstrument` nothing of ours is left."""
    original = HTTPAdapter.send
    instrument(session, registry=registry)
    instrument(session, registry=registry)
    requests.get(f"{server}/headers", timeout=10)
    assert counted(registry) == {}
    session.get(f"{server}/headers")
    uninstrument(session)
    uninstrument(session)
    session.get(f"{server}/headers")
    assert counted(registry) == {("GET", "127.0.0.1", "200", ""): 1}
    assert HTTPAdapter.send is original


def test_without_a_session_all_are_recorded(
    server: str, session: requests.Session, registry: CollectorRegistry
) -> None:
    """Those that were made before, those made later, and the functions of the module."""
    instrument(registry=registry)
    session.get(f"{server}/headers")
    requests.get(f"{server}/headers", timeout=10)
    with requests.Session() as later:
        later.get(f"{server}/headers")
    assert counted(registry) == {("GET", "127.0.0.1", "200", ""): 3}
    uninstrument()
    session.get(f"{server}/headers")
    assert counted(registry) == {("GET", "127.0.0.1", "200", ""): 3}


def test_adapters_mounted_later_hooks_and_pickling_work_as_before(
    server: str, session: requests.Session, registry: CollectorRegistry
) -> None:
    """The session's own ways are its own, and there is nothing of ours in it."""
    heard: list[int] = []
    instrument(session, registry=registry)
    session.get(f"{server}/headers")
    copy = pickle.loads(pickle.dumps(session))  # noqa: S301  # our own bytes
    session.mount("http://", HTTPAdapter(max_retries=2))
    session.hooks["response"].append(lambda response, **options: heard.append(response.status_code))
    session.get(f"{server}/headers")
    assert heard == [200]
    assert counted(registry) == {("GET", "127.0.0.1", "200", ""): 2}
    with copy:
        assert copy.get(f"{server}/headers").status_code == 200
    assert counted(registry) == {("GET", "127.0.0.1", "200", ""): 2}
