"""Groups of alerts and their three timers. Pure: one small state machine, no task and no clock inside.

A group is looked at ("ticks") `group_wait` after its first alert came and then every `group_interval` for as long as
it exists. What a tick leads to is decided elsewhere (`tocsin_alerting.dedup`).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from tocsin_alerting.alerts import Entry
from tocsin_alerting.routing import Route

DETACHED: Final = "detached"
"""The node of groups that the route tree does not know any more."""


class GroupId(NamedTuple):
    """What a group is remembered by: its key, and who is told. Unlike a place in the tree it survives an edit of it."""

    key: str
    receiver: str


@dataclass(eq=False, slots=True)
class Group:
    """The alerts of one route that share their group labels. Times are Unix seconds.

    Args:
        alerts: what belongs here, by fingerprint.
        strays: what was told here and no longer belongs here, since the routes have changed: only its end is told.
        ticked: it has been looked at before; `anchor` is when that first was, and the next looks keep its rhythm.
        leaving: the resolved alerts of the last tick, which leave once the receivers have been told.
    """

    route: Route
    labels: dict[str, str]
    key: str
    due: float
    alerts: dict[str, Entry] = field(default_factory=dict)
    strays: dict[str, Entry] = field(default_factory=dict)
    ticked: bool = False
    anchor: float = 0.0
    looked_at: float = 0.0
    leaving: frozenset[str] = frozenset()

    @property
    def id(self) -> GroupId:
        """What it is remembered by."""
        return GroupId(self.key, self.route.receiver)


class Groups:
    """All groups of a route tree: `insert`, `due(now)`, `ticked`, `settled`.

    Sibling routes with equal matchers have groups of the same key, so a key and a node together name one group.
    """

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, Group]] = {}
        self._timers: list[tuple[float, int, Group]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def __iter__(self) -> Iterator[Group]:
        return itertools.chain.from_iterable(nodes.values() for nodes in self._groups.values())

    def of(self, fingerprint: str) -> list[Group]:
        """Return the groups that hold an alert; reads them all, for questions of people."""
        return [group for group in self if fingerprint in group.alerts or fingerprint in group.strays]

    def insert(self, entry: Entry, now: float) -> None:
        """Put an alert into the groups it belongs to.

        A resolved alert opens no group: nobody was told of it. A group that has not ticked yet is due at once when
        an alert older than `group_wait` comes: somebody has waited for it already.
        """
        alert = entry.alert
        for route in entry.routes:
            group = self._find(route, entry)
            if group is None:
                if alert.resolved(now):
                    continue
                group = self._open(route, entry, now + route.group_wait)
            known = alert.fingerprint in group.alerts  # a reload puts in what is there already
            if not known and alert.resolved(now):
                continue
            group.alerts[alert.fingerprint] = entry
            group.strays.pop(alert.fingerprint, None)
            waited = alert.starts_at + route.group_wait < now
            if not known and not group.ticked and waited and group.due > now:
                self._arm(group, now)

    @property
    def next_due(self) -> float | None:
        """The instant of the next tick, or None while there is no group."""
        while self._timers:
            due, _, group = self._timers[0]
            if self._current(due, group):
                return due
            heapq.heappop(self._timers)  # the timer was set anew, or the group has ended
        return None

    def due(self, now: float) -> list[Group]:
        """Return the groups whose tick has come; they stay due until `ticked` is called."""
        found: list[tuple[float, int, Group]] = []
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)
            if self._current(timer[0], timer[2]):
                found.append(timer)
        for timer in found:
            heapq.heappush(self._timers, timer)
        return [group for _, _, group in found]

    def ticked(self, group: Group, leaving: Iterable[str], now: float) -> None:
        """Note that a group was looked at; its next tick comes a whole number of `group_interval` after its first.

        Args:
            leaving: the alerts that had ended at this tick; they leave the group with `settled`.
        """
        if not group.ticked:
            group.ticked, group.anchor = True, now
        group.looked_at = now
        group.leaving = frozenset(leaving)
        self._arm(group, rhythm(group.anchor, group.route.group_interval, now))

    def settled(self, wanted: GroupId, *, told: bool) -> list[Group]:
        """Note that all messages of the last tick of a group have come to an end, and return what ended with it.

        Args:
            told: they were taken, or there were none: the resolved alerts leave, except those that fire again, and an
                empty group ends. Otherwise they stay for the next tick to try again.
        """
        ended = []
        for group in [group for group in self._groups.get(wanted.key, {}).values() if group.id == wanted]:
            for name in group.leaving if told else ():
                for held in (group.alerts, group.strays):
                    entry = held.get(name)
                    if entry is not None and entry.alert.resolved(group.looked_at):
                        del held[name]
            group.leaving = frozenset()
            if self._close_if_empty(group):
                ended.append(group)
        return ended

    def forget(self, before: float) -> None:
        """Drop alerts that ended before an instant; for a replica that tells nobody and so never settles anything."""
        for group in list(self):
            for name in [name for name, entry in group.alerts.items() if entry.alert.resolved(before)]:
                del group.alerts[name]
            self._close_if_empty(group)

    # --- another route tree, another process ---------------------------------------------------------------------

    def rebuilt(self, entries: Iterable[Entry], owed: Mapping[GroupId, Collection[str]], now: float) -> Groups:
        """Return the groups of another route tree for the same alerts.

        A group whose name survives keeps its timer and what it holds, so that a reload neither repeats a message nor
        sends one early; only a shorter interval brings its next tick nearer. What somebody was told of stays where it
        was told, until its end has been told there too.

        Args:
            entries: all alerts that fire, with their new routes.
            owed: the alerts whose end is to be told, by group.
        """
        result = Groups()
        for old in self:
            for entry in [*old.alerts.values(), *old.strays.values()]:
                for route in entry.routes:
                    result._carry(route, entry, old, now)
        for entry in entries:
            result.insert(entry, now)
        for old in self:
            for name in owed.get(old.id, ()):
                held = old.alerts.get(name) or old.strays.get(name)
                if held is not None:
                    result.keep(old.id, old.labels, held, old.due, old.route)
        return result

    def resume(self, anchors: Mapping[GroupId, float], now: float) -> None:
        """Go on with the rhythm of a former process: these groups were looked at first at these instants."""
        for group in self:
            anchor = anchors.get(group.id)
            if anchor is not None:
                group.ticked, group.anchor = True, min(anchor, now)
                self._arm(group, rhythm(group.anchor, group.route.group_interval, now))

    def keep(self, wanted: GroupId, labels: Mapping[str, str], entry: Entry, due: float, route: Route) -> None:
        """Hold an alert whose end is to be told at a group; where the routes know no such group any more, beside them.

        Args:
            due: when that group is looked at, if it has to be made.
            route: whose timers it then has.
        """
        labels_of = entry.alert.labels
        home = next(
            (r for r in entry.routes if r.receiver == wanted.receiver and _key(r, labels_of) == wanted.key), None
        )
        same = [group for group in self._groups.get(wanted.key, {}).values() if group.id == wanted]
        group = next((group for group in same if home is None or group.route.node == home.node), None)
        if group is None:
            lost = replace(route, node=f"{DETACHED}:{wanted.receiver}", receiver=wanted.receiver, routes=())
            group = self._make(home or lost, dict(labels), wanted.key, due)
            group.ticked, group.anchor = True, due
        if entry.alert.fingerprint not in group.alerts:
            (group.strays if home is None else group.alerts)[entry.alert.fingerprint] = entry

    def _carry(self, route: Route, entry: Entry, old: Group, now: float) -> None:
        if _key(route, entry.alert.labels) != old.key:
            return
        group = self._find(route, entry)
        if group is None:
            wait = route.group_interval if old.ticked else route.group_wait
            group = self._open(route, entry, min(old.due, now + wait))
            group.ticked, group.looked_at, group.leaving = old.ticked, old.looked_at, old.leaving
            # A shorter interval begins a rhythm of its own.
            group.anchor = old.anchor if route.group_interval == old.route.group_interval else group.due
        group.alerts[entry.alert.fingerprint] = entry

    def _current(self, due: float, group: Group) -> bool:
        return group.due == due and self._groups.get(group.key, {}).get(group.route.node) is group

    def _close_if_empty(self, group: Group) -> bool:
        if group.alerts or group.strays:
            return False
        nodes = self._groups[group.key]
        del nodes[group.route.node]
        if not nodes:
            del self._groups[group.key]
        return True

    def _find(self, route: Route, entry: Entry) -> Group | None:
        return self._groups.get(_key(route, entry.alert.labels), {}).get(route.node)

    def _open(self, route: Route, entry: Entry, due: float) -> Group:
        labels = route.group_labels(entry.alert.labels)
        return self._make(route, labels, route.group_key(labels), due)

    def _make(self, route: Route, labels: dict[str, str], key: str, due: float) -> Group:
        group = Group(route, labels, key, due)
        self._groups.setdefault(key, {})[route.node] = group
        self._arm(group, due)
        return group

    def _arm(self, group: Group, due: float) -> None:
        group.due = due
        heapq.heappush(self._timers, (due, next(self._order), group))


def _key(route: Route, labels: Mapping[str, str]) -> str:
    return route.group_key(route.group_labels(labels))


def rhythm(anchor: float, interval: float, now: float) -> float:
    """Return the first instant after `now` that is a whole number of intervals after `anchor`."""
    return anchor + (math.floor((now - anchor) / interval) + 1) * interval
