"""What is measured: the same small FastAPI application, bare and under each instrumentation.

A maker takes the collector's base URL, and returns an ASGI callable with a function that waits until everything has
left the process. Makers set global providers and loggers, as their users do, so there is one to a process; each is
found by name, so that a process imports nothing of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

App = Callable[..., Any]
Flush = Callable[[], object]
Made = tuple[App, Flush]

SPANS_LIMIT = 20_000
"""Spans that exporters may queue: more than a round makes, so that nobody is cheap because it drops."""


@dataclass(frozen=True, slots=True)
class Variant:
    """An instrumentation to measure."""

    name: str
    maker: str
    sampled: float = 1.0
    """The share of requests that are sampled; of those that carry a traceparent too."""
    spans: bool = False
    """Whether spans are exported."""
    provider: bool = False
    """Whether a global TracerProvider is set, which wakes FastAPI's own telemetry."""

    def make(self, url: str) -> Made:
        """Import and install the instrumentation."""
        made: Made = resolve_name(self.maker)(url)
        return made


BARE, METRICS, LOGS = "bare", "tocsin metrics", "tocsin logs"
ALL, ALL_SAMPLED = "tocsin everything", "tocsin everything, 1 % sampled"
INSTRUMENTATOR = "prometheus-fastapi-instrumentator"
DOCUMENTED, LEAN = "structlog line as documented", "structlog line, lean"

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(METRICS, "tocsin_variants:metrics"),
        Variant(LOGS, "tocsin_variants:logs"),
        Variant(ALL, "tocsin_variants:everything", spans=True, provider=True),
        Variant(ALL_SAMPLED, "tocsin_variants:everything_sampled", sampled=0.01, spans=True, provider=True),
        Variant(INSTRUMENTATOR, "metrics_peers:instrumentator"),
        Variant("starlette-exporter", "metrics_peers:starlette_exporter"),
        Variant(DOCUMENTED, "structlog_peers:documented"),
        Variant(LEAN, "structlog_peers:lean"),
        Variant("OpenTelemetry contrib", "otel_peers:contrib", spans=True, provider=True),
        Variant("FastAPI's own telemetry + SDK", "otel_peers:fastapi_native", spans=True, provider=True),
        Variant("instrumentator + contrib + structlog", "otel_peers:combination", spans=True, provider=True),
    )
}


def application(*, telemetry: bool = True) -> FastAPI:
    """Return one route with a path parameter and an async handler.

    FastAPI's own telemetry sleeps until a provider is set, and asks for one on every request, which costs 3 to 4 us of
    the bare application's time; `telemetry=False` keeps it asleep when there is a provider, and asking.
    """
    asleep: TelemetryConfig = {"tracing": False}
    app = FastAPI(openapi_url=None, telemetry=None if telemetry else asleep)

    @app.get("/items/{item}")
    async def item(item: int) -> dict[str, int]:
        return {"item": item}

    return app


def nothing() -> None:
    """Return at once: for a variant that does nothing in the background."""
