"""Whether spans that a collector did not take are sent again, and when. Pure.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp-response and its throttling section
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum

FIRST_WAIT = 1.0
"""Seconds before the second attempt; each further wait is twice as long."""
LONGEST_WAIT = 30.0
GIVE_UP_AFTER = 60.0
"""Seconds after which a batch is dropped, so that newer spans are tried."""
LONGEST_PAUSE = 600.0
"""Seconds; a collector that asks for more is asked again then."""

_TOO_LARGE = 413
_RETRYABLE = frozenset((429, 502, 503, 504))


class Action(Enum):
    """What to do with a batch."""

    DONE = "done"
    RETRY = "retry"
    DROP = "drop"
    SPLIT = "split"
    """It is too large for this collector: send it in halves, drop what cannot be halved."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a batch, and why."""

    action: Action
    reason: str
    """`accepted`, `unavailable` (nobody answers, or the collector says later), `too_large`, `refused` (never will)."""
    wait: float = 0.0
    """Seconds in which nothing is to be sent."""


def judge(
    status: int | None, retry_after: str | None, *, attempt: int, waited: float, now: float, dice: float
) -> Verdict:
    """Return what to do after an attempt.

    Args:
        status: the collector's, or None if there was no answer.
        retry_after: the header as sent: seconds or a date.
        attempt: how many attempts this was, from 1.
        waited: seconds since the first attempt.
        now: Unix seconds.
        dice: 0 to 1, so that many processes do not come back at the same instant.
    """
    if status is not None and 200 <= status < 300:
        return Verdict(Action.DONE, "accepted")
    if status == _TOO_LARGE:
        return Verdict(Action.SPLIT, "too_large")
    if status is not None and status not in _RETRYABLE:
        return Verdict(Action.DROP, "refused")
    asked = pause_of(retry_after, now)
    backoff = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(attempt - 1, 16)) * (0.5 + dice / 2)
    # Never at once, also if asked to: `Retry-After: 0` and a date of the past are no reason to post without a pause.
    wait = backoff if asked is None else max(asked + dice * min(1.0, asked / 10), min(backoff, FIRST_WAIT))
    if waited + wait > GIVE_UP_AFTER:
        return Verdict(Action.DROP, "unavailable", 0.0 if asked is None else wait)
    return Verdict(Action.RETRY, "unavailable", wait)


def pause_of(retry_after: str | None, now: float) -> float | None:
    """Return the seconds a `Retry-After` header asks for, or None if it says nothing that can be read."""
    text = (retry_after or "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_PAUSE)
    try:
        at = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, at - now), LONGEST_PAUSE)
