"""Go's times, durations and time zones, with the methods a template can call.

Sources: https://pkg.go.dev/time; layouts at https://pkg.go.dev/time#pkg-constants.
"""

from __future__ import annotations

import time as clocks
import zoneinfo
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import ClassVar, Final

from tocsin_alerting.templates import layouts
from tocsin_alerting.templates.errors import Fault
from tocsin_alerting.templates.layouts import DAYS, MONTHS, Civil
from tocsin_alerting.templates.values import INT, STRING, Function, Int64, Parameter, Struct, Value

SECOND: Final = 10**9
_DAY: Final = 86_400
# Days from 0001-01-01 to 1970-01-01, and years after which the Gregorian calendar repeats itself.
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_CYCLE_YEARS: Final = 400
_CYCLE_DAYS: Final = 146_097
ZERO_SECONDS: Final = -62_135_596_800
"""Unix seconds of Go's zero time, 0001-01-01T00:00:00Z."""
_MAXIMUM: Final = 2**63 - 1
_MINIMUM: Final = -(2**63)


class Month(int):
    """A month, 1 is January."""

    __slots__ = ()
    go_type: ClassVar[str] = "time.Month"
    members: ClassVar[dict[str, Function | str]] = {"String": Function("String", lambda self: self.go_string())}

    def go_string(self) -> str:
        """Return its name."""
        return MONTHS[self - 1] if 1 <= self <= 12 else f"%!Month({int(self)})"


class Weekday(int):
    """A day of the week, 0 is Sunday."""

    __slots__ = ()
    go_type: ClassVar[str] = "time.Weekday"
    members: ClassVar[dict[str, Function | str]] = {"String": Function("String", lambda self: self.go_string())}

    def go_string(self) -> str:
        """Return its name."""
        return DAYS[self] if 0 <= self <= 6 else f"%!Weekday({int(self)})"


class Duration(int):
    """A span of time in nanoseconds."""

    __slots__ = ()
    go_type: ClassVar[str] = "time.Duration"
    members: ClassVar[dict[str, Function | str]] = {}

    def go_string(self) -> str:
        """Return it as Go prints it: `1h9m39.256s`, `1.5ms`, `0s`."""
        left, sign = abs(int(self)), "-" if self < 0 else ""
        if left < SECOND:
            unit, size = next(((u, s) for u, s in (("ns", 1), ("µs", 10**3), ("ms", 10**6)) if left < s * 1000))
            return f"{sign}{_fraction(left, size)}{unit}" if left else "0s"
        minutes, nanoseconds = divmod(left, 60 * SECOND)
        hours, minutes = divmod(minutes, 60)
        shown = f"{_fraction(nanoseconds, SECOND)}s"
        if hours:
            return f"{sign}{hours}h{minutes}m{shown}"
        return f"{sign}{minutes}m{shown}" if minutes else f"{sign}{shown}"

    def rounded(self, to: int) -> Duration:
        """Return the nearest multiple of `to`; halves go away from zero."""
        if to <= 0:
            return self
        left = abs(self) % to
        whole = abs(self) - left + (to if left + left >= to else 0)
        return _bounded(whole if self >= 0 else -whole)

    def truncated(self, to: int) -> Duration:
        """Return the multiple of `to` towards zero."""
        if to <= 0:
            return self
        whole = abs(self) - abs(self) % to
        return Duration(whole if self >= 0 else -whole)


def _fraction(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)


def _bounded(value: int) -> Duration:
    return Duration(min(max(value, _MINIMUM), _MAXIMUM))


class Zone(Struct):
    """A time zone: how far it is from UTC at an instant, and how it is called then."""

    __slots__ = ("_at", "name")
    go_type: ClassVar[str] = "*time.Location"

    def __init__(self, name: str, at: Callable[[int], tuple[int, str]]) -> None:
        self.name = name
        self._at = at

    def at(self, seconds: int) -> tuple[int, str]:
        """Return the seconds east of UTC and the abbreviation at a Unix time."""
        return self._at(seconds)

    def go_string(self) -> str:
        """Return its name."""
        return self.name


