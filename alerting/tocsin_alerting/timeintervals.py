"""Named stretches of time that recur: when a route notifies, and when it keeps quiet. Pure.

A `TimeInterval` is a list of `Period`s, any of which may hold. The fields of a period must all hold; within a field
any item may. Wall-clock fields are those of the period's own zone, so that 09:00 stays 09:00 when clocks are changed.
"""

from __future__ import annotations

import calendar
import heapq
import math
import re
import zoneinfo
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Annotated, Any, Final

import pydantic

from tocsin_service.settings import Settings, flaw

HORIZON: Final = 3660
"""Days that are searched for the next change: enough for the next 29 February."""
_ONE_DAY: Final = timedelta(days=1)
_WEEKDAYS: Final = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_MONTHS: Final = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_CLOCK: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,6}")
_SHORTEST_MONTH: Final = 28


@dataclass(frozen=True, slots=True)
class Range:
    """Integers from `first` to `last`; of times (minutes of the day) `last` is the first that is not inside."""

    first: int
    last: int

    def __contains__(self, value: int) -> bool:
        return self.first <= value <= self.last


@dataclass(frozen=True, slots=True)
class Period:
    """Stretches of time that recur; a field that is None holds always, one without items never.

    Args:
        times: minutes of the day, ends not included.
        weekdays: 0 is Sunday.
        days_of_month: negative ones count from the month's end, -1 is its last day.
        location: as written: an IANA name, `UTC`, `Local`, or empty for UTC.
    """

    times: tuple[Range, ...] | None = None
    weekdays: tuple[Range, ...] | None = None
    days_of_month: tuple[Range, ...] | None = None
    months: tuple[Range, ...] | None = None
    years: tuple[Range, ...] | None = None
    location: str = ""

    def contains(self, now: float) -> bool:
        """Return whether `now` is inside."""
        # Whole seconds: datetime rounds fractions, and 16:59:59.9999999 is not yet 17:00.
        moment = datetime.fromtimestamp(math.floor(now), zone(self.location))
        if self.times is not None:
            minute = moment.hour * 60 + moment.minute
            if not any(item.first <= minute < item.last for item in self.times):
                return False
        return self._on(moment.date())

    def edges(self, after: float, *, days: int = HORIZON) -> Iterator[float]:
        """Yield, in order, all instants from about `after` on at which `contains` may change."""
        where = zone(self.location)
        day = datetime.fromtimestamp(math.floor(after), where).date() - _ONE_DAY
        minutes = sorted({minute for item in self.times or () for minute in (item.first, item.last)})
        before, waiting = self._on(day - _ONE_DAY), list[float]()
        for _ in range(days):
            on = self._on(day)
            if on != before:
                waiting += _instants(day, 0, where)
            if on and minutes:
                for minute in minutes:
                    waiting += _instants(day, minute, where)
                waiting += _clock_change(day, where)
            before, day = on, day + _ONE_DAY
            # Where clocks go back at midnight, a day's last instants come after the next one's first.
            bound = min(_instants(day, 0, where)) if waiting else 0.0
            heapq.heapify(waiting)
            while waiting and waiting[0] < bound:
                yield heapq.heappop(waiting)
        yield from sorted(waiting)

    def _on(self, day: date) -> bool:
        """Return whether every field but `times` holds on `day`."""
        length = calendar.monthrange(day.year, day.month)[1]
        return (
            _holds(self.years, day.year)
            and _holds(self.months, day.month)
            and _holds(self.weekdays, day.isoweekday() % 7)
            and (self.days_of_month is None or _holds([_from_start(r, length) for r in self.days_of_month], day.day))
        )

    def plain(self) -> dict[str, Any]:
        """Return it as it would be written in a file."""
        times = self.times and [{"start_time": _clock(r.first), "end_time": _clock(r.last)} for r in self.times]
        written: dict[str, Any] = {
            "times": None if times is None else list(times),
            "weekdays": _plain(self.weekdays, lambda day: _WEEKDAYS[day]),
            "days_of_month": _plain(self.days_of_month, str),
            "months": _plain(self.months, str),
            "years": _plain(self.years, str),
            "location": self.location or None,
        }
        return {key: value for key, value in written.items() if value is not None}


