"""Decisions and deliveries in SQL: what is done inside one transaction. Nothing here waits; the verbs are `storage`.

Only the leader's `epoch` may decide and claim: whoever was it before gets `DeposedError`, however late he comes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tocsin_alerting.dedup import Lane, Leave, Note, Plan, Send
from tocsin_alerting.grouping import GroupId
from tocsin_alerting.model import Notification
from tocsin_alerting.tables import (
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
    encode,
    encode_labels,
    lane_columns,
    outbox_row,
    read_lane,
    read_lane_state,
    read_row,
    state_row,
    with_handle,
)

DISPATCH: Final = "dispatch"
"""The one thing of which there is one leader."""
_CHUNK: Final = 500
"""Keys in one query; databases limit the number of parameters."""
_OUTCOMES: Final = {State.DELIVERED: "taken", State.FAILED: "given up", State.PENDING: "not taken"}


_INSERTS: Final[Mapping[str, Callable[[sa.Table], Any]]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def lane_parameters(table: sa.Table) -> list[sa.ColumnElement[bool]]:
    """Return the condition of being in the lane that `lane_values` gives."""
    return [table.c[name] == sa.bindparam(f"lane_{name}") for name in LaneKey._fields]


# The statements are made once: to build one costs several times what SQLite needs to execute it.

_KEYS: Final[sa.BindParameter[Any]] = sa.bindparam("keys", expanding=True)
# Held until the transaction ends: nobody takes over in the middle of it.
_FENCE: Final = sa.select(LEADER.c.epoch).where(LEADER.c.name == DISPATCH).with_for_update(read=True)
# Locked, so that no attempt begins between a look and the decision.
_WAITING: Final = (
    sa.select(*lane_columns(OUTBOX))
    .where(OUTBOX.c.state == State.PENDING, OUTBOX.c.group_key.in_(_KEYS))
    .with_for_update()
)
_MESSAGES: Final = (
    sa.select(OUTBOX)
    .where(OUTBOX.c.state == State.PENDING, OUTBOX.c.group_key.in_(_KEYS))
    .order_by(OUTBOX.c.id)
    .with_for_update()
)
_STATES: Final = sa.select(STATE).where(STATE.c.group_key.in_(_KEYS)).with_for_update()
_INSERT_MESSAGES: Final = OUTBOX.insert().returning(OUTBOX.c.key, OUTBOX.c.id)
_WITHDRAW: Final = (
    OUTBOX.update()
    .where(*lane_parameters(OUTBOX), OUTBOX.c.state == State.PENDING)
    .values(state=State.SUPERSEDED, finished_at=sa.bindparam("finished"))
)
_COUNT: Final = (
    OUTBOX.update()
    .where(OUTBOX.c.id == sa.bindparam("row"))
    .values(attempts=sa.bindparam("tries"), epoch=sa.bindparam("ours"))
)
_EXPOSE: Final = STATE.update().where(*lane_parameters(STATE)).values(exposed=True)
# Even one that was superseded while under way has told what it says.
_DELIVERED: Final = (
    OUTBOX.update()
    .where(OUTBOX.c.id == sa.bindparam("row"))
    .values(state=State.DELIVERED, error=None, finished_at=sa.bindparam("finished"))
)
_TOLD: Final = (
    STATE.update()
    .where(*lane_parameters(STATE), STATE.c.told_sequence < sa.bindparam("number"))
    .values(
        told=sa.bindparam("says"),
        told_sequence=sa.bindparam("number"),
        exposed=False,
        updated_at=sa.bindparam("finished"),
        handle=sa.func.coalesce(sa.bindparam("given", type_=sa.Text), STATE.c.handle),
    )
)
_FAILED: Final = (
    OUTBOX.update()
    .where(OUTBOX.c.id == sa.bindparam("row"), OUTBOX.c.state == State.PENDING)
    .values(state=State.FAILED, error=sa.bindparam("why"), finished_at=sa.bindparam("finished"))
)
# What was told before counts again, so that the next tick may write another.
_AS_BEFORE: Final = (
    STATE.update()
    .where(*lane_parameters(STATE), STATE.c.sequence == sa.bindparam("number"))
    .values(intended=STATE.c.told, exposed=sa.bindparam("open"))
)
_WAITS: Final = (
    OUTBOX.update()
    .where(OUTBOX.c.id == sa.bindparam("row"), OUTBOX.c.state == State.PENDING)
    .values(error=sa.bindparam("why"))
)
_MAY_HAVE_ARRIVED: Final = (
    STATE.update()
    .where(*lane_parameters(STATE), STATE.c.told_sequence < sa.bindparam("number"))
    .values(exposed=sa.bindparam("open"))
)


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
class Ticked:
    """What a tick wrote: the changes, and the messages handed over at once, their first attempt counted."""

    changes: Sequence[Change]
    handed: Mapping[LaneKey, Row]


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the lanes of some groups."""

    lanes: Mapping[LaneKey, Lane]
    handles: Mapping[LaneKey, str | None]


