"""What counts as one request, when it is over, and under which status. In process; test_servers.py has real servers."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import structlog
from fastapi import BackgroundTasks, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import tocsin
from tocsin.bound import Found
from tocsin.metrics.families import families_of
from tocsin.request import Current, _Now
from tocsin.testing import Answer, Capture, active, call, counted, dropped, seconds


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application without a framework."""
    if scope["path"] == "/boom":
        raise RuntimeError("boom")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def starlette() -> Starlette:
    async def boom(request: Request) -> Response:
        raise RuntimeError("boom")

    async def ok(request: Request) -> Response:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/", ok), Route("/boom", boom)])


def fastapi() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    def ok() -> str:
        return "ok"

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("boom")

    return app


APPS = pytest.mark.parametrize("make", [lambda: bare, starlette, fastapi], ids=["bare", "starlette", "fastapi"])


@APPS
async def test_a_request_is_counted_once(make: Callable[[], Any], registry: CollectorRegistry, lines: Capture) -> None:
    """One request: one count, one access line, nothing in flight afterwards."""
    app = tocsin.instrument(make(), registry=registry, log_stream=lines)
    assert (await call(app, "/")).status == 200
    route = "" if make() is bare else "/"
    assert counted(registry) == {("GET", route, "200"): 1}
    assert active(registry) == 0
    assert len(lines.access) == 1
    assert dropped(registry) == {}


@APPS
async def test_an_exception_is_counted_once_as_500_and_raised_again(
    make: Callable[[], Any], registry: CollectorRegistry, lines: Capture
) -> None:
    """The server above still sees the exception; the access line says what it was."""
    app = tocsin.instrument(make(), registry=registry, log_stream=lines)
    with pytest.raises(RuntimeError, match="boom"):
        await call(app, "/boom")
    assert [status for _, _, status in counted(registry)] == ["500"]
    assert sum(counted(registry).values()) == 1
    assert active(registry) == 0
    (line,) = lines.access
    assert line["log.level"] == "error"
    assert line["error.type"] == "RuntimeError"
    assert line["error.message"] == "boom"
    assert 'raise RuntimeError("boom")' in line["error.stack_trace"]


async def test_expected_errors_are_not_exceptions(registry: CollectorRegistry, lines: Capture) -> None:
    """HTTPException, a refused body and a wrong method are answers like others: counted, level info."""
    app = FastAPI()

    @app.get("/teapot")
    def teapot() -> None:
        raise HTTPException(418)

    @app.get("/number/{n}")
    def number(n: int) -> int:
        return n

    tocsin.instrument(app, registry=registry, log_stream=lines)
    await call(app, "/teapot")
    await call(app, "/number/x")
    await call(app, "/number/1", method="DELETE")
    assert counted(registry) == {
        ("GET", "/teapot", "418"): 1,
        ("GET", "/number/{n}", "422"): 1,
        ("DELETE", "/number/{n}", "405"): 1,
    }
    assert {line["log.level"] for line in lines.access} == {"info"}
    assert all("error.type" not in line for line in lines.access)


async def test_a_handled_exception_is_what_its_handler_answers(registry: CollectorRegistry, lines: Capture) -> None:
    """A custom handler for Exception runs inside the trace, and its status is the one that counts."""
    seen: list[dict[str, str]] = []

    async def sorry(request: Request, error: Exception) -> Response:
        seen.append(tocsin.trace_headers())
        return PlainTextResponse("sorry", 503)

    app = fastapi()
    app.add_exception_handler(Exception, sorry)
    tocsin.instrument(app, registry=registry, log_stream=lines)
    with pytest.raises(RuntimeError):
        await call(app, "/boom")
    assert counted(registry) == {("GET", "/boom", "503"): 1}
    assert lines.access[0]["trace.id"] in seen[0]["traceparent"]
    assert lines.access[0]["error.type"] == "RuntimeError"


