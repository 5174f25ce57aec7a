"""Elasticsearch: each event stored once, whatever the server answers; what it refuses is kept with its reason."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tocsin_service.testing import eventually
from tocsin_ship.testing import BulkServer, Proxy

if TYPE_CHECKING:
    from .conftest import Workbench


def to(url: str, more: str = "") -> str:
    return f'{{kind: elasticsearch, url: "{url}", index: logs-test-default{more}}}'


def numbers(server: BulkServer) -> list[int]:
    return sorted(event["n"] for event in server.documents.values() if "n" in event)


async def test_each_line_is_stored_once(bench: Workbench, server: BulkServer) -> None:
    """Under an id that is made of the file and the line's place in it."""
    bench.write(5000)
    async with bench.shipper(to(server.url)) as running:
        await server.take(5000)
        await eventually(lambda: running.metric("tocsin_ship_acked_total", output="elasticsearch") == 5000)
        bench.write(3)
        await server.take(5003)
    assert numbers(server) == list(range(5003))
    assert server.doubled == 0


async def test_only_events_that_were_not_taken_go_again(bench: Workbench, server: BulkServer) -> None:
    """429 and 503 for one event concern that event only, though the answer as a whole is 200."""
    asked: dict[str, int] = {}

    def judge(key: str, event: dict[str, Any]) -> int | None:
        asked[key] = asked.get(key, 0) + 1
        if asked[key] == 1 and event["n"] % 10 == 0:
            return 429 if event["n"] % 20 else 503
        return None

    server.judge = judge
    bench.write(100)
    async with bench.shipper(to(server.url)) as running:
        await server.take(100)
        await eventually(lambda: running.metric("tocsin_ship_acked_total", output="elasticsearch") == 100)
        assert server.requests == [100, 10]
        assert server.doubled == 0
        retried = [
            running.metric("tocsin_ship_retried_total", output="elasticsearch", reason=reason)
            for reason in ("es_rejected_execution_exception", "unavailable_shards_exception")
        ]
        assert sum(retried) == 10


async def test_an_event_that_can_never_be_stored_becomes_a_dead_letter(bench: Workbench, server: BulkServer) -> None:
    """With reason, status, file, offset and the line itself; those around it are stored."""
    server.judge = lambda _, event: 400 if event["n"] == 3 else None
    bench.write(10)
    async with bench.shipper(to(server.url)) as running:
        await server.take(9)
        (letter,) = await eventually(lambda: bench.dead_letters("elasticsearch"))
        labels = {"output": "elasticsearch", "reason": "document_parsing_exception"}
        await eventually(lambda: running.metric("tocsin_ship_dead_total", **labels) == 1)
        assert (await running.output("elasticsearch"))["dead"] == 1
    lines = bench.log.read_bytes().splitlines()
    assert json.loads(letter["line"])["n"] == 3
    assert letter["line"].encode() == lines[3]
    assert letter["offset"] == sum(len(line) + 1 for line in lines[:3])
    assert letter["file"] == str(bench.log)
    assert (letter["status"], letter["reason"]) == (400, "document_parsing_exception")
    assert "told to refuse" in letter["error"]


async def test_an_index_that_is_missing_is_tried_a_few_times(bench: Workbench, server: BulkServer) -> None:
    """Then the events are kept as dead letters; the log goes on."""
    server.judge = lambda _, event: 404 if event["n"] < 2 else None
    bench.write(5)
    async with bench.shipper(to(server.url)):
        await eventually(lambda: len(bench.dead_letters("elasticsearch")) == 2)
    assert server.requests == [5, 2, 2]
    assert numbers(server) == [2, 3, 4]


@pytest.mark.parametrize("status", [429, 502, 503, 504, 500])
async def test_a_refused_request_goes_again_unchanged(bench: Workbench, server: BulkServer, status: int) -> None:
    """The server is in trouble; nothing is wrong with the events."""
    server.whole.extend([status, status])
    bench.write(50)
    async with bench.shipper(to(server.url)) as running:
        await server.take(50)
        assert running.metric("tocsin_ship_retried_total", output="elasticsearch", reason=f"status_{status}") == 100
    assert server.requests == [50, 50, 50]


async def test_a_body_that_is_too_large_is_split(bench: Workbench, server: BulkServer) -> None:
    """Until it fits; an event that does not fit alone is a dead letter."""
    server.limit = 10_000
    bench.write(100)
    with bench.log.open("a") as file:
        file.write(json.dumps({"@timestamp": "2026-01-01T00:00:00Z", "n": -1, "message": "x" * 20_000}) + "\n")
    bench.write(100)
    async with bench.shipper(to(server.url)):
        await server.take(200)
        (letter,) = await eventually(lambda: bench.dead_letters("elasticsearch"))
    assert letter["status"] == 413
    assert numbers(server) == list(range(200))


@pytest.mark.parametrize("status", [400, 500])
async def test_one_event_that_spoils_the_request_is_found(bench: Workbench, server: BulkServer, status: int) -> None:
    """By halves; it becomes a dead letter, all others are stored, and the log goes on."""
    server.spoils = lambda _, event: status if event["n"] == 5 else None
    bench.write(8)
    async with bench.shipper(to(server.url)):
        await server.take(7)
        (letter,) = await eventually(lambda: bench.dead_letters("elasticsearch"))
        bench.write(1)
        await server.take(8)
    assert (json.loads(letter["line"])["n"], letter["status"]) == (5, status)
    assert numbers(server) == [n for n in range(9) if n != 5]


