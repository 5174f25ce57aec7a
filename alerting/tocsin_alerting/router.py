"""The alert router, put together: what `tocsin up`, the command line and the tests start and stop."""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import tocsin
from tocsin_alerting import api
from tocsin_alerting.config import Config, Integration
from tocsin_alerting.deliver import Courier
from tocsin_alerting.dispatch import Dispatcher
from tocsin_alerting.receivers import KINDS
from tocsin_alerting.receivers.sending import Sending
from tocsin_alerting.storage import Storage
from tocsin_alerting.tables import LaneKey
from tocsin_alerting.telemetry import Telemetry
from tocsin_service import ops, run, web
from tocsin_service.clock import Clock, SystemClock
from tocsin_service.http import Outbound

DRAIN: Final = 2.0
"""Seconds that the end of the process waits for messages not tried yet; the rest is sent at the next start."""


class Router:
    """One alert router over one database.

    Args:
        database_url: `sqlite:///path` or `postgresql://...`; one router per database.
        external_url: where people reach this router, for links in messages.
        registry: takes the metrics; None makes one of its own.
        terminal: prints a message of a `console_configs` entry; None is no terminal.
        reread: what `POST /-/reload` does: read the file again and call `reload`; None answers 405.
    """

    def __init__(
        self,
        config: Config,
        *,
        database_url: str,
        external_url: str,
        clock: Clock | None = None,
        registry: CollectorRegistry | None = None,
        terminal: Callable[[str], None] | None = None,
        reread: ops.Reload | None = None,
    ) -> None:
        clock = clock or SystemClock()
        registry = registry or CollectorRegistry()
        telemetry = Telemetry(registry, KINDS)
        self._outbound = Outbound(user_agent=f"tocsin/{version('tocsin')}")
        self._storage = Storage(database_url)
        self._courier = Courier(
            self._storage,
            find=self._find,
            ended=self._ended,
            sending=Sending(self._outbound, terminal),
            clock=clock,
            telemetry=telemetry,
        )
        self._dispatcher = Dispatcher(
            config,
            storage=self._storage,
            courier=self._courier,
            clock=clock,
            telemetry=telemetry,
            external_url=external_url,
        )
        telemetry.watch(
            active=lambda: sum(1 for _ in self._dispatcher.alerts()),
            groups=lambda: len(self._dispatcher.groups),
            pending=lambda: self._courier.pending,
            oldest=self._courier.oldest,
        )
        self.app = self._make_app(clock, registry, reread)
        """The ASGI app."""

    def _make_app(self, clock: Clock, registry: CollectorRegistry, reread: ops.Reload | None) -> ASGIApp:
        endpoints = api.Api(self._dispatcher, self._storage, clock).routes()
        app = Starlette(
            routes=[*endpoints, *ops.routes(ready=self._not_ready, reload=reread)],
            exception_handlers={HTTPException: api.on_http_error, api.BadRequestError: api.on_bad_request},
        )
        return web.Hardened(tocsin.instrument(app, service_name="tocsin-alerting", registry=registry, logs=False))

    def service(self, listener: socket.socket | None) -> run.Service:
        """Return what `run.serve` starts and stops; with None the app is reached in this process only."""
        return run.Service(
            name="alerting",
            app=self.app,
            listener=listener,
            start=self._start,
            loops=[self._dispatcher.run],
            drain=self._drain,
            close=self._close,
        )

    async def reload(self, config: Config) -> None:
        """Take another configuration into use: alerts, timers and messages under way go on."""
        await self._dispatcher.reload(config)

    def _not_ready(self) -> str | None:
        return None if self._storage.opened else "the database is not open yet"

    def _find(self, lane: LaneKey) -> Integration | None:
        receiver = self._dispatcher.config.receivers.get(lane.receiver)
        kind, position = lane.integration, lane.position
        found = receiver.integrations if receiver else ()
        return next((item for item in found if (item.kind, item.position) == (kind, position)), None)

    def _ended(self, group_key: str, told: bool) -> None:
        self._dispatcher.ended(group_key, told)

    async def _start(self) -> None:
        await self._storage.open()
        await self._dispatcher.recall()

    async def _drain(self) -> None:
        if self._storage.opened:
            await self._dispatcher.tick()
            await self._courier.drain(DRAIN)
            await self._dispatcher.remember()

    async def _close(self) -> None:
        await self._outbound.close()
        await self._storage.close()
