"""What counts as one WSGI request, when it is over, and under which status. In process; test_wsgi_servers.py has real
servers.
"""

from __future__ import annotations

import contextvars
import io
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.contextvars import bind_contextvars, get_contextvars

import tocsin
from tocsin.names import HTTP_SERVER_EXCEPTIONS
from tocsin.request import CURRENT
from tocsin.testing import Capture, active, counted, dropped, seconds

Start = Callable[..., Any]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Reply:
    """What a server would have sent."""

    status: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    starts: int = 0


def environ_of(path: str, method: str = "GET", **more: Any) -> dict[str, Any]:
    path, _, query = path.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path.encode().decode("latin-1"),
        "QUERY_STRING": query,
        "REMOTE_ADDR": "192.0.2.7",
    }
    setup_testing_defaults(environ)
    environ.update(more)
    return environ


def begin(app: Any, path: str = "/", method: str = "GET", **more: Any) -> tuple[Reply, Any]:
    """Call the application and take nothing of its answer: return its head and its body."""
    reply = Reply()

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        if exc_info and reply.body:
            raise exc_info[1]
        assert exc_info or not reply.starts, "started twice"
        reply.status, reply.headers = status, headers
        reply.starts += 1

        def write(data: bytes) -> None:
            reply.body += data

        return write

    return reply, app(environ_of(path, method, **more), start_response)


def call(app: Any, path: str = "/", method: str = "GET", **more: Any) -> Reply:
    """Do what a server does: call, take everything, close."""
    reply, body = begin(app, path, method, **more)
    try:
        for chunk in body:
            reply.body += chunk
    finally:
        if hasattr(body, "close"):
            body.close()
    return reply


def exceptions(registry: CollectorRegistry) -> dict[tuple[str, str, str], int]:
    name = HTTP_SERVER_EXCEPTIONS.name
    return {
        (s.labels["http_request_method"], s.labels["http_route"], s.labels["error_type"]): int(s.value)
        for metric in registry.collect()
        for s in metric.samples
        if s.name == name
    }


@dataclass
class Given:
    """An instrumented application with what it is recorded in."""

    registry: CollectorRegistry
    lines: Capture

    def wrap(self, app: Any, **options: Any) -> Any:
        return tocsin.instrument(app, registry=self.registry, log_stream=self.lines, **options)

    @property
    def counted(self) -> dict[tuple[str, str, str], int]:
        assert active(self.registry) == 0, "still in flight"
        assert dropped(self.registry) == {}
        return counted(self.registry)

    @property
    def line(self) -> dict[str, Any]:
        (line,) = self.lines.access
        return line


@pytest.fixture
def given(registry: CollectorRegistry, lines: Capture) -> Given:
    return Given(registry, lines)


