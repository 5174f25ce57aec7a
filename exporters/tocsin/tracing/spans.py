"""One piece of work inside a trace, recorded if its trace is: `with span("charge card") as work: ...`.

A span is a `Trace`, so that whatever reads ids reads them from the span itself. Its methods are those of
OpenTelemetry's Span; where OpenTelemetry is loaded, `tocsin.tracing.bridge` makes it one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextvars import Token
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

from tocsin.redact import text_of
from tocsin.request import CURRENT, error_name
from tocsin.tracing.context import ACTIVE, API, Trace, active_span
from tocsin.tracing.ids import fresh_span_id
from tocsin.tracing.recording import (
    ERROR,
    KINDS,
    MESSAGE_LIMIT,
    OK,
    OURS,
    UNSET,
    Details,
    Scope,
    Sink,
    SpanEvent,
    SpanLink,
    cleaned,
    cleaned_all,
    exception_attributes,
    first_told,
)

if TYPE_CHECKING:
    from types import ModuleType

_BEGINNING_KINDS = frozenset(("server", "consumer"))
_STATUS = {"UNSET": UNSET, "OK": OK, "ERROR": ERROR}


class Span(Trace):
    """A span of this process. All methods may be called from any thread, and do nothing once it is over."""

    # Most spans have most of these as they are here; only what differs is set, for this is made on every request.
    root: Span | None = None
    """The first span of this process in its trace: of a request, the server span. None: this is it."""
    remote: bool = False
    """Whether the parent is another process's."""
    over: bool = False
    """Whether it was handed on: what is said about it now comes too late."""
    details: Details | None = None
    baggage: str = ""
    """The `baggage` header as it came; server spans only."""

    def __init__(
        self,
        trace_id: str,
        span_id: str,
        sampled: bool,
        state: str = "",
        parent_id: str = "",
        sink: Sink | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.sampled = sampled
        self.state = state
        self.parent_id = parent_id
        """16 hexadecimal digits, or empty if the trace begins here."""
        self.sink = sink if sampled else None
        """Who receives it when it is over; None: nobody."""

    # A span is itself and no other, as OpenTelemetry's are, which end up as keys of dictionaries.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def is_recording(self) -> bool:
        """Whether what is said about the span will be seen by somebody."""
        return self.sink is not None and not self.over

    def detail(self) -> Details:
        """Return where to say something about the span."""
        if self.details is None:
            self.details = Details("", KINDS["server"], OURS, 0)
        return self.details

    def set_attribute(self, key: str, value: object) -> None:
        """Say one thing about the span. Values of secret names are redacted; the 129th name is counted, not kept."""
        sink = self.sink
        if sink is None or self.over or value is None:
            return
        detail = self.detail()
        attributes = detail.attributes
        if key not in attributes and len(attributes) >= sink.attribute_limit:
            detail.dropped_attributes += 1
            return
        attributes[str(key)] = cleaned(key, value, sink)

    def set_attributes(self, attributes: Mapping[str, object]) -> None:
        """Say several things about the span."""
        if self.is_recording():
            for key, value in dict(attributes).items():
                self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        """Note that something happened now, or at `timestamp` in Unix nanoseconds."""
        if self.sink is None or self.over:
            return
        detail = self.detail()
        if len(detail.events) >= self.sink.event_limit:
            detail.dropped_events += 1
            return
        kept, lost = cleaned_all(attributes, self.sink)
        detail.events.append(SpanEvent(time_ns() if timestamp is None else timestamp, text_of(name), kept, lost))

    def add_link(self, context: Any, attributes: Mapping[str, Any] | None = None) -> None:
        """Name another span that this one has to do with: a `Trace`, or OpenTelemetry's SpanContext."""
        if self.sink is None or self.over:
            return
        detail = self.detail()
        if len(detail.links) >= self.sink.link_limit:
            detail.dropped_links += 1
            return
        kept, lost = cleaned_all(attributes, self.sink)
        trace, remote = trace_of(context), bool(getattr(context, "is_remote", False))
        detail.links.append(SpanLink(trace.trace_id, trace.span_id, trace.state, kept, lost, trace.sampled, remote))

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,  # OpenTelemetry's signature
    ) -> None:
        """Note an exception, with message and stack redacted; the same one is noted once."""
        if self.sink is None or self.over:
            return
        if not first_told(exception, self.span_id):
            return
        noted = {**exception_attributes(exception, self.sink.redact), **(attributes or {})}
        if escaped:
            noted["exception.escaped"] = "True"
        self.add_event("exception", noted, timestamp)

    def set_status(self, status: Any, description: str | None = None) -> None:
        """Say how it went: `ok`, `error` or `unset`, or OpenTelemetry's Status or StatusCode. OK is final."""
        if self.sink is None or self.over:
            return
        detail = self.detail()
        named = getattr(status, "status_code", status)
        code = _STATUS.get(str(getattr(named, "name", named)).upper(), UNSET)
        if code == UNSET or detail.code == OK:
            return
        detail.code = code
        said = description or getattr(status, "description", None)
        detail.message = self.sink.redact.text_of(said)[:MESSAGE_LIMIT] if said and code == ERROR else ""

    def update_name(self, name: str) -> None:
        """Call the span something else; of a server span this wins over the name made from its route."""
        if self.is_recording():
            self.detail().name = str(name)

    def end(self, end_time: int | None = None) -> None:
        """End the span, now or at `end_time` in Unix nanoseconds, and hand it to the exporter.

        The server span of a request ends with its answer, and not before.
        """
        sink, details = self.sink, self.details
        if sink is None or self.over or details is None or not details.start:
            return
        self.over = True
        details.end = time_ns() if end_time is None else end_time
        sink.put(self)