@dataclass(frozen=True, slots=True)
class TimeInterval:
    """A name for periods."""

    name: str
    periods: tuple[Period, ...] = ()

    def contains(self, now: float) -> bool:
        """Return whether `now` is inside any of the periods."""
        return any(period.contains(now) for period in self.periods)

    def next_change(self, now: float, *, days: int = HORIZON) -> float | None:
        """Return the first instant after `now` at which `contains` changes; None if it does not for so many days.

        A day that has nothing to find costs some 0.1 ms, and an interval that is always on has nothing to find.
        """
        inside = self.contains(now)
        edges = heapq.merge(*(period.edges(now, days=days) for period in self.periods))
        return next((edge for edge in edges if edge > now and self.contains(edge) != inside), None)

    def plain(self) -> dict[str, Any]:
        """Return it as it would be written in a file."""
        return {"name": self.name, "time_intervals": [period.plain() for period in self.periods]}


def zone(location: str) -> tzinfo | None:
    """Return the zone of a `location`; None is that of this machine, as it is for `datetime`.

    Raises:
        ValueError: nothing is known of it.
    """
    if location in {"", "UTC"}:
        return UTC
    if location == "Local":
        return None
    try:
        return zoneinfo.ZoneInfo(location)  # keeps those it has read
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f'unknown time zone "{location}"') from error


# --- the calendar ------------------------------------------------------------------------------------------------


def _holds(ranges: Iterable[Range] | None, value: int) -> bool:
    return ranges is None or any(value in item for item in ranges)


def _from_start(days: Range, length: int) -> Range:
    """Return days of a month of `length` days, counted from its start."""
    first, last = (day if day > 0 else length + day + 1 for day in (days.first, days.last))
    return Range(first, last)


def _instants(day: date, minute: int, where: tzinfo | None) -> list[float]:
    """Return when clocks show `minute` on `day`: twice where they are put back, about then where they skip it."""
    wall = datetime(day.year, day.month, day.day, tzinfo=where) + timedelta(minutes=minute)
    return sorted({wall.replace(fold=fold).timestamp() for fold in (0, 1)})


def _clock_change(day: date, where: tzinfo | None) -> list[float]:
    """Return the instant at which clocks are changed on `day`, if they are."""
    low, high = min(_instants(day, 0, where)), max(_instants(day, 24 * 60, where))
    before = _offset(low, where)
    if before == _offset(high, where):
        return []
    while high - low > 1:
        middle = math.floor((low + high) / 2)
        low, high = (middle, high) if _offset(middle, where) == before else (low, middle)
    return [high]


def _offset(now: float, where: tzinfo | None) -> timedelta | None:
    return datetime.fromtimestamp(now, UTC).astimezone(where).utcoffset()


# --- as it is written --------------------------------------------------------------------------------------------


def _plain(ranges: Iterable[Range] | None, name: Callable[[int], str]) -> list[str] | None:
    if ranges is None:
        return None
    return [name(r.first) if r.first == r.last else f"{name(r.first)}:{name(r.last)}" for r in ranges]


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _minute(value: object) -> int:
    if value == "24:00":
        return 24 * 60
    match = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise flaw(f"{_shown(value)} is not a time of day", expected="HH:MM from 00:00 to 24:00, such as 09:30")
    return int(match[1]) * 60 + int(match[2])


