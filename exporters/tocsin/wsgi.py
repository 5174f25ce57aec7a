"""The layer around a WSGI application (PEP 3333): watches one request from outside, and tells what it was at its end.

Nothing is buffered or changed. Exceptions are counted and raised again. Whatever goes wrong in here costs a count in
`tocsin_dropped_total`, never an answer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from importlib import import_module
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from tocsin import bound as variables
from tocsin.instrumentation import Instrumentation, RouteOf
from tocsin.request import CURRENT
from tocsin.wsgi_body import watched
from tocsin.wsgi_exchange import Exchange, decoded, outer_request

_SEEN = "tocsin.request"
"""Environ key: an outer layer already watches this request, as when one instrumented application is inside another."""

_INSIDE = ("app", "application", "wsgi_app")
"""Attributes in which middleware keeps what it wraps."""

_DEPTH_LIMIT = 16
_NOTHING: dict[str, Any] = {}


class Layer:
    """A WSGI application that answers as the one inside does. Attributes that it lacks are those of the inner one."""

    def __init__(self, app: WSGIApplication, instrumentation: Instrumentation, route_of: RouteOf) -> None:
        self.app = app
        self.instrumentation = instrumentation
        self.route_of = route_of
        variables.bound()  # finds structlog's list of them
        self._starting = instrumentation.on_startup is not None

    def __getattr__(self, name: str) -> Any:
        if name == "app":  # not set yet: while being copied or unpickled
            raise AttributeError(name)
        return getattr(self.app, name)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        instrumentation = self.instrumentation
        if not instrumentation.active or _SEEN in environ:
            return self.app(environ, start_response)
        if self._starting:
            self._start()
        path = environ.get("PATH_INFO") or "/"
        if not path.isascii():
            path = decoded(path)
        paths = instrumentation.paths
        if path in paths.exact or (paths.prefixes and path.startswith(paths.prefixes)):
            return self._not_watched(path, environ, start_response)
        environ[_SEEN] = True
        outer = outer_request()
        before = _NOTHING
        if variables.Found.variables:
            before = variables.bound()
            if outer is not None:
                # Begun from inside another request, as a call in process: what that one bound is none of this one's.
                variables.restore(_NOTHING)
        exchange = Exchange(instrumentation, self.route_of, path, environ, start_response)
        exchange.enter(outer, before)
        try:
            body = self.app(environ, exchange.start_response)
        except BaseException as error:
            exchange.over(error)
            exchange.leave()
            raise
        return watched(body, exchange, environ.get("wsgi.file_wrapper"))

    def _start(self) -> None:
        """Do what waits for the server to be up: with the first request, as WSGI has no other sign of it."""
        self._starting = False
        instrumentation = self.instrumentation
        try:
            if instrumentation.on_startup is not None:
                instrumentation.on_startup()
        except Exception as error:  # a guard
            instrumentation.failed("logs", "startup", error)

    def _not_watched(self, path: str, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if path == self.instrumentation.paths.metrics:
            return self._answer_scrape(environ, start_response)
        environ[_SEEN] = True
        outer = outer_request()
        if outer is None:
            return self.app(environ, start_response)
        before = variables.bound()
        CURRENT.set(None)
        variables.restore(_NOTHING)
        try:
            return self.app(environ, start_response)
        finally:
            CURRENT.set(outer)
            variables.restore(before)

    def _answer_scrape(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        asked = [
            (name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in environ.items()
            if name.startswith("HTTP_")
        ]
        status, headers, body = self.instrumentation.page(environ["REQUEST_METHOD"], asked)
        start_response(
            f"{status} {HTTPStatus(status).phrase}",
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers],
        )
        return [body]


def wrap(app: WSGIApplication, instrumentation: Instrumentation) -> Layer:
    """Return the application wrapped; its routes are found if it is middleware around a Flask or Django application."""
    frameworks = [import_module(f"tocsin.integrations.{name}") for name in ("flask", "django") if name in sys.modules]
    finders = [framework.prepare(inner) for inner in inside(app) for framework in frameworks if framework.claims(inner)]

    def route_of(environ: Any, path: str) -> str:
        return next(filter(None, (find(environ, path) for find in finders)), "")

    return Layer(app, instrumentation, route_of)


def inside(app: object, depth: int = _DEPTH_LIMIT) -> Iterator[Any]:
    """Yield what an application leads to: what middleware wraps, and what a dispatcher has mounted."""
    attributes = getattr(app, "__dict__", {})
    mounts = attributes.get("mounts")
    found = [attributes[name] for name in _INSIDE if name in attributes]
    for inner in found + (list(mounts.values()) if isinstance(mounts, dict) else []):
        owner = getattr(inner, "__self__", inner)  # `middleware(app.wsgi_app)`: a method in place of its application
        yield owner
        if depth:
            yield from inside(owner, depth - 1)