class Origin(Protocol):
    """Begins traces in this process: a tracer."""

    receiving: bool
    """Whether somebody receives its spans through us."""

    def originate(self, parent: Trace | None, *, remote: bool = True) -> Span:
        """Return the identity of a span without details: the first of a trace, or of this process in one.

        Args:
            parent: None: a trace begins.
            remote: whether the parent is another process's.
        """


class OriginTrace(Trace):
    """The ids of a request whose server span other code makes, perhaps through us."""

    origin: Origin


_origin: ref[Origin] | None = None


def offer_origin(origin: Origin) -> None:
    """Have this tracer begin traces outside of requests, unless it exports nothing and another does."""
    global _origin  # noqa: PLW0603  # there is one process to have one
    before = current_origin()
    if before is None or origin.receiving or not before.receiving:
        _origin = ref(origin)


def forget_origin() -> None:
    """Have nobody begin traces outside of requests; for tests."""
    global _origin  # noqa: PLW0603  # as above
    _origin = None


def current_origin() -> Origin | None:
    """Return the tracer that begins traces here: the request's, else the one that begins them outside of requests."""
    request = CURRENT.get()
    own = None if request is None else getattr(request.trace, "origin", None)
    if own is not None:
        return own  # type: ignore[no-any-return]  # of an `OriginTrace`
    return None if _origin is None else _origin()


def bridge() -> ModuleType | None:
    """Return the module that knows OpenTelemetry's API if the process has loaded that, else None."""
    if API not in sys.modules:
        return None
    from tocsin.tracing import bridge as module  # noqa: PLC0415  # only where OpenTelemetry is installed

    return module


def span_class() -> type[Span]:
    """Return the class of spans: one that OpenTelemetry accepts where it is loaded."""
    module = bridge()
    return Span if module is None else module.ApiSpan


def child_of(
    parent: Trace,
    name: str,
    kind: int,
    scope: Scope = OURS,
    attributes: Mapping[str, Any] | None = None,
    start: int | None = None,
) -> Span | None:
    """Return a begun span below one of ours, or None if that is not recorded."""
    if not isinstance(parent, Span) or parent.sink is None:
        return None
    child = span_class()(parent.trace_id, fresh_span_id(), True, parent.state, parent.span_id, parent.sink)
    child.root = parent.root or parent
    return begun(child, name, kind, scope, attributes, start)


