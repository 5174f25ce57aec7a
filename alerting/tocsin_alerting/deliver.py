"""Delivery: takes messages from the outbox to receivers until they are taken, superseded or given up.

Messages of a lane go one after the other, lanes side by side, at most `PER_DESTINATION` at once to one integration, so
that a receiver that hangs holds up nobody else.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from tocsin_alerting.clerk import Clerk
from tocsin_alerting.config import Integration
from tocsin_alerting.grouping import GroupId
from tocsin_alerting.limits import Bucket, Rate
from tocsin_alerting.messages import clean
from tocsin_alerting.outbox import DeposedError
from tocsin_alerting.receivers import KINDS
from tocsin_alerting.receivers.sending import Sending
from tocsin_alerting.tables import LaneKey, Outcome, Row, State
from tocsin_alerting.telemetry import Telemetry
from tocsin_service.clock import Clock
from tocsin_service.http import Backoff, Failure, RequestError

PER_DESTINATION: Final = 32
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
_Destination = tuple[str, str, int]

Ended = Callable[[GroupId, bool], None]
"""Called when nothing of a group is under way any more: its name, and whether all messages were taken."""


class Courier:
    """Carries messages.

    Args:
        find: the integration of a lane now, or None if it is no longer configured.
        sending: what to send with now.
        leads: whether this router may tell receivers at this moment.
        ended: see `Ended`.
        rate: the rate a destination bears, with a name that all share who share the rate; None is no limit.
    """

    def __init__(
        self,
        clerk: Clerk,
        *,
        find: Callable[[LaneKey], Integration | None],
        sending: Callable[[], Sending],
        leads: Callable[[], bool],
        deposed: Callable[[], None],
        ended: Ended,
        clock: Clock,
        telemetry: Telemetry,
        rate: Callable[[LaneKey], tuple[str, Rate] | None] = lambda _: None,
        backoff: Backoff | None = None,
    ) -> None:
        self._clerk = clerk
        self._find = find
        self._sending = sending
        self._leads = leads
        self._deposed = deposed
        self._ended = ended
        self._clock = clock
        self._telemetry = telemetry
        self._rate = rate
        self._backoff = backoff or Backoff()
        self._lanes: dict[LaneKey, _Work] = {}
        self._groups: dict[GroupId, _Open] = {}
        self._gates: defaultdict[_Destination, asyncio.Semaphore]
        self._gates = defaultdict(lambda: asyncio.Semaphore(PER_DESTINATION))
        self._not_before: dict[_Destination, float] = {}
        self._buckets: dict[str, tuple[Rate, Bucket]] = {}
        self._stopping = asyncio.Event()

    def wake(self, lane: LaneKey, *, due: float, handed: Row | None = None) -> None:
        """Look at the outbox of a lane, where something was written or withdrawn.

        Args:
            due: when it was due.
            handed: the message itself, where it was claimed as it was written; see `ready`.
        """
        work = self._lanes.get(lane)
        if work is None:
            work = self._lanes[lane] = _Work(due)
            self._groups.setdefault(lane.group, _Open()).lanes += 1
            work.task = asyncio.create_task(self._run(lane, work), name=f"deliver {lane.integration}")
        work.handed = handed
        work.news.set()

    def ready(self, lanes: Iterable[LaneKey]) -> frozenset[LaneKey]:
        """Return those of `lanes` whose next message would leave at once, and so may be claimed as it is written."""
        free: dict[_Destination, int] = {}
        found = set()
        for lane in lanes:
            left = free.get(lane.destination)
            if left is None:
                busy = sum(1 for other in self._lanes if other.destination == lane.destination)
                paused = self._not_before.get(lane.destination, 0.0) > self._clock.now()
                left = 0 if paused or self._rate(lane) else PER_DESTINATION - busy
            if left > 0 and lane not in self._lanes:
                left -= 1
                found.add(lane)
            free[lane.destination] = left
        return frozenset(found)

    def resume(self, pending: Mapping[LaneKey, float]) -> None:
        """Take up what another process left."""
        for lane, due in pending.items():
            self.wake(lane, due=due)

    def abandon(self) -> None:
        """Stop at once, also in the middle of a request: another router takes it up."""
        for work in list(self._lanes.values()):
            if work.task is not None:
                work.abandoned = True
                work.task.cancel()

    def busy(self, group: GroupId) -> bool:
        """Return whether a message about a group is under way."""
        return group in self._groups

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
        await self._clerk.finish()

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
        except DeposedError:
            work.abandoned = True
            self._deposed()
        finally:
            self._end(lane, work)

    def _end(self, lane: LaneKey, work: _Work) -> None:
        del self._lanes[lane]
        group = self._groups[lane.group]
        group.lanes -= 1
        group.failed |= work.failed
        group.abandoned |= work.abandoned
        if not group.lanes:
            del self._groups[lane.group]
            if not self._stopping.is_set() and not group.abandoned:
                self._ended(lane.group, not group.failed)

    async def _step(self, lane: LaneKey, work: _Work) -> float | None:
        """Deliver the waiting message of a lane once; return seconds to wait before the next look, None for the end."""
        async with self._gates[lane.destination]:
            integration = self._find(lane)
            if (pause := self._pause(lane)) > 0:
                # The receiver named this time: a newer message must not cut it short, only the end of the process.
                await self._clock.wait(self._stopping, pause)
                return 0.0
            if (row := work.handed) is not None:
                work.handed = None
                return await self._attempt(row, integration, work)
            try:
                row = await self._clerk.claim(lane)
            except (SQLAlchemyError, OSError) as error:
                self._telemetry.database_failed(error)
                return 1.0
            return None if row is None else await self._attempt(row, integration, work)

    def _pause(self, lane: LaneKey) -> float:
        """Return the seconds until the destination may be told the next message."""
        now = self._clock.now()
        asked = self._not_before.get(lane.destination, 0.0) - now
        if asked > 0 or (limited := self._rate(lane)) is None:
            return max(0.0, asked)
        name, rate = limited
        known, bucket = self._buckets.get(name, (None, None))
        if bucket is None or known != rate:
            bucket = Bucket(rate, now)
            self._buckets[name] = rate, bucket
        pause = bucket.take(now)
        if pause > 0:
            self._telemetry.limited(lane.integration, pause)
        return pause

    async def _attempt(self, row: Row, integration: Integration | None, work: _Work) -> float:
        self._telemetry.attempt(row)
        try:
            handle = await self._send(row, integration)
        except RequestError as error:
            return await self._refused(row, work, error)
        except TimeoutError:
            late = RequestError("the receiver did not answer in time", reason=Failure.TIMEOUT)
            return await self._refused(row, work, late)
        except DeposedError:
            raise
        except Exception as error:
            self._telemetry.bug(row)
            message = f"the message could not be made: {type(error).__name__}"
            return await self._refused(row, work, RequestError(message, reason=Failure.OTHER, permanent=True))
        now = self._clock.now()
        await self._record(Outcome(row, State.DELIVERED, now, handle=handle))
        work.failed = False
        self._telemetry.delivered(row, now)
        return 0.0

    async def _send(self, row: Row, integration: Integration | None) -> dict[str, str] | None:
        if not self._leads():
            raise DeposedError("this router does not lead any more")
        if integration is None:
            message = f'the receiver "{row.lane.receiver}" has no such {row.lane.integration} any more'
            raise RequestError(message, reason=Failure.OTHER, permanent=True)
        async with asyncio.timeout(max(ATTEMPT_LIMIT, getattr(integration.settings, "timeout", 0.0))):
            return await KINDS[integration.kind].send(row.notification, integration.settings, self._sending())

    async def _refused(self, row: Row, work: _Work, error: RequestError) -> float:
        now = self._clock.now()
        # It may quote what the receiver answered, and PostgreSQL stores no NUL.
        message = clean(str(error))
        refused = error.reason in _SAID_NO
        if error.permanent or now - row.created_at > PATIENCE:
            await self._record(Outcome(row, State.FAILED, now, message, refused))
            work.failed = True
            self._telemetry.failed(row, message, error.reason)
            return 0.0
        wait, pause = self._backoff.delay(row.attempts - 1), 0.0
        if error.retry_after is not None:
            pause = min(error.retry_after, LONGEST_PAUSE)
            # Before it is written down: nothing else must leave for there meanwhile.
            self._not_before[row.lane.destination] = now + pause
            wait = max(0.001, min(wait, pause))
        await self._record(Outcome(row, State.PENDING, now, message, refused))
        self._telemetry.refused(row, message, max(wait, pause))
        return wait

    async def _record(self, outcome: Outcome) -> None:
        """Write what came of an attempt, as often as it takes: sending again instead would be a duplicate."""
        while True:
            try:
                return await self._clerk.note(outcome)
            except (SQLAlchemyError, OSError) as error:
                self._telemetry.database_failed(error)
                await self._clock.sleep(1.0)


class _Work:
    """A lane with something in the outbox, due since `due`; `failed`: its last message was given up."""

    def __init__(self, due: float) -> None:
        self.due = due
        self.failed = False
        self.abandoned = False
        self.handed: Row | None = None
        self.news = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class _Open:
    """A group with messages under way: in how many lanes, and whether one of those that ended failed."""

    def __init__(self) -> None:
        self.lanes = 0
        self.failed = False
        self.abandoned = False
