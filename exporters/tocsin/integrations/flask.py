"""Flask: instrumented in place, outside of `app.wsgi_app` and whatever wraps it by then."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any
from weakref import WeakSet
from wsgiref.types import WSGIEnvironment

import flask
from werkzeug.exceptions import HTTPException

from tocsin import answered
from tocsin.instrumentation import Instrumentation, RouteOf
from tocsin.wsgi import Layer, inside
from tocsin.wsgi_exchange import decoded

_REQUEST = "tocsin.flask.request"
"""Environ key: the request, which knows its route. Taken out when that was asked for, as they lead to each other."""

_SEEN = "tocsin.request"
"""Environ key of the layer: set where somebody will ask."""

_CONTEXT, _HANDLE = "request_context", "handle_user_exception"
_PARAMETER = re.compile(r"<(?:[a-zA-Z_]\w*(?:\(.*?\))?:)?([a-zA-Z_]\w*)>")

_prepared: WeakSet[flask.Flask] = WeakSet()


def claims(app: object) -> bool:
    """Whether this is a Flask application."""
    return isinstance(app, flask.Flask)


def install(app: flask.Flask, instrumentation: Instrumentation) -> flask.Flask:
    """Put the layer around `app.wsgi_app`."""
    app.wsgi_app = Layer(app.wsgi_app, instrumentation, prepare(app))  # type: ignore[method-assign]  # as Flask advises
    return app


def remove(app: flask.Flask) -> flask.Flask:
    """Take the layer off again. Where other middleware is around it by now it stays, and lets everything pass."""
    layer = app.wsgi_app
    if isinstance(layer, Layer):
        inner: Any = layer.app
        if getattr(inner, "__self__", None) is app:
            del app.wsgi_app
        else:
            app.wsgi_app = inner  # type: ignore[method-assign]  # as Flask advises
    for known in (app, *_mounted(app)):
        if not isinstance(known.wsgi_app, Layer):  # it would still be watched by itself
            _forget(known)
    return app


def prepare(app: flask.Flask) -> RouteOf:
    """Have the application, and those it mounts, note what a layer asks for; return what finds a request's route."""
    flask.got_request_exception.connect(_unhandled)
    for known in (app, *_mounted(app)):
        if known not in _prepared:
            _prepared.add(known)
            vars(known)[_CONTEXT] = partial(_remember, known.request_context)
            vars(known)[_HANDLE] = partial(_handle, known.handle_user_exception)
    return _Routes(app).template


def _forget(app: flask.Flask) -> None:
    _prepared.discard(app)
    for name, ours in ((_CONTEXT, _remember), (_HANDLE, _handle)):
        if getattr(vars(app).get(name), "func", None) is ours:
            delattr(app, name)
    if not _prepared:
        flask.got_request_exception.disconnect(_unhandled)


def _mounted(app: flask.Flask) -> Iterator[flask.Flask]:
    return (inner for inner in inside(app) if isinstance(inner, flask.Flask))


def _remember(make: Callable[[WSGIEnvironment], Any], environ: WSGIEnvironment) -> Any:
    context = make(environ)
    if _SEEN in environ:
        environ[_REQUEST] = context.request
    return context


def _unhandled(_app: object, exception: Exception, **_: object) -> None:
    """Note an exception that nothing handles, also of an application that this one only mounts."""
    answered.note(flask.request.environ, exception)


def _handle(handle: Callable[[Exception], Any], error: Exception) -> Any:
    """Note an exception that a handler of the application answers: told if the answer is a server error."""
    response = handle(error)
    if not isinstance(error, HTTPException):
        answered.note(flask.request.environ, error)
    return response


class _Routes:
    """Finds the template of a request's route, with the place its application is mounted at."""

    def __init__(self, app: flask.Flask) -> None:
        self._app = app

    def template(self, environ: Any, path: str) -> str:
        """Return the full template, or an empty string if no route matched."""
        mount = self._mount(environ, path)
        request = environ.pop(_REQUEST, None)
        if request is None:  # another kind of application is mounted here
            return mount + "/{path}" if mount else ""
        rule = request.url_rule
        return "" if rule is None else mount + _template(rule.rule)

    def _mount(self, environ: Mapping[str, Any], path: str) -> str:
        """Return the mount that answered, or an empty string. Prefixes that no dispatcher lists have no bound."""
        rest = decoded(environ.get("PATH_INFO", ""))
        moved = path.removesuffix(rest) if rest != path else ""
        if not moved or not decoded(environ.get("SCRIPT_NAME", "")).endswith(moved):
            return ""
        known = {mount for owner in (self._app, *inside(self._app)) for mount in getattr(owner, "mounts", ())}
        return moved if moved in known else ""


@lru_cache(maxsize=4096)
def _template(rule: str) -> str:
    """Return a rule without converters: `/users/<int:id>` is shown as `/users/{id}`."""
    return _PARAMETER.sub(r"{\1}", rule)
