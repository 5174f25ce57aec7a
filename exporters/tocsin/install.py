"""`tocsin.instrument(app)`: one line that gives an application metrics, traces and logs; and the way back."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import IO, Any, Literal, TypeVar, cast
from weakref import WeakKeyDictionary, WeakSet

from prometheus_client import REGISTRY, CollectorRegistry

from tocsin import settings
from tocsin.instrumentation import HttpMetrics, Instrumentation, Tracer
from tocsin.integrations import servers
from tocsin.logs.configure import application_pipeline, service_of
from tocsin.metrics.families import Families, families_of
from tocsin.metrics.http import http_metrics
from tocsin.metrics.server import answer
from tocsin.redact import redactor
from tocsin.runtime import process
from tocsin.tracing.settings import trace_settings
from tocsin.tracing.tracer import foreign_tracer, tracer_for

App = TypeVar("App", bound=Callable[..., Any])
Names = Literal["otel", "instrumentator", "starlette_exporter"]
Label = str | Callable[[Mapping[str, Any]], str]

_MARK = "_tocsin_instrumentation"
_FRAMEWORKS = ("starlette", "litestar", "flask", "django")
"""Each has a module in `tocsin.integrations`, loaded where the framework is."""

_quieting: WeakSet[Instrumentation] = WeakSet()
"""Those that write access lines: while there is one, the server's own access log stays silent."""


_watching: WeakKeyDictionary[Families, int] = WeakKeyDictionary()
"""How many applications show the process on a page of metrics."""


def instrument(
    app: App,
    *,
    service_name: str | None = None,
    service_version: str | None = None,
    metrics: bool = True,
    traces: bool | Literal["opentelemetry"] = True,
    logs: bool = True,
    metrics_path: str | None = "/metrics",
    exclude: Iterable[str] = (),
    buckets: Iterable[float] | None = None,
    names: Names = "otel",
    labels: Mapping[str, Label] | None = None,
    redact: bool | Iterable[str] = True,
    sample: float | None = None,
    registry: CollectorRegistry | None = None,
    log_stream: IO[Any] | None = None,
    log_file: str | os.PathLike[str] | None = None,
    log_level: str | None = None,
) -> App:
    """Record every request of a web application: metrics, a server span, and one access line.

    FastAPI, Starlette, Litestar, Flask and Django applications are changed in place and returned: outermost, whatever
    the order of middleware. Any other ASGI or WSGI callable is wrapped, and the wrapper is returned. Instrumenting
    twice changes nothing.

    Args:
        app: the application.
        service_name: goes into logs, spans and `target_info`; default: `OTEL_SERVICE_NAME`, else `unknown_service`.
        service_version: goes into logs, spans and `target_info`.
        metrics: count requests, watch the process, and serve all of it under `metrics_path`.
        traces: carry W3C trace context and record a span per request, exported where `OTEL_EXPORTER_OTLP_ENDPOINT`
            says; `"opentelemetry"` lets opentelemetry-instrumentation-fastapi make the spans.
        logs: write one access line per request, and configure the logs of the process unless that was done before.
        metrics_path: where metrics are served; None to serve them elsewhere.
        exclude: paths that are neither counted, traced nor logged; with a trailing `*` all that begin like this.
        buckets: upper bounds of the duration histogram in seconds.
        names: what metrics are called: `otel`, or as `instrumentator` or `starlette_exporter` called them.
        labels: labels to add to the duration histogram: a constant, or a function of the ASGI scope or WSGI environ
            after the application ran. At most 2,000 series, whatever they return.
        redact: further names whose values are never shown, beside the built-in ones; False shows everything.
        sample: share of new traces to record, 0 to 1; default: `OTEL_TRACES_SAMPLER`, else all.
        registry: where metrics are kept; default: prometheus_client's REGISTRY, which many applications may share.
        log_stream: where lines are written; default: what `configure_logs` set, else stdout.
        log_file: a file to append to instead.
        log_level: the lowest level written; default: what `configure_logs` set, else info.

    Raises:
        TypeError: neither an ASGI nor a WSGI application.
        ValueError: an option that cannot be; the message says which.
        ModuleNotFoundError: `traces="opentelemetry"` without its package; the message says how to install it.
        OSError: `log_file` cannot be opened.
    """
    existing = instrumentation_of(app)
    if existing is not None and existing.active:
        return app
    install = _way_of(app)
    watched = settings.paths(exclude, metrics_path if metrics else None)
    added = settings.labels(labels)
    hidden = redactor(redact)
    service_name, service_version = service_of(service_name, service_version)
    resource = trace_settings(service_name, service_version, sample, os.environ)
    registry = REGISTRY if registry is None else registry
    families = families_of(registry)
    http = _http_metrics(families, names, settings.buckets(buckets), added) if metrics else None
    pipeline = None
    if logs:
        pipeline = application_pipeline(
            service_name=service_name,
            service_version=service_version,
            stream=log_stream,
            file=log_file,
            level=log_level,
            families=families,
            redact=hidden,
        )
    tracer: Tracer | None = None
    if traces:
        make = foreign_tracer if traces == "opentelemetry" else tracer_for
        tracer = make(resource, families, hidden)
    instrumentation = Instrumentation(
        families=families,
        paths=watched,
        page=functools.partial(answer, registry),
        http=http,
        tracer=tracer,
        pipeline=pipeline,
        labels=tuple(added.values()),
        sizes=http is not None and http.sizes,
        personal=tracer is not None or pipeline is not None or registry is not REGISTRY,
        on_startup=functools.partial(_on_startup, families, logs=logs, metrics=metrics),
    )
    if metrics:
        families.describe_target(service_name, service_version)
        _watch(families)
    if logs:
        _quieting.add(instrumentation)
        servers.quiet_access_log()
        servers.adopt_server_log()  # gunicorn's is set up by now; uvicorn's when the application starts
    try:
        app = install(app, instrumentation)
    except BaseException:  # refused halfway, as where a package is missing: nothing of it stays
        _end(instrumentation)
        _take_off(app)
        raise
    setattr(_holder(app), _MARK, instrumentation)
    return app


