"""What is known about one HTTP request when it is over, and which request is being answered now."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from tocsin.tracing.context import Trace, active_span, headers_of

if TYPE_CHECKING:
    from tocsin.logs.pipeline import Pipeline
    from tocsin.metrics.families import Families

KNOWN_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "QUERY"),
)
OTHER = "_OTHER"
"""The label value for everything that would otherwise be unbounded."""

CLIENT_CLOSED = 499
"""The status, as nginx counts it, of a request whose client went away before the answer was complete."""

SERVER_ERROR = 500


class Facts(NamedTuple):
    """One request that is over: what metrics, logs and traces are made of. A tuple, for it is made every time."""

    method: str
    """As sent, in upper case; `_OTHER` if it is no known method."""
    route: str
    """The full template (`/shops/{shop}/items/{item}`), or empty if no route matched."""
    path: str
    status: int
    seconds: float
    """From the first byte of the request to the last byte of the answer, without background tasks."""
    client: str | None
    """The peer's address as the server gives it."""
    trace: Trace | None


class Current:
    """The request being answered: where code that runs inside it finds its trace, counters and log."""

    __slots__ = ("families", "pipeline", "trace")

    def __init__(self, trace: Trace | None, families: Families, pipeline: Pipeline | None) -> None:
        self.trace = trace
        self.families = families
        self.pipeline = pipeline


CURRENT: ContextVar[Current | None] = ContextVar("tocsin_request", default=None)


def label_method(method: str) -> str:
    """Return the method as a label value: itself if known, else `_OTHER`."""
    return method if method in KNOWN_METHODS else OTHER


def outcome(status: int, *, complete: bool, disconnected: bool, failed: bool) -> int:
    """Return the status a request is counted under.

    Args:
        status: what the application sent, 0 if it sent nothing.
        complete: the last byte of the answer was handed to the server.
        disconnected: the client went away, or the request was cancelled.
        failed: the application raised, or returned without an answer.
    """
    if complete:
        return status
    if disconnected:
        return CLIENT_CLOSED
    return SERVER_ERROR if failed or not status else status


def current_trace() -> Trace | None:
    """Return the trace of what runs now: the current OpenTelemetry span's, else the request's, else None."""
    trace = active_span()
    if trace is None:
        current = CURRENT.get()
        trace = current.trace if current is not None else None
    return trace


def trace_headers() -> dict[str, str]:
    """Return the headers to add to an outgoing call, so that the called service joins this request's trace.

    Returns `{"traceparent": ...}`, with `tracestate` where one came in; empty outside of a request.
    """
    trace = current_trace()
    return {} if trace is None else headers_of(trace)
