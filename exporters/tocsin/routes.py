"""The route template of a request, for Starlette and FastAPI, without importing either.

A framework leaves the matched endpoint in the scope. A map from endpoint to full template is built when first asked:
mounts and included routers are walked once, not on every request. The prefix comes from the templates of the mounts,
never from the concrete `root_path`, in which mount parameters would leak.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_REST = "/{path}"
_PARAMETER = re.compile(r"\{([a-zA-Z_]\w*)(:[a-zA-Z_]\w*)?\}")
_DEPTH_LIMIT = 16
_MISS_LIMIT = 1_000


class UnknownRouteError(LookupError):
    """A route matched that is found nowhere in the application's routes."""


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One way to reach an endpoint."""

    endpoint: object
    template: str | None
    """None: matched, but unknown to us."""
    path: str
    """The template with converters, as the pattern is made from it."""

    def matches(self, path: str) -> bool:
        return _pattern(self.path).fullmatch(path) is not None


class Routes:
    """Finds route templates of one application (Starlette, FastAPI, or anything that wraps one in `.app`)."""

    def __init__(self, app: object) -> None:
        self._app = app
        self._leaves: dict[int, list[_Leaf]] = {}
        self.known: dict[int, str] = {}
        """Templates by the `id` of endpoints that are reached in one way only: a look-up instead of a call.

        The endpoints themselves are kept in the leaves, so that their ids are not used again.
        """
        self._misses = 0

    def template(self, scope: Mapping[str, Any], path: str) -> str:
        """Return the full template of the route that answered, or an empty string if none matched.

        Args:
            scope: the ASGI scope after the application ran.
            path: the request's path without the application's root path; tells apart routes that share an endpoint.

        Raises:
            UnknownRouteError: a route matched that the application's routes do not show.
        """
        endpoint = scope.get("endpoint")
        if endpoint is None:
            return _frontend(scope, path)
        leaves = self._leaves.get(id(endpoint))
        if leaves is None or leaves[0].endpoint is not endpoint:
            leaves = self._look_up(endpoint)
        leaf = leaves[0] if len(leaves) == 1 else next((leaf for leaf in leaves if leaf.matches(path)), leaves[0])
        if leaf.template is None:
            raise UnknownRouteError(f"{endpoint!r} answered, but no route of the application leads to it")
        return leaf.template

    def _look_up(self, endpoint: object) -> list[_Leaf]:
        """Walk the routes again: they may have been added since. Endpoints made per request are given up on."""
        missing = [_Leaf(endpoint, None, "")]
        if self._misses >= _MISS_LIMIT:
            return missing
        found: dict[int, list[_Leaf]] = {}
        for leaf in _walk(_routes_of(self._app), "", "", 0):
            found.setdefault(id(leaf.endpoint), []).append(leaf)
        if id(endpoint) not in found:
            self._misses += 1
            # Kept with the endpoint, so that its id is not used again, and the walk is not repeated for it.
            found.update({key: leaves for key, leaves in self._leaves.items() if leaves[0].template is None})
            found[id(endpoint)] = missing
        self._leaves = found
        self.known.clear()
        self.known.update(
            (key, leaves[0].template) for key, leaves in found.items() if len(leaves) == 1 and leaves[0].template
        )
        return found[id(endpoint)]


def _frontend(scope: Mapping[str, Any], path: str) -> str:
    """Return the template of FastAPI's `frontend()`, which is no endpoint: `/app/{path}`; "" if it did not answer."""
    rest = scope.get("fastapi", {}).get("frontend_path")
    mounted = scope.get("app_root_path", scope.get("root_path")) != scope.get("root_path")
    if rest is None or mounted:  # in a mount with parameters, the prefix would show their values
        return ""
    return path[: len(path) - len(rest)].rstrip("/") + _REST


def _routes_of(app: object) -> Iterable[Any]:
    """Return the routes of an application, looking through middleware that keeps what it wraps in `.app`."""
    for _ in range(_DEPTH_LIMIT):
        routes = getattr(app, "routes", None)
        if routes:
            return list(_expanded(routes))
        app = getattr(app, "app", None)
    return ()


def _expanded(routes: Iterable[Any]) -> Iterable[Any]:
    """Return the routes with FastAPI's lazily included routers (0.137 and later) replaced by what they include."""
    expand = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    return routes if expand is None else expand(routes)


def _walk(routes: Iterable[Any], template: str, path: str, depth: int) -> Iterable[_Leaf]:
    if depth > _DEPTH_LIMIT:
        return
    for route in routes:
        endpoint = getattr(route, "endpoint", None)
        own_path = getattr(route, "path", None) or ""
        own_template = _plain(own_path)
        if endpoint is not None:
            yield _Leaf(endpoint, template + own_template, path + own_path)
            continue
        app = getattr(route, "app", None)
        if app is None:
            continue
        # A Host has no path of its own; a Mount's ends before what it mounts.
        inner = _routes_of(app)
        # A mounted application without routes of its own (static files) is one route; with routes, nothing matched.
        yield _Leaf(app, "" if inner else template + own_template + _REST, path + own_path + "/{path:path}")
        yield from _walk(inner, template + own_template, path + own_path, depth + 1)


def _plain(path: str) -> str:
    """Return a template without converters: `/items/{item:int}` is shown as `/items/{item}`."""
    return _PARAMETER.sub(r"{\1}", path)


def _pattern(path: str) -> re.Pattern[str]:
    """Return what paths this template matches: `path` converters take slashes, others do not."""
    parts: list[str] = []
    end = 0
    for parameter in _PARAMETER.finditer(path):
        parts += (re.escape(path[end : parameter.start()]), ".*" if parameter[2] == ":path" else "[^/]+")
        end = parameter.end()
    return re.compile("".join((*parts, re.escape(path[end:]))))