def tick(
    connection: sa.Connection,
    keys: Sequence[str],
    decide: Decide,
    *,
    now: float,
    epoch: int,
    at_once: Collection[LaneKey] = (),
) -> Ticked:
    """Decide on groups and write what follows.

    Args:
        keys: of the groups, each once.
        at_once: lanes whose message is handed over as it is written, instead of being claimed afterwards.

    Raises:
        DeposedError: another router leads.
    """
    fence(connection, epoch)
    known = _known(connection, keys)
    decision = decide(known.lanes)
    changes = [change for change in decision.changes if not isinstance(change.plan, Leave)]
    written = _Written(known, now=now, epoch=epoch, at_once=at_once)
    for change in changes:
        written.add(change)
    _withdraw(connection, [lane for lane in written.states if known.lanes.get(lane, Lane()).pending], now)
    _upsert(connection, STATE, list(written.states.values()))
    ids = _insert_messages(connection, list(written.messages.values()))
    insert(connection, EVENT, [{**e.lane._asdict(), "at": e.at, "what": e.what} for e in decision.events])
    _forget_groups(connection, decision.gone)
    anchors = [{"group_key": key, "receiver": who, "anchor": at} for (key, who), at in decision.anchors.items()]
    _upsert(connection, GROUP, anchors)
    return Ticked(changes, {lane: make(ids[key]) for lane, (key, make) in written.handed.items()})


class _Written:
    """The rows that follow from a decision."""

    def __init__(self, known: _Known, *, now: float, epoch: int, at_once: Collection[LaneKey]) -> None:
        self.states: dict[LaneKey, dict[str, Any]] = {}
        self.messages: dict[LaneKey, dict[str, Any]] = {}
        self.handed: dict[LaneKey, tuple[str, Callable[[int], Row]]] = {}
        self._known = known
        self._now = now
        self._epoch = epoch
        self._at_once = at_once

    def add(self, change: Change) -> None:
        plan, key, now = change.plan, change.lane, self._now
        lane = self._known.lanes.get(key, Lane())
        if isinstance(plan, Note):
            self.states[key] = state_row(key, lane, plan, lane.sequence, change.labels, now)
        elif isinstance(plan, Send):
            # A lane that `sweep` forgot must not use its old numbers again: begin at the time.
            sequence = max(lane.sequence + 1, int(now))
            notification = change.notification(key.idempotency_key(sequence), plan)
            self.states[key] = state_row(key, lane, plan, sequence, change.labels, now)
            self.messages[key] = outbox_row(key, sequence, plan.told, notification, change.due)
            if key in self._at_once:
                self._hand_over(change, plan, lane, sequence, notification)

    def _hand_over(self, change: Change, plan: Send, lane: Lane, sequence: int, notification: Notification) -> None:
        """Count the first attempt as the message is written: one transaction less before it leaves."""
        key = change.lane
        self.states[key]["exposed"] = True
        self.messages[key] |= {"attempts": 1, "epoch": self._epoch}
        handle = self._known.handles.get(key)

        def make(number: int) -> Row:
            row = Row(
                id=number,
                lane=key,
                sequence=sequence,
                state=State.PENDING,
                created_at=change.due,
                attempts=1,
                error=None,
                told=plan.told,
                notification=notification,
                exposed=lane.exposed,
            )
            return with_handle(row, handle)

        self.handed[key] = notification.key, make


def work(
    connection: sa.Connection, claims: Collection[LaneKey], outcomes: Sequence[Outcome], *, epoch: int
) -> tuple[dict[LaneKey, Row], DeposedError | None]:
    """Note what came of attempts and claim the waiting messages of lanes; see `Storage.work`.

    Returns:
        The messages, and the error to raise once what is a fact has been committed.
    """
    deposed: DeposedError | None = None
    try:
        fence(connection, epoch)
    except DeposedError as error:
        outcomes, deposed = [item for item in outcomes if item.state is State.DELIVERED], error
    _note(connection, outcomes)
    return (_claim(connection, claims, epoch) if claims and deposed is None else {}), deposed


def fence(connection: sa.Connection, epoch: int) -> None:
    """Let only the leader pass.

    Raises:
        DeposedError: another router leads.
    """
    found = connection.execute(_FENCE).scalar_one()
    if found != epoch:
        raise DeposedError(f"another router leads (epoch {found}, ours was {epoch})")


