"""Groups of alerts and their three timers. Pure: one small state machine, no task and no clock inside.

A group is looked at ("ticks") `group_wait` after its first alert came and then every `group_interval` for as long as
it exists. What a tick leads to is decided elsewhere (`tocsin_alerting.dedup`).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tocsin_alerting.model import Alert
from tocsin_alerting.routing import Route, match


@dataclass(eq=False, slots=True)
class Group:
    """The alerts of one route that share their group labels. Times are Unix seconds.

    `ticked` says that it has been looked at before. `leaving` holds the resolved alerts of the last tick, which
    leave once the receivers have been told.
    """

    route: Route
    labels: dict[str, str]
    key: str
    due: float
    alerts: dict[str, Alert] = field(default_factory=dict)
    ticked: bool = False
    leaving: dict[str, Alert] = field(default_factory=dict)


class Groups:
    """All groups of a route tree: `insert`, `due(now)`, `ticked`, `settled`.

    Sibling routes with equal matchers have groups of the same key, so a key and a node together name one group.
    """

    def __init__(self, root: Route) -> None:
        self._root = root
        self._groups: dict[str, dict[str, Group]] = {}
        self._timers: list[tuple[float, int, Group]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def __iter__(self) -> Iterator[Group]:
        return itertools.chain.from_iterable(nodes.values() for nodes in self._groups.values())

    def insert(self, alert: Alert, now: float) -> None:
        """Put an alert into the groups it belongs to, in place of what was known of it.

        A resolved alert opens no group: nobody was told of it. A group that has not ticked yet is due at once when
        an alert older than `group_wait` comes: somebody has waited for it already.
        """
        for route in match(self._root, alert.labels):
            group = self._find(route, alert)
            if group is None:
                if alert.resolved(now):
                    continue
                group = self._open(route, alert, now + route.group_wait)
            news = group.alerts.get(alert.fingerprint) is not alert  # a reload puts in what is there already
            group.alerts[alert.fingerprint] = alert
            if news and not group.ticked and alert.starts_at + route.group_wait < now and group.due > now:
                self._arm(group, now)

    def restore(self, alert: Alert, last: Mapping[str, float], now: float) -> None:
        """Put back an alert that somebody was told of before a restart.

        Args:
            last: the instant of the last notification by group key. Groups not in it are not made: until the alert
                is heard of again, nobody new is told. The others keep the rhythm of their ticks.
        """
        for route in match(self._root, alert.labels):
            key = route.group_key(route.group_labels(alert.labels))
            if key not in last:
                continue
            group = self._find(route, alert)
            if group is None:
                start = min(last[key], now)
                ticks = math.floor((now - start) / route.group_interval) + 1
                group = self._open(route, alert, start + ticks * route.group_interval)
                group.ticked = True
            group.alerts[alert.fingerprint] = alert

    @property
    def next_due(self) -> float | None:
        """The instant of the next tick, or None while there is no group."""
        while self._timers:
            due, _, group = self._timers[0]
            if group.due == due and self._groups.get(group.key, {}).get(group.route.node) is group:
                return due
            heapq.heappop(self._timers)  # the timer was set anew, or the group has ended
        return None

    def due(self, now: float) -> list[Group]:
        """Return the groups whose tick has come; they stay due until `ticked` is called."""
        first = self.next_due
        if first is None or first > now:
            return []
        return sorted((group for group in self if group.due <= now), key=lambda group: group.due)

    def ticked(self, group: Group, resolved: Iterable[Alert], now: float) -> None:
        """Note that a group was looked at: its next tick is `group_interval` from `now`.

        Args:
            resolved: the alerts that had ended at this tick; they leave the group with `settled`.
        """
        group.ticked = True
        group.leaving = {alert.fingerprint: alert for alert in resolved}
        self._arm(group, now + group.route.group_interval)

    def settled(self, key: str, *, told: bool) -> None:
        """Note that all messages of the last tick of a group have come to an end.

        Args:
            told: they were taken, or there were none: the resolved alerts leave, except those heard of since, and an
                empty group ends. Otherwise they stay for the next tick to try again.
        """
        for group in list(self._groups.get(key, {}).values()):
            for name, alert in group.leaving.items() if told else ():
                if group.alerts.get(name) is alert:
                    del group.alerts[name]
            group.leaving = {}
            if not group.alerts:
                self._close(group)

    def rebuilt(self, root: Route, alerts: Iterable[Alert], now: float) -> Groups:
        """Return the groups of another route tree for the same alerts.

        A group whose key survives keeps its timer and what it holds, so that a reload neither repeats a message nor
        sends one early; only a shorter interval brings its next tick nearer.

        Args:
            alerts: all alerts that fire.
        """
        result = Groups(root)
        for old in self:
            for alert in old.alerts.values():
                for route in match(root, alert.labels):
                    result._carry(route, alert, old, now)
        for alert in alerts:
            result.insert(alert, now)
        return result

    def _carry(self, route: Route, alert: Alert, old: Group, now: float) -> None:
        if route.group_key(route.group_labels(alert.labels)) != old.key:
            return
        group = self._find(route, alert)
        if group is None:
            wait = route.group_interval if old.ticked else route.group_wait
            group = self._open(route, alert, min(old.due, now + wait))
            group.ticked = old.ticked
            group.leaving = dict(old.leaving)
        group.alerts[alert.fingerprint] = alert

    def _find(self, route: Route, alert: Alert) -> Group | None:
        return self._groups.get(route.group_key(route.group_labels(alert.labels)), {}).get(route.node)

    def _open(self, route: Route, alert: Alert, due: float) -> Group:
        labels = route.group_labels(alert.labels)
        group = Group(route, labels, route.group_key(labels), due)
        self._groups.setdefault(group.key, {})[route.node] = group
        self._arm(group, due)
        return group

    def _close(self, group: Group) -> None:
        nodes = self._groups[group.key]
        del nodes[group.route.node]
        if not nodes:
            del self._groups[group.key]

    def _arm(self, group: Group, due: float) -> None:
        group.due = due
        heapq.heappush(self._timers, (due, next(self._order), group))
