"""The demo as a process: it serves, logs, survives, and ends when it should."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tocsin_service import run, web
from tocsin_service.testing import eventually
from tocsin_stack.demo.process import main, rotate
from tocsin_stack.demo.supervise import Demo


def free() -> Any:
    return web.bind(web.Address("127.0.0.1", 0))


@asynccontextmanager
async def running(demo: Demo) -> AsyncIterator[Demo]:
    """Run the demo as the stack does."""
    stop, ready = asyncio.Event(), asyncio.Event()

    async def is_ready() -> None:
        ready.set()

    task = asyncio.create_task(run.serve([demo.service()], stop=stop, ready=is_ready))
    try:
        await asyncio.wait([task, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
        await eventually(lambda: demo.state == "up", timeout=20)
        yield demo
    finally:
        stop.set()
        assert await task == 0


async def test_it_serves_with_traffic_and_stops_without_a_trace(tmp_path: Path, leftovers: Any) -> None:
    """Once up, orders are placed, metrics and JSON log lines appear; a stop leaves no process and closes the port."""
    log_file = tmp_path / "shop.json.log"
    async with running(Demo(free(), log_file=log_file, folder=tmp_path)) as demo, httpx.AsyncClient() as client:
        leftovers.note(demo.pid)

        async def orders() -> bool:
            return 'status_code="201",http_route="/checkout"' in (await client.get(f"{demo.url}/metrics")).text

        await eventually(orders, timeout=20)
        lines = [json.loads(line) for line in log_file.read_text(encoding="utf-8").splitlines()]
        assert {line["service.name"] for line in lines} == {"shop"}
        assert "order placed" in {line["message"] for line in lines}
        assert "httpx" not in {line.get("log.logger") for line in lines}
        started = time.monotonic()
    assert time.monotonic() - started < 2.5
    assert not leftovers.running()
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(demo.url)


async def test_it_comes_back_on_the_same_port(tmp_path: Path, leftovers: Any) -> None:
    """After kill -9 of the shop nobody sees a refused connection: the socket is ours, and its next process answers."""
    async with running(Demo(free(), log_file=tmp_path / "shop.log", folder=tmp_path)) as demo:
        first = leftovers.note(demo.pid)
        os.kill(first, signal.SIGKILL)
        async with httpx.AsyncClient(timeout=20) as client:
            answer = await client.get(demo.url)
        assert answer.json()["shop"]
        await eventually(lambda: demo.state == "up" and demo.pid != first, timeout=20)
        leftovers.note(demo.pid)


@contextmanager
def started(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start it by hand, without customers."""
    with free() as taken:
        address = str(web.bound(taken))
    command = [sys.executable, "-m", "tocsin_stack.demo", "--listen", address, "--rate", "0"]
    with subprocess.Popen([*command, "--log-file", str(tmp_path / "shop.log")], text=True) as process:
        try:
            asyncio.run(eventually(lambda: _answers(f"http://{address}/healthz"), timeout=20))
            yield process, address
        finally:
            process.kill()


def test_by_hand_it_listens_where_it_is_told_and_ends_on_sigterm(tmp_path: Path) -> None:
    """`python -m tocsin_stack.demo --listen ...` ends within two seconds, with code 0."""
    with started(tmp_path) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(2) == 0


def test_a_taken_port_is_a_usage_error(capsys: Any) -> None:
    """The message says which address, and what to do."""
    with free() as taken:
        address = str(web.bound(taken))
        with pytest.raises(SystemExit, match="2"):
            main(["--listen", address])
    assert f"{address} is in use by another program" in capsys.readouterr().err


def test_its_log_is_rotated_by_size(tmp_path: Path) -> None:
    """A demo that runs over a weekend does not fill the disk: one old file is kept."""
    log = tmp_path / "shop.log"
    rotate(log, 10)
    for text in ("first, long enough", "second, long enough"):
        log.write_text(text, encoding="utf-8")
        rotate(log, 10)
        assert not log.exists()
        assert (tmp_path / "shop.log.1").read_text(encoding="utf-8") == text
    log.write_text("short", encoding="utf-8")
    rotate(log, 10)
    assert log.exists()


async def _answers(url: str) -> bool:
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(url)).status_code == 200
    except httpx.HTTPError:
        return False
