"""Our spans as OpenTelemetry's API wants them, and its context as we want it. Imported once that API is loaded.

OpenTelemetry's instrumentations and the application's own tracers then make spans below the request's, through our
exporter, without OpenTelemetry's SDK.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar, Token
from typing import Any, cast

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.context.context import Context
from opentelemetry.util._decorator import _agnosticcontextmanager

from tocsin.redact import text_of
from tocsin.request import CURRENT, RUNNING, Running, error_name
from tocsin.tracing.context import ACTIVE, Trace, active_span
from tocsin.tracing.recording import KINDS, OURS, Scope
from tocsin.tracing.spans import Span, begun, child_of, current_origin

_NO_CONTEXT = Context()
SPAN_KEY = next(iter(otel.set_span_in_context(otel.INVALID_SPAN, _NO_CONTEXT)))
"""Under which a context has the current span."""

# Set directly, this takes a quarter of the time of `attach`; where somebody has put another kind of context in, that is
# asked to attach.
_runtime = getattr(otel_context, "_RUNTIME_CONTEXT", None)
_found = getattr(_runtime, "_current_context", None)
VARIABLE: ContextVar[Context] | None = _found if isinstance(_found, ContextVar) else None


if VARIABLE is not None:
    CURRENT.join(VARIABLE, Context)


class ApiSpan(Span, otel.Span):
    """A span of ours that OpenTelemetry takes for one of its own."""

    _context: otel.SpanContext | None = None
    records_exceptions = fails_on_exceptions = True
    """What is to be done with an exception that leaves the span's own `with` block."""
    # Both bases have all of these; ours record.
    set_attribute = Span.set_attribute
    set_attributes = Span.set_attributes
    add_event = Span.add_event
    add_link = Span.add_link
    record_exception = Span.record_exception
    set_status = Span.set_status
    update_name = Span.update_name
    is_recording = Span.is_recording
    end = Span.end

    def get_span_context(self) -> otel.SpanContext:
        """Return the ids as OpenTelemetry has them."""
        if self._context is None:
            self._context = otel.SpanContext(
                int(self.trace_id, 16),
                int(self.span_id, 16),
                False,
                otel.TraceFlags(otel.TraceFlags.SAMPLED if self.sampled else otel.TraceFlags.DEFAULT),
                otel.TraceState.from_header([self.state]) if self.state else otel.TraceState(),
            )
        return self._context

    @property
    def context(self) -> otel.SpanContext:
        """The same, as OpenTelemetry's SDK calls it."""
        return self.get_span_context()

    @property
    def name(self) -> str:
        """What the span is called now; of a server span, empty until its route is known."""
        return "" if self.details is None else self.details.name

    @property
    def kind(self) -> otel.SpanKind:
        """What side of a call the span is."""
        return otel.SpanKind.SERVER if self.details is None else _KIND_OF[self.details.kind]

    @property
    def attributes(self) -> Mapping[str, object]:
        """What was said about the span."""
        return {} if self.details is None else dict(self.details.attributes)

    def __exit__(self, kind: Any, error: Any, stack: Any) -> None:
        """End the span, with the exception if one leaves its `with` block."""
        if isinstance(error, Exception):
            if self.records_exceptions:
                self.record_exception(error)
            if self.fails_on_exceptions:
                self.set_status("error", f"{error_name(error)}: {text_of(error)}")
        self.end()


_KIND_OF = {number: otel.SpanKind[name.upper()] for name, number in KINDS.items()}


class Tracer(otel.Tracer):
    """Makes spans for one library, below whatever is current."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: otel.SpanKind = otel.SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[otel.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> otel.Span:
        """Begin a span; without a parent it begins a trace."""
        number = KINDS[kind.name.lower()]
        parent = _parent_in(context)
        if isinstance(parent, Span):
            made = child_of(parent, name, number, self._scope, attributes, start_time)
            if made is None:
                return cast("otel.Span", parent) if isinstance(parent, otel.Span) else _unrecorded(parent)
        else:
            origin = current_origin()
            if origin is None:
                return otel.INVALID_SPAN if parent is None else _unrecorded(parent)
            remote = otel.get_current_span(context).get_span_context().is_remote
            made = begun(origin.originate(parent, remote=remote), name, number, self._scope, attributes, start_time)
        for link in links or ():
            made.add_link(link.context, link.attributes)
        if isinstance(made, ApiSpan) and not (record_exception and set_status_on_exception):
            made.records_exceptions, made.fails_on_exceptions = record_exception, set_status_on_exception
        return cast("otel.Span", made)

    @_agnosticcontextmanager
    def start_as_current_span(
        self,
        name: str,
        context: Context | None = None,
        kind: otel.SpanKind = otel.SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[otel.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Iterator[otel.Span]:
        """Begin a span and make it current for the `with` block."""
        span = self.start_span(name, context, kind, attributes, links, start_time)
        with otel.use_span(span, end_on_exit, record_exception, set_status_on_exception) as current:
            yield current


class Provider(otel.TracerProvider):
    """Gives out tracers whose spans go where the request's span goes."""

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,
    ) -> otel.Tracer:
        """Return a tracer for one library.

        FastAPI's own telemetry begins by itself once there is a provider, also in applications of the process that
        nobody has instrumented: it gets one that records nothing.
        """
        if instrumenting_module_name == "fastapi":
            return otel.NoOpTracer()
        return Tracer(Scope(str(instrumenting_module_name), str(instrumenting_library_version or "")))