def begun(
    made: Span, name: str, kind: int, scope: Scope, attributes: Mapping[str, Any] | None, start: int | None
) -> Span:
    """Return the span with its recording begun, if somebody receives it."""
    if made.sink is not None:
        made.details = Details(str(name), kind, scope, time_ns() if start is None else start)
        if attributes:
            made.set_attributes(attributes)
    return made


def span(
    name: str, kind: str = "internal", attributes: Mapping[str, Any] | None = None, *, parent: Trace | None = None
) -> OpenSpan:
    """Record what runs inside of the `with` block as a span below what is current; works in coroutines too.

    Without a current span, kinds `server` and `consumer` begin a trace of their own; other kinds do nothing then, so
    that a function called from everywhere makes no traces of a single span.

    Args:
        name: low in cardinality: `charge card`, not `charge card 4711`.
        kind: internal, server, client, producer or consumer.
        attributes: what is known at the beginning.
        parent: where the trace was begun elsewhere: of a job, the trace of who asked for it.

    Raises:
        ValueError: the kind is none of these.
    """
    if kind not in KINDS:
        raise ValueError(f"span kind is {kind!r}, expected one of {', '.join(KINDS)}")
    return OpenSpan(name, kind, attributes, parent)


class OpenSpan:
    """The `with` block of a span."""

    __slots__ = ("_attributes", "_kind", "_name", "_parent", "_span", "_token")

    def __init__(self, name: str, kind: str, attributes: Mapping[str, Any] | None, parent: Trace | None) -> None:
        self._name = name
        self._kind = kind
        self._attributes = attributes
        self._parent = parent
        self._span: Any = None
        self._token: Token[Any] | None = None

    def __enter__(self) -> Span:
        """Begin the span; what is returned has its ids, and takes what is to be said about it."""
        current = active_span() if self._parent is None else self._parent
        if current is None and (request := CURRENT.get()) is not None:
            current = request.trace
        made = self._child(current)
        if made is None:
            return _unrecorded(current)
        self._span = made
        self._token = make_current(made)
        return made  # type: ignore[no-any-return]  # a Span, or what stands for a span of a foreign provider

    def _child(self, current: Trace | None) -> Any:
        """Return the span to open below the current one, or None if there is nothing to record or name."""
        if isinstance(current, Span):
            return child_of(current, self._name, KINDS[self._kind], OURS, self._attributes)
        module = bridge()
        if module is not None:
            foreign = module.foreign_child(self._name, self._kind, self._attributes, current)
            if foreign is not None:
                return foreign
        origin = current_origin()
        if origin is None or (current is None and self._kind not in _BEGINNING_KINDS):
            return None
        made = origin.originate(current, remote=self._parent is not None)
        return begun(made, self._name, KINDS[self._kind], OURS, self._attributes, None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        """End the span, with the exception if one leaves it."""
        made = self._span
        if made is not None:
            leave(self._token)
            if isinstance(error, Exception):
                made.record_exception(error)
                made.set_attribute("error.type", error_name(error))
                made.set_status("error", f"{type(error).__name__}: {text_of(error)}")
            made.end()


def _unrecorded(current: Trace | None) -> Span:
    return Span("", "", False) if current is None else Span(current.trace_id, current.span_id, current.sampled)


def make_current(made: Any) -> Token[Any] | None:
    """Make a span (None: nothing) the current one, for OpenTelemetry too where that is loaded.

    Returns what `leave` takes.
    """
    module = bridge()
    if module is not None:
        return module.enter_child(made)  # type: ignore[no-any-return]  # a module that mypy sees as any
    return ACTIVE.set(made)


def leave(token: Token[Any] | None) -> None:
    """Make the span current that was before; does nothing in another context than the one entered."""
    if token is not None:
        try:
            token.var.reset(token)
        except (ValueError, RuntimeError):  # a generator that is closed in another context
            return


def trace_of(context: Any) -> Trace:
    """Return the ids of a `Trace` or of OpenTelemetry's SpanContext."""
    if isinstance(context, Trace):
        return context
    return Trace(
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        context.trace_flags.sampled,
        context.trace_state.to_header() if context.trace_state else "",
    )
