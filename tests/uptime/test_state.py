"""Thresholds: tables of results and where they lead.

u = up, g = degraded, d = down, ? = unknown (the prober was late or failed itself).
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_uptime.result import Reason, Result, State
from tocsin_uptime.state import Change, Confirm, Event, Standing, Step, step

_VERDICTS = {"u": State.UP, "g": State.DEGRADED, "d": State.DOWN, "?": State.UNKNOWN}
_CONFIRM = Confirm(failures=3, every=5.0, recover=2)


def _result(letter: str, at: float) -> Result:
    return Result(at=at, verdict=_VERDICTS[letter], reason=Reason.OK, sentence="", duration=0.0)


def _walk(letters: str, confirm: Confirm = _CONFIRM) -> list[Step]:
    """Feed results at the seconds 1, 2, 3, ... to a check that is new at 0."""
    standing = Standing(State.UNKNOWN, 0.0)
    steps = []
    for at, letter in enumerate(letters, start=1):
        steps.append(step(standing, _result(letter, float(at)), confirm))
        standing = steps[-1].standing
    return steps


@pytest.mark.parametrize(
    ("letters", "state", "since"),
    [
        ("", None, None),
        ("u", State.UP, 1),
        ("uu", State.UP, 1),
        ("g", State.DEGRADED, 1),
        ("ug", State.DEGRADED, 2),
        ("ugu", State.UP, 3),
        ("d", State.UNKNOWN, 0),
        ("dd", State.UNKNOWN, 0),
        ("ddd", State.DOWN, 1),
        ("udd", State.UP, 1),
        ("uddd", State.DOWN, 2),
        ("uddudd", State.UP, 1),
        ("uddddd", State.DOWN, 2),
        ("udddu", State.DOWN, 2),
        ("udddud", State.DOWN, 2),
        ("udddudu", State.DOWN, 2),
        ("uddduu", State.UP, 5),
        ("udddgg", State.DEGRADED, 5),
        ("udddug", State.DEGRADED, 5),
        ("u?", State.UNKNOWN, 2),
        ("u??", State.UNKNOWN, 2),
        ("u?u", State.UP, 3),
        ("ddd?", State.DOWN, 1),
        ("ud?dd", State.DOWN, 2),
        ("dddu?u", State.UP, 4),
    ],
)
def test_results_lead_to_a_state(letters: str, state: State | None, since: float | None) -> None:
    """Three bad in a row go down, two good come back; `since` is the first of the row; unknown counts neither way."""
    steps = _walk(letters)
    if steps:
        assert (steps[-1].standing.state, steps[-1].standing.since) == (state, since)


def test_going_down_and_recovering_are_told_once_with_their_instants() -> None:
    """An outage is told from its first failure, its end from the first good result of the row that confirmed it."""
    events = [item.event for item in _walk("uddddduudd")]
    assert [event for event in events if event] == [
        Event(Change.WENT_DOWN, since=2.0),
        Event(Change.RECOVERED, since=2.0, until=7.0),
    ]
    assert events[3] is not None
    assert events[7] is not None


def test_an_undecided_check_is_looked_at_again_soon() -> None:
    """Re-checks are wanted while a row is being counted, and only then."""
    assert [item.recheck for item in _walk("ududdddduu")] == [
        False,
        True,
        False,
        True,
        True,
        False,
        False,
        False,
        True,
        False,
    ]


def test_thresholds_of_one_decide_at_once() -> None:
    """`failures: 1` and `recover: 1` mean no second look."""
    steps = _walk("ududu", Confirm(failures=1, every=5.0, recover=1))
    assert [item.standing.state for item in steps] == [State.UP, State.DOWN, State.UP, State.DOWN, State.UP]
    assert not any(item.recheck for item in steps)


@given(st.text("ugd?", max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_events_alternate_and_match_the_state(letters: str, failures: int, recover: int) -> None:
    """However results come: down is told before recovered, never twice, and the state agrees with the last event."""
    steps = _walk(letters, Confirm(failures=failures, every=1.0, recover=recover))
    down = False
    for item in steps:
        if item.event is not None:
            assert (item.event.change is Change.WENT_DOWN) is not down
            down = not down
        assert (item.standing.state is State.DOWN) is down


@given(st.text("ug?", max_size=60), st.integers(2, 5))
def test_no_number_of_unknown_results_makes_an_outage(letters: str, failures: int) -> None:
    """Only failures that were judged count."""
    assert all(item.event is None for item in _walk("d" + letters, Confirm(failures=failures)))
