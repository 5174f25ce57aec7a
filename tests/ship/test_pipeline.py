"""Outputs do not know of each other; nothing that one of them meets holds up another, or the end."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from tocsin_service.testing import eventually
from tocsin_ship.config import Config
from tocsin_ship.shipper import InUseError, Shipper
from tocsin_ship.testing import BulkServer, LineSink

if TYPE_CHECKING:
    from .conftest import Workbench

NOWHERE = '{kind: logstash_tcp, host: "127.0.0.1:9"}'


def elasticsearch(server: BulkServer) -> str:
    return f'{{kind: elasticsearch, url: "{server.url}"}}'


def logstash(sink: LineSink) -> str:
    return f'{{kind: logstash_tcp, host: "127.0.0.1:{sink.port}"}}'


async def test_an_output_that_is_down_holds_up_no_other(bench: Workbench, server: BulkServer, sink: LineSink) -> None:
    """Each has its own position in the file."""
    bench.write(2000)
    async with bench.shipper(NOWHERE, elasticsearch(server), "{kind: store, retention: 100y}") as running:
        await server.take(2000)
        await eventually(lambda: running.metric("tocsin_ship_acked_total", output="store") == 2000)
        states = {item["name"]: item["state"] for item in (await running.status())["outputs"]}
        assert states == {"logstash_tcp": "retrying", "elasticsearch": "ok", "store": "ok"}
    async with bench.shipper(logstash(sink), elasticsearch(server), "{kind: store, retention: 100y}"):
        await sink.take(2000)
    assert len(sink.lines) == len(server.documents) == 2000
    assert server.doubled == 0


async def test_leaving_with_all_sinks_down_takes_less_than_two_seconds(bench: Workbench, server: BulkServer) -> None:
    """Positions are saved, and nothing is lost or repeated."""
    server.whole.extend([503] * 1000)
    bench.write(2000)
    async with bench.shipper(NOWHERE, elasticsearch(server)) as running:
        await eventually(lambda: len(server.requests) > 2)
        labels = {"output": "logstash_tcp", "reason": "connection"}
        await eventually(lambda: running.metric("tocsin_ship_retried_total", **labels) > 0)
        begun = time.monotonic()
    assert time.monotonic() - begun < 2
    server.whole.clear()
    async with bench.shipper(NOWHERE, elasticsearch(server)):
        await server.take(2000)
    assert server.doubled == 0


async def test_rotation_while_lines_are_written(bench: Workbench, server: BulkServer, sink: LineSink) -> None:
    """Renamed and copied away in turn, with lines before, between and after."""
    async with bench.shipper(elasticsearch(server), logstash(sink), "{kind: store, retention: 100y}") as running:
        for turn in range(6):
            bench.write(300)
            if turn % 2:
                shutil.copy(bench.log, bench.folder / f"app.log.{turn}")
                os.truncate(bench.log, 0)
            else:
                bench.log.rename(bench.folder / f"app.log.{turn}")
            bench.write(300)
            await server.take(300 * (2 * turn + 1))
        await server.take(3600)
        await sink.take(3600)
        await eventually(lambda: running.metric("tocsin_ship_acked_total", output="store") == 3600)
        assert running.metric("tocsin_ship_read_total", input=str(bench.log)) == 3600
    assert sorted(event["n"] for event in server.documents.values()) == list(range(3600))
    assert sorted(json.loads(line)["n"] for line in sink.lines) == list(range(3600))
    assert server.doubled == 0


async def test_many_files(bench: Workbench, server: BulkServer) -> None:
    """Each file keeps its own place; one pattern finds all."""
    (bench.folder / "logs").mkdir()
    files = [bench.folder / "logs" / f"{name}.json.log" for name in ("a", "b", "c")]
    for file in files:
        bench.write(100, to=file)
    async with bench.shipper(elasticsearch(server), path="logs/*.json.log") as running:
        await server.take(300)
        late = bench.folder / "logs" / "late.json.log"
        bench.write(100, to=late)
        await server.take(400)
        expected = [
            {"path": str(file), "size": size, "position": size, "lag_bytes": 0}
            for file in [*files, late]
            for size in [file.stat().st_size]
        ]

        async def shown() -> bool:
            return bool((await running.status())["inputs"] == expected)

        await eventually(shown)


async def test_lag_is_shown_while_an_output_is_down(bench: Workbench) -> None:
    """In bytes and in seconds, so that an alert can be set on either."""
    bench.write(10)
    size = bench.log.stat().st_size
    async with bench.shipper(NOWHERE) as running:
        labels = {"input": str(bench.log), "output": "logstash_tcp"}
        await eventually(lambda: running.metric("tocsin_ship_lag_bytes", **labels) == size)
        await eventually(lambda: running.metric("tocsin_ship_lag_seconds", **labels) > 1)
        (item,) = (await running.status())["inputs"]
        assert (item["size"], item["position"], item["lag_bytes"]) == (size, 0, size)


async def test_positions_that_cannot_be_saved_are_shown_and_stop_nothing(bench: Workbench, server: BulkServer) -> None:
    """Lines go on; what a kill would repeat grows, and people are told."""
    async with bench.shipper(elasticsearch(server)) as running:
        shutil.rmtree(bench.data / "positions")
        bench.write(10)
        await server.take(10)

        async def told() -> bool:
            found = await running.output("elasticsearch")
            return found["state"] == "blocked" and "positions cannot be saved" in found["error"]

        await eventually(told)
        (bench.data / "positions").mkdir()

        async def well() -> bool:
            return (await running.output("elasticsearch"))["state"] == "ok"

        await eventually(well)
    bench.write(1)
    async with bench.shipper(elasticsearch(server)):
        await server.take(11)
    assert server.doubled == 0


async def test_a_shipper_with_nothing_to_do_is_ready(bench: Workbench) -> None:
    """`tocsin up` without a `ship` section has one; a reload may give it work."""
    async with bench.shipper(NOWHERE) as running:
        await running.shipper.reload(Config.model_construct(inputs=(), outputs=()))
        assert await running.status() == {"inputs": [], "outputs": []}
        assert (await running.http.get("/-/ready")).status_code == 200


async def test_a_second_shipper_in_the_same_folder_is_refused(bench: Workbench) -> None:
    """Two would overwrite each other's positions."""
    async with bench.shipper(NOWHERE):
        second = Shipper(bench.settings(NOWHERE), data_folder=bench.data).service(None)
        with pytest.raises(InUseError, match="another shipper works in"):
            await second.start()
        await second.close()


