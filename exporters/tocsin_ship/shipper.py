"""The log shipper as one service: an independent pipeline an output, and a small API."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.types import ASGIApp

import tocsin
from tocsin_service import ops, run, web
from tocsin_service.clock import Clock, SystemClock
from tocsin_ship import api
from tocsin_ship import config as settings
from tocsin_ship.checkpoint import Checkpoint
from tocsin_ship.config import Config
from tocsin_ship.deadletter import DeadLetters
from tocsin_ship.delivery import Delivery
from tocsin_ship.outputs import OUTPUTS
from tocsin_ship.outputs.store import StoreOutput
from tocsin_ship.pipeline import Pipeline
from tocsin_ship.storage import Logs
from tocsin_ship.tail import Tail
from tocsin_ship.telemetry import Telemetry


class InUseError(Exception):
    """Another shipper works in the same data folder."""


class Shipper:
    """Follows log files and hands their lines to all outputs.

    Args:
        data_folder: positions, dead letters and the embedded store; made where it is not there. One shipper a folder.
        registry: where its metrics go; None is one of its own.
        reread: reads the configuration file again and calls `reload`; it answers `POST /-/reload`.
    """

    def __init__(
        self,
        config: Config,
        *,
        data_folder: Path,
        clock: Clock | None = None,
        registry: CollectorRegistry | None = None,
        reread: ops.Reload | None = None,
    ) -> None:
        self._config = config
        self._folder = data_folder
        self._clock = clock or SystemClock()
        self._registry = registry if registry is not None else CollectorRegistry()
        self._meters = Telemetry(self._registry)
        self._pipelines: dict[str, Pipeline] = {}
        self._changing = asyncio.Lock()
        self._lock: int | None = None
        self._open = False
        self.app: ASGIApp = self._make_app(reread)
        """The API, instrumented and hardened."""

    def service(self, listener: socket.socket | None) -> run.Service:
        """Return the shipper as a service; without a listener it has no API of its own."""
        return run.Service(
            "ship", app=self.app, listener=listener, start=self._start, drain=self._stop, close=self._release
        )

    async def reload(self, config: Config) -> None:
        """Take `config` into use. Outputs whose settings and files stay the same go on undisturbed.

        Raises:
            Exception: an output could not be opened; the old configuration goes on.
        """
        async with self._changing:
            old = self._config
            kept = _unchanged(old, config)
            try:
                await self._change(config, kept)
            except Exception:
                await self._change(old, frozenset(self._pipelines) & kept)
                raise
            self._config = config

    async def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = _claim(self._folder / "ship.lock")
        async with self._changing:
            await self._change(self._config, frozenset())
        self._open = True

    async def _change(self, config: Config, kept: frozenset[str]) -> None:
        ended = [name for name in self._pipelines if name not in kept]
        await asyncio.gather(*(self._pipelines.pop(name).stop() for name in ended))
        for name in ended:
            self._meters.forget(name)
        for output in config.outputs:
            if output.name not in kept:
                pipeline = await asyncio.to_thread(self._pipeline, config, output)
                await pipeline.start()
                self._pipelines[output.name] = pipeline

    def _pipeline(self, config: Config, output: settings.Output) -> Pipeline:
        letters = DeadLetters(self._folder / "dead-letter" / f"{output.name}.ndjson")
        delivery = Delivery(output.name, letters, self._meters, self._clock)
        sink = OUTPUTS[output.kind](output, delivery, self._folder)
        positions = self._folder / "positions"
        positions.mkdir(exist_ok=True)
        checkpoint = Checkpoint.load(positions / f"{output.name}.json", host=socket.gethostname())
        tail = Tail(config.inputs, checkpoint, read_size=sink.read_size)
        return Pipeline(output.name, sink, tail, checkpoint, delivery, self._meters)

    async def _stop(self) -> None:
        self._open = False
        async with self._changing:
            await asyncio.gather(*(pipeline.stop() for pipeline in self._pipelines.values()))
            self._pipelines.clear()

    async def _release(self) -> None:
        # Also after a failed start, when nothing was drained.
        await self._stop()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make_app(self, reread: ops.Reload | None) -> ASGIApp:
        routes = [
            *ops.routes(ready=self._ready, reload=reread),
            *api.routes(pipelines=self._running, logs=self._logs),
        ]
        app = Starlette(routes=routes)
        tocsin.instrument(app, service_name="tocsin-ship", registry=self._registry, logs=False)
        return web.Hardened(app)

    def _ready(self) -> str | None:
        return None if self._open else "The outputs are not open yet."

    def _running(self) -> Sequence[Pipeline]:
        return tuple(self._pipelines.values())

    def _logs(self) -> Logs | None:
        outputs = (pipeline.output for pipeline in self._pipelines.values())
        return next((output.logs for output in outputs if isinstance(output, StoreOutput)), None)


def _unchanged(old: Config, new: Config) -> frozenset[str]:
    if old.inputs != new.inputs:
        return frozenset()
    return frozenset(output.name for output in new.outputs if output in old.outputs)


def _claim(path: Path) -> int:
    """Lock the folder for this process; the kernel lets go of it however the process ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise InUseError(f"another shipper works in {path.parent}; stop it, or give this one another folder") from error
    return descriptor
