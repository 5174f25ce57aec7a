"""kill -9 at random instants for a minute, with a receiver that refuses a third of what it gets: what is lost?"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import Response

from tocsin_service import web
from tocsin_service.clock import rfc3339
from tocsin_service.testing import Received, Sink, eventually, sink

MINUTE = 60.0
GROUPS, PER_GROUP = 40, 7
RESEND, LASTS = 0.5, 6.0
"""Seconds between two posts of what fires, and how long each says that it lasts: Prometheus' four minutes, faster."""

_CONFIG = """
route: {{receiver: hook, group_by: [group], group_wait: 300ms, group_interval: 500ms, repeat_interval: 1h}}
receivers: [{{name: hook, webhook_configs: [{{url: "{hook}/hook"}}]}}]
"""


@dataclass
class World:
    """What is broken, as somebody like Prometheus sees it: names of alerts, and when each was mended."""

    dice: random.Random
    firing: set[str] = field(default_factory=set)
    mended: dict[str, float] = field(default_factory=dict)
    silenced: str = ""

    def change(self) -> None:
        for _ in range(self.dice.randint(1, 12)):
            name = f"{self.dice.randrange(GROUPS)}/{self.dice.randrange(PER_GROUP)}"
            if name in self.firing:
                self.mend(name)
            else:
                self.firing.add(name)
                self.mended.pop(name, None)

    def mend(self, name: str) -> None:
        self.firing.discard(name)
        self.mended[name] = time.time()

    def page(self) -> list[dict[str, Any]]:
        """Return what is posted: all that fires, and for a while what has been mended."""
        now = time.time()
        ends = dict.fromkeys(self.firing, now + LASTS)
        ends |= {name: at for name, at in self.mended.items() if now - at < 15}
        return [
            {"labels": {"alertname": name, "group": name.partition("/")[0]}, "endsAt": rfc3339(end)}
            for name, end in ends.items()
        ]


async def _post(world: World, url: str) -> None:
    """Post again and again, whether anybody is there or not."""
    async with httpx.AsyncClient(base_url=url, timeout=2.0) as client:
        while True:
            page = world.page()
            for start in range(0, len(page), 64):
                with contextlib.suppress(httpx.HTTPError):
                    await client.post("/api/v2/alerts", json=page[start : start + 64])
            await asyncio.sleep(RESEND)


@contextlib.asynccontextmanager
async def _router(file: Path, database: str, address: web.Address) -> AsyncIterator[asyncio.subprocess.Process]:
    with (file.parent / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tocsin_stack", "alerting", f"--config.file={file}", f"--storage.url={database}"),
            f"--web.listen-address={address}",
            stdout=log,
            stderr=log,
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:

            async def ready() -> bool:
                assert process.returncode is None, await asyncio.to_thread((file.parent / "log").read_text)
                with contextlib.suppress(httpx.HTTPError):
                    return (await client.get("/-/ready")).status_code == 200
                return False

            await eventually(ready, timeout=30)
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


@dataclass
class Count:
    """What the receiver has taken, message by message; the same message twice counts once, and is counted."""

    states: dict[str, list[str]] = field(default_factory=dict)
    doubled: int = 0
    repeats: int = 0
    silenced: int = 0


def _count(hook: Sink, taken: list[Received], silenced: str) -> Count:
    count = Count()
    last: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
    seen: Counter[str] = Counter()
    for item in taken:
        seen[item.headers["idempotency-key"]] += 1
        if seen[item.headers["idempotency-key"]] > 1:
            count.doubled += 1
            continue
        body = item.json()
        by_status: dict[str, set[str]] = {"firing": set(), "resolved": set()}
        for alert in body["alerts"]:
            name = alert["labels"]["alertname"]
            by_status[alert["status"]].add(name)
            count.silenced += name == silenced
            states = count.states.setdefault(name, [])
            if not states or states[-1] != alert["status"]:
                states.append(alert["status"])
        now = (frozenset(by_status["firing"]), frozenset(by_status["resolved"]))
        count.repeats += last.get(body["groupKey"]) == now
        last[body["groupKey"]] = now
    assert len(hook.received) >= len(taken)
    return count


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_minute_of_violent_deaths_loses_nothing(tmp_path: Path, any_database_url: str, seed: int) -> None:
    """Every firing that was told has its end told; nothing is told under a silence that was answered; few doubles."""
    dice = random.Random(seed)
    world = World(dice)
    taken: list[Received] = []
    calm = False

    def answer(received: Received) -> Response:
        if not calm and dice.random() < 0.3:
            return Response(status_code=dice.choice([500, 503]))
        if not calm and dice.random() < 0.05:
            return Response(status_code=429, headers={"Retry-After": "1"})
        taken.append(received)
        return Response()

    with web.bind(web.Address("127.0.0.1", 0)) as free:
        address = web.bound(free)
    kills = 0
    async with sink(answer) as hook:
        file = tmp_path / "alertmanager.yml"
        await asyncio.to_thread(file.write_text, _CONFIG.format(hook=hook.url))
        posting = asyncio.create_task(_post(world, f"http://{address}"))
        end = time.monotonic() + MINUTE
        silenced = "0/0"
        try:
            while time.monotonic() < end:
                async with _router(file, any_database_url, address) as process:
                    if not kills:
                        await _silence(f"http://{address}", silenced)
                    for _ in range(dice.randint(1, 4)):
                        world.change()
                        await asyncio.sleep(dice.uniform(0.05, 1.2))
                    process.send_signal(signal.SIGKILL)
                    await process.wait()
                    kills += 1
            calm = True
            for name in list(world.firing):
                world.mend(name)
            async with _router(file, any_database_url, address):
                await eventually(lambda: _quiet(f"http://{address}"), timeout=60)
        finally:
            posting.cancel()
    count = _count(hook, taken, silenced)
    open_ends = [name for name, states in count.states.items() if states[-1] != "resolved"]
    print(
        f"\n{kills} kills, {len(taken)} messages, {len(count.states)} alerts told, open at the end {len(open_ends)}, "
        f"told under a silence {count.silenced}, the same state again {count.repeats}, same key again {count.doubled}"
    )
    assert len(count.states) > GROUPS
    assert open_ends == []
    assert count.silenced == 0
    assert count.repeats <= 3
    assert count.doubled <= kills


async def _silence(url: str, name: str) -> None:
    body = {
        "matchers": [{"name": "alertname", "value": name, "isRegex": False}],
        "startsAt": rfc3339(time.time()),
        "endsAt": rfc3339(time.time() + 3600),
        "createdBy": "test",
        "comment": "test",
    }
    async with httpx.AsyncClient(base_url=url) as client:
        (await client.post("/api/v2/silences", json=body)).raise_for_status()


async def _quiet(url: str) -> bool:
    """Nothing fires, nothing waits."""
    async with httpx.AsyncClient(base_url=url) as client:
        alerts = (await client.get("/api/v2/alerts")).json()
        page = (await client.get("/metrics")).text
    return not alerts and all(
        f"{name} 0.0" in page
        for name in ("alertmanager_dispatcher_aggregation_groups", "tocsin_alerting_outbox_pending")
    )