async def test_the_duration_ends_with_the_last_byte_not_with_background_tasks(
    registry: CollectorRegistry, lines: Capture
) -> None:
    """What runs after the answer is not time the client waited; the line is written before it."""
    app = FastAPI()
    written: list[int] = []

    async def later() -> None:
        await asyncio.sleep(0.5)
        written.append(len(lines.access))

    @app.get("/")
    async def answer(tasks: BackgroundTasks) -> str:
        tasks.add_task(later)
        return "ok"

    tocsin.instrument(app, registry=registry, log_stream=lines)
    began = time.perf_counter()
    await call(app, "/")
    assert time.perf_counter() - began >= 0.5
    assert seconds(registry) < 0.45
    assert written == [1]


async def test_a_failing_background_task_is_not_a_second_request(registry: CollectorRegistry, lines: Capture) -> None:
    """The client had its answer; the exception goes on to the server, and is told once with the request's ids."""
    app = FastAPI()

    def fail() -> None:
        raise RuntimeError("later")

    @app.get("/")
    async def answer(tasks: BackgroundTasks) -> str:
        tasks.add_task(fail)
        return "ok"

    tocsin.instrument(app, registry=registry, log_stream=lines)
    with pytest.raises(RuntimeError, match="later"):
        await call(app, "/")
    assert counted(registry) == {("GET", "/", "200"): 1}
    (access,), (after,) = lines.access, lines.application
    assert after["message"] == "GET / failed after its answer 200"
    assert (after["log.level"], after["error.type"]) == ("error", "RuntimeError")
    assert after["trace.id"] == access["trace.id"]


def streaming(chunks: int, pause: float, *, fail: bool = False) -> FastAPI:
    app = FastAPI()

    async def body() -> AsyncIterator[bytes]:
        for _ in range(chunks):
            yield b"x"
            await asyncio.sleep(pause)
        if fail:
            raise RuntimeError("halfway")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(body())

    return app


async def test_a_stream_lasts_until_its_last_byte(registry: CollectorRegistry, lines: Capture) -> None:
    """Streams are measured whole, and passed on chunk by chunk."""
    app = tocsin.instrument(streaming(3, 0.05), registry=registry, log_stream=lines)
    answer = await call(app, "/stream")
    assert answer.body == b"xxx"
    assert len(answer.messages) > 3
    assert seconds(registry) >= 0.15
    assert counted(registry) == {("GET", "/stream", "200"): 1}


async def test_a_stream_that_breaks_is_counted_as_500(registry: CollectorRegistry, lines: Capture) -> None:
    """The status line said 200, the client got half of it: that is an error of ours."""
    app = tocsin.instrument(streaming(1, 0, fail=True), registry=registry, log_stream=lines)
    with pytest.raises(RuntimeError, match="halfway"):
        await call(app, "/stream")
    assert counted(registry) == {("GET", "/stream", "500"): 1}
    assert active(registry) == 0


async def test_a_client_that_goes_away_is_counted_as_499(registry: CollectorRegistry, lines: Capture) -> None:
    """A disconnect in the middle of a stream ends the request; it is not the server's error."""
    app = tocsin.instrument(streaming(1_000, 0.001), registry=registry, log_stream=lines)
    await call(app, "/stream", disconnect_after=2)
    assert counted(registry) == {("GET", "/stream", "499"): 1}
    assert active(registry) == 0
    assert lines.access[0]["log.level"] == "info"


