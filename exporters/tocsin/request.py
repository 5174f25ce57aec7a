"""What is known about one HTTP request when it is over, and which request is being answered now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

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


class Wire(NamedTuple):
    """How a request came in: what only its span shows. Gathered where a span is exported."""

    scheme: str
    query: bytes
    """As sent, not redacted."""
    version: str
    """`1.1`, `2`, `3`."""
    headers: Iterable[tuple[bytes, bytes]]
    """As sent, names in lower case; where the exporter finds `host` and `user-agent`. Never shown as a whole."""


class Facts(NamedTuple):
    """One request that is over: what metrics, logs and traces are made of. A tuple, for it is made every time."""

    method: str
    """As sent, in upper case; `_OTHER` if it is no known method."""
    route: str
    """The full template (`/shops/{shop}/items/{item}`), or empty if no route matched."""
    path: str
    """As the client asked for it, decoded, with the root path; not redacted."""
    status: int
    """What the client got; 499 if it went away, 500 if the application failed without an answer."""
    seconds: float
    """From the first byte of the request to the last byte of the answer, without background tasks."""
    ended: float
    """When the last byte left, in Unix seconds."""
    client: str | None
    """The peer's address as the server gives it."""
    trace: Trace | None
    wire: Wire | None = None
    labels: tuple[str, ...] = ()
    """Values of the labels that `instrument(labels=...)` added."""
    request_bytes: int = 0
    """The `Content-Length` of the request; only gathered where a metric shows it."""
    response_bytes: int = 0
    """Bytes of the answer's body; only gathered where a metric shows it."""
    bound: Mapping[str, Any] | None = None
    """What the application had bound with structlog's context variables when the last byte left."""
    counted: bool = False
    """Whether metrics have it already."""


class Running(Protocol):
    """What runs now, a request or a job: where code inside finds its trace, counters and log."""

    @property
    def trace(self) -> Trace | None:
        """Its span."""

    @property
    def families(self) -> Families:
        """Its counters."""

    @property
    def pipeline(self) -> Pipeline | None:
        """Its log; None for the process's."""


class Current:
    """Something that runs, and no more than that."""

    __slots__ = ("families", "pipeline", "trace")

    def __init__(self, trace: Trace | None, families: Families, pipeline: Pipeline | None) -> None:
        self.trace = trace
        self.families = families
        self.pipeline = pipeline


_own: ContextVar[Running | None] = ContextVar("tocsin_running", default=None)

RUNNING = "tocsin-running"
"""Under which OpenTelemetry's context has what runs now."""


class _Now:
    """What runs now.

    Kept in OpenTelemetry's own context where that is loaded, beside its span: a request then changes one context
    variable instead of two, and each costs nearly two microseconds there and back.
    """

    def __init__(self) -> None:
        self._theirs: Any = None
        self._context: Any = None

    def join(self, variable: ContextVar[Any], context: Callable[[dict[str, object]], Any]) -> None:
        """Use OpenTelemetry's variable from now on, with contexts of its kind."""
        self._theirs, self._context = variable, context

    def get(self) -> Running | None:
        """Return what runs now, or None."""
        theirs = self._theirs
        if theirs is None:
            return _own.get()
        # Nothing said there: it was begun before OpenTelemetry was loaded. None said there: nothing runs.
        running: Running | None = theirs.get().get(RUNNING, theirs)
        return _own.get() if running is theirs else running

    def set(self, running: Running | None) -> Token[Any]:
        """Make this what runs now; return what `reset` takes."""
        theirs = self._theirs
        if theirs is None:
            return _own.set(running)
        token: Token[Any] = theirs.set(self._context({**theirs.get(), RUNNING: running}))
        return token

    def reset(self, token: Token[Any]) -> None:
        """Undo `set`.

        Raises:
            ValueError: called in another context.
        """
        token.var.reset(token)


CURRENT = _Now()


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


def error_name(error: BaseException) -> str:
    """Return the exception's type as OpenTelemetry's `error.type` wants it: `ValueError`, `asyncio.TimeoutError`."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


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
