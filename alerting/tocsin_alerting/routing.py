"""The route tree: which receivers an alert goes to and how it is grouped there. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tocsin_alerting.matchers import Matcher, match_all, quote


@dataclass(frozen=True, slots=True)
class Route:
    """One node, with everything it inherits already filled in. Durations are seconds.

    Args:
        node: where it stands in the tree, unique: `0`, `0.2`, `0.2.1`.
        key: its matchers from the root on, the first half of group keys; two siblings may have the same.
        group_by: label names, or None for all labels (`...`).
        descend: its `continue`: siblings after it are looked at too.
        mute_time_intervals, active_time_intervals: names; not inherited.
        labels: extra labels of its messages, with those it inherits.
    """

    node: str
    key: str
    receiver: str
    group_by: frozenset[str] | None
    group_wait: float
    group_interval: float
    repeat_interval: float
    matchers: tuple[Matcher, ...] = ()
    descend: bool = False
    routes: tuple[Route, ...] = ()
    mute_time_intervals: tuple[str, ...] = ()
    active_time_intervals: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def group_labels(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Return the labels that name the group an alert belongs to here."""
        kept = labels if self.group_by is None else self.group_by & labels.keys()
        return {name: labels[name] for name in sorted(kept)}

    def group_key(self, group_labels: Mapping[str, str]) -> str:
        """Return the name of a group as Alertmanager writes it: `{}/{dc="eu"}:{alertname="Down"}`."""
        pairs = ", ".join(f"{name}={quote(value)}" for name, value in sorted(group_labels.items()))
        return f"{self.key}:{{{pairs}}}"


def match(route: Route, labels: Mapping[str, str]) -> list[Route]:
    """Return the nodes that handle an alert, in tree order; empty if `route` itself does not match.

    A node handles what none of its children matched. After a child that matched, its later siblings are looked at
    only if it says `continue`.
    """
    found: list[Route] = []
    if match_all(route.matchers, labels):
        _descend(route, labels, found)
    return found


def _descend(route: Route, labels: Mapping[str, str], found: list[Route]) -> None:
    """Add what handles an alert at `route`, which matches it, and below."""
    before = len(found)
    for child in route.routes:
        for matcher in child.matchers:  # not match_all: large trees are walked for every new alert
            if not matcher.matches(labels):
                break
        else:
            _descend(child, labels, found)
            if not child.descend:
                break
    if len(found) == before:
        found.append(route)


def walk(route: Route) -> Iterator[Route]:
    """Yield a node and all below it, in tree order."""
    yield route
    for child in route.routes:
        yield from walk(child)
