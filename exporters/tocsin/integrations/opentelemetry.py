"""Beside other code that traces the same application with OpenTelemetry: one server span a request, whoever makes it.

- FastAPI traces by itself as soon as somebody has set a TracerProvider: that is switched off, unless the application
  has given FastAPI a provider by name.
- opentelemetry-instrumentation-fastapi, and OpenTelemetryMiddleware put in by hand, go on; their ids become ours.
- `instrument(app, traces="opentelemetry")` has opentelemetry-instrumentation-fastapi make the spans.

Nothing here imports OpenTelemetry or FastAPI, but for the last.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from tocsin.tracing.tracer import ForeignTracer, RequestTracer

if TYPE_CHECKING:
    from tocsin.instrumentation import Instrumentation
    from tocsin.settings import Paths

_log = logging.getLogger("tocsin")

_FLAG = "_is_instrumented_by_opentelemetry"
_MIDDLEWARE = ("opentelemetry.instrumentation.asgi", "OpenTelemetryMiddleware")
_NATIVE = (("tracing", "tracer_provider"), ("metrics", "meter_provider"), ("logs", "logger_provider"))
"""Switches of FastAPI's own telemetry, each with the provider that an application may have given to it by name."""

_quieted: WeakKeyDictionary[Any, dict[str, bool]] = WeakKeyDictionary()


def settle(app: Any, instrumentation: Instrumentation) -> None:
    """Decide who makes the server spans of an application that was just instrumented, and see that nobody else does."""
    tracer = instrumentation.tracer
    if tracer is not None and tracer.foreign:
        contrib_instrument(app, instrumentation.paths)
    elif tracer is not None and contrib_spans(app):
        yield_spans(instrumentation)
    quiet_native(
        app,
        traces=tracer is not None,
        metrics=instrumentation.http is not None,
        logs=instrumentation.pipeline is not None,
    )


def yield_spans(instrumentation: Instrumentation) -> None:
    """Leave the server spans to OpenTelemetry's instrumentation, which was found in the application."""
    tracer = instrumentation.tracer
    if tracer is None or tracer.foreign:
        return
    if isinstance(tracer, RequestTracer):
        tracer.step_aside()
    else:
        instrumentation.tracer = ForeignTracer()
    _log.info("server spans are left to OpenTelemetry's instrumentation of this application; ours have its ids")


def contrib_spans(app: Any) -> bool:
    """Whether OpenTelemetry's own instrumentation makes server spans for this application."""
    if getattr(app, _FLAG, False) is True:
        return True
    for added in getattr(app, "user_middleware", ()):
        if _is_contrib(getattr(added, "cls", None)):
            return True
    return any(_is_contrib(type(layer)) for layer in (*_inward(app), *_inward(getattr(app, "middleware_stack", None))))


def contrib_instrument(app: Any, paths: Paths | None = None) -> None:
    """Have opentelemetry-instrumentation-fastapi make the spans of an application.

    Without its metrics, for ours count, and without its spans for each message that is sent and received.

    Args:
        app: a FastAPI application.
        paths: those that are not to be traced.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to get it.
    """
    try:
        contrib = import_module("opentelemetry.instrumentation.fastapi")
        metrics = import_module("opentelemetry.metrics")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'traces="opentelemetry" needs opentelemetry-instrumentation-fastapi: pip install "tocsin[otel]"'
        ) from error
    if not contrib_spans(app):
        contrib.FastAPIInstrumentor.instrument_app(
            app,
            meter_provider=metrics.NoOpMeterProvider(),
            excluded_urls=None if paths is None else _patterns(paths),
            exclude_spans=["send", "receive"],
        )


def _patterns(paths: Paths) -> str:
    """Return excluded paths as OpenTelemetry wants them: regular expressions for whole URLs, with commas between."""
    origin = "^[a-z]+://[^/]*"
    exact = [f"{origin}{re.escape(path)}$" for path in sorted(paths.exact)]
    # A comma separates; as a character of a path it is written as any character.
    return ",".join(each.replace(",", ".") for each in (*exact, *(f"{origin}{re.escape(p)}" for p in paths.prefixes)))


def quiet_native(app: Any, *, traces: bool = True, metrics: bool = True, logs: bool = True) -> None:
    """Switch FastAPI's own spans, metrics and exception logs off, of this application and of those mounted in it.

    Where the application has given FastAPI a provider by name it wants those: they stay on, and their ids become ours.
    """
    switches = [each for each, asked in zip(_NATIVE, (traces, metrics, logs), strict=True) if asked]
    for each in _fastapi_apps(app):
        config = each._telemetry  # FastAPI has no other way to change it once it is made
        before = _quieted.setdefault(each, {})
        for switch, provider in switches:
            if config.get(provider) is None:
                before.setdefault(switch, config.get(switch, True))
                config[switch] = False


def restore_native(app: Any) -> None:
    """Undo `quiet_native`."""
    for each in _fastapi_apps(app):
        for switch, value in _quieted.pop(each, {}).items():
            each._telemetry[switch] = value  # as above


def _is_contrib(kind: Any) -> bool:
    return any((part.__module__, part.__name__) == _MIDDLEWARE for part in getattr(kind, "__mro__", ()))


def _inward(app: Any) -> Iterator[Any]:
    """Yield an application, what it wraps, and so on."""
    seen: set[int] = set()
    while app is not None and id(app) not in seen:
        seen.add(id(app))
        yield app
        app = vars(app).get("app") if hasattr(app, "__dict__") else None


def _fastapi_apps(app: Any) -> Iterable[Any]:
    """Return the FastAPI applications with telemetry of their own: this one, and those mounted in it at any depth."""
    found: dict[int, Any] = {}
    waiting = [app]
    seen: set[int] = set()
    while waiting:
        for each in _inward(waiting.pop()):
            if id(each) in seen:
                continue
            seen.add(id(each))
            if isinstance(getattr(each, "_telemetry", None), dict) and hasattr(each, "_native_telemetry"):
                found[id(each)] = each
            waiting.extend(_routes_of(each))
    return found.values()


def _routes_of(app: Any) -> list[Any]:
    """Return the routes of an application or mount, behind which there may be applications."""
    try:
        return list(getattr(app, "routes", ()) or ())
    except Exception:  # a router of a shape never seen: nothing of it is switched off
        return []
