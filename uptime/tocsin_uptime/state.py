"""When a check is up or down: pure thresholds over its results, so that one lost packet wakes nobody.

    unknown/up/degraded --(confirm.failures bad results in a row)--> down
    down --(confirm.recover good results in a row)--> up or degraded
    unknown/up/degraded --(one good result)--> up or degraded

A result `unknown` (the prober was late, or failed itself) counts neither way; it turns up into unknown, never into
down, and leaves down as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from tocsin_uptime.result import Result, State


@dataclass(frozen=True, slots=True)
class Confirm:
    """How sure to be: `failures` bad results in a row to go down, `recover` good ones to come back.

    While undecided the check is probed again every `every` seconds instead of every interval.
    """

    failures: int = 3
    every: float = 5.0
    recover: int = 2


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a check stands; all times are Unix seconds.

    Attributes:
        since: start of the state; for down, the first failure of the row that led to it.
        failures: bad results in a row, counted up to the threshold.
        successes: good results in a row while down.
        row_began: the first result of the row that is being counted.
    """

    state: State
    since: float
    failures: int = 0
    successes: int = 0
    row_began: float | None = None


class Change(StrEnum):
    """What is worth telling a person."""

    WENT_DOWN = "went down"
    RECOVERED = "recovered"


@dataclass(frozen=True, slots=True)
class Event:
    """A change that was confirmed: the outage began at `since`; a recovery ended it at `until`."""

    change: Change
    since: float
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What a result led to: the new standing, an event if there is one, and whether to look again soon."""

    standing: Standing
    event: Event | None
    recheck: bool


def step(standing: Standing, result: Result, confirm: Confirm) -> Step:
    """Return where the check stands after `result`."""
    if result.verdict is State.UNKNOWN:
        return Step(_blind(standing, result), None, recheck=False)
    if result.verdict is State.DOWN:
        return _bad(standing, result, confirm)
    return _good(standing, result, confirm)


def after_a_break(standing: Standing) -> Standing:
    """Return `standing` without its row: results from before a long break are not in a row with those after it."""
    return replace(standing, failures=0, successes=0, row_began=None)


def _blind(standing: Standing, result: Result) -> Standing:
    if standing.state in {State.DOWN, State.UNKNOWN}:
        return standing
    return replace(standing, state=State.UNKNOWN, since=result.at)


def _bad(standing: Standing, result: Result, confirm: Confirm) -> Step:
    if standing.state is State.DOWN:
        return Step(Standing(State.DOWN, standing.since), None, recheck=False)
    began = result.at if standing.row_began is None else standing.row_began
    failures = standing.failures + 1
    if failures < confirm.failures:
        return Step(replace(standing, failures=failures, row_began=began), None, recheck=True)
    return Step(Standing(State.DOWN, began), Event(Change.WENT_DOWN, began), recheck=False)


def _good(standing: Standing, result: Result, confirm: Confirm) -> Step:
    if standing.state is not State.DOWN:
        since = standing.since if standing.state is result.verdict else result.at
        return Step(Standing(result.verdict, since), None, recheck=False)
    began = result.at if standing.row_began is None else standing.row_began
    successes = standing.successes + 1
    if successes < confirm.recover:
        return Step(replace(standing, successes=successes, row_began=began), None, recheck=True)
    event = Event(Change.RECOVERED, standing.since, until=began)
    return Step(Standing(result.verdict, began), event, recheck=False)
