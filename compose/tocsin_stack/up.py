"""`tocsin up`: prober, alert router, log shipper and console in one process, with a real Prometheus beside it."""

from __future__ import annotations

import asyncio
import dataclasses
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket

import httpx
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

import tocsin
import tocsin_alerting.options
import tocsin_uptime.config
from tocsin import names
from tocsin_alerting.router import Router
from tocsin_dashboards import build as dashboards
from tocsin_dashboards.slo import Slo
from tocsin_service import clock, db, ops, run, telemetry, web
from tocsin_service.http import Outbound
from tocsin_service.settings import Document
from tocsin_ship.shipper import Shipper
from tocsin_stack import config as stack_config
from tocsin_stack import quick, state
from tocsin_stack.config import Listen, StackConfig
from tocsin_stack.console.app import create_app
from tocsin_stack.console.sources import Peer, Sources
from tocsin_stack.demo.supervise import Demo
from tocsin_stack.engine import Engine, EngineConfig
from tocsin_stack.screen import Row, Screen
from tocsin_uptime.prober import Prober

_LOG = "tocsin.log"
_SHOP_LOG = "shop.json.log"
_DEMO_ADDRESS = web.Address("127.0.0.1", 8000)
_PART_CHECK = 5.0
"""Seconds between two looks at the parts for the gauge `tocsin_part_up`."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says.

    Args:
        data_folder: where databases, logs and Prometheus' data live.
        config_file: tocsin.yml, or None to run from `flags`.
        console: the console's address; it wins over the file's.
    """

    data_folder: Path
    config_file: Path | None = None
    flags: quick.Flags = field(default_factory=quick.Flags)
    demo: bool = False
    console: web.Address | None = None
    log_level: str = "info"


def main(options: Options, *, environ: Mapping[str, str], started: float) -> int:
    """Run until SIGTERM and return the exit code.

    Args:
        started: `time.monotonic()` when the command began, for the line that says how long the start took.

    Raises:
        SettingsError, FlagError, AddressError, StateError: it cannot start; the message says why.
    """
    with state.take(options.data_folder), (options.data_folder / _LOG).open("a", encoding="utf-8") as log:
        telemetry.configure("tocsin", level=options.log_level, stream=log)
        with Screen() as screen:
            return asyncio.run(_run(options, environ, screen, started))


async def _run(options: Options, environ: Mapping[str, str], screen: Screen, started: float) -> int:
    demo, folder = None, options.data_folder
    if options.demo:
        # It takes as long to start as all the rest: it does so beside it. It ends with us, whatever goes wrong here.
        shop = web.bind(_DEMO_ADDRESS, or_any_port=True)
        demo = Demo(shop, log_file=folder.absolute() / _SHOP_LOG, folder=folder.absolute())
        await demo.begin()
    stack = _Stack(options, environ, demo)

    async def ready() -> None:
        state.write(folder, stack.urls())
        screen.parts(stack.rows(), seconds=time.monotonic() - started, hints=stack.hints())

    try:
        code = await run.serve(stack.services(screen.say), ready=ready, reload=stack.reload)
    finally:
        state.clear(folder)
    if code:
        screen.say(f"tocsin ended with an error; what happened is at the end of {folder / _LOG}")
    return code


