"""One HTTP request and its answer, message by message: when it is over, under which status, and what is told of it."""

from __future__ import annotations

import asyncio
from contextvars import Token
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

from tocsin import answered
from tocsin.bound import Found, bound
from tocsin.instrumentation import Tracer
from tocsin.logs.pipeline import Pipeline, mark_told
from tocsin.metrics.families import Families
from tocsin.names import HTTP_SERVER_EXCEPTIONS
from tocsin.request import (
    CLIENT_CLOSED,
    CURRENT,
    KNOWN_METHODS,
    OTHER,
    SERVER_ERROR,
    Facts,
    Wire,
    error_name,
    outcome,
)
from tocsin.routes import UnknownRouteError
from tocsin.tracing.context import Trace, server_span

if TYPE_CHECKING:
    from tocsin.asgi import Layer, Message, Receive, Scope, Send

_new = tuple.__new__
"""What `Facts(...)` does, in a third of the time."""


class Exchange:
    """One request and its answer, as they pass. Its facts go into the backlog with the last byte."""

    # Slots, all of them set: an attribute that is found on the class takes five times as long to read.
    __slots__ = (
        "_app_receive",
        "_app_send",
        "_asked",
        "_began",
        "_disconnected",
        "_facts",
        "_layer",
        "_method",
        "_open",
        "_path",
        "_scope",
        "_sent_bytes",
        "_status",
        "_trailers",
        "told",
        "trace",
    )

    def __init__(self, layer: Layer, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        self._began = perf_counter()
        self._layer = layer
        self._path = path
        self._scope = scope
        self._app_receive = receive
        self._app_send = send
        self.trace: Trace | None = None
        self._facts: Facts | None = None
        self._status = self._sent_bytes = 0
        self._disconnected = self._trailers = self.told = False
        self._asked = scope["path"]  # now: some frameworks change it to their own part of it
        method = scope["method"]
        self._method = method = method if method in KNOWN_METHODS else OTHER
        self._open: list[int] | None = None
        http = layer.instrumentation.http
        if http is not None:
            if http.open is None:
                http.started(method)
            else:
                self._open = http.open[method]
                self._open[0] += 1

    @property
    def families(self) -> Families:
        """Its counters."""
        return self._layer.instrumentation.families

    @property
    def pipeline(self) -> Pipeline | None:
        """Its log; None for the process's."""
        return self._layer.instrumentation.pipeline

    def begin_trace(self, tracer: Tracer) -> Token[Any] | None:
        """Name the request's span, and make both current; return what undoes that."""
        try:
            self.trace = trace = tracer.begin(self._scope["headers"], self._method, self._asked)
            return tracer.enter(trace, self)
        except Exception as error:  # headers of a server's own making
            self._layer.instrumentation.failed("traces", "headers", error)
            return CURRENT.set(self)

    async def receive(self) -> Message:
        """Pass a message of the request on to the application."""
        message = await self._app_receive()
        if message["type"] == "http.disconnect":
            self._disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """Pass a message of the answer on to the server; the last one ends the request."""
        kind = message["type"]
        if kind == "http.response.start":
            status = message["status"]
            self._status = status if status.__class__ is int else number(status)
            if "trailers" in message:
                self._trailers = message["trailers"]
        gone = self._disconnected  # before the last byte: afterwards servers report the end as a disconnect too
        try:
            await self._app_send(message)
        except OSError:
            self._disconnected = True  # ASGI 2.4: sending to a client that went away raises
            raise
        if kind == "http.response.start":
            return
        if kind in ("http.response.body", "http.response.zerocopysend"):
            if self._layer.instrumentation.sizes:
                self._sent_bytes += len(message.get("body") or b"")
            if message.get("more_body") or self._trailers:
                return
        elif kind == "http.response.trailers":
            if message.get("more_trailers"):
                return
        elif kind != "http.response.pathsend":
            return
        if self._facts is not None:
            return
        facts = self._end(CLIENT_CLOSED if gone else self._status)
        # Of an error the application's exception comes after the answer; it belongs into the same line.
        if self._status < SERVER_ERROR:
            self.told = True
            self._layer.instrumentation.backlog.add(facts)

    def over(self, error: BaseException | None) -> None:
        """Note that the application returned or raised."""
        facts = self._facts
        cancelled = isinstance(error, asyncio.CancelledError | GeneratorExit)
        if facts is None:
            failed = (error is not None and not cancelled) or not self._disconnected
            facts = self._end(
                outcome(self._status, complete=False, disconnected=self._disconnected or cancelled, failed=failed)
            )
        instrumentation = self._layer.instrumentation
        if isinstance(error, GeneratorExit) and not self.told:
            # By the garbage collector, in the midst of anything: what is bound is another's, and no lock can be waited
            # for.
            self.told = True
            instrumentation.backlog.add(facts._replace(bound=None))
            return
        if error is not None and (cancelled or (facts.status == CLIENT_CLOSED and _parted(error))):
            if instrumentation.pipeline is not None:
                mark_told(error)
            error = None  # no failure of the application's
        if error is None and facts.status >= SERVER_ERROR:
            error = answered.noted(self._scope, facts.status)
        if isinstance(error, Exception) and instrumentation.http is not None:
            instrumentation.families.add(HTTP_SERVER_EXCEPTIONS, self._method, facts.route, error_name(error))
        if not self.told:
            self.told = True
            instrumentation.end(facts, error)
        elif isinstance(error, Exception):
            instrumentation.failed_after(facts, error)

    def _end(self, status: int) -> Facts:
        """Make the facts of the request: all that metrics, spans and lines need of it, so that the scope can go."""
        seconds = perf_counter() - self._began
        layer, scope, trace = self._layer, self._scope, self.trace
        wire = None
        if trace is not None:
            tracer = layer.instrumentation.tracer
            if tracer is not None:
                if tracer.exporting and trace.sampled:
                    wire = self._wire()
                elif tracer.foreign:
                    trace = self._foreign(trace)
        client = scope.get("client")
        self._facts = facts = _new(
            Facts,
            (
                self._method,
                layer.known_routes.get(id(scope.get("endpoint"))) or self._route(),
                self._asked,
                status,
                seconds,
                time(),
                client[0] if client else None,
                trace,
                wire,
                (),
                0,
                0,
                bound() if Found.variables else None,
                False,
            ),
        )
        if layer.instrumentation.extras:
            facts = self._with_extras(facts)
        if self._open is not None:
            self._open[0] -= 1
        elif layer.instrumentation.http is not None:
            self._facts = facts = layer.instrumentation.count(facts)
        return facts

    def _with_extras(self, facts: Facts) -> Facts:
        instrumentation = self._layer.instrumentation
        self._facts = facts = facts._replace(
            labels=instrumentation.label_values(self._scope),
            request_bytes=content_length(self._scope) if instrumentation.sizes else 0,
            response_bytes=self._sent_bytes,
        )
        return facts

    def _wire(self) -> Wire:
        scope = self._scope
        return _new(
            Wire,
            (
                scope.get("scheme", "http"),
                scope.get("query_string", b""),
                scope.get("http_version", "1.1"),
                scope["headers"],
            ),
        )

    def _foreign(self, trace: Trace) -> Trace:
        try:
            return server_span() or trace
        except Exception as error:  # another version of OpenTelemetry
            self._layer.instrumentation.failed("traces", "span", error)
            return trace

    def _route(self) -> str:
        try:
            return self._layer.route_of(self._scope, self._path)
        except UnknownRouteError as error:
            self._layer.instrumentation.failed("metrics", "unknown_route", error)
        except Exception as error:  # a router of a shape never seen
            self._layer.instrumentation.failed("metrics", "route", error)
        return ""


def content_length(scope: Scope) -> int:
    """Return the `Content-Length` of a request, 0 if there is none or it is not a number."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _parted(error: BaseException | None) -> bool:
    """Return whether this is how an application learns that its client went away: from `send`, or from Starlette."""
    return isinstance(error, OSError) or type(error).__name__ == "ClientDisconnect"


def number(status: Any) -> int:
    """Return a status that is no plain integer as one, 0 if it cannot be: some servers take texts too."""
    try:
        return int(status)
    except (TypeError, ValueError):
        return 0
