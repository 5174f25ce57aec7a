"""Delivery: takes messages from the outbox to receivers until they are taken, superseded or given up.

Messages of a lane go one after the other, lanes side by side, at most `PER_DESTINATION` at once to one integration, so
that a receiver that hangs holds up nobody else.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from tocsin_alerting.config import Integration
from tocsin_alerting.messages import clean
from tocsin_alerting.receivers import KINDS
from tocsin_alerting.receivers.sending import Sending
from tocsin_alerting.storage import Storage
from tocsin_alerting.tables import LaneKey, Row
from tocsin_alerting.telemetry import Telemetry
from tocsin_service.clock import Clock
from tocsin_service.http import Backoff, Failure, RequestError

PER_DESTINATION: Final = 8
"""Attempts under way at once to one integration."""
ATTEMPT_LIMIT: Final = 60.0
"""Seconds one attempt may take whatever the receiver does, where its `timeout` is not longer: httpx' timeouts begin
anew with every byte."""
LONGEST_PAUSE: Final = 3600.0
"""Seconds; a receiver that asks for more time gets this much, and may ask again."""
PATIENCE: Final = 86_400.0
"""Seconds after which a message that nobody takes is given up."""

# Failures after which a message has certainly not arrived.
_SAID_NO: Final = frozenset({Failure.CLIENT_ERROR, Failure.AUTH_ERROR, Failure.RATE_LIMITED})

Ended = Callable[[str, bool], None]
"""Called when nothing of a group is under way any more: its key, and whether all messages were taken."""


class Courier:
    """Carries messages.

    Args:
        find: the integration of a lane now, or None if it is no longer configured.
        ended: see `Ended`.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        find: Callable[[LaneKey], Integration | None],
        ended: Ended,
        sending: Sending,
        clock: Clock,
        telemetry: Telemetry,
        backoff: Backoff | None = None,
    ) -> None:
        self._storage = storage
        self._find = find
        self._ended = ended
        self._sending = sending
        self._clock = clock
        self._telemetry = telemetry
        self._backoff = backoff or Backoff()
        self._lanes: dict[LaneKey, _Work] = {}
        self._groups: dict[str, _Open] = {}
        self._gates: defaultdict[tuple[str, str, int], asyncio.Semaphore]
        self._gates = defaultdict(lambda: asyncio.Semaphore(PER_DESTINATION))
        self._not_before: dict[tuple[str, str, int], float] = {}
        self._stopping = asyncio.Event()

    def wake(self, lanes: Iterable[LaneKey], *, due: float) -> None:
        """Look at the outbox of `lanes`, where something was written or withdrawn; it was due at `due`."""
        for lane in lanes:
            work = self._lanes.get(lane)
            if work is None:
                work = self._lanes[lane] = _Work(due)
                self._groups.setdefault(lane.group_key, _Open()).lanes += 1
                work.task = asyncio.create_task(self._run(lane, work), name=f"deliver {lane.integration}")
            work.news.set()

    def resume(self, pending: Mapping[LaneKey, float]) -> None:
        """Take up what a former process left."""
        for lane, due in pending.items():
            self.wake([lane], due=due)

    def busy(self, group_key: str) -> bool:
        """Return whether a message about a group is under way."""
        return group_key in self._groups

    @property
    def pending(self) -> int:
        """Messages not yet delivered."""
        return len(self._lanes)

    def oldest(self) -> float:
        """Return the age in seconds of the oldest of them."""
        return max((self._clock.now() - work.due for work in self._lanes.values()), default=0.0)

    async def drain(self, seconds: float) -> None:
        """Try what has not been tried, for at most `seconds`; the rest stays in the outbox for the next start."""
        self._stopping.set()
        tasks = [work.task for work in self._lanes.values() if work.task is not None]
        for work in self._lanes.values():
            work.news.set()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=seconds)
            for task in left:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- one lane -----------------------------------------------------------------------------------------------

    async def _run(self, lane: LaneKey, work: _Work) -> None:
        try:
            while True:
                work.news.clear()
                wait = await self._step(lane, work)
                if wait is None:
                    if not work.news.is_set():
                        return
                elif wait > 0 and not self._stopping.is_set():
                    await self._clock.wait(work.news, wait)
                if self._stopping.is_set():
                    return
        finally:
            self._end(lane, work)

    def _end(self, lane: LaneKey, work: _Work) -> None:
        del self._lanes[lane]
        group = self._groups[lane.group_key]
        group.lanes -= 1
        group.failed |= work.failed
        if not group.lanes:
            del self._groups[lane.group_key]
            if not self._stopping.is_set():
                self._ended(lane.group_key, not group.failed)

    async def _step(self, lane: LaneKey, work: _Work) -> float | None:
        """Deliver the waiting message of a lane once; return seconds to wait before the next look, None for the end."""
        destination = lane[1:]
        async with self._gates[destination]:
            if (pause := self._not_before.get(destination, 0.0) - self._clock.now()) > 0:
                return await self._paused(pause)
            try:
                row = await self._storage.claim(lane)
            except (SQLAlchemyError, OSError) as error:
                self._telemetry.database_failed(error)
                return 1.0
            return None if row is None else await self._attempt(row, work)

    async def _paused(self, seconds: float) -> float:
        # The receiver named this time: a newer message must not cut it short, only the end of the process.
        await self._clock.wait(self._stopping, seconds)
        return 0.0

    async def _attempt(self, row: Row, work: _Work) -> float:
        self._telemetry.attempt(row)
        integration = self._find(row.lane)
        try:
            if integration is None:
                message = f'the receiver "{row.lane.receiver}" has no such {row.lane.integration} any more'
                raise RequestError(message, reason=Failure.OTHER, permanent=True)
            async with asyncio.timeout(max(ATTEMPT_LIMIT, getattr(integration.settings, "timeout", 0.0))):
                await KINDS[integration.kind].send(row.notification, integration.settings, self._sending)
        except RequestError as error:
            return await self._refused(row, work, error)
        except TimeoutError:
            return await self._refused(
                row, work, RequestError("the receiver did not answer in time", reason=Failure.TIMEOUT)
            )
        except Exception as error:
            self._telemetry.bug(row)
            message = f"the message could not be made: {type(error).__name__}"
            return await self._refused(row, work, RequestError(message, reason=Failure.OTHER, permanent=True))
        now = self._clock.now()
        await self._record(lambda: self._storage.delivered(row, now=now))
        work.failed = False
        self._telemetry.delivered(row, now)
        return 0.0

    async def _refused(self, row: Row, work: _Work, error: RequestError) -> float:
        now = self._clock.now()
        # It may quote what the receiver answered, and PostgreSQL stores no NUL.
        message = clean(str(error))
        refused = error.reason in _SAID_NO
        if error.permanent or now - row.created_at > PATIENCE:
            await self._record(lambda: self._storage.failed(row, message, now=now, refused=refused))
            work.failed = True
            self._telemetry.failed(row, message, error.reason)
            return 0.0
        await self._record(lambda: self._storage.again(row, message, refused=refused))
        wait, pause = self._backoff.delay(row.attempts - 1), 0.0
        if error.retry_after is not None:
            pause = min(error.retry_after, LONGEST_PAUSE)
            self._not_before[row.lane[1:]] = now + pause
            wait = max(0.001, min(wait, pause))
        self._telemetry.refused(row, message, max(wait, pause))
        return wait

    async def _record(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write what came of an attempt, as often as it takes: sending again instead would be a duplicate."""
        while True:
            try:
                return await write()
            except (SQLAlchemyError, OSError) as error:
                self._telemetry.database_failed(error)
                await self._clock.sleep(1.0)


class _Work:
    """A lane with something in the outbox, due since `due`; `failed`: its last message was given up."""

    def __init__(self, due: float) -> None:
        self.due = due
        self.failed = False
        self.news = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class _Open:
    """A group with messages under way: in how many lanes, and whether one of those that ended failed."""

    def __init__(self) -> None:
        self.lanes = 0
        self.failed = False
