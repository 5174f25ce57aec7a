"""The prober's life: puts the parts together, starts them from what is stored, and stops them in order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import httpx
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.types import ASGIApp

import tocsin
from tocsin_service import ops, run, telemetry, web
from tocsin_service.clock import Clock, SystemClock
from tocsin_uptime import api
from tocsin_uptime.config import Config
from tocsin_uptime.posts import Posts
from tocsin_uptime.recorder import Recorder
from tocsin_uptime.report import Metrics, Report
from tocsin_uptime.result import Result
from tocsin_uptime.state import Step, after_a_break
from tocsin_uptime.watch import Watch, Watched

_LAST_WORDS: Final = 1.5
"""Seconds a stopping prober takes to post alerts and store results that wait."""


@dataclass(frozen=True, slots=True)
class _Observer:
    """Passes each result on to storage, metrics and alerts; see `watch.Observer`."""

    recorder: Recorder
    report: Report
    metrics: Metrics

    def result(self, watched: Watched, result: Result, step: Step) -> None:
        self.recorder.add(watched.check.name, result, step.standing)
        self.report.result(watched, result, step.event)

    def lateness(self, seconds: float) -> None:
        self.metrics.lateness.set(seconds)


class Prober:
    """Watches the checks of a configuration.

    Args:
        database_url: where results and states are kept, see `tocsin_service.db`. When it is away the prober runs
            without history.
        external_url: where people reach the prober; alerts link to it.
        registry: takes the prober's metrics; None makes one of its own.
        transports: base URL of an alert router -> where its requests go instead of the network.
        reread: reads the configuration file again and calls `reload`; it answers `POST /-/reload`.

    Attributes:
        app: the ASGI application with the API, `/metrics` and `/-/...`.
    """

    def __init__(
        self,
        config: Config,
        *,
        database_url: str,
        external_url: str,
        clock: Clock | None = None,
        registry: CollectorRegistry | None = None,
        transports: Mapping[str, httpx.AsyncBaseTransport] | None = None,
        reread: ops.Reload | None = None,
    ) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        registry = registry or CollectorRegistry()
        self._metrics = Metrics(registry)
        self._recorder = Recorder(database_url, clock=self._clock, errors=self._metrics.history_errors)
        self._posts = Posts(
            config.alertmanagers, clock=self._clock, transports=transports or {}, outcomes=self._metrics.posts
        )
        self._report = Report(self._metrics, self._posts, external_url=external_url)
        self._watch = Watch(_Observer(self._recorder, self._report, self._metrics), clock=self._clock)
        self._cron = AsyncIOScheduler(timezone=UTC)
        self._ready = False
        self._log = telemetry.logger("tocsin.uptime")
        self.app = self._make_app(registry, reread)

    def service(self, listener: socket.socket | None) -> run.Service:
        """Return the prober as a service; without a listener it has no API of its own."""
        return run.Service(
            "uptime",
            app=self.app,
            listener=listener,
            start=self._start,
            loops=[self._watch.run, self._recorder.run, self._posts.run],
            drain=self._drain,
            close=self._close,
        )

    async def reload(self, config: Config) -> None:
        """Take `config` into use. Checks keep state and history by name; unchanged ones keep their instants."""
        self._config = config
        self._apply()
        self._recorder.forget_all_but(self._watch.watched)
        self._posts.replace(config.alertmanagers)
        self._log.info("configuration loaded", checks=len(config.checks), routers=len(config.alertmanagers))

    async def _start(self) -> None:
        names = [check.name for check in self._config.checks]
        remembered = await self._recorder.remembered(names)
        self._watch.replace(self._config.checks)
        for name, watched in self._watch.watched.items():
            if (known := remembered.get(name)) is not None:
                watched.standing = known.standing or watched.standing
                watched.history.restore(known.recent, known.hours)
                last = watched.history.last
                if last is None or self._clock.now() - last.at > 2 * watched.check.interval:
                    watched.standing = after_a_break(watched.standing)
        self._report.replace(self._watch.watched.values(), self._clock.now())
        self._recorder.forget_all_but(names)
        # The first time soon, so that a prober that is restarted often cleans up too.
        first = datetime.now(UTC) + timedelta(minutes=1)
        self._cron.add_job(self._recorder.expire, "interval", hours=1, jitter=300, next_run_time=first, coalesce=True)
        self._cron.start()
        self._ready = True
        self._log.info("watching", checks=len(names), routers=len(self._config.alertmanagers))

    def _apply(self) -> None:
        self._watch.replace(self._config.checks)
        self._report.replace(self._watch.watched.values(), self._clock.now())

    async def _drain(self) -> None:
        self._ready = False
        if self._cron.running:
            self._cron.shutdown(wait=False)
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await asyncio.gather(self._recorder.flush(), self._posts.finish())
        except TimeoutError:
            # Nothing is lost: the next start probes again and takes up what is still down.
            self._log.warning("stopped before everything was stored and posted")

    async def _close(self) -> None:
        await self._recorder.close()

    def _make_app(self, registry: CollectorRegistry, reread: ops.Reload | None) -> ASGIApp:
        def readiness() -> str | None:
            return None if self._ready else "the prober has not started"

        routes = [
            *ops.routes(ready=readiness, reload=reread),
            *api.routes(lambda: self._watch.watched, self._clock.now),
        ]
        app = Starlette(routes=list(routes))
        instrumented = tocsin.instrument(app, service_name="tocsin-uptime", registry=registry, logs=False)
        return web.Hardened(instrumented)
