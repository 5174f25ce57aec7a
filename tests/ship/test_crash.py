"""The shipper is killed in the middle of its work: no line is lost, and where a sink has ids none is there twice."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from tocsin_service.db import Database, sqlite_url
from tocsin_service.testing import eventually
from tocsin_ship.storage import Logs
from tocsin_ship.testing import BulkServer, LineSink

if TYPE_CHECKING:
    from .conftest import ShipperProcess, Workbench

Make = Callable[[str], "ShipperProcess"]


def config(server: BulkServer, sink: LineSink) -> str:
    return f"""
inputs:
  - path: app.log
outputs:
  - kind: elasticsearch
    url: {server.url}
  - kind: logstash_tcp
    host: 127.0.0.1:{sink.port}
  - kind: store
    retention: 100y
"""


async def stored(bench: Workbench) -> int:
    database = await Database.open(sqlite_url(bench.data / "logs.db"))
    try:
        return await Logs(database).count()
    finally:
        await database.close()


async def write(bench: Workbench, rounds: int) -> None:
    """Write for a while, as an application does."""
    for _ in range(rounds):
        bench.write(100)
        await asyncio.sleep(0.01)


async def check(bench: Workbench, server: BulkServer, sink: LineSink, count: int) -> None:
    await server.take(count, timeout=60)
    await sink.take(count, timeout=60)
    await eventually(lambda: _has(bench, count), timeout=60)
    assert sorted(event["n"] for event in server.documents.values()) == list(range(count))
    assert {json.loads(line)["n"] for line in sink.lines} == set(range(count))
    assert await stored(bench) == count


async def _has(bench: Workbench, count: int) -> bool:
    return await stored(bench) >= count


async def test_killed_three_times_while_lines_are_written(
    bench: Workbench, server: BulkServer, sink: LineSink, process: Make
) -> None:
    """Each time it goes on from its last positions."""
    shipper = process(config(server, sink))
    shipper.start()
    for turn in range(3):
        await write(bench, 30)
        await server.take(3000 * turn + 1)
        shipper.kill()
        await write(bench, 10)
        shipper.start()
        await server.take(3000 * turn + 2000)
    count = bench.written
    await check(bench, server, sink, count)
    code, seconds = await asyncio.to_thread(shipper.terminate)
    assert code == 0
    assert seconds < 4


async def test_killed_while_all_sinks_are_down_and_the_log_is_rotated(
    bench: Workbench, server: BulkServer, sink: LineSink, process: Make
) -> None:
    """The worst hour: lines wait in files, and the files move."""
    shipper = process(config(server, sink))
    shipper.start()
    await write(bench, 10)
    await server.take(1000)
    await sink.take(1000)
    await sink.kill()
    server.whole.extend([503] * 100_000)
    await write(bench, 10)
    bench.log.rename(bench.folder / "app.log.2")
    await write(bench, 10)
    shipper.kill()
    await write(bench, 10)
    shutil.copy(bench.log, bench.folder / "app.log.1")
    os.truncate(bench.log, 0)
    await write(bench, 10)
    shipper.start()
    await write(bench, 10)
    shipper.kill()
    server.whole.clear()
    await sink.start()
    shipper.start()
    await check(bench, server, sink, 6000)


async def test_told_to_stop_with_all_sinks_down(
    bench: Workbench, server: BulkServer, sink: LineSink, process: Make
) -> None:
    """It leaves with exit code 0 in time, and the next one goes on."""
    await sink.kill()
    server.whole.extend([503] * 100_000)
    shipper = process(config(server, sink))
    shipper.start()
    await write(bench, 10)
    await eventually(lambda: server.requests)
    code, seconds = await asyncio.to_thread(shipper.terminate)
    assert code == 0
    assert seconds < 2.5
    server.whole.clear()
    await sink.start()
    shipper.start()
    await check(bench, server, sink, 1000)
