"""The tables of the alert router, and the values their rows stand for.

`alerting_group_state`: one row per lane (group, receiver, integration): what its last message says (`intended`), what
the last delivered one said (`told`), the number of the last one, and what the receiver gave back (`handle`).
`alerting_outbox`: one row per message, whole, so that it can be sent when nothing else is known any more.
`alerting_attempt`: one row per try to deliver a message, for whoever asks why he was not told.
`alerting_event`: what was decided about a lane, whenever that was something else than before.
`alerting_alert`: the alerts, so that they outlive us, and so that replicas know what only one of them heard.
`alerting_group`: when a group was first looked at: its rhythm.
`alerting_leader`: who tells, and until when; its `epoch` fences off who was it before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from tocsin_alerting.alerts import Entry
from tocsin_alerting.dedup import Lane, Note, Send, Told
from tocsin_alerting.grouping import GroupId
from tocsin_alerting.model import Alert, Notification, Reason

_METADATA = sa.MetaData()
STATE = sa.Table(
    "alerting_group_state",
    _METADATA,
    sa.Column("group_key", sa.Text, primary_key=True),
    sa.Column("receiver", sa.Text, primary_key=True),
    sa.Column("integration", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    *(sa.Column(name, sa.BigInteger) for name in ("sequence", "told_sequence")),
    *(sa.Column(name, sa.Text) for name in ("intended", "told", "labels", "handle")),
    sa.Column("exposed", sa.Boolean),
    sa.Column("updated_at", sa.Double),
)
OUTBOX = sa.Table(
    "alerting_outbox",
    _METADATA,
    sa.Column("id", sa.BigInteger, primary_key=True),
    *(sa.Column(name, sa.Text) for name in ("key", "group_key", "receiver", "integration", "state", "error")),
    *(sa.Column(name, sa.Text) for name in ("told", "notification")),
    *(sa.Column(name, sa.BigInteger) for name in ("position", "sequence", "attempts", "epoch")),
    *(sa.Column(name, sa.Double) for name in ("created_at", "finished_at")),
)
ATTEMPT = sa.Table(
    "alerting_attempt",
    _METADATA,
    sa.Column("outbox_id", sa.BigInteger),
    sa.Column("at", sa.Double),
    *(sa.Column(name, sa.Text) for name in ("outcome", "detail")),
)
EVENT = sa.Table(
    "alerting_event",
    _METADATA,
    sa.Column("at", sa.Double),
    *(sa.Column(name, sa.Text) for name in ("group_key", "receiver", "integration", "what")),
    sa.Column("position", sa.Integer),
)
ALERT = sa.Table(
    "alerting_alert",
    _METADATA,
    sa.Column("fingerprint", sa.Text, primary_key=True),
    *(sa.Column(name, sa.Text) for name in ("alert", "writer")),
    *(sa.Column(name, sa.Double) for name in ("ends_at", "updated_at", "received_at", "changed_at")),
)
GROUP = sa.Table(
    "alerting_group",
    _METADATA,
    sa.Column("group_key", sa.Text, primary_key=True),
    sa.Column("receiver", sa.Text, primary_key=True),
    sa.Column("anchor", sa.Double),
)
LEADER = sa.Table(
    "alerting_leader",
    _METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text),
    sa.Column("epoch", sa.BigInteger),
    sa.Column("expires_at", sa.Double),
)


class State(StrEnum):
    """What has become of a message."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    SUPERSEDED = "superseded"


