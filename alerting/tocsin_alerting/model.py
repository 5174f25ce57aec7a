"""Alerts and notifications: the values that go through the router. Pure; times are Unix seconds, UTC."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

import msgspec

Status = Literal["firing", "resolved"]

ZERO_TIME: Final = "0001-01-01T00:00:00Z"
"""Go's zero time, which Alertmanager's clients write and read for "unset"."""

_FNV_OFFSET: Final = 14695981039346656037
_FNV_PRIME: Final = 1099511628211
_FNV_MASK: Final = 0xFFFFFFFFFFFFFFFF


class Reason(StrEnum):
    """Why a notification is sent: the `notification_reason` of Alertmanager's webhook."""

    FIRST = "first notification"
    NEW_ALERTS = "new alerts added"
    ALL_RESOLVED = "all alerts resolved"
    SOME_RESOLVED = "some alerts resolved"
    REPEAT = "repeat interval elapsed"


class Alert(msgspec.Struct, frozen=True, gc=False):  # it holds texts only, so that it cannot be part of a cycle
    """One alert, as last heard of.

    `ends_at` is where it ends unless it is heard of again; `timeout` says that nobody gave it and it was made up
    from `resolve_timeout`.
    """

    labels: dict[str, str]
    annotations: dict[str, str]
    starts_at: float
    ends_at: float
    updated_at: float
    fingerprint: str
    generator_url: str = ""
    timeout: bool = False

    def resolved(self, now: float) -> bool:
        """Return whether it has ended: `ends_at` is not after `now`."""
        return self.ends_at <= now

    def status(self, now: float) -> Status:
        """Return `firing` or `resolved`."""
        return "resolved" if self.resolved(now) else "firing"


@dataclass(frozen=True, slots=True)
class Incoming:
    """An alert as somebody reports it, before it is checked and has its times completed; None is unset."""

    labels: dict[str, str]
    annotations: dict[str, str] = field(default_factory=dict)
    starts_at: float | None = None
    ends_at: float | None = None
    generator_url: str = ""


def fingerprint(labels: Mapping[str, str]) -> str:
    """Return the identity of a label set: 64-bit FNV-1a over its sorted names and values, as 16 hex digits.

    Source: Prometheus' `LabelSet.Fingerprint`.
    """
    value, prime, mask = _FNV_OFFSET, _FNV_PRIME, _FNV_MASK
    for name, text in sorted(labels.items()):
        for byte in name.encode() + b"\xff" + text.encode() + b"\xff":
            value = (value ^ byte) * prime & mask
    return f"{value:016x}"


def merge(stored: Alert, new: Alert, now: float) -> Alert:
    """Return what is known once `new` has come for the alert that `stored` is (the same fingerprint).

    Where their times overlap they are one alert: it keeps its earlier start, and its end does not move back while
    it fires, unless that end was made up. Where they do not, `new` is another occurrence and replaces it.
    """
    start, end = stored.starts_at, stored.ends_at
    if not (start < new.ends_at < end or start < new.starts_at < end):
        return new
    older, newer = (stored, new) if stored.updated_at <= new.updated_at else (new, stored)
    ends_at = newer.ends_at
    if newer.resolved(now):
        if older.resolved(now):
            ends_at = max(ends_at, older.ends_at)
    elif not older.timeout:
        ends_at = max(ends_at, older.ends_at)
    return msgspec.structs.replace(newer, starts_at=min(start, new.starts_at), ends_at=ends_at)


@dataclass(frozen=True, slots=True)
class Notification:
    """One message to one receiver about one group of alerts, complete enough to be sent after a restart.

    Args:
        key: the idempotency key: the same for every attempt, another for every other message.
        now: the instant the group was looked at; it decides which of `alerts` are resolved.
        alerts: firing and resolved ones, in the order they are shown.
        route_labels: `labels` of the route, with what it inherits.
        handle: what the receiver's kind kept of the former message about this group, where one has gone out since
            the last "first notification"; a Slack app's `ts` and `channel`, for example.
    """

    key: str
    group_key: str
    group_labels: dict[str, str]
    receiver: str
    integration: str
    reason: Reason
    now: float
    alerts: tuple[Alert, ...]
    external_url: str
    route_labels: dict[str, str] = field(default_factory=dict)
    handle: dict[str, str] = field(default_factory=dict)

    @property
    def firing(self) -> tuple[Alert, ...]:
        """The alerts that fire."""
        return tuple(alert for alert in self.alerts if not alert.resolved(self.now))

    @property
    def resolved(self) -> tuple[Alert, ...]:
        """The alerts that have ended."""
        return tuple(alert for alert in self.alerts if alert.resolved(self.now))

    @property
    def status(self) -> Status:
        """`firing` if any alert is."""
        return "firing" if self.firing else "resolved"

    @property
    def group_hash(self) -> str:
        """SHA-256 of the group key in hex: what Alertmanager ties the messages about one group together with."""
        return hashlib.sha256(self.group_key.encode()).hexdigest()


def common(sets: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the pairs that all of `sets` have."""
    result: dict[str, str] | None = None
    for pairs in sets:
        result = dict(pairs) if result is None else {k: v for k, v in result.items() if pairs.get(k) == v}
    return dict(sorted((result or {}).items()))


def display_order(alert: Alert) -> tuple[str, str, list[tuple[str, str]]]:
    """Return the sort key of alerts within a message: job, instance, then all labels."""
    return alert.labels.get("job", ""), alert.labels.get("instance", ""), sorted(alert.labels.items())


def go_quote_meta(text: str) -> str:
    r"""Return `text` with the characters escaped that Go's regexp.QuoteMeta escapes: `team.x` -> `team\.x`."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)
