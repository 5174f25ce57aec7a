"""The loop: alerts in, groups looked at when they are due, messages into the outbox.

Only this module knows the order in which the pure parts are asked.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from tocsin_alerting import dedup, intake, routing
from tocsin_alerting.config import Config, Integration
from tocsin_alerting.deliver import Courier
from tocsin_alerting.grouping import Group, Groups
from tocsin_alerting.model import Alert, Notification, display_order, merge
from tocsin_alerting.storage import Change, Storage
from tocsin_alerting.tables import LaneKey
from tocsin_alerting.telemetry import Telemetry
from tocsin_service.clock import Clock

REMEMBER_EVERY: Final = 10.0
"""Seconds between writes of the ends last heard of: a start after a crash knows them this well."""
SWEEP_EVERY: Final = 1800.0
"""Seconds between forgetting what has ended."""
RETENTION: Final = 432_000.0
"""Seconds that finished messages and silent groups are kept, at least."""


class Dispatcher:
    """Holds the alerts and their groups.

    Args:
        external_url: where this router is reached, for links in messages.
    """

    def __init__(
        self,
        config: Config,
        *,
        storage: Storage,
        courier: Courier,
        clock: Clock,
        telemetry: Telemetry,
        external_url: str,
    ) -> None:
        self.config = config
        self.groups = Groups(config.root)
        self._storage = storage
        self._courier = courier
        self._clock = clock
        self._telemetry = telemetry
        self._external_url = external_url
        self._alerts: dict[intake.Identity, Alert] = {}
        self._told: set[str] = set()
        self._heard: dict[str, Alert] = {}
        self._news = asyncio.Event()
        self._ticking = asyncio.Lock()
        self._remember_at = self._sweep_at = 0.0

    # --- in -----------------------------------------------------------------------------------------------------

    def accept(self, posted: Sequence[intake.Timed]) -> list[str]:
        """Take in the alerts of a request and return what is wrong with those that are refused.

        No group is looked at before all of them are in: this neither waits nor gives way.
        """
        now = self._clock.now()
        problems: list[str] = []
        for timed in posted:
            try:
                alert = intake.read(timed, self._alerts, now=now, resolve_timeout=self.config.resolve_timeout)
            except intake.InvalidAlertError as error:
                problems.append(str(error))
                continue
            self._keep(alert, now)
        firing = sum(intake.is_firing(timed, now) for timed in posted)
        self._telemetry.received(firing=firing, resolved=len(posted) - firing, invalid=len(problems))
        self._news.set()
        return problems

    def _keep(self, alert: Alert, now: float) -> None:
        name = intake.identity(alert.labels)
        stored = self._alerts.get(name)
        known = alert if stored is None else merge(stored, alert, now)
        self._alerts[name] = known
        self.groups.insert(known, now)
        if known.fingerprint in self._told:
            self._heard[known.fingerprint] = known

    def alerts(self) -> Iterator[Alert]:
        """Yield the alerts that fire."""
        now = self._clock.now()
        return (alert for alert in self._alerts.values() if not alert.resolved(now))

    # --- the loop -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at groups when they are due, for ever."""
        while True:
            now = self._clock.now()
            instants = [self._sweep_at, *([self._remember_at] if self._heard else [])]
            if self.groups.next_due is not None:
                instants.append(self.groups.next_due)
            await self._clock.wait(self._news, min(instants) - now)
            self._news.clear()
            try:
                # Shielded: a tick that has begun is finished; `drain` waits for it.
                await asyncio.shield(self.tick())
                await self._chores()
            except (SQLAlchemyError, OSError) as error:
                self._telemetry.database_failed(error)
                await self._clock.sleep(1.0)

    async def tick(self) -> None:
        """Look at all groups that are due, and write what receivers are to be told."""
        async with self._ticking:
            now = self._clock.now()
            looks = [self._look(group, now) for group in self.groups.due(now)]
            if not looks:
                return

            def decide(lanes: Mapping[LaneKey, dedup.Lane]) -> list[Change]:
                return [change for look in looks for change in self._changes(look, lanes)]

            changes = await self._storage.tick((look.group.key for look in looks), decide, now=now)
            for look in looks:
                self.groups.ticked(look.group, look.resolved, now)
            for change in changes:
                if isinstance(change.plan, dedup.Send):
                    self._told |= change.plan.told.firing
                self._courier.wake([change.lane], due=change.due)
            for look in looks:
                if not self._courier.busy(look.group.key):
                    self.groups.settled(look.group.key, told=True)

    def _look(self, group: Group, now: float) -> _Look:
        alerts = sorted(group.alerts.values(), key=display_order)
        firing = tuple(alert for alert in alerts if not alert.resolved(now))
        return _Look(group, now, firing, tuple(alert for alert in alerts if alert.resolved(now)))

    def _changes(self, look: _Look, lanes: Mapping[LaneKey, dedup.Lane]) -> Iterator[Change]:
        """Decide for each integration of the group's receiver."""
        group = look.group
        for integration in self.config.receivers[group.route.receiver].integrations:
            lane = LaneKey(group.key, group.route.receiver, integration.kind, integration.position)
            tick = dedup.Tick(
                now=look.now,
                firing=frozenset(alert.fingerprint for alert in look.firing),
                resolved=frozenset(alert.fingerprint for alert in look.resolved),
                send_resolved=integration.settings.send_resolved,
                repeat_interval=group.route.repeat_interval,
            )
            plan = dedup.plan(lanes.get(lane, dedup.Lane()), tick)
            yield Change(lane, plan, group.due, self._writer(look, lane, integration))

    def _writer(self, look: _Look, lane: LaneKey, integration: Integration) -> _Writer:
        return _Writer(look, lane, self._external_url, integration.settings.send_resolved)

    def ended(self, group_key: str, told: bool) -> None:
        """Take note that the messages about a group have come to an end; see `Groups.settled`."""
        self.groups.settled(group_key, told=told)

    async def _chores(self) -> None:
        now = self._clock.now()
        if now >= self._remember_at:
            self._remember_at = now + REMEMBER_EVERY
            await self.remember()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY
            self._alerts = {name: alert for name, alert in self._alerts.items() if not alert.resolved(now)}
            repeat = max(route.repeat_interval for route in routing.walk(self.config.root))
            before = now - RETENTION
            # A lane must be remembered until its next repeat, however far off; its messages need not.
            self._told &= await self._storage.sweep(finished_before=before, silent_since=min(before, now - 2 * repeat))

    async def remember(self) -> None:
        """Write the ends last heard of, of alerts that somebody was told of."""
        heard, self._heard = self._heard, {}
        try:
            await self._storage.remember(heard.values())
        except BaseException:
            self._heard = heard | self._heard
            raise

    # --- start and reload ---------------------------------------------------------------------------------------

    async def recall(self) -> None:
        """Put back what a former process told, and carry on with what it left undone."""
        remembered = await self._storage.recall()
        now = self._clock.now()
        for alert in remembered.alerts:
            restored = patient(alert, now)
            self._told.add(alert.fingerprint)
            # What was posted since is newer than what is remembered.
            if self._alerts.setdefault(intake.identity(alert.labels), restored) is restored:
                self.groups.restore(restored, remembered.last, now)
        self._courier.resume(remembered.pending)

    async def reload(self, config: Config) -> None:
        """Route the same alerts by another configuration; timers and messages under way go on."""
        async with self._ticking:
            self.config = config
            self.groups = self.groups.rebuilt(config.root, self.alerts(), self._clock.now())
            self._news.set()


