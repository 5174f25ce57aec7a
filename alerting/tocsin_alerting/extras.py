"""What Alertmanager's file has no words for: the second file (`--tocsin.config`), or the key `tocsin` of tocsin.yml."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal

import pydantic

from tocsin_alerting.heartbeats import HeartbeatList, HeartbeatSettings
from tocsin_alerting.limits import Rate
from tocsin_alerting.pings import PingList, PingSettings
from tocsin_alerting.receivers import KINDS
from tocsin_alerting.sources import Sources, SourceSettings
from tocsin_service.settings import Document, Duration, Problem, Settings, flaw

Words = Literal["alertmanager", "tocsin"]
"""Whose default texts a message has."""
Muted = Literal["on_unmute", "at_once"]
"""When whoever was told "firing" is told of an end that came under a silence, an inhibition or a muted time."""

RATES: Final[Mapping[str, Rate]] = {"slack": Rate(1.0, 3), "telegram": Rate(1.0, 1)}
"""What these services bear for one channel or chat; others are not slowed down."""
LEASE: Final = 3.0

_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(s|m|h)")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
_EXPECTED: Final = "messages per time such as 1/s or 50/m, or off"


def _rate(value: object) -> Rate | None:
    if value is False or value == "off":  # YAML takes a bare `off` for a truth value
        return None
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) == 0:
        raise flaw("this is not a rate", expected=_EXPECTED)
    return Rate(float(match[1]) / _SECONDS[match[2]])


def _limit(value: object) -> Rate | None:
    """Read `1/s`, `off`, or `{rate: 1/s, burst: 3}`."""
    if not isinstance(value, Mapping):
        return _rate(value)
    if unknown := value.keys() - {"rate", "burst"}:
        raise flaw(f'unknown key "{min(map(str, unknown))}"', expected="rate and burst")
    found, burst = _rate(value.get("rate")), value.get("burst", 1)
    if not isinstance(burst, int) or isinstance(burst, bool) or burst < 1:
        raise flaw("burst is no number of messages", expected="1 or more")
    return found and replace(found, burst=burst)


Limit = Annotated[Rate | None, pydantic.PlainValidator(_limit)]


def _known(limits: dict[str, Rate | None]) -> dict[str, Rate | None]:
    for kind in limits:
        if kind not in KINDS:
            raise flaw(f'there is no kind of receiver "{kind}"', expected="one of " + ", ".join(KINDS))
    return limits


class ReceiverSection(Settings):
    """An entry of `receivers`: what is different for this one."""

    resolve_muted: Muted | None = None
    rate_limit: Limit = None
    burst: Annotated[int, pydantic.Field(ge=1)] | None = None


class ReplicasSection(Settings):
    """`replicas`: how several routers share one database."""

    lease: Annotated[Duration, pydantic.Field(ge=1, le=300)] = LEASE


class ExtrasSection(Settings):
    """The file."""

    messages: Words | None = None
    resolve_muted: Muted = "on_unmute"
    receivers: dict[str, ReceiverSection] = pydantic.Field(default={})
    rate_limits: Annotated[dict[str, Limit], pydantic.AfterValidator(_known)] = pydantic.Field(default={})
    replicas: ReplicasSection = ReplicasSection()
    sources: Sources = ()
    heartbeats: HeartbeatList = ()
    pings: PingList = ()


@dataclass(frozen=True, slots=True)
class ReceiverExtras:
    """What is said about one receiver; None is not said. A `limit` of `(None,)` is none at all.

    Args:
        missing: what is wrong if there is no such receiver.
    """

    resolve_muted: Muted | None = None
    limit: tuple[Rate | None] | None = None
    burst: int | None = None
    missing: Problem | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Extras:
    """All of it.

    Args:
        limits: by kind of receiver, instead of `RATES`; None is no limit.
        lease: seconds after which a replica that says nothing is taken over.
    """

    messages: Words = "alertmanager"
    resolve_muted: Muted = "on_unmute"
    receivers: Mapping[str, ReceiverExtras] = field(default_factory=dict)
    limits: Mapping[str, Rate | None] = field(default_factory=dict)
    lease: float = LEASE
    sources: tuple[SourceSettings, ...] = ()
    heartbeats: tuple[HeartbeatSettings, ...] = ()
    pings: tuple[PingSettings, ...] = ()

    def resolves_at_once(self, receiver: str) -> bool:
        """Return whether a receiver is told of an end while it is muted."""
        said = self.receivers.get(receiver, _NOTHING).resolve_muted
        return (said or self.resolve_muted) == "at_once"

    def rate(self, receiver: str, kind: str) -> Rate | None:
        """Return how fast messages may go to one destination of a receiver; None is no limit."""
        said = self.receivers.get(receiver, _NOTHING)
        by_kind = self.limits[kind] if kind in self.limits else RATES.get(kind)
        found = by_kind if said.limit is None else said.limit[0]
        return replace(found, burst=said.burst) if found and said.burst else found

    def undefined(self, receivers: Container[str]) -> list[Problem]:
        """Return a problem for each receiver that something is said about and that is none of `receivers`."""
        return [each.missing for name, each in self.receivers.items() if name not in receivers and each.missing]


_NOTHING: Final = ReceiverExtras()


def load(document: Document, *at: str | int, messages: Words = "alertmanager") -> Extras:
    """Read what stands at `at`; nothing is all defaults.

    Args:
        messages: whose texts, where it does not say.

    Raises:
        SettingsError: all that is wrong with it.
    """
    section = document.read(ExtrasSection, *at)
    return Extras(
        messages=section.messages or messages,
        resolve_muted=section.resolve_muted,
        receivers={
            name: _receiver(document, (*at, "receivers", name), each) for name, each in section.receivers.items()
        },
        limits=section.rate_limits,
        lease=section.replicas.lease,
        sources=section.sources,
        heartbeats=section.heartbeats,
        pings=section.pings,
    )


def _receiver(document: Document, loc: tuple[str | int, ...], section: ReceiverSection) -> ReceiverExtras:
    return ReceiverExtras(
        resolve_muted=section.resolve_muted,
        limit=(section.rate_limit,) if "rate_limit" in section.model_fields_set else None,
        burst=section.burst,
        missing=document.problem(loc, f'undefined receiver "{loc[-1]}"', expected="a receiver of alertmanager.yml"),
    )
