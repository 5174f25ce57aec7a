"""One log event as one line of bytes: JSON, logfmt, or for a person at a terminal. Pure."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from functools import lru_cache

from tocsin.names import Field

try:
    import orjson
except ImportError:  # optional: three times faster, the same lines
    orjson = None  # type: ignore[assignment]  # the module or None

Event = dict[str, object]
Encoder = Callable[[Event], bytes]


@lru_cache(maxsize=4)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def timestamp(now: float) -> str:
    """Return Unix seconds as UTC with milliseconds: `2026-11-23T04:15:07.123Z`."""
    milliseconds = int(now * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


def json_line(event: Event) -> bytes:
    """Return the event as one JSON object and a newline; always valid JSON and UTF-8, whatever the values."""
    try:
        return _fast(event)
    except Exception:  # NaN, lone surrogates, foreign types
        return _compact(plain(event))


def _compact(event: object) -> bytes:
    return json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _orjson(event: Event) -> bytes:
    return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATACLASS)


_fast: Encoder = _compact if orjson is None else _orjson


def plain(value: object, depth: int = 0) -> object:
    """Return the value in a form that any JSON encoder takes."""
    result: object
    if isinstance(value, str):
        result = value.encode("utf-8", "backslashreplace").decode()
    elif value is None or isinstance(value, bool):
        result = value
    elif isinstance(value, int):
        result = int(value)
    elif isinstance(value, float):
        result = float(value) if math.isfinite(value) else None
    elif depth < 10 and isinstance(value, Mapping):
        result = {str(plain(str(key))): plain(item, depth + 1) for key, item in value.items()}
    elif depth < 10 and isinstance(value, list | tuple):
        result = [plain(item, depth + 1) for item in value]
    else:
        result = f"<{type(value).__name__}>"
    return result


def logfmt_line(event: Event) -> bytes:
    """Return the event as `key=value` pairs on one line, values quoted where they need it."""
    return (
        " ".join(f"{_bare_key(key)}={_bare(value)}" for key, value in event.items()).encode("utf-8", "backslashreplace")
        + b"\n"
    )


def _bare_key(key: str) -> str:
    return "".join(char if char.isprintable() and char not in ' ="' else "_" for char in key) or "_"


def _bare(value: object) -> str:
    text = value if isinstance(value, str) else json_line({"": value})[4:-2].decode()
    if text and text.isprintable() and not any(char in text for char in ' ="\\'):
        return text
    return json.dumps(text)


_CONSOLE_LEVELS = {"debug": "debug", "info": "info ", "warning": "warn ", "error": "ERROR", "critical": "CRIT "}
_CONSOLE_HIDDEN = frozenset(
    (
        Field.TIMESTAMP,
        Field.LEVEL,
        Field.MESSAGE,
        Field.ECS_VERSION,
        Field.SERVICE_NAME,
        Field.SERVICE_VERSION,
        Field.DATASET,
        Field.TRACE_ID_FLAT,
        Field.SPAN_ID,
        Field.ERROR_STACK,
    )
)


def console_line(event: Event) -> bytes:
    """Return the event for a person: time, level, message, fields; a stack trace indented on lines of its own."""
    head = f"{str(event[Field.TIMESTAMP])[11:23]} {_CONSOLE_LEVELS.get(str(event[Field.LEVEL]), '?')} "
    fields = "".join(f"  {_bare_key(key)}={_bare(value)}" for key, value in event.items() if key not in _CONSOLE_HIDDEN)
    message = str(event[Field.MESSAGE])
    shown = message if message.isprintable() else json.dumps(message)
    stack = str(event.get(Field.ERROR_STACK, ""))
    lines = "".join(f"\n    {_printable(line)}" for line in stack.splitlines())
    return f"{head}{shown}{fields}{lines}\n".encode("utf-8", "backslashreplace")


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() or char == "\t" else "?" for char in line)


ENCODERS: dict[str, Encoder] = {"json": json_line, "logfmt": logfmt_line, "console": console_line}
