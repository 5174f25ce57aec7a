"""The route tree: nodes that no alert reaches, timers that do not go together, groups that are not meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tocsin_alerting.checks.finding import Finding, Subject, place
from tocsin_alerting.checks.logic import Facts
from tocsin_alerting.matchers import Matcher, render
from tocsin_alerting.routing import Route
from tocsin_service.durations import render as duration

GRAVE: Final = frozenset({"page", "critical"})
"""Values of `severity` that somebody must hear of."""


def check(subject: Subject) -> Iterator[Finding]:
    """Yield findings on every node."""
    yield from _node(subject, subject.config.root, ())


def _node(subject: Subject, route: Route, above: tuple[Matcher, ...]) -> Iterator[Finding]:
    path = (*above, *route.matchers)
    facts = Facts(path)
    yield from _timers(subject, route)
    yield from _fixed_groups(subject, route, facts)
    yield from _swallowed(subject, route, facts)
    for index, child in enumerate(route.routes):
        there = Facts((*path, *child.matchers))
        if name := there.contradiction():
            yield _contradictory(subject, child, path, name)
        elif shadow := _shadow(route.routes[:index], there):
            yield _unreachable(subject, child, shadow)
        else:
            yield from _node(subject, child, path)


def _contradictory(subject: Subject, route: Route, above: tuple[Matcher, ...], name: str) -> Finding:
    said = ", ".join(str(matcher) for matcher in (*above, *route.matchers) if matcher.name == name)
    what = f"no alert matches this route: its matchers and those above it contradict one another ({said})"
    fix = "correct the matchers, or move the route out of its parent"
    return subject.error("contradictory-matchers", place(route), what, why="its receiver is never told", fix=fix)


def _shadow(earlier: tuple[Route, ...], facts: Facts) -> Route | None:
    """Return the sibling before it that takes everything of which `facts` hold."""
    return next((each for each in earlier if not each.descend and facts.imply(each.matchers)), None)


def _unreachable(subject: Subject, route: Route, shadow: Route) -> Finding:
    spot = subject.document.problem((*subject.at, *place(shadow)), "")
    taken = "everything" if not shadow.matchers else render(shadow.matchers)
    what = f"no alert reaches this route: the one at line {spot.line} takes {taken} before it"
    fix = "move it up, or give the other one `continue: true`"
    return subject.error("unreachable-route", place(route), what, why="its receiver is never told", fix=fix)


def _swallowed(subject: Subject, route: Route, facts: Facts) -> Iterator[Finding]:
    receiver = subject.config.receivers.get(route.receiver)
    grave = GRAVE & (facts.values("severity") or frozenset())
    if receiver and not receiver.integrations and grave:
        what = f'alerts of severity {" or ".join(sorted(grave))} go to "{receiver.name}", which tells nobody'
        loc = (*place(route), "receiver")
        fix = "give the receiver an integration, or the route another receiver"
        yield subject.warning("page-swallowed", loc, what, why="nobody hears of a grave alert", fix=fix)


def _fixed_groups(subject: Subject, route: Route, facts: Facts) -> Iterator[Finding]:
    loc = (*place(route), "group_by")
    for each in subject.entries(*loc):
        name = str(subject.said(*each))
        known = facts.values(name)
        if known is not None and len(known) == 1:
            what = f'group_by has "{name}", which is "{min(known)}" for every alert here'
            why = "it keeps no two alerts apart"
            yield subject.warning(
                "group-by-fixed-label", each, what, why=why, fix="remove it, or group by another label"
            )


def _timers(subject: Subject, route: Route) -> Iterator[Finding]:
    said = subject.said(*place(route))
    if not isinstance(said, dict):
        return
    loc = place(route)
    wait, interval, repeat = route.group_wait, route.group_interval, route.repeat_interval
    if ("group_wait" in said or "group_interval" in said) and wait > interval:
        spot = (*loc, "group_wait" if "group_wait" in said else "group_interval")
        what = f"group_wait ({duration(wait)}) is longer than group_interval ({duration(interval)})"
        why = "the first message about a group takes longer than any later one"
        yield subject.warning("group-wait-above-interval", spot, what, why=why, fix="shorten group_wait")
    if "repeat_interval" not in said and "group_interval" not in said:
        return
    spot = (*loc, "repeat_interval" if "repeat_interval" in said else "group_interval")
    if repeat > interval and repeat % interval:
        rounded = duration((repeat // interval + 1) * interval)
        what = f"repeat_interval ({duration(repeat)}) is no multiple of group_interval ({duration(interval)})"
        why = f"reminders are sent when a group is looked at, so every {rounded}"
        yield subject.warning("repeat-not-multiple", spot, what, why=why, fix=f"repeat_interval: {rounded}")
    if repeat > subject.retention:
        what = (
            f"repeat_interval ({duration(repeat)}) is longer than what was told is kept ({duration(subject.retention)})"
        )
        why = "a message would be repeated as if it were the first"
        fix = "shorten it, or raise --data.retention"
        yield subject.warning("repeat-above-retention", spot, what, why=why, fix=fix)
