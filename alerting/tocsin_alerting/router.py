"""The alert router, put together: what `tocsin up`, the command line and the tests start and stop."""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp

import tocsin
from tocsin_alerting import api, api_explain, api_silences, drill, ui
from tocsin_alerting.acks import Acks
from tocsin_alerting.clerk import Clerk
from tocsin_alerting.config import Config, Integration
from tocsin_alerting.deliver import Courier
from tocsin_alerting.dispatch import Dispatcher
from tocsin_alerting.front import Front
from tocsin_alerting.heartbeat_store import HeartbeatStore
from tocsin_alerting.heartbeat_telemetry import HeartbeatTelemetry
from tocsin_alerting.heartbeats import Heartbeats
from tocsin_alerting.leadership import DATABASE_ERRORS, Leadership
from tocsin_alerting.limits import Rate
from tocsin_alerting.matchers import Mode
from tocsin_alerting.options import Options
from tocsin_alerting.outbox import DeposedError
from tocsin_alerting.pings import Pings
from tocsin_alerting.receivers import KINDS
from tocsin_alerting.receivers.clients import Clients
from tocsin_alerting.receivers.sending import Sending
from tocsin_alerting.silence_store import Silences
from tocsin_alerting.sources import endpoint
from tocsin_alerting.sources.telemetry import SourceTelemetry
from tocsin_alerting.storage import Storage
from tocsin_alerting.tables import LaneKey
from tocsin_alerting.telemetry import Telemetry
from tocsin_service import ops, run, telemetry, web
from tocsin_service.clock import Clock, SystemClock
from tocsin_service.db import Database
from tocsin_service.settings import environment

DRAIN: Final = 2.0
"""Seconds that the end of the process waits for messages not tried yet; the rest is sent at the next start."""
STUCK_AFTER: Final = 300.0
"""Seconds that a message may wait before the router stops telling an outside watcher that all is well."""
_BEAT: Final = 1.0
"""Seconds between two looks at heartbeats."""


