"""The pure ASGI layer around an application: watches one request from outside, and tells what it was when it is over.

Nothing is buffered or changed: messages pass as they come. Exceptions are counted and raised again. Lifespan passes
through. Whatever goes wrong in here costs a count in `tocsin_dropped_total`, never an answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from time import perf_counter
from typing import Any

from tocsin import lifecycle
from tocsin.bound import Found, bound, restore
from tocsin.exchange import Exchange
from tocsin.instrumentation import Instrumentation, RouteOf
from tocsin.loops import beside_the_loop
from tocsin.request import CURRENT
from tocsin.routes import Routes
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

_FLUSH_SECONDS = 3.0

_PAGE_IN_THREAD = 0.005
"""Seconds for a metrics page above which the next one is made in a thread, so that no request waits for it."""

_NOTHING: dict[Any, Any] = {}


class Layer:
    """An ASGI application that answers as the one inside does. Attributes that it lacks are those of the inner one."""

    def __init__(self, app: ASGIApp, instrumentation: Instrumentation, route_of: RouteOf) -> None:
        self.app = app
        self.instrumentation = instrumentation
        self.route_of = route_of
        # Here and not looked up there: a request pays for each step.
        self.known_routes: Mapping[int, str] = getattr(getattr(route_of, "__self__", None), "known", _NOTHING)
        bound()  # finds structlog's list of them, which a request then only looks at
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
        before: Mapping[str, Any] | None = _NOTHING
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
            # Closed, perhaps in another context: its variables are not ours.
            before = None if isinstance(error, GeneratorExit) else before
            raise
        else:
            if not exchange.told:
                exchange.over(None)
        finally:
            leave(token)
            if Found.variables and before is not None:
                restore(before)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        instrumentation = self.instrumentation
        if instrumentation.active and _SEEN not in scope:
            if scope["type"] == "lifespan" and instrumentation.on_startup is not None:
                try:
                    instrumentation.on_startup()
                except Exception as error:  # a server of a shape never seen
                    instrumentation.failed("metrics", "startup", error)
                await self.app(scope, receive, _flushing(send))
                return
            if scope["type"] == "websocket":
                path = local_path(scope)
                watched = path not in self._unwatched and not path.startswith(self._prefixes)
                scope[_SEEN] = scope[_NATIVE] = None
                if watched:
                    await watch_websocket(self.app, instrumentation, self.route_of, path, scope, receive, send)
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
        before: Mapping[str, Any] | None = bound()
        alone, hidden = CURRENT.set(None), make_current(None)
        restore(_NOTHING)
        try:
            await self.app(scope, receive, send)
        except GeneratorExit:  # as above
            before = None
            raise
        finally:
            leave(hidden)
            leave(alone)
            if before is not None:
                restore(before)

    async def _answer_scrape(self, scope: Scope, send: Send) -> None:
        page, method, asked = self.instrumentation.page, scope["method"], scope["headers"]
        began = perf_counter()
        if self._page_seconds > _PAGE_IN_THREAD:
            status, headers, body = await beside_the_loop(lambda: page(method, asked))
        else:
            status, headers, body = page(method, asked)
        self._page_seconds = perf_counter() - began
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _flushing(send: Send) -> Send:
    """Return what sends messages of the lifespan, and before the last one writes and exports what is queued.

    Servers end by the signal that told them to (uvicorn raises it again), and then nothing runs at exit.
    """

    async def flushing(message: Message) -> None:
        if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            await beside_the_loop(lambda: lifecycle.force_flush(_FLUSH_SECONDS))
        await send(message)

    return flushing


def local_path(scope: Scope) -> str:
    """Return the request's path as the application knows it: without the root path it is served under."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :] or "/"
    return path


def wrap(app: ASGIApp, instrumentation: Instrumentation) -> Layer:
    """Return the application wrapped; its routes are found if it, or what it wraps in `.app`, is a Starlette one."""
    return Layer(app, instrumentation, Routes(app).template)