async def test_a_cancelled_request_is_counted_and_leaves_nothing_in_flight(
    registry: CollectorRegistry, lines: Capture
) -> None:
    """Servers cancel on shutdown and time-out: the gauge goes back, the cancellation goes on."""
    entered = asyncio.Event()

    async def hang(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    app = tocsin.instrument(hang, registry=registry, log_stream=lines)
    task = asyncio.create_task(call(app))
    await entered.wait()
    assert active(registry) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert active(registry) == 0
    assert counted(registry) == {("GET", "", "499"): 1}


async def test_an_application_that_answers_nothing_is_counted_as_500(
    registry: CollectorRegistry, lines: Capture
) -> None:
    """The server answers 500 in its place."""

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        return

    await call(tocsin.instrument(silent, registry=registry, log_stream=lines))
    assert counted(registry) == {("GET", "", "500"): 1}


@pytest.mark.parametrize(
    ("start", "rest"),
    [
        ({}, [{"type": "http.response.pathsend", "path": "/tmp/x"}]),
        (
            {},
            [
                {"type": "http.response.zerocopysend", "file": 3, "more_body": True},
                {"type": "http.response.zerocopysend", "file": 3},
            ],
        ),
        (
            {"trailers": True},
            [
                {"type": "http.response.body", "body": b"x"},
                {"type": "http.response.trailers", "headers": [], "more_trailers": False},
            ],
        ),
    ],
    ids=["pathsend", "zerocopysend", "trailers"],
)
async def test_other_ends_of_an_answer_are_ends(
    start: dict[str, Any], rest: list[dict[str, Any]], registry: CollectorRegistry, lines: Capture
) -> None:
    """A file sent by the server, or trailers after the body, end a request too."""
    counts: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], **start})
        for message in rest:
            counts.append(len(lines.access))
            await send(message)
        counts.append(len(lines.access))

    await call(tocsin.instrument(app, registry=registry, log_stream=lines))
    assert counts[-1] == 1
    assert set(counts[:-1]) == {0}
    assert counted(registry) == {("GET", "", "200"): 1}


@pytest.mark.parametrize(
    ("method", "label"), [("QUERY", "QUERY"), ("BREW", "_OTHER"), ("get", "_OTHER"), ("", "_OTHER")]
)
async def test_made_up_methods_share_one_label(
    method: str, label: str, registry: CollectorRegistry, lines: Capture
) -> None:
    """A client cannot make series by making methods up."""
    await call(tocsin.instrument(bare, registry=registry, log_stream=lines), method=method)
    assert counted(registry) == {(label, "", "200"): 1}


async def test_excluded_paths_leave_no_trace(registry: CollectorRegistry, lines: Capture) -> None:
    """`exclude` takes exact paths, and with a star all that begin like this."""
    app = tocsin.instrument(bare, registry=registry, log_stream=lines, exclude=("/healthz", "/internal/*"))
    for path in ("/healthz", "/internal/x", "/healthz/deep", "/internals"):
        assert (await call(app, path)).status == 200
    assert [line["url.path"] for line in lines.access] == ["/healthz/deep", "/internals"]


async def test_base_http_middleware_changes_nothing(registry: CollectorRegistry, lines: Capture) -> None:
    """Middleware that runs the application in another task neither hides routes nor counts twice."""
    app = fastapi()

    async def through(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response

    tocsin.instrument(app, registry=registry, log_stream=lines)
    app.add_middleware(BaseHTTPMiddleware, dispatch=through)
    await call(app, "/")
    with pytest.raises(RuntimeError):
        await call(app, "/boom")
    assert counted(registry) == {("GET", "/", "200"): 1, ("GET", "/boom", "500"): 1}
    assert len(lines.access) == 2


async def test_lifespan_passes_through_and_ends_with_everything_written(
    registry: CollectorRegistry, tmp_path: Path
) -> None:
    """The application gets what the server gave. Servers end by a signal after it, so nothing runs at exit."""
    file = tmp_path / "lines"
    at_the_end = ""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await PlainTextResponse("ok")(scope, receive, send)
            return
        assert scope is lifespan
        assert await receive() == {"type": "lifespan.shutdown"}
        await send({"type": "lifespan.shutdown.complete"})

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.shutdown"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal at_the_end
        assert message == {"type": "lifespan.shutdown.complete"}
        at_the_end = file.read_text()

    lifespan: dict[str, Any] = {"type": "lifespan"}
    instrumented: Any = tocsin.instrument(app, registry=registry, log_file=file)
    await call(instrumented, "/")
    await instrumented(lifespan, receive, send)
    assert '"message":"GET / 200"' in at_the_end
    assert lifespan == {"type": "lifespan"}
    assert counted(registry) == {("GET", "", "200"): 1}


async def test_messages_pass_as_they_are(registry: CollectorRegistry, lines: Capture) -> None:
    """A five-megabyte answer is the same object on both sides: nothing is buffered or copied."""
    start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"1"), (b"a", b"2")]}
    body = {"type": "http.response.body", "body": b"x" * 5_000_000}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start)
        await send(body)

    answer: Answer = await call(tocsin.instrument(app, registry=registry, log_stream=lines))
    assert answer.messages[0] is start
    assert answer.messages[1] is body


