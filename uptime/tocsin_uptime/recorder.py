"""Writes results behind the prober's back: once a second, in one batch, and never in its way.

When the database is away, probing and alerting go on; results wait in memory, the oldest are dropped beyond
`KEPT_WAITING`, and every failed write is counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterable
from typing import Final, TypeVar

from prometheus_client import Counter

from tocsin_service import telemetry
from tocsin_service.clock import Clock
from tocsin_service.db import Database, DatabaseError
from tocsin_uptime.result import Result
from tocsin_uptime.state import Standing
from tocsin_uptime.storage import MIGRATIONS, Remembered, Storage

KEPT_WAITING: Final = 50_000
"""Results that wait for a database that is away."""
RETENTION: Final = 48 * 3600.0
"""Seconds that results are kept one by one."""
_PATIENCE: Final = 10.0
"""Seconds one batch may take."""
_T = TypeVar("_T")


class Recorder:
    """The one writer of a prober's database.

    Args:
        errors: counts writes that failed.
    """

    def __init__(self, url: str, *, clock: Clock, errors: Counter) -> None:
        self._url = url
        self._clock = clock
        self._errors = errors
        self._database: Database | None = None
        self._results: deque[tuple[str, Result]] = deque(maxlen=KEPT_WAITING)
        self._standings: dict[str, Standing] = {}
        self._watched: tuple[str, ...] | None = None
        self._failing = False
        self._log = telemetry.logger("tocsin.uptime.recorder")

    def add(self, name: str, result: Result, standing: Standing) -> None:
        """Have a result, and where it led, written with the next batch."""
        self._results.append((name, result))
        self._standings[name] = standing

    def forget_all_but(self, names: Iterable[str]) -> None:
        """Have standings of other checks deleted with the next batch."""
        self._watched = tuple(names)
        for name in self._standings.keys() - set(self._watched):
            del self._standings[name]

    async def remembered(self, names: Iterable[str]) -> dict[str, Remembered]:
        """Return what is stored of `names`; nothing, said in the log, when the database is away."""
        storage = await self._guarded(self._storage())
        if storage is None:
            return {}
        return await self._guarded(storage.remembered(names, self._clock.now())) or {}

    async def run(self) -> None:
        """Write once a second until cancelled."""
        while True:
            await self._clock.sleep(1.0)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits; after a failure it waits on."""
        if not (self._results or self._standings or self._watched is not None):
            return
        if await self._guarded(self._write()):
            self._recovered()

    async def expire(self) -> None:
        """Delete results that are older than `RETENTION`."""

        async def delete() -> None:
            count = await (await self._storage()).expire(self._clock.now() - RETENTION)
            self._log.debug("old results deleted", count=count)

        await self._guarded(delete())

    async def close(self) -> None:
        """Close the database."""
        if self._database is not None:
            await self._database.close()
            self._database = None

    async def _write(self) -> bool:
        storage = await self._storage()
        batch, standings, watched = list(self._results), self._standings, self._watched
        self._results.clear()
        self._standings, self._watched = {}, None
        try:
            if watched is not None:
                await storage.forget_all_but(watched)
            await storage.write(batch, standings)
        except BaseException:
            # Cancelled or failed: it waits for the next turn, before what came meanwhile.
            self._results = deque([*batch, *self._results], maxlen=KEPT_WAITING)
            self._standings = standings | self._standings
            self._watched = watched if self._watched is None else self._watched
            raise
        return True

    async def _storage(self) -> Storage:
        if self._database is None:
            self._database = await Database.open(self._url, [MIGRATIONS])
        return Storage(self._database)

    async def _guarded(self, work: Awaitable[_T]) -> _T | None:
        try:
            async with asyncio.timeout(_PATIENCE):
                return await work
        except Exception as error:
            # Drivers raise what they like, and none of it may stop the probing.
            self._errors.inc()
            if not self._failing:
                text = str(error) if isinstance(error, DatabaseError) else f"{type(error).__name__}: {error}"
                reason = text.partition("\n")[0]
                self._log.error("results cannot be stored, probing goes on without history", reason=reason)
            self._failing = True
            return None

    def _recovered(self) -> None:
        if self._failing:
            self._log.info("results are stored again")
        self._failing = False
