"""From a snapshot to what the page says; pure, so that its words are tested without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tocsin_service.clock import parse_rfc3339
from tocsin_service.durations import human
from tocsin_stack.console.sources import Alert, Check, Notification, Snapshot, Traffic

_SEVERITIES = ("page", "critical", "ticket", "warning", "info", "none")
_QUIET = frozenset({"info", "none"})
"""Severities that say nothing is broken (the always-firing Watchdog has `none`)."""

_BAR_HEIGHT = 24.0
_BAR_WIDTH = 4


@dataclass(frozen=True, slots=True)
class Bar:
    """One probe in the history of a check, as a rectangle of an SVG."""

    x: int
    y: float
    height: float
    kind: str
    """`up` or `down`, also the CSS class."""
    title: str


@dataclass(frozen=True, slots=True)
class CheckRow:
    name: str
    service: str
    target: str
    state: str
    since: str
    sentence: str
    uptime: str
    bars: tuple[Bar, ...]
    width: int


@dataclass(frozen=True, slots=True)
class AlertRow:
    name: str
    service: str
    severity: str
    since: str
    summary: str
    description: str
    labels: tuple[tuple[str, str], ...]
    runbook: str
    source: str


@dataclass(frozen=True, slots=True)
class ServiceRow:
    name: str
    state: str
    """up, down, degraded or unknown."""
    why: str
    rate: str
    errors: str
    p95: str
    checks: str


@dataclass(frozen=True, slots=True)
class NotificationRow:
    ago: str
    title: str
    state: str
    receiver: str
    error: str


@dataclass(frozen=True, slots=True)
class Page:
    """All of the front page."""

    verdict: str
    tone: str
    """ok, bad or unknown."""
    alerts: tuple[AlertRow, ...]
    services: tuple[ServiceRow, ...]
    checks: tuple[CheckRow, ...]
    notifications: tuple[NotificationRow, ...]
    missing: tuple[str, ...]


def page(snapshot: Snapshot, now: float) -> Page:
    """Say what is wrong, since when, and what is known of each service; worst first."""
    loud = [alert for alert in snapshot.alerts if alert.labels.get("severity", "") not in _QUIET]
    loud.sort(key=lambda alert: (_rank(alert.labels.get("severity", "")), alert.startsAt))
    services = _services(snapshot, loud)
    verdict, tone = _verdict(loud, snapshot, now)
    return Page(
        verdict=verdict,
        tone=tone,
        alerts=tuple(_alert(alert, now) for alert in loud),
        services=services,
        checks=tuple(_check(check, now) for check in sorted(snapshot.checks, key=lambda c: (c.state == "up", c.name))),
        notifications=tuple(_notification(item, now) for item in snapshot.notifications),
        missing=snapshot.missing,
    )


def ago(text: str, now: float) -> str:
    """Return how long ago an RFC 3339 time is, for a person; the text itself where it is none."""
    try:
        return human(max(0.0, now - parse_rfc3339(text)))
    except ValueError:
        return text


def _verdict(loud: Sequence[Alert], snapshot: Snapshot, now: float) -> tuple[str, str]:
    if loud:
        hurt = sorted({alert.labels.get("service", "") for alert in loud} - {""})
        who = f" in {', '.join(hurt)}" if hurt else ""
        first = min(alert.startsAt for alert in loud)
        count = "1 alert is" if len(loud) == 1 else f"{len(loud)} alerts are"
        return f"{count} firing{who}, the first since {ago(first, now)}.", "bad"
    doubt = _doubt(snapshot)
    return (doubt, "unknown") if doubt else ("All is well.", "ok")


def _doubt(snapshot: Snapshot) -> str:
    """Return why, though no alert is firing, all may not be well; empty when it is."""
    if snapshot.missing:
        return "Not all parts can be asked, so this page may miss something."
    for check in snapshot.checks:
        if check.state in {"down", "degraded"}:
            return f"No alert is firing, but {check.name} is {check.state}."
        if check.last is not None and not check.last.success:
            return f"No alert is firing, but {check.name} failed and is being tried again."
    if snapshot.checks and not any(check.last for check in snapshot.checks):
        return "Waiting for the first results."
    return "" if snapshot.checks or snapshot.traffic else "Nothing is watched yet."


def _services(snapshot: Snapshot, loud: Sequence[Alert]) -> tuple[ServiceRow, ...]:
    known = {check.service for check in snapshot.checks} | set(snapshot.traffic)
    rows = [
        _service(
            name,
            [check for check in snapshot.checks if check.service == name],
            snapshot.traffic.get(name, Traffic()),
            [alert for alert in loud if alert.labels.get("service") == name],
        )
        for name in sorted(known)
    ]
    return tuple(sorted(rows, key=lambda row: row.state == "up"))


def _service(name: str, checks: Sequence[Check], traffic: Traffic, alerts: Sequence[Alert]) -> ServiceRow:
    down = [check.name for check in checks if check.state == "down"]
    well = sum(check.state == "up" for check in checks)
    if down or traffic.up is False:
        state, why = "down", f"{', '.join(down)} down" if down else "its metrics cannot be read"
    elif alerts:
        state, why = "degraded", ", ".join(sorted({alert.labels.get("alertname", "") for alert in alerts}))
    elif well == len(checks) and (checks or traffic.up):
        state, why = "up", ""
    else:
        failed = [check.name for check in checks if check.last is not None and not check.last.success]
        state, why = "unknown", f"{failed[0]} failed once" if failed else "waiting for the first results"
    return ServiceRow(
        name=name,
        state=state,
        why=why,
        rate="" if traffic.rate is None else f"{traffic.rate:.1f}/s",
        errors="" if traffic.errors is None else f"{100 * traffic.errors:.1f} %",
        p95="" if traffic.p95 is None else f"{1000 * traffic.p95:.0f} ms",
        checks=f"{well} of {len(checks)} up" if checks else "",
    )


def _check(check: Check, now: float) -> CheckRow:
    return CheckRow(
        name=check.name,
        service=check.service,
        target=check.target,
        state=check.state,
        since=ago(check.since, now),
        sentence=check.last.sentence if check.last else "waiting for the first probe",
        uptime="" if check.uptime_24h is None else f"{100 * check.uptime_24h:.2f} %",
        bars=_bars(check, now),
        width=max(len(check.history), 1) * (_BAR_WIDTH + 1),
    )


def _bars(check: Check, now: float) -> tuple[Bar, ...]:
    """Bars as high as their duration, the slowest at full height; a failure is always at full height."""
    slowest = max((sample.duration for sample in check.history), default=0.0) or 1.0
    bars = []
    for index, sample in enumerate(check.history):
        share = sample.duration / slowest if sample.success else 1.0
        height = round(max(3.0, _BAR_HEIGHT * share), 1)
        outcome = f"{1000 * sample.duration:.0f} ms" if sample.success else f"failed: {sample.reason}"
        title = f"{ago(sample.at, now)} ago: {outcome}"
        kind = "up" if sample.success else "down"
        bars.append(Bar(index * (_BAR_WIDTH + 1), round(_BAR_HEIGHT - height, 1), height, kind, title))
    return tuple(bars)


def _alert(alert: Alert, now: float) -> AlertRow:
    labels = alert.labels
    shown = {"alertname", "service", "severity"}
    return AlertRow(
        name=labels.get("alertname", "alert"),
        service=labels.get("service", ""),
        severity=labels.get("severity", ""),
        since=ago(alert.startsAt, now),
        summary=alert.annotations.get("summary", ""),
        description=alert.annotations.get("description", ""),
        labels=tuple(sorted((name, value) for name, value in labels.items() if name not in shown)),
        runbook=_link(alert.annotations.get("runbook_url", "")),
        source=_link(alert.generatorURL),
    )


def _link(url: str) -> str:
    """Return `url` only if a browser may follow it: alerts come from anywhere, `javascript:` included."""
    return url if url.startswith(("http://", "https://")) else ""


def _notification(item: Notification, now: float) -> NotificationRow:
    return NotificationRow(ago(item.at, now), item.title, item.state, item.receiver, item.error or "")


def _rank(severity: str) -> int:
    return _SEVERITIES.index(severity) if severity in _SEVERITIES else len(_SEVERITIES)
