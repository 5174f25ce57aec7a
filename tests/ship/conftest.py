from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from tocsin_service import web
from tocsin_service.settings import Document
from tocsin_service.testing import serving
from tocsin_ship import config
from tocsin_ship.shipper import Shipper
from tocsin_ship.testing import BulkServer, LineSink, Proxy, bulk_server, line_sink, proxy


@pytest.fixture
async def sink() -> AsyncIterator[LineSink]:
    async with line_sink() as running:
        yield running


@pytest.fixture
async def server() -> AsyncIterator[BulkServer]:
    async with bulk_server() as running:
        yield running


@pytest.fixture
async def cutting(server: BulkServer) -> AsyncIterator[Proxy]:
    """A proxy before `server`."""
    async with proxy(int(server.url.rpartition(":")[2])) as running:
        yield running


@dataclass
class Running:
    """A shipper at work, and its API as a client."""

    shipper: Shipper
    registry: CollectorRegistry
    http: httpx.AsyncClient

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    async def status(self) -> dict[str, Any]:
        answer = await self.http.get("/api/v1/status")
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    async def output(self, name: str) -> dict[str, Any]:
        return next(item for item in (await self.status())["outputs"] if item["name"] == name)


class Workbench:
    """A folder with logs, and shippers that follow them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "app.log"
        self.written = 0

    def write(self, count: int, *, to: Path | None = None) -> None:
        """Add `count` events, each with a number of its own, as an application does: one write a line."""
        with (to or self.log).open("ab", buffering=0) as file:
            for _ in range(count):
                event = {"@timestamp": "2026-01-01T00:00:00Z", "message": f"line {self.written}", "n": self.written}
                file.write(json.dumps(event).encode() + b"\n")
                self.written += 1

    def settings(self, *outputs: str, path: str = "app.log") -> config.Config:
        lines = "".join(f"  - {output}\n" for output in outputs)
        text = f"inputs:\n  - path: {path}\noutputs:\n{lines}"
        return config.load(Document.parse(text, folder=self.folder))

    @contextlib.asynccontextmanager
    async def shipper(self, *outputs: str, path: str = "app.log") -> AsyncIterator[Running]:
        """Run a shipper with the given outputs, each a YAML mapping on one line."""
        registry = CollectorRegistry()
        shipper = Shipper(self.settings(*outputs, path=path), data_folder=self.data, registry=registry)
        service = shipper.service(None)
        try:
            await service.start()
            async with serving(shipper.app) as url, httpx.AsyncClient(base_url=url) as client:
                yield Running(shipper, registry, client)
        finally:
            await service.drain()
            await service.close()

    def dead_letters(self, output: str) -> list[dict[str, Any]]:
        path = self.data / "dead-letter" / f"{output}.ndjson"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


class ShipperProcess:
    """The shipper in a process of its own, which can be killed."""

    def __init__(self, folder: Path, text: str) -> None:
        self._config = folder / "ship.yml"
        self._config.write_text(text)
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        script = Path(__file__).with_name("run_shipper.py")
        command = [sys.executable, "-W", "error", str(script), str(self._config), str(self._data)]
        self._process = subprocess.Popen(command)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def terminate(self) -> tuple[int, float]:
        """Ask it to stop; return its exit code and how many seconds it took."""
        begun = time.monotonic()
        return self._end(signal.SIGTERM), time.monotonic() - begun

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(timeout=20)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[[str], ShipperProcess]]:
    made: list[ShipperProcess] = []

    def make(text: str) -> ShipperProcess:
        made.append(ShipperProcess(tmp_path, text))
        return made[-1]

    yield make
    for item in made:
        item.kill()


@pytest.fixture
def elasticsearch(tmp_path: Path) -> Iterator[str]:
    """The URL of noida-db, a real server that answers as Elasticsearch 8."""
    program = Path(sysconfig.get_path("purelib")) / "noida_db" / "noida-db"
    if not program.exists():
        pytest.skip('noida-db is missing; install it with: pip install "noida-db==0.2.3"')
    program.chmod(0o755)  # pip does not keep the bit
    listener = web.bind(web.Address("127.0.0.1", 0))
    port = web.bound(listener).port
    listener.close()
    options = ["--only", "elasticsearch", "--elasticsearch-port", str(port), "--data-dir", str(tmp_path / "noida")]
    running = subprocess.Popen([program, "start", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(timeout=10)
