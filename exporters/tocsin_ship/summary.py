"""What a person looks for in an event, wherever its formatter put it: ECS, OpenTelemetry, python-logstash. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tocsin import names
from tocsin_service import clock

_LEVELS = (names.Field.LEVEL, "level", "levelname", "severity_text", "severity")
_SERVICES = (names.Field.SERVICE_NAME, "service", "service_name")
_TRACES = (names.Field.TRACE_ID, names.Field.TRACE_ID_FLAT, "traceId")
_MESSAGES = (names.Field.MESSAGE, "msg", "event")
_TIMES = (names.Field.TIMESTAMP, "timestamp", "time")
_WORDS: Final = 64 * 1024
"""Characters of the other fields that can be searched."""
_DEPTH: Final = 20


@dataclass(frozen=True, slots=True)
class Summary:
    """An event for a list. Texts are empty where the event says nothing.

    Args:
        at: Unix seconds.
        level: in small letters.
        trace_id: in small letters.
        extra: the words of all other fields.
    """

    at: float
    level: str
    service: str
    message: str
    trace_id: str
    extra: str


def summarise(event: Mapping[str, object], *, now: float) -> Summary:
    """Return the summary of `event`; without a time, or with one that has not come, it is of `now`."""
    return Summary(
        at=min(_time(event, now), now),
        level=_first(event, _LEVELS).lower(),
        service=_first(event, _SERVICES),
        message=_first(event, _MESSAGES),
        trace_id=_first(event, _TRACES).lower(),
        extra=" ".join(_words(event))[:_WORDS],
    )


def _first(event: Mapping[str, object], keys: tuple[str, ...]) -> str:
    for key in keys:
        value = _find(event, key)
        if isinstance(value, str):
            return value
        if value is not None and not isinstance(value, dict):
            return json.dumps(value, ensure_ascii=False)
    return ""


def _find(event: Mapping[str, object], key: str) -> object:
    """Return the value of a dotted key, written in one piece or as objects in objects."""
    if key in event:
        value = event[key]
        return value.get("name") if isinstance(value, dict) and key in {"service"} else value
    value = event
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _time(event: Mapping[str, object], now: float) -> float:
    for key in _TIMES:
        value = event.get(key)
        if isinstance(value, str):
            try:
                return clock.parse_rfc3339(value)
            except (ValueError, OverflowError):
                continue
    return now


def _words(event: Mapping[str, object]) -> Iterator[str]:
    skipped = {*_MESSAGES[:1], *_TIMES}
    for key, value in event.items():
        if key not in skipped:
            yield from _leaves(value, _DEPTH)


def _leaves(value: object, depth: int) -> Iterator[str]:
    match value:
        case str():
            yield value
        case bool() | None:
            return
        case int() | float():
            yield str(value)
        case dict() if depth:
            for item in value.values():
                yield from _leaves(item, depth - 1)
        case list() if depth:
            for item in value:
                yield from _leaves(item, depth - 1)
