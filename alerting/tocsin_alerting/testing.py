"""For tests of and with the alert router: alerts from a few words, a router on a free port, a timeline of ticks."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry

from tocsin_alerting import dedup
from tocsin_alerting import extras as extra
from tocsin_alerting.alerts import Entry
from tocsin_alerting.config import Config, load
from tocsin_alerting.grouping import GroupId, Groups
from tocsin_alerting.look import look
from tocsin_alerting.model import Alert, Notification, Reason, fingerprint
from tocsin_alerting.muting import HEARD, Cause, Verdict
from tocsin_alerting.options import Options
from tocsin_alerting.router import Router
from tocsin_alerting.routing import Route
from tocsin_service import run, web
from tocsin_service.clock import Clock
from tocsin_service.settings import Document

NOW = 1_763_856_000.0
"""2025-11-23 00:00:00 UTC, where `FakeClock` starts."""


def config(text: str, *, folder: Path = Path(), extras: str = "") -> Config:
    """Read a configuration, and the text of a `--tocsin.config` file."""
    more = extra.load(Document.parse(extras, folder=folder)) if extras else None
    return load(Document.parse(text, folder=folder), extras=more)


def alert(
    name: str = "Down", *, start: float = NOW, end: float = NOW + 3600, updated: float | None = None, **labels: str
) -> Alert:
    """Return an alert; labels are keyword arguments, a `summary` is an annotation."""
    notes = ("summary", "description", "runbook_url")
    annotations: dict[str, str] = {key: labels.pop(key) for key in notes if key in labels}
    every = dict(sorted({"alertname": name, **labels}.items()))
    heard = start if updated is None else updated
    return Alert(every, annotations, start, end, heard, fingerprint(every))


def notification(
    *alerts: Alert, reason: Reason = Reason.FIRST, now: float = NOW + 30, key: str = "k", **group_labels: str
) -> Notification:
    """Return a message about `alerts` for the receiver `team`."""
    return Notification(
        key=key,
        group_key=f"{{}}:{sorted(group_labels.items())}",
        group_labels=group_labels,
        receiver="team",
        integration="webhook",
        reason=reason,
        now=now,
        alerts=alerts,
        external_url="http://router:9093",
    )


def entry(alert: Alert, *routes: Route, received: float | None = None) -> Entry:
    """Return the cell of an alert that `routes` handle."""
    return Entry(alert, received_at=alert.starts_at if received is None else received, routes=routes)


class Unmuted:
    """Mutes nothing, except what tests put into it: silenced alertnames, and whether the time mutes."""

    def __init__(self) -> None:
        self.silenced: set[str] = set()
        self.acked: set[str] = set()
        self.night = False

    def verdict(self, entry: Entry, now: float) -> Verdict:
        """Return a verdict that names a silence."""
        return Verdict(silenced_by=("s1",)) if entry.alert.labels["alertname"] in self.silenced else HEARD

    def timing(self, route: Route, now: float) -> tuple[Cause | None, tuple[str, ...], float | None]:
        """Return whether it is night."""
        return (Cause.MUTE_TIME, ("night",), None) if self.night else (None, (), None)

    def acknowledged(self, labels: Mapping[str, str], now: float, *, fingerprint: str | None = None) -> object | None:
        """Return something true for acknowledged alertnames."""
        return labels["alertname"] in self.acked or None


@dataclass
class Timeline:
    """One route under a virtual clock, every message delivered at once: `at(instant, alert)`, then `messages()`."""

    route: Route
    send_resolved: bool = True
    at_once: bool = False
    start: float = NOW
    mutes: Unmuted = field(default_factory=Unmuted)
    sent: list[tuple[float, Reason, frozenset[str], frozenset[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.groups = Groups()
        self._told: dict[GroupId, dedup.Told] = {}
        self._entries: dict[str, Entry] = {}

    def at(self, seconds: float, *alerts: Alert) -> None:
        """Let time pass until `seconds` after the start, then post `alerts`."""
        self.run(seconds)
        for item in alerts:
            cell = self._entries.setdefault(item.fingerprint, entry(item, self.route))
            cell.alert = item
            self.groups.insert(cell, self.start + seconds)

    def run(self, seconds: float) -> list[tuple[float, str, int, int]]:
        """Let time pass until just before `seconds`; return all messages: (seconds, reason, firing, resolved)."""
        while (due := self.groups.next_due) is not None and due < self.start + seconds:
            self._tick(due)
        return [(at - self.start, str(why), len(firing), len(resolved)) for at, why, firing, resolved in self.sent]

    def _tick(self, now: float) -> None:
        for group in self.groups.due(now):
            found = look(group, self.mutes, now)
            told = self._told.get(group.id)
            tick = found.tick(send_resolved=self.send_resolved, at_once=self.at_once)
            plan = dedup.plan(dedup.Lane(intended=told, told=told), tick)
            if isinstance(plan, dedup.Send):
                self.sent.append((now, plan.reason, plan.told.firing, plan.told.resolved))
            if not isinstance(plan, dedup.Leave) and plan.told is not None:
                told = self._told[group.id] = plan.told
            owed = told.owed if told else frozenset()
            held = {alert.fingerprint for alert in found.held} & owed
            self.groups.ticked(group, found.ended - held, now)
            self.groups.settled(group.id, told=True)


@dataclass(frozen=True, slots=True)
class Served:
    """A router that answers at `url`."""

    router: Router
    url: str
    client: httpx.AsyncClient
    registry: CollectorRegistry
    running: run.Running

    async def post(self, *alerts: dict[str, object]) -> httpx.Response:
        """Post alerts as JSON members."""
        return await self.client.post("/api/v2/alerts", json=list(alerts))

    async def notifications(self) -> list[dict[str, object]]:
        """Return what `GET /api/v1/notifications` answers."""
        answer = await self.client.get("/api/v1/notifications")
        found: list[dict[str, object]] = answer.json()
        return found

    async def abandon(self) -> None:
        """Stop everything at once, as kill -9 would, except that sockets and the database are let go of."""
        for task in self.running.tasks:
            task.cancel()
        self.router._courier.abandon()


@contextlib.asynccontextmanager
async def serving(
    text: str,
    *,
    database_url: str,
    clock: Clock | None = None,
    terminal: Callable[[str], None] | None = None,
    folder: Path = Path(),
    listener: socket.socket | None = None,
    extras: str = "",
    options: Options | None = None,
) -> AsyncIterator[Served]:
    """Run a router on a free port of loopback; it is stopped in order at the end.

    Args:
        extras: the text of a `--tocsin.config` file.
    """
    registry = CollectorRegistry()
    listener = listener or web.bind(web.Address("127.0.0.1", 0))
    url = web.bound(listener).url
    router = Router(
        config(text, folder=folder, extras=extras),
        database_url=database_url,
        options=dataclasses.replace(options or Options(), external_url=url),
        clock=clock,
        registry=registry,
        terminal=terminal,
    )
    running = run.Running(router.service(listener))
    async with httpx.AsyncClient(base_url=url) as client:
        try:
            await running.start()
            yield Served(router, url, client, registry, running)
        finally:
            await running.stop()
            await running.service.close()
            listener.close()
