"""Other headers than W3C's: what `OTEL_PROPAGATORS` asks for is read and written through the OpenTelemetry API."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from tocsin.tracing.context import Trace, baggage_of, parse_traceparent, propagation, state_of

_log = logging.getLogger("tocsin")

_STANDARD = frozenset(("tracecontext", "baggage"))
_OURS = _STANDARD | {"none"}


class Reader:
    """Reads the trace of a request from other headers than the usual ones, or from fewer."""

    def __init__(self, names: frozenset[str], api: Any) -> None:
        self._names = names
        self._api = api

    def read(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[Trace | None, str]:
        """Return the caller's span, if the headers name one, and the `baggage` header to pass on."""
        baggage = baggage_of(headers) if "baggage" in self._names else ""
        if self._api is not None:
            return self._through_api(headers), baggage
        sent = [value for name, value in headers if name == b"traceparent"]
        found = parse_traceparent(sent[0]) if len(sent) == 1 and "tracecontext" in self._names else None
        return (None if found is None else Trace(*found, state_of(headers))), baggage

    def _through_api(self, headers: Iterable[tuple[bytes, bytes]]) -> Trace | None:
        propagate, otel, context_class = self._api
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        ids = otel.get_current_span(propagate.extract(carrier, context_class())).get_span_context()
        if not ids.is_valid:
            return None
        return Trace(
            f"{ids.trace_id:032x}", f"{ids.span_id:016x}", ids.trace_flags.sampled, ids.trace_state.to_header()
        )


def use_propagators(names: frozenset[str]) -> Reader | None:
    """Have traces carried in and out by these propagators; return what reads them, None for the usual two.

    The specification makes this a setting of the process, so the last call holds. What cannot be had is left out, with
    one warning.
    """
    api = None
    if not names <= _OURS:
        try:
            api = (
                import_module("opentelemetry.propagate"),
                import_module("opentelemetry.trace"),
                import_module("opentelemetry.context.context").Context,
            )
        except (ImportError, ValueError) as error:  # not installed, or a propagator that is not
            _log.warning(
                "OTEL_PROPAGATORS names %s, which need the opentelemetry-api package and theirs (%s); only %s are used",
                ", ".join(sorted(names - _OURS)),
                error,
                ", ".join(sorted(names & _OURS)) or "no headers",
            )
            names &= _OURS
    propagation.names = names
    return None if names == _STANDARD else Reader(names, api)
