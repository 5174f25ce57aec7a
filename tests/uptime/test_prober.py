"""The prober as a whole: real targets, a real router, a real database, and what happens when they go away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tocsin_service import ops, run, web
from tocsin_service.clock import parse_rfc3339
from tocsin_service.db import Database, sqlite_url
from tocsin_service.testing import Received, Sink, eventually, sink
from tocsin_uptime.config import Config
from tocsin_uptime.prober import Prober
from tocsin_uptime.result import Reason, Result, State
from tocsin_uptime.state import Standing
from tocsin_uptime.storage import MIGRATIONS, Storage

Load = Callable[[str], Config]


class Running:
    """A prober that runs, and its API."""

    def __init__(self, prober: Prober, registry: CollectorRegistry, client: httpx.AsyncClient) -> None:
        self.prober = prober
        self.registry = registry
        self.client = client

    async def check(self, name: str) -> dict[str, Any]:
        answer = await self.client.get(f"/api/v1/checks/{name}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def reaches(self, name: str, state: str) -> dict[str, Any]:
        """Wait until a check is in `state` and return it."""

        async def there() -> dict[str, Any] | None:
            found = await self.check(name)
            return found if found["state"] == state else None

        found: dict[str, Any] = await eventually(there)
        return found

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@contextlib.asynccontextmanager
async def _running(
    config: Config,
    database: Path,
    *,
    transports: Mapping[str, httpx.AsyncBaseTransport] | None = None,
    reread: ops.Reload | None = None,
) -> AsyncIterator[Running]:
    registry = CollectorRegistry()
    prober = Prober(
        config,
        database_url=f"sqlite:///{database}",
        external_url="http://uptime.example",
        registry=registry,
        transports=transports,
        reread=reread,
    )
    listener = web.bind(web.Address("127.0.0.1", 0))
    stop, ready = asyncio.Event(), asyncio.Event()

    async def is_ready() -> None:
        ready.set()

    served = asyncio.create_task(run.serve([prober.service(listener)], stop=stop, ready=is_ready))
    await ready.wait()
    async with httpx.AsyncClient(base_url=web.bound(listener).url) as client:
        yield Running(prober, registry, client)
    stop.set()
    assert await served == 0


def _file(router: Sink | None, *endpoints: Mapping[str, object]) -> str:
    return json.dumps(
        {
            "defaults": {"interval": "1s", "timeout": "1s", "confirm": {"failures": 3, "every": "50ms", "recover": 2}},
            "alertmanagers": [{"url": router.url, "resend": "1s"}] if router else [],
            "endpoints": endpoints,
        }
    )


def _alerts(received: list[Received]) -> list[dict[str, Any]]:
    assert all((item.method, item.path) == ("POST", "/api/v2/alerts") for item in received)
    assert all(item.headers["content-type"] == "application/json" for item in received)
    return [alert for item in received for alert in item.json()]


class Shop:
    """A target whose health can be switched."""

    def __init__(self) -> None:
        self.status = 200
        self.sink = Sink()

    def answer(self, _: Received) -> Response:
        return Response("all is well" if self.status == 200 else "no database", self.status)


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    opened = Shop()
    async with sink(opened.answer) as opened.sink:
        yield opened


async def test_an_outage_is_told_from_start_to_end(load: Load, tmp_path: Path, shop: Shop) -> None:
    """Up, down, up again: one alert with one start, repeated while it lasts, ended at its real end."""
    shop.status = 503
    async with sink() as router:
        endpoint = {"name": "front", "service": "shop", "url": f"{shop.sink.url}/health", "labels": {"team": "web"}}
        async with _running(load(_file(router, endpoint)), tmp_path / "uptime.db") as prober:
            down = await prober.reaches("front", "down")
            firing = _alerts(await router.take(2))
            assert {json.dumps(alert["labels"], sort_keys=True) for alert in firing} == {
                '{"alertname": "ProbeDown", "check": "front", "service": "shop", "severity": "page", "team": "web"}'
            }
            assert {alert["startsAt"] for alert in firing} == {down["since"]} == {down["history"][0]["at"]}
            assert all(parse_rfc3339(alert["endsAt"]) > parse_rfc3339(down["last"]["at"]) + 3 for alert in firing)
            assert firing[0]["annotations"]["summary"].startswith("front is down: connected in ")
            assert "HTTP 503 instead of 200 to 299" in firing[0]["annotations"]["summary"]
            assert "The answer began: no database" in firing[0]["annotations"]["description"]
            assert firing[0]["generatorURL"] == "http://uptime.example/checks/front"
            shop.status = 200
            up = await prober.reaches("front", "up")
            seen = len(router.received)
            resolved = _alerts(await router.take(seen + 1))[-1]
            assert resolved["startsAt"] == down["since"]
            assert resolved["endsAt"] == up["since"]
            assert " is up again after " in resolved["annotations"]["summary"]
            assert prober.sample("tocsin_uptime_alert_posts_total", outcome="failed") == 0


async def test_a_router_that_is_away_misses_nothing(load: Load, tmp_path: Path, shop: Shop) -> None:
    """Refused and broken posts are counted, kept and sent again; a recovery meanwhile is told too."""
    shop.status = 503
    away = {"is": True}
    async with sink(lambda _: Response(status_code=503 if away["is"] else 200)) as router:
        endpoint = {"name": "front", "url": f"{shop.sink.url}/health"}
        async with _running(load(_file(router, endpoint)), tmp_path / "uptime.db") as prober:
            down = await prober.reaches("front", "down")
            await router.take(2)
            assert prober.sample("tocsin_uptime_alert_posts_total", outcome="accepted") == 0
            away["is"] = False
            router.received.clear()
            assert _alerts(await router.take(1))[0]["startsAt"] == down["since"]
            away["is"] = True
            shop.status = 200
            up = await prober.reaches("front", "up")
            await router.take(len(router.received) + 1)
            away["is"] = False
            router.received.clear()
            (resolved,) = _alerts(await router.take(1))
            assert (resolved["startsAt"], resolved["endsAt"]) == (down["since"], up["since"])
            assert (prober.sample("tocsin_uptime_alert_posts_total", outcome="failed") or 0) >= 2


async def test_a_router_that_does_not_listen_at_all_is_tried_again(
    load: Load, tmp_path: Path, free_port: int, shop: Shop
) -> None:
    """No connection is a failed post like any other, and the prober stops cleanly all the same."""
    shop.status = 503
    endpoint = {"name": "front", "url": f"{shop.sink.url}/health"}
    config = load(_file(Sink(url=f"http://127.0.0.1:{free_port}"), endpoint))
    async with _running(config, tmp_path / "uptime.db") as prober:
        await prober.reaches("front", "down")
        await eventually(lambda: (prober.sample("tocsin_uptime_alert_posts_total", outcome="failed") or 0) >= 2)


async def test_a_restart_while_down_neither_forgets_nor_announces_anew(load: Load, tmp_path: Path, shop: Shop) -> None:
    """The same outage goes on with the same start; its end is told although another process saw its beginning."""
    shop.status = 503
    endpoint = {"name": "front", "url": f"{shop.sink.url}/health"}
    async with sink() as router:
        config = load(_file(router, endpoint))
        async with _running(config, tmp_path / "uptime.db") as prober:
            before = await prober.reaches("front", "down")
            await router.take(1)
        router.received.clear()
        async with _running(config, tmp_path / "uptime.db") as prober:
            after = await prober.check("front")
            assert (after["state"], after["since"]) == ("down", before["since"])
            assert after["history"][: len(before["history"])] == before["history"]
            assert {alert["startsAt"] for alert in _alerts(await router.take(1))} == {before["since"]}
        router.received.clear()
        shop.status = 200
        async with _running(config, tmp_path / "uptime.db") as prober:
            up = await prober.reaches("front", "up")
            alerts = _alerts(await router.take(1))
            assert {(alert["startsAt"], alert["endsAt"]) for alert in alerts} == {(before["since"], up["since"])}
            assert "no database" in alerts[0]["annotations"]["description"]


async def test_a_restart_after_a_recovery_elsewhere_does_not_fire(load: Load, tmp_path: Path, shop: Shop) -> None:
    """A target that came back while the prober was off is not announced as down, not even for a moment."""
    shop.status = 503
    endpoint = {"name": "front", "url": f"{shop.sink.url}/health"}
    async with _running(load(_file(None, endpoint)), tmp_path / "uptime.db") as prober:
        await prober.reaches("front", "down")
    shop.status = 200
    async with sink() as router, _running(load(_file(router, endpoint)), tmp_path / "uptime.db") as prober:
        up = await prober.reaches("front", "up")
        assert {alert["endsAt"] for alert in _alerts(await router.take(1))} == {up["since"]}


async def test_a_row_of_failures_does_not_go_on_after_days(load: Load, tmp_path: Path, shop: Shop) -> None:
    """A prober that was off for two days counts anew: an outage did not begin before anybody looked."""
    started = time.time()
    long_ago = started - 48 * 3600
    failed = Result(long_ago, State.DOWN, Reason.STATUS, "HTTP 503", duration=0.1)
    database = await Database.open(sqlite_url(tmp_path / "uptime.db"), [MIGRATIONS])
    row = Standing(State.UP, long_ago - 60, failures=1, row_began=long_ago)
    await Storage(database).write([("front", failed)], {"front": row})
    await database.close()
    shop.status = 503
    config = load(_file(None, {"name": "front", "url": f"{shop.sink.url}/health"}))
    async with _running(config, tmp_path / "uptime.db") as prober:
        down = await prober.reaches("front", "down")
        assert parse_rfc3339(down["since"]) > started - 1


async def test_the_api_shows_what_a_console_needs(load: Load, tmp_path: Path, shop: Shop) -> None:
    """Every field of a check, before and after its first result."""
    endpoint = {"name": "front door", "service": "shop", "group": "web", "url": f"{shop.sink.url}/health?token=abc"}
    port = {"name": "port", "url": shop.sink.url.replace("http:", "tcp:")}
    slow = {"name": "slow", "url": f"{shop.sink.url}/", "degraded": ["[RESPONSE_TIME] < 0"]}
    config = load(_file(None, endpoint, port, slow))
    async with _running(config, tmp_path / "uptime.db") as prober:
        shown = await prober.reaches("front%20door", "up")
        assert shown.keys() == {
            *("name", "service", "group", "kind", "target", "state", "since", "interval", "last", "history"),
            "uptime_24h",
        }
        assert (shown["service"], shown["group"], shown["kind"], shown["interval"]) == ("shop", "web", "http", 1.0)
        assert shown["target"] == f"{shop.sink.url}/health"
        assert shown["uptime_24h"] == 1.0
        last = shown["last"]
        assert (last["success"], last["reason"], last["status"]) == (True, "ok", 200)
        assert last["sentence"].startswith("HTTP 200 in ")
        assert list(last["phases"]) == ["connect", "processing", "transfer"]
        assert parse_rfc3339(last["at"]) >= parse_rfc3339(shown["since"])
        assert shown["history"][-1].keys() == {"at", "success", "duration", "reason"}
        degraded = await prober.reaches("slow", "degraded")
        assert (degraded["last"]["success"], degraded["last"]["reason"]) == (True, "degraded")
        assert (await prober.reaches("port", "up"))["kind"] == "tcp"
        listed = (await prober.client.get("/api/v1/checks")).json()
        assert [item["name"] for item in listed] == ["front door", "port", "slow"]
        link = await prober.client.get("/checks/front%20door")
        assert (link.status_code, link.headers["location"]) == (307, "/api/v1/checks/front%20door")
        missing = await prober.client.get("/api/v1/checks/nobody")
        assert (missing.status_code, "no check named" in missing.json()["error"]) == (404, True)


async def test_metrics_begin_at_zero_and_follow_the_results(load: Load, tmp_path: Path, shop: Shop) -> None:
    """Counters and states exist before anything happened; success does not, for a zero there would be a false alarm."""
    prober = Prober(
        load(_file(None, {"name": "front", "service": "shop", "url": f"{shop.sink.url}/"})),
        database_url=f"sqlite:///{tmp_path}/uptime.db",
        external_url="http://uptime.example",
        registry=(registry := CollectorRegistry()),
    )
    who = {"service": "shop", "check": "front"}
    service = prober.service(None)
    await service.start()
    try:
        assert registry.get_sample_value("tocsin_probe_results_total", {**who, "reason": "tls_expired"}) == 0
        assert registry.get_sample_value("tocsin_probe_state", {**who, "state": "unknown"}) == 1
        assert registry.get_sample_value("tocsin_probe_state", {**who, "state": "down"}) == 0
        assert registry.get_sample_value("tocsin_probe_success", who) is None
        assert registry.get_sample_value("tocsin_uptime_history_errors_total") == 0
    finally:
        await service.drain()
        await service.close()

    shop.status = 500
    async with _running(
        load(_file(None, {"name": "front", "service": "shop", "url": shop.sink.url})), tmp_path / "x"
    ) as it:
        await it.reaches("front", "down")
        page = (await it.client.get("/metrics")).text
        for line in (
            'tocsin_probe_success{check="front",service="shop"} 0.0',
            'tocsin_probe_state{check="front",service="shop",state="down"} 1.0',
            'tocsin_probe_state{check="front",service="shop",state="unknown"} 0.0',
        ):
            assert line in page
        assert (it.sample("tocsin_probe_results_total", **who, reason="status") or 0) >= 3
        assert (it.sample("tocsin_probe_duration_seconds", **who, phase="connect") or 0) > 0
        assert (it.sample("tocsin_probe_lateness_seconds") or 0) < 1


async def test_a_reload_resolves_what_is_no_longer_watched_and_keeps_the_rest(
    load: Load, tmp_path: Path, shop: Shop
) -> None:
    """A removed check ends its alert and its series; a renamed label moves the alert; the rest keeps its history."""
    shop.status = 503
    url = f"{shop.sink.url}/health"
    async with sink() as router:
        first = load(_file(router, *({"name": name, "url": url} for name in ("stays", "goes", "moves"))))
        second = load(
            _file(
                router,
                {"name": "stays", "url": url},
                {"name": "moves", "url": url, "severity": "ticket"},
                {"name": "comes", "url": url},
            )
        )
        async with _running(first, tmp_path / "uptime.db") as prober:
            before = {name: await prober.reaches(name, "down") for name in ("stays", "goes", "moves")}
            await prober.prober.reload(second)
            assert (await prober.client.get("/api/v1/checks/goes")).status_code == 404
            stays = await prober.check("stays")
            assert (stays["state"], stays["since"]) == ("down", before["stays"]["since"])
            assert stays["history"][: len(before["stays"]["history"])] == before["stays"]["history"]
            assert prober.sample("tocsin_probe_state", service="goes", check="goes", state="down") is None
            await prober.reaches("comes", "down")

            def ended(check: str, severity: str) -> bool:
                told = [
                    alert
                    for alert in _alerts(router.received)
                    if (alert["labels"]["check"], alert["labels"]["severity"]) == (check, severity)
                ]
                return bool(told) and told[-1]["annotations"]["summary"].startswith(f"{check} is up again")

            await eventually(lambda: ended("goes", "page") and ended("moves", "page"))
            assert not ended("stays", "page")
            moved = [alert for alert in _alerts(router.received) if alert["labels"]["severity"] == "ticket"]
            assert moved[0]["startsAt"] == before["moves"]["since"]
        async with _running(first, tmp_path / "uptime.db") as prober:
            assert (await prober.check("goes"))["state"] == "unknown"


async def test_a_router_that_is_added_by_a_reload_is_told_at_once(load: Load, tmp_path: Path, shop: Shop) -> None:
    """What is down already is news to a new router."""
    shop.status = 503
    endpoint = {"name": "front", "url": f"{shop.sink.url}/health"}
    async with sink() as router, _running(load(_file(None, endpoint)), tmp_path / "uptime.db") as prober:
        down = await prober.reaches("front", "down")
        await prober.prober.reload(load(_file(router, endpoint)))
        assert _alerts(await router.take(1))[0]["startsAt"] == down["since"]


async def test_a_router_in_this_process_is_reached_without_a_socket(load: Load, tmp_path: Path, shop: Shop) -> None:
    """`transports` sends alerts straight into an ASGI application."""
    shop.status = 503
    posted: asyncio.Queue[list[dict[str, Any]]] = asyncio.Queue()

    async def accept(request: Request) -> Response:
        posted.put_nowait(await request.json())
        return Response()

    app = Starlette(routes=[Route("/api/v2/alerts", accept, methods=["POST"])])
    config = load(_file(Sink(url="http://router.invalid:9093"), {"name": "front", "url": shop.sink.url}))
    transports = {"http://router.invalid:9093": httpx.ASGITransport(app=app)}
    async with _running(config, tmp_path / "uptime.db", transports=transports):
        async with asyncio.timeout(10):
            assert (await posted.get())[0]["labels"]["check"] == "front"


async def test_a_database_that_is_away_stops_neither_probing_nor_alerting(
    load: Load, tmp_path: Path, shop: Shop
) -> None:
    """The outage is told without history; each failed write is counted; what waited is stored once it is back."""
    shop.status = 503
    blocked = tmp_path / "data"
    blocked.write_text("a file where the folder should be")
    endpoint = {"name": "front", "url": f"{shop.sink.url}/health"}
    async with sink() as router:
        config = load(_file(router, endpoint))
        async with _running(config, blocked / "uptime.db") as prober:
            assert (await prober.client.get("/-/ready")).status_code == 200
            down = await prober.reaches("front", "down")
            assert _alerts(await router.take(1))[0]["startsAt"] == down["since"]
            await eventually(lambda: (prober.sample("tocsin_uptime_history_errors_total") or 0) >= 2)
            blocked.unlink()
            await eventually((blocked / "uptime.db").exists)
        async with _running(config, blocked / "uptime.db") as prober:
            assert (await prober.check("front"))["history"][: len(down["history"])] == down["history"]


async def test_operators_find_the_usual_endpoints(load: Load, tmp_path: Path) -> None:
    """Healthy, ready, metrics, and a reload that reads the file again or says why not."""
    calls: list[str] = []

    async def reread() -> None:
        calls.append("read")
        raise ValueError("uptime.yml:1:1: this is not YAML")

    async with _running(load(""), tmp_path / "uptime.db", reread=reread) as prober:
        for path in ("/-/healthy", "/-/ready", "/metrics"):
            assert (await prober.client.get(path)).status_code == 200
        refused = await prober.client.post("/-/reload")
        assert (refused.status_code, "uptime.yml:1:1" in refused.text, calls) == (500, True, ["read"])


async def test_a_prober_stops_within_its_time_although_its_router_hangs(
    load: Load, tmp_path: Path, shop: Shop, silent_port: int
) -> None:
    """A router that takes connections and never answers does not hold up the shutdown, nor make it a failure."""
    shop.status = 503
    config = load(_file(Sink(url=f"http://127.0.0.1:{silent_port}"), {"name": "front", "url": shop.sink.url}))
    loop = asyncio.get_running_loop()
    async with _running(config, tmp_path / "uptime.db") as prober:
        await prober.reaches("front", "down")
        began = loop.time()
    assert loop.time() - began < 4.0


async def test_targets_do_not_see_a_stampede(load: Load, tmp_path: Path) -> None:
    """Fifty checks of one target start spread over two seconds, not in one instant."""
    arrivals: list[float] = []
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(
        lambda _, writer: (arrivals.append(loop.time()), writer.close()), "127.0.0.1", 0, family=socket.AF_INET
    )
    port = server.sockets[0].getsockname()[1]
    endpoints = [{"name": f"check {index}", "url": f"tcp://127.0.0.1:{port}", "interval": "10s"} for index in range(50)]
    async with server, _running(load(_file(None, *endpoints)), tmp_path / "uptime.db"):
        await eventually(lambda: len(arrivals) >= 50)
    assert 1.5 < max(arrivals) - min(arrivals) < 3.0
    busiest = max(sum(1 for other in arrivals if at <= other < at + 0.2) for at in arrivals)
    assert busiest <= 20
