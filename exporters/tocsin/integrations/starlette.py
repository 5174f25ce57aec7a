"""Starlette and FastAPI: instrumented in place, outermost, whatever the order of middleware."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tocsin.asgi import ASGIApp, Layer
from tocsin.instrumentation import Instrumentation
from tocsin.integrations.opentelemetry import restore_native, settle, yield_spans
from tocsin.routes import Routes

_BUILD = "build_middleware_stack"
_OURS = "_tocsin_instrumentation"


def claims(app: object) -> bool:
    """Whether this is a Starlette application, FastAPI's included."""
    applications = sys.modules.get("starlette.applications")
    return applications is not None and isinstance(app, applications.Starlette)


def install(app: Any, instrumentation: Instrumentation) -> Any:
    """Wrap what the application builds its middleware into: now if it is built, and whenever it is rebuilt."""
    build: Callable[[], ASGIApp] = app.build_middleware_stack
    route_of = Routes(app).template

    def build_middleware_stack() -> ASGIApp:
        stack = build()
        if vars(app).get(_BUILD) is not build_middleware_stack and hasattr(stack, "app"):
            # OpenTelemetry's instrumentation came after us, and refuses a stack that does not begin with the
            # framework's own error middleware. So the layer goes right inside of that, and the spans are theirs.
            stack.app = Layer(stack.app, instrumentation, route_of)
            yield_spans(instrumentation)
            return stack
        return Layer(stack, instrumentation, route_of)

    setattr(build_middleware_stack, _OURS, instrumentation)
    app.build_middleware_stack = build_middleware_stack
    if app.middleware_stack is not None:
        app.middleware_stack = Layer(app.middleware_stack, instrumentation, route_of)
    settle(app, instrumentation)
    return app


def remove(app: Any) -> Any:
    """Take the layer off again."""
    # Another library may have wrapped our builder since; then it stays, and its layer lets everything pass.
    if hasattr(vars(app).get(_BUILD), _OURS):
        delattr(app, _BUILD)
    if isinstance(app.middleware_stack, Layer):
        app.middleware_stack = app.middleware_stack.app
    restore_native(app)
    return app
