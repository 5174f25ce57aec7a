"""Why an alert is not told: silences, inhibition and time, as one verdict. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from tocsin_alerting.acks import Ack, Acks
from tocsin_alerting.alerts import Entry
from tocsin_alerting.inhibition import Inhibitor, Sources, firing
from tocsin_alerting.matchers import match_all
from tocsin_alerting.routing import Route
from tocsin_alerting.silence_store import Silences
from tocsin_alerting.silences import Silence, active
from tocsin_alerting.timeintervals import TimeInterval
from tocsin_service.clock import rfc3339

_KEPT: Final = 1_000_000
"""Alerts whose mutes are remembered; those that are gone are not told of here."""
_STEPS: Final = 1000
"""Changes of intervals that are looked at for the end of a mute."""
_DAYS: Final = 40
"""Days that are looked ahead for the end of a mute: a month and more, in a few milliseconds, once a day."""
_SETTLED: Final = 86_400.0
"""Seconds for which an interval without a next change is not asked for one again."""


class Cause(StrEnum):
    """What mutes; also the `reason` label of `alertmanager_notifications_suppressed_total`."""

    SILENCE = "silence"
    INHIBITION = "inhibition"
    MUTE_TIME = "mute_time_interval"
    ACTIVE_TIME = "active_time_interval"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who mutes an alert: ids of silences, fingerprints of sources, names of time intervals. Empty: nobody."""

    silenced_by: tuple[str, ...] = ()
    inhibited_by: tuple[str, ...] = ()
    muted_by: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.silenced_by or self.inhibited_by or self.muted_by)


HEARD: Final = Verdict()
"""Nobody mutes it."""


class _Mutes:
    """What may mute an alert, whatever the time: right for one version of the silences and one shape of inhibition."""

    __slots__ = ("shape", "silences", "sources", "verdict", "version")

    def __init__(self, version: int, shape: int, silences: tuple[Silence, ...], sources: tuple[Sources, ...]) -> None:
        self.version = version
        self.shape = shape
        self.silences = silences
        self.sources = sources
        self.verdict = HEARD
        """The last one given, which mostly is the next one too."""


@dataclass(frozen=True, slots=True)
class _Span:
    """What holds from `start` until `end`; `change` is the instant at which it ends, None if it never does."""

    start: float
    end: float
    inside: bool
    change: float | None


