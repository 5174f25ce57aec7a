"""What a tick of a group leads to, for one integration of its receiver. Pure.

Source: the rules of Alertmanager's notification log, with two promises added: who was told "firing" is told
"resolved", and nobody is told "resolved" of what was never told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tocsin_alerting.model import Reason


class Quiet(StrEnum):
    """Why nothing is sent."""

    NOTHING_FIRES = "nothing fires and nobody was told that anything did"
    UNCHANGED = "nothing has changed"


@dataclass(frozen=True, slots=True)
class Told:
    """What a receiver has been told, by fingerprint, and when (Unix seconds)."""

    firing: frozenset[str]
    resolved: frozenset[str]
    at: float


@dataclass(frozen=True, slots=True)
class Lane:
    """What is known of one group at one integration of one receiver.

    Args:
        intended: what the last message written says, delivered or not; None before the first.
        told: what the last delivered message said.
        sequence: number of the last message written; `told_sequence` of the last one delivered.
        pending: a message is written and not yet delivered.
        exposed: a message written after `told` has been tried, so it may have arrived.
    """

    intended: Told | None = None
    told: Told | None = None
    sequence: int = 0
    told_sequence: int = 0
    pending: bool = False
    exposed: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """What a tick found in a group: fingerprints of firing and resolved alerts, and the rules that apply."""

    now: float
    firing: frozenset[str]
    resolved: frozenset[str]
    send_resolved: bool
    repeat_interval: float


@dataclass(frozen=True, slots=True)
class Send:
    """Write a message about `told`; it takes the place of undelivered ones."""

    reason: Reason
    told: Told


@dataclass(frozen=True, slots=True)
class Note:
    """Send nothing, but count `told` as told; undelivered messages are withdrawn."""

    told: Told | None


@dataclass(frozen=True, slots=True)
class Leave:
    """Do nothing."""

    why: Quiet = field(default=Quiet.UNCHANGED)


def reason(entry: Told | None, tick: Tick) -> Reason | Quiet:
    """Return why a receiver that has been told `entry` must be told of a tick, or why not."""
    if entry is None:
        return Reason.FIRST if tick.firing else Quiet.NOTHING_FIRES
    if not tick.firing <= entry.firing:
        return Reason.NEW_ALERTS if entry.firing else Reason.FIRST
    if not tick.firing:
        return Reason.ALL_RESOLVED if entry.firing else Quiet.NOTHING_FIRES
    if tick.send_resolved and not _known(entry, tick) <= entry.resolved:
        return Reason.SOME_RESOLVED
    # Ticks come at multiples of group_interval: "not before", or an exact multiple would wait for one more.
    if entry.at <= tick.now - tick.repeat_interval:
        return Reason.REPEAT
    return Quiet.UNCHANGED


def plan(lane: Lane, tick: Tick) -> Send | Note | Leave:
    """Return what to do.

    A message that is still waiting for its first attempt has told nobody anything: when things change, it is as if
    it had never been written.
    """
    entry = lane.intended
    why = reason(entry, tick)
    if isinstance(why, Quiet):
        return Leave(why)
    if lane.pending and not lane.exposed:
        entry = lane.told
        why = reason(entry, tick)
        if isinstance(why, Quiet):
            return Note(lane.told)
    told = Told(tick.firing, _known(entry, tick) if entry else frozenset(), tick.now)
    if why is Reason.ALL_RESOLVED and not tick.send_resolved:
        return Note(told)
    return Send(why, told)


def _known(entry: Told, tick: Tick) -> frozenset[str]:
    """Return the resolved alerts that the receiver has heard of."""
    return tick.resolved & (entry.firing | entry.resolved)
