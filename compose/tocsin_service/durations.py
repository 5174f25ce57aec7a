"""Durations in Prometheus notation: `1h30m`, `500ms`, `2w`, `0`.

Source: the duration syntax of Prometheus' configuration reference. Values are float seconds everywhere else.
"""

from __future__ import annotations

import re

_SECONDS = {"y": 31_536_000.0, "w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_SYNTAX = re.compile(
    r"(?:(?P<y>\d+)y)?(?:(?P<w>\d+)w)?(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?"
    r"(?:(?P<m>\d+)m)?(?:(?P<s>\d+)s)?(?:(?P<ms>\d+)ms)?"
)


def parse(text: str) -> float:
    """Return the seconds that `text` stands for.

    Raises:
        ValueError: units out of order, a fraction, a sign, or no unit at all (only `0` may stand alone).
    """
    if text == "0":
        return 0.0
    match = _SYNTAX.fullmatch(text)
    if not text or match is None:
        raise ValueError(f'"{text}" is not a duration; write whole numbers with y, w, d, h, m, s, ms in that order')
    try:
        return sum(int(count) * _SECONDS[unit] for unit, count in match.groupdict().items() if count is not None)
    except OverflowError as error:
        raise ValueError(f'"{text}" is not a duration that anybody lives to see') from error


def render(seconds: float) -> str:
    """Return the shortest notation that parses back to `seconds`, to the millisecond: 5400 -> `1h30m`.

    Years and weeks are used only when nothing is left over, as Prometheus does.
    """
    left = round(seconds * 1000)
    if left < 0:
        raise ValueError("a duration cannot be negative")
    if left == 0:
        return "0s"
    for unit in ("y", "w"):
        whole = round(_SECONDS[unit] * 1000)
        if left % whole == 0:
            return f"{left // whole}{unit}"
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, left = divmod(left, round(_SECONDS[unit] * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def human(seconds: float) -> str:
    """Return a rounded length of time for a person: `350 ms`, `42 s`, `3 min`, `2 h 5 min`, `4 d 3 h`."""
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    if seconds < 120:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
