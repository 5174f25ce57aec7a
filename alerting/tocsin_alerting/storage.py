"""What must outlive the process: the verbs on the tables of `tocsin_alerting.tables`, for SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from tocsin_alerting.dedup import Lane, Leave, Note, Send
from tocsin_alerting.model import Alert, Notification
from tocsin_alerting.tables import (
    ALERT,
    OUTBOX,
    STATE,
    LaneKey,
    Row,
    State,
    alert_row,
    encode,
    in_lane,
    lane_columns,
    outbox_row,
    read_alert,
    read_lane,
    read_row,
    read_told,
    state_row,
    still_pending,
)
from tocsin_service.db import Database, Migrations

MIGRATIONS: Final = Migrations("alerting", "tocsin_alerting.migrations")
_CHUNK: Final = 500
"""Keys in one query; databases limit the number of parameters."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Change:
    """What a tick decided for one lane.

    Args:
        due: the instant the tick was planned for.
        notification: makes the message of a `Send` from its idempotency key.
    """

    lane: LaneKey
    plan: Send | Note | Leave
    due: float
    notification: Callable[[str, Send], Notification]


Decide = Callable[[Mapping[LaneKey, Lane]], Sequence[Change]]
"""Gets what is known of lanes (absent: nothing) and says what to do; pure."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a start finds: alerts somebody was told of, when each group last spoke, and lanes with a waiting message."""

    alerts: tuple[Alert, ...]
    last: Mapping[str, float]
    pending: Mapping[LaneKey, float]
    """When the waiting message of a lane was due."""