def insert(connection: sa.Connection, table: sa.Table, values: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, if there are any."""
    if values:
        connection.execute(table.insert(), values)


def upserting(connection: sa.Connection, table: sa.Table) -> Any:
    """Return an `insert` that knows `on_conflict_do_update`, which each database has for itself."""
    return _INSERTS[connection.dialect.name](table)


def lane_values(lane: Mapping[str, Any] | sa.RowMapping) -> dict[str, Any]:
    """Return a lane as parameters."""
    return {f"lane_{name}": lane[name] for name in LaneKey._fields}


# --- a tick ------------------------------------------------------------------------------------------------------


def _known(connection: sa.Connection, keys: Sequence[str]) -> _Known:
    lanes: dict[LaneKey, Lane] = {}
    handles: dict[LaneKey, str | None] = {}
    for chunk in _chunks(keys):
        pending = {LaneKey(*row) for row in connection.execute(_WAITING, {"keys": chunk}).all()}
        for row in connection.execute(_STATES, {"keys": chunk}).mappings():
            lane = read_lane(row)
            lanes[lane] = read_lane_state(row, pending=lane in pending)
            handles[lane] = row["handle"]
    return _Known(lanes, handles)


def _insert_messages(connection: sa.Connection, values: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the numbers of the new messages by their keys."""
    if not values:
        return {}
    found = connection.execute(_INSERT_MESSAGES, values)
    return {row.key: row.id for row in found}


def _upsert(connection: sa.Connection, table: sa.Table, values: Sequence[Mapping[str, Any]]) -> None:
    if values:
        connection.execute(_upsert_statement(connection.dialect.name, table, tuple(values[0])), values)


@functools.cache
def _upsert_statement(dialect: str, table: sa.Table, names: Sequence[str]) -> Any:
    statement = _INSERTS[dialect](table)
    keys = [column.name for column in table.primary_key]
    updates = {name: statement.excluded[name] for name in names if name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=updates)


def _withdraw(connection: sa.Connection, lanes: Sequence[LaneKey], now: float) -> None:
    if lanes:
        connection.execute(_WITHDRAW, [{**lane_values(lane._asdict()), "finished": now} for lane in lanes])


def _forget_groups(connection: sa.Connection, gone: Sequence[GroupId]) -> None:
    if gone:
        where = [GROUP.c[name] == sa.bindparam(f"group_{name}") for name in ("group_key", "receiver")]
        values = [{"group_group_key": key, "group_receiver": receiver} for key, receiver in gone]
        connection.execute(GROUP.delete().where(*where), values)


# --- delivery ----------------------------------------------------------------------------------------------------


def _claim(connection: sa.Connection, wanted: Collection[LaneKey], epoch: int) -> dict[LaneKey, Row]:
    found: dict[LaneKey, Row] = {}
    for chunk in _chunks(sorted({lane.group_key for lane in wanted})):
        rows = connection.execute(_MESSAGES, {"keys": chunk}).mappings().all()
        states = connection.execute(_STATES, {"keys": chunk}).mappings()
        known = {read_lane(row): (bool(row["exposed"]), row["handle"]) for row in states}
        for item in rows:
            row = read_row(item)
            if row.lane in wanted and row.lane not in found:
                exposed, handle = known.get(row.lane, (False, None))
                row = dataclasses.replace(row, attempts=row.attempts + 1, exposed=exposed)
                found[row.lane] = with_handle(row, handle)
    if found:
        values = [{"row": row.id, "tries": row.attempts, "ours": epoch} for row in found.values()]
        connection.execute(_COUNT, values)
        connection.execute(_EXPOSE, [lane_values(lane._asdict()) for lane in found])
    return found


def _note(connection: sa.Connection, outcomes: Sequence[Outcome]) -> None:
    for state, note in _NOTES.items():
        if some := [item for item in outcomes if item.state is state]:
            note(connection, some)
    attempts = [
        {"outbox_id": item.row.id, "at": item.at, "outcome": _OUTCOMES[item.state], "detail": item.detail}
        for item in outcomes
    ]
    insert(connection, ATTEMPT, attempts)


def _note_delivered(connection: sa.Connection, outcomes: Sequence[Outcome]) -> None:
    connection.execute(_DELIVERED, [{"row": item.row.id, "finished": item.at} for item in outcomes])
    values = [
        {
            **lane_values(item.row.lane._asdict()),
            "says": encode(item.row.told),
            "number": item.row.sequence,
            "finished": item.at,
            "given": None if item.handle is None else encode_labels(item.handle),
        }
        for item in outcomes
    ]
    connection.execute(_TOLD, values)


def _note_failed(connection: sa.Connection, outcomes: Sequence[Outcome]) -> None:
    connection.execute(_FAILED, [{"row": i.row.id, "why": i.detail, "finished": i.at} for i in outcomes])
    connection.execute(_AS_BEFORE, [_exposure(item) for item in outcomes])


def _note_again(connection: sa.Connection, outcomes: Sequence[Outcome]) -> None:
    connection.execute(_WAITS, [{"row": item.row.id, "why": item.detail} for item in outcomes])
    connection.execute(_MAY_HAVE_ARRIVED, [_exposure(item) for item in outcomes])


_NOTES: Final = {State.DELIVERED: _note_delivered, State.FAILED: _note_failed, State.PENDING: _note_again}


def _exposure(outcome: Outcome) -> dict[str, Any]:
    return {
        **lane_values(outcome.row.lane._asdict()),
        "number": outcome.row.sequence,
        "open": outcome.exposed,
    }


def _chunks(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK))