class Router:
    """One alert router; several may share a PostgreSQL, of which one tells receivers.

    Args:
        database_url: `sqlite:///path` or `postgresql://...`.
        registry: takes the metrics; None makes one of its own.
        terminal: prints a message of a `console_configs` entry; None is no terminal.
        reread: what `POST /-/reload` does: read the file again and call `reload`; None answers 405.
    """

    def __init__(
        self,
        config: Config,
        *,
        database_url: str,
        options: Options | None = None,
        clock: Clock | None = None,
        registry: CollectorRegistry | None = None,
        terminal: Callable[[str], None] | None = None,
        reread: ops.Reload | None = None,
    ) -> None:
        self._options = options or Options()
        self._clock = clock or SystemClock()
        self._registry = registry or CollectorRegistry()
        self._terminal = terminal
        self._telemetry = Telemetry(
            self._registry,
            KINDS,
            features=self._options.features,
            per_alertname_limit=self._options.per_alertname_limit,
        )
        self._clients = Clients(user_agent=f"tocsin/{version('tocsin')}", environ=environment())
        self._log = telemetry.logger("tocsin.alerting")
        self._storage = Storage(database_url)
        self._clerk = Clerk(self._storage)
        self._sending = self._equip(config)
        self._courier = self._make_courier()
        self._dispatcher = self._make_dispatcher(config)
        self._leadership = Leadership(
            self._storage,
            clock=self._clock,
            telemetry=self._telemetry,
            on_gain=self._lead,
            on_loss=self._dispatcher.follow,
            lease=config.extras.lease,
        )
        beats = HeartbeatTelemetry(self._registry)
        self._heartbeats = Heartbeats(
            lambda: self._dispatcher.config.extras.heartbeats, HeartbeatStore(self._database), beats
        )
        self._pings = Pings(
            lambda: self._dispatcher.config.extras.pings, self._clients, self._clock, self._unwell, beats
        )
        self._endpoints = api.Api(self._dispatcher, self._storage, self._clock, self._options, self._leadership)
        self._watch()
        self._telemetry.configured(config, self._clock.now())
        self.app = self._make_app(reread)
        """The ASGI app."""

    # --- parts --------------------------------------------------------------------------------------------------

    def _equip(self, config: Config) -> Sending:
        for caution in config.warnings:
            self._log.warning("configuration", code=caution.code, problem=str(caution))
        return Sending(self._clients, config.templates, now=self._clock.now, terminal=self._terminal)

    def _make_courier(self) -> Courier:
        return Courier(
            self._clerk,
            find=self._find,
            sending=lambda: self._sending,
            leads=lambda: self._leadership.leads,
            deposed=self._deposed,
            ended=lambda group, told: self._dispatcher.ended(group, told=told),
            clock=self._clock,
            telemetry=self._telemetry,
            rate=self._rate,
        )

    def _make_dispatcher(self, config: Config) -> Dispatcher:
        options = self._options
        self._silences = Silences(
            self._database,
            self._clock,
            retention=options.retention,
            max_silences=options.max_silences,
            max_silence_size=options.max_silence_size,
            log_changes=options.log_silences,
        )
        self._acks = Acks(self._database, self._clock, retention=options.retention)
        return Dispatcher(
            config,
            options=options,
            storage=self._storage,
            silences=self._silences,
            acks=self._acks,
            courier=self._courier,
            deposed=self._deposed,
            clock=self._clock,
            telemetry=self._telemetry,
        )

    def _watch(self) -> None:
        self._telemetry.watch(
            states=self._endpoints.states,
            groups=lambda: len(self._dispatcher.groups),
            pending=lambda: self._courier.pending,
            oldest=self._courier.oldest,
            silences=lambda: {str(state): n for state, n in self._silences.counts(self._clock.now()).items()},
        )

    def _make_app(self, reread: ops.Reload | None) -> ASGIApp:
        routes: list[BaseRoute] = [
            *self._endpoints.routes(),
            *api_silences.routes(
                self._silences,
                self._acks,
                self._clock,
                mode=Mode.of(self._options.features),
                alerts=lambda: (alert.labels for alert in self._dispatcher.alerts()),
            ),
            *api_explain.routes(self._dispatcher, self._storage, self._clock),
            *drill.routes(self._stage, self._clock),
            *endpoint.routes(
                sources=lambda: self._dispatcher.config.extras.sources,
                accept=self._dispatcher.accept,
                firing=self._dispatcher.alerts,
                clock=self._clock,
                telemetry=SourceTelemetry(self._registry),
            ),
            *ops.routes(ready=self._not_ready, reload=None if reread is None else self._watched(reread)),
            *ui.routes(),
        ]
        prefix = self._options.route_prefix
        app = Starlette(
            routes=[Mount(prefix, routes=routes)] if prefix else routes,
            exception_handlers={HTTPException: api.on_http_error, api.BadRequestError: api.on_bad_request},
        )
        hardened = web.Hardened(
            tocsin.instrument(
                app,
                service_name="tocsin-alerting",
                registry=self._registry,
                logs=False,
                metrics_path=f"{prefix}/metrics",
            )
        )
        # The road that nearly all requests take goes past all of that.
        return Front(
            api.fast(hardened, f"{prefix}/api/v2/alerts", self._dispatcher.post), self._options, self._registry
        )

    def service(self, listener: socket.socket | None, *more: socket.socket) -> run.Service:
        """Return what `run.serve` starts and stops; with None the app is reached in this process only."""
        return run.Service(
            name="alerting",
            app=self.app,
            listener=listener,
            listeners=more,
            start=self._start,
            loops=[self._dispatcher.run, self._leadership.run, self._beat, self._pings.run],
            drain=self._drain,
            close=self._close,
        )

    def _deposed(self) -> None:
        self._leadership.lost()

    # --- what the parts ask -------------------------------------------------------------------------------------

    def _database(self) -> Database:
        return self._storage.database

    def _find(self, lane: LaneKey) -> Integration | None:
        receiver = self._dispatcher.config.receivers.get(lane.receiver)
        kind, position = lane.integration, lane.position
        found = receiver.integrations if receiver else ()
        return next((item for item in found if (item.kind, item.position) == (kind, position)), None)

    def _rate(self, lane: LaneKey) -> tuple[str, Rate] | None:
        rate = self._dispatcher.config.extras.rate(lane.receiver, lane.integration)
        return None if rate is None else (":".join(map(str, lane.destination)), rate)

    def _stage(self) -> drill.Stage:
        return drill.Stage(
            self._dispatcher.config,
            drill.Live(self._dispatcher.muter),
            self._clients,
            self._options.external_url,
            self._terminal,
        )

    def _not_ready(self) -> str | None:
        return None if self._storage.opened else "the database is not open yet"

    def _unwell(self) -> str | None:
        if not self._storage.opened:
            return "the database is not open"
        if self._courier.oldest() > STUCK_AFTER:
            return f"a message waits for {self._courier.oldest():.0f} s"
        return None

    # --- life ---------------------------------------------------------------------------------------------------

    async def reload(self, config: Config) -> None:
        """Take another configuration into use: alerts, timers and messages under way go on."""
        self._sending = self._equip(config)
        await self._dispatcher.reload(config)
        self._telemetry.configured(config, self._clock.now())

    def _watched(self, reread: ops.Reload) -> ops.Reload:
        async def reload() -> None:
            try:
                await reread()
            except BaseException:
                self._telemetry.reload_refused()
                raise

        return reload

    async def _lead(self) -> None:
        self._clerk.epoch = self._leadership.epoch
        await self._dispatcher.lead(self._leadership.epoch)

    async def _start(self) -> None:
        await self._storage.open()
        await self._dispatcher.listen()
        await self._leadership.begin()

    async def _beat(self) -> None:
        """Look at heartbeats, and have the silences end that end with what they silence, every second."""
        while True:
            await self._clock.sleep(_BEAT)
            leading = self._leadership.leads
            try:
                now = self._clock.now()
                raised = await self._heartbeats.step(self._dispatcher.book, now, leading=leading)
                if raised:
                    await self._dispatcher.accept(raised)
                if leading:
                    await self._silences.settle((alert.labels for alert in self._dispatcher.alerts()), now)
            except DATABASE_ERRORS as error:
                self._telemetry.database_failed(error)

    async def _drain(self) -> None:
        if not self._storage.opened:
            return
        try:
            await self._dispatcher.tick()
            await self._courier.drain(DRAIN)
            await self._dispatcher.remember()
            await self._leadership.resign()
        except DeposedError:
            self._deposed()  # whoever leads now goes on with it

    async def _close(self) -> None:
        await self._silences.close()
        await self._acks.close()
        await self._clients.close()
        await self._storage.close()