@dataclass(frozen=True, slots=True)
class _Look:
    """A group as a tick found it."""

    group: Group
    now: float
    firing: tuple[Alert, ...]
    resolved: tuple[Alert, ...]


@dataclass(frozen=True, slots=True)
class _Writer:
    """Makes the message of one lane, once its number is known."""

    look: _Look
    lane: LaneKey
    external_url: str
    send_resolved: bool

    def __call__(self, key: str, plan: dedup.Send) -> Notification:
        resolved = self.look.resolved if self.send_resolved else ()
        return Notification(
            key=key,
            group_key=self.lane.group_key,
            group_labels=self.look.group.labels,
            receiver=self.lane.receiver,
            integration=self.lane.integration,
            reason=plan.reason,
            now=self.look.now,
            alerts=(*self.look.firing, *(a for a in resolved if a.fingerprint in plan.told.resolved)),
            external_url=self.external_url,
        )


def patient(alert: Alert, now: float) -> Alert:
    """Return a remembered alert with time to be heard of again.

    While we were away nobody could tell us that it goes on. Whoever sends alerts gives them an end well after the
    next time they are sent (Prometheus: four times as long), so half that time from now is enough.
    """
    if alert.ends_at <= alert.updated_at:
        return alert
    return dataclasses.replace(alert, ends_at=max(alert.ends_at, now + (alert.ends_at - alert.updated_at) / 2))