async def test_a_client_that_left_before_the_last_byte_is_499(registry: CollectorRegistry, lines: Capture) -> None:
    """An answer written to nobody, after the application was told so, did not reach the client."""

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        await PlainTextResponse("ok")(scope, receive, send)

    await call(tocsin.instrument(late, registry=registry, log_stream=lines), disconnect_after=0)
    assert counted(registry) == {("GET", "", "499"): 1}
    assert [line["http.response.status_code"] for line in lines.access] == [499]


async def test_a_send_to_a_client_that_went_away_is_499_from_the_first_message(
    registry: CollectorRegistry, lines: Capture
) -> None:
    """ASGI 2.4 servers raise OSError from `send`; the status line is no exception to that."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def gone(message: Any) -> None:
            raise OSError("client went away")

        await layer(scope, receive, gone)

    layer: Any = tocsin.instrument(PlainTextResponse("ok"), registry=registry, log_stream=lines)
    with pytest.raises(OSError, match="went away"):
        await call(app)
    assert counted(registry) == {("GET", "", "499"): 1}


async def test_an_excluded_request_inside_another_is_not_that_one(registry: CollectorRegistry, lines: Capture) -> None:
    """Excluded requests have no trace id; they do not borrow one, nor bound variables, and give both back."""
    log = tocsin.get_logger()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/healthz":
            log.info("inside")
        else:
            structlog.contextvars.bind_contextvars(user="ann")
            await call(layer, "/healthz")
        await PlainTextResponse("ok")(scope, receive, send)

    layer: Any = tocsin.instrument(app, registry=registry, log_stream=lines, exclude=("/healthz",))
    await call(layer, "/")
    inside, outside = lines.events
    assert inside["message"] == "inside"
    assert "trace.id" not in inside
    assert "user" not in inside
    assert outside["user"] == "ann"


async def test_a_client_that_left_while_it_sent_is_no_exception(registry: CollectorRegistry, lines: Capture) -> None:
    """Starlette raises ClientDisconnect in the handler; nothing of the application's has failed."""

    async def upload(request: Request) -> Response:
        return PlainTextResponse(await request.body())

    app = Starlette(routes=[Route("/", upload, methods=["POST"])])
    tocsin.instrument(app, registry=registry, log_stream=lines)

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        async def gone() -> Any:
            return {"type": "http.disconnect"}

        await app(scope, gone, send)

    with pytest.raises(ClientDisconnect):
        await call(outer, method="POST")
    assert counted(registry) == {("POST", "/", "499"): 1}
    assert not any(metric.samples for metric in registry.collect() if metric.name == "http_server_exceptions")
    assert "error.type" not in lines.access[0]


