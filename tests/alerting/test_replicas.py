"""Three replicas on one real PostgreSQL, fed by a real Prometheus: one tells, whoever is killed, cut off or slow."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from starlette.responses import PlainTextResponse, Response

from tocsin_service import web
from tocsin_service.testing import Received, Sink, eventually, sink
from tocsin_stack import debian

pytestmark = pytest.mark.quiet

TAKEOVER = 5.0
"""Seconds within which another replica tells what the lost one did not."""
NOTICE = 3.0
"""Seconds from a change of the metric to the alert at all replicas: a scrape, an evaluation, a resend."""

_ALERTMANAGER = """
route:
  receiver: hook
  group_by: [number]
  group_wait: 0s
  group_interval: 500ms
receivers: [{{name: hook, webhook_configs: [{{url: "{hook}/hook"}}]}}]
"""
_PROMETHEUS = """
global: {{scrape_interval: 500ms, evaluation_interval: 1s}}
rule_files: [{folder}/rules.yml]
scrape_configs: [{{job_name: shop, static_configs: [{{targets: ["{target}"]}}]}}]
# Prometheus waits for the slowest replica before it sends again, by default 10 s; its alerts last 4 min, here 4 s.
alerting: {{alertmanagers: [{{timeout: 500ms, static_configs: [{{targets: {routers}}}]}}]}}
"""
_RULES = """
groups: [{name: shop, rules: [{alert: Broken, expr: broken == 1, labels: {severity: page}}]}]
"""


@dataclass
class Wire:
    """A way to PostgreSQL that can be cut: nothing passes, nobody is told, as when a switch dies."""

    host: str
    port: int
    cut: bool = False
    address: web.Address = field(default=web.Address("127.0.0.1", 0))
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _whole: asyncio.Event = field(default_factory=asyncio.Event)

    def mend(self) -> None:
        self.cut = False
        self._whole.set()

    def sever(self) -> None:
        self.cut = True
        self._whole.clear()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._pass_on_when_whole()
            far_reader, far_writer = await asyncio.open_connection(self.host, self.port)
            await asyncio.gather(self._pipe(reader, far_writer), self._pipe(far_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pass_on_when_whole(self) -> None:
        if self.cut:
            await self._whole.wait()

    async def _pipe(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self._pass_on_when_whole()
            target.write(data)
            await target.drain()
        target.close()

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def _wire(database: str) -> AsyncIterator[Wire]:
    parts = urlsplit(database)
    assert parts.hostname is not None
    assert parts.port is not None
    wire = Wire(parts.hostname, parts.port)
    server = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
    wire.address = web.Address(*server.sockets[0].getsockname()[:2])
    try:
        yield wire
    finally:
        wire.end()
        server.close()


@dataclass
class Replica:
    """One `tocsin alerting`."""

    url: str
    wire: Wire
    process: asyncio.subprocess.Process

    async def get(self, path: str, *, timeout: float = 2.0) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, timeout=timeout) as client:
            return await client.get(path)

    async def leads(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return "tocsin_alerting_leader 1.0" in (await self.get("/metrics")).text
        return False


def _configured(folder: Path, hook: str) -> Path:
    folder.mkdir()
    file = folder / "alertmanager.yml"
    file.write_text(_ALERTMANAGER.format(hook=hook))
    return file


@contextlib.asynccontextmanager
async def _replica(folder: Path, hook: str, database: str) -> AsyncIterator[Replica]:
    file = _configured(folder, hook)
    with web.bind(web.Address("127.0.0.1", 0)) as free:
        address = web.bound(free)
    async with _wire(database) as wire:
        own = database.replace(f":{wire.port}/", f":{wire.address.port}/")
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tocsin_stack", "alerting", f"--config.file={file}", f"--storage.url={own}"),
                f"--web.listen-address={address}",
                stdout=log,
                stderr=log,
            )
        replica = Replica(f"http://{address}", wire, process)
        try:
            await eventually(lambda: _ready(replica, folder / "log"), timeout=30)
            yield replica
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            await process.wait()


async def _ready(replica: Replica, log: Path) -> bool:
    assert replica.process.returncode is None, await asyncio.to_thread(log.read_text)
    with contextlib.suppress(httpx.HTTPError):
        return (await replica.get("/-/ready")).status_code == 200
    return False


@dataclass
class Shop:
    """What Prometheus scrapes: `broken{number="..."}` of the things that are broken."""

    url: str = ""
    broken: set[str] = field(default_factory=set)

    def page(self, _: Received) -> Response:
        lines = [f'broken{{number="{number}"}} 1' for number in sorted(self.broken)]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


@contextlib.asynccontextmanager
async def _prometheus(folder: Path, shop: str, routers: Iterable[str]) -> AsyncIterator[None]:
    program = debian.find("prometheus")
    if program is None:
        debian.fetch("prometheus")
        program = debian.find("prometheus")
    assert program is not None, "no prometheus: install it, or put it on PATH"
    names = [urlsplit(url).netloc for url in routers]
    await asyncio.to_thread((folder / "rules.yml").write_text, _RULES)
    text = _PROMETHEUS.format(folder=folder, target=urlsplit(shop).netloc, routers=names)
    await asyncio.to_thread((folder / "prometheus.yml").write_text, text)
    with web.bind(web.Address("127.0.0.1", 0)) as free:
        address = web.bound(free)
    process = await asyncio.create_subprocess_exec(
        str(program),
        *(f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
        *(f"--web.listen-address={address}", "--rules.alert.resend-delay=1s"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


class Told:
    """What the receiver was told, by number of the thing that is broken."""

    def __init__(self, hook: Sink) -> None:
        self._hook = hook

    def statuses(self, number: str) -> list[str]:
        """Return firing and resolved as they came; the same message twice counts once."""
        seen: dict[str, str] = {}
        for item in self._hook.received:
            body = item.json()
            if body["groupLabels"] == {"number": number}:
                seen.setdefault(item.headers["idempotency-key"], body["status"])
        return list(seen.values())

    def doubled(self) -> int:
        """Return how many messages came more than once."""
        keys = Counter(item.headers["idempotency-key"] for item in self._hook.received)
        return sum(count - 1 for count in keys.values())

    async def hears(self, number: str, *statuses: str, within: float) -> float:
        """Wait until exactly these have come, and return how many seconds that took."""
        begun = time.monotonic()
        await eventually(lambda: self.statuses(number) == list(statuses), timeout=within)
        return time.monotonic() - begun


async def _leader(replicas: Iterable[Replica]) -> Replica:
    async def found() -> list[Replica]:
        return [replica for replica in replicas if replica.process.returncode is None and await replica.leads()]

    leaders: list[Replica] = await eventually(found, timeout=15)
    assert len(leaders) == 1
    return leaders[0]


@pytest.fixture
async def database(postgresql: str) -> str:
    """An empty database."""
    name = f"t{uuid.uuid4().hex}"
    connection = await asyncpg.connect(f"{postgresql}/postgres")
    await connection.execute(f"create database {name}")
    await connection.close()
    return f"{postgresql}/{name}"


@pytest.mark.timeout(180)
async def test_three_replicas_tell_everything_once(tmp_path: Path, database: str) -> None:
    """The leader is killed, the next is cut off from the database, the next stands still; then all is over."""
    shop = Shop()
    async with sink() as hook, sink(shop.page) as target, contextlib.AsyncExitStack() as stack:
        shop.url = target.url
        replicas = [
            await stack.enter_async_context(_replica(tmp_path / str(number), hook.url, database)) for number in range(3)
        ]
        await stack.enter_async_context(_prometheus(tmp_path, shop.url, [replica.url for replica in replicas]))
        told = Told(hook)

        shop.broken.add("1")
        await told.hears("1", "firing", within=15)
        await _a_silence_is_everywhere_at_once(replicas)

        first = await _leader(replicas)
        first.process.kill()
        await first.process.wait()
        shop.broken.add("2")
        took = [await told.hears("2", "firing", within=TAKEOVER + NOTICE)]

        second = await _leader(replicas)
        second.wire.sever()
        shop.broken.add("3")
        took.append(await told.hears("3", "firing", within=TAKEOVER + NOTICE))
        assert not await second.leads()
        second.wire.mend()

        third = await _leader(replicas)
        assert third is not second
        third.process.send_signal(signal.SIGSTOP)
        shop.broken.add("4")
        # It is the only one that could take over, and it hears of the database again first.
        took.append(await told.hears("4", "firing", within=TAKEOVER + NOTICE))
        third.process.send_signal(signal.SIGCONT)
        await eventually(lambda: _resigned(third))

        shop.broken.clear()
        for number in "1234":
            await told.hears(number, "firing", "resolved", within=15)
        print(f"\ntold after a kill, a cut, a standstill: {', '.join(f'{seconds:.1f} s' for seconds in took)}")
    assert told.doubled() <= 1  # the kill, between the receiver's yes and its note


async def _resigned(replica: Replica) -> bool:
    return not await replica.leads()


async def _a_silence_is_everywhere_at_once(replicas: list[Replica]) -> None:
    """Made on one replica, it is listed by the others as soon as the answer has come."""
    body = {
        "matchers": [{"name": "alertname", "value": "Nothing", "isRegex": False}],
        "startsAt": "2020-01-01T00:00:00Z",
        "endsAt": "2099-01-01T00:00:00Z",
        "createdBy": "test",
        "comment": "everywhere",
    }
    ack = {"matchers": body["matchers"], "createdBy": "test", "comment": "everywhere", "duration": "1h"}
    for here, path, found in ((0, "/api/v2/silences", body), (1, "/api/v1/acks", ack)):
        async with httpx.AsyncClient(base_url=replicas[here].url) as client:
            (await client.post(path, json=found)).raise_for_status()
        for replica in replicas:
            assert [item["comment"] for item in (await replica.get(path)).json()] == ["everywhere"]
