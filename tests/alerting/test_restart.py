"""Restarts and crashes: what was told stays told, what was not told is told, and what ended is told to have ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from starlette.responses import Response

from tocsin_alerting.dispatch import patient
from tocsin_alerting.testing import NOW, alert, serving
from tocsin_service.clock import rfc3339
from tocsin_service.testing import Received, Sink, eventually, sink

_LABELS = {"alertname": "Down", "service": "shop"}


def _config(url: str, *, group_interval: str = "200ms") -> str:
    return f"""
route: {{receiver: hook, group_by: [service], group_wait: 0s, group_interval: {group_interval}}}
receivers: [{{name: hook, webhook_configs: [{{url: "{url}"}}]}}]
"""


def _until(seconds: float) -> dict[str, object]:
    return {"labels": _LABELS, "endsAt": rfc3339(time.time() + seconds)}


async def _quiet(got: Sink, count: int) -> None:
    """Nothing more comes within a few ticks."""
    await asyncio.sleep(0.8)
    assert len(got.received) == count, [item.json()["notification_reason"] for item in got.received]


async def test_an_alert_sent_again_after_a_restart_is_not_told_again(database_url: str) -> None:
    """Prometheus sends everything again within a minute; people have heard it."""
    async with sink() as got:
        for _ in range(2):
            async with serving(_config(got.url), database_url=database_url) as router:
                await router.post(_until(60))
                await _quiet(got, 1)


async def test_an_alert_that_never_comes_back_is_resolved_at_its_stored_end(database_url: str) -> None:
    """Who was told that it fires is told that it ended."""
    async with sink() as got:
        async with serving(_config(got.url), database_url=database_url) as router:
            end = time.time() + 2
            await router.post({"labels": _LABELS, "endsAt": rfc3339(end)})
            await got.take(1)
        async with serving(_config(got.url), database_url=database_url) as router:
            assert len((await router.client.get("/api/v2/alerts")).json()) == 1
            _, message = await got.take(2)
            assert time.time() >= end
    assert message.json()["status"] == "resolved"
    assert message.json()["alerts"][0]["endsAt"] == rfc3339(end)


async def test_an_end_that_came_while_we_were_away_is_told(database_url: str) -> None:
    """Prometheus sends resolved alerts for a quarter of an hour."""
    async with sink() as got:
        async with serving(_config(got.url), database_url=database_url) as router:
            await router.post(_until(60))
            await got.take(1)
        async with serving(_config(got.url), database_url=database_url) as router:
            await router.post(_until(-1))
            _, message = await got.take(2)
            await _quiet(got, 2)
    assert message.json()["notification_reason"] == "all alerts resolved"


def test_after_a_long_absence_an_alert_has_time_to_be_sent_again() -> None:
    """Half of what its sender gave it: Prometheus sends four times as often."""
    told = alert(start=NOW, end=NOW + 240)
    assert patient(told, NOW + 60).ends_at == NOW + 240
    assert patient(told, NOW + 9000).ends_at == NOW + 9120
    over = alert(start=NOW, end=NOW + 50, updated=NOW + 60)
    assert patient(over, NOW + 9000) == over


async def test_an_abandoned_message_is_sent_by_the_next_router_once(database_url: str) -> None:
    """It waits in the database with all it needs, and keeps its key."""
    down = True

    def answer(_: Received) -> Response:
        return Response(status_code=503 if down else 200)

    async with sink(answer) as got, serving(_config(got.url), database_url=database_url) as first:
        await first.post(_until(60))
        await got.take(1)
        await first.abandon()
        attempts = len(got.received)
        down = False
        async with serving(_config(got.url), database_url=database_url) as second:
            await eventually(lambda: len(got.received) > attempts)
            await second.post(_until(60))
            await _quiet(got, attempts + 1)
    assert len({item.headers["idempotency-key"] for item in got.received}) == 1


_PROGRAM = """
import asyncio, sys
from tocsin_alerting.testing import serving

async def main():
    async with serving(sys.argv[1], database_url=sys.argv[2]) as router:
        print(router.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def _process(text: str, database_url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", _PROGRAM, text, database_url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    assert process.stdout is not None
    url = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
    async with httpx.AsyncClient(base_url=url) as client:
        try:
            yield process, client
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.wait()


async def test_kill_9_loses_no_message_and_doubles_none(any_database_url: str) -> None:
    """Killed while a receiver is away and while another has been told: each hears of it exactly once."""
    down = True

    def answer(_: Received) -> Response:
        return Response(status_code=503 if down else 200)

    async with sink(answer) as away, sink() as there:
        hooks = f'[{{url: "{away.url}"}}, {{url: "{there.url}"}}]'
        text = _config("x").replace('[{url: "x"}]', hooks)
        async with _process(text, any_database_url) as (process, client):
            await client.post("/api/v2/alerts", json=[_until(60)])
            await there.take(1)
            await away.take(1)

            async def told() -> bool:
                found = (await client.get("/api/v1/notifications")).json()
                return sorted(item["state"] for item in found) == ["delivered", "pending"]

            await eventually(told)
            process.send_signal(signal.SIGKILL)
            await process.wait()
        down = False
        attempts = len(away.received)
        async with _process(text, any_database_url) as (_, client):
            await away.take(attempts + 1)
            await client.post("/api/v2/alerts", json=[_until(60)])
            await _quiet(there, 1)
            assert len(away.received) == attempts + 1
            await client.post("/api/v2/alerts", json=[_until(-1)])
            await there.take(2)
            await away.take(attempts + 2)
        assert [item.json()["status"] for item in there.received] == ["firing", "resolved"]
        keys = [item.headers["idempotency-key"] for item in away.received]
        assert len(set(keys[:-1])) == 1
        assert len(set(keys)) == 2


async def test_the_database_comes_into_being_with_its_folder(tmp_path: Path) -> None:
    """A first start needs no preparation."""
    async with sink() as got:
        url = f"sqlite:///{tmp_path}/new/folder/alerting.db"
        async with serving(_config(got.url), database_url=url) as router:
            await router.post(_until(60))
            await got.take(1)
    assert (tmp_path / "new/folder/alerting.db").exists()
