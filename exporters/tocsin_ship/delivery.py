"""What all outputs share: counting, waiting before another attempt, giving up a line, and the state people see."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tocsin_service import telemetry
from tocsin_service.clock import Clock
from tocsin_service.http import Backoff
from tocsin_ship.deadletter import DeadLetters, Refusal
from tocsin_ship.telemetry import Telemetry

BACKOFF = Backoff(initial=0.2, factor=2.0, maximum=30.0)


class State(StrEnum):
    """How an output is doing."""

    OK = "ok"
    RETRYING = "retrying"
    BLOCKED = "blocked"
    """It does not go on by itself: somebody has to look (credentials, a wrong address, a full disk)."""


@dataclass(slots=True)
class Tally:
    """What an output has done since its start."""

    state: State = State.OK
    error: str | None = None
    acked: int = 0
    dead: int = 0
    since: float = 0.0
    """Unix seconds when the state began."""


class Delivery:
    """One output's counters, backoff and dead letters."""

    def __init__(
        self, name: str, letters: DeadLetters, meters: Telemetry, clock: Clock, *, backoff: Backoff = BACKOFF
    ) -> None:
        self.name = name
        self.clock = clock
        self.tally = Tally(since=clock.now())
        self._letters = letters
        self._meters = meters
        self._backoff = backoff
        self._attempt = 0
        self._log = telemetry.logger("tocsin.ship")
        meters.start(name)

    def acked(self, lines: int) -> None:
        """Count lines the sink has."""
        self.tally.acked += lines
        self._meters.acked(self.name, lines)

    def working(self) -> None:
        """Note that the sink answers: the next failure waits the shortest time again."""
        self._attempt = 0
        self._become(State.OK, None)

    async def again(
        self, reason: str, lines: int, message: str, *, after: float | None = None, blocked: bool = False
    ) -> None:
        """Count `lines` to be sent again and wait until it is time.

        Args:
            reason: label of `tocsin_ship_retried_total`.
            message: what went wrong, without secrets.
            after: seconds to wait; None is the backoff.
            blocked: a person has to help.
        """
        self._meters.retried(self.name, reason, lines)
        self._become(State.BLOCKED if blocked else State.RETRYING, message)
        wait = self._backoff.delay(self._attempt) if after is None else after
        self._attempt += 1
        await self.clock.sleep(wait)

    async def refuse(self, refusals: Sequence[Refusal]) -> None:
        """Keep lines as dead letters; returns only when they are on disk."""
        if not refusals:
            return
        while True:
            try:
                await asyncio.to_thread(self._letters.add, self.name, refusals, now=self.clock.now())
                break
            except OSError as error:
                message = f"cannot write dead letters to {self._letters.path}: {error.strerror}"
                await self.again("dead_letter_disk", 0, message, blocked=True)
        self.tally.dead += len(refusals)
        for reason, count in Counter(item.reason for item in refusals).items():
            self._meters.dead(self.name, reason, count)
            self._log.warning(
                "lines refused, kept as dead letters",
                output=self.name,
                reason=reason,
                lines=count,
                file=str(self._letters.path),
                error=next(item.error for item in refusals if item.reason == reason),
            )

    def _become(self, state: State, error: str | None) -> None:
        # One line when it changes, not one for each attempt.
        if state is not self.tally.state:
            level = self._log.info if state is State.OK else self._log.warning
            level("output " + state.value, output=self.name, error=error)
            self.tally.since = self.clock.now()
        self.tally.state, self.tally.error = state, error
