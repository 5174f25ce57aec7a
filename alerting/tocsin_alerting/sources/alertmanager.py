"""Webhooks of an Alertmanager, version 4, so that tocsin can stand behind one. Source: its webhook documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import msgspec

from tocsin_alerting.model import Incoming
from tocsin_alerting.sources.auth import TokenOrPassword
from tocsin_alerting.sources.report import Report, Times, UnreadableError, moment


class AlertmanagerSettings(TokenOrPassword):
    """`kind: alertmanager`."""

    kind: Literal["alertmanager"]


class PostedAlert(msgspec.Struct, frozen=True, rename="camel"):
    """One member of `alerts`."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str] | None = None
    starts_at: str | None = None
    ends_at: str | None = None
    generator_url: str | None = msgspec.field(default=None, name="generatorURL")


class _Envelope(msgspec.Struct, frozen=True, rename="camel"):
    alerts: list[msgspec.Raw]
    truncated_alerts: int | None = None


_A = TypeVar("_A", bound=PostedAlert)


def read(body: bytes, headers: Mapping[str, str], settings: AlertmanagerSettings, now: float) -> Report:
    """Return what a request says.

    Raises:
        UnreadableError: it is not such a webhook.
    """
    return read_alerts(body, PostedAlert, lambda posted: posted.annotations or {}, settings, now)


def read_alerts(
    body: bytes, shape: type[_A], annotations: Callable[[_A], dict[str, str]], settings: TokenOrPassword, now: float
) -> Report:
    """Return what a webhook with `alerts` says; one that cannot be read does not stop the others.

    Args:
        annotations: makes the annotations of an alert.

    Raises:
        UnreadableError: it is not such a webhook.
    """
    try:
        envelope = msgspec.json.decode(body, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(f"the body is not a webhook with alerts: {error}") from error
    alerts: list[Incoming] = []
    problems: list[str] = []
    for index, raw in enumerate(envelope.alerts):
        try:
            posted = msgspec.json.decode(raw, type=shape)
            if not settings.labels and not any(posted.labels.values()):
                raise ValueError("it has no labels")
            alerts.append(_incoming(posted, annotations(posted), now, settings.resolve_after))
        except (ValueError, RecursionError) as error:
            problems.append(f"alerts[{index}]: {error}")
    return Report(tuple(alerts), tuple(problems), truncated=envelope.truncated_alerts or 0)


def _incoming(posted: PostedAlert, annotations: dict[str, str], now: float, resolve_after: float) -> Incoming:
    times = Times(_time(posted.starts_at, "startsAt"), _time(posted.ends_at, "endsAt"))
    times = times.settled(firing=posted.status == "firing", now=now, resolve_after=resolve_after)
    return Incoming(posted.labels, annotations, times.starts_at, times.ends_at, posted.generator_url or "")


def _time(value: str | None, where: str) -> float | None:
    try:
        return moment(value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
