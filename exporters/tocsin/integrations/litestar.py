"""Litestar: instrumented in place, around `app.asgi_handler`, so outside of its exception handling and middleware."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from litestar import Litestar
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, ImproperlyConfiguredException, InternalServerException
from litestar.types import Scope

from tocsin import answered
from tocsin.asgi import Layer
from tocsin.instrumentation import Instrumentation
from tocsin.routes import UnknownRouteError


def claims(app: object) -> bool:
    """Whether this is a Litestar application."""
    return isinstance(app, Litestar)


def install(app: Litestar, instrumentation: Instrumentation) -> Litestar:
    """Put the layer around what answers requests, and have the application say what it answers itself."""
    handler: Any = app.asgi_handler
    app.asgi_handler = Layer(handler, instrumentation, _Routes(app).template)  # type: ignore[assignment]  # another spelling of ASGI
    app.after_exception.append(_unhandled)
    if instrumentation.on_startup is not None:
        app.on_startup.append(_Startup(instrumentation.on_startup))
    return app


def remove(app: Litestar) -> Litestar:
    """Take the layer and the hooks off again."""
    layer: Any = app.asgi_handler
    if isinstance(layer, Layer):
        app.asgi_handler = layer.app  # type: ignore[assignment]  # as above
    app.after_exception[:] = [hook for hook in app.after_exception if hook is not _unhandled]
    app.on_startup[:] = [hook for hook in app.on_startup if not isinstance(hook, _Startup)]
    return app


class _Startup:
    """A start-up hook that takes no argument: Litestar looks at the signature, and a layer sees no lifespan here."""

    def __init__(self, hook: Callable[[], None]) -> None:
        self._hook = hook

    def __call__(self) -> None:
        self._hook()


async def _unhandled(error: Exception, scope: Scope) -> None:
    """Note an exception that is none of those that are answers."""
    meant = isinstance(error, HTTPException) and not isinstance(
        error, InternalServerException | ImproperlyConfiguredException
    )
    if scope["type"] == ScopeType.HTTP and not meant:
        answered.note(scope, error)  # type: ignore[arg-type]  # a typed dictionary, open at run time


class _Routes:
    """Finds the template of a request's route."""

    def __init__(self, app: Litestar) -> None:
        self._app = app
        self._mounts: dict[int, list[str]] = {}
        """The paths of mounts by the id of their handler, which the application keeps."""

    def template(self, scope: Mapping[str, Any], path: str) -> str:
        """Return the full template, or an empty string if no route matched.

        Litestar leaves it in the scope, without converters; but for a mount it leaves that of the root.
        """
        template: str | None = scope.get("path_template")
        handler = scope.get("route_handler")
        if template is None or not getattr(handler, "is_mount", False):
            return template or ""
        mounts = self._mounts.get(id(handler)) or self._find_mounts(handler)
        return next((mount for mount in mounts if path.startswith(mount)), mounts[0]).rstrip("/") + "/{path}"

    def _find_mounts(self, handler: object) -> list[str]:
        """Return where a handler is mounted, the longest first.

        Raises:
            UnknownRouteError: nowhere in this application.
        """
        found = [route.path_format for route in self._app.routes if getattr(route, "route_handler", None) is handler]
        if not found:
            raise UnknownRouteError(f"{handler!r} answered, but no route of the application leads to it")
        self._mounts[id(handler)] = found = sorted(found, key=len, reverse=True)
        return found
