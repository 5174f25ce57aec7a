"""Tables that every replica holds in memory, and reads again only where they have changed.

Each change of such a table takes the next number from its row in `alerting_revision`, in the same transaction, and
writes it into the rows it touches. Taking the number locks that row until the transaction ends: changes happen one
after the other, on whichever replica, and who knows revision 7 has seen all that came before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from tocsin_service.db import Database

METADATA: Final = sa.MetaData()
REVISION: Final = sa.Table(
    "alerting_revision",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger),
)
UNKNOWN: Final = -1
"""The revision of who has read nothing yet."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class News:
    """What has changed: rows, and the revision they stand for; `whole` if they are all there is.

    `back` says that the database was put back to an earlier state.
    """

    revision: int
    rows: Sequence[sa.RowMapping]
    whole: bool
    back: bool


class Revised:
    """A table with the columns `id` and `revision`.

    Args:
        name: under which its revision is counted.
        database: gives the database once it is open.
    """

    def __init__(self, name: str, table: sa.Table, database: Callable[[], Database]) -> None:
        self._name = name
        self._table = table
        self._database = database
        self._running: set[asyncio.Task[Any]] = set()

    async def news(self, since: int) -> News | None:
        """Return what has changed since a revision, None if nothing has."""
        async with self._database().read() as connection:
            query = sa.select(REVISION.c.value).where(REVISION.c.name == self._name)
            value = int((await connection.execute(query)).scalar_one())
            if value == since:
                return None
            back = value < since
            whole = back or since == UNKNOWN
            rows = sa.select(self._table)
            if not whole:
                rows = rows.where(self._table.c.revision > since)
            found = (await connection.execute(rows)).mappings().all()
        # The rows may be newer than the revision that was read before them.
        return News(max([value, *(row["revision"] for row in found)]), found, whole, back)

    async def change(self, step: Callable[[AsyncConnection], Awaitable[_T]]) -> tuple[int, _T]:
        """Run `step` in a transaction, alone among all changes of this table; return its revision and its answer.

        Once begun it is finished, even if the caller is cancelled. What `step` raises undoes all of it.
        """
        task = asyncio.ensure_future(self._change(step))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _change(self, step: Callable[[AsyncConnection], Awaitable[_T]]) -> tuple[int, _T]:
        async with self._database().write() as connection:
            next_one = REVISION.update().where(REVISION.c.name == self._name).values(value=REVISION.c.value + 1)
            revision = int((await connection.execute(next_one.returning(REVISION.c.value))).scalar_one())
            answer = await step(connection)
            return revision, answer

    async def find(self, connection: AsyncConnection, name: str) -> sa.RowMapping | None:
        """Return a row by its id, locked until the transaction ends."""
        query = sa.select(self._table).where(self._table.c.id == name).with_for_update()
        return (await connection.execute(query)).mappings().first()

    async def put(self, connection: AsyncConnection, *rows: Mapping[str, Any]) -> None:
        """Write rows, in `change`: new ones, or in the place of those that have their ids."""
        number = sa.select(REVISION.c.value).where(REVISION.c.name == self._name).scalar_subquery()
        make = sqlite.insert if self._database().dialect == "sqlite" else postgresql.insert
        for row in rows:
            statement = make(self._table).values({**row, "revision": number})
            updates = {name: statement.excluded[name] for name in (*row, "revision") if name != "id"}
            await connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=updates))

    async def delete(self, *where: sa.ColumnElement[bool]) -> None:
        """Delete rows that nobody needs to hear about: every replica can tell by itself that they are to go."""
        async with self._database().write() as connection:
            await connection.execute(self._table.delete().where(*where))

    async def close(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._running, return_exceptions=True)


class Identified(Protocol):
    """A value that a row stands for."""

    @property
    def id(self) -> str:
        """Its id, which is its row's."""


V = TypeVar("V", bound=Identified)


class Mirror(Generic[V]):
    """The rows of a table as values in memory: as of the last `refresh`, and of every change made here since.

    Args:
        read: makes the value of a row.
        put: is told of each value that is new or changed.
        drop: is told the id of each that is gone.
    """

    def __init__(
        self,
        table: Revised,
        *,
        read: Callable[[sa.RowMapping], V],
        put: Callable[[V], None],
        drop: Callable[[str], None],
    ) -> None:
        self.values: dict[str, V] = {}
        self._table = table
        self._read = read
        self._put = put
        self._drop = drop
        self._revision = UNKNOWN
        self._revisions: dict[str, int] = {}

    async def refresh(self) -> bool:
        """Hear of what other replicas changed; return whether there was anything."""
        news = await self._table.news(self._revision)
        if news is None:
            return False
        if news.back:
            self._revisions.clear()
        if news.whole:
            for name in self.values.keys() - {row["id"] for row in news.rows}:
                if self._revisions.get(name, UNKNOWN) <= news.revision:
                    self.forget(name)
        for row in news.rows:
            self._take(self._read(row), row["revision"])
        self._revision = news.revision
        return True

    def changed(self, revision: int, *values: V) -> None:
        """Take over a change that was made here."""
        for value in values:
            self._take(value, revision)
        # If others made changes in between, the next refresh reads them all.
        if revision == self._revision + 1:
            self._revision = revision

    def forget(self, name: str) -> None:
        """Leave out a value."""
        self._revisions.pop(name, None)
        if self.values.pop(name, None) is not None:
            self._drop(name)

    def _take(self, value: V, revision: int) -> None:
        # A refresh that was under way while something was changed here comes late.
        if revision < self._revisions.get(value.id, UNKNOWN):
            return
        self._revisions[value.id] = revision
        if self.values.get(value.id) != value:
            self.values[value.id] = value
            self._put(value)