def _range(value: object, read: Callable[[str], int], what: str) -> Range:
    """Read `a` or `a:b`; a number stands for its digits."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or text.count(":") > 1:
        raise flaw(f"{_shown(value)} is not a range", expected=f"{what}, or two of them with a colon between")
    first, colon, last = text.partition(":")
    begin = read(first)
    return Range(begin, read(last) if colon else begin)


def _ordered(item: Range, value: object, fix: str) -> Range:
    if item.last < item.first:
        raise flaw(f"{_shown(value)} ends before it starts", fix=fix)
    return item


def _weekday(value: object) -> Range:
    def read(text: str) -> int:
        if text.lower() not in _WEEKDAYS:
            raise flaw(f'"{text}" is not a day of the week', expected="one of " + ", ".join(_WEEKDAYS))
        return _WEEKDAYS.index(text.lower())

    found = _range(value, read, "a day of the week")
    return _ordered(found, value, "weeks start on sunday here: write two ranges, as in [friday:saturday, sunday]")


def _month(value: object) -> Range:
    def read(text: str) -> int:
        if text.lower() in _MONTHS:
            return _MONTHS.index(text.lower()) + 1
        number = int(text) if _INTEGER.fullmatch(text) else 0
        if not 1 <= number <= 12:
            raise flaw(f'"{text}" is not a month', expected="a full name such as january, or 1 to 12")
        return number

    found = _range(value, read, "a month")
    return _ordered(found, value, "write two ranges, as in ['november:december', 'january:february']")


def _year(value: object) -> Range:
    found = _range(value, lambda text: _integer(text, "a year", "such as 2026"), "a year")
    return _ordered(found, value, "swap them")


def _day(value: object) -> Range:
    def read(text: str) -> int:
        number = _integer(text, "a day of the month", "1 to 31, or -1 to -31 counted from the end")
        if not 1 <= abs(number) <= 31:
            raise flaw(f"there is no day {number} in a month", expected="1 to 31, or -1 to -31 counted from the end")
        return number

    found = _range(value, read, "a day of the month")
    if found.first < 0 < found.last:
        raise flaw(f"{_shown(value)} goes back to the start", fix="a range that starts from the end must end there too")
    # Of 5:-1 it depends on the month; as in Alertmanager it has to be a range in every one.
    counted = _from_start(found, _SHORTEST_MONTH) if found.last < 0 < found.first else found
    _ordered(counted, value, "swap them, or write two ranges")
    return found


def _integer(text: str, what: str, expected: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise flaw(f'"{text}" is not {what}', expected=expected)
    return int(text)


def _location(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise flaw(f"{_shown(value)} is not a time zone", expected="a name such as Europe/Berlin, UTC or Local")
    try:
        zone(value)
    except ValueError as error:
        fix = "mind capitals; a machine without any zones needs its tzdata package"
        raise flaw(str(error), expected="a name such as Europe/Berlin, UTC or Local", fix=fix) from error
    return value


def _shown(value: object) -> str:
    return f'"{value}"' if isinstance(value, str | int) else "this"


def _or_empty(value: object) -> object:
    return {} if value is None else value


Minute = Annotated[int, pydantic.PlainValidator(_minute)]
Weekdays = Annotated[Range, pydantic.PlainValidator(_weekday)]
Days = Annotated[Range, pydantic.PlainValidator(_day)]
Months = Annotated[Range, pydantic.PlainValidator(_month)]
Years = Annotated[Range, pydantic.PlainValidator(_year)]


class TimeRangeSection(Settings):
    """An item of `times`."""

    start_time: Minute
    end_time: Minute

    @pydantic.model_validator(mode="after")
    def _check(self) -> TimeRangeSection:
        if self.end_time <= self.start_time:
            what = f"{_clock(self.start_time)} to {_clock(self.end_time)} ends before it starts"
            raise flaw(what, fix="across midnight, write two: one up to 24:00 and one from 00:00")
        return self


class PeriodSection(Settings):
    """An item of an interval's `time_intervals`."""

    times: list[TimeRangeSection] | None = None
    weekdays: list[Weekdays] | None = None
    days_of_month: list[Days] | None = None
    months: list[Months] | None = None
    years: list[Years] | None = None
    location: Annotated[str, pydantic.PlainValidator(_location)] = ""

    def period(self) -> Period:
        """Return what it says."""
        return Period(
            times=None if self.times is None else tuple(Range(item.start_time, item.end_time) for item in self.times),
            weekdays=_tuple(self.weekdays),
            days_of_month=_tuple(self.days_of_month),
            months=_tuple(self.months),
            years=_tuple(self.years),
            location=self.location,
        )


class TimeIntervalSection(Settings):
    """An item of `time_intervals`, and of its older twin `mute_time_intervals`, at the top of the file."""

    name: str = pydantic.Field(min_length=1)
    time_intervals: list[Annotated[PeriodSection, pydantic.BeforeValidator(_or_empty)]] | None = None

    def interval(self) -> TimeInterval:
        """Return what it says."""
        return TimeInterval(self.name, tuple(section.period() for section in self.time_intervals or ()))


def _tuple(ranges: list[Range] | None) -> tuple[Range, ...] | None:
    return None if ranges is None else tuple(ranges)


def read(section: Mapping[str, object]) -> TimeInterval:
    """Return the interval that `plain` wrote.

    Raises:
        pydantic.ValidationError: it is none.
    """
    return TimeIntervalSection.model_validate(section).interval()