def _local(seconds: int) -> tuple[int, str]:
    try:
        found = clocks.localtime(seconds)
    except (OverflowError, OSError, ValueError):
        found = clocks.localtime(0)
    return found.tm_gmtoff, found.tm_zone


UTC_ZONE: Final = Zone("UTC", lambda _: (0, "UTC"))
LOCAL_ZONE: Final = Zone("Local", _local)


@lru_cache(128)
def load_zone(name: str) -> Zone:
    """Return the zone of the IANA database that is called `name`.

    Raises:
        Fault: there is none.
    """
    if name in {"", "UTC"}:
        return UTC_ZONE
    if name == "Local":
        return LOCAL_ZONE
    try:
        info = zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise Fault(f"the time zone {name}, expected one of the IANA database such as Europe/Paris") from None

    def at(seconds: int) -> tuple[int, str]:
        # Zones know no rules before year 1 or after year 9999; the nearest that they know is taken.
        start = datetime(1970, 1, 1, tzinfo=UTC)
        seconds = min(max(seconds, ZERO_SECONDS + 2 * _DAY), 253_402_300_799 - 2 * _DAY)
        moment = (start + timedelta(seconds=seconds)).astimezone(info)
        offset = moment.utcoffset() or timedelta()
        return int(offset.total_seconds()), moment.tzname() or ""

    return Zone(name, at)


def _days_before(year: int, month: int, day: int) -> int:
    """Return the days from 1970-01-01; months and days may be beyond their ends."""
    year += (month - 1) // 12
    month = (month - 1) % 12 + 1
    cycles, rest = divmod(year - 1, _CYCLE_YEARS)
    return date(rest + 1, month, 1).toordinal() - _EPOCH_DAY + cycles * _CYCLE_DAYS + day - 1


class Time(Struct):
    """An instant, in nanoseconds since 1970, seen from a time zone."""

    __slots__ = ("nanoseconds", "zone")
    go_type: ClassVar[str] = "time.Time"

    def __init__(self, nanoseconds: int, zone: Zone = UTC_ZONE) -> None:
        self.nanoseconds = nanoseconds
        self.zone = zone

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Time) and (self.nanoseconds, self.zone) == (other.nanoseconds, other.zone)

    def __hash__(self) -> int:
        return hash(self.nanoseconds)

    @property
    def unix(self) -> int:
        """Whole seconds since 1970."""
        return self.nanoseconds // SECOND

    def civil(self) -> Civil:
        """Return what the wall clock shows."""
        offset, abbreviation = self.zone.at(self.unix)
        days, seconds = divmod(self.unix + offset, _DAY)
        cycles, day = divmod(days + _EPOCH_DAY - 1, _CYCLE_DAYS)
        found = date.fromordinal(day + 1)
        return Civil(
            found.year + cycles * _CYCLE_YEARS,
            found.month,
            found.day,
            seconds // 3600,
            seconds // 60 % 60,
            seconds % 60,
            self.nanoseconds % SECOND,
            (days + 4) % 7,
            found.timetuple().tm_yday,
            offset,
            abbreviation,
        )

    def go_string(self) -> str:
        """Return it as Go prints it: `2026-11-23 00:09:39.38 +0000 UTC`."""
        return self.format("2006-01-02 15:04:05.999999999 -0700 MST")

    def format(self, layout: str) -> str:
        """Return it in the shape of `layout`, which is Go's reference time of January 2nd, 2006."""
        return layouts.write(self.civil(), layout)

    def source(self) -> str:
        """Return it as an expression of Go."""
        now = self.civil()
        zone = {"UTC": "time.UTC", "Local": "time.Local"}.get(self.zone.name, f'time.Location("{self.zone.name}")')
        return (
            f"time.Date({now.year}, time.{MONTHS[now.month - 1]}, {now.day}, {now.hour}, {now.minute}, {now.second}, "
            f"{now.nanosecond}, {zone})"
        )

    def json(self) -> str:
        """Return it as RFC 3339 with the fraction it has."""
        return self.format("2006-01-02T15:04:05.999999999Z07:00")