async def test_a_lost_answer_stores_nothing_twice(bench: Workbench, server: BulkServer, cutting: Proxy) -> None:
    """The request goes again with the same ids, and "is there already" counts as delivered."""
    cutting.cut = 3
    bench.write(500)
    async with bench.shipper(to(f"http://127.0.0.1:{cutting.port}")) as running:
        await eventually(lambda: running.metric("tocsin_ship_acked_total", output="elasticsearch") == 500)
    assert numbers(server) == list(range(500))
    assert server.doubled == 1500
    assert bench.dead_letters("elasticsearch") == []


async def test_refused_credentials_keep_everything_and_raise_an_alarm(bench: Workbench, server: BulkServer) -> None:
    """The output is blocked and says why, without the secret; nothing is given up."""
    server.authorization = "ApiKey right"
    bench.write(5)
    async with bench.shipper(to(server.url, ", api_key: wrong-secret")) as running:
        await eventually(lambda: server.requests)
        await eventually(
            lambda: running.metric("tocsin_ship_retried_total", output="elasticsearch", reason="status_401")
        )
        found = await running.output("elasticsearch")
        assert found["state"] == "blocked"
        assert "401" in found["error"]
        assert "wrong-secret" not in json.dumps(await running.status())
    async with bench.shipper(to(server.url, ", api_key: right")):
        await server.take(5)
    assert bench.dead_letters("elasticsearch") == []


async def test_credentials_from_files_are_read_for_each_request(bench: Workbench, server: BulkServer) -> None:
    """So that they can be rotated."""
    (bench.folder / "key").write_text("id:first\n")
    server.authorization = "ApiKey " + base64.b64encode(b"id:first").decode()
    bench.write(1)
    async with bench.shipper(to(server.url, ", api_key_file: key")):
        await server.take(1)
        (bench.folder / "key").write_text("id:second\n")
        server.authorization = "ApiKey " + base64.b64encode(b"id:second").decode()
        bench.write(1)
        await server.take(2)


async def test_basic_credentials(bench: Workbench, server: BulkServer) -> None:
    """User and password."""
    server.authorization = "Basic " + base64.b64encode(b"elastic:pw").decode()
    bench.write(1)
    async with bench.shipper(to(server.url, ", username: elastic, password: pw")):
        await server.take(1)


async def test_any_line_is_taken_by_a_strict_server(bench: Workbench, server: BulkServer) -> None:
    """Broken bytes, text, NaN, a host as text, no time: all of it arrives."""
    odd = [
        b"plain text",
        b'{"message":"caf\xe9"}',
        b'{"x":NaN}',
        b'{"host":"web-1"}',
        b"[]",
        b'{"a":1}{"b":2}',
        b'{"@timestamp":"2026-01-01T00:00:00Z","error":"boom"}',
        b"\0\0\0",
        b'{"message":"' + b"x" * (2 << 20) + b'"}',
    ]
    bench.log.write_bytes(b"\n".join(odd) + b"\n")
    async with bench.shipper(to(server.url)):
        await server.take(len(odd) - 1)
    assert bench.dead_letters("elasticsearch") == []
    assert {event.get("host.name") for event in server.documents.values()} == {None, "web-1"}


async def test_a_real_server_stores_each_line_once(bench: Workbench, elasticsearch: str) -> None:
    """noida-db answers as Elasticsearch 8.15 does."""
    bench.write(3000)
    with bench.log.open("a") as file:
        file.write('{"@timestamp":"2026-01-01T00:00:00Z","n":"not a number"}\n')
    async with httpx.AsyncClient(base_url=elasticsearch) as client:

        async def answers() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return (await client.get("/")).status_code == 200
            return False

        await eventually(answers)
        mapping = {"mappings": {"properties": {"n": {"type": "long"}}}}
        assert (await client.put("/logs-test-default", json=mapping)).status_code == 200
        async with bench.shipper(to(elasticsearch)) as running:
            await eventually(lambda: running.metric("tocsin_ship_acked_total", output="elasticsearch") == 3000)
            bench.write(1)
            await eventually(lambda: running.metric("tocsin_ship_acked_total", output="elasticsearch") == 3001)
        # All of it once more, as after a lost answer.
        (bench.data / "positions" / "elasticsearch.json").unlink()
        async with bench.shipper(to(elasticsearch)) as running:
            await eventually(lambda: running.metric("tocsin_ship_acked_total", output="elasticsearch") == 3001)
        await client.post("/logs-test-default/_refresh")
        assert (await client.get("/logs-test-default/_count")).json()["count"] == 3001
        total = {"size": 0, "aggs": {"sum": {"sum": {"field": "n"}}}}
        answer = (await client.post("/logs-test-default/_search", json=total)).json()
        assert answer["aggregations"]["sum"]["value"] == sum(range(3001))
    assert [letter["status"] for letter in bench.dead_letters("elasticsearch")] == [400, 400]
