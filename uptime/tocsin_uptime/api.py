"""The prober's own API: checks with their state, last result and history, as JSON (times are RFC 3339)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tocsin_service.clock import rfc3339
from tocsin_uptime.result import Result
from tocsin_uptime.watch import Watched


def routes(watched: Callable[[], Mapping[str, Watched]], now: Callable[[], float]) -> list[Route]:
    """Return the routes that show what `watched()` holds, by name."""

    async def checks(_: Request) -> Response:
        moment = now()
        return _json([shown(item, moment) for item in watched().values()])

    async def check(request: Request) -> Response:
        name = request.path_params["name"]
        item = watched().get(name)
        if item is None:
            return _json({"error": f'There is no check named "{name}". GET /api/v1/checks lists all.'}, status=404)
        return _json(shown(item, now()))

    async def page(request: Request) -> Response:
        # Alerts link here; until there is a page, the facts as JSON are better than nothing.
        return RedirectResponse(f"/api/v1/checks/{quote(request.path_params['name'], safe='')}")

    return [
        Route("/api/v1/checks", checks, methods=["GET"]),
        Route("/api/v1/checks/{name}", check, methods=["GET"]),
        Route("/checks/{name}", page, methods=["GET"]),
    ]


def shown(item: Watched, now: float) -> dict[str, Any]:
    """Return one check as the API shows it."""
    check = item.check
    last = item.history.last
    return {
        "name": check.name,
        "service": check.service,
        "group": check.group,
        "kind": check.kind,
        "target": check.target.shown,
        "state": item.standing.state,
        "since": rfc3339(item.standing.since),
        "interval": check.interval,
        "last": None if last is None else _last(last),
        "history": [_brief(result) for result in item.history.recent],
        "uptime_24h": item.history.uptime(now),
    }


def _last(result: Result) -> dict[str, Any]:
    return {
        **_brief(result),
        "sentence": result.sentence,
        "status": result.status,
        "phases": {phase.value: round(seconds, 6) for phase, seconds in result.phases.items()},
        "excerpt": result.excerpt,
    }


def _brief(result: Result) -> dict[str, Any]:
    return {
        "at": rfc3339(result.at),
        "success": result.success,
        "duration": round(result.duration, 6),
        "reason": result.reason,
    }


def _json(value: object, *, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json")