class Muter:
    """All that mutes.

    What may mute an alert is a matter of its labels and is remembered by its fingerprint; what of it does mute now is
    a few comparisons of times. Of most alerts it is nothing, and they all share one `_Mutes`.
    """

    def __init__(
        self, silences: Silences, acks: Acks, inhibitor: Inhibitor, intervals: Mapping[str, TimeInterval]
    ) -> None:
        self.inhibitor = inhibitor
        self._silences = silences
        self._book = silences.book
        self._acks = acks
        self._intervals = intervals
        self._nothing = _Mutes(self._book.version, inhibitor.shape, (), ())
        self._known: dict[str, _Mutes] = {}
        self._spans: dict[str, _Span] = {}
        self._heard: dict[tuple[tuple[str, ...], tuple[str, ...]], _Span] = {}
        """When routes that time mutes are heard again, by the names of their intervals."""

    # --- one alert --------------------------------------------------------------------------------------------

    def verdict(self, entry: Entry, now: float) -> Verdict:
        """Return who mutes an alert: silences and inhibition, not time, which mutes whole routes (`timing`)."""
        mutes = self._known.get(entry.alert.fingerprint)
        if mutes is None or mutes.version != self._book.version or mutes.shape != self.inhibitor.shape:
            mutes = self._learn(entry, mutes)
        return HEARD if mutes is self._nothing else _judge(mutes, now)

    def judge(self, labels: Mapping[str, str], now: float) -> Verdict:
        """Return who would mute an alert with these labels."""
        return _verdict(self._silences.silenced_by(labels, now), self.inhibitor.inhibited_by(labels, now))

    def acknowledged(self, labels: Mapping[str, str], now: float, *, fingerprint: str | None = None) -> Ack | None:
        """Return the acknowledgement of an alert, which stops repeats; see `Acks.acknowledged`."""
        return self._acks.acknowledged(labels, now, fingerprint=fingerprint)

    def forget(self, fingerprint: str) -> None:
        """Forget what is remembered about an alert that is gone."""
        self._known.pop(fingerprint, None)

    def _learn(self, entry: Entry, known: _Mutes | None) -> _Mutes:
        version, shape = self._book.version, self.inhibitor.shape
        if self._nothing.version != version or self._nothing.shape != shape:
            self._nothing = _Mutes(version, shape, (), ())
        labels = entry.alert.labels
        silences = self._fitting(labels, known)
        sources = known.sources if known is not None and known.shape == shape else self.inhibitor.candidates(labels)
        mutes = _Mutes(version, shape, silences, sources) if silences or sources else self._nothing
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[entry.alert.fingerprint] = mutes
        return mutes

    def _fitting(self, labels: Mapping[str, str], known: _Mutes | None) -> tuple[Silence, ...]:
        """Return the silences that fit; where the former ones are known, only what has changed since is looked at."""
        changed = None if known is None else self._book.changed_since(known.version)
        if known is None or changed is None:
            return tuple(self._book.fitting(labels))
        if not changed:
            return known.silences
        news = (self._book.silences.get(name) for name in changed)
        fit = [item for item in news if item is not None and match_all(item.matchers, labels)]
        return (*(item for item in known.silences if item.id not in changed), *fit)

    # --- whole routes -----------------------------------------------------------------------------------------

    def timing(self, route: Route, now: float) -> tuple[Cause | None, tuple[str, ...], float | None]:
        """Return whether time mutes a route: why, the names of the intervals, and until when as far as is known."""
        cause, names = self._timed(route, now)
        return cause, names, self._until_heard(route, now) if cause is not None else None

    def _timed(self, route: Route, now: float) -> tuple[Cause | None, tuple[str, ...]]:
        wanted = route.active_time_intervals
        if wanted and not any(self._span(name, now).inside for name in wanted):
            return Cause.ACTIVE_TIME, wanted
        muting = tuple(name for name in route.mute_time_intervals if self._span(name, now).inside)
        return (Cause.MUTE_TIME, muting) if muting else (None, ())

    def _until_heard(self, route: Route, now: float) -> float | None:
        key = (route.active_time_intervals, route.mute_time_intervals)
        known = self._heard.get(key)
        if known is None or not known.start <= now < known.end:
            heard = self._next_heard(route, now)
            known = self._heard[key] = _Span(now, now + _SETTLED if heard is None else heard, False, heard)
        return known.change

    def _next_heard(self, route: Route, now: float) -> float | None:
        active = [self._intervals[name] for name in route.active_time_intervals]
        mute = [self._intervals[name] for name in route.mute_time_intervals]
        upcoming = {interval: interval.next_change(now, days=_DAYS) for interval in (*active, *mute)}
        for _ in range(_STEPS):
            now = min((change for change in upcoming.values() if change is not None), default=math.inf)
            if now == math.inf:
                return None
            if (not active or any(item.contains(now) for item in active)) and not any(m.contains(now) for m in mute):
                return now
            for interval, change in upcoming.items():
                if change == now:
                    upcoming[interval] = interval.next_change(now, days=_DAYS)
        return None

    def _span(self, name: str, now: float) -> _Span:
        known = self._spans.get(name)
        if known is None or not known.start <= now < known.end:
            interval = self._intervals[name]
            change = interval.next_change(now, days=_DAYS)
            end = now + _SETTLED if change is None else change
            known = self._spans[name] = _Span(now, end, interval.contains(now), change)
        return known

    # --- in words ---------------------------------------------------------------------------------------------

    def until(self, verdict: Verdict, now: float) -> float | None:
        """Return until when what mutes an alert now does so; None if nobody can know.

        A source of inhibition keeps quiet for as long as it fires.
        """
        if not verdict or verdict.inhibited_by:
            return None
        silences = (self._silences.get(name) for name in verdict.silenced_by)
        ends: list[float | None] = [silence.ends_at for silence in silences if silence is not None]
        spans = [self._span(name, now) for name in verdict.muted_by if name in self._intervals]
        changes = [span.change for span in spans]
        if all(span.inside for span in spans):
            ends += changes
        else:
            # They are the intervals that the route is active in: the first to begin ends the mute.
            ends.append(min((change for change in changes if change is not None), default=None))
        known = [end for end in ends if end is not None]
        return max(known) if known and len(known) == len(ends) else None

    def silences_named(self, names: Collection[str]) -> list[dict[str, Any]]:
        """Return what a person wants to know of silences, as JSON."""
        found = [silence for name in names if (silence := self._silences.get(name)) is not None]
        return [
            {
                "id": silence.id,
                "matchers": [str(matcher) for matcher in silence.matchers],
                "createdBy": silence.created_by,
                "comment": silence.comment,
                "endsAt": rfc3339(silence.ends_at),
            }
            for silence in found
        ]

    def sources_named(
        self, labels: Mapping[str, str], fingerprints: Collection[str], now: float
    ) -> list[dict[str, Any]]:
        """Return what a person wants to know of the alerts that inhibit one with these labels, as JSON."""
        found: list[dict[str, Any]] = []
        for name in fingerprints:
            entry, rule = self.inhibitor.source(name), self.inhibitor.rule_for(labels, name, now)
            if entry is not None and rule is not None:
                found.append({"fingerprint": name, "labels": entry.alert.labels, "rule": rule.name or str(rule)})
        return found


def _judge(mutes: _Mutes, now: float) -> Verdict:
    silenced_by, inhibited_by = active(mutes.silences, now), firing(mutes.sources, now)
    last = mutes.verdict
    if last.silenced_by != silenced_by or last.inhibited_by != inhibited_by:
        last = mutes.verdict = _verdict(silenced_by, inhibited_by)
    return last


def _verdict(silenced_by: tuple[str, ...], inhibited_by: tuple[str, ...]) -> Verdict:
    return Verdict(silenced_by, inhibited_by) if silenced_by or inhibited_by else HEARD
