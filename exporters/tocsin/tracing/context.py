"""W3C trace context: parse what comes in, name what happens here, and say it to what is called.

Where an OpenTelemetry span is current, that span's ids win, so that logs and traces point at each other.
Sources: W3C Trace Context Level 1, https://www.w3.org/TR/trace-context/, W3C Baggage, https://www.w3.org/TR/baggage/
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass

from tocsin.tracing.ids import fresh_ids, fresh_span_id

API = "opentelemetry.trace"
"""The module whose presence in `sys.modules` says that somebody in this process uses OpenTelemetry."""

_LENGTH = 55
_DASH = ord("-")
_HEXADECIMAL = b"0123456789abcdef"
_ODD = frozenset(b"13579bdf")
_TRACESTATE_LIMIT = 512
_MEMBER_LIMIT = 32
_LONG_MEMBER = 128
_BAGGAGE_LIMIT = 8192
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16
_SERVER_KIND = "SERVER"
_MEMBER = r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_STATE = re.compile(rf"[ \t]*(?:{_MEMBER})?[ \t]*(?:,[ \t]*(?:{_MEMBER})?[ \t]*)*")
_BAGGAGE = re.compile(r"[\x20-\x7e\t]*")


@dataclass(slots=True)
class Trace:
    """Where a request stands in its trace. Never changed after it was made (frozen would cost 0.5 us a request)."""

    trace_id: str
    """32 lower-case hexadecimal digits."""
    span_id: str
    """16 lower-case hexadecimal digits: the work done here, the parent of what is called from here."""
    sampled: bool
    """Whether somebody up or down the line records this trace."""
    state: str = ""
    """The `tracestate` header as it came, or the first 512 characters' worth of it."""


ACTIVE: ContextVar[Trace | None] = ContextVar("tocsin_span", default=None)
"""The innermost open span of ours, where OpenTelemetry is not loaded; where it is, its own context has it."""


def parse_traceparent(value: bytes) -> tuple[str, str, bool] | None:
    """Return (trace id, parent span id, sampled) of a `traceparent` header, or None if the header is not valid.

    Version 00 must be exactly 55 bytes; later versions may carry more after a dash, which is ignored.
    Version ff, all-zero ids and upper-case digits are not valid.
    """
    head = value[:_LENGTH]
    # What remains without the digits are the three dashes; with those in their places, the digits are in theirs.
    # (A third of the time of a regular expression; this runs on every request.)
    if head.translate(None, _HEXADECIMAL) != b"---" or len(head) != _LENGTH:
        return None
    if head[2] != _DASH or head[35] != _DASH or head[52] != _DASH:
        return None
    if len(value) > _LENGTH and (head[:2] == b"00" or value[_LENGTH] != _DASH):
        return None
    text = head.decode("ascii")
    trace_id, span_id = text[3:35], text[36:52]
    if text[:2] == "ff" or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return trace_id, span_id, head[54] in _ODD


def begin(headers: Iterable[tuple[bytes, bytes]]) -> Trace:
    """Return the trace of a request with these ASGI headers (lower-case names): continued if valid, else a new one.

    Two `traceparent` headers are as good as none. A new trace is marked sampled, as OpenTelemetry's default sampler
    would: a service further down that samples by its parent goes on recording.
    """
    parent: bytes | None = None
    for name, value in headers:
        if name == b"traceparent":
            parent = value if parent is None else b""
    found = parse_traceparent(parent) if parent else None
    if found is None:
        ids = fresh_ids()
        return Trace(ids[:32], ids[32:], True)
    return Trace(found[0], fresh_span_id(), found[2], state_of(headers))


