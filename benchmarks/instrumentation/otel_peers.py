"""Tracing with the OpenTelemetry SDK, every span exported over OTLP/HTTP by its batch processor; alone and combined."""

from __future__ import annotations

import structlog_peers
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_fastapi_instrumentator import Instrumentator
from variants import SPANS_LIMIT, Made, application


def _provider(url: str) -> TracerProvider:
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    exporter = OTLPSpanExporter(endpoint=f"{url}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=SPANS_LIMIT))
    trace.set_tracer_provider(provider)
    return provider


def contrib(url: str) -> Made:
    provider = _provider(url)
    app = application()
    FastAPIInstrumentor.instrument_app(app)
    return app, provider.force_flush


def fastapi_native(url: str) -> Made:
    """FastAPI itself makes spans as soon as there is a provider."""
    provider = _provider(url)
    return application(), provider.force_flush


def combination(url: str) -> Made:
    """All three signals, as people put them together today."""
    provider = _provider(url)
    app = application()
    FastAPIInstrumentor.instrument_app(app)
    Instrumentator().instrument(app).expose(app)
    return structlog_peers.access_line(app, structlog_peers.documented_logger()), provider.force_flush