def ok(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


def test_a_request_is_counted_once_and_the_answer_is_untouched(given: Given) -> None:
    """One request: one count, one access line, nothing in flight; both sides keep to PEP 3333."""
    checked = validator(ok)  # takes any arguments, and would pass for ASGI

    def app_of(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        return checked(environ, start_response)

    app = validator(given.wrap(app_of))
    reply = call(app, "/things?token=abc", HTTP_TRACEPARENT=TRACEPARENT)
    assert (reply.status, reply.body) == ("200 OK", b"ok")
    assert given.counted == {("GET", "", "200"): 1}
    assert given.line["url.path"] == "/things"
    assert given.line["client.ip"] == "192.0.2.7"
    assert given.line["trace.id"] == "0af7651916cd43dd8448eb211c80319c"
    assert seconds(given.registry) > 0


def fails_at_once(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    raise RuntimeError("boom")


def fails_after_start(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    start_response("200 OK", [])
    raise RuntimeError("boom")


def fails_in_generator(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"half"
    raise RuntimeError("boom")


def fails_before_first_piece(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
    if environ:
        raise RuntimeError("boom")
    yield b""


@pytest.mark.parametrize(
    "app",
    [fails_at_once, fails_after_start, fails_in_generator, fails_before_first_piece],
    ids=lambda app: app.__name__,
)
def test_an_exception_is_counted_once_as_500_and_raised_again(app: Any, given: Given) -> None:
    """Before, in and after the head of the answer; the access line says what it was."""
    with pytest.raises(RuntimeError, match="boom"):
        call(given.wrap(app))
    assert given.counted == {("GET", "", "500"): 1}
    assert exceptions(given.registry) == {("GET", "", "RuntimeError"): 1}
    assert given.line["log.level"] == "error"
    assert given.line["error.message"] == "boom"


class Closing:
    """A body that notes when it is closed, and may fail at that."""

    def __init__(self, pieces: list[bytes], error: Exception | None = None) -> None:
        self._pieces = iter(pieces)
        self._error = error
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        self.closed += 1
        if self._error is not None:
            raise self._error


def test_an_exception_after_the_answer_is_counted_and_the_request_keeps_its_status(given: Given) -> None:
    """`close()` of the body is what background tasks are elsewhere: the client had its answer."""
    body = Closing([b"ok"], RuntimeError("late"))

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        return body

    with pytest.raises(RuntimeError, match="late"):
        call(given.wrap(app))
    assert body.closed == 1
    assert given.counted == {("GET", "", "200"): 1}
    assert exceptions(given.registry) == {("GET", "", "RuntimeError"): 1}
    assert given.line["http.response.status_code"] == 200


def test_the_duration_ends_with_the_last_piece_not_with_close(given: Given) -> None:
    """A stream is measured whole, and passed on piece by piece; what `close` does is no time the client waited."""
    taken: list[float] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            for _ in range(3):
                time.sleep(0.03)
                yield b"x"

        def close(self) -> None:
            time.sleep(0.5)

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body()

    _, body = begin(given.wrap(app))
    began = time.perf_counter()
    for _ in body:
        taken.append(time.perf_counter() - began)
        assert active(given.registry) == 1
    body.close()
    assert len(taken) == 3
    assert taken[2] - taken[0] >= 0.05
    assert given.counted == {("GET", "", "200"): 1}
    assert 0.09 <= seconds(given.registry) < 0.45


@pytest.mark.parametrize("taken", [0, 1])
def test_a_client_that_goes_away_is_counted_as_499(taken: int, given: Given) -> None:
    """A server closes a body before its end because nobody is left to send it to."""

    def app(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "3")])
        for _ in range(3):
            yield b"x"

    _, body = begin(given.wrap(app), "/")
    for _ in range(taken):
        next(iter(body))
    body.close()
    assert given.counted == {("GET", "", "499"): 1}
    assert given.line["log.level"] == "info"


def test_an_error_of_the_connection_is_a_client_that_went_away(given: Given) -> None:
    """Servers close the body while the error of the broken pipe passes; the one piece was taken, and reached nobody."""
    _, body = begin(given.wrap(ok))

    def serve() -> None:
        try:
            assert next(iter(body)) == b"ok"
            raise BrokenPipeError
        finally:
            body.close()

    with pytest.raises(BrokenPipeError):
        serve()
    assert given.counted == {("GET", "", "499"): 1}


def test_a_generator_closed_early_is_closed_inside_its_request(given: Given) -> None:
    """What the application logs while it tidies up still belongs to the request."""
    log = tocsin.get_logger()

    def app(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x"
        finally:
            log.info("tidied")

    _, body = begin(given.wrap(app), HTTP_TRACEPARENT=TRACEPARENT)
    assert next(iter(body)) == b"x"
    body.close()
    (tidied,) = given.lines.application
    assert tidied["trace.id"] == "0af7651916cd43dd8448eb211c80319c"
    assert given.counted == {("GET", "", "499"): 1}
    assert CURRENT.get() is None


@pytest.mark.parametrize(
    ("method", "status", "headers"),
    [
        ("HEAD", "200 OK", [("Content-Length", "2")]),
        ("GET", "204 No Content", []),
        ("GET", "304 Not Modified", []),
        ("GET", "200 OK", [("Content-Length", "0")]),
    ],
)
def test_servers_need_not_take_a_body_that_is_not_sent(
    method: str, status: str, headers: list[tuple[str, str]], given: Given
) -> None:
    """Closed without being asked for: nothing is missing of such an answer."""

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response(status, headers)
        return []

    begin(given.wrap(app), method=method)[1].close()
    assert given.counted == {(method, "", status[:3]): 1}


def test_start_response_may_come_late_and_twice(given: Given) -> None:
    """With the first piece, and again with `exc_info` if an error comes before it is sent; the last status counts."""

    def app(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        try:
            start_response("200 OK", [])
            raise ValueError("no data")
        except ValueError as error:
            start_response("503 Service Unavailable", [], (type(error), error, error.__traceback__))
        yield b"sorry"

    reply = call(given.wrap(app))
    assert (reply.status, reply.body, reply.starts) == ("503 Service Unavailable", b"sorry", 2)
    assert given.counted == {("GET", "", "503"): 1}


def test_start_response_after_the_head_was_sent_raises_the_error_through_the_application(given: Given) -> None:
    """The server raises the exception it is given; the status that went out is no more the status that counts."""

    def app(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"half"
        error = ValueError("no more data")
        start_response("503 Service Unavailable", [], (type(error), error, None))

    with pytest.raises(ValueError, match="no more data"):
        call(given.wrap(app))
    assert given.counted == {("GET", "", "500"): 1}
    assert exceptions(given.registry) == {("GET", "", "ValueError"): 1}


def test_the_write_callable_works(given: Given) -> None:
    """Old applications write what they have to say; the size counts too."""

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Length", "5")])
        write(b"abc")
        return [b"de"]

    layer = given.wrap(app, names="instrumentator")
    assert call(layer).body == b"abcde"
    sizes = [
        sample.value
        for metric in given.registry.collect()
        for sample in metric.samples
        if sample.name == "http_response_size_bytes_sum"
    ]
    assert sizes == [5]


def test_a_write_to_nobody_is_499(given: Given) -> None:
    """`write` raises when the client went away."""

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])(b"x")
        return []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            raise ConnectionResetError

        return write

    with pytest.raises(ConnectionResetError):
        given.wrap(app)(environ_of("/"), start_response)
    assert given.counted == {("GET", "", "499"): 1}


def test_an_application_that_never_answers_is_counted_as_500(given: Given) -> None:
    """The server answers 500 in its place."""

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        return []

    call(given.wrap(app))
    assert given.counted == {("GET", "", "500"): 1}


@pytest.mark.parametrize("body", [None, 7])
def test_what_is_no_body_fails_where_it_failed_before(body: Any, given: Given) -> None:
    """The server finds out, as it would without us; the request is counted as failed."""

    def app(environ: dict[str, Any], start_response: Start) -> Any:
        start_response("200 OK", [])
        return body

    with pytest.raises(TypeError):
        call(given.wrap(app))
    assert given.counted == {("GET", "", "500"): 1}


def test_a_body_of_one_piece_still_has_its_length(given: Given) -> None:
    """Servers take it as the Content-Length if the application gave none; a generator has none."""
    assert len(begin(given.wrap(ok))[1]) == 1

    def streams(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"x"

    assert not hasattr(begin(given.wrap(streams))[1], "__len__")


def test_the_servers_file_wrapper_is_passed_through(given: Given) -> None:
    """The very object goes to the server, which may let the kernel send it; the request ends when it is closed."""
    file = io.BytesIO(b"x" * 5_000_000)
    made: list[Any] = []

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5000000")])
        made.append(environ["wsgi.file_wrapper"](file))
        return made[0]  # type: ignore[no-any-return]

    _, body = begin(given.wrap(app), **{"wsgi.file_wrapper": FileWrapper})
    assert body is made[0]
    assert active(given.registry) == 1
    body.close()
    assert file.closed
    assert given.counted == {("GET", "", "200"): 1}
    assert CURRENT.get() is None


def test_pieces_pass_as_they_are(given: Given) -> None:
    """A five-megabyte piece is the same object on both sides: nothing is buffered or copied."""
    piece = b"x" * 5_000_000

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [piece]

    assert next(iter(begin(given.wrap(app))[1])) is piece


@pytest.mark.parametrize(
    ("method", "label"), [("QUERY", "QUERY"), ("BREW", "_OTHER"), ("get", "_OTHER"), ("", "_OTHER")]
)
def test_made_up_methods_share_one_label(method: str, label: str, given: Given) -> None:
    """A client cannot make series by making methods up."""
    call(given.wrap(ok), method=method)
    assert given.counted == {(label, "", "200"): 1}


@pytest.mark.parametrize(
    ("script", "info", "shown"),
    [
        ("", "/grün", "/grün"),
        ("", "", "/"),
        ("/shop", "/grün/weg", "/shop/grün/weg"),
        ("/bär", "", "/bär"),
        ("", "/\udcff", None),
    ],
)
def test_the_path_is_shown_as_the_client_meant_it(script: str, info: str, shown: str | None, given: Given) -> None:
    """The environ has the bytes of UTF-8 as Latin-1, in two parts; bytes that are no UTF-8 do no harm."""
    latin = info.encode("utf-8", "surrogateescape").decode("latin-1")
    call(given.wrap(ok), PATH_INFO=latin, SCRIPT_NAME=script.encode().decode("latin-1"))
    assert given.line["url.path"] == (shown if shown is not None else "/\ufffd")


def test_the_metrics_page_is_answered_in_place_of_the_application(given: Given) -> None:
    """Negotiated by the request's headers, under the root path, not counting itself, and without a body for HEAD."""
    layer = given.wrap(ok)
    app = validator(layer)
    call(app)
    page = call(app, "/metrics", SCRIPT_NAME="/shop")
    assert page.status == "200 OK"
    assert b"http_server_request_duration_seconds_count{" in page.body
    openmetrics = call(app, "/metrics", HTTP_ACCEPT="application/openmetrics-text; version=1.0.0")
    assert openmetrics.body.endswith(b"# EOF\n")
    assert call(app, "/metrics", "HEAD").body == b""
    assert call(layer, "/metrics", "POST").status == "405 Method Not Allowed"
    assert given.counted == {("GET", "", "200"): 1}


def test_excluded_paths_leave_no_trace(given: Given) -> None:
    """`exclude` takes exact paths, and with a star all that begin like this."""
    app = given.wrap(ok, exclude=("/healthz", "/internal/*"))
    for path in ("/healthz", "/internal/x", "/healthz/deep", "/internals"):
        assert call(app, path).status == "200 OK"
    assert [line["url.path"] for line in given.lines.access] == ["/healthz/deep", "/internals"]


def test_nested_layers_count_once(registry: CollectorRegistry, lines: Capture) -> None:
    """An instrumented application inside another one is watched by the outer."""
    outer, inner = Given(registry, lines), Given(tocsin.testing.fresh_registry(), Capture())
    middleware = inner.wrap(ok)

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        return middleware(environ, start_response)  # type: ignore[no-any-return]

    call(outer.wrap(app))
    assert outer.counted == {("GET", "", "200"): 1}
    assert counted(inner.registry) == {}


def test_instrumenting_twice_changes_nothing_and_uninstrument_gives_the_application_back(given: Given) -> None:
    """A bare callable is wrapped once; unwrapped, nothing is recorded."""
    app = given.wrap(ok)
    assert given.wrap(app) is app
    assert tocsin.uninstrument(app) is ok
    call(app)
    assert counted(given.registry) == {}


def test_a_dropped_answer_is_over(given: Given) -> None:
    """Middleware may put another answer in place of this one and forget to close it; the gauge goes back."""
    begin(given.wrap(ok))
    assert given.counted == {("GET", "", "200"): 1}


# --- what is current, and what is bound ----------------------------------------------------------------------------


def test_variables_bound_in_one_request_are_not_seen_in_the_next(given: Given) -> None:
    """Threads are used again; what the thread had bound before stays, and the line shows what the request bound."""
    seen: list[dict[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        seen.append(get_contextvars())
        bind_contextvars(user=environ["PATH_INFO"], worker="replaced")
        start_response("200 OK", [])
        yield b"x"

    layer = given.wrap(app)
    bind_contextvars(worker="w1")
    call(layer, "/a")
    call(layer, "/b")
    assert seen == [{"worker": "w1"}, {"worker": "w1"}]
    assert get_contextvars() == {"worker": "w1"}
    assert [(line["user"], line["worker"]) for line in given.lines.access] == [
        ("/a", "replaced"),
        ("/b", "replaced"),
    ]


def test_an_answer_closed_in_another_thread_leaves_no_trace_in_either(given: Given) -> None:
    """The other thread's own variables stay; the first thread is put in order with its next request."""
    seen: list[dict[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        seen.append(get_contextvars())
        bind_contextvars(user="ann")
        start_response("200 OK", [])
        return [b"ok"]

    layer = given.wrap(app)
    _, body = begin(layer)

    def finish() -> None:
        bind_contextvars(thread="other")
        list(body)
        body.close()
        seen.append(get_contextvars())

    thread = threading.Thread(target=finish)
    thread.start()
    thread.join()
    call(layer)
    assert seen == [{}, {"thread": "other"}, {}]
    assert get_contextvars() == {}
    assert CURRENT.get() is None
    assert given.counted == {("GET", "", "200"): 2}


def test_a_request_inside_a_request_is_one_of_its_own(given: Given) -> None:
    """A call in process has its own trace and variables; afterwards the outer one goes on as it was."""
    ids: list[str] = []

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/outer":
            bind_contextvars(user="ann")
            call(layer, "/inner")
        ids.append(tocsin.trace_headers()["traceparent"].split("-")[1])
        start_response("200 OK", [])
        return [b"ok"]

    layer = given.wrap(app)
    call(layer, "/outer")
    inner, outer = given.lines.access
    assert ids == [inner["trace.id"], outer["trace.id"]]
    assert "user" not in inner
    assert outer["user"] == "ann"
    assert given.counted == {("GET", "", "200"): 2}


def test_the_application_runs_in_the_context_of_its_thread(given: Given) -> None:
    """Frameworks keep connections in context variables for the next request: those must not be lost with a copy."""
    connection: contextvars.ContextVar[object] = contextvars.ContextVar("connection")

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        connection.set(connection.get(None) or object())
        seen.append(connection.get())
        start_response("200 OK", [])
        return [b"ok"]

    seen: list[object] = []
    layer = given.wrap(app)
    call(layer)
    call(layer)
    assert seen[0] is seen[1]


def test_threads_do_not_see_each_other(given: Given) -> None:
    """Many threads at once: every line has its own trace id, nothing is lost, nothing is in flight."""
    together = threading.Barrier(8)

    def app(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        structlog.contextvars.bind_contextvars(mine=environ["PATH_INFO"])
        together.wait(10)
        start_response("200 OK", [])
        yield tocsin.trace_headers()["traceparent"].encode()

    layer = given.wrap(app)
    parents: list[str] = []

    def run(number: int) -> None:
        parents.extend(call(layer, f"/{number}").body.decode() for _ in range(5))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert given.counted == {("GET", "", "200"): 40}
    assert {line["trace.id"] for line in given.lines.access} == {parent.split("-")[1] for parent in parents}
    assert all(line["mine"] == line["url.path"] for line in given.lines.access)


def test_headers_that_cannot_be_are_counted_and_the_answer_goes_out(given: Given) -> None:
    """A server may hand over anything: no trace then, but an answer."""
    app = given.wrap(ok)
    assert call(app, HTTP_TRACEPARENT="\u20ac").body == b"ok"
    assert counted(given.registry) == {("GET", "", "200"): 1}
    assert dropped(given.registry) == {("traces", "headers"): 1}


def test_added_labels_and_the_next_step_see_the_environ_after_the_application(given: Given) -> None:
    """`labels` takes functions of the environ, which may hold what the application left there."""

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        environ["shop.tenant"] = "blue"
        return ok(environ, start_response)

    call(given.wrap(app, labels={"tenant": lambda environ: environ["shop.tenant"]}))
    tenants = {
        sample.labels.get("tenant")
        for metric in given.registry.collect()
        for sample in metric.samples
        if sample.name == "http_server_request_duration_seconds_count"
    }
    assert tenants == {"blue"}
