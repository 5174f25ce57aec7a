"""The routes and inhibition rules of a configuration, with the matchers in them: sections -> values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Final

from tocsin_alerting.inhibition import InhibitRule
from tocsin_alerting.matchers import Matcher, MatcherError, Mode, Op, read, render, valid_label
from tocsin_alerting.routing import Route
from tocsin_alerting.schema import InhibitSection, RouteSection
from tocsin_alerting.sections import Sections
from tocsin_service import durations
from tocsin_service.settings import Loc

ALL_LABELS: Final = "..."
"""As the only name in `group_by`: every label."""
ROOT: Final = Route("0", "{}", "", frozenset(), 30.0, 300.0, 14_400.0)
"""What the root inherits: Alertmanager's defaults."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Reads routes and rules.

    Args:
        mode: the notation of matchers, and with it what a label name is.
        receivers, intervals: the names that are defined.
    """

    sections: Sections
    mode: Mode
    receivers: Set[str]
    intervals: Set[str]

    def root(self) -> Route:
        """Return the route tree."""
        return ROOT if self.sections.said("route") is None else self._route(("route",), ROOT)

    def rules(self) -> tuple[InhibitRule, ...]:
        """Return the inhibition rules."""
        return tuple(self._rule(loc) for loc in self.sections.entries("inhibit_rules"))

    def check_label(self, name: str, loc: Loc) -> None:
        """Note a name that no label can have."""
        if not name:
            self.sections.wrong(loc, "a label name is empty", fix="remove it")
        elif self.mode is Mode.CLASSIC and not valid_label(name):
            self.sections.wrong(loc, f'"{name}" is not a label name', expected="[a-zA-Z_][a-zA-Z0-9_]*")

    def _route(self, loc: Loc, parent: Route) -> Route:
        found = self.sections.read(RouteSection, *loc)
        entry = found or RouteSection()
        is_root = loc == ("route",)
        matchers = self._matchers(entry, "", loc)
        if is_root and found:
            self._check_root(entry, loc)
        if not is_root and self.sections.said(*loc) is None:
            self.sections.wrong(loc, "a route is empty and would take every alert", fix="remove it")
        self._check_defined(entry, loc)
        for name in ("group_interval", "repeat_interval"):
            if getattr(entry, name) == 0:
                self.sections.wrong((*loc, name), f"{name} is zero", expected="a duration such as 5m")
        for name in entry.labels:
            self.check_label(name, (*loc, "labels", name))
        node = Route(
            node=parent.node if is_root else f"{parent.node}.{loc[-1]}",
            key="{}" if is_root else f"{parent.key}/{render(matchers)}",
            receiver=entry.receiver or parent.receiver,
            group_by=self._group_by(entry, loc, parent),
            group_wait=parent.group_wait if entry.group_wait is None else entry.group_wait,
            group_interval=entry.group_interval or parent.group_interval,
            repeat_interval=entry.repeat_interval or parent.repeat_interval,
            matchers=matchers,
            descend=entry.continue_,
            mute_time_intervals=tuple(entry.mute_time_intervals),
            active_time_intervals=tuple(entry.active_time_intervals),
            labels={**parent.labels, **entry.labels},
        )
        self._check_timers(node, entry, loc)
        return replace(node, routes=tuple(self._route(each, node) for each in self.sections.entries(*loc, "routes")))

    def _check_root(self, entry: RouteSection, loc: Loc) -> None:
        if not entry.receiver:
            self.sections.wrong(loc, "the root route has no receiver", expected="receiver: NAME", fix="add it")
        for name in ("matchers", "match", "match_re"):
            if getattr(entry, name):
                what = f"the root route has {name}, but it must match every alert"
                self.sections.wrong((*loc, name), what, fix="move it to a route under routes")
        for name in ("mute_time_intervals", "active_time_intervals"):
            if getattr(entry, name):
                what = f"the root route has {name}, but it must be active at all times"
                self.sections.wrong((*loc, name), what, fix="move it to a route under routes")
        if entry.continue_:
            what = "the root route cannot continue: nothing follows it"
            self.sections.wrong((*loc, "continue"), what, fix="remove it")

    def _check_defined(self, entry: RouteSection, loc: Loc) -> None:
        if entry.receiver and entry.receiver not in self.receivers:
            what = f'undefined receiver "{entry.receiver}" used in route'
            self.sections.wrong((*loc, "receiver"), what, expected=_one_of(self.receivers, "a receiver"))
        for key in ("mute_time_intervals", "active_time_intervals"):
            for index, name in enumerate(getattr(entry, key)):
                if name not in self.intervals:
                    what = f'undefined time interval "{name}" used in route'
                    expected = _one_of(self.intervals, "a time interval")
                    self.sections.wrong((*loc, key, index), what, expected=expected)

    def _check_timers(self, node: Route, entry: RouteSection, loc: Loc) -> None:
        said = next((name for name in ("repeat_interval", "group_interval") if getattr(entry, name)), None)
        if said and node.repeat_interval < node.group_interval:
            repeat, interval = durations.render(node.repeat_interval), durations.render(node.group_interval)
            what = f"repeat_interval ({repeat}) is shorter than group_interval ({interval}), at which it is checked"
            self.sections.warn(
                "repeat-below-group-interval",
                (*loc, said),
                what,
                fix=f"repeat_interval: {interval}, or a multiple of it",
            )

    def _group_by(self, entry: RouteSection, loc: Loc, parent: Route) -> frozenset[str] | None:
        names = entry.group_by
        if names is None:
            return parent.group_by
        loc = (*loc, "group_by")
        if ALL_LABELS in names and set(names) != {ALL_LABELS}:
            what = f'"{ALL_LABELS}" stands for all labels and cannot stand beside others'
            self.sections.wrong(loc, what, fix="keep one of the two")
        for index, name in enumerate(names):
            if name != ALL_LABELS:
                self.check_label(name, (*loc, index))
            if name in names[:index]:
                self.sections.wrong((*loc, index), f'the label "{name}" stands in group_by twice', fix="remove one")
        return None if ALL_LABELS in names else frozenset(names)

    def _rule(self, loc: Loc) -> InhibitRule:
        entry = self.sections.read(InhibitSection, *loc) or InhibitSection()
        for index, name in enumerate(entry.equal):
            self.check_label(name, (*loc, "equal", index))
        source, target = (self._matchers(entry, side, loc) for side in ("source_", "target_"))
        return InhibitRule(entry.name, source, target, tuple(dict.fromkeys(entry.equal)))

    # --- matchers -----------------------------------------------------------------------------------------------

    def _matchers(self, entry: RouteSection | InhibitSection, side: str, loc: Loc) -> tuple[Matcher, ...]:
        """Return all matchers of one side (empty: of a route), in both the present keys and the deprecated ones."""
        new, old, old_regex = (f"{side}{key}" for key in ("matchers", "match", "match_re"))
        return (
            *self._read(getattr(entry, new), (*loc, new)),
            *self._pairs(getattr(entry, old), (*loc, old), Op.EQUAL),
            *self._pairs(getattr(entry, old_regex), (*loc, old_regex), Op.REGEX),
        )

    def _read(self, texts: list[str], loc: Loc) -> Iterator[Matcher]:
        for index, text in enumerate(texts):
            try:
                found = read(text, self.mode)
            except MatcherError as error:
                self.sections.wrong((*loc, index), str(error))
                continue
            if found.warning:
                written = ",".join(map(str, found.matchers))
                self.sections.warn(
                    "matcher-notation", (*loc, index), f'matcher "{text}": {found.warning}', fix=f"write '{written}'"
                )
            elif not found.matchers:
                self.sections.warn(
                    "empty-matcher", (*loc, index), "a matcher is empty and matches every alert", fix="remove it"
                )
            yield from found.matchers

    def _pairs(self, pairs: Mapping[str, str], loc: Loc, op: Op) -> Iterator[Matcher]:
        for name, value in pairs.items():
            if not valid_label(name):
                what = f'"{name}" is not a label name'
                self.sections.wrong((*loc, name), what, expected="[a-zA-Z_][a-zA-Z0-9_]*; matchers take others")
            try:
                yield Matcher(name, op, f"^(?:{value})$" if op is Op.REGEX else value)
            except MatcherError as error:
                self.sections.wrong((*loc, name), str(error))


def _one_of(names: Set[str], what: str) -> str:
    return "one of " + ", ".join(sorted(names)) if names else f"{what} of that name"
