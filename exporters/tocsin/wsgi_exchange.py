"""One WSGI request and its answer as they pass, and the body that the server takes in place of the application's.

A request is over when the server has taken the last byte of the answer, or has closed it. The application runs in the
context of its thread, not in a copy: frameworks keep connections in context variables for the next request.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import Token
from time import perf_counter, time
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from tocsin import answered
from tocsin import bound as variables
from tocsin.instrumentation import Instrumentation, RouteOf
from tocsin.logs.pipeline import Pipeline
from tocsin.metrics.families import Families
from tocsin.names import HTTP_SERVER_EXCEPTIONS
from tocsin.request import CURRENT, KNOWN_METHODS, OTHER, SERVER_ERROR, Facts, Running, Wire, error_name, outcome
from tocsin.routes import UnknownRouteError
from tocsin.tracing.context import Trace, server_span
from tocsin.tracing.spans import leave

Headers = list[tuple[str, str]]

_TRACED = (
    ("HTTP_TRACEPARENT", b"traceparent"),
    ("HTTP_TRACESTATE", b"tracestate"),
    ("HTTP_BAGGAGE", b"baggage"),
    ("HTTP_HOST", b"host"),
    ("HTTP_USER_AGENT", b"user-agent"),
)
_WITHOUT_BODY = (204, 304)

_new = tuple.__new__
"""What the constructor of a named tuple does, in a third of the time."""


class Exchange:
    """One request and its answer. Its facts go into the backlog at its end."""

    # Slots, all of them set: an attribute that is found on the class takes longer to read.
    __slots__ = (
        "_before",
        "_began",
        "_environ",
        "_facts",
        "_gone",
        "_headers",
        "_instrumentation",
        "_method",
        "_open",
        "_outer",
        "_path",
        "_route_of",
        "_server_start",
        "_server_write",
        "_shown_path",
        "_status",
        "_token",
        "sent_bytes",
        "sent_unseen",
        "trace",
    )

    def __init__(
        self,
        instrumentation: Instrumentation,
        route_of: RouteOf,
        path: str,
        environ: WSGIEnvironment,
        start_response: StartResponse,
    ) -> None:
        self._began = perf_counter()
        self._instrumentation = instrumentation
        self._route_of = route_of
        self._path = path
        # Now: middleware that dispatches by path moves parts of it from one variable to the other.
        root = environ.get("SCRIPT_NAME")
        self._shown_path = decoded(root + environ.get("PATH_INFO", "")) if root else path
        self._environ = environ
        self._server_start = start_response
        self._headers: Sequence[tuple[str, str]] = ()
        self._facts: Facts | None = None
        self._token: Token[Any] | None = None
        self.trace: Trace | None = None
        self._status = self.sent_bytes = 0
        self.sent_unseen = self._gone = False
        method = environ["REQUEST_METHOD"]
        self._method = method = method if method in KNOWN_METHODS else OTHER
        self._open: list[int] | None = None
        http = instrumentation.http
        if http is not None:
            if http.open is None:
                http.started(method)
            else:
                self._open = http.open[method]
                self._open[0] += 1

    def enter(self, outer: Running | None, before: Mapping[str, Any]) -> None:
        """Become the request that this thread answers; `outer` is current there, and `before` bound."""
        self._outer = outer
        self._before = before
        instrumentation = self._instrumentation
        tracer = instrumentation.tracer
        if tracer is not None:
            try:
                self.trace = trace = tracer.begin(_traced(self._environ), self._method, self._shown_path)
                self._token = tracer.enter(trace, self)
                return
            except Exception as error:  # headers of a server's own making
                instrumentation.failed("traces", "headers", error)
        self._token = CURRENT.set(self)

    def leave(self) -> None:
        """Give the thread back as it was found.

        Nothing is done in another thread than the one entered: what is current there is not ours. The next request of
        the right thread makes up for it.
        """
        if CURRENT.get() is self:
            leave(self._token)
            if CURRENT.get() is self:  # begun in a copy of this context, which had it then
                CURRENT.set(self._outer)
            if variables.Found.variables:
                variables.restore(self._before)

    def start_response(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        """Pass the head of the answer on to the server; another one may follow after an error."""
        if exc_info is None:
            self._server_write = self._server_start(status, headers)
        else:
            self._server_write = self._server_start(status, headers, exc_info)  # raises it if a head is out already
        self._headers = headers
        try:
            self._status = int(status[:3])
        except ValueError:  # the server's business
            self._status = 0
        return self._write

    def _write(self, chunk: bytes) -> object:
        try:
            written = self._server_write(chunk)
        except OSError:
            self._gone = True
            raise
        self.sent_bytes += len(chunk)
        return written

    @property
    def is_over(self) -> bool:
        """Whether the request has ended; the thread may not have been given back yet."""
        return self._facts is not None

    @property
    def families(self) -> Families:
        """Its counters."""
        return self._instrumentation.families

    @property
    def pipeline(self) -> Pipeline | None:
        """Its log; None for the process's."""
        return self._instrumentation.pipeline

    def finished(self) -> None:
        """Note that the server took the last byte, or that the answer was thrown away: its status is what counts."""
        if self._facts is None:
            self._end(self._status or SERVER_ERROR, None)

    def closed(self) -> None:
        """Note that the server is done with the answer: before the last byte, the client went away."""
        if self._facts is None:
            # Servers close in a `finally`, through which the error of a broken connection passes.
            gone = self._gone or isinstance(sys.exception(), OSError) or not self._is_whole()
            self._end(outcome(self._status, complete=not gone, disconnected=gone, failed=True), None)

    def over(self, error: BaseException) -> None:
        """Note that the application raised."""
        if self._facts is None:
            gone = self._gone or isinstance(error, GeneratorExit)
            self._end(outcome(self._status, complete=False, disconnected=gone, failed=True), error)
        else:
            self._count_exception(error)

    def _is_whole(self) -> bool:
        """Whether nothing of the answer is missing, although it was not taken to its end: servers need not ask."""
        if self.sent_unseen or self._method == "HEAD" or self._status in _WITHOUT_BODY:
            return bool(self._status)
        announced = self._announced()
        return announced is not None and self.sent_bytes >= announced

    def _announced(self) -> int | None:
        """Return the length of the body that the head of the answer announced."""
        for name, value in self._headers:
            if name.lower() == "content-length" and value.isdigit():
                return int(value)
        return None

    def _end(self, status: int, error: BaseException | None) -> None:
        seconds = perf_counter() - self._began
        instrumentation = self._instrumentation
        environ = self._environ
        self._environ = {}
        if error is None:
            error = answered.noted(environ, status)
        try:
            self._facts = facts = self._make_facts(environ, status, seconds)
        except Exception as failure:  # a guard: environs are made by many
            instrumentation.failed("metrics", "facts", failure)
            return
        if self._open is not None:
            self._open[0] -= 1
        elif instrumentation.http is not None:
            self._facts = facts = instrumentation.count(facts)
        if status < SERVER_ERROR and error is None:
            instrumentation.backlog.add(facts)
            return
        if error is not None:
            self._count_exception(error)
        instrumentation.end(facts, error)

    def _make_facts(self, environ: WSGIEnvironment, status: int, seconds: float) -> Facts:
        """Return all that metrics, spans and lines need of the request, so that the environ can go."""
        instrumentation, trace, wire = self._instrumentation, self.trace, None
        if trace is not None:
            tracer = instrumentation.tracer
            if tracer is not None:
                if tracer.exporting and trace.sampled:
                    wire = _wire(environ)
                elif tracer.foreign:
                    trace = self._foreign(trace)
        facts = _new(
            Facts,
            (
                self._method,
                self._route(environ),
                self._shown_path,
                status,
                seconds,
                time(),
                environ.get("REMOTE_ADDR"),
                trace,
                wire,
                (),
                0,
                0,
                variables.bound() if variables.Found.variables else None,
                False,
            ),
        )
        if instrumentation.extras:
            facts = facts._replace(
                labels=instrumentation.label_values(environ),
                request_bytes=_number(environ.get("CONTENT_LENGTH")),
                response_bytes=(self._announced() or 0) if self.sent_unseen else self.sent_bytes,
            )
        return facts

    def _count_exception(self, error: BaseException) -> None:
        instrumentation, facts = self._instrumentation, self._facts
        if instrumentation.http is not None and facts is not None and isinstance(error, Exception):
            instrumentation.families.add(HTTP_SERVER_EXCEPTIONS, facts.method, facts.route, error_name(error))

    def _foreign(self, trace: Trace) -> Trace:
        try:
            return server_span() or trace
        except Exception as error:  # another version of OpenTelemetry
            self._instrumentation.failed("traces", "span", error)
            return trace

    def _route(self, environ: WSGIEnvironment) -> str:
        try:
            return self._route_of(environ, self._path)
        except UnknownRouteError as error:
            self._instrumentation.failed("metrics", "unknown_route", error)
        except Exception as error:  # a router of a shape never seen
            self._instrumentation.failed("metrics", "route", error)
        return ""


def outer_request() -> Running | None:
    """Return the request inside of which this code runs; those that ended in other threads are left at last."""
    outer = CURRENT.get()
    while isinstance(outer, Exchange) and outer.is_over:
        outer.leave()
        outer = CURRENT.get()
    return outer


def decoded(text: str) -> str:
    """Return a part of the path as it was meant: PEP 3333 gives the bytes of UTF-8 as characters of Latin-1."""
    return text if text.isascii() else text.encode("latin-1", "replace").decode("utf-8", "replace")


def _traced(environ: WSGIEnvironment) -> list[tuple[bytes, bytes]]:
    """Return the headers of the request that spans are made from, as ASGI has them."""
    return [(name, environ[key].encode("latin-1")) for key, name in _TRACED if key in environ]


def _wire(environ: WSGIEnvironment) -> Wire:
    return _new(
        Wire,
        (
            environ.get("wsgi.url_scheme", "http"),
            environ.get("QUERY_STRING", "").encode("latin-1", "replace"),
            environ.get("SERVER_PROTOCOL", "HTTP/1.1").rpartition("/")[2],
            _traced(environ),
        ),
    )


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
