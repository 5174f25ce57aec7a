"""Writes what came of attempts and hands out the next messages, many lanes in one transaction.

One transaction at a time: whatever comes while it runs goes into the next. So a storm of a hundred messages costs a few
commits, and a single one waits for nobody.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tocsin_alerting.outbox import DeposedError
from tocsin_alerting.storage import Storage
from tocsin_alerting.tables import LaneKey, Outcome, Row


class Clerk:
    """The only way from delivery to the outbox."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._claims: dict[LaneKey, asyncio.Future[Row | None]] = {}
        self._outcomes: list[tuple[Outcome, asyncio.Future[None]]] = []
        self._running: asyncio.Task[None] | None = None
        self.epoch = 0
        """As whom we claim; see `tocsin_alerting.leadership`."""

    async def claim(self, lane: LaneKey) -> Row | None:
        """Return the waiting message of a lane, counting an attempt before it is made; None if there is none.

        Raises:
            DeposedError: another router leads.
            SQLAlchemyError, OSError: the database cannot be used.
        """
        future = self._claims.get(lane)
        if future is None:
            future = self._claims[lane] = asyncio.get_running_loop().create_future()
        self._start()
        return await asyncio.shield(future)

    async def note(self, outcome: Outcome) -> None:
        """Write what came of an attempt; raises like `claim`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outcomes.append((outcome, future))
        self._start()
        await asyncio.shield(future)

    async def finish(self) -> None:
        """Wait until all that was asked for is written."""
        while self._running is not None:
            await asyncio.wait([self._running])

    def _start(self) -> None:
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="clerk")

    async def _run(self) -> None:
        # One turn for others that are ready at the same instant: they come along.
        await asyncio.sleep(0)
        try:
            while self._claims or self._outcomes:
                claims, self._claims = self._claims, {}
                outcomes, self._outcomes = self._outcomes, []
                await self._write(claims, outcomes)
        finally:
            self._running = None

    async def _write(
        self, claims: dict[LaneKey, asyncio.Future[Row | None]], outcomes: list[tuple[Outcome, asyncio.Future[None]]]
    ) -> None:
        try:
            rows = await self._storage.work(claims, [outcome for outcome, _ in outcomes], epoch=self.epoch)
        except Exception as error:
            for claim in claims.values():
                _fail(claim, error)
            for _, noted in outcomes:
                _fail(noted, error)
            return
        for lane, claim in claims.items():
            if not claim.done():
                claim.set_result(rows.get(lane))
        for _, noted in outcomes:
            if not noted.done():
                noted.set_result(None)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        # Each waiter gets an exception of its own: one that is raised twice grows its traceback.
        fresh = DeposedError(str(error)) if isinstance(error, DeposedError) else error
        future.set_exception(fresh)
        future.exception()  # nobody may wait any more
