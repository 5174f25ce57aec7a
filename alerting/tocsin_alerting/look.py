"""A group as a tick finds it: what fires, what has ended, who mutes what. Pure but for the questions to the muter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tocsin_alerting.alerts import Entry
from tocsin_alerting.dedup import Tick
from tocsin_alerting.grouping import Group
from tocsin_alerting.model import Alert, display_order
from tocsin_alerting.muting import Cause, Verdict
from tocsin_alerting.routing import Route
from tocsin_service.clock import rfc3339


class Mutes(Protocol):
    """Who says what is not to be told now; see `tocsin_alerting.muting.Muter`."""

    def verdict(self, entry: Entry, now: float) -> Verdict:
        """Return which silences and sources mute an alert."""

    def timing(self, route: Route, now: float) -> tuple[Cause | None, tuple[str, ...], float | None]:
        """Return whether the time mutes a route, by which intervals, and until when."""

    def acknowledged(self, labels: Mapping[str, str], now: float, *, fingerprint: str | None = None) -> object | None:
        """Return the acknowledgement of an alert, if there is one."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a group found.

    Args:
        firing, resolved: alerts that nobody mutes, in the order in which messages show them.
        held: alerts that have ended and are muted: whoever was told of them is told of their end later.
        muted: fingerprints of all that is not to be told now, ended or not.
        suppressed: how many alerts are muted, by cause.
        why: who mutes them, in words; empty if nobody does.
    """

    group: Group
    now: float
    firing: tuple[Alert, ...]
    resolved: tuple[Alert, ...]
    held: tuple[Alert, ...]
    muted: frozenset[str]
    acknowledged: bool
    suppressed: Mapping[Cause, int]
    why: str

    @property
    def ended(self) -> frozenset[str]:
        """Fingerprints of all alerts that have ended."""
        return frozenset(alert.fingerprint for alert in (*self.resolved, *self.held))

    def tick(self, *, send_resolved: bool, at_once: bool) -> Tick:
        """Return the facts that are decided on for one integration.

        Args:
            at_once: ends are told in spite of a mute.
        """
        resolved = frozenset(alert.fingerprint for alert in self.resolved + (self.held if at_once else ()))
        return Tick(
            now=self.now,
            firing=frozenset(alert.fingerprint for alert in self.firing),
            resolved=resolved,
            send_resolved=send_resolved,
            repeat_interval=self.group.route.repeat_interval,
            muted=self.muted - resolved,
            acknowledged=self.acknowledged,
        )


def look(group: Group, muter: Mutes, now: float) -> Look:
    """Look at a group.

    What belongs elsewhere by now (a stray) is not told while it fires, as its new group does that.
    """
    cause, names, until = muter.timing(group.route, now)
    firing: list[Alert] = []
    resolved: list[Alert] = []
    held: list[Alert] = []
    muted: set[str] = set()
    suppressed: Counter[Cause] = Counter()
    verdicts: list[Verdict] = []
    for entry in (*group.alerts.values(), *group.strays.values()):
        alert = entry.alert
        verdict = muter.verdict(entry, now)
        over = alert.resolved(now)
        if cause is not None or verdict:
            suppressed[_cause(cause, verdict)] += 1
            verdicts.append(verdict)
        elif over:
            resolved.append(alert)
            continue
        elif alert.fingerprint not in group.strays:
            firing.append(alert)
            continue
        muted.add(alert.fingerprint)
        if over:
            held.append(alert)
    return Look(
        group=group,
        now=now,
        firing=tuple(sorted(firing, key=display_order)),
        resolved=tuple(sorted(resolved, key=display_order)),
        held=tuple(sorted(held, key=display_order)),
        muted=frozenset(muted),
        acknowledged=bool(firing)
        and all(muter.acknowledged(alert.labels, now, fingerprint=alert.fingerprint) for alert in firing),
        suppressed=suppressed,
        why=_why(names if cause else (), until, verdicts, len(group.alerts)),
    )


def _cause(cause: Cause | None, verdict: Verdict) -> Cause:
    # In the order of Alertmanager's stages, which is what its counters count by.
    if verdict.inhibited_by:
        return Cause.INHIBITION
    return cause or Cause.SILENCE


def _why(names: tuple[str, ...], until: float | None, verdicts: list[Verdict], total: int) -> str:
    if names:
        end = f" until {rfc3339(until)}" if until is not None else ""
        return f"muted by time interval {', '.join(names)}{end}"
    silences = sorted({name for verdict in verdicts for name in verdict.silenced_by})
    sources = sorted({name for verdict in verdicts for name in verdict.inhibited_by})
    parts = [f"silence {', '.join(silences)}"] if silences else []
    parts += [f"inhibited by {', '.join(sources[:3])}"] if sources else []
    return f"{len(verdicts)} of {total} alerts muted: {'; '.join(parts)}" if parts else ""
