"""The shipper over HTTP: what it is doing, and a search in the embedded store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tocsin_service import clock
from tocsin_ship.pipeline import Pipeline
from tocsin_ship.storage import Logs, Query
from tocsin_ship.tail import View

_LIMIT: Final = 100
_MOST: Final = 1000


def routes(*, pipelines: Callable[[], Sequence[Pipeline]], logs: Callable[[], Logs | None]) -> list[Route]:
    """Return the routes of `/api/v1`.

    Args:
        logs: gives the embedded store, or None where there is none.
    """

    async def status(_: Request) -> Response:
        running = pipelines()
        return _json({"inputs": _inputs(running), "outputs": [_output(item) for item in running]})

    async def search(request: Request) -> Response:
        store = logs()
        if store is None:
            text = 'There is no embedded store to search in. Add "- kind: store" to the outputs of the shipper.\n'
            return PlainTextResponse(text, status_code=404)
        asked = request.query_params
        limit = asked.get("limit", str(_LIMIT))
        if not limit.isdecimal() or not 1 <= int(limit[:9]) <= _MOST:
            return PlainTextResponse(f"limit is a number from 1 to {_MOST}.\n", status_code=400)
        query = Query(
            text=asked.get("q", ""),
            level=asked.get("level", ""),
            service=asked.get("service", ""),
            trace=asked.get("trace", ""),
            limit=int(limit),
        )
        return _json(
            [
                {
                    "at": clock.rfc3339(hit.at),
                    "level": hit.level,
                    "service": hit.service,
                    "message": hit.message,
                    "trace_id": hit.trace_id,
                    "line": orjson.Fragment(hit.line),
                }
                for hit in await store.search(query)
            ]
        )

    return [
        Route("/api/v1/status", status, methods=["GET"]),
        Route("/api/v1/logs", search, methods=["GET"]),
    ]


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def _inputs(running: Sequence[Pipeline]) -> list[dict[str, Any]]:
    """Return each file once, with the position of the output that is furthest behind."""
    slowest: dict[str, View] = {}
    errors: dict[str, str] = {}
    for pipeline in running:
        errors |= pipeline.unreadable
        for view in pipeline.views:
            known = slowest.get(view.path)
            if known is None or view.position < known.position:
                slowest[view.path] = view
    files = [
        {"path": path, "size": view.size, "position": view.position, "lag_bytes": view.size - view.position}
        for path, view in sorted(slowest.items())
    ]
    unread: dict[str, Any] = {"size": None, "position": None, "lag_bytes": None}
    return files + [{"path": path, **unread, "error": reason} for path, reason in sorted(errors.items())]


def _output(pipeline: Pipeline) -> dict[str, Any]:
    state, error = pipeline.state()
    return {
        "name": pipeline.name,
        "kind": pipeline.output.kind,
        "state": state.value,
        "error": error,
        "acked": pipeline.acked,
        "dead": pipeline.dead,
    }