async def test_reload_leaves_outputs_alone_that_did_not_change(
    bench: Workbench, server: BulkServer, sink: LineSink
) -> None:
    """Their connections stay; new ones begin, others end."""
    bench.write(10)
    async with bench.shipper(logstash(sink), NOWHERE.replace("{", "{name: gone, ")) as running:
        await sink.take(10)
        await running.shipper.reload(bench.settings(logstash(sink), elasticsearch(server)))
        await server.take(10)
        bench.write(10)
        await server.take(20)
        await sink.take(20)
        assert sink.connections == 1
        names = [item["name"] for item in (await running.status())["outputs"]]
        assert names == ["logstash_tcp", "elasticsearch"]
    assert len(sink.lines) == 20


async def test_a_reload_that_fails_keeps_what_was_there(bench: Workbench, sink: LineSink) -> None:
    """The store cannot be opened; the other output goes on."""
    async with bench.shipper(logstash(sink)) as running:
        (bench.data / "logs.db").mkdir()
        with pytest.raises(Exception, match="cannot use the database"):
            await running.shipper.reload(bench.settings(logstash(sink), "{kind: store, retention: 100y}"))
        bench.write(5)
        await sink.take(5)
        assert [item["name"] for item in (await running.status())["outputs"]] == ["logstash_tcp"]


async def test_operators_find_the_usual_endpoints(bench: Workbench) -> None:
    """Health, readiness, and metrics with all the shipper's names."""
    bench.write(1)
    async with bench.shipper(NOWHERE) as running:
        for path in ("/-/healthy", "/-/ready"):
            assert (await running.http.get(path)).status_code == 200
        await eventually(lambda: running.metric("tocsin_ship_read_total", input=str(bench.log)) == 1)

        async def page_with_a_retry() -> str:
            text = (await running.http.get("/metrics")).text
            return text if "tocsin_ship_retried_total{" in text else ""

        page = await eventually(page_with_a_retry)
    for name in ("read_total", "acked_total", "retried_total", "lag_bytes", "lag_seconds"):
        assert f"tocsin_ship_{name}{{" in page
    assert 'tocsin_ship_acked_total{output="logstash_tcp"} 0.0' in page
