"""What a request of a source says, once it is read: alerts, which of them are over, and what could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tocsin_alerting.model import Incoming
from tocsin_service.clock import parse_rfc3339, rfc3339

_GO_ZERO: Final = parse_rfc3339("0001-01-01T00:00:00Z")
_MILLISECONDS: Final = 1e11
"""Numbers from here on are milliseconds: as seconds they would be after the year 5000."""


class UnreadableError(ValueError):
    """A request of which nothing can be taken; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Report:
    """A request, read.

    Args:
        alerts: complete but for the default labels of the source.
        problems: what could not be taken, each with its place in the body; the rest is taken all the same.
        status: what to answer if there are problems.
        over: labels; alerts that fire and have all of these, and are not among `alerts`, have ended.
        note: what the sender should know although nothing is wrong.
        truncated: alerts the sender says it has left out.
    """

    alerts: tuple[Incoming, ...] = ()
    problems: tuple[str, ...] = ()
    status: int = 400
    over: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    truncated: int = 0


@dataclass(frozen=True, slots=True)
class Times:
    """When an alert began and ended, in Unix seconds, as its sender says; None is unset."""

    starts_at: float | None
    ends_at: float | None

    def settled(self, *, firing: bool, now: float, resolve_after: float) -> Times:
        """Return times that fit its status.

        What fires ends later than now, at the latest when it has not been heard of for `resolve_after`; what has
        ended did so by now, whatever the sender's clock says.
        """
        if firing:
            ends_at = self.ends_at if self.ends_at is not None and self.ends_at > now else now + resolve_after
        else:
            ends_at = now if self.ends_at is None else min(self.ends_at, now)
        return Times(None if self.starts_at is None else min(self.starts_at, ends_at), ends_at)


def moment(value: object) -> float | None:
    """Return Unix seconds of a time as senders write them: RFC 3339, or Unix seconds or milliseconds.

    None, empty text and Go's zero time are unset.

    Raises:
        ValueError: anything else.
    """
    if value is None or value == "":
        return None
    try:
        found = _moment(value)
        rfc3339(found)  # somewhere in the years that can be written
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError("not a time; expected RFC 3339, Unix seconds or Unix milliseconds") from error
    return None if found == _GO_ZERO else found


def _moment(value: object) -> float:
    if isinstance(value, str) and not value.replace(".", "", 1).isdecimal():
        return parse_rfc3339(value.strip().upper())
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(value)
    number = float(value)
    return number / 1000 if abs(number) >= _MILLISECONDS else number
