"""Alerts as clients post them -> `Alert`s. Pure: bytes in, values or a refusal out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from tocsin_alerting.model import Alert, fingerprint
from tocsin_service.clock import parse_rfc3339, rfc3339

Identity = tuple[tuple[str, str], ...]
"""A label set as a key."""

_GO_ZERO: Final = parse_rfc3339("0001-01-01T00:00:00Z")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)?)?")
_ABSOLUTE_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")


class PostedAlert(msgspec.Struct, frozen=True):
    """One alert of a request, as it stands there."""

    labels: dict[str, str]
    annotations: dict[str, str] | None = None
    starts_at: object = msgspec.field(default=None, name="startsAt")
    ends_at: object = msgspec.field(default=None, name="endsAt")
    generator_url: str | None = msgspec.field(default=None, name="generatorURL")


@dataclass(frozen=True, slots=True)
class Timed:
    """A posted alert with its times read; None is unset."""

    posted: PostedAlert
    starts_at: float | None
    ends_at: float | None


class RefusedError(Exception):
    """A request of which nothing is taken; `status` and `code` as Alertmanager's API gives them."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class InvalidAlertError(ValueError):
    """An alert that breaks a rule; others of its request are taken."""


def decode(body: bytes) -> list[Timed]:
    """Read the body of a request.

    Raises:
        RefusedError: 400 for what is not JSON or not a time, 422 for a missing or ill-formed member.
    """
    try:
        posted = msgspec.json.decode(body, type=list[PostedAlert])
    except msgspec.ValidationError as error:
        message = str(error)
        raise RefusedError(422, 602 if "missing required" in message else 601, message) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(400, 400, f"the body is not JSON: {error}") from error
    for index, alert in enumerate(posted):
        if alert.generator_url and _ABSOLUTE_URI.fullmatch(alert.generator_url) is None:
            raise RefusedError(422, 601, f"{index}.generatorURL in body must be of type uri")
    return [
        Timed(alert, _time(alert.starts_at, f"{index}.startsAt"), _time(alert.ends_at, f"{index}.endsAt"))
        for index, alert in enumerate(posted)
    ]


def _time(value: object, where: str) -> float | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or _TIME.fullmatch(value) is None:
        raise RefusedError(400, 400, f"{where}: not an RFC 3339 time")
    try:
        moment = parse_rfc3339(value.upper())
        rfc3339(moment)  # a zone can move it out of the years that can be written
    except (ValueError, OverflowError) as error:
        raise RefusedError(400, 400, f"{where}: not an RFC 3339 time") from error
    return None if moment == _GO_ZERO else moment


def read(timed: Timed, known: Mapping[Identity, Alert], *, now: float, resolve_timeout: float) -> Alert:
    """Return the alert that was posted at `now`.

    Args:
        known: alerts by label set (see `identity`), whose fingerprints need not be computed again.
        resolve_timeout: seconds after which an alert without an end is taken to be over.

    Raises:
        InvalidAlertError: the reason in Alertmanager's words.
    """
    posted = timed.posted
    labels = {name: value for name, value in sorted(posted.labels.items()) if value}
    starts_at = timed.starts_at
    if starts_at is None:
        starts_at = now if timed.ends_at is None else timed.ends_at
    ends_at = now + resolve_timeout if timed.ends_at is None else timed.ends_at
    if ends_at < starts_at:
        raise InvalidAlertError("start time must be before end time")
    if not labels:
        raise InvalidAlertError("at least one label pair required")
    if "" in labels:
        raise InvalidAlertError('invalid label set: invalid name ""')
    annotations = posted.annotations or {}
    if "" in annotations:
        raise InvalidAlertError('invalid annotations: invalid name ""')
    found = known.get(identity(labels))
    return Alert(
        labels=labels,
        annotations=dict(sorted(annotations.items())),
        starts_at=starts_at,
        ends_at=ends_at,
        updated_at=now,
        fingerprint=found.fingerprint if found else fingerprint(labels),
        generator_url=posted.generator_url or "",
        timeout=timed.ends_at is None,
    )


def identity(labels: Mapping[str, str]) -> Identity:
    """Return what two label sets share exactly if they are equal; much cheaper than a fingerprint."""
    return tuple(sorted(labels.items()))


def is_firing(timed: Timed, now: float) -> bool:
    """Return whether it counts as received firing, valid or not."""
    return timed.ends_at is None or timed.ends_at > now
