"""What is known of heartbeats, shared between replicas and kept over restarts: the table `alerting_heartbeat`.

One row per heartbeat: when any replica last heard it (0: never), and since when everybody has been told that it is
missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tocsin_service.db import Database

HEARTBEAT: Final = sa.Table(
    "alerting_heartbeat",
    sa.MetaData(),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("last_heard", sa.Double),
    sa.Column("missing_since", sa.Double),
)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one heartbeat, in Unix seconds.

    Args:
        last_heard: by any replica; 0 is never.
        missing_since: when the alert about it was raised; None if there is none.
    """

    last_heard: float = 0.0
    missing_since: float | None = None


class HeartbeatStore:
    """The verbs; each is one transaction.

    Args:
        database: gives the open database; asked at each use, as it is opened later than this is made.
    """

    def __init__(self, database: Callable[[], Database]) -> None:
        self._database = database

    async def exchange(self, heard: Mapping[str, float]) -> dict[str, Known]:
        """Tell what this replica has heard, and return what all have: of each heartbeat the latest."""
        if heard:
            rows = [{"name": name, "last_heard": at} for name, at in heard.items()]
            async with self._database().write() as connection:
                await connection.execute(self._upsert("last_heard", latest=True), rows)
        async with self._database().read() as connection:
            found = (await connection.execute(sa.select(HEARTBEAT))).mappings()
            return {row["name"]: Known(row["last_heard"], row["missing_since"]) for row in found}

    async def mark(self, name: str, missing_since: float | None) -> None:
        """Note that the alert about a heartbeat is raised, or with None that it has ended."""
        row = {"name": name, "last_heard": 0.0, "missing_since": missing_since}
        async with self._database().write() as connection:
            await connection.execute(self._upsert("missing_since"), [row])

    async def forget(self, keep: Collection[str]) -> None:
        """Delete all heartbeats but these."""
        async with self._database().write() as connection:
            await connection.execute(HEARTBEAT.delete().where(HEARTBEAT.c.name.not_in(list(keep))))

    def _upsert(self, column: str, *, latest: bool = False) -> Any:
        make = sqlite.insert if self._database().dialect == "sqlite" else postgresql.insert
        statement = make(HEARTBEAT)
        value = statement.excluded[column]
        # Another replica may have heard it later, or its clock may be ahead: time does not go back.
        where = value > HEARTBEAT.c[column] if latest else None
        return statement.on_conflict_do_update(index_elements=["name"], set_={column: value}, where=where)
