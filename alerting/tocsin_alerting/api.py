"""HTTP: Alertmanager's API v2 as far as it is built, and our list of notifications."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, Final

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Endpoint

from tocsin_alerting import intake, messages, routing
from tocsin_alerting.dispatch import Dispatcher
from tocsin_alerting.grouping import Group
from tocsin_alerting.matchers import MatcherError, compiled, match_all, parse_one
from tocsin_alerting.model import Alert
from tocsin_alerting.storage import Storage
from tocsin_alerting.tables import Row
from tocsin_service.clock import Clock, rfc3339

SPOKEN_VERSION: Final = "0.28.1"
"""The Alertmanager whose API this is: clients such as Karma decide by it what they may ask for."""
NOTIFICATIONS_LIMIT: Final = 500
"""Notifications one request may ask for."""

_TRUE: Final = frozenset({"true", "1", "on", "yes", "y", "t", "ok", "checked", "selected", "enabled"})


class BadRequestError(Exception):
    """A request that is answered 400 with its reason as a bare JSON string, as Alertmanager's handlers do."""


class Api:
    """The handlers; each is a few lines over the dispatcher or the storage."""

    def __init__(self, dispatcher: Dispatcher, storage: Storage, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._storage = storage
        self._clock = clock
        self._started = clock.now()

    def routes(self) -> list[Endpoint]:
        """Return the endpoints."""
        return [
            Endpoint("/api/v2/alerts", self._alerts, methods=["GET", "POST"]),
            Endpoint("/api/v2/alerts/groups", self._groups, methods=["GET"]),
            Endpoint("/api/v2/receivers", self._receivers, methods=["GET"]),
            Endpoint("/api/v2/status", self._status, methods=["GET"]),
            Endpoint("/api/v1/notifications", self._notifications, methods=["GET"]),
        ]

    async def _post_alerts(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind != "application/json":
            return _json(_problem(415, f'unsupported media type "{kind}", only [application/json] are allowed'), 415)
        try:
            posted = intake.decode(await request.body())
        except intake.RefusedError as error:
            return _json(_problem(error.code, str(error)), error.status)
        if problems := self._dispatcher.accept(posted):
            raise BadRequestError("\n".join(problems))
        return Response(headers={"Cache-Control": "no-store"})

    async def _alerts(self, request: Request) -> Response:
        return await self._post_alerts(request) if request.method == "POST" else self._list_alerts(request)

    def _list_alerts(self, request: Request) -> Response:
        query = _Query(request)
        found = []
        for alert in sorted(self._dispatcher.alerts(), key=lambda alert: alert.fingerprint):
            receivers = [route.receiver for route in routing.match(self._dispatcher.config.root, alert.labels)]
            if query.takes(alert, receivers):
                found.append(_alert(alert, receivers))
        return _json(found)

    async def _groups(self, request: Request) -> Response:
        query = _Query(request)
        now = self._clock.now()
        ordered = sorted(self._dispatcher.groups, key=lambda group: (list(group.labels.items()), group.route.receiver))
        return _json([shown for group in ordered if (shown := self._group(group, query, now))["alerts"]])

    def _group(self, group: Group, query: _Query, now: float) -> dict[str, Any]:
        alerts = []
        for alert in sorted(group.alerts.values(), key=lambda alert: alert.fingerprint):
            routes = routing.match(self._dispatcher.config.root, alert.labels)
            receivers = sorted(route.receiver for route in routes)
            if not alert.resolved(now) and query.takes(alert, [group.route.receiver]):
                alerts.append(_alert(alert, receivers))
        return {"labels": group.labels, "receiver": {"name": group.route.receiver}, "alerts": alerts}

    async def _receivers(self, _: Request) -> Response:
        return _json([{"name": name} for name in self._dispatcher.config.receivers])

    async def _status(self, _: Request) -> Response:
        ours = version("tocsin")
        status = {
            "cluster": {"status": "disabled", "peers": []},
            "config": {"original": self._dispatcher.config.original},
            "uptime": rfc3339(self._started),
            "versionInfo": {
                "version": SPOKEN_VERSION,
                "revision": f"tocsin {ours}",
                "branch": "tocsin",
                "buildUser": "tocsin",
                "buildDate": "",
                "goVersion": "",
            },
        }
        return _json(status)

    async def _notifications(self, request: Request) -> Response:
        text = request.query_params.get("limit", "50")
        if not text.isdecimal() or not 1 <= int(text) <= NOTIFICATIONS_LIMIT:
            raise BadRequestError(f"limit must be a number from 1 to {NOTIFICATIONS_LIMIT}")
        return _json([_notification(row) for row in await self._storage.recent(int(text))])


class _Query:
    """The filters of a request for alerts."""

    def __init__(self, request: Request) -> None:
        query = request.query_params
        try:
            self._matchers = [parse_one(text) for text in query.getlist("filter") if text]
            self._receiver = compiled(query["receiver"]) if query.get("receiver") else None
        except MatcherError as error:
            raise BadRequestError(str(error)) from error
        if query.get("receiver_matchers"):
            raise BadRequestError("receiver_matchers is not supported yet; use receiver=REGEX")
        # Nothing can be silenced or inhibited yet: `silenced` and `inhibited` drop nothing, `active` all or nothing.
        self._active = (query.get("active") or "true").lower() in _TRUE

    def takes(self, alert: Alert, receivers: Iterable[str]) -> bool:
        if not self._active or not match_all(self._matchers, alert.labels):
            return False
        return self._receiver is None or any(self._receiver.fullmatch(name) for name in receivers)


def _alert(alert: Alert, receivers: Iterable[str]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "labels": alert.labels,
        "annotations": alert.annotations,
        "startsAt": rfc3339(alert.starts_at),
        "endsAt": rfc3339(alert.ends_at),
        "updatedAt": rfc3339(alert.updated_at),
        "fingerprint": alert.fingerprint,
        "receivers": [{"name": name} for name in receivers],
        "status": {"state": "active", "silencedBy": [], "inhibitedBy": [], "mutedBy": []},
    }
    return shown | ({"generatorURL": alert.generator_url} if alert.generator_url else {})


def _notification(row: Row) -> dict[str, Any]:
    notification = row.notification
    return {
        "id": row.id,
        "at": rfc3339(notification.now),
        "receiver": row.lane.receiver,
        "integration": row.lane.integration,
        "status": notification.status,
        "reason": notification.reason,
        "state": row.state,
        "attempts": row.attempts,
        "error": row.error,
        "title": messages.subject(notification),
        "text": messages.text(notification),
        "group_labels": notification.group_labels,
        "alerts": len(notification.alerts),
    }


async def on_bad_request(_: Request, error: Exception) -> Response:
    """Answer a `BadRequestError`."""
    return _json(str(error), 400)


async def on_http_error(_: Request, error: Exception) -> Response:
    """Answer an unknown path or a wrong method as Alertmanager does: `{"code": ..., "message": ...}`."""
    if not isinstance(error, HTTPException):
        raise error
    return _json(_problem(error.status_code, error.detail), error.status_code, dict(error.headers or {}))


def _problem(code: int, message: str) -> dict[str, Any]:
    return {"code": code, "message": message}


def _json(data: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return Response(orjson.dumps(data), status_code=status, media_type="application/json", headers=headers)
