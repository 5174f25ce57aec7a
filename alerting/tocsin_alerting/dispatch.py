"""The loop: alerts in, groups looked at when they are due, messages into the outbox.

Only this module knows the order in which the pure parts are asked. Every replica keeps the alerts and their groups;
the one that leads looks at them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from tocsin_alerting import dedup, routing
from tocsin_alerting.acks import Acks
from tocsin_alerting.alerts import Book, Entry, Taken
from tocsin_alerting.config import Config, Integration
from tocsin_alerting.deliver import Courier
from tocsin_alerting.grouping import Group, GroupId, Groups, rhythm
from tocsin_alerting.inhibition import Inhibitor
from tocsin_alerting.leadership import DATABASE_ERRORS
from tocsin_alerting.look import Look, look
from tocsin_alerting.model import Alert, Incoming, Notification, display_order
from tocsin_alerting.muting import Muter
from tocsin_alerting.options import Options
from tocsin_alerting.outbox import Change, Decision, DeposedError, Event, Ticked
from tocsin_alerting.silence_store import Silences
from tocsin_alerting.storage import Remembered, Storage
from tocsin_alerting.tables import LaneKey
from tocsin_alerting.telemetry import Telemetry
from tocsin_service.clock import Clock

REMEMBER_EVERY: Final = 10.0
"""Seconds between writes of the ends last heard of."""
SYNC_EVERY: Final = 1.0
"""Seconds after which a replica has heard what another one was told, where several share a database."""
KEEP_LIMIT: Final = 3.0
"""Seconds that whoever sends alerts waits for the database: one replica that hangs must not hold up the senders."""
FOLLOWER_MEMORY: Final = 900.0
"""Seconds that a replica that does not lead keeps ended alerts in its groups."""


class NotDurableError(OSError):
    """Alerts were taken, but could not be written down: whoever sent them should send them again."""


class Dispatcher:
    """Holds the alerts and their groups.

    Args:
        deposed: called when the database says that another replica leads.
    """

    def __init__(
        self,
        config: Config,
        *,
        options: Options,
        storage: Storage,
        silences: Silences,
        acks: Acks,
        courier: Courier,
        deposed: Callable[[], None],
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self.config = config
        self._deposed = deposed
        self.groups = Groups()
        self.book = Book(config.root, per_alertname_limit=options.per_alertname_limit)
        self.muter = Muter(silences, acks, Inhibitor(config.inhibit_rules), config.intervals)
        self.epoch: int | None = None
        """As whom this replica decides; None while another leads."""
        self._options = options
        self._storage = storage
        self._silences = silences
        self._acks = acks
        self._courier = courier
        self._clock = clock
        self._telemetry = telemetry
        self._owed: dict[GroupId, frozenset[str]] = {}
        self._said: dict[LaneKey, str] = {}
        self._unkept: dict[str, Entry] = {}
        self._gone: list[GroupId] = []
        self._news = asyncio.Event()
        self._ticking = asyncio.Lock()
        self._mark = 0.0
        self._begins_at = clock.now() + options.start_delay
        self._next = dict.fromkeys(("remember", "sync"), 0.0) | {"sweep": clock.now() + options.gc_interval}

    # --- in -----------------------------------------------------------------------------------------------------

    async def post(self, body: bytes) -> list[str]:
        """Take in the alerts of a request and return what is wrong with those that are refused.

        No group is looked at before all of them are in, and what is new is in the database when this returns.

        Raises:
            tocsin_alerting.intake.RefusedError: nothing of it can be taken.
            NotDurableError: the database could not be used.
        """
        begun = time.perf_counter()
        problems = await self._taken(self.book.take(body, self._clock.now(), self.config.resolve_timeout))
        self._telemetry.processed(time.perf_counter() - begun)
        return problems

    async def accept(self, incoming: Sequence[Incoming]) -> list[str]:
        """Take in alerts of our own sources; see `post`."""
        return await self._taken(self.book.take_values(incoming, self._clock.now(), self.config.resolve_timeout))

    async def _taken(self, taken: Taken) -> list[str]:
        now = self._clock.now()
        self._telemetry.received(
            firing=taken.firing,
            resolved=taken.resolved,
            invalid=len(taken.problems),
            limited=taken.limited,
            limit=self._options.per_alertname_limit,
        )
        for entry in taken.news:
            self._enter(entry, now)
        if taken.news:
            self._news.set()
            await self._write_down()
        return taken.problems

    def _enter(self, entry: Entry, now: float) -> None:
        self.groups.insert(entry, now)
        self.muter.inhibitor.add(entry)
        self._unkept[entry.alert.fingerprint] = entry

    async def _write_down(self) -> None:
        entries, self._unkept = self._unkept, {}
        if not entries:
            return
        try:
            async with asyncio.timeout(KEEP_LIMIT):
                await self._storage.keep(list(entries.values()), now=self._clock.now())
        except BaseException as error:
            self._unkept = entries | self._unkept
            if not isinstance(error, DATABASE_ERRORS):
                raise
            self._telemetry.database_failed(error)
            raise NotDurableError(
                "the alerts were taken, but the database cannot be written; send them again"
            ) from error

    def alerts(self) -> Iterator[Alert]:
        """Yield the alerts that fire."""
        now = self._clock.now()
        return (entry.alert for entry in self.book.entries.values() if not entry.alert.resolved(now))

    # --- the loop -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at groups when they are due, for ever."""
        while True:
            now = self._clock.now()
            await self._clock.wait(self._news, max(0.0, self._wake_at() - now))
            self._news.clear()
            try:
                # Shielded: a tick that has begun is finished; `drain` waits for it.
                await asyncio.shield(self.tick())
                await self._chores()
            except DeposedError:
                self._deposed()
            except (*DATABASE_ERRORS, NotDurableError) as error:
                self._telemetry.database_failed(error)
                await self._clock.sleep(1.0)

    def _wake_at(self) -> float:
        instants = [self._next["sweep"], self._next["remember"]]
        if self._storage.shared:
            instants.append(self._next["sync"])
        if self.epoch is not None and self.groups.next_due is not None:
            instants.append(max(self.groups.next_due, self._begins_at))
        return min(instants)

    async def tick(self) -> None:
        """Look at all groups that are due, and write what receivers are to be told."""
        async with self._ticking:
            if self.epoch is None or self._clock.now() < self._begins_at or not self.groups.due(self._clock.now()):
                return
            if self._storage.shared:
                # A silence that was answered before this instant, by whichever replica, holds.
                await self._silences.refresh()
                await self._acks.refresh()
            now = self._clock.now()
            looks = [look(group, self.muter, now) for group in self.groups.due(now)]
            plans: dict[LaneKey, dedup.Lane] = {}

            def decide(lanes: Mapping[LaneKey, dedup.Lane]) -> Decision:
                plans.update(lanes)
                changes = [change for found in looks for change in self._changes(found, lanes)]
                anchors = {found.group.id: now for found in looks if not found.group.ticked}
                return Decision(changes, self._events(looks, changes), anchors, tuple(self._gone))

            gone = len(self._gone)
            ticked = await self._storage.tick(
                (found.group.key for found in looks),
                decide,
                now=now,
                epoch=self.epoch,
                at_once=self._courier.ready(lane for found in looks for lane in self._lanes(found.group)),
            )
            del self._gone[:gone]
            self._after(looks, ticked, plans, now)

    def _lanes(self, group: Group) -> Iterator[LaneKey]:
        receiver = self.config.receivers.get(group.route.receiver)
        for integration in receiver.integrations if receiver else ():
            yield LaneKey(group.key, group.route.receiver, integration.kind, integration.position)

    def _after(self, looks: Sequence[Look], ticked: Ticked, lanes: Mapping[LaneKey, dedup.Lane], now: float) -> None:
        owed: dict[GroupId, frozenset[str]] = {found.group.id: frozenset() for found in looks}
        for lane, state in lanes.items():
            if lane.group in owed:
                owed[lane.group] |= state.owed
        for change in ticked.changes:
            if isinstance(change.plan, dedup.Send | dedup.Note) and change.plan.told is not None:
                owed[change.lane.group] |= change.plan.told.owed
        self._owed |= owed
        replaced = sum(1 for change in ticked.changes if lanes.get(change.lane, dedup.Lane()).pending)
        self._telemetry.coalesced(replaced)
        for found in looks:
            held = {alert.fingerprint for alert in found.held} & owed[found.group.id]
            self._telemetry.suppressed(found.suppressed)
            self.groups.ticked(found.group, found.ended - held, now)
        for change in ticked.changes:
            self._courier.wake(change.lane, due=change.due, handed=ticked.handed.get(change.lane))
        for found in looks:
            if not self._courier.busy(found.group.id):
                self.ended(found.group.id, told=True)

    def _changes(self, found: Look, lanes: Mapping[LaneKey, dedup.Lane]) -> Iterator[Change]:
        """Decide for each integration of the group's receiver."""
        group = found.group
        receiver = self.config.receivers.get(group.route.receiver)
        at_once = self.config.extras.resolves_at_once(group.route.receiver)
        for integration in receiver.integrations if receiver else ():
            lane = LaneKey(group.key, group.route.receiver, integration.kind, integration.position)
            tick = found.tick(send_resolved=integration.settings.send_resolved, at_once=at_once)
            plan = dedup.plan(lanes.get(lane, dedup.Lane()), tick)
            yield Change(lane, plan, group.due, group.labels, self._writer(found, lane, integration, at_once=at_once))

    def _writer(self, found: Look, lane: LaneKey, integration: Integration, *, at_once: bool) -> _Writer:
        ended = found.resolved + (found.held if at_once else ())
        resolved = ended if integration.settings.send_resolved else ()
        return _Writer(found, lane, self._options.external_url, resolved)

    def _events(self, looks: Sequence[Look], changes: Sequence[Change]) -> list[Event]:
        """Return what is to be remembered of why somebody was not told, wherever it is something else than before."""
        events: list[Event] = []
        why = {found.group.id: found.why for found in looks}
        for change in changes:
            what = why[change.lane.group]
            if isinstance(change.plan, dedup.Leave) and change.plan.why is dedup.Quiet.ACKNOWLEDGED:
                what = str(change.plan.why)
            if what != self._said.get(change.lane, ""):
                events.append(Event(looks[0].now, change.lane, what or "nothing is muted any more"))
                if what:
                    self._said[change.lane] = what
                else:
                    del self._said[change.lane]
        return events

    def ended(self, group: GroupId, told: bool) -> None:
        """Take note that the messages about a group have come to an end; see `Groups.settled`."""
        gone = self.groups.settled(group, told=told)
        self._gone += [item.id for item in gone]
        for item in gone:
            self._owed.pop(item.id, None)

    # --- chores -------------------------------------------------------------------------------------------------

    async def _chores(self) -> None:
        if self._unkept:
            await self._write_down()
        if self._storage.shared and self._is_time("sync", SYNC_EVERY):
            await self._sync()
        if self._is_time("remember", REMEMBER_EVERY):
            await self.remember()
        if self._is_time("sweep", self._options.gc_interval):
            await self._sweep()

    def _is_time(self, chore: str, every: float) -> bool:
        now = self._clock.now()
        if now < self._next[chore]:
            return False
        self._next[chore] = now + every
        return True

    async def _sync(self) -> None:
        """Hear what other replicas heard."""
        await self._silences.refresh()
        await self._acks.refresh()
        heard, self._mark = await self._storage.heard_since(self._mark)
        now = self._clock.now()
        for alert, received_at in heard:
            entry = self.book.entries.get(alert.fingerprint)
            if entry is None or alert.updated_at > entry.alert.updated_at:
                restored = self.book.restore(alert, received_at)
                self.groups.insert(restored, min(received_at, now))
                self.muter.inhibitor.add(restored)
                self._news.set()
        if self.epoch is None:
            self.groups.forget(now - FOLLOWER_MEMORY)

    async def remember(self) -> None:
        """Write the ends last heard of, where the written one would soon be taken for the end, and what has ended."""
        now = self._clock.now()
        stale = [entry for entry in self.book.entries.values() if _stale(entry, now)]
        if self.epoch is not None or not self._storage.shared:
            if stale:
                await self._storage.keep(stale, now=now)
            if self._gone and self.epoch is not None:
                gone, self._gone = self._gone, []
                await self._storage.tick((), lambda _: Decision((), gone=gone), now=now, epoch=self.epoch)

    async def _sweep(self) -> None:
        now = self._clock.now()
        held = {name for group in self.groups for name in (*group.alerts, *group.strays)}
        before = now - self._options.gc_interval
        for entry in [entry for name, entry in self.book.entries.items() if name not in held]:
            if entry.alert.resolved(before):
                self.muter.inhibitor.discard(entry.alert.fingerprint)
                self.muter.forget(entry.alert.fingerprint)
                self.book.forget(entry)
        if self.epoch is not None:
            repeat = max(route.repeat_interval for route in routing.walk(self.config.root))
            old = now - self._options.retention
            # A lane must be remembered until its next repeat, however far off; its messages need not.
            await self._maintain(
                "nflog",
                self._storage.sweep(
                    finished_before=old, silent_since=min(old, now - 2 * repeat), ended_before=before - 3600.0
                ),
            )
            await self._maintain("silences", self._silences.sweep(now))
            await self._acks.sweep(now)

    async def _maintain(self, what: str, step: Awaitable[object]) -> None:
        begun = time.perf_counter()
        try:
            await step
        except DATABASE_ERRORS:
            self._telemetry.maintained(what, None)
            raise
        self._telemetry.maintained(what, time.perf_counter() - begun)

    # --- lead, follow, reload -----------------------------------------------------------------------------------

    async def lead(self, epoch: int) -> None:
        """Begin to tell receivers: go on with what another process, or a former life of this one, left."""
        await self._silences.refresh()
        await self._acks.refresh()
        remembered = await self._storage.recall()
        self._restore(remembered, self._clock.now())
        self.epoch = epoch
        self._courier.resume(remembered.pending)
        self._news.set()

    def follow(self) -> None:
        """Tell nobody any more: another replica does."""
        self.epoch = None
        self._courier.abandon()

    async def listen(self) -> None:
        """Know what there is to know without leading: for answers."""
        await self._sync()

    def _restore(self, remembered: Remembered, now: float) -> None:
        owed = {lane: state.owed for lane, state in remembered.lanes.items() if state.owed}
        waited_for = frozenset[str]().union(*owed.values())
        for alert, received_at in remembered.alerts:
            known = patient(alert, now) if alert.fingerprint in waited_for else alert
            self.muter.inhibitor.add(self.book.restore(known, received_at))
        self.groups = Groups()
        for entry in sorted(self.book.entries.values(), key=lambda entry: entry.received_at):
            if not entry.alert.resolved(now):
                self.groups.insert(entry, min(entry.received_at, now))
        root = self.config.root
        self._owed = {}
        for lane, names in owed.items():
            anchor = remembered.anchors.get(lane.group)
            due = now if anchor is None else rhythm(min(anchor, now), root.group_interval, now)
            self._owed[lane.group] = self._owed.get(lane.group, frozenset()) | names
            for held in (self.book.entries.get(name) for name in sorted(names)):
                if held is not None:
                    self.groups.keep(lane.group, remembered.labels.get(lane.group, {}), held, due, root)
        self.groups.resume(remembered.anchors, now)

    async def reload(self, config: Config) -> None:
        """Route the same alerts by another configuration; timers and messages under way go on."""
        async with self._ticking:
            now = self._clock.now()
            self.config = config
            self.book.reroute(config.root)
            inhibitor = Inhibitor(config.inhibit_rules)
            for entry in self.book.entries.values():
                inhibitor.add(entry)
            self.muter = Muter(self._silences, self._acks, inhibitor, config.intervals)
            firing = (entry for entry in self.book.entries.values() if not entry.alert.resolved(now))
            self.groups = self.groups.rebuilt(firing, self._owed, now)
            self._news.set()


