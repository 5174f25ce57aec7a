"""`tocsin.instrument(app)`: one line that gives an application metrics, trace ids and logs; and the way back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import IO, Any, TypeVar, cast
from weakref import WeakSet

from prometheus_client import REGISTRY, CollectorRegistry

from tocsin import settings
from tocsin.asgi import ASGIApp, Instrumentation, Layer
from tocsin.integrations import uvicorn
from tocsin.logs.configure import application_pipeline
from tocsin.metrics.families import families_of
from tocsin.routes import Routes

App = TypeVar("App", bound=Callable[..., Any])

_MARK = "_tocsin_instrumentation"
_BUILD = "build_middleware_stack"
_quieting: WeakSet[Instrumentation] = WeakSet()
"""Those that write access lines: while there is one, uvicorn's own access log stays silent."""


def instrument(
    app: App,
    *,
    service_name: str | None = None,
    service_version: str | None = None,
    metrics: bool = True,
    logs: bool = True,
    traces: bool = True,
    metrics_path: str | None = "/metrics",
    exclude: Iterable[str] = (),
    buckets: Iterable[float] | None = None,
    registry: CollectorRegistry | None = None,
    log_stream: IO[Any] | None = None,
    log_file: str | os.PathLike[str] | None = None,
    log_level: str | None = None,
) -> App:
    """Record every HTTP request of an ASGI application: a duration histogram, one access line, its trace ids.

    FastAPI and Starlette applications are changed in place and returned: outermost, whatever the order of middleware.
    Any other ASGI callable is wrapped, and the wrapper is returned. Instrumenting twice changes nothing.

    Args:
        app: the application.
        service_name: goes into logs and `target_info`; default: `OTEL_SERVICE_NAME`, else `unknown_service`.
        service_version: goes into logs and `target_info`.
        metrics: count requests and serve them under `metrics_path`.
        logs: write one access line per request, and configure the logs of the process unless that was done before.
        traces: carry W3C trace context, and put its ids into logs and exemplars.
        metrics_path: where metrics are served; None to serve them elsewhere.
        exclude: paths that are neither counted nor logged; with a trailing `*` all that begin like this.
        buckets: upper bounds of the duration histogram in seconds.
        registry: where metrics are kept; default: prometheus_client's REGISTRY, which many applications may share.
        log_stream: where lines are written; default: what `configure_logs` set, else stdout.
        log_file: a file to append to instead.
        log_level: the lowest level written; default: what `configure_logs` set, else info.

    Raises:
        TypeError: not an ASGI application.
        ValueError: an option that cannot be; the message says which.
        OSError: `log_file` cannot be opened.
    """
    existing = getattr(app, _MARK, None)
    if isinstance(existing, Instrumentation) and existing.active:
        return app
    if not callable(app) or hasattr(app, "wsgi_app"):
        raise TypeError(f"instrument() takes an ASGI application, found {type(app).__name__}")
    families = families_of(registry, settings.buckets(buckets))
    watched = settings.paths(exclude, metrics_path if metrics else None)
    pipeline = None
    if logs:
        pipeline = application_pipeline(
            service_name=service_name,
            service_version=service_version,
            stream=log_stream,
            file=log_file,
            level=log_level,
            families=families,
        )
        service_name, service_version = pipeline.service_name, pipeline.service_version
    if metrics:
        families.describe_target(settings.service_name(service_name, os.environ), service_version)
    instrumentation = Instrumentation(
        families=families,
        registry=REGISTRY if registry is None else registry,
        routes=Routes(app),
        paths=watched,
        pipeline=pipeline,
        metrics=metrics,
        traces=traces,
        on_startup=_take_over_server_logs if logs else None,
    )
    if logs:
        _quieting.add(instrumentation)
        uvicorn.quiet_access_log()
    if hasattr(app, _BUILD):
        _instrument_in_place(app, instrumentation)
        return app
    layer = Layer(app, instrumentation)
    setattr(layer, _MARK, instrumentation)
    return cast("App", layer)


def uninstrument(app: App) -> App:
    """Undo `instrument`: nothing is recorded any more. Returns the application, unwrapped if it was wrapped.

    What was counted stays in the registry. An application that is not instrumented is returned as it is.
    """
    instrumentation = getattr(app, _MARK, None)
    if not isinstance(instrumentation, Instrumentation):
        return app
    instrumentation.active = False
    _quieting.discard(instrumentation)
    if instrumentation.pipeline is not None and not _quieting:
        uvicorn.restore_access_log()
    if isinstance(app, Layer):
        return cast("App", app.app)
    delattr(app, _MARK)
    # Another library may have wrapped our builder since; then it stays, and its layer lets everything pass.
    if getattr(vars(app).get(_BUILD), _MARK, None) is instrumentation:
        delattr(app, _BUILD)
    stack = getattr(app, "middleware_stack", None)
    if isinstance(stack, Layer):
        app.middleware_stack = stack.app  # type: ignore[attr-defined]  # Starlette's, not imported here
    return app


def _instrument_in_place(app: Any, instrumentation: Instrumentation) -> None:
    """Wrap what a Starlette application builds its middleware into, now if it is built, and whenever it is rebuilt."""
    build: Callable[[], ASGIApp] = app.build_middleware_stack

    def build_middleware_stack() -> ASGIApp:
        stack = build()
        if vars(app).get(_BUILD) is not build_middleware_stack and hasattr(stack, "app"):
            # OpenTelemetry's instrumentation came after us, and refuses a stack that does not begin with the
            # framework's own error middleware. So the layer goes right inside of that.
            stack.app = Layer(stack.app, instrumentation)
            return stack
        return Layer(stack, instrumentation)

    setattr(build_middleware_stack, _MARK, instrumentation)
    setattr(app, _MARK, instrumentation)
    app.build_middleware_stack = build_middleware_stack
    if app.middleware_stack is not None:
        app.middleware_stack = Layer(app.middleware_stack, instrumentation)


def _take_over_server_logs() -> None:
    uvicorn.quiet_access_log()
    uvicorn.adopt_server_log()
