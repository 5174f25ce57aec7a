"""What is kept: alerts, what receivers were told and are to be told, and who tells. SQLite or PostgreSQL.

Only the leader's `epoch` may decide and claim: whoever was it before gets `DeposedError`, however late he comes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from tocsin_alerting.alerts import Entry
from tocsin_alerting.dedup import Lane, Leave, Note, Plan, Send
from tocsin_alerting.grouping import GroupId
from tocsin_alerting.model import Alert, Notification
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
    encode,
    encode_labels,
    in_lane,
    lane_columns,
    outbox_row,
    read_alert,
    read_labels,
    read_lane,
    read_lane_state,
    read_row,
    state_row,
    with_handle,
)
from tocsin_service.db import Database, Migrations

MIGRATIONS: Final = Migrations("alerting", "tocsin_alerting.migrations")
_CHUNK: Final = 500
"""Keys in one query; databases limit the number of parameters."""
_DISPATCH: Final = "dispatch"
"""The one thing of which there is one leader."""
_OVERLAP: Final = 10.0
"""Seconds that are looked at again for alerts of other replicas: transactions become visible out of order."""

_T = TypeVar("_T")


class DeposedError(Exception):
    """Another router leads; what was to be written was not."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a tick decided for one lane.

    Args:
        due: the instant the tick was planned for.
        labels: those of the group.
        notification: makes the message of a `Send` from its idempotency key.
    """

    lane: LaneKey
    plan: Plan
    due: float
    labels: Mapping[str, str]
    notification: Callable[[str, Send], Notification]


@dataclass(frozen=True, slots=True)
class Event:
    """What was decided about a lane, in words."""

    at: float
    lane: LaneKey
    what: str


@dataclass(frozen=True, slots=True)
class Decision:
    """All that a tick leads to.

    Args:
        anchors: groups that were looked at for the first time.
        gone: groups that have ended since.
    """

    changes: Sequence[Change]
    events: Sequence[Event] = ()
    anchors: Mapping[GroupId, float] = field(default_factory=dict)
    gone: Sequence[GroupId] = ()


Decide = Callable[[Mapping[LaneKey, Lane]], Decision]
"""Gets what is known of lanes (absent: nothing) and says what to do; pure."""


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
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

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
        take = LEADER.update().where(LEADER.c.name == _DISPATCH, free)
        values = {"holder": holder, "epoch": LEADER.c.epoch + 1, "expires_at": time + seconds}
        async with self.database.write() as connection:
            taken: int | None = (await connection.execute(take.values(values).returning(LEADER.c.epoch))).scalar()
            return taken

    async def renew(self, epoch: int, *, seconds: float, now: float) -> bool:
        """Lead for another `seconds`; return whether we still do."""
        return await self._whole(self._renew(epoch, seconds, now))

    async def _renew(self, epoch: int, seconds: float, now: float) -> bool:
        statement = LEADER.update().where(LEADER.c.name == _DISPATCH, LEADER.c.epoch == epoch)
        async with self.database.write() as connection:
            done = await connection.execute(statement.values(expires_at=self._time(now) + seconds))
            return done.rowcount == 1

    async def resign(self, epoch: int) -> None:
        """Let another lead at once."""
        await self._whole(self._renew(epoch, 0.0, 0.0) if not self.shared else self._resign(epoch))

    async def _resign(self, epoch: int) -> None:
        async with self.database.write() as connection:
            await connection.execute(LEADER.update().where(LEADER.c.epoch == epoch).values(expires_at=0.0))

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

    # --- a tick -------------------------------------------------------------------------------------------------

    async def tick(self, group_keys: Iterable[str], decide: Decide, *, now: float, epoch: int) -> list[Change]:
        """Decide on groups and write what follows, in one transaction; return the changes made.

        New state and the message about it are written together or not at all, so that a message is neither lost nor
        written twice, whenever the process dies.

        Raises:
            DeposedError: another router leads.
        """
        return await self._whole(self._tick(sorted(set(group_keys)), decide, now, epoch))

    async def _tick(self, keys: Sequence[str], decide: Decide, now: float, epoch: int) -> list[Change]:
        states: dict[LaneKey, dict[str, Any]] = {}
        rows: dict[LaneKey, dict[str, Any]] = {}
        async with self.database.write() as connection:
            await _fence(connection, epoch)
            lanes = await _lanes(connection, keys)
            decision = decide(lanes)
            changes = [change for change in decision.changes if not isinstance(change.plan, Leave)]
            for change in changes:
                lane = lanes.get(change.lane, Lane())
                sequence = lane.sequence
                if isinstance(change.plan, Send):
                    # A lane that `sweep` forgot must not use its old numbers again: begin at the time.
                    sequence = max(lane.sequence + 1, int(now))
                    notification = change.notification(change.lane.idempotency_key(sequence), change.plan)
                    rows[change.lane] = outbox_row(change.lane, sequence, change.plan.told, notification, change.due)
                if isinstance(change.plan, Send | Note):
                    states[change.lane] = state_row(change.lane, lane, change.plan, sequence, change.labels, now)
            await _withdraw(connection, [key for key in states if lanes.get(key, Lane()).pending], now)
            await self._upsert(connection, STATE, list(states.values()))
            await _insert(connection, OUTBOX, list(rows.values()))
            await self._others(connection, decision)
        return changes

    async def _others(self, connection: AsyncConnection, decision: Decision) -> None:
        await _insert(connection, EVENT, [{**e.lane._asdict(), "at": e.at, "what": e.what} for e in decision.events])
        if decision.gone:
            where = [GROUP.c[name] == sa.bindparam(f"group_{name}") for name in ("group_key", "receiver")]
            values = [{"group_group_key": key, "group_receiver": receiver} for key, receiver in decision.gone]
            await connection.execute(GROUP.delete().where(*where), values)
        anchors = [
            {"group_key": key, "receiver": receiver, "anchor": anchor}
            for (key, receiver), anchor in decision.anchors.items()
        ]
        await self._upsert(connection, GROUP, anchors)

    async def _upsert(self, connection: AsyncConnection, table: sa.Table, values: Sequence[Mapping[str, Any]]) -> None:
        if not values:
            return
        make = sqlite.insert if self.database.dialect == "sqlite" else postgresql.insert
        statement = make(table)
        keys = [column.name for column in table.primary_key]
        updates = {name: statement.excluded[name] for name in values[0] if name not in keys}
        await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=updates), values)

    # --- delivery -----------------------------------------------------------------------------------------------

    async def work(self, claims: Iterable[LaneKey], outcomes: Sequence[Outcome], *, epoch: int) -> dict[LaneKey, Row]:
        """Note what came of attempts, and hand out the waiting messages of lanes, in one transaction.

        An attempt is counted before it is made. Lanes without a waiting message are not in the answer.

        Raises:
            DeposedError: another router leads. That a message was delivered is noted all the same: it is a fact.
        """
        return await self._whole(self._work(set(claims), outcomes, epoch))

    async def _work(self, claims: set[LaneKey], outcomes: Sequence[Outcome], epoch: int) -> dict[LaneKey, Row]:
        deposed: DeposedError | None = None
        async with self.database.write() as connection:
            try:
                await _fence(connection, epoch)
            except DeposedError as error:
                outcomes, deposed = [item for item in outcomes if item.state is State.DELIVERED], error
            await _note(connection, outcomes)
            claimed = await _claim(connection, claims, epoch) if claims and deposed is None else {}
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
        make = sqlite.insert if self.database.dialect == "sqlite" else postgresql.insert
        statement = make(ALERT).values(
            {name: sa.bindparam(name) for name in values[0]} | {"changed_at": self._time(now), "writer": self._writer}
        )
        names = ("alert", "ends_at", "updated_at", "received_at", "changed_at", "writer")
        statement = statement.on_conflict_do_update(
            index_elements=["fingerprint"],
            set_={name: statement.excluded[name] for name in names},
            where=statement.excluded.updated_at >= ALERT.c.updated_at,
        )
        async with self.database.write() as connection:
            # In one order everywhere, or two replicas that are sent the same alerts block each other.
            await connection.execute(statement, sorted(values, key=lambda row: str(row["fingerprint"])))

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
        async with self.database.write() as connection:
            await connection.execute(OUTBOX.delete().where(OUTBOX.c.finished_at < finished_before))
            await connection.execute(ATTEMPT.delete().where(ATTEMPT.c.at < finished_before))
            await connection.execute(EVENT.delete().where(EVENT.c.at < finished_before))
            states = (await connection.execute(sa.select(STATE))).mappings().all()
            owed = {name for row in states for name in read_lane_state(row, pending=False).owed}
            silent = [row for row in states if row["updated_at"] < silent_since]
            values = [
                {f"lane_{name}": row[name] for name in LaneKey._fields}
                for row in silent
                if not read_lane_state(row, pending=False).owed
            ]
            if values:
                where = [STATE.c[name] == sa.bindparam(f"lane_{name}") for name in LaneKey._fields]
                await connection.execute(STATE.delete().where(*where), values)
            ended = sa.select(ALERT.c.fingerprint).where(ALERT.c.ends_at < ended_before)
            gone = [{"name": name} for name in (await connection.execute(ended)).scalars().all() if name not in owed]
            if gone:
                statement = ALERT.delete().where(ALERT.c.fingerprint == sa.bindparam("name"))
                await connection.execute(statement.where(ALERT.c.ends_at < ended_before), gone)


async def _fence(connection: AsyncConnection, epoch: int) -> None:
    # Held until the transaction ends: nobody takes over in the middle of it.
    query = sa.select(LEADER.c.epoch).where(LEADER.c.name == _DISPATCH).with_for_update(read=True)
    found = (await connection.execute(query)).scalar_one()
    if found != epoch:
        raise DeposedError(f"another router leads (epoch {found}, ours was {epoch})")


async def _insert(connection: AsyncConnection, table: sa.Table, values: Sequence[Mapping[str, Any]]) -> None:
    if values:
        await connection.execute(table.insert(), values)


async def _lanes(connection: AsyncConnection, keys: Sequence[str]) -> dict[LaneKey, Lane]:
    lanes: dict[LaneKey, Lane] = {}
    for chunk in _chunks(keys):
        waiting = sa.select(*lane_columns(OUTBOX)).where(OUTBOX.c.state == State.PENDING, OUTBOX.c.group_key.in_(chunk))
        # Locked, so that no attempt begins between this look and the decision.
        pending = {LaneKey(*row) for row in (await connection.execute(waiting.with_for_update())).all()}
        states = sa.select(STATE).where(STATE.c.group_key.in_(chunk)).with_for_update()
        for row in (await connection.execute(states)).mappings():
            lane = read_lane(row)
            lanes[lane] = read_lane_state(row, pending=lane in pending)
    return lanes


async def _withdraw(connection: AsyncConnection, lanes: Sequence[LaneKey], now: float) -> None:
    if lanes:
        statement = OUTBOX.update().where(*_lane_parameters(OUTBOX), OUTBOX.c.state == State.PENDING)
        values = [_lane_values(lane) for lane in lanes]
        await connection.execute(statement.values(state=State.SUPERSEDED, finished_at=now), values)


async def _claim(connection: AsyncConnection, wanted: set[LaneKey], epoch: int) -> dict[LaneKey, Row]:
    found: dict[LaneKey, Row] = {}
    for chunk in _chunks(sorted({lane.group_key for lane in wanted})):
        query = sa.select(OUTBOX).where(OUTBOX.c.state == State.PENDING, OUTBOX.c.group_key.in_(chunk))
        rows = (await connection.execute(query.order_by(OUTBOX.c.id).with_for_update())).mappings().all()
        states = sa.select(*lane_columns(STATE), STATE.c.exposed, STATE.c.handle).where(STATE.c.group_key.in_(chunk))
        known = {
            LaneKey(*row[:4]): (bool(row[4]), row[5])
            for row in (await connection.execute(states.with_for_update())).all()
        }
        for item in rows:
            row = read_row(item)
            if row.lane in wanted and row.lane not in found:
                exposed, handle = known.get(row.lane, (False, None))
                row = dataclasses.replace(row, attempts=row.attempts + 1, exposed=exposed)
                found[row.lane] = with_handle(row, handle)
    if found:
        counted = OUTBOX.update().where(OUTBOX.c.id == sa.bindparam("row"))
        values = [{"row": row.id, "attempts": row.attempts, "epoch": epoch} for row in found.values()]
        await connection.execute(counted.values(attempts=sa.bindparam("attempts"), epoch=sa.bindparam("epoch")), values)
        exposing = STATE.update().where(*_lane_parameters(STATE)).values(exposed=True)
        await connection.execute(exposing, [_lane_values(lane) for lane in found])
    return found


async def _note(connection: AsyncConnection, outcomes: Sequence[Outcome]) -> None:
    for state in (State.DELIVERED, State.FAILED, State.PENDING):
        some = [item for item in outcomes if item.state is state]
        if some:
            await _NOTES[state](connection, some)
    attempts = [
        {"outbox_id": item.row.id, "at": item.at, "outcome": _OUTCOMES[item.state], "detail": item.detail}
        for item in outcomes
    ]
    await _insert(connection, ATTEMPT, attempts)


_OUTCOMES: Final = {State.DELIVERED: "taken", State.FAILED: "given up", State.PENDING: "not taken"}


async def _note_delivered(connection: AsyncConnection, outcomes: Sequence[Outcome]) -> None:
    # Even one that was superseded while under way has told what it says.
    done = OUTBOX.update().where(OUTBOX.c.id == sa.bindparam("row"))
    values = [{"row": item.row.id, "at": item.at} for item in outcomes]
    await connection.execute(done.values(state=State.DELIVERED, error=None, finished_at=sa.bindparam("at")), values)
    for item in outcomes:
        told = {"told": encode(item.row.told), "told_sequence": item.row.sequence, "exposed": False}
        if item.handle is not None:
            told["handle"] = encode_labels(item.handle)
        where = (in_lane(STATE, item.row.lane), STATE.c.told_sequence < item.row.sequence)
        await connection.execute(STATE.update().where(*where).values(updated_at=item.at, **told))


async def _note_failed(connection: AsyncConnection, outcomes: Sequence[Outcome]) -> None:
    for item in outcomes:
        where = (OUTBOX.c.id == item.row.id, OUTBOX.c.state == State.PENDING)
        values = {"state": State.FAILED, "error": item.detail, "finished_at": item.at}
        await connection.execute(OUTBOX.update().where(*where).values(values))
        # What was told before counts again, so that the next tick may write another.
        lane = (in_lane(STATE, item.row.lane), STATE.c.sequence == item.row.sequence)
        before = {"intended": STATE.c.told, "exposed": item.exposed}
        await connection.execute(STATE.update().where(*lane).values(before))


async def _note_again(connection: AsyncConnection, outcomes: Sequence[Outcome]) -> None:
    for item in outcomes:
        where = (OUTBOX.c.id == item.row.id, OUTBOX.c.state == State.PENDING)
        await connection.execute(OUTBOX.update().where(*where).values(error=item.detail))
        lane = (in_lane(STATE, item.row.lane), STATE.c.told_sequence < item.row.sequence)
        await connection.execute(STATE.update().where(*lane).values(exposed=item.exposed))


_NOTES: Final = {State.DELIVERED: _note_delivered, State.FAILED: _note_failed, State.PENDING: _note_again}


def _chunks(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK))


def _lane_parameters(table: sa.Table) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == sa.bindparam(f"lane_{name}") for name in LaneKey._fields]


def _lane_values(lane: LaneKey) -> dict[str, Any]:
    return {f"lane_{name}": value for name, value in lane._asdict().items()}