@dataclass(frozen=True, slots=True)
class _Writer:
    """Makes the message of one lane, once its number is known."""

    look: Look
    lane: LaneKey
    external_url: str
    resolved: tuple[Alert, ...]

    def __call__(self, key: str, plan: dedup.Send) -> Notification:
        route = self.look.group.route
        return Notification(
            key=key,
            group_key=self.lane.group_key,
            group_labels=self.look.group.labels,
            receiver=self.lane.receiver,
            integration=self.lane.integration,
            reason=plan.reason,
            now=self.look.now,
            alerts=_shown(self.look.firing, (a for a in self.resolved if a.fingerprint in plan.told.resolved)),
            external_url=self.external_url,
            route_labels=dict(route.labels),
        )


def _shown(firing: Iterable[Alert], resolved: Iterable[Alert]) -> tuple[Alert, ...]:
    """Return alerts in the order in which messages show them."""
    return tuple(sorted((*firing, *resolved), key=display_order))


def _stale(entry: Entry, now: float) -> bool:
    """Return whether the written end of an alert is about to pass while it goes on."""
    alert = entry.alert
    return alert.ends_at > entry.kept_ends_at and now > entry.kept_ends_at - (alert.ends_at - alert.updated_at) / 2


def patient(alert: Alert, now: float) -> Alert:
    """Return a remembered alert with time to be heard of again.

    While we were away nobody could tell us that it goes on. Whoever sends alerts gives them an end well after the
    next time they are sent (Prometheus: four times as long), so half that time from now is enough.
    """
    if alert.ends_at <= alert.updated_at:
        return alert
    return msgspec.structs.replace(alert, ends_at=max(alert.ends_at, now + (alert.ends_at - alert.updated_at) / 2))
