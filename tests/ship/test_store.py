"""The embedded store: each line once, found by its words, kept for as long and as large as was asked."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_service.db import Database, sqlite_url
from tocsin_service.testing import eventually
from tocsin_ship.storage import MIGRATIONS, Logs, Query, Row, match
from tocsin_ship.summary import Summary, summarise

if TYPE_CHECKING:
    from .conftest import Workbench

NOW = 1_763_856_000.0


@pytest.fixture
async def logs(tmp_path: Path) -> AsyncIterator[Logs]:
    database = await Database.open(sqlite_url(tmp_path / "logs.db"), [MIGRATIONS])
    yield Logs(database)
    await database.close()


def row(uid: str, message: str, *, at: float = NOW, level: str = "info", extra: str = "") -> Row:
    return Row(uid, Summary(at, level, "shop", message, "", extra), "{}")


async def found(logs: Logs, text: str) -> list[str]:
    return [hit.message for hit in await logs.search(Query(text=text))]


async def test_a_line_that_comes_twice_is_stored_once(logs: Logs) -> None:
    """By its id, which is the same each time."""
    await logs.add([row("a-0", "one"), row("a-5", "two")])
    await logs.add([row("a-5", "two"), row("a-a", "three")])
    assert await logs.count() == 3
    assert await found(logs, "two") == ["two"]


async def test_words_phrases_and_beginnings(logs: Logs) -> None:
    """All words must occur; quotes ask for words in a row; a star for a beginning."""
    await logs.add(
        [row("1", "Payment failed: card declined", extra="visa é-commerce"), row("2", "declined, card kept")]
    )
    assert await found(logs, "card declined") == ["declined, card kept", "Payment failed: card declined"]
    assert await found(logs, '"card declined"') == ["Payment failed: card declined"]
    assert await found(logs, "PAY* visa") == ["Payment failed: card declined"]
    assert await found(logs, "e-commerce") == ["Payment failed: card declined"]
    assert await found(logs, "refunded") == []
    assert await found(logs, "") == ["declined, card kept", "Payment failed: card declined"]


@pytest.mark.parametrize(
    "text",
    [
        '"',
        '""',
        "AND",
        "a AND",
        "NOT",
        "*",
        "a:b",
        "(",
        "message:",
        "^x",
        "{a}",
        "a NEAR b",
        "--",
        "'",
        "\0",
        "-x",
        "+",
    ],
)
async def test_odd_syntax_is_never_an_error(logs: Logs, text: str) -> None:
    """FTS5's operators mean nothing to a person who looks for a word."""
    await logs.add([row("1", "a AND b")])
    assert isinstance(await found(logs, text), list)
    assert await found(logs, "AND b") == ["a AND b"]


@given(st.text(max_size=30))
def test_whatever_is_typed_becomes_quoted_terms(text: str) -> None:
    """Outside of quotes nothing is left but blanks and stars."""
    terms = match(text)
    if terms is not None:
        assert terms.count('"') % 2 == 0
        assert set("".join(terms.split('"')[::2])) <= {" ", "*"}


async def test_old_lines_are_deleted(logs: Logs) -> None:
    """From the table and from the index."""
    await logs.add([row(str(n), f"word{n}", at=NOW - n) for n in range(5000)])
    assert await logs.expire(NOW - 99) == 4900
    assert await logs.count() == 100
    assert await found(logs, "word50") == ["word50"]
    assert await found(logs, "word200") == []


async def test_a_store_that_is_too_large_loses_its_oldest_lines(logs: Logs) -> None:
    """Not more of them than necessary."""
    await logs.add([row(str(n), f"word{n} " + "x" * 300, at=NOW + n) for n in range(6000)])
    limit = 2_000_000
    deleted = sum([await logs.shrink(limit) for _ in range(3)])
    assert 1000 < deleted < 5000
    assert await logs.shrink(limit) == 0
    assert await found(logs, "word5999") != []
    assert await found(logs, "word0") == []


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            {
                "@timestamp": "2025-11-22T23:59:00Z",
                "log.level": "ERROR",
                "service.name": "a",
                "trace.id": "AB",
                "message": "m",
            },
            (NOW - 60, "error", "a", "m", "ab"),
        ),
        (
            {"log": {"level": "warning"}, "service": {"name": "b"}, "trace": {"id": "cd"}, "message": "m"},
            (NOW, "warning", "b", "m", "cd"),
        ),
        ({"level": "INFO", "service": "c", "trace_id": "ef", "event": "e"}, (NOW, "info", "c", "e", "ef")),
        ({"@timestamp": "2099-01-01T00:00:00Z", "message": {"a": 1}}, (NOW, "", "", "", "")),
        ({"@timestamp": "yesterday", "message": 7}, (NOW, "", "", "7", "")),
        ({}, (NOW, "", "", "", "")),
    ],
)
def test_an_event_is_understood_wherever_its_fields_are(
    event: dict[str, object], expected: tuple[float, str, str, str, str]
) -> None:
    """ECS dotted or nested, OpenTelemetry's names, python-logstash's."""
    found = summarise(event, now=NOW)
    assert (found.at, found.level, found.service, found.message, found.trace_id) == expected


