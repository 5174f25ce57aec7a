"""What the console shows, asked of the parts over their public APIs; a part that does not answer is a sentence."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec

from tocsin import names
from tocsin_service import telemetry
from tocsin_service.http import Outbound, RequestError

_T = TypeVar("_T")


class Status(msgspec.Struct, frozen=True):
    state: str = "active"


class Alert(msgspec.Struct, frozen=True):
    """An alert of `GET /api/v2/alerts`."""

    labels: dict[str, str]
    annotations: dict[str, str]
    startsAt: str  # noqa: N815 Alertmanager's name
    fingerprint: str
    status: Status = Status()
    generatorURL: str = ""  # noqa: N815


class Notification(msgspec.Struct, frozen=True):
    """A notification of the router's `GET /api/v1/notifications`."""

    at: str
    receiver: str
    integration: str
    status: str
    state: str
    title: str
    error: str | None = None
    attempts: int = 0


class Sample(msgspec.Struct, frozen=True):
    """One probe of a check."""

    at: str
    success: bool
    duration: float
    reason: str


class Last(msgspec.Struct, frozen=True):
    """The latest probe of a check, in words."""

    at: str
    success: bool
    sentence: str
    duration: float


class Check(msgspec.Struct, frozen=True):
    """A check of the prober's `GET /api/v1/checks`."""

    name: str
    service: str
    kind: str
    target: str
    state: str
    since: str
    interval: float
    last: Last | None = None
    history: tuple[Sample, ...] = ()
    uptime_24h: float | None = None


class LogLine(msgspec.Struct, frozen=True):
    """A line of the shipper's `GET /api/v1/logs`."""

    at: str
    level: str
    service: str
    message: str
    trace_id: str | None = None
    line: dict[str, Any] = msgspec.field(default_factory=dict)


class _Series(msgspec.Struct, frozen=True):
    """One series of an instant query: its labels, its time and its value as text."""

    metric: dict[str, str]
    value: tuple[float, str]


class _Vector(msgspec.Struct, frozen=True):
    result: tuple[_Series, ...] = ()


class _Answer(msgspec.Struct, frozen=True):
    """What Prometheus answers an instant query with."""

    data: _Vector = _Vector()


@dataclass(frozen=True, slots=True)
class Traffic:
    """What Prometheus knows of a service: requests/s, share of errors (0 to 1), p95 in seconds; None is unknown."""

    up: bool | None = None
    rate: float | None = None
    errors: float | None = None
    p95: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at all parts; `missing` says in a sentence what could not be asked."""

    alerts: tuple[Alert, ...] = ()
    notifications: tuple[Notification, ...] = ()
    checks: tuple[Check, ...] = ()
    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """A part to ask: its client, the URL it answers at, and its name for a sentence."""

    name: str
    url: str
    client: Outbound


_DURATION = names.HTTP_SERVER_REQUEST_DURATION.name
_THEIRS = 'service!="",service!~"tocsin-.*|prometheus"'
"""The parts of tocsin are listed by themselves."""
_COUNT = f"sum by (service) (rate({_DURATION}_count{{{_THEIRS}}}[1m]))"
_FAILED = f'sum by (service) (rate({_DURATION}_count{{{_THEIRS},http_response_status_code=~"5.."}}[1m]))'
_QUERIES: Mapping[str, str] = {
    "up": f"min by (service) (up{{{_THEIRS}}})",
    "rate": _COUNT,
    "errors": f"({_FAILED} or 0 * {_COUNT}) / ({_COUNT} > 0)",
    "p95": f"histogram_quantile(0.95, sum by (service, le) (rate({_DURATION}_bucket{{{_THEIRS}}}[1m])))",
}


class Sources:
    """Asks the parts, all at once."""

    def __init__(
        self, *, alerting: Peer, uptime: Peer, ship: Peer, prometheus: Peer, has_prometheus: Callable[[], bool]
    ) -> None:
        self._alerting = alerting
        self._uptime = uptime
        self._ship = ship
        self._prometheus = prometheus
        self._has_prometheus = has_prometheus

    async def snapshot(self) -> Snapshot:
        """Take a look at everything."""
        missing: list[str] = []
        alerts, notifications, checks, traffic = await asyncio.gather(
            self._ask(self._alerting, "/api/v2/alerts", list[Alert], missing),
            self._ask(self._alerting, "/api/v1/notifications?limit=20", list[Notification], missing),
            self._ask(self._uptime, "/api/v1/checks", list[Check], missing),
            self._traffic(missing),
        )
        return Snapshot(
            tuple(alerts or ()), tuple(notifications or ()), tuple(checks or ()), traffic, tuple(dict.fromkeys(missing))
        )

    async def logs(self, **filters: str) -> tuple[list[LogLine], str]:
        """Return the lines that match, newest first, and a sentence when they cannot be had."""
        missing: list[str] = []
        query = urlencode({name: value for name, value in filters.items() if value})
        found = await self._ask(self._ship, f"/api/v1/logs?{query}", list[LogLine], missing)
        return found or [], " ".join(missing)

    async def _ask(self, peer: Peer, path: str, kind: type[_T], missing: list[str]) -> _T | None:
        try:
            response = await peer.client.get(peer.url + path, timeout=2.0)
            return msgspec.json.decode(response.content, type=kind)
        except RequestError as error:
            missing.append(f"{peer.name} cannot be asked: {error}.")
        except msgspec.DecodeError as error:
            missing.append(f"{peer.name} gave an answer that is not understood: {error}.")
        except Exception as error:
            # An app of this process hands its own exceptions on to who asks it.
            telemetry.logger("tocsin.console").exception("a part failed", part=peer.name)
            missing.append(f"{peer.name} failed: {type(error).__name__}, see the log.")
        return None

    async def _traffic(self, missing: list[str]) -> Mapping[str, Traffic]:
        if not self._has_prometheus():
            return {}
        answers = await asyncio.gather(*(self._query(text, missing) for text in _QUERIES.values()))
        columns = dict(zip(_QUERIES, answers, strict=True))
        services = {service for column in answers for service in column}
        return {service: _traffic({name: columns[name].get(service) for name in columns}) for service in services}

    async def _query(self, query: str, missing: list[str]) -> Mapping[str, float]:
        path = f"/api/v1/query?{urlencode({'query': query})}"
        answer = await self._ask(self._prometheus, path, _Answer, missing)
        if answer is None:
            return {}
        found = {series.metric.get("service", ""): _number(series.value[1]) for series in answer.data.result}
        return {service: value for service, value in found.items() if service and math.isfinite(value)}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _traffic(values: Mapping[str, float | None]) -> Traffic:
    up = values["up"]
    return Traffic(None if up is None else up > 0, values["rate"], values["errors"], values["p95"])
