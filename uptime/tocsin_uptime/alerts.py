"""Alerts as an Alertmanager v2 API takes them, and which of them a router is owed now. Pure.

A firing alert is posted again every `resend` seconds with an end four times as far away, so that a router which
misses a few posts does not close it, and closes it by itself when the prober is gone. A resolved alert is posted
until it was accepted once, and again for `RESOLVED_RESENT` seconds, in case the router forgot it in a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote

from tocsin_service import durations
from tocsin_service.clock import rfc3339
from tocsin_uptime.check import Check
from tocsin_uptime.result import Result

ALERTNAME: Final = "ProbeDown"
RESOLVED_RESENT: Final = 300.0
"""Seconds after a recovery during which it is posted again."""

Key = tuple[tuple[str, str], ...]
"""An alert's labels, sorted: who it is."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One outage of one check.

    Attributes:
        starts_at: Unix seconds of the first failure.
        ends_at: Unix seconds of the recovery; None while it lasts.
    """

    labels: Key
    annotations: Mapping[str, str]
    starts_at: float
    generator_url: str
    ends_at: float | None = None

    def payload(self, now: float, resend: float) -> dict[str, object]:
        """Return the JSON object of `POST /api/v2/alerts`."""
        ends_at = now + 4 * resend if self.ends_at is None else self.ends_at
        # A router refuses an alert that ends before it starts, which a clock that was set back would make.
        starts_at = min(self.starts_at, now if self.ends_at is None else self.ends_at)
        return {
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
            "startsAt": rfc3339(starts_at),
            "endsAt": rfc3339(ends_at),
            "generatorURL": self.generator_url,
        }


def firing(check: Check, result: Result | None, since: float, external_url: str) -> Alert:
    """Return the alert for a check that is down since `since`, told by its last result."""
    sentence = result.sentence if result is not None and result.sentence else "the last probe failed"
    annotations = {"summary": f"{check.name} is down: {sentence}", "description": _description(check, result)}
    if check.runbook:
        annotations["runbook_url"] = check.runbook
    link = f"{external_url.rstrip('/')}/checks/{quote(check.name, safe='')}"
    return Alert(key(check), annotations, since, link)


def resolved(alert: Alert, check: Check, until: float) -> Alert:
    """Return `alert` ended at `until`."""
    lasted = durations.human(max(0.0, until - alert.starts_at))
    summary = f"{check.name} is up again after {lasted}; the failure was: " + alert.annotations["summary"].removeprefix(
        f"{check.name} is down: "
    )
    return replace(alert, ends_at=until, annotations={**alert.annotations, "summary": summary})


def key(check: Check) -> Key:
    """Return the labels of a check's alert."""
    own = {"alertname": ALERTNAME, "service": check.service, "check": check.name, "severity": check.severity}
    return tuple(sorted({**check.labels, **own}.items()))


def _description(check: Check, result: Result | None) -> str:
    lines = [f"Target: {check.target.shown}"]
    if result is not None:
        phases = ", ".join(f"{phase} {durations.human(seconds)}" for phase, seconds in result.phases.items())
        lines.append(f"Phases: {phases or 'none'}; {durations.human(result.duration)} in all")
        if result.excerpt:
            lines.append(f"The answer began: {result.excerpt}")
    return "\n".join(lines)


@dataclass(slots=True)
class Board:
    """The alerts that every router should know, by their labels."""

    alerts: dict[Key, Alert] = field(default_factory=dict)

    def post(self, alert: Alert) -> bool:
        """Put up `alert` in place of an earlier one with its labels; return whether its state is news."""
        before = self.alerts.get(alert.labels)
        self.alerts[alert.labels] = alert
        return before is None or _state(before) != _state(alert)

    def prune(self, receipts: Iterable[Receipts], now: float) -> None:
        """Take down resolved alerts that every router has accepted and that were repeated long enough."""
        every = list(receipts)
        for labels, alert in list(self.alerts.items()):
            told = all(receipt.knows(alert) for receipt in every)
            if alert.ends_at is not None and told and now >= alert.ends_at + RESOLVED_RESENT:
                del self.alerts[labels]
                for receipt in every:
                    receipt.accepted.pop(labels, None)


@dataclass(slots=True)
class Receipts:
    """What one router has accepted: labels -> (state of the alert, when)."""

    resend: float
    accepted: dict[Key, tuple[tuple[float, float | None], float]] = field(default_factory=dict)

    def knows(self, alert: Alert) -> bool:
        """Return whether the router has accepted `alert` in its present state."""
        return alert.labels in self.accepted and self.accepted[alert.labels][0] == _state(alert)

    def owed(self, board: Board, now: float) -> list[Alert]:
        """Return the alerts to post now."""
        return [alert for alert in board.alerts.values() if (at := self._due(alert)) is not None and at <= now]

    def next_due(self, board: Board) -> float | None:
        """Return when the next alert is to be posted, or None when nothing is."""
        return min((at for alert in board.alerts.values() if (at := self._due(alert)) is not None), default=None)

    def accept(self, alerts: Iterable[Alert], now: float) -> None:
        """Note that the router took `alerts`."""
        for alert in alerts:
            self.accepted[alert.labels] = (_state(alert), now)

    def _due(self, alert: Alert) -> float | None:
        if not self.knows(alert):
            return 0.0
        again = self.accepted[alert.labels][1] + self.resend
        if alert.ends_at is not None and again > alert.ends_at + RESOLVED_RESENT:
            return None
        return again


def _state(alert: Alert) -> tuple[float, float | None]:
    """Return what of an alert a router must not miss; annotations may change without a post of their own."""
    return alert.starts_at, alert.ends_at
