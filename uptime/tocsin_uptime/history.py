"""What is remembered of a check in memory: its last results for the API, and how many went well in 24 hours."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from tocsin_uptime.result import Result, State

RECENT: Final = 60
"""Results kept one by one."""
_HOUR = 3600
_DAY = 24 * _HOUR


class History:
    """The last `RECENT` results, oldest first, and counts by the hour."""

    def __init__(self) -> None:
        self.recent: deque[Result] = deque(maxlen=RECENT)
        self._hours: dict[int, tuple[int, int]] = {}

    @property
    def last(self) -> Result | None:
        """The newest result."""
        return self.recent[-1] if self.recent else None

    def add(self, result: Result) -> None:
        """Remember a result; an unknown one counts neither way."""
        self.recent.append(result)
        if result.verdict is State.UNKNOWN:
            return
        hour = int(result.at // _HOUR)
        good, all_ = self._hours.get(hour, (0, 0))
        self._hours[hour] = (good + result.success, all_ + 1)
        if len(self._hours) > _DAY // _HOUR + 1:
            del self._hours[min(self._hours)]

    def restore(self, recent: Iterable[Result], hours: Iterable[tuple[int, int, int]]) -> None:
        """Take over what was stored: results, oldest first, and (hours since 1970, good ones, all) counts."""
        self.recent.extend(recent)
        self._hours = {hour: (good, all_) for hour, good, all_ in hours}

    def uptime(self, now: float) -> float | None:
        """Return the share of good results in the 24 hours before `now` (to the hour), or None without any."""
        first = int((now - _DAY) // _HOUR)
        counts = [count for hour, count in self._hours.items() if hour >= first]
        total = sum(all_ for _, all_ in counts)
        return sum(good for good, _ in counts) / total if total else None
