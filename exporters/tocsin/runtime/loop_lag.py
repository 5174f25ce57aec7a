"""How late an event loop is: a timer every 0.25 s, and what is known of it while the loop is stuck.

The timer has a fixed plan, and each instant of the plan that the loop missed is one observation of its own. So code
that blocks for 5 s is not one late timer but twenty observations from 0.25 to 5 s, and a quantile says what share of
the *time* a request would have waited how long.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable

from tocsin import names
from tocsin.metrics.families import Families

TICK = 0.25
"""Seconds between two instants of the plan."""

_EARLY = 0.001
"""Seconds a timer may come early: uvloop counts in milliseconds."""

_MOST = 4 * 3600
"""Observations made of one stall: an hour. A process that was stopped for a night need not count all of it."""


def missed(due: float, now: float) -> int:
    """Return how many instants of the plan lie between the first that is due and now, both included."""
    return int((now - due + _EARLY) // TICK) + 1


def lags(due: float, now: float, counted: int) -> list[float]:
    """Return what to observe of a loop that has not run since before `due`.

    Args:
        due: the first instant of the plan that was missed.
        now: in the same clock, in seconds.
        counted: how many observations were made of this stall before.

    The lag grows with the stall, so what came before were the smallest ones, and the greatest are still to be made.
    """
    return [max(0.0, now - due - step * TICK) for step in range(min(missed(due, now) - counted, _MOST))]


class LoopLag:
    """Watches one loop for one page of metrics, until the loop is closed, the page is gone, or `stop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, families: Families, clock: Callable[[], float]) -> None:
        self._loop = weakref.ref(loop)
        self._families = weakref.ref(families)
        self._clock = clock  # not loop.time(): uvloop's stands still while the loop does
        self._lock = threading.Lock()
        self._due = 0.0
        self._counted = 0
        self._stopped = False

    def start(self) -> None:
        """Begin; in the loop's thread."""
        loop = self._loop()
        if loop is not None and not loop.is_closed() and not self._stopped:
            self._due = self._clock() + TICK
            loop.call_later(TICK, self._tick)

    def stop(self) -> None:
        """End at the next tick; from any thread."""
        self._stopped = True

    def watches(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether it is this loop."""
        return self._loop() is loop

    def collect(self) -> bool:
        """Observe what is known of a loop that is stuck now; from any thread. Returns False when the loop is over."""
        loop, families = self._loop(), self._families()
        if self._stopped or loop is None or families is None or loop.is_closed():
            return False
        if loop.is_running() and self._due:
            with self._lock:
                now = self._clock()
                # Below one tick it is about to run, and will count it by itself.
                if now - self._due >= TICK:
                    self._observe(families, now)
        return True

    def _tick(self) -> None:
        loop, families = self._loop(), self._families()
        if self._stopped or loop is None or families is None:
            return
        with self._lock:
            now = self._clock()
            self._observe(families, now)
            self._due += missed(self._due, now) * TICK
            self._counted = 0
        loop.call_later(max(0.0, self._due - now), self._tick)

    def _observe(self, families: Families, now: float) -> None:
        for lag in lags(self._due, now, self._counted):
            families.observe(names.LOOP_LAG, value=lag)
            self._counted += 1


def lag_of(loop: asyncio.AbstractEventLoop, families: Families) -> LoopLag:
    """Watch a loop, from any thread; it may not be running yet.

    Raises:
        RuntimeError: the loop is closed.
    """
    lag = LoopLag(loop, families, time.monotonic)
    loop.call_soon_threadsafe(lag.start)
    return lag
