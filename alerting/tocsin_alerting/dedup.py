"""What a tick of a group leads to, for one integration of its receiver. Pure.

Source: the rules of Alertmanager's notification log, with two promises added: who was told "firing" is told
"resolved", also where the alert ended while it was muted, and nobody is told "resolved" of what was never told.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tocsin_alerting.model import Reason


class Quiet(StrEnum):
    """Why nothing is sent."""

    NOTHING_FIRES = "nothing fires and nobody was told that anything did"
    UNCHANGED = "nothing has changed"
    MUTED = "everything there is to tell is muted"
    ACKNOWLEDGED = "somebody has acknowledged it"


@dataclass(frozen=True, slots=True)
class Told:
    """What a receiver has been told, by fingerprint, and when (Unix seconds).

    Args:
        firing, resolved: what the last message said.
        owed: told to fire and not yet told to have ended: `firing`, and what has been muted since.
    """

    firing: frozenset[str]
    resolved: frozenset[str]
    at: float
    owed: frozenset[str] = frozenset()


_NOTHING: Final = Told(frozenset(), frozenset(), 0.0)


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

    @property
    def owed(self) -> frozenset[str]:
        """The alerts whose end is still to be told, as far as anybody may have been told that they fire."""
        told = self.told.owed if self.told else frozenset[str]()
        return told | (self.intended.owed if self.intended else frozenset())


@dataclass(frozen=True, slots=True)
class Tick:
    """What a tick found in a group, by fingerprint, and the rules that apply.

    Args:
        firing, resolved: what nobody mutes.
        muted: what is not to be told now, firing or not.
        acknowledged: all that fires is: no repeats.
    """

    now: float
    firing: frozenset[str]
    resolved: frozenset[str]
    send_resolved: bool
    repeat_interval: float
    muted: frozenset[str] = frozenset()
    acknowledged: bool = False


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

    why: Quiet = Quiet.UNCHANGED


Plan = Send | Note | Leave


def reason(entry: Told | None, tick: Tick) -> Reason | Quiet:
    """Return why a receiver that has been told `entry` must be told of a tick, or why not."""
    if not tick.firing and not tick.resolved:
        return Quiet.MUTED if tick.muted else Quiet.NOTHING_FIRES
    told = entry or _NOTHING
    if tick.firing - told.firing:
        return Reason.NEW_ALERTS if told.firing else Reason.FIRST
    ended = tick.resolved & told.owed
    if not tick.firing:
        return Reason.ALL_RESOLVED if ended else Quiet.NOTHING_FIRES
    return Reason.SOME_RESOLVED if ended and tick.send_resolved else _repeat(told, tick)


def _repeat(told: Told, tick: Tick) -> Reason | Quiet:
    # Ticks come at multiples of group_interval: "not before", or an exact multiple would wait for one more.
    if told.at > tick.now - tick.repeat_interval:
        return Quiet.UNCHANGED
    return Quiet.ACKNOWLEDGED if tick.acknowledged else Reason.REPEAT


def plan(lane: Lane, tick: Tick) -> Plan:
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
    told = _after(entry, tick)
    if why is Reason.ALL_RESOLVED and not tick.send_resolved:
        return Note(told)
    return Send(why, told)


def _after(entry: Told | None, tick: Tick) -> Told:
    """Return what has been told once `tick` has: resolved alerts only as far as the receiver has heard of them."""
    if entry is None:
        return Told(tick.firing, frozenset(), tick.now, tick.firing)
    resolved = tick.resolved & (entry.owed | entry.resolved)
    return Told(tick.firing, resolved, tick.now, tick.firing | (entry.owed & tick.muted))
