"""Django: what `get_wsgi_application()` and `get_asgi_application()` return, instrumented in place.

The handler stays the same object. It becomes an instance of a subclass of its class, whose call goes through the layer.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache, partial
from itertools import count
from typing import Any
from weakref import WeakSet

from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception

from tocsin import answered, asgi, wsgi
from tocsin.instrumentation import Instrumentation, RouteOf

_MATCH = "tocsin.django.match"
"""Environ or scope key: the URL pattern that matched. Not the request itself, which would be a cycle."""

_PARAMETER = re.compile(r"<(?:[^<>:]+:)?([^<>:]+)>")
_REGEX = re.compile(r"[\^$(\\]")
_TOKEN = re.compile(
    r"<(?:[^<>:]+:)?(?P<parameter>[^<>:]+)>|\\[AbBZ]|\\(?P<escaped>.)|(?P<group>\()|(?<=[)/])[?*+]|[\^$]"
)
_NAMED = re.compile(r"\?P<(\w+)>")
_BRACKET = re.compile(r"\\.|\[\]?(?:\\.|[^\]\\])*\]|[()]")

_LAYER = "_tocsin_layer"
_ORIGINAL = "_tocsin_original"

_prepared: WeakSet[Any] = WeakSet()


def claims(app: object) -> bool:
    """Whether this is one of Django's handlers."""
    return isinstance(app, WSGIHandler | ASGIHandler)


def install(app: Any, instrumentation: Instrumentation) -> Any:
    """Put the layer around the handler's call."""
    route_of = prepare(app)
    layer = asgi.Layer if isinstance(app, ASGIHandler) else wsgi.Layer
    original = getattr(type(app), _ORIGINAL)
    setattr(app, _LAYER, layer(partial(original.__call__, app), instrumentation, route_of))
    return app


def remove(app: Any) -> Any:
    """Make the handler what it was."""
    vars(app).pop(_LAYER, None)
    app.__class__ = getattr(type(app), _ORIGINAL, type(app))
    _prepared.discard(app)
    if not _prepared:
        got_request_exception.disconnect(_unhandled)
    return app


def prepare(app: Any) -> RouteOf:
    """Have the handler leave what it knows of a request where a layer finds it; return what finds the route."""
    if app not in _prepared:
        _prepared.add(app)
        kind: Any = type(app)
        app.__class__ = _asgi_class(kind) if isinstance(app, ASGIHandler) else _wsgi_class(kind)
        got_request_exception.connect(_unhandled)
    return _route_of


@cache
def _wsgi_class(original: Any) -> type:
    def call(self: Any, environ: Any, start_response: Any) -> Any:
        layer = vars(self).get(_LAYER)
        return original.__call__(self, environ, start_response) if layer is None else layer(environ, start_response)

    def get_response(self: Any, request: Any) -> Any:
        try:
            return original.get_response(self, request)
        finally:
            _remember(request)

    return type(original.__name__, (original,), {_ORIGINAL: original, "__call__": call, "get_response": get_response})


@cache
def _asgi_class(original: Any) -> type:
    # A coroutine function, as servers look at that to tell what an application speaks.
    async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
        layer = vars(self).get(_LAYER)
        await (original.__call__(self, scope, receive, send) if layer is None else layer(scope, receive, send))

    async def get_response_async(self: Any, request: Any) -> Any:
        try:
            return await original.get_response_async(self, request)
        finally:
            _remember(request)

    members = {_ORIGINAL: original, "__call__": call, "get_response_async": get_response_async}
    return type(original.__name__, (original,), members)


def _carrier(request: Any) -> dict[str, Any]:
    """Return the environ or scope of a request; requests made by hand have neither."""
    return getattr(request, "environ", None) or getattr(request, "scope", None) or {}


def _remember(request: Any) -> None:
    _carrier(request)[_MATCH] = request.resolver_match


def _unhandled(request: Any = None, **_: object) -> None:
    """Note the exception that Django answers with a page of its own or of `handler500`."""
    error = sys.exception()
    if error is not None:
        answered.note(_carrier(request), error)


def _route_of(carrier: Mapping[str, Any], _path: str) -> str:
    match = carrier.get(_MATCH)
    return "" if match is None else template(match.route)


@lru_cache(maxsize=4096)
def template(route: str) -> str:
    """Return a URL pattern as a template: `shops/<int:pk>/` as `/shops/{pk}/`, `^(?P<year>[0-9]{4})/$` as `/{year}/`.

    Groups without a name are numbered from 0, as Django numbers their arguments.
    """
    return "/" + (_of_regex(route, count()) if _REGEX.search(route) else _PARAMETER.sub(r"{\1}", route))


def _of_regex(pattern: str, numbers: Iterator[int]) -> str:
    """Return what a regular expression looks like with its groups as parameters and without its operators."""
    parts = []
    end = 0
    while found := _TOKEN.search(pattern, end):
        parts.append(pattern[end : found.start()])
        end = found.end()
        if found["parameter"]:
            parts.append("{" + found["parameter"] + "}")
        elif found["escaped"]:
            parts.append(found["escaped"] if not found["escaped"].isalnum() else found[0])
        elif found["group"]:
            close = _closing(pattern, end)
            parts.append(_of_group(pattern[end:close], numbers))
            end = close + 1
    return "".join((*parts, pattern[end:]))


def _of_group(content: str, numbers: Iterator[int]) -> str:
    named = _NAMED.match(content)
    if named:
        return "{" + named[1] + "}"
    if content.startswith("?:"):
        return _of_regex(content[2:], numbers)
    return "" if content.startswith("?") else f"{{{next(numbers)}}}"


def _closing(pattern: str, start: int) -> int:
    """Return where the group ends whose content begins here."""
    depth = 1
    for found in _BRACKET.finditer(pattern, start):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if not depth:
            return found.start()
    return len(pattern)