class _Stack:
    """The parts, put together; the only place that knows all of them."""

    def __init__(self, options: Options, environ: Mapping[str, str], demo: Demo | None) -> None:
        self._options = options
        self._environ = environ
        self._data = options.data_folder.absolute()
        self._demo = demo
        self._config = self._load()
        self._listeners = {
            name: self._listen(name) for name in ("alerting", "uptime", "ship", "console") if self._wanted(name)
        }
        self._registry = CollectorRegistry()
        """Metrics of the process as a whole, on the console's page."""
        outcome = telemetry.gauge(names.CONFIG_RELOAD_OK, self._registry).labels("stack")
        self.reload = ops.watched(self._reload, outcome)
        # Prometheus binds its port itself; it is free until then unless another program is quicker.
        with self._listen("prometheus") as free:
            self._engine_address = web.bound(free)

    def services(self, terminal: Callable[[str], None]) -> list[run.Service]:
        """Build all parts in the order they start; they stop in the reverse order, the router last."""
        router_url = self._url("alerting")
        self._router = Router(
            self._config.alerting,
            database_url=db.sqlite_url(self._data / "alerting.db"),
            options=tocsin_alerting.options.Options(external_url=router_url),
            terminal=terminal,
            reread=self.reload,
        )
        self._shipper = Shipper(self._config.ship, data_folder=self._data / "ship", reread=self.reload)
        self._engine = Engine(
            self._config.prometheus,
            data_folder=self._data / "prometheus",
            listen=self._engine_address,
            router=web.bound(self._listeners["alerting"]),
            parts={name: web.bound(listener) for name, listener in self._listeners.items()},
            rules_text=self._rules(self._config.prometheus),
            registry=self._registry,
            environ=self._environ,
        )
        self._prober = Prober(
            self._probed(self._config.uptime),
            database_url=db.sqlite_url(self._data / "uptime.db"),
            external_url=self._url("uptime"),
            transports={router_url: httpx.ASGITransport(app=self._router.app)},
            reread=self.reload,
        )
        return [
            self._router.service(self._listeners["alerting"]),
            self._shipper.service(self._listeners.get("ship")),
            *([self._demo.service()] if self._demo else []),
            self._engine.service(),
            self._prober.service(self._listeners["uptime"]),
            self._console(),
        ]

    async def _reload(self) -> None:
        """Take the configuration file into use again; one that is wrong changes nothing."""
        config = self._load()
        await self._engine.reload(config.prometheus, rules_text=self._rules(config.prometheus))
        try:
            await self._shipper.reload(config.ship)
        except Exception:
            old = self._config.prometheus
            await self._engine.reload(old, rules_text=self._rules(old))
            raise
        # Those that may refuse have agreed; the router and the prober take whatever was read.
        await self._router.reload(config.alerting)
        await self._prober.reload(self._probed(config.uptime))
        moved = [name for name, listen in config.listen.items() if listen != self._config.listen[name]]
        self._config = config
        log = telemetry.logger("tocsin.up")
        log.info("configuration taken")
        if moved:
            log.warning("a part listens at another address from the next start on", parts=moved)

    def urls(self) -> dict[str, str]:
        """Return where each part is."""
        return {row.part: row.url for row in self.rows() if row.url}

    def rows(self) -> list[Row]:
        """Say of each part whether it is up, where, and what it does."""
        config = self._config
        checks = len(config.uptime.checks)
        rows = [
            Row("console", "up", self._url("console"), "open this page"),
            Row("alerting", "up", self._url("alerting"), f"tells {_receivers(config)}"),
            Row(
                "uptime",
                "up" if checks else "off",
                self._url("uptime"),
                f"{checks} check{'s' * (checks != 1)}" if checks else "no checks",
            ),
            self._engine_row(),
        ]
        # A section that a reload brought has no address before the next start.
        where = self._url("ship") if "ship" in self._listeners else ""
        paths = len(config.ship.inputs)
        rows.append(
            Row("ship", "up", where, f"follows {paths} log path(s)")
            if paths
            else Row("ship", "off", where, "no log files are followed")
        )
        if self._demo is not None:
            rows.append(Row("demo", self._demo.state, self._demo.url, "a web shop with traffic"))
        return rows

    def hints(self) -> list[str]:
        """Say what to do next."""
        hints = [f"log: {self._options.data_folder / _LOG}"]
        if hint := self._engine.hint:
            hints.append(hint)
        if self._demo is not None:
            # In a .venv that is not activated the command is found only by its path.
            command = "tocsin" if shutil.which("tocsin", path=self._environ.get("PATH")) else shlex.quote(sys.argv[0])
            default = self._options.data_folder == Path("tocsin-data")
            where = "" if default else f" --storage.path {shlex.quote(str(self._data))}"
            hints += [
                f"try in another terminal:  {command} demo break checkout{where}",
                f"          and afterwards:  {command} demo fix{where}",
            ]
        return hints

    def _load(self) -> StackConfig:
        options = self._options
        if options.config_file is not None:
            document = Document.open(options.config_file, environ=self._environ)
        elif self._demo is not None:
            data = quick.demo(options.flags, shop=self._demo.url, log_file=self._shop_log)
            document = Document(data, file="<demo>", folder=Path.cwd(), positions={})
        else:
            data = quick.document(options.flags)
            document = Document(data, file="<flags>", folder=Path.cwd(), positions={})
        return stack_config.load(document, environ=self._environ)

    def _wanted(self, name: str) -> bool:
        return name != "ship" or bool(self._config.ship.inputs)

    def _listen(self, name: str) -> socket:
        listen = self._config.listen[name]
        if name == "console" and self._options.console is not None:
            listen = Listen(self._options.console, asked=True)
        return web.bind(listen.address, or_any_port=not listen.asked)

    def _url(self, name: str) -> str:
        return web.bound(self._listeners[name]).url

    @property
    def _shop_log(self) -> Path:
        return self._data / _SHOP_LOG

    def _engine_row(self) -> Row:
        engine = self._engine
        scraped = len(self._config.prometheus.scrape)
        note = f"scrapes {scraped} service(s) and tocsin itself"
        return Row("prometheus", engine.state, engine.url if engine.state == "up" else "", note)

    def _rules(self, config: EngineConfig) -> str:
        slos = [
            Slo(
                item.name,
                service=item.service,
                objective=item.objective,
                window=item.window,
                route=item.route,
                min_bad_events=item.min_bad_events,
                severities=item.severities,
            )
            for item in config.slos
        ]
        return dashboards.rules_text(
            slos or dashboards.DEFAULT_SLOS,
            scrape_interval=config.scrape_interval,
            evaluation_interval=config.evaluation_interval,
            runbook_base=f"{self._url('console')}/runbooks",
        )

    def _probed(self, config: tocsin_uptime.config.Config) -> tocsin_uptime.config.Config:
        """Have the prober tell our router beside those it names, and give checks without a runbook ours."""
        routers = (tocsin_uptime.config.Alertmanager(self._url("alerting"), resend=30.0), *config.alertmanagers)
        runbook = f"{self._url('console')}/runbooks/ProbeDown"
        checks = tuple(
            check if check.runbook else dataclasses.replace(check, runbook=runbook) for check in config.checks
        )
        return dataclasses.replace(config, checks=checks, alertmanagers=routers)

    def _console(self) -> run.Service:
        def inside(name: str, url: str, app: ASGIApp) -> Peer:
            return Peer(name, url, Outbound(user_agent="tocsin-console", transport=httpx.ASGITransport(app=app)))

        prometheus = Peer("Prometheus", self._engine.url, Outbound(user_agent="tocsin-console"))
        peers = {
            "alerting": inside("The alert router", self._url("alerting"), self._router.app),
            "uptime": inside("The prober", self._url("uptime"), self._prober.app),
            "ship": inside("The log shipper", "http://ship", self._shipper.app),
        }
        part_up = telemetry.gauge(names.PART_UP, self._registry)
        telemetry.gauge(names.BUILD_INFO, self._registry).labels("stack", tocsin.__version__).set(1)
        sources = Sources(**peers, prometheus=prometheus, has_prometheus=lambda: self._engine.state == "up")

        async def watch() -> None:
            while True:
                for row in self.rows():
                    part_up.labels(row.part).set(row.state == "up")
                await clock.SystemClock().sleep(_PART_CHECK)

        async def close() -> None:
            for peer in (*peers.values(), prometheus):
                await peer.client.close()

        app = create_app(sources, parts=self.rows, reload=self.reload, registry=self._registry)
        return run.Service("console", app=app, listener=self._listeners["console"], loops=(watch,), close=close)


def _receivers(config: StackConfig) -> str:
    kinds = sorted(
        {integration.kind for receiver in config.alerting.receivers.values() for integration in receiver.integrations}
    )
    return ", ".join(kinds) or "nobody"