class LaneKey(NamedTuple):
    """Messages of one lane are delivered one after the other: a group, a receiver, its n-th integration of a kind."""

    group_key: str
    receiver: str
    integration: str
    position: int

    @property
    def group(self) -> GroupId:
        """The group it tells of."""
        return GroupId(self.group_key, self.receiver)

    @property
    def destination(self) -> tuple[str, str, int]:
        """The integration it tells: receiver, kind, position."""
        return self.receiver, self.integration, self.position

    def idempotency_key(self, sequence: int) -> str:
        """Return the name of message number `sequence`: the same for every attempt, unguessable from outside."""
        return hashlib.sha256("\0".join(map(str, (*self, sequence))).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Row:
    """A message in the outbox. Times are Unix seconds.

    `exposed` says that before this attempt something not known as told may already have arrived.
    """

    id: int
    lane: LaneKey
    sequence: int
    state: State
    created_at: float
    attempts: int
    error: str | None
    told: Told
    notification: Notification
    finished_at: float | None = None
    exposed: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt at a message.

    Args:
        state: `delivered`; `failed`, when it is given up; `pending`, when another attempt follows.
        at: Unix seconds.
        detail: what the receiver said, or why there was no answer.
        refused: the receiver said no, so that this attempt cannot have arrived.
        handle: what the kind of receiver keeps for the next message, None for what it has.
    """

    row: Row
    state: State
    at: float
    detail: str = ""
    refused: bool = False
    handle: Mapping[str, str] | None = None

    @property
    def exposed(self) -> bool:
        """Whether something not known as told may have arrived."""
        return self.state is not State.DELIVERED and (self.row.exposed or not self.refused)


# --- rows from values and back -----------------------------------------------------------------------------------


def state_row(
    key: LaneKey, lane: Lane, plan: Send | Note, sequence: int, labels: Mapping[str, str], now: float
) -> dict[str, Any]:
    """Return the row of a lane after `plan`; `labels` are those of the group."""
    noted = isinstance(plan, Note)
    return {
        **key._asdict(),
        "sequence": sequence,
        "intended": encode(plan.told),
        "told": encode(plan.told if noted else lane.told),
        "told_sequence": sequence if noted else lane.told_sequence,
        "labels": encode_labels(labels),
        "exposed": False if noted else lane.exposed,
        "updated_at": now,
    }


def outbox_row(lane: LaneKey, sequence: int, told: Told, notification: Notification, due: float) -> dict[str, Any]:
    """Return the row of a new message that was due at `due`."""
    return {
        **lane._asdict(),
        "key": notification.key,
        "sequence": sequence,
        "state": State.PENDING,
        "created_at": due,
        "attempts": 0,
        "epoch": 0,
        "told": encode(told),
        "notification": _text(notification),
    }


def read_row(row: sa.RowMapping) -> Row:
    """Return the message of a row."""
    return Row(
        id=row["id"],
        lane=read_lane(row),
        sequence=row["sequence"],
        state=State(row["state"]),
        created_at=row["created_at"],
        attempts=row["attempts"],
        error=row["error"],
        told=msgspec.json.decode(row["told"], type=Told),
        notification=msgspec.json.decode(row["notification"], type=Notification),
        finished_at=row["finished_at"],
    )


def with_handle(row: Row, handle: str | None) -> Row:
    """Return a message with what its receiver gave back for the former one; a first notification begins anew."""
    if not handle or row.notification.reason is Reason.FIRST:
        return row
    known = msgspec.json.decode(handle, type=dict[str, str])
    return replace(row, notification=replace(row.notification, handle=known))


def alert_row(entry: Entry) -> dict[str, Any]:
    """Return the row of an alert; when it was changed is the database's to say."""
    alert = entry.alert
    return {
        "fingerprint": alert.fingerprint,
        "alert": _text(alert),
        "ends_at": alert.ends_at,
        "updated_at": alert.updated_at,
        "received_at": entry.received_at,
    }


def read_alert(row: sa.RowMapping) -> Alert:
    """Return the alert of a row, with the end last heard of."""
    alert = msgspec.json.decode(row["alert"], type=Alert)
    return msgspec.structs.replace(alert, ends_at=row["ends_at"], updated_at=row["updated_at"])


def read_lane_state(row: sa.RowMapping, *, pending: bool) -> Lane:
    """Return what a row says of its lane."""
    return Lane(
        intended=read_told(row["intended"]),
        told=read_told(row["told"]),
        sequence=row["sequence"],
        told_sequence=row["told_sequence"],
        pending=pending,
        exposed=row["exposed"],
    )


def encode(told: Told | None) -> str | None:
    """Return `told` as text."""
    return None if told is None else msgspec.json.encode(told, order="deterministic").decode()


def read_told(text: str | None) -> Told | None:
    """Return what `encode` was given."""
    return None if text is None else msgspec.json.decode(text, type=Told)


def encode_labels(labels: Mapping[str, str]) -> str:
    """Return the labels of a group, or a handle, as text."""
    return _text(dict(labels))


def read_labels(text: str | None) -> dict[str, str]:
    """Return the labels of a group."""
    return msgspec.json.decode(text, type=dict[str, str]) if text else {}


def read_lane(row: sa.RowMapping) -> LaneKey:
    """Return the lane of a row."""
    return LaneKey(row["group_key"], row["receiver"], row["integration"], row["position"])


def lane_columns(table: sa.Table) -> list[sa.Column[Any]]:
    """Return the columns that name a lane."""
    return [table.c[name] for name in LaneKey._fields]


def in_lane(table: sa.Table, lane: LaneKey) -> sa.ColumnElement[bool]:
    """Return the condition of being in a lane."""
    return sa.and_(*(table.c[name] == value for name, value in lane._asdict().items()))


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
