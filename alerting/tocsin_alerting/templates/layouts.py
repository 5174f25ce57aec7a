"""Layouts of times: shapes written with Go's reference time, Monday, January 2nd 2006 at 15:04:05.

Source: https://pkg.go.dev/time#pkg-constants.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tocsin_alerting.templates.errors import Fault

MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
DAYS: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


@dataclass(frozen=True, slots=True)
class Civil:
    """An instant on the wall clock of a zone."""

    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int
    nanosecond: int
    weekday: int
    yearday: int
    offset: int
    abbreviation: str


_LAYOUT: Final = re.compile(
    r"January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|01|02|03|04|05|06|002|15|1|2006|__2|_2(?!006)|2|3|4|5"
    r"|PM|pm|-070000|-07:00:00|-0700|-07:00|-07|Z070000|Z07:00:00|Z0700|Z07:00|Z07|[.,]0+(?![0-9])|[.,]9+(?![0-9])"
)


def _word(found: re.Match[str]) -> str:
    text = found.group()
    return text[:2].replace(",", ".") if text[0] in ".," else text


def _offset(seconds: int, pattern: str) -> str:
    if pattern[0] == "Z" and not seconds:
        return "Z"
    # Go divides towards zero, so that the sign stands for all parts.
    left = abs(seconds)
    parts = [f"{left // 3600:02d}", f"{left // 60 % 60:02d}", f"{left % 60:02d}"]
    colon = ":" if ":" in pattern else ""
    shown = colon.join(parts[: sum(char.isdigit() for char in pattern) // 2])
    return ("-" if seconds < 0 else "+") + shown


def _year(now: Civil) -> str:
    return f"{'-' if now.year < 0 else ''}{abs(now.year):04d}"


def _fixed(now: Civil, pattern: str) -> str:
    return pattern[0] + f"{now.nanosecond:09d}".ljust(len(pattern), "0")[: len(pattern) - 1]


def _trimmed(now: Civil, pattern: str) -> str:
    digits = f"{now.nanosecond:09d}"[: len(pattern) - 1].rstrip("0")
    return pattern[0] + digits if digits else ""


def _zone(now: Civil, _: str) -> str:
    return now.abbreviation or _offset(now.offset, "-0700" if now.offset % 3600 else "-07")


_WRITERS: Final[Mapping[str, Callable[[Civil, str], str]]] = {
    "January": lambda now, _: MONTHS[now.month - 1],
    "Jan": lambda now, _: MONTHS[now.month - 1][:3],
    "Monday": lambda now, _: DAYS[now.weekday],
    "Mon": lambda now, _: DAYS[now.weekday][:3],
    "MST": _zone,
    "01": lambda now, _: f"{now.month:02d}",
    "1": lambda now, _: str(now.month),
    "02": lambda now, _: f"{now.day:02d}",
    "_2": lambda now, _: f"{now.day:2d}",
    "2": lambda now, _: str(now.day),
    "002": lambda now, _: f"{now.yearday:03d}",
    "__2": lambda now, _: f"{now.yearday:3d}",
    "2006": lambda now, _: _year(now),
    "06": lambda now, _: f"{now.year % 100:02d}",
    "15": lambda now, _: f"{now.hour:02d}",
    "03": lambda now, _: f"{now.hour % 12 or 12:02d}",
    "3": lambda now, _: str(now.hour % 12 or 12),
    "04": lambda now, _: f"{now.minute:02d}",
    "4": lambda now, _: str(now.minute),
    "05": lambda now, _: f"{now.second:02d}",
    "5": lambda now, _: str(now.second),
    "PM": lambda now, _: "PM" if now.hour >= 12 else "AM",
    "pm": lambda now, _: "pm" if now.hour >= 12 else "am",
    ".0": _fixed,
    ".9": _trimmed,
    **{
        pattern: lambda now, found: _offset(now.offset, found)
        for sign in "-Z"
        for pattern in (f"{sign}{rest}" for rest in ("070000", "07:00:00", "0700", "07:00", "07"))
    },
}

_NAMED: Final = {
    "January": ("month_name", "|".join(MONTHS)),
    "Jan": ("month_name", "|".join(name[:3] for name in MONTHS)),
    "Monday": ("", "|".join(DAYS)),
    "Mon": ("", "|".join(name[:3] for name in DAYS)),
    "MST": ("zone", r"[A-Z]{3,5}|[+-]\d\d(?:\d\d)?"),
    "01": ("month", r"\d\d"),
    "1": ("month", r"\d\d?"),
    "02": ("day", r"[ \d]?\d"),
    "_2": ("day", r"[ \d]?\d"),
    "2": ("day", r"[ \d]?\d"),
    "002": ("yearday", r"\d{3}"),
    "__2": ("yearday", r"[ \d]{2}\d"),
    "2006": ("year", r"\d{4}"),
    "06": ("short_year", r"\d\d"),
    "15": ("hour", r"\d\d"),
    "03": ("hour", r"\d\d"),
    "3": ("hour", r"\d\d?"),
    "04": ("minute", r"\d\d"),
    "4": ("minute", r"\d\d?"),
    "05": ("second", r"\d\d"),
    "5": ("second", r"\d\d?"),
    "PM": ("half", "AM|PM"),
    "pm": ("half", "am|pm"),
}


def write(now: Civil, layout: str) -> str:
    """Return what the wall clock shows, in the shape of `layout`."""
    return _LAYOUT.sub(lambda found: _WRITERS[_word(found)](now, found.group()), layout)


def read(layout: str, text: str) -> dict[str, str | None]:
    """Return the parts of a time, such as `year` and `month_name`, that `text` has in the shape of `layout`.

    Raises:
        Fault: it has another shape.
    """
    pattern, names = _pattern(layout)
    found = re.fullmatch(pattern, text, re.IGNORECASE)
    if found is None:
        raise Fault(f"{text!r}, expected a time like {layout!r}")
    return dict(zip(names, found.groups(), strict=True))


def _pattern(layout: str) -> tuple[str, list[str]]:
    pattern, names, at = "", [], 0
    for found in _LAYOUT.finditer(layout):
        pattern += re.escape(layout[at : found.start()])
        word = _word(found)
        if word in {".0", ".9"}:
            digits = len(found.group()) - 1
            name, part = "fraction", rf"[.,]\d{{{digits}}}" if word == ".0" else r"(?:[.,]\d+)?"
        elif word[0] in "-Z":
            shape = r"[+-]\d\d" + "".join(r"\d\d" if char == "0" else ":" for char in re.sub("0[^:]", "0", word[3:]))
            name, part = "offset", f"Z|{shape}" if word[0] == "Z" else shape
        else:
            name, part = _NAMED[word]
        names.append(name)
        pattern += f"({part})"
        following = layout[found.end() : found.end() + 2]
        if name == "second" and not re.match(r"[.,][09]", following):
            # A fraction is taken after the seconds even where the layout has none.
            names.append("fraction")
            pattern += r"([.,]\d+)?"
        at = found.end()
    return pattern + re.escape(layout[at:]), names
