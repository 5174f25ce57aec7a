"""The loop that probes: one page, top to bottom. What is decided is decided in `schedule`, `expect` and `state`.

A check never runs twice at once, and no more than `concurrency` probes run together. When the prober itself is more
than `BLIND_AFTER` late (starved of CPU, too many slow targets, a stopped machine), what it saw of failures says
nothing about the targets, and they become unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from tocsin_service import telemetry
from tocsin_service.clock import Clock
from tocsin_uptime import expect, state
from tocsin_uptime.check import Check
from tocsin_uptime.history import History
from tocsin_uptime.probes import PROBES, Probe
from tocsin_uptime.result import Reason, Result, State
from tocsin_uptime.schedule import Due, Schedule
from tocsin_uptime.state import Standing, Step

BLIND_AFTER: Final = 1.0
"""Seconds of its own lateness after which the prober blames nobody."""
CONCURRENCY: Final = 500
"""Probes at once; each holds a socket, and a process has 1024 files by default."""
_LOOK_IDLE: Final = 10.0
_LOOK_BUSY: Final = 0.5
"""The loop wakes at least this often, to see a clock that was set back, or that it was itself held up."""


@dataclass(slots=True)
class Watched:
    """A check and its run state."""

    check: Check
    standing: Standing
    history: History = field(default_factory=History)


class Observer(Protocol):
    """Who is told of each result: storage, metrics, alerts."""

    def result(self, watched: Watched, result: Result, step: Step) -> None:
        """Take in a result; `watched` already stands where it led."""

    def lateness(self, seconds: float) -> None:
        """Take in how late a probe started."""


class Watch:
    """Probes all checks, each at its instants, until cancelled.

    Args:
        probes: kind of a check -> how it is probed.
    """

    def __init__(
        self,
        observer: Observer,
        *,
        clock: Clock,
        probes: Mapping[str, Probe] = PROBES,
        concurrency: int = CONCURRENCY,
    ) -> None:
        self.watched: dict[str, Watched] = {}
        self._observer = observer
        self._clock = clock
        self._probes = probes
        self._places = asyncio.Semaphore(concurrency)
        self._schedule = Schedule()
        self._news = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._wakes_at = clock.now()
        self._held_up_at = 0.0
        self._log = telemetry.logger("tocsin.uptime.watch")

    def replace(self, checks: Iterable[Check]) -> None:
        """Watch exactly `checks`; those known by name keep state, history and schedule; changed ones are due now."""
        now = self._clock.now()
        before, self.watched = self.watched, {}
        for check in checks:
            known = before.get(check.name)
            if known is None:
                self.watched[check.name] = Watched(check, Standing(State.UNKNOWN, now))
                continue
            changed, known.check = known.check != check, check
            self.watched[check.name] = known
            if changed:
                self._schedule.soon(check.name, now)
        self._schedule.replace({name: item.check.interval for name, item in self.watched.items()}, now)
        self._news.set()

    async def run(self) -> None:
        """Probe until cancelled; then probes in flight are cancelled too."""
        self._wakes_at = self._clock.now()
        try:
            while True:
                now = self._clock.now()
                self._notice(now)
                for due in self._schedule.due(now):
                    self._start(due)
                self._news.clear()
                pause = self._pause(now)
                self._wakes_at = now + pause
                await self._clock.wait(self._news, pause)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _notice(self, now: float) -> None:
        """See whether this loop was held up, or the clock was set back."""
        if now - self._wakes_at > BLIND_AFTER:
            self._held_up_at = now
        if now < self._wakes_at - 2 * _LOOK_IDLE:
            self._log.warning("the clock was set back, planning anew", seconds=round(self._wakes_at - now, 1))
            self._held_up_at = 0.0
            self._schedule.restart(now)

    def _pause(self, now: float) -> float:
        longest = _LOOK_BUSY if self._running else _LOOK_IDLE
        due = self._schedule.next_due
        return longest if due is None else min(longest, max(0.0, due - now))

    def _start(self, due: Due) -> None:
        task = asyncio.create_task(self._turn(due), name=f"probe {due.name}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _turn(self, due: Due) -> None:
        """Run one probe and plan the next."""
        async with self._places:
            watched = self.watched.get(due.name)
            if watched is None:
                return
            check = watched.check
            started = self._clock.now()
            self._observer.lateness(max(0.0, started - due.planned))
            result = await self._probe(check, due.planned, started)
        recheck = False
        # A check that was removed or changed meanwhile is not judged by what its predecessor saw.
        current = self.watched.get(due.name) is watched and watched.check == check
        if current:
            recheck = self._take(watched, result)
        now = self._clock.now()
        wait = min(check.confirm.every, check.interval)
        # The planned instant lies ahead of `now` only when the clock was set back meanwhile.
        soon = min(due.planned, now) + wait if recheck else None
        self._schedule.again(due.name, now, not_before=soon if current else now)
        if (next_due := self._schedule.next_due) is not None and next_due < self._wakes_at:
            self._news.set()

    async def _probe(self, check: Check, planned: float, started: float) -> Result:
        try:
            seen = await self._probes[check.kind](check)
        except Exception:
            # One broken probe must not end the loop that watches everything else.
            self._log.exception("a probe failed inside the prober", check=check.name)
            sentence = "the prober itself failed, see its log"
            return Result(round(started, 3), State.UNKNOWN, Reason.INTERNAL, sentence, duration=0.0)
        result = expect.judge(check, seen, started)
        late = self._late(planned, started)
        return expect.unjudged(result, late) if late > BLIND_AFTER else result

    def _late(self, planned: float, started: float) -> float:
        """Return how late this probe was, or how long the loop stood still while it ran."""
        now = self._clock.now()
        still = now - self._wakes_at
        if self._held_up_at > started:
            still = max(still, now - started)
        return max(started - planned, still)

    def _take(self, watched: Watched, result: Result) -> bool:
        """Let the check stand where the result leads, tell the observer, and return whether to look again soon."""
        step = state.step(watched.standing, result, watched.check.confirm)
        watched.standing = step.standing
        watched.history.add(result)
        try:
            self._observer.result(watched, result, step)
        except Exception:
            # Whoever is told must not stop the probing.
            self._log.exception("a result could not be passed on", check=watched.check.name)
        return step.recheck