async def test_a_cancelled_request_has_no_exception_in_its_line(registry: CollectorRegistry, lines: Capture) -> None:
    """A server that stops cancels all it has: that is no stack trace for each."""

    async def hang(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await call(tocsin.instrument(hang, registry=registry, log_stream=lines))
    (line,) = lines.access
    assert (line["http.response.status_code"], line.get("error.type")) == (499, None)


@pytest.mark.parametrize("status", ["200", HTTPStatus.OK])
async def test_a_status_that_is_no_plain_number_is_one(
    status: Any, registry: CollectorRegistry, lines: Capture
) -> None:
    """Some servers take more than integers; what they take, the application may send. Also a body that is None."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": None})

    await call(tocsin.instrument(app, registry=registry, log_stream=lines, names="starlette_exporter"))
    assert [line["http.response.status_code"] for line in lines.access] == [200]
    assert dropped(registry) == {}


async def test_messages_beside_the_answer_end_nothing(registry: CollectorRegistry, lines: Capture) -> None:
    """Early hints and pushes come before the answer; a second last byte is not a second request."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.early_hint", "links": []})
        await send({"type": "http.response.push", "path": "/x", "headers": []})
        assert lines.access == []
        await PlainTextResponse("ok")(scope, receive, send)
        await PlainTextResponse("again", 500)(scope, receive, send)

    await call(tocsin.instrument(app, registry=registry, log_stream=lines))
    assert counted(registry) == {("GET", "", "200"): 1}
    assert active(registry) == 0
    assert len(lines.access) == 1


async def test_a_request_closed_from_outside_leaves_other_contexts_alone(
    registry: CollectorRegistry, lines: Capture
) -> None:
    """The garbage collector closes a forgotten request in the midst of another: neither gets the other's variables."""

    async def hang(scope: Any, receive: Any, send: Any) -> None:
        structlog.contextvars.bind_contextvars(user="gone")
        await asyncio.Event().wait()

    forgotten = call(tocsin.instrument(hang, registry=registry, log_stream=lines))
    contextvars.copy_context().run(forgotten.send, None)
    structlog.contextvars.bind_contextvars(user="here")
    forgotten.close()
    assert structlog.contextvars.get_contextvars() == {"user": "here"}
    assert counted(registry) == {("GET", "", "499"): 1}
    assert active(registry) == 0
    assert "user" not in lines.access[0]


async def test_what_was_bound_is_in_the_line_though_nobody_logged(
    registry: CollectorRegistry, lines: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request of a process too; and nothing of it stays behind."""
    monkeypatch.setattr(Found, "variables", None)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        structlog.contextvars.bind_contextvars(user="ann")
        await PlainTextResponse("ok")(scope, receive, send)

    await call(tocsin.instrument(app, registry=registry, log_stream=lines))
    assert lines.access[0]["user"] == "ann"
    assert structlog.contextvars.get_contextvars() == {}


async def test_a_failing_start_of_ours_does_not_stop_the_application(
    registry: CollectorRegistry, lines: Capture
) -> None:
    """What we do when the server starts may fail on a server never seen: counted, and the application starts."""

    def strange() -> None:
        raise RuntimeError("ours")

    started: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        started.append(scope["type"])

    layer: Any = tocsin.instrument(app, registry=registry, log_stream=lines)
    layer.instrumentation.on_startup = strange
    await layer({"type": "lifespan"}, None, None)
    assert started == ["lifespan"]
    assert dropped(registry) == {("metrics", "startup"): 1}


def test_nothing_runs_inside_of_what_says_so_though_opentelemetry_was_loaded_meanwhile() -> None:
    """A request begun in our own variable is still found when OpenTelemetry's is joined, and can be hidden there."""
    now = _Now()
    theirs: ContextVar[dict[str, object]] = ContextVar("theirs")
    theirs.set({})
    running = Current(None, families_of(CollectorRegistry()), None)
    outer = now.set(running)
    try:
        now.join(theirs, dict)
        assert now.get() is running
        hidden = now.set(None)
        assert now.get() is None
        now.reset(hidden)
        assert now.get() is running
    finally:
        now.reset(outer)
    assert now.get() is None
