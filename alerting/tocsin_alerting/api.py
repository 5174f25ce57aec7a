"""HTTP: Alertmanager's API v2 for alerts, groups, receivers and status, and our list of notifications."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Endpoint

from tocsin_alerting import messages
from tocsin_alerting.alerts import Entry
from tocsin_alerting.answers import BadRequestError, Pieces, json_answer, on_bad_request, on_http_error
from tocsin_alerting.dispatch import Dispatcher
from tocsin_alerting.fast import fast
from tocsin_alerting.grouping import Group
from tocsin_alerting.leadership import DATABASE_ERRORS, Leadership
from tocsin_alerting.listing import AT_ONCE, Listing
from tocsin_alerting.matchers import Mode
from tocsin_alerting.options import Options
from tocsin_alerting.query import AlertQuery, ReceiverQuery
from tocsin_alerting.selection import Selections
from tocsin_alerting.storage import Storage
from tocsin_alerting.tables import Row
from tocsin_alerting.telemetry import SPOKEN_VERSION
from tocsin_service.clock import Clock, rfc3339

__all__ = ["Api", "BadRequestError", "fast", "on_bad_request", "on_http_error"]

NOTIFICATIONS_LIMIT: Final = 500
"""Notifications one request may ask for."""

_PATIENCE: Final = 1.0
"""Seconds that an answer waits to hear who leads."""

_GONE: Final = {
    "status": "deprecated",
    "error": "Alertmanager's API v1 went with its version 0.27; ask the same path under /api/v2",
}


class Api:
    """The handlers; each is a few lines over the dispatcher or the storage."""

    def __init__(
        self, dispatcher: Dispatcher, storage: Storage, clock: Clock, options: Options, leadership: Leadership
    ) -> None:
        self._dispatcher = dispatcher
        self._leadership = leadership
        self._storage = storage
        self._clock = clock
        self._selections = Selections(dispatcher.book)
        self._mode = Mode.of(options.features)
        self._by_group = "group-key-in-metrics" in options.features
        self._started = clock.now()

    def routes(self) -> list[Endpoint]:
        """Return the endpoints; `POST /api/v2/alerts` is answered by `fast`, before them."""
        gone = ("status", "receivers", "alerts", "silences", "silence/{id}")
        return [
            Endpoint("/api/v2/alerts", self._alerts, methods=["GET", "POST"]),
            Endpoint("/api/v2/alerts/groups", self._groups, methods=["GET"]),
            Endpoint("/api/v2/receivers", self._receivers, methods=["GET"]),
            Endpoint("/api/v2/status", self._status, methods=["GET"]),
            Endpoint("/api/v1/notifications", self._notifications, methods=["GET"]),
            *(Endpoint(f"/api/v1/{path}", _gone, methods=["GET", "POST", "DELETE"]) for path in gone),
        ]

    # --- alerts -------------------------------------------------------------------------------------------------

    def _listing(self, query: AlertQuery, now: float, *, by_name: bool) -> Listing:
        return Listing(query, self._dispatcher.muter.verdict, now, by_name=by_name)

    def _query(self, request: Request) -> AlertQuery:
        return AlertQuery(request.query_params, self._dispatcher.config.receivers, self._mode)

    async def _alerts(self, request: Request) -> Response:
        query = self._query(request)
        listing = self._listing(query, self._clock.now(), by_name=False)
        # A copy: alerts may come while it is sent.
        return Pieces(listing.alerts(list(self._selections.find(query.matchers))))

    async def _groups(self, request: Request) -> Response:
        query = self._query(request)
        now = self._clock.now()
        listing = self._listing(query, now, by_name=True)
        asked = (group for group in self._dispatcher.groups if query.receivers.takes(group.route.receiver))
        ordered = sorted(asked, key=lambda group: (list(group.labels.items()), group.route.receiver))
        found = frozenset(self._selections.find(query.matchers)) if query.matchers else None
        return Pieces(_listed((len(group.alerts), self._group(group, query, found, listing, now)) for group in ordered))

    def _group(
        self, group: Group, query: AlertQuery, found: frozenset[Entry] | None, listing: Listing, now: float
    ) -> bytes:
        _, muted_by, _ = self._dispatcher.muter.timing(group.route, now)
        if muted_by and not query.muted:
            return b""
        members = sorted(group.alerts.values(), key=_fingerprint)
        if found is not None:
            members = [entry for entry in members if entry in found]
        if not (alerts := listing.members(members, muted_by)):
            return b""
        shown: dict[str, object] = {"labels": group.labels, "receiver": {"name": group.route.receiver}}
        if group.route.labels:
            shown["routeLabels"] = dict(group.route.labels)
        return b'{"alerts":[' + alerts + b"]," + orjson.dumps(shown)[1:]

    def states(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        """Yield how many alerts fire in which state, for the metrics: for each group if that was asked for."""
        now = self._clock.now()
        if not self._by_group:
            yield "", self._count(self._dispatcher.book.firing(now), now)
            return
        for group in self._dispatcher.groups:
            members = (entry for entry in group.alerts.values() if not entry.alert.resolved(now))
            yield group.key, self._count(members, now)

    def _count(self, entries: Iterable[Entry], now: float) -> Counter[str]:
        verdict = self._dispatcher.muter.verdict
        return Counter("suppressed" if verdict(entry, now) else "active" for entry in entries)

    # --- the rest -----------------------------------------------------------------------------------------------

    async def _receivers(self, request: Request) -> Response:
        known = self._dispatcher.config.receivers
        query = ReceiverQuery(request.query_params, known, self._mode)
        shown = [{"name": item.name, "labels": dict(item.labels)} for item in known.values() if query.takes(item.name)]
        return json_answer(shown)

    async def _status(self, _: Request) -> Response:
        status = {
            "cluster": await self._cluster(),
            "config": {"original": self._dispatcher.config.original},
            "uptime": rfc3339(self._started),
            "versionInfo": {
                "version": SPOKEN_VERSION,
                "revision": f"tocsin {version('tocsin')}",
                "branch": "tocsin",
                "buildUser": "tocsin",
                "buildDate": "",
                "goVersion": "",
            },
        }
        return json_answer(status)

    async def _cluster(self) -> dict[str, object]:
        """Return who leads, in the words for gossip: the peers are the replica that tells and this one."""
        if not self._storage.shared:
            return {"status": "disabled", "peers": []}
        name = self._leadership.name
        try:
            async with asyncio.timeout(_PATIENCE):
                leader, left = await self._storage.leader()
        except DATABASE_ERRORS:
            leader, left = "", 0.0
        names = {name: "answers"} | ({leader: "tells receivers"} if leader and left > 0 else {})
        peers = [{"name": each, "address": role} for each, role in sorted(names.items())]
        return {"status": "ready" if left > 0 else "settling", "name": name, "peers": peers}

    async def _notifications(self, request: Request) -> Response:
        text = request.query_params.get("limit", "50")
        if not text.isdecimal() or not 1 <= int(text) <= NOTIFICATIONS_LIMIT:
            raise BadRequestError(f"limit must be a number from 1 to {NOTIFICATIONS_LIMIT}")
        return json_answer([_notification(row) for row in await self._storage.recent(int(text))])


def _listed(members: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
    """Yield the pieces of a list of those members that are not empty, each with the number of alerts looked at for it.

    A piece is as long as `AT_ONCE` says.
    """
    piece: list[bytes] = []
    opening, looked_at = b"[", 0
    for count, member in members:
        looked_at += count
        if member:
            piece += (opening, member)
            opening = b","
        if looked_at >= AT_ONCE:
            yield b"".join(piece)
            piece, looked_at = [], 0
    yield b"".join(piece) + (b"[]" if opening == b"[" else b"]")


def _fingerprint(entry: Entry) -> str:
    return entry.alert.fingerprint


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


async def _gone(_: Request) -> Response:
    return json_answer(_GONE, 410)