def state_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the `tracestate` headers as one, or "" if there is none, or none that is valid.

    One that is too long is shortened as the standard says: first go members of more than 128 characters, then the last.
    """
    state = b",".join([value for name, value in headers if name == b"tracestate"]).decode("latin-1")
    if len(state) > _TRACESTATE_LIMIT:
        state = _shortened(state)
    if not state or not _STATE.fullmatch(state):
        return ""
    keys = [member.partition("=")[0].strip() for member in state.split(",") if member.strip()]
    return state if len(keys) <= _MEMBER_LIMIT and len(set(keys)) == len(keys) else ""


def _shortened(state: str) -> str:
    members = [member.strip() for member in state.split(",")]
    kept = [member for member in members if 0 < len(member) <= _LONG_MEMBER]
    size = sum(map(len, kept)) + len(kept) - 1
    while size > _TRACESTATE_LIMIT:
        size -= len(kept.pop()) + 1
    return ",".join(kept)


def baggage_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the `baggage` headers as one, or "" if there is none, or none that is valid and fits."""
    baggage = b",".join([value for name, value in headers if name == b"baggage"]).decode("latin-1")
    return baggage if len(baggage) <= _BAGGAGE_LIMIT and _BAGGAGE.fullmatch(baggage) else ""


def active_span() -> Trace | None:
    """Return the ids of the span that is current, ours or OpenTelemetry's, or None; never imports OpenTelemetry.

    Where the span is ours, it is the span itself that is returned.
    """
    otel = sys.modules.get(API)
    if otel is not None:
        span = otel.get_current_span()
        if isinstance(span, Trace):
            return span
        context = span.get_span_context()
        if context.is_valid:
            return Trace(
                f"{context.trace_id:032x}",
                f"{context.span_id:016x}",
                context.trace_flags.sampled,
                context.trace_state.to_header(),
            )
    return ACTIVE.get()


def server_span() -> Trace | None:
    """Return the ids of the server span around the end of an answer, or None.

    The contrib ASGI instrumentation makes a span for each `send`; its parent is the server span.
    """
    trace = active_span()
    if trace is None:
        return None
    if type(trace) is not Trace:  # ours, which know the first span of this process in their trace
        return getattr(trace, "root", None) or trace
    otel = sys.modules.get(API)
    if otel is None:
        return trace
    span = otel.get_current_span()
    parent = getattr(span, "parent", None)
    kind = getattr(getattr(span, "kind", None), "name", _SERVER_KIND)
    if kind != _SERVER_KIND and parent is not None and not parent.is_remote:
        return Trace(trace.trace_id, f"{parent.span_id:016x}", trace.sampled, trace.state)
    return trace


def headers_of(trace: Trace) -> dict[str, str]:
    """Return the headers that make a called service part of this trace: W3C's, or what OTEL_PROPAGATORS says."""
    return propagation.write(trace)


class _Propagation:
    """Which headers carry a trace in and out: of the process, for `OTEL_PROPAGATORS` is."""

    def __init__(self) -> None:
        self.names = frozenset(("tracecontext", "baggage"))

    def write(self, trace: Trace) -> dict[str, str]:
        """Return the headers for a call that is made inside of this trace."""
        headers: dict[str, str] = {}
        if "tracecontext" in self.names:
            headers["traceparent"] = f"00-{trace.trace_id}-{trace.span_id}-{'01' if trace.sampled else '00'}"
            if trace.state:
                headers["tracestate"] = trace.state
        if "baggage" in self.names:
            baggage = _current_baggage(trace)
            if baggage:
                headers["baggage"] = baggage
        if not self.names <= {"tracecontext", "baggage", "none"}:
            api = sys.modules.get("opentelemetry.propagate")
            if api is not None:
                api.inject(headers)
        return headers


def _current_baggage(trace: Trace) -> str:
    """Return what OpenTelemetry's context has, for the application may have added to it; without one what came in."""
    api = sys.modules.get("opentelemetry.baggage.propagation")
    if api is not None:
        carrier: dict[str, str] = {}
        api.W3CBaggagePropagator().inject(carrier)
        return carrier.get("baggage", "")
    server = getattr(trace, "root", None) or trace
    return str(getattr(server, "baggage", ""))


propagation = _Propagation()
