"""What is kept: alerts, what receivers were told and are to be told, and who tells. SQLite or PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from tocsin_alerting import outbox
from tocsin_alerting.alerts import Entry
from tocsin_alerting.dedup import Lane
from tocsin_alerting.grouping import GroupId
from tocsin_alerting.model import Alert
from tocsin_alerting.outbox import DISPATCH, Decide, Ticked
from tocsin_alerting.tables import (
    ALERT,
    ATTEMPT,
    EVENT,
    GROUP,
    LEADER,
    OUTBOX,
    STATE,
    LaneKey,
    Outcome,
    Row,
    State,
    alert_row,
    in_lane,
    lane_columns,
    read_alert,
    read_labels,
    read_lane,
    read_lane_state,
    read_row,
)
from tocsin_service.db import Database, Migrations

MIGRATIONS: Final = Migrations("alerting", "tocsin_alerting.migrations")
_KEEP: Final = """\
INSERT INTO alerting_alert (fingerprint, alert, ends_at, updated_at, received_at, changed_at, writer)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (fingerprint) DO UPDATE SET alert = excluded.alert, ends_at = excluded.ends_at,
  updated_at = excluded.updated_at, received_at = excluded.received_at, changed_at = excluded.changed_at,
  writer = excluded.writer
WHERE excluded.updated_at >= alerting_alert.updated_at"""
"""Alerts into SQLite, in the order of `alert_row`: the bulk of all that is written, at half of what it costs by way of
SQLAlchemy's expressions."""
_OVERLAP: Final = 10.0
"""Seconds that are looked at again for alerts of other replicas: transactions become visible out of order."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a new leader finds. `pending` is when the waiting message of a lane was due."""

    alerts: Sequence[tuple[Alert, float]]
    """Each with the instant it was first heard of."""
    lanes: Mapping[LaneKey, Lane]
    labels: Mapping[GroupId, dict[str, str]]
    anchors: Mapping[GroupId, float]
    pending: Mapping[LaneKey, float]


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the past with its attempts: (instant, outcome, what the receiver said)."""

    row: Row
    attempts: Sequence[tuple[float, str, str]]


class Storage:
    """The verbs. Each write is one transaction, and once begun is finished even if its caller is cancelled."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opened: Database | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._writer = uuid.uuid4().hex
        """What alerts are marked with that this process wrote: it has heard them already."""

    async def open(self) -> None:
        """Open the database and bring its tables up to date.

        Raises:
            tocsin_service.db.DatabaseError: it cannot be used.
        """
        self._opened = await Database.open(self._url, [MIGRATIONS])

    @property
    def opened(self) -> bool:
        """Whether it can be used."""
        return self._opened is not None

    @property
    def database(self) -> Database:
        """The open database."""
        if self._opened is None:
            raise RuntimeError("the storage is not open")
        return self._opened

    @property
    def shared(self) -> bool:
        """Whether other routers may use it at the same time."""
        return self.database.dialect != "sqlite"

    async def close(self) -> None:
        """Finish what is being written and let go of the database."""
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    async def _whole(self, step: Coroutine[Any, Any, _T]) -> _T:
        # A driver interrupted inside a transaction leaves its connection in an unknown state.
        task = asyncio.ensure_future(step)
        self._running.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may not wait any more

    # --- who leads ----------------------------------------------------------------------------------------------

    async def lead(self, holder: str, *, seconds: float, now: float) -> int | None:
        """Become the leader for `seconds` if nobody is, or if the database is not shared; return the epoch, or None.

        Args:
            holder: a name that no other router has.
            now: the time where the database has no clock of its own.
        """
        return await self._whole(self._lead(holder, seconds, now))

    async def _lead(self, holder: str, seconds: float, now: float) -> int | None:
        time = self._time(now)
        # A file has one user: whoever starts last is meant.
        free = LEADER.c.expires_at < time if self.shared else sa.true()
        take = LEADER.update().where(LEADER.c.name == DISPATCH, free)
        values = {"holder": holder, "epoch": LEADER.c.epoch + 1, "expires_at": time + seconds}
        async with self._at_once() as connection:
            taken: int | None = (await connection.execute(take.values(values).returning(LEADER.c.epoch))).scalar()
            return taken

    async def renew(self, epoch: int, *, seconds: float, now: float) -> bool:
        """Lead for another `seconds`; return whether we still do."""
        return await self._whole(self._renew(epoch, self._time(now) + seconds))

    async def resign(self, epoch: int) -> None:
        """Let another lead at once."""
        await self._whole(self._renew(epoch, sa.literal(0.0)))

    async def _renew(self, epoch: int, until: sa.ColumnElement[float]) -> bool:
        statement = LEADER.update().where(LEADER.c.name == DISPATCH, LEADER.c.epoch == epoch)
        async with self._at_once() as connection:
            return (await connection.execute(statement.values(expires_at=until))).rowcount == 1

    @contextlib.asynccontextmanager
    async def _at_once(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection whose statements are committed as they are executed.

        Who is cut off between two statements of a transaction keeps its locks, and here nobody could take over then.
        """
        if not self.shared:
            async with self.database.write() as connection:
                yield connection
            return
        async with self.database.read() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def leader(self) -> tuple[str, float]:
        """Return who leads, and how many seconds more by the database's clock; negative: nobody."""
        async with self.database.read() as connection:
            left = LEADER.c.expires_at - self._time(0.0)
            row = (await connection.execute(sa.select(LEADER.c.holder, left))).one()
            return row[0], float(row[1])

    def _time(self, now: float) -> sa.ColumnElement[float]:
        """Return the database's own time where replicas share it, so that their clocks do not matter."""
        if self.shared:
            return sa.extract("epoch", sa.func.clock_timestamp()).cast(sa.Double)
        return sa.literal(now, sa.Double)

    # --- deciding and delivering --------------------------------------------------------------------------------

    async def tick(
        self, group_keys: Iterable[str], decide: Decide, *, now: float, epoch: int, at_once: Collection[LaneKey] = ()
    ) -> Ticked:
        """Decide on groups and write what follows, in one transaction.

        New state and the message about it are written together or not at all, so that a message is neither lost nor
        written twice, whenever the process dies.

        Args:
            decide: called in another thread, where the database is a file.
            at_once: lanes whose message is handed over as it is written, instead of being claimed afterwards.

        Raises:
            DeposedError: another router leads.
        """
        keys = sorted(set(group_keys))

        def step(connection: sa.Connection) -> Ticked:
            return outbox.tick(connection, keys, decide, now=now, epoch=epoch, at_once=at_once)

        return await self._whole(self.database.transact(step))

    async def work(self, claims: Iterable[LaneKey], outcomes: Sequence[Outcome], *, epoch: int) -> dict[LaneKey, Row]:
        """Note what came of attempts, and hand out the waiting messages of lanes, in one transaction.

        An attempt is counted before it is made. Lanes without a waiting message are not in the answer.

        Raises:
            DeposedError: another router leads. That a message was delivered is noted all the same: it is a fact.
        """
        wanted = set(claims)
        claimed, deposed = await self._whole(
            self.database.transact(lambda connection: outbox.work(connection, wanted, outcomes, epoch=epoch))
        )
        if deposed is not None:
            raise deposed
        return claimed

    # --- alerts -------------------------------------------------------------------------------------------------

    async def keep(self, entries: Sequence[Entry], *, now: float) -> None:
        """Write alerts down; one that another replica has heard of later stays as it is."""
        values = [alert_row(entry) for entry in entries]
        await self._whole(self._keep(values, now))
        for entry, row in zip(entries, values, strict=True):
            entry.kept_ends_at = row["ends_at"]

    async def _keep(self, values: Sequence[Mapping[str, Any]], now: float) -> None:
        if not self.shared:
            plain = [(*row.values(), now, self._writer) for row in values]
            await self.database.transact(lambda connection: connection.exec_driver_sql(_KEEP, plain))
            return
        # In one order everywhere, or two replicas that are sent the same alerts block each other.
        rows = sorted(values, key=lambda row: str(row["fingerprint"]))
        constant = {"changed_at": self._time(now), "writer": self._writer}

        def step(connection: sa.Connection) -> None:
            statement = outbox.upserting(connection, ALERT)
            statement = statement.values({name: sa.bindparam(name) for name in rows[0]} | constant)
            names = ("alert", "ends_at", "updated_at", "received_at", "changed_at", "writer")
            statement = statement.on_conflict_do_update(
                index_elements=["fingerprint"],
                set_={name: statement.excluded[name] for name in names},
                where=statement.excluded.updated_at >= ALERT.c.updated_at,
            )
            connection.execute(statement, rows)

        await self.database.transact(step)

    async def heard_since(self, mark: float) -> tuple[list[tuple[Alert, float]], float]:
        """Return alerts others wrote since `mark`, each with when it was first heard of, and the next mark."""
        async with self.database.read() as connection:
            query = sa.select(ALERT).where(ALERT.c.changed_at > mark - _OVERLAP, ALERT.c.writer != self._writer)
            rows = (await connection.execute(query)).mappings().all()
        latest = max((row["changed_at"] for row in rows), default=mark)
        return [(read_alert(row), row["received_at"]) for row in rows], max(mark, latest)

    # --- memory -------------------------------------------------------------------------------------------------

    async def recall(self) -> Remembered:
        """Return what a new leader needs."""
        async with self.database.read() as connection:
            states = (await connection.execute(sa.select(STATE))).mappings().all()
            alerts = (await connection.execute(sa.select(ALERT))).mappings().all()
            groups = (await connection.execute(sa.select(GROUP))).all()
            query = sa.select(*lane_columns(OUTBOX), OUTBOX.c.created_at).where(OUTBOX.c.state == State.PENDING)
            pending = {LaneKey(*row[:4]): row[4] for row in (await connection.execute(query)).all()}
        lanes = {read_lane(row): read_lane_state(row, pending=read_lane(row) in pending) for row in states}
        return Remembered(
            alerts=[(read_alert(row), row["received_at"]) for row in alerts],
            lanes=lanes,
            labels={read_lane(row).group: read_labels(row["labels"]) for row in states},
            anchors={GroupId(key, receiver): anchor for key, receiver, anchor in groups},
            pending=pending,
        )

    async def recent(self, limit: int) -> list[Row]:
        """Return the last messages written, newest first."""
        async with self.database.read() as connection:
            query = sa.select(OUTBOX).order_by(OUTBOX.c.id.desc()).limit(limit)
            return [read_row(row) for row in (await connection.execute(query)).mappings()]

    async def history(self, lane: LaneKey, *, limit: int) -> tuple[Lane, list[Message], list[tuple[float, str]]]:
        """Return what is known of a lane: its state, its last messages with their attempts, and what was decided.

        Newest first, at most `limit` of each.
        """
        async with self.database.read() as connection:
            query = sa.select(OUTBOX).where(in_lane(OUTBOX, lane)).order_by(OUTBOX.c.id.desc()).limit(limit)
            rows = [read_row(row) for row in (await connection.execute(query)).mappings()]
            tries = sa.select(ATTEMPT.c.outbox_id, ATTEMPT.c.at, ATTEMPT.c.outcome, ATTEMPT.c.detail)
            tries = tries.where(ATTEMPT.c.outbox_id.in_([row.id for row in rows])).order_by(ATTEMPT.c.at)
            attempts = (await connection.execute(tries)).all()
            events = sa.select(EVENT.c.at, EVENT.c.what).where(in_lane(EVENT, lane)).order_by(EVENT.c.at.desc())
            decided = [(at, what) for at, what in (await connection.execute(events.limit(limit))).all()]
            state = (await connection.execute(sa.select(STATE).where(in_lane(STATE, lane)))).mappings().first()
        known = Lane()
        if state is not None:
            known = read_lane_state(state, pending=any(row.state is State.PENDING for row in rows))
        messages = [Message(row, [tuple(item)[1:] for item in attempts if item[0] == row.id]) for row in rows]
        return known, messages, decided

    async def sweep(self, *, finished_before: float, silent_since: float, ended_before: float) -> None:
        """Delete messages finished before one instant, forget lanes that have not spoken since another, and alerts.

        Alerts that ended before `ended_before` are kept where somebody is still to be told of their end.
        """
        await self._whole(self._sweep(finished_before, silent_since, ended_before))

    async def _sweep(self, finished_before: float, silent_since: float, ended_before: float) -> None:
        def step(connection: sa.Connection) -> None:
            connection.execute(OUTBOX.delete().where(OUTBOX.c.finished_at < finished_before))
            connection.execute(ATTEMPT.delete().where(ATTEMPT.c.at < finished_before))
            connection.execute(EVENT.delete().where(EVENT.c.at < finished_before))
            states = connection.execute(sa.select(STATE)).mappings().all()
            owed_by = [(row, read_lane_state(row, pending=False).owed) for row in states]
            silent = [row for row, owed in owed_by if row["updated_at"] < silent_since and not owed]
            if silent:
                where = outbox.lane_parameters(STATE)
                connection.execute(STATE.delete().where(*where), [outbox.lane_values(row) for row in silent])
            owed = {name for _, names in owed_by for name in names}
            ended = connection.execute(sa.select(ALERT.c.fingerprint).where(ALERT.c.ends_at < ended_before))
            gone = [{"name": name} for name in ended.scalars().all() if name not in owed]
            if gone:
                statement = ALERT.delete().where(ALERT.c.fingerprint == sa.bindparam("name"))
                connection.execute(statement.where(ALERT.c.ends_at < ended_before), gone)

        await self.database.transact(step)
