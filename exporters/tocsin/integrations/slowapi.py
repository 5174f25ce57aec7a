"""slowapi: counts what its limits reject, by route template and policy, in `tocsin_ratelimit_rejected_total`.

The limiter decides, raises and answers as before.
"""

from __future__ import annotations

import functools
from typing import Any
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded

from tocsin.events import rate_limited
from tocsin.metrics.families import families_of
from tocsin.request import CURRENT
from tocsin.routes import Routes

_CHECK = "_check_request_limit"
"""The one method through which slowapi's decorators and both its middlewares ask. It calls itself when it falls back
from a storage that is down."""
_COUNTED = "__tocsin_counted__"


def instrument(limiter_or_app: object, registry: CollectorRegistry | None = None) -> None:
    """Count every request that a slowapi limiter rejects. Calling it again changes nothing but the registry.

    The policy is the limit as slowapi writes it, `5 per 1 minute`; a shared limit or one of the whole application has
    its scope before it, `global: 1000 per 1 hour`. The route is the template (`/users/{user}`); it has the prefix of
    where an application is mounted if the outer application is given here.

    Args:
        limiter_or_app: the `Limiter`, or the FastAPI or Starlette application that has it as `app.state.limiter`.
        registry: where to count; default: where the current request is counted, else prometheus_client's REGISTRY.

    Raises:
        TypeError: it is no limiter and has none.
    """
    limiter = _limiter(limiter_or_app)
    check = getattr(limiter, _CHECK)
    if isinstance(check, _Watched):
        check.registry = registry
        return
    app = None if limiter is limiter_or_app else limiter_or_app
    setattr(limiter, _CHECK, _Watched(check, None if app is None else Routes(app), registry))


def uninstrument(limiter_or_app: object) -> None:
    """Leave the limiter as it was found.

    Raises:
        TypeError: it is no limiter and has none.
    """
    limiter = _limiter(limiter_or_app)
    if isinstance(vars(limiter).get(_CHECK), _Watched):
        delattr(limiter, _CHECK)


def _limiter(limiter_or_app: object) -> Limiter:
    if isinstance(limiter_or_app, Limiter):
        return limiter_or_app
    limiter = getattr(getattr(limiter_or_app, "state", None), "limiter", None)
    if isinstance(limiter, Limiter):
        return limiter
    raise TypeError(
        f"expected a slowapi Limiter, or an application with one as app.state.limiter, found {limiter_or_app!r}. "
        "Set app.state.limiter first, or give the limiter."
    )


class _Watched:
    """A limiter's check, with what it rejects counted."""

    def __init__(self, check: Any, routes: Routes | None, registry: CollectorRegistry | None) -> None:
        self._check = check
        self._routes = routes
        self._by_app: WeakKeyDictionary[Any, Routes] = WeakKeyDictionary()
        self.registry = registry
        functools.update_wrapper(self, check)

    def __call__(self, request: Any, endpoint_func: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._check(request, endpoint_func, *args, **kwargs)
        except RateLimitExceeded as error:
            try:
                self._count(request, endpoint_func, error)
            except Exception:  # a guard: the rejection goes on as it is
                current = CURRENT.get()
                families = current.families if self.registry is None and current else families_of(self.registry)
                families.dropped("metrics", "rate_limit")
            raise

    def _count(self, request: Any, endpoint: Any, error: RateLimitExceeded) -> None:
        if vars(error).setdefault(_COUNTED, False):
            return  # by the call inside this one
        vars(error)[_COUNTED] = True
        rate_limited(self._route(request, endpoint), policy_of(error), registry=self.registry)

    def _route(self, request: Any, endpoint: Any) -> str:
        """Return the template. Before routing (in a middleware) slowapi has looked up the endpoint itself."""
        scope = request.scope
        routes = (
            self._routes or self._by_app.get(request.app) or self._by_app.setdefault(request.app, Routes(request.app))
        )
        path = scope["path"].removeprefix(scope.get("app_root_path", scope.get("root_path", "")))
        try:
            return routes.template({"endpoint": scope.get("endpoint", endpoint)}, path)
        except LookupError:
            return ""


def policy_of(error: RateLimitExceeded) -> str:
    """Return the limit that was exceeded as a label value: `5 per 1 minute`, `global: 1000 per 1 hour`."""
    limit = error.limit
    if limit is None:  # raised by the application itself
        return str(error.detail)
    try:
        scope = limit.scope
    except Exception:  # a scope made by a function of the application: slowapi calls it with what it may not have
        scope = ""
    return f"{scope}: {limit.limit}" if scope else str(limit.limit)
