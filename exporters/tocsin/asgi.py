"""The pure ASGI layer around an application: watches one request from outside, and tells what it was when it is over.

Nothing is buffered or changed: messages pass as they come. Exceptions are counted and raised again. Lifespan passes
through. Whatever goes wrong in here costs a count in `tocsin_dropped_total`, never an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextvars import Token
from time import perf_counter, time
from typing import Any

from tocsin import answered
from tocsin.bound import Found, bound, restore
from tocsin.instrumentation import Instrumentation, RouteOf, Tracer
from tocsin.logs.pipeline import Pipeline
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
from tocsin.routes import Routes, UnknownRouteError
from tocsin.tracing.context import Trace, server_span
from tocsin.tracing.spans import leave, make_current
from tocsin.websocket import watch_websocket

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_SEEN = "tocsin.request"
"""Scope key: an outer layer already watches this request, as when an instrumented application is mounted in another.

So does `_NATIVE` if its value is None.
"""

_NATIVE = "fastapi.telemetry"
"""Scope key: where it is present, FastAPI's own telemetry (and that of a mounted FastAPI) leaves the request alone."""

_PAGE_IN_THREAD = 0.005
"""Seconds for a metrics page above which the next one is made in a thread, so that no request waits for it."""

_NOTHING: dict[Any, Any] = {}
_new = tuple.__new__
"""What `Facts(...)` does, in a third of the time."""


class Layer:
    """An ASGI application that answers as the one inside does. Attributes that it lacks are those of the inner one."""

    def __init__(self, app: ASGIApp, instrumentation: Instrumentation, route_of: RouteOf) -> None:
        self.app = app
        self.instrumentation = instrumentation
        self.route_of = route_of
        # Here and not looked up there: a request pays for each step.
        self.known_routes: Mapping[int, str] = getattr(getattr(route_of, "__self__", None), "known", _NOTHING)
        self._unwatched = instrumentation.paths.exact
        self._prefixes = instrumentation.paths.prefixes
        self._page_seconds = _PAGE_IN_THREAD

    def __getattr__(self, name: str) -> Any:
        if name == "app":  # not set yet: while being copied or unpickled
            raise AttributeError(name)
        return getattr(self.app, name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        instrumentation = self.instrumentation
        native = scope.get(_NATIVE, _SEEN)
        if native is None or scope["type"] != "http" or _SEEN in scope or not instrumentation.active:
            await self._other(scope, receive, send)
            return
        path = local_path(scope) if scope.get("root_path") else scope["path"]
        if path in self._unwatched or (self._prefixes and path.startswith(self._prefixes)):
            await self._not_watched(path, scope, receive, send)
            return
        tracer = instrumentation.tracer
        # One mark and not two: a second one makes the dictionary grow beyond what it has room for.
        scope[_SEEN if tracer is None or tracer.foreign or native is not _SEEN else _NATIVE] = None
        exchange = Exchange(self, path, scope, receive, send)
        if not instrumentation.personal:
            try:
                await self.app(scope, exchange.receive, exchange.send)
            except BaseException as error:
                exchange.over(error)
                raise
            if not exchange.told:
                exchange.over(None)
            return
        before = _NOTHING
        if Found.variables:
            before = bound()
            if CURRENT.get() is not None:
                # Begun from inside another request: a pipelined one (the server makes its task while the one before
                # it ends), or a call in process. What that one bound is none of this one's.
                restore(_NOTHING)
        token = CURRENT.set(exchange) if tracer is None else exchange.begin_trace(tracer)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.over(error)
            raise
        else:
            if not exchange.told:
                exchange.over(None)
        finally:
            leave(token)
            if Found.variables:
                restore(before)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        instrumentation = self.instrumentation
        if instrumentation.active and _SEEN not in scope:
            if scope["type"] == "lifespan" and instrumentation.on_startup is not None:
                instrumentation.on_startup()
            elif scope["type"] == "websocket":
                scope[_SEEN] = scope[_NATIVE] = None
                await watch_websocket(self.app, instrumentation, self.route_of, scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _not_watched(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path == self.instrumentation.paths.metrics:
            await self._answer_scrape(scope, send)
            return
        scope[_SEEN] = scope[_NATIVE] = None
        # Perhaps begun from inside another request, as above: its ids and variables are none of this one's.
        if CURRENT.get() is None:
            await self.app(scope, receive, send)
            return
        before, alone, hidden = bound(), CURRENT.set(None), make_current(None)
        restore(_NOTHING)
        try:
            await self.app(scope, receive, send)
        finally:
            leave(hidden)
            leave(alone)
            restore(before)

    async def _answer_scrape(self, scope: Scope, send: Send) -> None:
        page, method, asked = self.instrumentation.page, scope["method"], scope["headers"]
        began = perf_counter()
        if self._page_seconds > _PAGE_IN_THREAD:
            status, headers, body = await asyncio.to_thread(page, method, asked)
        else:
            status, headers, body = page(method, asked)
        self._page_seconds = perf_counter() - began
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


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
            self.trace = trace = tracer.begin(self._scope["headers"])
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
            self._status = message["status"]
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
        if kind == "http.response.body":
            if self._layer.instrumentation.sizes:
                self._sent_bytes += len(message.get("body", b""))
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
        if facts is None:
            cancelled = isinstance(error, asyncio.CancelledError | GeneratorExit)
            failed = (error is not None and not cancelled) or not self._disconnected
            facts = self._end(
                outcome(self._status, complete=False, disconnected=self._disconnected or cancelled, failed=failed)
            )
        instrumentation = self._layer.instrumentation
        if error is None and facts.status >= SERVER_ERROR:
            error = answered.noted(self._scope, facts.status)
        if isinstance(error, Exception) and instrumentation.http is not None:
            instrumentation.families.add(HTTP_SERVER_EXCEPTIONS, self._method, facts.route, error_name(error))
        if not self.told:
            self.told = True
            instrumentation.end(facts, error)

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


def local_path(scope: Scope) -> str:
    """Return the request's path as the application knows it: without the root path it is served under."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :] or "/"
    return path


def content_length(scope: Scope) -> int:
    """Return the `Content-Length` of a request, 0 if there is none or it is not a number."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def wrap(app: ASGIApp, instrumentation: Instrumentation) -> Layer:
    """Return the application wrapped; its routes are found if it, or what it wraps in `.app`, is a Starlette one."""
    return Layer(app, instrumentation, Routes(app).template)