class Storage:
    """The verbs. Each write is one transaction, and once begun is finished even if its caller is cancelled."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opened: Database | None = None
        self._running: set[asyncio.Task[Any]] = set()

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
    def _database(self) -> Database:
        if self._opened is None:
            raise RuntimeError("the storage is not open")
        return self._opened

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
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    # --- a tick -------------------------------------------------------------------------------------------------

    async def tick(self, group_keys: Iterable[str], decide: Decide, *, now: float) -> list[Change]:
        """Decide on groups and write what follows, in one transaction; return the changes made.

        New state and the message about it are written together or not at all, so that a message is neither lost nor
        written twice, whenever the process dies.
        """
        return await self._whole(self._tick(sorted(set(group_keys)), decide, now))

    async def _tick(self, keys: Sequence[str], decide: Decide, now: float) -> list[Change]:
        states: dict[LaneKey, dict[str, Any]] = {}
        rows: dict[LaneKey, dict[str, Any]] = {}
        alerts: dict[str, Alert] = {}
        async with self._database.write() as connection:
            lanes = await _lanes(connection, keys)
            changes = [change for change in decide(lanes) if not isinstance(change.plan, Leave)]
            for change in changes:
                lane = lanes.get(change.lane, Lane())
                if isinstance(change.plan, Note):
                    states[change.lane] = state_row(change.lane, lane, change.plan, lane.sequence, now)
                elif isinstance(change.plan, Send):
                    # A lane that `sweep` forgot must not use its old numbers again: begin at the time.
                    sequence = max(lane.sequence + 1, int(now))
                    notification = change.notification(change.lane.idempotency_key(sequence), change.plan)
                    states[change.lane] = state_row(change.lane, lane, change.plan, sequence, now)
                    rows[change.lane] = outbox_row(change.lane, sequence, change.plan.told, notification, change.due)
                    alerts.update({alert.fingerprint: alert for alert in notification.firing})
            await _withdraw(connection, [key for key in states if lanes.get(key, Lane()).pending], now)
            await self._upsert(connection, STATE, list(states.values()))
            if rows:
                await connection.execute(OUTBOX.insert(), list(rows.values()))
            await self._upsert(connection, ALERT, [alert_row(alert) for alert in alerts.values()])
        return changes

    async def _upsert(self, connection: AsyncConnection, table: sa.Table, values: Sequence[Mapping[str, Any]]) -> None:
        if not values:
            return
        make = sqlite.insert if self._database.dialect == "sqlite" else postgresql.insert
        statement = make(table)
        keys = [column.name for column in table.primary_key]
        updates = {name: statement.excluded[name] for name in values[0] if name not in keys}
        await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=updates), values)

    # --- delivery -----------------------------------------------------------------------------------------------

    async def claim(self, lane: LaneKey) -> Row | None:
        """Return the message of a lane that waits, counting an attempt before it is made; None if there is none."""
        return await self._whole(self._claim(lane))

    async def _claim(self, lane: LaneKey) -> Row | None:
        async with self._database.write() as connection:
            query = sa.select(OUTBOX).where(in_lane(OUTBOX, lane), OUTBOX.c.state == State.PENDING)
            found = (await connection.execute(query.order_by(OUTBOX.c.id).with_for_update())).mappings().first()
            if found is None:
                return None
            attempts = OUTBOX.update().where(OUTBOX.c.id == found["id"]).values(attempts=OUTBOX.c.attempts + 1)
            await connection.execute(attempts)
            state = sa.select(STATE.c.exposed).where(in_lane(STATE, lane)).with_for_update()
            exposed = bool((await connection.execute(state)).scalar())
            await connection.execute(STATE.update().where(in_lane(STATE, lane)).values(exposed=True))
            row = read_row(found)
            return dataclasses.replace(row, attempts=row.attempts + 1, exposed=exposed)

    async def delivered(self, row: Row, *, now: float) -> None:
        """Note that a receiver has taken a message, even one that was superseded while under way."""
        await self._whole(self._finish(row, State.DELIVERED, None, now, exposed=False))

    async def failed(self, row: Row, error: str, *, now: float, refused: bool = False) -> None:
        """Give a message up; what was told before counts again, so that the next tick may write another.

        Args:
            refused: the receiver said no, so that this attempt cannot have arrived.
        """
        await self._whole(self._finish(row, State.FAILED, error, now, exposed=row.exposed or not refused))

    async def _finish(self, row: Row, state: State, error: str | None, now: float, *, exposed: bool) -> None:
        values = {"state": state, "error": error, "finished_at": now}
        where = [OUTBOX.c.id == row.id] if state is State.DELIVERED else still_pending(row)
        lane = in_lane(STATE, row.lane)
        if state is State.DELIVERED:
            told = {"told": encode(row.told), "told_sequence": row.sequence, "exposed": exposed, "updated_at": now}
            follow = STATE.update().where(lane, STATE.c.told_sequence < row.sequence).values(told)
        else:
            before = {"intended": STATE.c.told, "exposed": exposed}
            follow = STATE.update().where(lane, STATE.c.sequence == row.sequence).values(before)
        async with self._database.write() as connection:
            await connection.execute(OUTBOX.update().where(*where).values(values))
            await connection.execute(follow)

    async def again(self, row: Row, error: str, *, refused: bool = False) -> None:
        """Note why an attempt failed; the message keeps waiting. `refused`: see `failed`."""
        await self._whole(self._again(row, error, exposed=row.exposed or not refused))

    async def _again(self, row: Row, error: str, *, exposed: bool) -> None:
        where = (in_lane(STATE, row.lane), STATE.c.told_sequence < row.sequence)
        async with self._database.write() as connection:
            await connection.execute(OUTBOX.update().where(*still_pending(row)).values(error=error))
            await connection.execute(STATE.update().where(*where).values(exposed=exposed))

    # --- memory -------------------------------------------------------------------------------------------------

    async def remember(self, alerts: Iterable[Alert]) -> None:
        """Keep the latest end of alerts that receivers were told of; others are passed over."""
        values = [{"name": alert.fingerprint, "ends": alert.ends_at, "seen": alert.updated_at} for alert in alerts]
        if values:
            await self._whole(self._remember(values))

    async def _remember(self, values: Sequence[Mapping[str, Any]]) -> None:
        statement = (
            ALERT.update()
            .where(ALERT.c.fingerprint == sa.bindparam("name"))
            .values(ends_at=sa.bindparam("ends"), updated_at=sa.bindparam("seen"))
        )
        async with self._database.write() as connection:
            await connection.execute(statement, values)

    async def recall(self) -> Remembered:
        """Return what a start needs."""
        async with self._database.read() as connection:
            states = (await connection.execute(sa.select(STATE))).mappings().all()
            alerts = (await connection.execute(sa.select(ALERT))).mappings().all()
            query = sa.select(*lane_columns(OUTBOX), OUTBOX.c.created_at).where(OUTBOX.c.state == State.PENDING)
            pending = {LaneKey(*row[:4]): row[4] for row in (await connection.execute(query)).all()}
        told, last = set[str](), dict[str, float]()
        for state in states:
            entries = [entry for entry in (read_told(state["intended"]), read_told(state["told"])) if entry is not None]
            if firing := set[str]().union(*(entry.firing for entry in entries)):
                told |= firing
                latest = max(entry.at for entry in entries)
                last[state["group_key"]] = max(latest, last.get(state["group_key"], latest))
        known = (read_alert(row) for row in alerts if row["fingerprint"] in told)
        return Remembered(tuple(known), last, pending)

    async def recent(self, limit: int) -> list[Row]:
        """Return the last messages written, newest first."""
        async with self._database.read() as connection:
            query = sa.select(OUTBOX).order_by(OUTBOX.c.id.desc()).limit(limit)
            return [read_row(row) for row in (await connection.execute(query)).mappings()]

    async def sweep(self, *, finished_before: float, silent_since: float) -> frozenset[str]:
        """Delete messages finished before one instant, and forget lanes that have not spoken since another.

        Returns:
            The fingerprints of all alerts that somebody still believes to fire.
        """
        return await self._whole(self._sweep(finished_before, silent_since))

    async def _sweep(self, finished_before: float, silent_since: float) -> frozenset[str]:
        async with self._database.write() as connection:
            await connection.execute(OUTBOX.delete().where(OUTBOX.c.finished_at < finished_before))
            await connection.execute(STATE.delete().where(STATE.c.updated_at < silent_since))
            states = (await connection.execute(sa.select(STATE.c.intended, STATE.c.told))).all()
            entries = (read_told(text) for state in states for text in state)
            told = frozenset[str]().union(*(entry.firing for entry in entries if entry is not None))
            stored = (await connection.execute(sa.select(ALERT.c.fingerprint))).scalars().all()
            gone = [{"name": name} for name in stored if name not in told]
            if gone:
                await connection.execute(ALERT.delete().where(ALERT.c.fingerprint == sa.bindparam("name")), gone)
        return told


async def _lanes(connection: AsyncConnection, keys: Sequence[str]) -> dict[LaneKey, Lane]:
    lanes: dict[LaneKey, Lane] = {}
    for start in range(0, len(keys), _CHUNK):
        chunk = keys[start : start + _CHUNK]
        waiting = sa.select(*lane_columns(OUTBOX)).where(OUTBOX.c.state == State.PENDING, OUTBOX.c.group_key.in_(chunk))
        # Locked, so that no attempt begins between this look and the decision.
        pending = {LaneKey(*row) for row in (await connection.execute(waiting.with_for_update())).all()}
        states = sa.select(STATE).where(STATE.c.group_key.in_(chunk)).with_for_update()
        for row in (await connection.execute(states)).mappings():
            lane = read_lane(row)
            lanes[lane] = Lane(
                intended=read_told(row["intended"]),
                told=read_told(row["told"]),
                sequence=row["sequence"],
                told_sequence=row["told_sequence"],
                pending=lane in pending,
                exposed=row["exposed"],
            )
    return lanes


async def _withdraw(connection: AsyncConnection, lanes: Sequence[LaneKey], now: float) -> None:
    if not lanes:
        return
    statement = (
        OUTBOX.update()
        .where(
            *(OUTBOX.c[name] == sa.bindparam(f"lane_{name}") for name in LaneKey._fields),
            OUTBOX.c.state == State.PENDING,
        )
        .values(state=State.SUPERSEDED, finished_at=now)
    )
    values = [{f"lane_{name}": value for name, value in lane._asdict().items()} for lane in lanes]
    await connection.execute(statement, values)
