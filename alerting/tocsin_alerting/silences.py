"""Silences: what one is, and what may be done with it. Pure; `silence_store` keeps them.

SilenceError
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from tocsin_alerting.index import Index
from tocsin_alerting.matchers import Matcher, MatcherError, Op, match_all, quote

EXPIRE_WHEN_RESOLVED: Final = "tocsin/expire-when-resolved"
"""The annotation that, being `true`, ends a silence once nothing fires any more of what it has silenced."""
_CHANGES: Final = 256
"""Changes that are remembered one by one, so that who knows the rest has only these to look at."""


class SilenceError(Exception):
    """A silence that is not taken; the message and the HTTP status are Alertmanager's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class State(StrEnum):
    """Where a silence is in its life; in the order they are listed."""

    ACTIVE = "active"
    PENDING = "pending"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Silence:
    """Keeps alerts quiet that satisfy all of `matchers`, from `starts_at` until just before `ends_at`.

    `used` says that it has silenced something; it is only kept up for those that expire when resolved.
    """

    id: str
    matchers: tuple[Matcher, ...]
    starts_at: float
    ends_at: float
    updated_at: float
    created_by: str
    comment: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    used: bool = False

    def state(self, now: float) -> State:
        """Return where it is in its life."""
        if now >= self.ends_at:
            return State.EXPIRED
        return State.PENDING if now < self.starts_at else State.ACTIVE

    @property
    def expires_when_resolved(self) -> bool:
        """Whether it ends with what it silences."""
        return self.annotations.get(EXPIRE_WHEN_RESOLVED, "").lower() == "true"


