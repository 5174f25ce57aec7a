"""When each check is probed next: a heap of instants, pure.

Each check has a steady phase inside its interval, taken from a hash of its name: checks spread out by themselves and
keep their instants over restarts and reloads. Instants are multiples of the interval on the Unix clock plus the
phase, so nothing drifts. A newcomer does not wait for its phase: its first probe comes within two seconds, or, when
hundreds come at once, within the time that takes at `NEWCOMERS_PER_SECOND`, and always within one interval.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

FIRST_ROUND: Final = 2.0
"""Seconds within which a few newcomers get their first probe."""
NEWCOMERS_PER_SECOND: Final = 200.0
"""How fast many newcomers are started."""


@dataclass(frozen=True, slots=True, order=True)
class Due:
    """A check whose planned instant (Unix seconds) has come."""

    planned: float
    name: str


class Schedule:
    """The planned instants of all checks.

    A check that was given out by `due` has no instant until `again` plans one: it cannot run twice at once.
    """

    def __init__(self) -> None:
        self._heap: list[Due] = []
        self._planned: dict[str, float | None] = {}
        self._intervals: dict[str, float] = {}

    def replace(self, intervals: Mapping[str, float], now: float) -> None:
        """Watch exactly these checks (name -> interval in seconds); those known with that interval keep their plan."""
        newcomers = [name for name in intervals if name not in self._intervals]
        changed = [name for name in intervals if name not in newcomers and self._intervals[name] != intervals[name]]
        for name in self._intervals.keys() - intervals.keys():
            del self._planned[name]
        self._intervals = dict(intervals)
        crowd = len(newcomers) / NEWCOMERS_PER_SECOND
        for name in newcomers:
            spread = min(intervals[name], max(FIRST_ROUND, crowd))
            self._plan(name, now + fraction(name) * spread)
        for name in changed:
            if self._planned[name] is not None:
                self._plan(name, next_steady(name, intervals[name], now))

    def due(self, now: float) -> list[Due]:
        """Take out and return the checks whose instant has come, oldest first."""
        found: list[Due] = []
        while self._heap and self._heap[0].planned <= now:
            item = heapq.heappop(self._heap)
            # An item that was replanned or removed since is stale.
            if self._planned.get(item.name) == item.planned:
                self._planned[item.name] = None
                found.append(item)
        return found

    def again(self, name: str, now: float, *, not_before: float | None = None) -> None:
        """Plan the next probe of a check that has been given out; a check that is no longer watched is passed over.

        Args:
            not_before: the instant of a quick re-check; None goes on with the steady phase.
        """
        if name not in self._intervals:
            return
        self._plan(name, next_steady(name, self._intervals[name], now) if not_before is None else max(now, not_before))

    def soon(self, name: str, now: float) -> None:
        """Probe a check at once unless it is running."""
        if self._planned.get(name) is not None:
            self._plan(name, now)

    def restart(self, now: float) -> None:
        """Plan every waiting check anew: the clock was set back, and old instants are far away."""
        waiting = [name for name, planned in self._planned.items() if planned is not None]
        self._heap = []
        for name in waiting:
            self._plan(name, next_steady(name, self._intervals[name], now))

    @property
    def next_due(self) -> float | None:
        """The next planned instant, or None when nothing waits."""
        while self._heap and self._planned.get(self._heap[0].name) != self._heap[0].planned:
            heapq.heappop(self._heap)
        return self._heap[0].planned if self._heap else None

    def _plan(self, name: str, at: float) -> None:
        self._planned[name] = at
        heapq.heappush(self._heap, Due(at, name))


def fraction(name: str) -> float:
    """Return the place of a check inside its interval, 0 <= x < 1; the same for ever."""
    digest = hashlib.blake2b(name.encode(), digest_size=6).digest()
    return int.from_bytes(digest) / (1 << 48)


def next_steady(name: str, interval: float, after: float) -> float:
    """Return the first instant of a check's steady phase that is later than `after`."""
    phase = fraction(name) * interval
    turn = math.floor((after - phase) / interval) + 1
    at = turn * interval + phase
    # The division may round down onto `after` itself.
    return at if at > after else (turn + 1) * interval + phase
