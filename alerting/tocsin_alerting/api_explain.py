"""GET /api/v1/alerts/{fingerprint}/explain: why somebody was told of an alert, or was not."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Endpoint

from tocsin_alerting.alerts import Entry
from tocsin_alerting.answers import json_answer, problem
from tocsin_alerting.dispatch import Dispatcher
from tocsin_alerting.explain import explain
from tocsin_alerting.storage import Storage
from tocsin_service.clock import Clock, rfc3339


def routes(dispatcher: Dispatcher, storage: Storage, clock: Clock) -> list[Endpoint]:
    """Return the endpoint; the beginning of a fingerprint is enough where only one alert has it."""

    async def answer(request: Request) -> Response:
        asked = request.path_params["fingerprint"]
        found = [entry for name, entry in dispatcher.book.entries.items() if name.startswith(asked)]
        if len(found) != 1:
            what = "no alert has" if not found else f"{len(found)} alerts have"
            return json_answer(problem(404, f'{what} a fingerprint that begins with "{asked}"'), 404)
        now = clock.now()
        items = await explain(found[0], dispatcher, storage, now=now)
        return json_answer({"alert": _alert(found[0], dispatcher, now), "routes": items})

    return [Endpoint("/api/v1/alerts/{fingerprint}/explain", answer, methods=["GET"])]


def _alert(entry: Entry, dispatcher: Dispatcher, now: float) -> dict[str, Any]:
    alert, verdict = entry.alert, dispatcher.muter.verdict(entry, now)
    state = "resolved" if alert.resolved(now) else "suppressed" if verdict else "active"
    return {
        "labels": alert.labels,
        "annotations": alert.annotations,
        "startsAt": rfc3339(alert.starts_at),
        "endsAt": rfc3339(alert.ends_at),
        "updatedAt": rfc3339(alert.updated_at),
        "receivedAt": rfc3339(entry.received_at),
        "generatorURL": alert.generator_url,
        "fingerprint": alert.fingerprint,
        "receivers": [{"name": route.receiver} for route in entry.routes],
        "status": {
            "state": state,
            "silencedBy": list(verdict.silenced_by),
            "inhibitedBy": list(verdict.inhibited_by),
            "mutedBy": [],
        },
    }
