"""The endpoints an operator expects of every service: `/-/healthy`, `/-/ready`, `/-/reload` and `/metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from prometheus_client import Gauge
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

Reload = Callable[[], Awaitable[None]]
"""Takes new configuration into use, or raises and keeps the old one."""
Readiness = Callable[[], str | None]
"""Returns why the service is not ready, or None when it is."""


def routes(*, ready: Readiness, reload: Reload | None = None) -> list[Route]:
    """Return the routes; `/metrics` is answered by `tocsin.instrument`, which wraps the app."""

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("OK")

    async def is_ready(_: Request) -> Response:
        reason = ready()
        return PlainTextResponse("OK") if reason is None else PlainTextResponse(f"{reason}\n", status_code=503)

    async def do_reload(_: Request) -> Response:
        if reload is None:
            return PlainTextResponse("This service has nothing to reload.\n", status_code=405)
        try:
            await reload()
        except Exception as error:  # whatever is wrong with the file, the old configuration goes on
            return PlainTextResponse(f"failed to reload config: {error}\n", status_code=500)
        return Response()

    return [
        Route("/-/healthy", healthy, methods=["GET"]),
        Route("/-/ready", is_ready, methods=["GET"]),
        Route("/-/reload", do_reload, methods=["POST"]),
    ]


def watched(reload: Reload, outcome: Gauge) -> Reload:
    """Return `reload` as it should be called: one at a time, its outcome in a gauge (1 taken, 0 refused)."""
    turn = asyncio.Lock()
    outcome.set(1)

    async def reload_in_turn() -> None:
        async with turn:
            try:
                await reload()
            except BaseException:
                outcome.set(0)
                raise
            outcome.set(1)

    return reload_in_turn
