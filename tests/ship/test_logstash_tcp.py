"""Logstash over TCP: nothing is lost by a break that the protocol lets us notice; lines may come twice."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from tocsin_service.testing import eventually
from tocsin_ship.testing import LineSink

if TYPE_CHECKING:
    from .conftest import Workbench


def to(sink: LineSink) -> str:
    return f'{{kind: logstash_tcp, host: "127.0.0.1:{sink.port}"}}'


def numbers(sink: LineSink) -> list[int]:
    return [json.loads(line)["n"] for line in sink.lines]


async def test_lines_arrive_as_they_were_written(bench: Workbench, sink: LineSink) -> None:
    """Byte for byte and in order."""
    bench.write(5000)
    async with bench.shipper(to(sink)):
        await sink.take(5000)
    assert sink.lines == bench.log.read_bytes().splitlines()


async def test_text_is_wrapped(bench: Workbench, sink: LineSink) -> None:
    """The server's JSON reader never sees a line that is none."""
    bench.log.write_bytes(b"Killed\n\xff\xfe\n")
    async with bench.shipper(to(sink)):
        await sink.take(2)
    assert [json.loads(line)["tags"] for line in sink.lines] == [["_raw"], ["_raw"]]


async def test_lines_are_acknowledged_when_the_other_kernel_has_them(bench: Workbench, sink: LineSink) -> None:
    """There is no other sign of them; a sink that reads nothing still acknowledges what its kernel takes."""
    bench.write(10)
    async with bench.shipper(to(sink)) as running:
        await eventually(lambda: running.metric("tocsin_ship_acked_total", output="logstash_tcp") == 10)
        lag = {"input": str(bench.log), "output": "logstash_tcp"}
        await eventually(lambda: running.metric("tocsin_ship_lag_bytes", **lag) == 0)


async def test_a_sink_that_is_killed_and_comes_back_misses_nothing(bench: Workbench, sink: LineSink) -> None:
    """What it had not read is sent again, although its kernel had acknowledged it."""
    async with bench.shipper(to(sink)) as running:
        bench.write(1000)
        await sink.take(1000)
        sink.reading.clear()
        bench.write(1000)
        await eventually(lambda: running.metric("tocsin_ship_acked_total", output="logstash_tcp") == 2000)
        await sink.kill()
        bench.write(1000)
        labels = {"output": "logstash_tcp", "reason": "connection"}
        await eventually(lambda: running.metric("tocsin_ship_retried_total", **labels) > 0)
        found = await running.output("logstash_tcp")
        assert found["state"] == "retrying"
        assert str(sink.port) in found["error"]
        sink.reading.set()
        await sink.start()
        await sink.take(3000)
        await eventually(lambda: running.metric("tocsin_ship_acked_total", output="logstash_tcp") == 3000)
        assert (await running.output("logstash_tcp"))["state"] == "ok"
    assert set(numbers(sink)) == set(range(3000))


async def test_a_break_is_noticed_while_nothing_is_written(bench: Workbench, sink: LineSink) -> None:
    """The tail is sent again at once, not with the next line."""
    bench.write(10)
    async with bench.shipper(to(sink)):
        await sink.take(10)
        await sink.kill()
        sink.lines.clear()
        await sink.start()
        await sink.take(10)


async def test_a_sink_that_is_not_there_yet(bench: Workbench, sink: LineSink) -> None:
    """Lines wait in their file."""
    await sink.kill()
    bench.write(10)
    async with bench.shipper(to(sink)) as running:
        labels = {"output": "logstash_tcp", "reason": "connection"}
        await eventually(lambda: running.metric("tocsin_ship_retried_total", **labels) > 0)
        await sink.start()
        await sink.take(10)
    assert numbers(sink) == list(range(10))


async def test_a_flapping_sink_misses_nothing(bench: Workbench, sink: LineSink) -> None:
    """However often it goes down in the middle of a stream."""
    async with bench.shipper(to(sink)):
        for round_ in range(1, 5):
            bench.write(4000)
            await sink.take(4000 * round_ - 3000)
            await sink.kill()
            await sink.start()
        await sink.take(16000)
    assert set(numbers(sink)) == set(range(16000))


async def test_a_clean_restart_repeats_nothing(bench: Workbench, sink: LineSink) -> None:
    """Both sides ended the stream, so the sink has read all of it."""
    bench.write(100)
    async with bench.shipper(to(sink)):
        await sink.take(100)
    bench.write(100)
    async with bench.shipper(to(sink)):
        await sink.take(200)
    assert numbers(sink) == list(range(200))


async def test_a_stalled_sink_holds_the_memory_bounded_and_loses_nothing(bench: Workbench, sink: LineSink) -> None:
    """Reading the file stops where the sink stops; the shipper still leaves in time."""
    sink.reading.clear()
    async with bench.shipper(to(sink)) as running:
        bench.write(60_000)
        lag = {"input": str(bench.log), "output": "logstash_tcp"}
        await eventually(lambda: running.metric("tocsin_ship_lag_bytes", **lag) > 0)
        bench.write(1)
        begun = time.monotonic()
    assert time.monotonic() - begun < 2
    async with bench.shipper(to(sink)):
        sink.reading.set()
        await sink.take(60_001, timeout=60)
    assert set(numbers(sink)) == set(range(60_001))