def _parent_in(context: Context | None) -> Trace | None:
    """Return the span current in this context (default: the current one), or the trace of one from elsewhere."""
    span = otel.get_current_span(context)
    if isinstance(span, Trace):
        return span
    found = span.get_span_context()
    if found.is_valid:
        return Trace(
            f"{found.trace_id:032x}", f"{found.span_id:016x}", found.trace_flags.sampled, found.trace_state.to_header()
        )
    if context is not None:
        return None
    # Begun before OpenTelemetry was loaded, the span around is only in our own variable.
    request = CURRENT.get()
    return ACTIVE.get() or (None if request is None else request.trace)


def _unrecorded(parent: Trace) -> otel.Span:
    flags = otel.TraceFlags(otel.TraceFlags.SAMPLED if parent.sampled else otel.TraceFlags.DEFAULT)
    return otel.NonRecordingSpan(otel.SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), False, flags))


def enter_server(span: Span, running: Running) -> Token[Any] | None:
    """Begin a context with this request, its span and its baggage, and nothing of what was before it."""
    content: dict[str, object] = {SPAN_KEY: span, RUNNING: running}
    if span.baggage:
        from opentelemetry.baggage.propagation import W3CBaggagePropagator  # noqa: PLC0415  # few requests carry any

        content.update(W3CBaggagePropagator().extract({"baggage": span.baggage}, _NO_CONTEXT))
    return attach(Context(content))


def enter_child(span: Any) -> Token[Any] | None:
    """Make this span (None: nothing) the current one of the context that is."""
    return attach(otel.set_span_in_context(getattr(span, "api", span)))


def attach(context: Context) -> Token[Any] | None:
    """Make a context the current one; return what `spans.leave` takes."""
    if VARIABLE is not None:
        return VARIABLE.set(context)
    return _Detach(otel_context.attach(context))  # type: ignore[return-value]  # has what `leave` needs


class _Detach:
    """Stands for the token of a context of another kind."""

    def __init__(self, token: Any) -> None:
        self.token = token
        self.var = self

    def reset(self, _: object) -> None:
        otel_context.detach(self.token)


def outer_server_span() -> Trace | None:
    """Return the server span that other code has opened around us, if there is one: then we make none."""
    span = otel.get_current_span()
    if not span.is_recording() or getattr(span, "kind", None) is not otel.SpanKind.SERVER:
        return None
    if isinstance(span, Span):
        scope = OURS if span.details is None else span.details.scope
        return None if scope is OURS else span
    # One of ours is what is left of another request: a pipelined one begins inside of the one before it.
    scope_of_it = getattr(getattr(span, "instrumentation_scope", None), "name", "")
    return active_span() if scope_of_it != OURS.name else None


def real_provider() -> otel.TracerProvider | None:
    """Return the provider that somebody has set, or None."""
    provider = otel.get_tracer_provider()
    return None if isinstance(provider, otel.ProxyTracerProvider) else provider


def install_provider() -> otel.TracerProvider | None:
    """Set our provider for the process, unless somebody has set one; return the one that is set."""
    otel.set_tracer_provider(Provider())
    return real_provider()


def withdraw_provider() -> None:
    """Take our provider back, for tests: the API means it to be set once and for all."""
    if isinstance(real_provider(), Provider):
        vars(otel)["_TRACER_PROVIDER"] = None
        vars(otel)["_TRACER_PROVIDER_SET_ONCE"] = type(vars(otel)["_TRACER_PROVIDER_SET_ONCE"])()


class ForeignSpan:
    """A span of a provider that is not ours, with the attributes that a span of ours has."""

    def __init__(self, api: otel.Span) -> None:
        context = api.get_span_context()
        self.api = api
        self.trace_id = f"{context.trace_id:032x}"
        self.span_id = f"{context.span_id:016x}"
        self.sampled = context.trace_flags.sampled

    def set_status(self, status: Any, description: str | None = None) -> None:
        """Say how it went: `ok`, `error` or `unset`, or OpenTelemetry's Status or StatusCode."""
        if isinstance(status, str):
            status = otel.StatusCode[status.upper()]
        self.api.set_status(status, description)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.api, name)


def foreign_child(
    name: str, kind: str, attributes: Mapping[str, Any] | None, parent: Trace | None
) -> ForeignSpan | None:
    """Return a span of the provider that somebody else has set, or None if there is none, or nothing to be below of."""
    provider = real_provider()
    if provider is None or isinstance(provider, Provider) or (parent is None and kind not in ("server", "consumer")):
        return None
    context = None
    if parent is not None and not otel.get_current_span().get_span_context().is_valid:
        context = otel.set_span_in_context(_unrecorded(parent), _NO_CONTEXT)
    tracer = provider.get_tracer("tocsin")
    return ForeignSpan(
        tracer.start_span(name, context, otel.SpanKind[kind.upper()], dict(attributes) if attributes else None)
    )
