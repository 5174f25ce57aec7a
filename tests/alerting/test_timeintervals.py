"""Times that recur: what is inside, when that changes, and how it is written."""

from __future__ import annotations

import math
import zoneinfo
from datetime import UTC, datetime

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin_alerting.timeintervals import Period, Range, TimeInterval, TimeIntervalSection, read
from tocsin_service.settings import Document, SettingsError

_ZONES = ("UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Australia/Lord_Howe", "Asia/Kolkata")


def _interval(periods: str) -> TimeInterval:
    """Read periods as they stand in a file, such as `[{weekdays: [monday]}]`."""
    document = Document.parse(f"name: n\ntime_intervals: {periods}")
    return document.read(TimeIntervalSection).interval()


def _at(text: str, location: str = "UTC") -> float:
    """Return the instant of a wall-clock time such as `2026-11-23 09:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(location)).timestamp()


def _problem(periods: str) -> str:
    with pytest.raises(SettingsError) as caught:
        _interval(periods)
    (problem,) = caught.value.problems
    return str(problem)


# --- what is inside ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("periods", "inside", "outside"),
    [
        ("[{times: [{start_time: 09:00, end_time: '17:00'}]}]", ["09:00", "16:59"], ["08:59", "17:00"]),
        ("[{times: [{start_time: '22:00', end_time: '24:00'}]}]", ["22:00", "23:59"], ["21:59", "00:00"]),
        (
            "[{times: [{start_time: 00:00, end_time: 01:00}, {start_time: 02:00, end_time: 03:00}]}]",
            ["00:30", "02:30"],
            ["01:30", "03:00"],
        ),
        (
            "[{times: [{start_time: 00:00, end_time: 01:00}]}, {times: [{start_time: 02:00, end_time: 03:00}]}]",
            ["00:30", "02:30"],
            ["01:30", "03:00"],
        ),
    ],
)
def test_times_include_their_start_and_not_their_end(periods: str, inside: list[str], outside: list[str]) -> None:
    """And any of several, in one period or in two."""
    interval = _interval(periods)
    assert [interval.contains(_at(f"2026-11-23 {text}")) for text in inside] == [True] * len(inside)
    assert [interval.contains(_at(f"2026-11-23 {text}")) for text in outside] == [False] * len(outside)


@pytest.mark.parametrize(
    ("field", "inside", "outside"),
    [
        ("weekdays: [monday]", ["2026-11-23"], ["2026-11-22", "2026-11-24"]),
        ("weekdays: ['Monday:FRIDAY']", ["2026-11-23", "2026-11-27"], ["2026-11-22", "2026-11-28"]),
        ("weekdays: ['saturday', 'sunday']", ["2026-11-28", "2026-11-29"], ["2026-11-30"]),
        ("weekdays: ['sunday:saturday']", ["2026-11-28", "2026-11-29", "2026-11-30"], []),
        ("days_of_month: [1, '10:12']", ["2026-11-01", "2026-11-10", "2026-11-12"], ["2026-11-02", "2026-11-13"]),
        ("days_of_month: [-1]", ["2026-11-30", "2026-02-28", "2028-02-29"], ["2026-11-29", "2028-02-28"]),
        ("days_of_month: ['-3:-1']", ["2026-02-26", "2026-01-31"], ["2026-02-25", "2026-01-28"]),
        ("days_of_month: ['1:-1']", ["2026-02-01", "2026-02-28", "2026-01-31"], []),
        ("days_of_month: ['25:-2']", ["2026-02-27", "2026-01-30"], ["2026-02-28", "2026-01-31", "2026-01-24"]),
        # A start beyond the end of the month never matches; an end beyond it is the end.
        ("days_of_month: [31]", ["2026-01-31"], ["2026-02-28", "2026-11-30"]),
        ("days_of_month: ['30:31']", ["2026-11-30", "2026-01-31"], ["2026-02-28"]),
        ("days_of_month: ['-31:-28']", ["2026-02-01", "2026-01-01", "2026-01-04"], ["2026-02-02", "2026-01-05"]),
        ("months: [january, '3:5', 'November:12']", ["2026-01-31", "2026-04-01", "2026-12-01"], ["2026-02-01"]),
        ("years: [2024, '2026:2027']", ["2024-06-01", "2026-01-01", "2027-12-31"], ["2025-06-01", "2028-01-01"]),
        ("months: [2], days_of_month: [29], years: [2028]", ["2028-02-29"], ["2028-01-29", "2028-02-28"]),
        ("", ["2026-01-01"], []),
        ("weekdays: null", ["2026-01-01"], []),
        ("weekdays: []", [], ["2026-01-01"]),
    ],
)
def test_dates(field: str, inside: list[str], outside: list[str]) -> None:
    """Fields are ANDed, items of a field ORed; an absent field always holds, a list of nothing never."""
    interval = _interval("[{" + field + "}]")
    for day in (*inside, *outside):
        for clock in ("00:00:00", "23:59:59"):
            assert interval.contains(_at(f"{day} {clock}")) is (day in inside), (day, clock)


def test_an_interval_without_periods_holds_never_and_an_empty_period_always() -> None:
    """As in Alertmanager."""
    assert not _interval("[]").contains(_at("2026-01-01"))
    assert not _interval("null").contains(_at("2026-01-01"))
    assert _interval("[{}]").contains(_at("2026-01-01"))
    assert _interval("[null]").contains(_at("2026-01-01"))


def test_a_fraction_of_a_second_is_not_rounded_into_the_next_minute() -> None:
    """16:59:59.9999999 is inside of what ends at 17:00."""
    interval = _interval("[{times: [{start_time: 09:00, end_time: '17:00'}]}]")
    assert interval.contains(math.nextafter(_at("2026-11-23 17:00"), 0))


# --- zones -------------------------------------------------------------------------------------------------------


def test_wall_clocks_are_those_of_the_location() -> None:
    """09:00 in Berlin is 08:00 UTC in winter and 07:00 UTC in summer."""
    interval = _interval("[{times: [{start_time: 09:00, end_time: '10:00'}], location: Europe/Berlin}]")
    assert interval.contains(_at("2026-01-15 08:30"))
    assert not interval.contains(_at("2026-01-15 07:30"))
    assert interval.contains(_at("2026-07-15 07:30"))
    assert not interval.contains(_at("2026-07-15 08:30"))


def test_the_day_is_that_of_the_location_too() -> None:
    """Late on Sunday in New York it is Monday in UTC."""
    interval = _interval("[{weekdays: [sunday], location: America/New_York}]")
    assert interval.contains(_at("2026-11-23 04:30"))
    assert not interval.contains(_at("2026-11-22 04:30"))


def test_local_is_the_zone_of_this_machine() -> None:
    """Whatever it is."""
    now = _at("2026-07-15 12:34")
    local = datetime.fromtimestamp(now).astimezone()
    clock = f"{local.hour:02}:{local.minute:02}"
    interval = _interval(f"[{{times: [{{start_time: '{clock}', end_time: '24:00'}}], location: Local}}]")
    assert interval.contains(now)
    assert not interval.contains(now - 60) or clock == "00:00"
    change = interval.next_change(now)
    assert change is not None
    assert datetime.fromtimestamp(change).strftime("%H:%M") == "00:00"


def test_an_hour_that_comes_twice_is_inside_twice() -> None:
    """On 25 October 2026 Berlin has 02:00 to 03:00 twice; a window there lasts two hours, with a gap in between."""
    interval = _interval("[{times: [{start_time: 02:15, end_time: 02:45}], location: Europe/Berlin}]")
    now, changes = _at("2026-10-25 00:00"), list[str]()
    for _ in range(4):
        change = interval.next_change(now)
        assert change is not None
        changes.append(datetime.fromtimestamp(change, UTC).strftime("%H:%M"))
        now = change
    assert changes == ["00:15", "00:45", "01:15", "01:45"]


def test_an_hour_that_is_skipped_is_not_waited_for() -> None:
    """On 29 March 2026 Berlin jumps from 02:00 to 03:00: a window across it opens after the jump."""
    interval = _interval("[{times: [{start_time: 02:30, end_time: 04:00}], location: Europe/Berlin}]")
    opens = interval.next_change(_at("2026-03-29 00:00"))
    assert opens == _at("2026-03-29 01:00")
    assert interval.next_change(opens) == _at("2026-03-29 02:00")


# --- when it changes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("periods", "now", "change"),
    [
        ("[{times: [{start_time: 09:00, end_time: '17:00'}]}]", "2026-11-23 08:00", "2026-11-23 09:00"),
        ("[{times: [{start_time: 09:00, end_time: '17:00'}]}]", "2026-11-23 09:00", "2026-11-23 17:00"),
        ("[{weekdays: ['monday:friday']}]", "2026-11-27 12:00", "2026-11-28 00:00"),
        (
            "[{times: [{start_time: 00:00, end_time: '24:00'}], weekdays: [saturday]}, {weekdays: [sunday]}]",
            "2026-11-28 12:00",
            "2026-11-30 00:00",
        ),
        ("[{months: [2], days_of_month: [29]}]", "2028-03-01 00:00", "2032-02-29 00:00"),
        ("[{years: [2030]}]", "2026-01-01 00:00", "2030-01-01 00:00"),
        ("[{weekdays: [monday], location: Asia/Kolkata}]", "2026-11-23 00:00", "2026-11-23 18:30"),
    ],
)
def test_the_next_change_is_found(periods: str, now: str, change: str) -> None:
    """Across days, months and years, and across periods that join up."""
    assert _interval(periods).next_change(_at(now)) == _at(change)


@pytest.mark.parametrize("periods", ["[]", "[{}]", "[{years: [2020]}]", "[{times: []}]", "[{weekdays: [sunday]}, {}]"])
def test_what_never_changes_has_no_next_change(periods: str) -> None:
    """The search is bounded."""
    assert _interval(periods).next_change(_at("2026-11-23 00:00")) is None


def _ranges(low: int, high: int) -> st.SearchStrategy[Range]:
    pair = st.tuples(st.integers(low, high), st.integers(low, high))
    return pair.map(lambda found: Range(min(found), max(found)))


def _some(items: st.SearchStrategy[Range]) -> st.SearchStrategy[tuple[Range, ...] | None]:
    return st.none() | st.lists(items, max_size=3).map(tuple)


_DAYS = _ranges(1, 31) | _ranges(-31, -1) | st.builds(Range, st.integers(1, 14), st.integers(-14, -1))
_PERIODS = st.builds(
    Period,
    times=_some(_ranges(0, 24 * 60).filter(lambda found: found.first < found.last)),
    weekdays=_some(_ranges(0, 6)),
    days_of_month=_some(_DAYS),
    months=_some(_ranges(1, 12)),
    years=_some(_ranges(2020, 2030)),
    location=st.sampled_from((*_ZONES, "", "Local")),
)
_INTERVALS = st.builds(TimeInterval, st.text("abc", min_size=1), st.lists(_PERIODS, max_size=3).map(tuple))


@settings(deadline=None)  # machines are busy at times
@given(_INTERVALS)
def test_what_is_written_is_read_back(interval: TimeInterval) -> None:
    """As a mapping, and through YAML with positions as the configuration is read."""
    assert read(interval.plain()) == interval
    text = yaml.safe_dump(interval.plain())
    assert Document.parse(text).read(TimeIntervalSection).interval() == interval


_MOMENTS = st.sampled_from(
    [f"2026-{day}" for day in ("03-08", "03-29", "04-05", "10-04", "10-25", "11-01", "02-28", "12-31")]
)


@settings(max_examples=60, deadline=None)
@given(_INTERVALS, _MOMENTS, st.integers(0, 2 * 24 * 60))
def test_nothing_changes_before_the_next_change(interval: TimeInterval, day: str, minutes: int) -> None:
    """Compared minute by minute, also on days when clocks are changed somewhere."""
    now = _at(day) - 86_400 + minutes * 60
    change, inside = interval.next_change(now), interval.contains(now)
    seen = next((now + 60 * i for i in range(1, 2 * 24 * 60) if interval.contains(now + 60 * i) != inside), None)
    if seen is None:
        assert change is None or change > now + 60 * (2 * 24 * 60 - 1)
    else:
        assert change == seen


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("times: [{start_time: '9:00', end_time: '10:00'}]", '"9:00" is not a time of day; expected HH:MM'),
        ("times: [{start_time: '23:00', end_time: '24:01'}]", '"24:01" is not a time of day'),
        ("times: [{start_time: '22:00', end_time: '06:00'}]", "22:00 to 06:00 ends before it starts; fix: across"),
        ("times: [{start_time: '22:00', end_time: '22:00'}]", "ends before it starts"),
        ("times: [{start_time: '22:00'}]", '"end_time" is missing'),
        ("weekdays: [mon]", '"mon" is not a day of the week; expected one of sunday'),
        ("weekdays: ['friday:monday']", '"friday:monday" ends before it starts; fix: weeks start on sunday'),
        ("weekdays: ['monday:tuesday:friday']", "is not a range; expected a day of the week, or two of them"),
        ("weekdays: [[]]", "this is not a range"),
        ("days_of_month: [0]", "there is no day 0 in a month; expected 1 to 31, or -1 to -31"),
        ("days_of_month: [32]", "there is no day 32"),
        ("days_of_month: [1.5]", "is not a range"),
        ("days_of_month: ['x']", '"x" is not a day of the month'),
        ("days_of_month: ['5:3']", '"5:3" ends before it starts'),
        ("days_of_month: ['-1:-5']", '"-1:-5" ends before it starts'),
        ("days_of_month: ['29:-3']", '"29:-3" ends before it starts'),
        ("days_of_month: ['-5:5']", "goes back to the start; fix: a range that starts from the end"),
        ("months: [jan]", '"jan" is not a month; expected a full name such as january, or 1 to 12'),
        ("months: [13]", '"13" is not a month'),
        ("months: ['november:february']", "ends before it starts; fix: write two ranges"),
        ("years: ['2026:2024']", "ends before it starts"),
        ("years: [next]", '"next" is not a year'),
        ("location: Mars/Olympus", 'unknown time zone "Mars/Olympus"; expected a name such as Europe/Berlin'),
        ("location: ../etc/passwd", "unknown time zone"),
        ("location: Europe", "unknown time zone"),
        ("location: 1", "is not a time zone"),
        ("weekday: [monday]", 'did you mean "weekdays"?'),
    ],
)
def test_mistakes_are_named_with_their_place(field: str, words: str) -> None:
    """The line and column, what was found, what was expected."""
    problem = _problem("\n  - {" + field + "}")
    assert words in problem
    assert problem.startswith("<config>:3:")


def test_an_interval_needs_a_name() -> None:
    """Routes refer to it."""
    with pytest.raises(SettingsError, match="name"):
        Document.parse("time_intervals: []").read(TimeIntervalSection)
    with pytest.raises(SettingsError, match="name"):
        Document.parse("name: ''").read(TimeIntervalSection)
