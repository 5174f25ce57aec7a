"""The pure ASGI layer around an application: watches one request from outside, and tells what it was when it is over.

Nothing is buffered or changed: messages pass as they come. Exceptions are counted and raised again. WebSockets and
lifespan pass through. Whatever goes wrong in here costs a count in `tocsin_dropped_total`, never an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from prometheus_client import CollectorRegistry
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars

from tocsin.logs.pipeline import Pipeline
from tocsin.metrics import exposition
from tocsin.metrics.families import Families
from tocsin.request import CLIENT_CLOSED, CURRENT, SERVER_ERROR, Current, Facts, label_method, outcome
from tocsin.routes import Routes, UnknownRouteError
from tocsin.settings import Paths
from tocsin.tracing import context as tracing

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_SEEN = "tocsin.request"
"""Scope key: an outer layer already watches this request, as when an instrumented application is mounted in another."""

_log = logging.getLogger("tocsin")


@dataclass(slots=True, eq=False, weakref_slot=True)
class Instrumentation:
    """What is recorded of one application, and where. Only `active` changes: False once it was uninstrumented."""

    families: Families
    registry: CollectorRegistry
    routes: Routes
    paths: Paths
    pipeline: Pipeline | None
    metrics: bool
    traces: bool
    on_startup: Callable[[], None] | None = None
    active: bool = True
    failures_reported: set[str] = field(default_factory=set)

    def failed(self, signal: str, reason: str, error: BaseException) -> None:
        """Count telemetry that was lost to an error of our own, and say so the first time."""
        self.families.dropped(signal, reason)
        if reason not in self.failures_reported:
            self.failures_reported.add(reason)
            _log.warning("%s of a request not recorded (%s): %r; counted from now on", signal, reason, error)


class Layer:
    """An ASGI application that answers as the one inside does. Attributes that it lacks are those of the inner one."""

    def __init__(self, app: ASGIApp, instrumentation: Instrumentation) -> None:
        self.app = app
        self.instrumentation = instrumentation

    def __getattr__(self, name: str) -> Any:
        if name == "app":  # not set yet: while being copied or unpickled
            raise AttributeError(name)
        return getattr(self.app, name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        instrumentation = self.instrumentation
        if scope["type"] != "http" or not instrumentation.active or _SEEN in scope:
            if scope["type"] == "lifespan" and instrumentation.active and instrumentation.on_startup is not None:
                instrumentation.on_startup()
            await self.app(scope, receive, send)
            return
        path = local_path(scope)
        if path in instrumentation.paths.exact or path.startswith(instrumentation.paths.prefixes):
            await self._not_watched(path, scope, receive, send)
            return
        scope[_SEEN] = True
        outer = CURRENT.get()
        bound = get_contextvars()
        if outer is not None and bound:
            # Begun from inside another request: a pipelined one (the server makes its task while the one before it
            # ends), or a call in process. What that one bound is none of this one's.
            clear_contextvars()
        exchange = _Exchange(instrumentation, path, scope, receive, send)
        CURRENT.set(exchange.current)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.over(error)
            raise
        else:
            exchange.over(None)
        finally:
            # Not `reset`: a coroutine that is closed may be closed in another context.
            CURRENT.set(outer)
            if get_contextvars() != bound:
                clear_contextvars()
                bind_contextvars(**bound)

    async def _not_watched(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path == self.instrumentation.paths.metrics:
            await _answer_scrape(self.instrumentation.registry, scope, send)
        else:
            scope[_SEEN] = True
            outer = CURRENT.get()
            if outer is None:
                await self.app(scope, receive, send)
                return
            # Begun from inside another request, as above: its ids and variables are none of this one's.
            bound = get_contextvars()
            CURRENT.set(None)
            clear_contextvars()
            try:
                await self.app(scope, receive, send)
            finally:
                CURRENT.set(outer)
                clear_contextvars()
                bind_contextvars(**bound)


class _Exchange:
    """One request and its answer, as they pass."""

    __slots__ = (
        "_began",
        "_disconnected",
        "_facts",
        "_inner_receive",
        "_inner_send",
        "_instrumentation",
        "_logged",
        "_method",
        "_path",
        "_scope",
        "_status",
        "_trailers",
        "current",
    )

    def __init__(self, instrumentation: Instrumentation, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        self._began = perf_counter()
        self._instrumentation = instrumentation
        self._path = path
        self._scope = scope
        self._inner_receive = receive
        self._inner_send = send
        self._method = label_method(scope["method"])
        self._status = 0
        self._trailers = False
        self._disconnected = False
        self._logged = False
        self._facts: Facts | None = None
        trace = None
        if instrumentation.traces:
            try:
                trace = tracing.begin(scope["headers"])
            except Exception as error:  # headers of a server's own making
                instrumentation.failed("traces", "headers", error)
        self.current = Current(trace, instrumentation.families, instrumentation.pipeline)
        if instrumentation.metrics:
            instrumentation.families.started(self._method)

    async def receive(self) -> Message:
        """Pass a message of the request on to the application."""
        message = await self._inner_receive()
        if message["type"] == "http.disconnect":
            self._disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """Pass a message of the answer on to the server; the last one ends the request."""
        kind = message["type"]
        if kind == "http.response.start":
            self._status = message["status"]
            self._trailers = message.get("trailers", False)
        gone = self._disconnected  # before the last byte: afterwards servers report the end as a disconnect too
        try:
            await self._inner_send(message)
        except OSError:
            self._disconnected = True  # ASGI 2.4: sending to a client that went away raises
            raise
        if kind == "http.response.body":
            last = not message.get("more_body", False) and not self._trailers
        elif kind == "http.response.trailers":
            last = not message.get("more_trailers", False)
        else:
            last = kind == "http.response.pathsend"
        if last and self._facts is None:
            self._count(CLIENT_CLOSED if gone else self._status)
            # Of an error the application's exception comes after the answer; it belongs into the same line.
            if self._status < SERVER_ERROR:
                self._write(None)

    def over(self, error: BaseException | None) -> None:
        """Note that the application returned or raised."""
        if self._facts is None:
            cancelled = isinstance(error, asyncio.CancelledError | GeneratorExit)
            failed = (error is not None and not cancelled) or not self._disconnected
            self._count(
                outcome(
                    self._status,
                    complete=False,
                    disconnected=self._disconnected or cancelled,
                    failed=failed,
                )
            )
        if not self._logged:
            self._write(error)

    def _count(self, status: int) -> None:
        seconds = perf_counter() - self._began
        instrumentation = self._instrumentation
        scope = self._scope
        client = scope.get("client")
        self._facts = facts = Facts(
            self._method,
            self._route(),
            scope["path"],
            status,
            seconds,
            client[0] if client else None,
            self._trace(),
        )
        if instrumentation.metrics:
            try:
                instrumentation.families.ended(facts)
            except Exception as error:  # a guard: a status that is no number, a clock that runs backwards
                instrumentation.failed("metrics", "record", error)

    def _write(self, error: BaseException | None) -> None:
        self._logged = True
        pipeline = self._instrumentation.pipeline
        if pipeline is None or self._facts is None:
            return
        try:
            pipeline.access(self._facts, error)
        except Exception as failure:  # a guard, as above
            self._instrumentation.failed("logs", "access", failure)

    def _route(self) -> str:
        try:
            return self._instrumentation.routes.template(self._scope, self._path)
        except UnknownRouteError as error:
            self._instrumentation.failed("metrics", "unknown_route", error)
        except Exception as error:  # a router of a shape never seen
            self._instrumentation.failed("metrics", "route", error)
        return ""

    def _trace(self) -> tracing.Trace | None:
        trace = self.current.trace
        if trace is None:
            return None
        try:
            return tracing.server_span() or trace
        except Exception as error:  # another version of OpenTelemetry
            self._instrumentation.failed("traces", "span", error)
            return trace


def local_path(scope: Scope) -> str:
    """Return the request's path as the application knows it: without the root path it is served under."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :] or "/"
    return path


async def _answer_scrape(registry: CollectorRegistry, scope: Scope, send: Send) -> None:
    if scope["method"] in ("GET", "HEAD"):
        status = 200
        headers, body = exposition.page(registry, scope["headers"])
    else:
        status, headers, body = 405, [(b"allow", b"GET, HEAD"), (b"content-length", b"0")], b""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
