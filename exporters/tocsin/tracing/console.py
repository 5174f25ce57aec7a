"""Spans as JSON lines on stdout, to see while developing what would be exported: `OTEL_TRACES_EXPORTER=console`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from tocsin.logs.lines import json_line
from tocsin.redact import Redactor
from tocsin.request import Facts
from tocsin.tracing import http
from tocsin.tracing.otlp import Item
from tocsin.tracing.recording import ERROR, KINDS
from tocsin.tracing.spans import Span

_KINDS = {number: name for name, number in KINDS.items()}
_STATUS = ("unset", "ok", "error")
_NANO = 1_000_000_000


def write(items: Iterable[Item], redact: Redactor) -> None:
    """Write spans to stdout, one line each; a closed stdout is passed over."""
    lines = b"".join([json_line(described(item, redact)) for item in items]).decode()
    try:
        sys.stdout.write(lines)
        sys.stdout.flush()
    except (OSError, ValueError):
        return


def described(item: Item, redact: Redactor) -> dict[str, object]:
    """Return a span as JSON's types."""
    if isinstance(item, Facts):
        span, facts = item.trace, item
        end = int(facts.ended * _NANO)
        start = end - int(facts.seconds * _NANO)
        name, kind, shown = http.name_of(facts.method, facts.route), "server", http.attributes_of(facts, redact)
        code, message = (ERROR if http.failed(facts.status) else 0), ""
    else:
        span, name, kind, shown, code, message, start, end = item, "", "", {}, 0, "", 0, 0
    found: dict[str, object] = {}
    details = span.details if isinstance(span, Span) else None
    if span is not None:
        found.update(trace_id=span.trace_id, span_id=span.span_id, parent_id=getattr(span, "parent_id", ""))
    if details is not None:
        name, kind = details.name or name, _KINDS[details.kind]
        start, end = details.start or start, details.end or end
        shown = {**shown, **details.attributes}
        code, message = details.code or code, details.message
        found["events"] = [{"at": each.at, "name": each.name, **each.attributes} for each in details.events]
    found.update(name=name, kind=kind, start=start, end=end, attributes=shown, status=_STATUS[code], message=message)
    return found
