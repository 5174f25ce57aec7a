"""One WebSocket from handshake to close: metrics of its own, one access line, one span; messages pass unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import Token
from time import perf_counter, time
from typing import Any

from tocsin.bound import bound, restore
from tocsin.instrumentation import Instrumentation, RouteOf, Tracer
from tocsin.names import HTTP_SERVER_EXCEPTIONS, WEBSOCKET_ACTIVE, WEBSOCKET_DURATION, WEBSOCKET_MESSAGES
from tocsin.request import CURRENT, SERVER_ERROR, Current, Facts, Wire, error_name
from tocsin.tracing.spans import leave

_NORMAL, _ABNORMAL, _INTERNAL = 1000, 1006, 1011
_SWITCHING, _FORBIDDEN = 101, 403
_REGISTERED = frozenset(range(1000, 1016))
"""Close codes with a meaning of their own (RFC 6455, 7.4.1); applications' and frameworks' are bounded by the cap."""

REJECTED = "rejected"
"""Instead of a close code: the handshake was refused."""


async def watch_websocket(
    app: Any, instrumentation: Instrumentation, route_of: RouteOf, path: str, scope: Any, receive: Any, send: Any
) -> None:
    """Run the application for one WebSocket, and record it; `path` is without the root path."""
    connection = _Connection(instrumentation, route_of, path, scope, receive, send)
    before: Mapping[str, Any] | None = bound()
    tracer = instrumentation.tracer
    token = CURRENT.set(connection) if tracer is None else connection.begin_trace(tracer)
    try:
        await app(scope, connection.receive, connection.send)
    except BaseException as error:
        connection.over(error)
        if isinstance(error, GeneratorExit):  # perhaps closed in another context, whose variables are not ours
            before = None
        raise
    else:
        connection.over(None)
    finally:
        leave(token)
        if before is not None:
            restore(before)


class _Connection(Current):
    __slots__ = (
        "_app_receive",
        "_app_send",
        "_began",
        "_code",
        "_instrumentation",
        "_path",
        "_route",
        "_route_of",
        "_scope",
        "_status",
    )

    def __init__(
        self, instrumentation: Instrumentation, route_of: RouteOf, path: str, scope: Any, receive: Any, send: Any
    ) -> None:
        super().__init__(None, instrumentation.families, instrumentation.pipeline)
        self._began = perf_counter()
        self._instrumentation = instrumentation
        self._route_of = route_of
        self._path = path
        self._scope = scope
        self._app_receive = receive
        self._app_send = send
        self._route: str | None = None
        """Known once the handshake was answered: None while the connection is not open."""
        self._status = 0
        self._code: int | None = None

    def begin_trace(self, tracer: Tracer) -> Token[Any] | None:
        try:
            self.trace = trace = tracer.begin(self._scope["headers"], "GET", self._scope["path"])
            return tracer.enter(trace, self)
        except Exception as error:  # headers of a server's own making
            self._instrumentation.failed("traces", "headers", error)
            return CURRENT.set(self)

    async def receive(self) -> Mapping[str, Any]:
        message: Mapping[str, Any] = await self._app_receive()
        kind = message["type"]
        if kind == "websocket.receive":
            self._message("received")
        elif kind == "websocket.disconnect" and self._code is None:
            self._code = message.get("code") or _NORMAL
        return message

    async def send(self, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "websocket.send":
            self._message("sent")
        elif kind == "websocket.close":
            if self._status:
                self._code = self._code or message.get("code") or _NORMAL
            else:
                self._status = _FORBIDDEN
        elif kind == "websocket.http.response.start":
            self._status = message["status"]
        await self._app_send(message)
        if kind == "websocket.accept" and self._route is None:
            self._status = _SWITCHING
            self._route = route = self._template()
            self._count(lambda families: families.add(WEBSOCKET_ACTIVE, route))

    def _message(self, direction: str) -> None:
        self._count(lambda families: families.add(WEBSOCKET_MESSAGES, self._route or "", direction))

    def over(self, error: BaseException | None) -> None:
        """Note that the application returned or raised."""
        seconds = perf_counter() - self._began
        opened = self._route is not None
        route = self._route if self._route is not None else self._template()
        failed = error is not None and not isinstance(error, asyncio.CancelledError | GeneratorExit)
        # Servers close with 1011 for an application that failed, and with 1001 when they stop. A client that is gone
        # makes Starlette's `send_text` raise after the disconnect was received: the code is known by then.
        code = self._code or (_INTERNAL if failed else _ABNORMAL if error is not None else _NORMAL)
        if opened:
            self._count(lambda families: families.add(WEBSOCKET_ACTIVE, route, amount=-1.0))
        closed = _code_label(code) if opened else REJECTED
        self._count(
            lambda families: families.observe(WEBSOCKET_DURATION, route, closed, value=seconds, trace=self.trace)
        )
        if failed and isinstance(error, Exception):
            name = error_name(error)
            self._count(lambda families: families.add(HTTP_SERVER_EXCEPTIONS, "GET", route, name))
        status = self._status or (SERVER_ERROR if failed else _FORBIDDEN)
        facts = self._facts(route, status, seconds)
        if not isinstance(error, GeneratorExit):
            facts = facts._replace(bound=bound() or None)
        self._instrumentation.tell(facts, error if failed else None)

    def _facts(self, route: str, status: int, seconds: float) -> Facts:
        scope, tracer, trace = self._scope, self._instrumentation.tracer, self.trace
        client = scope.get("client")
        wire = None
        if tracer is not None and tracer.exporting and trace is not None and trace.sampled:
            wire = Wire(
                scope.get("scheme", "ws"),
                scope.get("query_string", b""),
                scope.get("http_version", "1.1"),
                scope["headers"],
            )
        return Facts("GET", route, scope["path"], status, seconds, time(), client[0] if client else None, trace, wire)

    def _count(self, record: Any) -> None:
        if self._instrumentation.http is None:
            return
        try:
            record(self.families)
        except Exception as error:  # a guard: the application goes on
            self._instrumentation.failed("metrics", "websocket", error)

    def _template(self) -> str:
        try:
            return self._route_of(self._scope, self._path)
        except Exception as error:  # a router of a shape never seen
            self._instrumentation.failed("metrics", "route", error)
            return ""


def _code_label(code: int) -> str:
    """Return the code as a label value: applications may close with any of 2,000 codes of their own."""
    return str(code) if code in _REGISTERED or 3000 <= code < 5000 else "_OTHER"
