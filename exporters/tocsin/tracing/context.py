"""W3C trace context: parse what comes in, name what happens here, and say it to what is called.

tocsin makes no spans of its own yet: it carries the context on and writes the ids into logs and exemplars. Where an
OpenTelemetry span is current, that span's ids win, so that logs and traces point at each other.
Source: W3C Trace Context Level 1, https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass

_LENGTH = 55
_DASH = ord("-")
_HEXADECIMAL = b"0123456789abcdef"
_ODD = frozenset(b"13579bdf")
_TRACESTATE_LIMIT = 512
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16
_bits = random.getrandbits
_SERVER_KIND = "SERVER"


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
    """The `tracestate` header as it came, at most 512 characters."""


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
    # Never 0 for a whole id: that means "no id" to every reader.
    span_id = "%016x" % (_bits(64) or 1)
    if found is None:
        return Trace("%032x" % (_bits(128) or 1), span_id, True)
    return Trace(found[0], span_id, found[2], _state(headers))


def _state(headers: Iterable[tuple[bytes, bytes]]) -> str:
    state = b",".join([value for name, value in headers if name == b"tracestate"]).decode("latin-1")
    return state if len(state) <= _TRACESTATE_LIMIT else ""


def active_span() -> Trace | None:
    """Return the ids of the OpenTelemetry span that is current, or None; never imports OpenTelemetry itself."""
    otel = sys.modules.get("opentelemetry.trace")
    if otel is None:
        return None
    context = otel.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return Trace(
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        context.trace_flags.sampled,
        context.trace_state.to_header(),
    )


def server_span() -> Trace | None:
    """Return the ids of the OpenTelemetry server span around the end of an answer, or None.

    The contrib ASGI instrumentation makes a span for each `send`; its parent is the server span.
    """
    trace = active_span()
    if trace is None:
        return None
    span = sys.modules["opentelemetry.trace"].get_current_span()
    parent = getattr(span, "parent", None)
    kind = getattr(getattr(span, "kind", None), "name", _SERVER_KIND)
    if kind != _SERVER_KIND and parent is not None and not parent.is_remote:
        return Trace(trace.trace_id, f"{parent.span_id:016x}", trace.sampled, trace.state)
    return trace


def headers_of(trace: Trace) -> dict[str, str]:
    """Return the W3C headers that make a called service part of this trace."""
    headers = {"traceparent": f"00-{trace.trace_id}-{trace.span_id}-{'01' if trace.sampled else '00'}"}
    if trace.state:
        headers["tracestate"] = trace.state
    return headers
