"""JSON as Go's encoder writes it: compact, maps by key, and `<`, `>`, `&` escaped so that it can stand in HTML."""

from __future__ import annotations

import json
import math
import re
from typing import Final

from tocsin_alerting.templates import printing
from tocsin_alerting.templates.errors import Fault
from tocsin_alerting.templates.times import Time
from tocsin_alerting.templates.values import NIL, Struct, Value, type_name

_UNSAFE: Final = re.compile(r"[<>&\u2028\u2029\ud800-\udfff]")


def encode(value: Value) -> str:
    """Return `value` as JSON.

    Raises:
        Fault: JSON has no word for it.
    """
    if isinstance(value, str):
        return _string(value)
    if value is None or value is NIL:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return _float(value)
    return _compound(value)


def _compound(value: Value) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{_string(key)}:{encode(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(encode, value)) + "]"
    if isinstance(value, Time):
        return _string(value.json())
    if isinstance(value, Struct):
        names = getattr(value, "json_names", {})
        fields = [f"{_string(names.get(name, name))}:{encode(field)}" for name, field in value.shown_fields()]
        return "{" + ",".join(fields) + "}"
    raise Fault(f"{type_name(value)} has no form in JSON")


def _string(text: str) -> str:
    return _UNSAFE.sub(_escaped, json.dumps(text, ensure_ascii=False))


def _escaped(found: re.Match[str]) -> str:
    number = ord(found.group())
    # A byte that is no UTF-8 is a surrogate here.
    return "\\ufffd" if number >= 0xD800 else f"\\u{number:04x}"


def _float(value: float) -> str:
    if not math.isfinite(value):
        raise Fault(f"{printing.show(value)} has no form in JSON")
    size = abs(value)
    if size and (size < 1e-6 or size >= 1e21):
        shown = printing.format_float(value, "g", -1)
        mantissa, mark, power = shown.partition("e")
        # 1e-09 is written 1e-9.
        return f"{mantissa}{mark}{power[0]}{power[1:].lstrip('0')}" if power.startswith("-") else shown
    shown = repr(value)
    return f"{value:.0f}" if "e" in shown and size >= 1 else f"{value:f}" if "e" in shown else shown.removesuffix(".0")
