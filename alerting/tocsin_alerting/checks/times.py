"""Time intervals: names that nothing uses, times that never come, routes that are never active."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tocsin_alerting.checks.finding import Finding, Subject, place
from tocsin_alerting.routing import Route, walk
from tocsin_alerting.timeintervals import TimeInterval

_LOOKS: Final = 400
"""Changes that are looked at before a route counts as active some time: about a year of two changes a working day."""


def check(subject: Subject) -> Iterator[Finding]:
    """Yield findings on intervals and on the routes that use them."""
    config = subject.config
    routes = list(walk(config.root))
    used = {name for route in routes for name in (*route.mute_time_intervals, *route.active_time_intervals)}
    never: set[str] = set()
    for key in ("time_intervals", "mute_time_intervals"):
        for loc in subject.entries(key):
            name = str(subject.said(*loc, "name"))
            interval = config.intervals.get(name)
            if name not in used:
                what = f'no route uses the time interval "{name}"'
                fix = "name it in a route, or remove it"
                yield subject.warning("unused-interval", loc, what, why="it mutes nothing", fix=fix)
            if interval and _never(interval, subject.now):
                never.add(name)
                what = f'the time interval "{name}" never comes'
                why = "what is muted by it never is, and what is active in it never tells anybody"
                fix = "look for days that the months lack, years that are over, and times that are empty"
                yield subject.error("interval-never-matches", loc, what, why=why, fix=fix)
    for route in routes:
        if route.mute_time_intervals or route.active_time_intervals:
            yield from _route(subject, route, never)


def _never(interval: TimeInterval, now: float) -> bool:
    return not interval.contains(now) and interval.next_change(now) is None


def _route(subject: Subject, route: Route, never: set[str]) -> Iterator[Finding]:
    mute = [subject.config.intervals[name] for name in route.mute_time_intervals]
    active = [subject.config.intervals[name] for name in route.active_time_intervals]
    if (active and set(route.active_time_intervals) <= never) or not _ever(mute, active, subject.now):
        what = f'the route to "{route.receiver}" is never active: its time intervals leave no time'
        fix = "correct mute_time_intervals and active_time_intervals, or their times"
        yield subject.error("route-never-active", place(route), what, why="its receiver is never told", fix=fix)


def _ever(mute: Sequence[TimeInterval], active: Sequence[TimeInterval], now: float) -> bool:
    """Return whether some time is active and not muted; yes where that would take too long to find out."""
    for _ in range(_LOOKS):
        if not any(each.contains(now) for each in mute) and (not active or any(each.contains(now) for each in active)):
            return True
        changes = [change for each in (*mute, *active) if (change := each.next_change(now)) is not None]
        if not changes:
            return False
        now = min(changes)
    return False