ZERO: Final = Time(ZERO_SECONDS * SECOND)


def from_unix(seconds: float) -> Time:
    """Return the instant, to the microsecond: a float of today's seconds holds no more."""
    return Time(round(seconds * 1_000_000) * 1000)


def parse(layout: str, text: str) -> Time:
    """Return the instant that `text` says in the shape of `layout`; without a zone it is UTC.

    Raises:
        Fault: it has another shape, or is no date.
    """
    return _instant(layouts.read(layout, text), text)


def _instant(parts: dict[str, str | None], text: str) -> Time:
    def number(name: str, default: int) -> int:
        return int(parts.get(name) or default)

    year = number("year", 0)
    if short := parts.get("short_year"):
        year = int(short) + (1900 if int(short) >= 69 else 2000)
    month = number("month", 1)
    if name := parts.get("month_name"):
        month = next(index for index, full in enumerate(MONTHS, 1) if full[:3].lower() == name[:3].lower())
    day, hour = number("day", 1), number("hour", 0)
    if half := parts.get("half"):
        hour = hour % 12 + (12 if half.lower() == "pm" else 0)
    minute, second = number("minute", 0), number("second", 0)
    if (yearday := number("yearday", 0)) and not parts.get("month"):
        month, day = 1, yearday
    elif not 1 <= month <= 12 or not 1 <= day <= _month_days(year, month):
        raise Fault(f"{text!r}, expected a day that exists")
    if hour > 23 or minute > 59 or second > 59:
        raise Fault(f"{text!r}, expected a time of day that exists")
    fraction = (parts.get("fraction") or ".")[1:10].ljust(9, "0")
    offset = _read_offset(parts.get("offset") or "Z")
    seconds = _days_before(year, month, day) * _DAY + hour * 3600 + minute * 60 + second - offset
    zone = UTC_ZONE
    if offset or (parts.get("zone") or "UTC") != "UTC":
        named = parts.get("zone") or ""
        zone = Zone("", lambda _: (offset, named))
    return Time(seconds * SECOND + int(fraction), zone)


def _month_days(year: int, month: int) -> int:
    return _days_before(year, month + 1, 1) - _days_before(year, month, 1)


def _read_offset(text: str) -> int:
    if text in {"Z", "z"}:
        return 0
    digits = text[1:].replace(":", "").ljust(6, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:4]) * 60 + int(digits[4:6])
    return -seconds if text[0] == "-" else seconds


# ---- methods

TIME: Final = Parameter("time.Time", lambda value: isinstance(value, Time))
_DURATION: Final = Parameter("time.Duration", lambda value: isinstance(value, Duration), "int")
_ZONE: Final = Parameter("*time.Location", lambda value: isinstance(value, Zone), nullable=True)


def _in(moment: Time, zone: Zone | None) -> Time:
    if zone is None:
        raise Fault("no time zone, expected one")
    return Time(moment.nanoseconds, zone)


def _add_date(moment: Time, years: int, months: int, days: int) -> Time:
    now = moment.civil()
    if max(abs(years), abs(months), abs(days)) > 10**9:
        raise Fault("a date beyond all calendars, expected fewer years, months or days")
    before = _days_before(now.year + years, now.month + months, now.day + days)
    wall = before * _DAY + now.hour * 3600 + now.minute * 60 + now.second
    # The offset of the day that is reached, which may have another summer time.
    offset = moment.zone.at(wall - now.offset)[0]
    offset = moment.zone.at(wall - offset)[0]
    return Time((wall - offset) * SECOND + now.nanosecond, moment.zone)


def _step(moment: Time, to: int, *, half: bool) -> Time:
    if to <= 0:
        return moment
    left = (moment.nanoseconds - ZERO_SECONDS * SECOND) % to
    up = to if half and left + left >= to else 0
    return Time(moment.nanoseconds - left + up, moment.zone)


