"""Alerts as clients post them: bytes in, values or a refusal out. Pure.

Labels and annotations stay the bytes they were posted as until somebody needs them: an alert that is posted again is
known by its bytes. What Alertmanager's request layer refuses is a `RefusedError`, and nothing of its request is taken;
what its handlers refuse is a `problem` of one alert, and the others are taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from tocsin_alerting.model import ZERO_TIME, Incoming
from tocsin_service.clock import parse_rfc3339, rfc3339

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)?)?")
_ABSOLUTE_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")
_GO_ZERO: Final = parse_rfc3339(ZERO_TIME)
_NULL: Final = b"null"
_TIMES_KEPT: Final = 4096
"""Texts of times that are remembered: those of a few requests, which share theirs."""


class RefusedError(Exception):
    """A request of which nothing is taken; `status` and `code` as Alertmanager's API gives them."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Posted(msgspec.Struct, gc=False):
    """One alert of a request. Times and URL are texts not looked into yet; None is unset."""

    labels: msgspec.Raw = msgspec.Raw(_NULL)
    annotations: msgspec.Raw = msgspec.Raw(_NULL)
    starts_at: str | None = msgspec.field(default=None, name="startsAt")
    ends_at: str | None = msgspec.field(default=None, name="endsAt")
    generator_url: str | None = msgspec.field(default="", name="generatorURL")


_REQUEST: Final = msgspec.json.Decoder(list[Posted] | None)
_PAIRS: Final = msgspec.json.Decoder(dict[str, str | None] | None)


def decode(body: bytes) -> list[Posted]:
    """Read the body of a request.

    Raises:
        RefusedError: 400 for what is not JSON or of the wrong type, 422 for a body that is missing.
    """
    if not body:
        raise RefusedError(422, 602, "alerts in body is required")
    try:
        return _REQUEST.decode(body) or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _undecodable(str(error)) from error


def read_labels(raw: bytes, where: int) -> dict[str, str]:
    """Read the labels of the alert at `where` in its request, sorted; those without a value are left out.

    Raises:
        RefusedError: 400 for what is no object of strings, 422 for none.
    """
    found = _pairs(raw, where, "labels")
    if found is None:
        raise RefusedError(422, 602, f"{where}.labels in body is required")
    return {name: value for name, value in sorted(found.items()) if value}


def read_annotations(raw: msgspec.Raw, where: int) -> dict[str, str]:
    """Read the annotations of the alert at `where` in its request, sorted; empty ones are kept.

    Raises:
        RefusedError: 400 for what is no object of strings.
    """
    found = _pairs(raw, where, "annotations")
    return {name: value or "" for name, value in sorted((found or {}).items())}


def _pairs(raw: bytes | msgspec.Raw, where: int, member: str) -> dict[str, str | None] | None:
    try:
        return _PAIRS.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _undecodable(f"{where}.{member}: {error}") from error


def check_url(text: str, where: int) -> None:
    """Check the `generatorURL` of the alert at `where` in its request.

    Raises:
        RefusedError: 422 for one that is not an absolute URI.
    """
    if _ABSOLUTE_URI.fullmatch(text) is None:
        raise RefusedError(422, 601, f'{where}.generatorURL in body must be of type uri: "{text[:200]}"')


def _undecodable(reason: str) -> RefusedError:
    return RefusedError(400, 400, f"parsing alerts body failed: {reason}")


class Times:
    """Reads times, and remembers the last few: the alerts of a request share theirs."""

    def __init__(self) -> None:
        self._known: dict[str | None, float | None] = {None: None, "": None}

    def read(self, text: str | None, where: int, member: str) -> float | None:
        """Return Unix seconds; None for unset, which Go's zero time is too.

        Raises:
            RefusedError: 400 for what is not an RFC 3339 time.
        """
        try:
            return self._known[text]
        except KeyError:
            assert text is not None  # noqa: S101 None is known from the start
        if len(self._known) >= _TIMES_KEPT:
            self._known = {None: None, "": None}
        self._known[text] = moment = _moment(text, f"{where}.{member}")
        return moment


def _moment(text: str, where: str) -> float | None:
    refusal = _undecodable(f'{where}: "{text[:50]}" is not an RFC 3339 time')
    if _TIME.fullmatch(text) is None:
        raise refusal
    try:
        moment = parse_rfc3339(text.upper())
        rfc3339(moment)  # a zone can move it out of the years that can be written
    except (ValueError, OverflowError) as error:
        raise refusal from error
    return None if moment == _GO_ZERO else moment


class Span(NamedTuple):
    """From when to when an alert fires, with what was unset filled in.

    Args:
        timeout: nobody said when it ends.
        ended: it has, at the instant it was posted.
    """

    starts_at: float
    ends_at: float
    timeout: bool
    ended: bool


def span(starts_at: float | None, ends_at: float | None, now: float, resolve_timeout: float) -> Span:
    """Fill in the times that a client left unset."""
    if starts_at is None:
        starts_at = now if ends_at is None else ends_at
    end = now + resolve_timeout if ends_at is None else ends_at
    return Span(starts_at, end, ends_at is None, end <= now)


def problem(span: Span, labels: Mapping[str, str], annotations: Mapping[str, str]) -> str | None:
    """Return what is wrong with an alert, in Alertmanager's words and order; None if nothing is."""
    if span.ends_at < span.starts_at:
        return "start time must be before end time"
    if not labels:
        return "at least one label pair required"
    if "" in labels:
        return 'invalid label set: invalid name ""'
    if "" in annotations:
        return 'invalid annotations: invalid name ""'
    return None


def bare(incoming: Incoming) -> tuple[dict[str, str], dict[str, str]]:
    """Return labels and annotations of a reported alert in the form that those of a posted one are read into."""
    found = {name: value for name, value in sorted(incoming.labels.items()) if value}
    return found, dict(sorted(incoming.annotations.items()))
