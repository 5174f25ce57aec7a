"""The tables of the alert router, and the values their rows stand for.

`alerting_group_state`: one row per lane (group, receiver, integration): what its last message says (`intended`), what
the last delivered one said (`told`), and the number of the last one.
`alerting_outbox`: one row per message, whole, so that it can be sent when nothing else is known any more.
`alerting_alert`: the alerts receivers were told of, so that their end can be told too.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from tocsin_alerting.dedup import Lane, Note, Send, Told
from tocsin_alerting.model import Alert, Notification

_METADATA = sa.MetaData()
STATE = sa.Table(
    "alerting_group_state",
    _METADATA,
    sa.Column("group_key", sa.Text, primary_key=True),
    sa.Column("receiver", sa.Text, primary_key=True),
    sa.Column("integration", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    *(sa.Column(name, sa.BigInteger) for name in ("sequence", "told_sequence")),
    *(sa.Column(name, sa.Text) for name in ("intended", "told")),
    sa.Column("exposed", sa.Boolean),
    sa.Column("updated_at", sa.Double),
)
OUTBOX = sa.Table(
    "alerting_outbox",
    _METADATA,
    sa.Column("id", sa.BigInteger, primary_key=True),
    *(sa.Column(name, sa.Text) for name in ("key", "group_key", "receiver", "integration", "state", "error")),
    *(sa.Column(name, sa.Text) for name in ("told", "notification")),
    *(sa.Column(name, sa.BigInteger) for name in ("position", "sequence", "attempts")),
    *(sa.Column(name, sa.Double) for name in ("created_at", "finished_at")),
)
ALERT = sa.Table(
    "alerting_alert",
    _METADATA,
    sa.Column("fingerprint", sa.Text, primary_key=True),
    sa.Column("alert", sa.Text),
    *(sa.Column(name, sa.Double) for name in ("ends_at", "updated_at")),
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
    exposed: bool = False


# --- rows from values and back -----------------------------------------------------------------------------------


def state_row(key: LaneKey, lane: Lane, plan: Send | Note, sequence: int, now: float) -> dict[str, Any]:
    """Return the row of a lane after `plan`."""
    noted = isinstance(plan, Note)
    return {
        **key._asdict(),
        "sequence": sequence,
        "intended": encode(plan.told),
        "told": encode(plan.told if noted else lane.told),
        "told_sequence": sequence if noted else lane.told_sequence,
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
        "told": encode(told),
        "notification": msgspec.json.encode(notification).decode(),
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
    )


def alert_row(alert: Alert) -> dict[str, Any]:
    """Return the row of an alert somebody is told of."""
    text = msgspec.json.encode(alert).decode()
    return {
        "fingerprint": alert.fingerprint,
        "alert": text,
        "ends_at": alert.ends_at,
        "updated_at": alert.updated_at,
    }


def read_alert(row: sa.RowMapping) -> Alert:
    """Return the alert of a row, with the end last heard of."""
    alert = msgspec.json.decode(row["alert"], type=Alert)
    return dataclasses.replace(alert, ends_at=row["ends_at"], updated_at=row["updated_at"])


def encode(told: Told | None) -> str | None:
    """Return `told` as text."""
    return None if told is None else msgspec.json.encode(told, order="deterministic").decode()


def read_told(text: str | None) -> Told | None:
    """Return what `encode` was given."""
    return None if text is None else msgspec.json.decode(text, type=Told)


def read_lane(row: sa.RowMapping) -> LaneKey:
    """Return the lane of a row."""
    return LaneKey(row["group_key"], row["receiver"], row["integration"], row["position"])


def lane_columns(table: sa.Table) -> list[sa.Column[Any]]:
    """Return the columns that name a lane."""
    return [table.c[name] for name in LaneKey._fields]


def in_lane(table: sa.Table, lane: LaneKey) -> sa.ColumnElement[bool]:
    """Return the condition of being in a lane."""
    return sa.and_(*(table.c[name] == value for name, value in lane._asdict().items()))


def still_pending(row: Row) -> list[sa.ColumnElement[bool]]:
    """Return the condition of being that message and waiting."""
    return [OUTBOX.c.id == row.id, OUTBOX.c.state == State.PENDING]