def _methods(table: Mapping[str, tuple[Callable[..., Value], tuple[Parameter, ...]]]) -> dict[str, Function | str]:
    return {name: Function(name, call, parameters) for name, (call, parameters) in table.items()}


_NONE: Final[tuple[Parameter, ...]] = ()
Time.members = _methods(
    {
        "Add": (lambda self, span: Time(self.nanoseconds + span, self.zone), (_DURATION,)),
        "AddDate": (_add_date, (INT, INT, INT)),
        "After": (lambda self, other: self.nanoseconds > other.nanoseconds, (TIME,)),
        "Before": (lambda self, other: self.nanoseconds < other.nanoseconds, (TIME,)),
        "Compare": (
            lambda self, other: (self.nanoseconds > other.nanoseconds) - (self.nanoseconds < other.nanoseconds),
            (TIME,),
        ),
        "Day": (lambda self: self.civil().day, _NONE),
        "Equal": (lambda self, other: self.nanoseconds == other.nanoseconds, (TIME,)),
        "Format": (Time.format, (STRING,)),
        "GoString": (Time.source, _NONE),
        "Hour": (lambda self: self.civil().hour, _NONE),
        "In": (_in, (_ZONE,)),
        "IsZero": (lambda self: self.nanoseconds == ZERO.nanoseconds, _NONE),
        "Local": (lambda self: Time(self.nanoseconds, LOCAL_ZONE), _NONE),
        "Location": (lambda self: self.zone, _NONE),
        "Minute": (lambda self: self.civil().minute, _NONE),
        "Month": (lambda self: Month(self.civil().month), _NONE),
        "Nanosecond": (lambda self: self.nanoseconds % SECOND, _NONE),
        "Round": (lambda self, span: _step(self, span, half=True), (_DURATION,)),
        "Second": (lambda self: self.civil().second, _NONE),
        "String": (Time.go_string, _NONE),
        "Sub": (lambda self, other: _bounded(self.nanoseconds - other.nanoseconds), (TIME,)),
        "Truncate": (lambda self, span: _step(self, span, half=False), (_DURATION,)),
        "UTC": (lambda self: Time(self.nanoseconds, UTC_ZONE), _NONE),
        "Unix": (lambda self: Int64(self.unix), _NONE),
        "UnixMicro": (lambda self: Int64(self.nanoseconds // 1000), _NONE),
        "UnixMilli": (lambda self: Int64(self.nanoseconds // 1_000_000), _NONE),
        "UnixNano": (lambda self: Int64((self.nanoseconds + 2**63) % 2**64 - 2**63), _NONE),
        "Weekday": (lambda self: Weekday(self.civil().weekday), _NONE),
        "Year": (lambda self: self.civil().year, _NONE),
        "YearDay": (lambda self: self.civil().yearday, _NONE),
    }
) | {
    name: Function(name, lambda self: None, results=count)
    for name, count in (("Clock", 3), ("Date", 3), ("ISOWeek", 2), ("Zone", 2), ("ZoneBounds", 2))
}
Duration.members = _methods(
    {
        "Abs": (lambda self: _bounded(abs(self)), _NONE),
        "Hours": (lambda self: self / (3600 * SECOND), _NONE),
        "Microseconds": (lambda self: Int64(int(self.truncated(1000)) // 1000), _NONE),
        "Milliseconds": (lambda self: Int64(int(self.truncated(1_000_000)) // 1_000_000), _NONE),
        "Minutes": (lambda self: self / (60 * SECOND), _NONE),
        "Nanoseconds": (Int64, _NONE),
        "Round": (Duration.rounded, (_DURATION,)),
        "Seconds": (lambda self: self / SECOND, _NONE),
        "String": (Duration.go_string, _NONE),
        "Truncate": (Duration.truncated, (_DURATION,)),
    }
)
Zone.members = _methods({"String": (Zone.go_string, _NONE)})
