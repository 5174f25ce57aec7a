"""The embedded store: a SQLite file that can be searched, for those who run no Elasticsearch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson
import sqlalchemy as sa

from tocsin_service.db import Database, sqlite_url
from tocsin_ship import lines
from tocsin_ship.config import Store
from tocsin_ship.deadletter import Refusal
from tocsin_ship.delivery import Delivery
from tocsin_ship.lines import Block, Line
from tocsin_ship.storage import MIGRATIONS, Logs, Row
from tocsin_ship.summary import summarise

_SWEEP: Final = 60.0
"""Seconds between deletions of what is too old or too much."""


class StoreOutput:
    """See `tocsin_ship.outputs.Output`. `logs` is there to be searched once it is open."""

    kind = "store"
    read_size = 512 * 1024

    def __init__(self, config: Store, delivery: Delivery, *, path: Path) -> None:
        self.logs: Logs | None = None
        self._config = config
        self._delivery = delivery
        self._path = path
        self._database: Database | None = None
        self._taken = 0
        self._swept = 0.0

    @property
    def settled(self) -> int:
        """Blocks that are done with: each one that was sent."""
        return self._taken

    @property
    def acked(self) -> int:
        return self._taken

    async def open(self) -> None:
        """Make or open the file.

        Raises:
            DatabaseError: it cannot be used.
        """
        self._database = await Database.open(sqlite_url(self._path), [MIGRATIONS])
        self.logs = Logs(self._database)

    async def send(self, blocks: Sequence[Block]) -> None:
        """Return when each event is on disk or a dead letter."""
        now = self._delivery.clock.now()
        events = [line for block in blocks for line in await asyncio.to_thread(lines.separate, block, now=now)]
        rows, refusals = await asyncio.to_thread(_rows, events, now)
        await self._delivery.refuse(refusals)
        await self._add(rows)
        self._taken += len(blocks)
        await self._sweep(now)

    async def rest(self) -> None:
        """Delete what is too old, also when nothing comes in."""
        await self._sweep(self._delivery.clock.now())

    async def close(self) -> None:
        self.logs = None
        if self._database is not None:
            await self._database.close()

    async def _add(self, rows: Sequence[tuple[Line, Row]]) -> None:
        while rows and self.logs is not None:
            try:
                # What is too old already would be deleted by the next sweep.
                oldest = self._delivery.clock.now() - self._config.retention
                await self.logs.add([row for _, row in rows if row.summary.at >= oldest])
            except (sa.exc.DataError, sa.exc.InterfaceError) as error:
                # A value that SQLite cannot hold: find the line by halves.
                if len(rows) == 1:
                    await self._delivery.refuse([Refusal(rows[0][0], "unstorable", None, str(error.orig))])
                    return
                middle = len(rows) // 2
                await self._add(rows[:middle])
                rows = rows[middle:]
            except sa.exc.DBAPIError as error:
                await self._delivery.again("database", len(rows), f"{self._path}: {error.orig}")
            else:
                self._delivery.acked(len(rows))
                self._delivery.working()
                return

    async def _sweep(self, now: float) -> None:
        if self.logs is None or now - self._swept < _SWEEP:
            return
        self._swept = now
        try:
            await self.logs.expire(now - self._config.retention)
            if self._config.max_bytes is not None:
                await self.logs.shrink(self._config.max_bytes)
        except sa.exc.DBAPIError as error:
            await self._delivery.again("database", 0, f"{self._path}: {error.orig}")


def _rows(events: Sequence[Line], now: float) -> tuple[list[tuple[Line, Row]], list[Refusal]]:
    rows, refusals = [], []
    for line in events:
        try:
            summary = summarise(orjson.loads(line.data), now=now)
            rows.append((line, Row(line.id, summary, line.data.decode())))
        except ValueError as error:
            # Nested deeper than the parser goes, say: valid, and yet nothing we could take apart.
            refusals.append(Refusal(line, "unreadable", None, str(error)))
    return rows, refusals
