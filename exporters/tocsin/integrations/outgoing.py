"""One HTTP request that this process makes: how long it took, how it ended, and the headers that carry its trace.

Used by the integrations of HTTP clients. A redirect is a request of its own. Retries below what is wrapped (urllib3's
`Retry`, an httpx transport's `retries`) are one request with what they end in.
The duration ends with the headers of the answer, as OpenTelemetry's client spans do: how fast the application reads the
body is the application's time.
"""

from __future__ import annotations

import time
from typing import Any

from tocsin import names
from tocsin.metrics.families import Families
from tocsin.request import current_trace, error_name, label_method, trace_headers

_CARRIED = "_tocsin_traceparent"
"""The attribute of a request with the header it has from us."""


def carry_trace(families: Families, request: Any) -> None:
    """Add the headers of the trace to those of a request (a mapping that ignores case), unless it has them already.

    A request that is sent again has those of the trace in which it is sent now. OpenTelemetry's own instrumentation
    replaces them with those of its client span, before or after.
    """
    try:
        headers = request.headers
        before = vars(request).pop(_CARRIED, None)
        if before is not None and headers.get("traceparent") == before:
            headers.pop("traceparent", None)
            headers.pop("tracestate", None)
        if "traceparent" not in headers:
            for name, value in trace_headers().items():
                headers[name] = value
            if "traceparent" in headers:
                vars(request)[_CARRIED] = headers["traceparent"]
    except Exception:  # our error is not the application's
        families.dropped("traces", "outgoing_headers")


class Outgoing:
    """A request under way; made when it begins."""

    __slots__ = ("_families", "_host", "_method", "_started")

    def __init__(self, families: Families, method: str, host: str | None) -> None:
        self._families = families
        self._method = method
        self._host = host
        self._started = time.perf_counter()

    def ended(self, status: int | None, error: BaseException | None = None) -> None:
        """Count the request: with the status of its answer, or with the error for which there is none."""
        seconds = time.perf_counter() - self._started
        try:
            self._families.observe(
                names.HTTP_CLIENT_REQUEST_DURATION,
                label_method(self._method.upper()),
                (self._host or "").lower(),
                "" if status is None else str(status),
                "" if error is None else error_name(error),
                value=seconds,
                trace=current_trace(),
            )
        except Exception:  # our error is not the application's
            self._families.dropped("metrics", "outgoing_request")
