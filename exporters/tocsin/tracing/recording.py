"""What is said about a span while it is open, cleaned so that it may be exported."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tocsin.redact import REDACTED, Redactor
from tocsin.request import error_name

if TYPE_CHECKING:
    from tocsin.tracing.spans import Span

KINDS = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
"""Kinds of spans, numbered as OTLP numbers them."""

UNSET, OK, ERROR = 0, 1, 2
"""Status codes, as OTLP numbers them."""

MESSAGE_LIMIT = 8_192
_STACK_LIMIT = 16_384
_EVENT_ATTRIBUTES = 128
_ITEM_LIMIT = 4_096
"""Items of one list; an application may hand over any list that it has."""
_RECORDED = "__tocsin_recorded__"
_RECORDED_LIMIT = 16


class Sink(Protocol):
    """Takes spans that are over, and says how much one may hold."""

    redact: Redactor
    value_limit: int
    attribute_limit: int
    event_limit: int
    link_limit: int

    def put(self, item: Span) -> None:
        """Take a span; never blocks."""


class Scope(NamedTuple):
    """The library that makes spans: OpenTelemetry's instrumentation scope."""

    name: str
    version: str = ""


OURS = Scope("tocsin")


class SpanEvent(NamedTuple):
    """Something that happened at one instant of a span."""

    at: int
    """Unix nanoseconds."""
    name: str
    attributes: dict[str, object]
    dropped: int = 0


class SpanLink(NamedTuple):
    """Another span that this one has to do with."""

    trace_id: str
    span_id: str
    state: str
    attributes: dict[str, object]
    dropped: int = 0
    sampled: bool = False
    remote: bool = False
    """Whether it is another process's."""


class Details:
    """What was said about a span. A server span has this only if the application said something."""

    __slots__ = (
        "attributes",
        "code",
        "dropped_attributes",
        "dropped_events",
        "dropped_links",
        "end",
        "events",
        "kind",
        "links",
        "message",
        "name",
        "scope",
        "start",
    )

    def __init__(self, name: str, kind: int, scope: Scope, start: int) -> None:
        self.name = name
        """Empty: a server span that is named after its route."""
        self.kind = kind
        self.scope = scope
        self.start = start
        """Unix nanoseconds, as is `end`."""
        self.end = 0
        self.attributes: dict[str, object] = {}
        self.events: list[SpanEvent] = []
        self.links: list[SpanLink] = []
        self.dropped_attributes = self.dropped_events = self.dropped_links = 0
        self.code = UNSET
        self.message = ""


def first_told(error: BaseException, span_id: str) -> bool:
    """Return whether this exception was not told to this span before; from now on it was.

    The exception is marked, not remembered here: its address may soon be another's, and held, it holds its frames.
    """
    marks = error.__dict__
    before = marks.get(_RECORDED, ())
    if span_id in before:
        return False
    # One that is made once and raised for ever does not grow.
    marks[_RECORDED] = (*before[1 - _RECORDED_LIMIT :], span_id)
    return True


def exception_attributes(error: BaseException, redact: Redactor) -> dict[str, object]:
    """Return type, message and stack of an exception, redacted."""
    try:
        stack = "".join(traceback.format_exception(error))
    except Exception:  # the exception's own code ran: a SyntaxError that never got its fields
        stack = ""
    return {
        "exception.type": error_name(error),
        "exception.message": redact.text_of(error)[:MESSAGE_LIMIT],
        # Redacted before it is cut: the beginning of a secret must not lose what gives it away.
        "exception.stacktrace": redact.text(stack)[-_STACK_LIMIT:],
    }


def cleaned(key: str, value: object, sink: Sink) -> object:
    """Return an attribute's value as it may be exported: secrets redacted, of JSON's types only, texts cut."""
    redact = sink.redact
    if redact.is_secret(str(key)):
        return REDACTED
    if isinstance(value, list | tuple):
        value = value[:_ITEM_LIMIT]
    try:
        return _cut(redact.value(value), sink.value_limit)
    except Exception:  # the object's own code ran
        return f"<unprintable {type(value).__name__}>"


def _cut(value: object, limit: int) -> object:
    """Return a value of JSON's types with no text of more than so many characters."""
    if isinstance(value, str):
        return value[:limit]
    if isinstance(value, list):
        return [_cut(item, limit) for item in value]
    return value


def cleaned_all(attributes: Mapping[str, Any] | None, sink: Sink) -> tuple[dict[str, object], int]:
    """Return attributes of an event or link as they may be exported, and how many were too many."""
    if not attributes:
        return {}, 0
    pairs = list(attributes.items())
    kept = {str(key): cleaned(key, value, sink) for key, value in pairs[:_EVENT_ATTRIBUTES] if value is not None}
    return kept, max(0, len(pairs) - _EVENT_ATTRIBUTES)
