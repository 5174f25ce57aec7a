"""The server span of each request: begun from its headers, current while it is answered, handed on when it is over."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextvars import Token
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tocsin.redact import DEFAULT, Redactor
from tocsin.request import CURRENT, RUNNING, Facts, Running, error_name
from tocsin.tracing import context, spans
from tocsin.tracing.context import API, Trace, baggage_of, parse_traceparent, state_of
from tocsin.tracing.ids import fresh_ids, fresh_span_id
from tocsin.tracing.propagation import use_propagators
from tocsin.tracing.recording import ERROR
from tocsin.tracing.settings import TraceSettings
from tocsin.tracing.spans import OriginTrace, Span

if TYPE_CHECKING:
    from tocsin.instrumentation import Tracer
    from tocsin.metrics.families import Families
    from tocsin.tracing.export import Exporter
    from tocsin.tracing.provided import Provided

Headers = Iterable[tuple[bytes, bytes]]

_CONTEXT_HEADERS = frozenset((b"traceparent", b"tracestate", b"baggage"))


def tracer_for(settings: TraceSettings, families: Families, redact: Redactor = DEFAULT) -> RequestTracer:
    """Return what makes the server spans of one application.

    Nothing is started: the exporter's thread begins with the first span, and whether a TracerProvider of the
    application's own is used is decided with the first request, so that it may be set until then.
    """
    return RequestTracer(settings, families, redact)


def foreign_tracer(
    settings: TraceSettings | None = None, families: Families | None = None, redact: Redactor = DEFAULT
) -> Tracer:
    """Return what gives ids to requests whose spans somebody else makes.

    With settings, those spans are exported as ours would be where the application has no TracerProvider of its own.
    """
    if settings is None or families is None:
        return ForeignTracer()
    tracer = RequestTracer(settings, families, redact)
    tracer.step_aside()
    if API in sys.modules:
        tracer.settle()  # now: with the first request would be after its span was begun
    return tracer


class ForeignTracer:
    """Carries the trace on that came in, and leaves the spans to others."""

    exporting = False
    foreign = True

    def begin(self, headers: Headers, method: str = "", path: str = "") -> Trace:
        """Return ids for a request, for where nobody makes a span after all."""
        return context.begin(headers)

    def enter(self, trace: Trace, running: Running) -> Token[Any] | None:
        """Make the request current, and no span: the one that is made inside is to be the first of this process."""
        return CURRENT.set(running)

    def ended(self, facts: Facts, error: BaseException | None) -> None:
        """Whoever made the span ends it."""

    def close(self, timeout: float = 5.0) -> bool:
        """Nothing is queued here."""
        return True


class RequestTracer:
    """Makes the server spans of one application."""

    def __init__(self, settings: TraceSettings, families: Families, redact: Redactor = DEFAULT) -> None:
        self.exporting = self.receiving = settings.exporting
        self.foreign = False
        self._propagation = use_propagators(settings.propagators)
        self._sampler = settings.sampler
        self._parent_based = settings.sampler.parent_based
        self._always = settings.sampler.ratio >= 1.0
        self._redact = redact
        self._exporter: Exporter | None = None
        if settings.exporting:
            from tocsin.tracing.export import Exporter  # noqa: PLC0415  # a tenth of the import, for who exports

            self._exporter = Exporter(settings, families, redact)
        self._class: type[Span] = Span
        self._bridge: Any = None
        self._current_class: type[Span] | None = None
        """Spans of this class are made current by setting the variable."""
        self._variable: Any = None
        self._context: Any = None
        self._key = ""
        self._provided: Provided | None = None
        self._otherwise: Callable[[Headers, str, str], Trace] | None = None
        """How a request begins if its span is not made by us from the usual headers."""
        # What stands for the API until it is loaded: nobody has set a provider there.
        self._api: Any = None
        self._provider: Any = None
        self._choose()
        spans.offer_origin(self)

    def step_aside(self) -> None:
        """Leave the server spans to other code from now on; that of a request is its `context.server_span`."""
        self.foreign = True
        self.exporting = False
        self._choose()

    def begin(self, headers: Headers, method: str = "", path: str = "") -> Trace:
        """Return the server span of a request: continued from its headers (lower-case names), or new.

        Args:
            headers: as ASGI gives them.
            method: for the sampler of a provider of the application's own.
            path: for the same.
        """
        api = self._api
        if api._TRACER_PROVIDER is not self._provider if api is not None else API in sys.modules:
            self.settle()
        if self._variable is not None and self._variable.get() and (outer := self._bridge.outer_server_span()):
            return outer  # type: ignore[no-any-return]  # a module that mypy sees as any
        if self._otherwise is not None:
            return self._otherwise(headers, method, path)
        parent: bytes | None = None
        others = False
        for name, value in headers:
            if name in _CONTEXT_HEADERS:
                if name == b"traceparent":
                    parent = value if parent is None else b""
                else:
                    others = True
        found = parse_traceparent(parent) if parent else None
        if found is None:
            ids = fresh_ids()
            trace_id = ids[:32]
            made = self._class(trace_id, ids[32:], self._always or self._sampler.root(trace_id), "", "", self._exporter)
        else:
            trace_id, parent_id, sampled = found
            if not self._parent_based:
                sampled = self._sampler.root(trace_id)
            state = state_of(headers) if others else ""
            made = self._class(trace_id, fresh_ids()[32:], sampled, state, parent_id, self._exporter)
            made.remote = True
        if others:
            made.baggage = baggage_of(headers)
        return made

    def originate(self, parent: Trace | None, *, remote: bool = True) -> Span:
        """Return the identity of a span that is begun outside of requests, below `parent` if there is one."""
        if self._api is None:
            self.settle()
        made_by, sink = spans.span_class(), self._exporter
        if parent is None:
            ids = fresh_ids()
            return made_by(ids[:32], ids[32:], self._sampler.root(ids[:32]), "", "", sink)
        sampled = self._sampler.continued(parent.trace_id, sampled=parent.sampled)
        made = made_by(parent.trace_id, fresh_span_id(), sampled, parent.state, parent.span_id, sink)
        made.remote = remote
        return made

    def _begin_from_other_headers(self, headers: Headers, _method: str, _path: str) -> Trace:
        """Begin as `OTEL_PROPAGATORS` says, which is not the usual two."""
        reader = self._propagation
        parent, baggage = (None, "") if reader is None else reader.read(headers)
        made = self.originate(parent)
        made.baggage = baggage
        return made

    def _begin_for_others(self, headers: Headers, _method: str, _path: str) -> Trace:
        """Name the request, for where nobody makes a span after all."""
        named = context.begin(headers)
        trace = OriginTrace(named.trace_id, named.span_id, named.sampled, named.state)
        trace.origin = self
        return trace

    def enter(self, trace: Trace, running: Running) -> Token[Any] | None:
        """Make the request current, and its span for the OpenTelemetry API, if that is loaded.

        Returns what `spans.leave` takes.
        """
        if trace.__class__ is self._current_class and not trace.baggage:
            token: Token[Any] = self._variable.set(self._context({self._key: trace, RUNNING: running}))
            return token
        if self._provided is not None:
            if hasattr(trace, "span"):
                return self._provided.enter(trace, running)  # type: ignore[arg-type]  # then it is one of its own
        elif self._variable is not None and isinstance(trace, Span):
            entered: Token[Any] | None = self._bridge.enter_server(trace, running)
            return entered
        return CURRENT.set(running)

    def ended(self, facts: Facts, error: BaseException | None) -> None:
        """Take a request that is over, with the exception that left the application."""
        trace = facts.trace
        if not isinstance(trace, Span):
            if self._provided is not None:
                self._provided.ended(facts, error)
            return
        sink = self._exporter
        if sink is None or trace.sink is None or trace.over:
            return
        if trace.details is not None and trace.details.start:  # begun by other code through us, and ended by it
            return
        if isinstance(error, Exception):
            trace.record_exception(error)
            trace.set_attribute("error.type", error_name(error))
            if trace.details is None or trace.details.code != ERROR:  # what the application said of it stays
                trace.set_status("error")
        trace.over = True
        sink.put(facts)

    def send_to(self, exporter: Exporter) -> None:
        """Hand spans to this exporter from now on, whatever the environment says."""
        self._exporter = exporter
        self.exporting = self.receiving = True
        self._api = None  # decide anew whose spans there are

    def close(self, timeout: float = 5.0) -> bool:
        """Export what is queued and end the exporter's thread; requests get ids and headers as before.

        Returns whether a collector took everything within so many seconds.
        """
        exporter, self._exporter = self._exporter, None
        self.receiving = False
        self.exporting = self._provided is not None and not self.foreign
        return exporter is None or exporter.shutdown(timeout)

    def settle(self) -> None:
        """Decide whose spans there are: the application's provider's if it has set one, else ours.

        Done by itself with the first request. A process without requests calls this once its providers are set.
        """
        bridge = spans.bridge()
        if bridge is None:
            return
        provider = bridge.real_provider()
        if provider is None and self.receiving:
            provider = bridge.install_provider()
        if self._provided is not None and provider is self._provider:
            return
        self._bridge = bridge
        self._variable = bridge.VARIABLE
        self._context = bridge.Context
        self._current_class = None if self._variable is None else bridge.ApiSpan
        self._key = bridge.SPAN_KEY
        self._class = bridge.ApiSpan
        self._provider = provider
        api = sys.modules[API]
        self._api = api if hasattr(api, "_TRACER_PROVIDER") else SimpleNamespace(_TRACER_PROVIDER=provider)
        if provider is None or isinstance(provider, bridge.Provider):
            self._provided = None
        else:
            from tocsin.tracing import provided  # noqa: PLC0415  # only where OpenTelemetry is installed

            self._provided = provided.Provided(provider, self._redact)
            self.exporting = not self.foreign
        self._choose()

    def _choose(self) -> None:
        if self.foreign:
            self._otherwise = self._begin_for_others
        elif self._provided is not None:
            self._otherwise = self._provided.begin
        else:
            self._otherwise = None if self._propagation is None else self._begin_from_other_headers
