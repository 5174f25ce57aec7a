"""Elasticsearch's `_bulk`, without the network: events -> body, answer -> what to do about each event. Pure.

Source: the bulk API's reference. An answer of 200 says nothing about the events: each has its own status.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum

import msgspec

from tocsin_ship.lines import Line

QUERY = "filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason"
"""Query that makes the answer small and leaves in it what `outcomes` needs."""

_REASON = re.compile(r"[a-z_]{1,64}")


class Fate(Enum):
    """What becomes of one event."""

    DELIVERED = "delivered"
    AGAIN = "again"
    """The server could not take it now."""
    WAIT = "wait"
    """Rights or configuration have to be mended first."""
    MISSING = "missing"
    """The index or pipeline is not there: a few more attempts, then a dead letter."""
    REJECTED = "rejected"
    """It can never be stored."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The fate of one event.

    Args:
        reason: a short name for it, used as a metric label.
        status: the server's status for the event.
        error: the server's words, empty when delivered.
    """

    fate: Fate
    reason: str
    status: int
    error: str = ""


class Step(StrEnum):
    """What to do about a request as a whole."""

    ITEMS = "items"
    """Look at each event."""
    AGAIN = "again"
    """Send the same body again."""
    SPLIT = "split"
    """It is too large: send it in halves."""
    BISECT = "bisect"
    """One event spoils it: find that one by halves."""
    SUSPECT = "suspect"
    """Send it again; if that fails each time, one event may be the cause."""
    DENIED = "denied"
    """Rights or address are wrong: keep everything, raise an alarm, try slowly."""


class AnswerError(Exception):
    """An answer that does not fit the request; the events count as not taken."""


class _Error(msgspec.Struct):
    type: str = ""
    reason: str | None = None


class _Item(msgspec.Struct):
    status: int
    error: _Error | str | None = None


class _Answer(msgspec.Struct):
    items: list[dict[str, _Item]] = []


_answer = msgspec.json.Decoder(_Answer)


def encode(lines: Sequence[Line]) -> bytes:
    """Return the body of a request that creates `lines`; their data must be JSON objects on one line."""
    parts = []
    for line in lines:
        parts.append(b'{"create":{"_id":"%b"}}\n' % line.id.encode())
        parts.append(line.data)
        parts.append(b"\n")
    return b"".join(parts)


def step(status: int) -> Step:
    """Say what an HTTP status means for the whole request."""
    if 200 <= status < 300:
        return Step.ITEMS
    if status == 413:
        return Step.SPLIT
    if status in {400, 415, 422}:
        return Step.BISECT
    if status == 500:
        return Step.SUSPECT
    if status in {408, 425, 429} or status > 500:
        return Step.AGAIN
    return Step.DENIED  # 401, 403, 404 and whatever else says that this is not a server to write to


def outcomes(body: bytes, count: int) -> list[Outcome]:
    """Return the fate of each of `count` events, in order.

    Raises:
        AnswerError: this is not the answer to a request with so many events.
    """
    try:
        answer = _answer.decode(body)
    except msgspec.DecodeError as error:
        raise AnswerError(f"the answer is not one of the bulk API: {error}") from error
    if len(answer.items) != count or not all(len(item) == 1 for item in answer.items):
        raise AnswerError(f"the answer speaks of {len(answer.items)} events, {count} were sent")
    return [outcome(item.status, item.error) for entry in answer.items for item in entry.values()]


def outcome(status: int, error: _Error | str | None = None) -> Outcome:
    """Return the fate of an event with `status` and `error`."""
    kind = error.type if isinstance(error, _Error) else ""
    words = (error.reason or "") if isinstance(error, _Error) else (error or "")
    text = ": ".join(part for part in (kind, words) if part)
    reason = kind if _REASON.fullmatch(kind) else f"status_{status}"
    return Outcome(_fate(status), reason, status, text)


def _fate(status: int) -> Fate:
    if 200 <= status < 300:
        return Fate.DELIVERED
    if status == 409:
        # Our ids are a function of the event: what is there already is this event, sent before.
        return Fate.DELIVERED
    if status in {408, 429} or status >= 500:
        return Fate.AGAIN
    if status in {401, 403}:
        return Fate.WAIT
    return Fate.MISSING if status == 404 else Fate.REJECTED