@dataclass(frozen=True, slots=True)
class Draft:
    """A silence as somebody asks for it.

    Args:
        matchers: label, operator and value; whether an expression is one is not known yet.
        starts_at: None for now.
        ends_at: None for not given, which is refused.
        id: of the silence to change; empty for a new one.
    """

    matchers: tuple[tuple[str, Op, str], ...]
    starts_at: float | None
    ends_at: float | None
    created_by: str
    comment: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many silences there may be, ended ones that are still kept included, and how big one; 0 is no limit."""

    silences: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Posted:
    """What comes of a draft: the silence as it is now, and the one that it replaces, which has ended."""

    silence: Silence
    replaced: Silence | None = None


def checked(draft: Draft, now: float) -> Silence:
    """Return the silence a draft asks for, by itself.

    Raises:
        SilenceError: it cannot be.
    """
    # Whole milliseconds are what the API shows: a client that sends back what it was shown changes nothing.
    starts_at = now if draft.starts_at is None else draft.starts_at
    ends_at = -math.inf if draft.ends_at is None else draft.ends_at
    if ends_at <= starts_at:
        raise SilenceError(400, "Failed to create silence: start time must be before end time")
    if ends_at <= now:
        raise SilenceError(400, "Failed to create silence: end time can't be in the past")
    return Silence(
        id=draft.id,
        matchers=_matchers(draft.matchers),
        starts_at=milliseconds(starts_at),
        ends_at=milliseconds(ends_at),
        updated_at=milliseconds(now),
        created_by=draft.created_by,
        comment=draft.comment,
        annotations=dict(draft.annotations),
    )


def posted(
    asked: Silence, known: Silence | None, *, now: float, new_id: Callable[[], str], count: int, limits: Limits
) -> Posted:
    """Return what comes of `asked`, which is `checked`.

    A silence that has muted keeps saying what it muted: a change that would rewrite that makes another silence, and
    the former one ends.

    Args:
        known: the silence that has its id; None if none has.
        count: silences there are.

    Raises:
        SilenceError: no silence has its id, or a limit is reached.
    """
    if asked.id and known is None:
        raise SilenceError(404, "silence not found")
    if known is not None and _in_place(known, asked, now):
        return Posted(_small_enough(dataclasses.replace(asked, used=known.used), limits))
    starts_at = max(asked.starts_at, milliseconds(now))
    silence = _small_enough(dataclasses.replace(asked, id=new_id(), starts_at=starts_at), limits)
    if limits.silences and count >= limits.silences:
        raise SilenceError(400, f"exceeded maximum number of silences: {count} (limit: {limits.silences})")
    return Posted(silence, None if known is None else ended(known, now))


def _in_place(known: Silence, asked: Silence, now: float) -> bool:
    if known.matchers != asked.matchers:
        return False
    match known.state(now):
        case State.ACTIVE:
            return math.floor(known.starts_at) == math.floor(asked.starts_at)
        case State.PENDING:
            return asked.starts_at >= milliseconds(now)
        case State.EXPIRED:
            return False


def ended(silence: Silence, now: float) -> Silence:
    """Return a silence as it is when it is ended now; one that has ended is the same."""
    at = milliseconds(now)
    match silence.state(now):
        case State.ACTIVE:
            return dataclasses.replace(silence, ends_at=max(at, silence.starts_at), updated_at=at)
        case State.PENDING:
            return dataclasses.replace(silence, starts_at=at, ends_at=at, updated_at=at)
        case State.EXPIRED:
            return silence


def milliseconds(moment: float) -> float:
    """Return `moment` without what is smaller; not rounded up, so that what begins now has begun."""
    # The thousandth makes up for floats, in which 0.123 s may be 0.122999999.
    return math.floor(moment * 1000 + 0.001) / 1000


def _matchers(texts: Sequence[tuple[str, Op, str]]) -> tuple[Matcher, ...]:
    found: list[Matcher] = []
    for index, (name, op, value) in enumerate(texts):
        where = f"invalid silence: invalid label matcher {index} in set 0"
        if not name:
            raise SilenceError(400, f'{where}: invalid label name ""')
        try:
            found.append(Matcher(name, op, value))
        except MatcherError as error:
            reason = str(error).partition("(RE2): ")[2] or str(error)
            words = f"invalid regular expression {quote(value)}: error parsing regexp: {reason}"
            raise SilenceError(400, f"{where}: {words}") from error
    # `!=` and `!~` are taken to mean something, whatever they match.
    if not any(item.op in {Op.NOT_EQUAL, Op.NOT_REGEX} or not item.matches({}) for item in found):
        words = "at least one matcher must not match the empty string"
        raise SilenceError(400, f"invalid silence: matcher set 0: {words}")
    return tuple(found)


# --- lists -------------------------------------------------------------------------------------------------------


def in_order(silences: Iterable[Silence], now: float) -> list[Silence]:
    """Return silences as they are listed: active ones by their end, pending by their start, then the last ended."""
    ranks = {State.ACTIVE: 0, State.PENDING: 1, State.EXPIRED: 2}

    def key(silence: Silence) -> tuple[int, float, str]:
        state = silence.state(now)
        moment = {State.ACTIVE: silence.ends_at, State.PENDING: silence.starts_at}.get(state, -silence.ends_at)
        return ranks[state], moment, silence.id

    return sorted(silences, key=key)


def says(silence: Silence, filters: Iterable[Matcher]) -> bool:
    """Return whether a silence has each of `filters` as a matcher, the same in name, operator and value."""
    return all(wanted in silence.matchers for wanted in filters)


def preview(matchers: Iterable[Matcher], alerts: Iterable[Mapping[str, str]]) -> int:
    """Return how many of the label sets `alerts` a silence with these matchers would silence."""
    held = tuple(matchers)
    return sum(match_all(held, labels) for labels in alerts)


# --- size --------------------------------------------------------------------------------------------------------

_TIMESTAMP: Final = 14


def size(silence: Silence) -> int:
    """Return the bytes that Alertmanager would take to store a silence, give or take a few for its times.

    It is what `--silences.max-silence-size-bytes` counts: the protocol buffer, with the instant it is kept until.
    """

    def member(content: int) -> int:  # a tag, the length, the content
        return 1 + _digits(content) + content

    def text(value: str) -> int:
        return member(len(value.encode())) if value else 0

    one_set = sum(
        member(text(item.name) + text(item.value) + (0 if item.op is Op.EQUAL else 2)) for item in silence.matchers
    )
    total = text(silence.id) + member(one_set) + 3 * _TIMESTAMP + text(silence.created_by) + text(silence.comment)
    for name, value in silence.annotations.items():
        total += member(member(len(name.encode())) + member(len(value.encode())))
    return member(total) + _TIMESTAMP


def _digits(number: int) -> int:
    return max(1, math.ceil(number.bit_length() / 7))


def _small_enough(silence: Silence, limits: Limits) -> Silence:
    if limits.size and (found := size(silence)) > limits.size:
        raise SilenceError(400, f"silence exceeded maximum size: {found} bytes (limit: {limits.size} bytes)")
    return silence


# --- who is silenced ---------------------------------------------------------------------------------------------


class SilenceBook:
    """All silences that are known, and which of them fit an alert.

    Attributes:
        version: changes whenever a silence does. That one begins or ends is a matter of time besides.
    """

    def __init__(self) -> None:
        self.version = 0
        self.silences: dict[str, Silence] = {}
        self._index = Index[str]()
        self._changes: deque[tuple[int, str]] = deque(maxlen=_CHANGES)
        # Thousands of alerts ask the same after each change.
        self._asked = (0, 0)
        self._answer: frozenset[str] | None = frozenset()

    def put(self, silence: Silence, now: float) -> None:
        """Take in a silence that is new or changed."""
        self.silences[silence.id] = silence
        if silence.state(now) is State.EXPIRED:
            self._index.discard(silence.id)
        else:
            self._index.add(silence.id, silence.matchers)
        self._changed(silence.id)

    def discard(self, name: str) -> None:
        """Forget a silence."""
        if self.silences.pop(name, None) is not None:
            self._index.discard(name)
            self._changed(name)

    def prune(self, now: float) -> None:
        """Leave ended silences out of further searches; they are still known."""
        for silence in self.silences.values():
            if silence.id in self._index and silence.state(now) is State.EXPIRED:
                self._index.discard(silence.id)

    def _changed(self, name: str) -> None:
        self.version += 1
        self._changes.append((self.version, name))

    def changed_since(self, version: int) -> frozenset[str] | None:
        """Return the ids of what has changed since `version`; None if that is too long ago to say."""
        asked = (version, self.version)
        if self._asked != asked:
            self._asked, self._answer = asked, self._since(version)
        return self._answer

    def _since(self, version: int) -> frozenset[str] | None:
        if self.version - version > len(self._changes):
            return None
        return frozenset(name for number, name in self._changes if number > version)

    def fitting(self, labels: Mapping[str, str]) -> list[Silence]:
        """Return the silences, active or yet to come, whose matchers labels satisfy; maybe some that have ended."""
        return [self.silences[name] for name in self._index.matching(labels)]

    def silenced_by(self, labels: Mapping[str, str], now: float) -> tuple[str, ...]:
        """Return the ids of the active silences that silence an alert with these labels."""
        return active(self.fitting(labels), now)

    def counts(self, now: float) -> dict[State, int]:
        """Return how many silences are in each state."""
        found = Counter(silence.state(now) for silence in self.silences.values())
        return {state: found[state] for state in State}


def active(silences: Iterable[Silence], now: float) -> tuple[str, ...]:
    """Return the ids of those that are active, sorted."""
    return tuple(sorted([item.id for item in silences if item.starts_at <= now < item.ends_at]))