def uninstrument(app: App) -> App:
    """Undo `instrument`: nothing is recorded any more. Returns the application, unwrapped if it was wrapped.

    What was counted stays in the registry. An application that is not instrumented is returned as it is.
    """
    instrumentation = instrumentation_of(app)
    if instrumentation is None:
        return app
    _end(instrumentation)
    delattr(_holder(app), _MARK)
    return _take_off(app)


def _end(instrumentation: Instrumentation) -> None:
    instrumentation.close()
    if instrumentation.http is not None:
        _unwatch(instrumentation.families)
    _quieting.discard(instrumentation)
    if instrumentation.pipeline is not None and not _quieting:
        servers.restore_access_log()


def _take_off(app: App) -> App:
    for framework in _frameworks():
        if framework.claims(app):
            return cast("App", framework.remove(app))
    return cast("App", getattr(app, "app", app))


def _http_metrics(
    families: Families, names: Names, bounds: tuple[float, ...] | None, added: dict[str, Label]
) -> HttpMetrics:
    """Return what counts; takes `app_name` out of the added labels where it is a label already."""
    app_name = added.get("app_name")
    if names == "starlette_exporter" and isinstance(app_name, str):
        del added["app_name"]
        return http_metrics(families, names, bounds, tuple(added), app_name)
    return http_metrics(families, names, bounds, tuple(added))


def instrumentation_of(app: object) -> Instrumentation | None:
    """Return what `instrument` made of an application, or None."""
    found = getattr(_holder(app), _MARK, None)
    return found if isinstance(found, Instrumentation) else None


def _watch(families: Families) -> None:
    _watching[families] = _watching.get(families, 0) + 1
    process.watch(families)


def _unwatch(families: Families) -> None:
    _watching[families] -= 1
    if not _watching[families]:
        process.unwatch(families)


def _frameworks() -> Iterable[Any]:
    """Return the modules for frameworks that are loaded."""
    return [import_module(f"tocsin.integrations.{name}") for name in _FRAMEWORKS if name in sys.modules]


def _way_of(app: object) -> Callable[[Any, Instrumentation], Any]:
    """Return what instruments an application of this kind.

    Raises:
        TypeError: it is none.
    """
    for framework in _frameworks():
        if framework.claims(app):
            return cast("Callable[[Any, Instrumentation], Any]", framework.install)
    protocol = _protocol(app)
    if protocol is None:
        raise TypeError(
            f"instrument() takes a FastAPI, Starlette, Litestar, Flask or Django application, or any ASGI or WSGI "
            f"callable; found {type(app).__name__}"
        )
    return cast("Callable[[Any, Instrumentation], Any]", import_module(f"tocsin.{protocol}").wrap)


def _protocol(app: object) -> Literal["asgi", "wsgi"] | None:
    """Return what an application speaks, told by its signature, or None if that cannot be."""
    if not callable(app):
        return None
    call = app if inspect.isroutine(app) or isinstance(app, functools.partial) else type(app).__call__
    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(call):
        return "asgi"
    try:
        signature = inspect.signature(app)
    except ValueError:  # written in C, and silent about its arguments
        return None
    # What takes any number of arguments and is no coroutine passes on what a WSGI server gives.
    anything = any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values())
    if not anything and _takes(signature, 3):
        return "asgi"
    return "wsgi" if _takes(signature, 2) else None


def _takes(signature: inspect.Signature, arguments: int) -> bool:
    try:
        signature.bind(*(None,) * arguments)
    except TypeError:
        return False
    return True


def _on_startup(families: Families, *, logs: bool, metrics: bool) -> None:
    """Do what needs the server: it configures its loggers, and starts its loop, after a script called `instrument`."""
    if logs:
        servers.quiet_access_log()
        servers.adopt_server_log()
    if metrics:
        process.watch_running_loop(families)


def _holder(app: object) -> object:
    """Return what carries our mark: the application, or its layer where it takes no attributes, as Litestar."""
    return app if hasattr(app, "__dict__") else getattr(app, "asgi_handler", app)
