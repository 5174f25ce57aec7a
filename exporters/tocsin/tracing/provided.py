"""Server spans by the TracerProvider that the application has set: its sampler, its processors, its exporter."""

from __future__ import annotations

import atexit
from collections.abc import Iterable
from contextvars import Token
from typing import Any

from opentelemetry import propagate
from opentelemetry import trace as otel
from opentelemetry.context import set_value
from opentelemetry.context.context import Context

from tocsin.backlog import drain_all
from tocsin.redact import Redactor
from tocsin.request import OTHER, RUNNING, Facts, Running, error_name
from tocsin.settings import installed_version
from tocsin.tracing import http
from tocsin.tracing.bridge import attach
from tocsin.tracing.context import Trace
from tocsin.tracing.recording import exception_attributes

_NANO = 1_000_000_000


class ProvidedTrace(Trace):
    """The ids of a span that OpenTelemetry's SDK has made, and that span."""

    span: otel.Span
    context: Context


class Provided:
    """Begins and ends server spans through one provider."""

    def __init__(self, provider: otel.TracerProvider, redact: Redactor) -> None:
        self._redact = redact
        # Registered after the provider's own: what waits to be told is ended before the provider is shut down.
        atexit.register(drain_all)
        self._tracer = provider.get_tracer("tocsin", installed_version())

    def begin(self, headers: Iterable[tuple[bytes, bytes]], method: str, path: str) -> Trace:
        """Return the span of a request, below the one its headers name."""
        wanted = propagate.get_global_textmap().fields
        carrier: dict[str, str] = {}
        for sent, value in headers:
            field = sent.decode("latin-1")
            if field in wanted:
                # Two of `traceparent` are as good as none: joined, they are no valid one.
                text = value.decode("latin-1")
                carrier[field] = f"{carrier[field]},{text}" if field in carrier else text
        context = propagate.extract(carrier, Context())
        known: dict[str, str] = {}
        if method:
            known["http.request.method"] = method
        if path:
            known["url.path"] = http.path_of(path, self._redact)
        name = http.name_of(method or OTHER, "")
        span = self._tracer.start_span(name, context, otel.SpanKind.SERVER, known)
        ids = span.get_span_context()
        trace = ProvidedTrace(
            f"{ids.trace_id:032x}", f"{ids.span_id:016x}", ids.trace_flags.sampled, ids.trace_state.to_header()
        )
        trace.span = span
        trace.context = otel.set_span_in_context(span, context)
        return trace

    def enter(self, trace: ProvidedTrace, running: Running) -> Token[Any] | None:
        """Make the request and its span current."""
        return attach(set_value(RUNNING, running, trace.context))

    def ended(self, facts: Facts, error: BaseException | None) -> None:
        """Say what the request was, and end its span."""
        trace = facts.trace
        if not isinstance(trace, ProvidedTrace):
            return
        span = trace.span
        if span.is_recording():
            span.update_name(http.name_of(facts.method, facts.route))
            span.set_attributes(http.attributes_of(facts, self._redact))  # type: ignore[arg-type]  # texts and numbers
            if isinstance(error, Exception):
                span.add_event("exception", exception_attributes(error, self._redact))  # type: ignore[arg-type]  # texts
                span.set_attribute("error.type", error_name(error))
            if isinstance(error, Exception) or http.failed(facts.status):
                span.set_status(otel.StatusCode.ERROR)
        span.end(int(facts.ended * _NANO))
