"""The schedule: spread, prompt for newcomers, free of drift, never the same check twice at once."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_uptime.schedule import Due, Schedule, fraction, next_steady

_NOW = 1_763_856_000.0
_names = st.text(min_size=1, max_size=20)
_intervals = st.integers(1, 3600).map(float)
_instants = st.floats(0, 4e9)


def _drain(schedule: Schedule, start: float, seconds: float) -> list[Due]:
    """Run every check at once when it is due, for a while."""
    found = []
    while (at := schedule.next_due) is not None and at < start + seconds:
        for due in schedule.due(at):
            found.append(due)
            schedule.again(due.name, at)
    return found


@given(_names, _intervals, _instants)
def test_the_next_instant_is_within_one_interval_and_on_the_phase(name: str, interval: float, after: float) -> None:
    """Instants are k * interval + phase: strictly later than asked for, at most one interval away."""
    at = next_steady(name, interval, after)
    assert after < at <= after + interval + 1e-3
    turns = (at - fraction(name) * interval) / interval
    assert math.isclose(turns, round(turns), abs_tol=1e-3)


@given(_names, _intervals, _instants)
def test_a_thousand_turns_do_not_drift(name: str, interval: float, start: float) -> None:
    """A check that always runs late by a part of its interval keeps its phase."""
    at = first = next_steady(name, interval, start)
    for _ in range(1000):
        at = next_steady(name, interval, at + 0.3 * interval)
    assert at == pytest.approx(first + 1000 * interval, abs=1e-3)


@given(st.sets(_names, min_size=1, max_size=50), _intervals)
def test_the_first_round_is_done_within_two_seconds_or_an_interval(names: set[str], interval: float) -> None:
    """A few newcomers are probed promptly, every one of them."""
    schedule = Schedule()
    schedule.replace(dict.fromkeys(names, interval), _NOW)
    first = schedule.due(_NOW + min(interval, 2.0))
    assert {due.name for due in first} == names
    assert all(due.planned >= _NOW for due in first)


def test_ten_thousand_newcomers_do_not_come_at_once() -> None:
    """A crowd is started over its whole interval, evenly to a few percent."""
    schedule = Schedule()
    schedule.replace({f"check {index}": 10.0 for index in range(10_000)}, _NOW)
    found = _drain(schedule, _NOW, 60.0)
    for second in range(60):
        count = sum(1 for due in found if second <= due.planned - _NOW < second + 1)
        # Round two begins on the steady phase while round one is still under way.
        assert 800 <= count <= (2200 if second < 10 else 1200)


@given(st.sets(_names, min_size=1, max_size=20), _intervals)
def test_every_check_runs_once_an_interval(names: set[str], interval: float) -> None:
    """After the first round gaps between probes of a check are exactly its interval."""
    schedule = Schedule()
    schedule.replace(dict.fromkeys(names, interval), _NOW)
    found = _drain(schedule, _NOW, 5 * interval)
    for name in names:
        instants = [due.planned for due in found if due.name == name]
        gaps = [later - earlier for earlier, later in itertools.pairwise(instants[1:])]
        assert gaps
        assert all(gap == pytest.approx(interval, abs=1e-3) for gap in gaps)
        assert instants[1] - instants[0] <= interval + 1e-3


def test_a_check_in_progress_is_not_due() -> None:
    """What was given out comes back only after `again`."""
    schedule = Schedule()
    schedule.replace({"shop": 1.0}, _NOW)
    assert len(schedule.due(_NOW + 1)) == 1
    assert schedule.due(_NOW + 1000) == []
    assert schedule.next_due is None
    schedule.again("shop", _NOW + 1000)
    assert schedule.next_due is not None


def test_a_late_check_skips_the_instants_it_missed() -> None:
    """After an hour of standstill there is one probe, not 120."""
    schedule = Schedule()
    schedule.replace({"shop": 30.0}, _NOW)
    schedule.due(_NOW + 2)
    schedule.again("shop", _NOW + 3600)
    assert len(_drain(schedule, _NOW + 3600, 30.0)) == 1


def test_a_recheck_comes_when_asked_and_leaves_the_phase_alone() -> None:
    """A quick re-check stands between two steady instants."""
    schedule = Schedule()
    schedule.replace({"shop": 30.0}, _NOW)
    schedule.due(_NOW + 2)
    schedule.again("shop", _NOW + 2, not_before=_NOW + 7)
    assert [due.planned for due in schedule.due(_NOW + 10)] == [_NOW + 7]
    schedule.again("shop", _NOW + 8)
    assert schedule.next_due == next_steady("shop", 30.0, _NOW + 8)


def test_a_reload_keeps_the_instants_of_unchanged_checks() -> None:
    """Newcomers come soon, the removed are gone, a new interval is taken up, the rest does not move."""
    schedule = Schedule()
    schedule.replace({"stays": 600.0, "goes": 600.0, "quicker": 600.0}, _NOW)
    for due in schedule.due(_NOW + 2):
        schedule.again(due.name, _NOW + 2)
    planned = next_steady("stays", 600.0, _NOW + 2)
    schedule.replace({"stays": 600.0, "quicker": 10.0, "comes": 600.0}, _NOW + 3)
    found = {due.name: due.planned for due in reversed(schedule.due(_NOW + 700))}
    assert found["stays"] == planned
    assert "goes" not in found
    assert _NOW + 3 <= found["quicker"] <= _NOW + 13
    assert _NOW + 3 <= found["comes"] <= _NOW + 5


def test_a_removed_check_is_not_planned_again() -> None:
    """A probe that was running when its check was removed plans nothing."""
    schedule = Schedule()
    schedule.replace({"shop": 1.0}, _NOW)
    schedule.due(_NOW + 1)
    schedule.replace({}, _NOW + 1)
    schedule.again("shop", _NOW + 1)
    assert schedule.next_due is None


def test_a_clock_that_was_set_back_does_not_stop_the_probing() -> None:
    """After `restart` every waiting check is due within one interval of the new time."""
    schedule = Schedule()
    schedule.replace({f"check {index}": 30.0 for index in range(20)}, _NOW)
    schedule.restart(_NOW - 3600)
    assert len(schedule.due(_NOW - 3600 + 30)) == 20