async def test_lines_are_stored_once_over_restarts(bench: Workbench) -> None:
    """Even when the positions are lost."""
    bench.write(2000)
    async with bench.shipper("{kind: store, retention: 100y}") as running:
        await eventually(lambda: running.metric("tocsin_ship_acked_total", output="store") == 2000)
    (bench.data / "positions" / "store.json").unlink()
    bench.write(1)
    async with bench.shipper("{kind: store, retention: 100y}") as running:
        await eventually(lambda: running.metric("tocsin_ship_acked_total", output="store") == 2001)
        database = await Database.open(sqlite_url(bench.data / "logs.db"))
        assert await Logs(database).count() == 2001
        await database.close()


async def test_lines_are_found_over_http(bench: Workbench) -> None:
    """By words, level, service and trace; newest first."""
    bench.log.write_text(
        '{"@timestamp":"2026-01-01T00:00:01Z","log.level":"error","service.name":"shop",'
        '"trace.id":"aa","message":"no card"}\n'
        '{"@timestamp":"2026-01-01T00:00:02Z","log.level":"info","service.name":"shop","message":"a card","order":77}\n'
        '{"@timestamp":"2026-01-01T00:00:03Z","log.level":"info","service.name":"mail","message":"sent"}\n'
    )
    async with bench.shipper("{kind: store, retention: 100y}") as running:

        async def messages(**query: str) -> list[str]:
            answer = await running.http.get("/api/v1/logs", params=query)
            assert answer.status_code == 200
            return [hit["message"] for hit in answer.json()]

        await eventually(lambda: running.metric("tocsin_ship_acked_total", output="store") == 3)
        assert await messages() == ["sent", "a card", "no card"]
        assert await messages(limit="1") == ["sent"]
        assert await messages(q="card") == ["a card", "no card"]
        assert await messages(q="card 77") == ["a card"]
        assert await messages(level="ERROR") == ["no card"]
        assert await messages(service="mail") == ["sent"]
        assert await messages(trace="AA") == ["no card"]
        assert await messages(q="\"'; DROP TABLE logs --") == []
        (hit,) = (await running.http.get("/api/v1/logs", params={"trace": "aa"})).json()
        assert hit["at"] == "2026-01-01T00:00:01.000Z"
        assert (hit["level"], hit["service"], hit["trace_id"]) == ("error", "shop", "aa")
        assert hit["line"]["message"] == "no card"
        for limit in ("0", "x", "1001", "-1", "9" * 30):
            assert (await running.http.get("/api/v1/logs", params={"limit": limit})).status_code == 400


async def test_a_line_that_is_too_old_when_it_comes_is_not_kept(bench: Workbench) -> None:
    """It counts as delivered."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    bench.log.write_text(
        '{"@timestamp":"2001-01-01T00:00:00Z","message":"old"}\n' + f'{{"@timestamp":"{stamp}","message":"new"}}\n'
    )
    async with bench.shipper("{kind: store, retention: 1h}") as running:
        await eventually(lambda: running.metric("tocsin_ship_acked_total", output="store") == 2)
        hits = (await running.http.get("/api/v1/logs")).json()
        assert [hit["message"] for hit in hits] == ["new"]


async def test_without_a_store_there_is_nothing_to_search(bench: Workbench) -> None:
    """404 with a sentence that says how to have one."""
    async with bench.shipper('{kind: logstash_tcp, host: "127.0.0.1:9"}') as running:
        answer = await running.http.get("/api/v1/logs")
    assert answer.status_code == 404
    assert "kind: store" in answer.text
