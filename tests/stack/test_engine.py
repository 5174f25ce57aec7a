"""The supervised Prometheus, a real one: it scrapes, survives, reloads, and never outlives us."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge, make_asgi_app

from tocsin_service import run, web
from tocsin_service.testing import Sink, eventually, serving, sink
from tocsin_stack.engine import Engine, EngineConfig, EngineError

ALWAYS = """
groups:
  - name: test
    interval: 1s
    rules:
      - {alert: Always, expr: "vector(1)", labels: {service: shop}}
      - {alert: Hot, expr: "shop_temperature > 30", labels: {severity: page}}
      - {record: "shop:temperature:double", expr: "shop_temperature * 2"}
"""
QUICK = {"scrape_interval": "1s", "evaluation_interval": "1s"}


def config(**settings: Any) -> EngineConfig:
    return EngineConfig.model_validate({**QUICK, **settings})


def scrape(app: Application, service: str = "shop") -> dict[str, object]:
    return {"service": service, "targets": [app.url.removeprefix("http://")]}


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    """Run the engine as the stack does."""
    stop, ready = asyncio.Event(), asyncio.Event()

    async def is_ready() -> None:
        ready.set()

    task = asyncio.create_task(run.serve([engine.service()], stop=stop, ready=is_ready))
    try:
        await asyncio.wait([task, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
        await eventually(lambda: engine.state == "up", timeout=20)
        yield engine
    finally:
        stop.set()
        assert await task == 0


@dataclass(frozen=True)
class Application:
    """Something with one metric."""

    url: str
    temperature: Gauge


@asynccontextmanager
async def application(value: float = 21.0) -> AsyncIterator[Application]:
    registry = CollectorRegistry()
    temperature = Gauge("shop_temperature", "Degrees.", registry=registry)
    temperature.set(value)
    async with serving(make_asgi_app(registry)) as url:
        yield Application(url, temperature)


def posted(router: Sink) -> list[Any]:
    return [alert for received in router.received for alert in received.json()]


async def query(engine: Engine, promql: str) -> list[tuple[dict[str, str], float]]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{engine.url}/api/v1/query", params={"query": promql})
    return [(each["metric"], float(each["value"][1])) for each in answer.json()["data"]["result"]]


@pytest.fixture
def make(prometheus: Path, tmp_path: Path, free_address: web.Address) -> Callable[..., Engine]:
    def build(settings: EngineConfig | None = None, **options: Any) -> Engine:
        settings = settings or config()
        if settings.binary is None:
            settings = settings.model_copy(update={"binary": prometheus})
        return Engine(settings, data_folder=tmp_path / "prometheus", listen=free_address, **options)

    return build


async def test_it_scrapes_rings_and_stops(make: Callable[..., Engine], leftovers: Any, tmp_path: Path) -> None:
    """A target's series carry its service, rules are evaluated, alerts reach the router, and a stop leaves nothing."""
    async with application() as shop, sink() as router:
        settings = config(scrape=[scrape(shop)])
        where = web.Address.parse(router.url.removeprefix("http://"))
        async with running(make(settings, rules_text=ALWAYS, router=where)) as engine:
            leftovers.note(engine.pid)
            assert engine.hint is None
            found = await eventually(lambda: query(engine, "shop_temperature"), timeout=20)
            assert [(labels["service"], labels["job"], value) for labels, value in found] == [("shop", "shop", 21.0)]
            # Alerts of the first seconds, before it knows the router, would come 20 s later.
            await eventually(lambda: query(engine, "shop:temperature:double == 42"), timeout=20)
            # It sends nothing in the seconds before it has discovered the router.
            await eventually(
                lambda: query(engine, "prometheus_notifications_alertmanagers_discovered == 1"), timeout=20
            )
            shop.temperature.set(35)
            hot = await eventually(lambda: [each for each in posted(router) if each["labels"]["alertname"] == "Hot"])
            assert hot[0]["labels"].items() >= {"service": "shop", "severity": "page"}.items()
            assert hot[0]["generatorURL"].startswith(engine.url)
            assert {received.path for received in router.received} == {"/api/v2/alerts"}
            assert (await query(engine, 'up{service="prometheus"}'))[0][1] == 1
    assert engine.state == "down"
    assert not leftovers.running()
    assert "Server is ready" in (tmp_path / "prometheus/prometheus.log").read_text(encoding="utf-8")


async def test_after_kill_9_it_comes_back_with_its_data(make: Callable[..., Engine], leftovers: Any) -> None:
    """The lock that a killed Prometheus leaves on its data is no obstacle; the restart is counted."""
    registry = CollectorRegistry()
    async with application() as shop, running(make(config(scrape=[scrape(shop)]), registry=registry)) as engine:
        await eventually(lambda: query(engine, "shop_temperature"), timeout=20)
        first = leftovers.note(engine.pid)
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: engine.state == "up" and engine.pid != first, timeout=20)
        leftovers.note(engine.pid)
        assert registry.get_sample_value("tocsin_engine_restarts_total") == 1
        assert await query(engine, "last_over_time(shop_temperature[5m])"), "samples from before the kill are there"
    assert not leftovers.running()


async def test_a_reload_takes_a_new_target(make: Callable[..., Engine]) -> None:
    """The same process scrapes what the new configuration says."""
    async with application() as shop, application(7.0) as till, running(make()) as engine:
        before = engine.pid
        await engine.reload(config(scrape=[scrape(shop), scrape(till, "till")]), rules_text=ALWAYS)
        found = await eventually(lambda: query(engine, 'shop_temperature{service="till"}'), timeout=20)
        assert found[0][1] == 7.0
        assert engine.pid == before


@pytest.mark.parametrize("promtool", [True, False], ids=["promtool", "no-promtool"])
async def test_bad_rules_are_refused_and_the_old_ones_stay(
    make: Callable[..., Engine], prometheus: Path, tmp_path: Path, promtool: bool
) -> None:
    """Whether promtool is there or Prometheus itself must say so: the message has the reason, nothing changes."""
    binary = prometheus
    if not promtool:
        binary = tmp_path / "alone" / "prometheus"
        binary.parent.mkdir()
        binary.symlink_to(prometheus)
    nowhere = {"PATH": "/nowhere", "XDG_CACHE_HOME": str(tmp_path)}
    engine = make(config(binary=str(binary)), rules_text=ALWAYS, environ=nowhere)
    async with running(engine):
        await eventually(lambda: query(engine, 'ALERTS{alertname="Always"}'), timeout=20)
        with pytest.raises(EngineError, match=r"the old one stays: .*(parse|unexpected)") as caught:
            await engine.reload(config(), rules_text=ALWAYS.replace("vector(1)", "vector(1"))
        assert ".new" not in str(caught.value)
        assert (tmp_path / "prometheus/rules.yml").read_text(encoding="utf-8") == ALWAYS
        assert sorted(path.name for path in (tmp_path / "prometheus").glob("*.yml")) == ["prometheus.yml", "rules.yml"]
        assert await query(engine, 'ALERTS{alertname="Always"}')
        # And a good one is taken afterwards.
        await engine.reload(config(), rules_text=ALWAYS.replace("Always", "Ever"))
        await eventually(lambda: query(engine, 'ALERTS{alertname="Ever"}'), timeout=20)


async def test_a_reload_that_changes_nothing_does_not_disturb_it(make: Callable[..., Engine]) -> None:
    """For five seconds after a reload Prometheus knows no router and drops alerts: reload only when there is cause."""
    engine = make(rules_text=ALWAYS)
    reloads = "prometheus_config_last_reload_success_timestamp_seconds"
    async with running(engine):
        before = await eventually(lambda: query(engine, reloads), timeout=20)
        await engine.reload(config())
        await engine.reload(config(), rules_text=ALWAYS)
        async with httpx.AsyncClient() as client:
            metrics = (await client.get(f"{engine.url}/metrics")).text
        (line,) = [line for line in metrics.splitlines() if line.startswith(reloads)]
        assert float(line.split()[1]) == before[0][1]


async def test_without_a_binary_all_else_goes_on(tmp_path: Path, free_address: web.Address) -> None:
    """The state says absent, the hint is one line, and starting and stopping work."""
    nowhere = {"PATH": "/nowhere", "XDG_CACHE_HOME": str(tmp_path)}
    engine = Engine(config(), data_folder=tmp_path / "data", listen=free_address, environ=nowhere)
    assert await run.serve([engine.service()], stop=_already_set()) == 0
    assert engine.state == "absent"
    assert engine.hint is not None
    assert "\n" not in engine.hint
    assert "https://prometheus.io/download/" in engine.hint
    await engine.reload(config())
    wrong = Engine(config(binary=str(tmp_path)), data_folder=tmp_path, listen=free_address)
    assert wrong.hint is not None
    assert str(tmp_path) in wrong.hint


async def test_one_that_cannot_start_says_why(make: Callable[..., Engine], tmp_path: Path) -> None:
    """A broken rules file of the user's does not stop us; the hint has Prometheus' own reason."""
    broken = tmp_path / "own.yml"
    broken.write_text("groups: 5\n", encoding="utf-8")
    engine = make(config(rule_files=[str(broken)]))
    stop = asyncio.Event()
    task = asyncio.create_task(run.serve([engine.service()], stop=stop))
    hint = await eventually(lambda: engine.hint, timeout=20)
    assert hint.startswith("prometheus ended (exit code 1): ")
    assert "own.yml" in hint
    stop.set()
    assert await task == 0


def test_it_dies_with_us(prometheus: Path, tmp_path: Path, free_address: web.Address, leftovers: Any) -> None:
    """kill -9 of the whole stack leaves no Prometheus behind."""
    source = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from tocsin_service import run, web
        from tocsin_stack.engine import Engine, EngineConfig
        binary, folder, address = sys.argv[1:]
        engine = Engine(EngineConfig(binary=binary), data_folder=Path(folder), listen=web.Address.parse(address))
        async def ready():
            print(engine.state, engine.pid, flush=True)
        asyncio.run(run.serve([engine.service()], ready=ready))
        """
    )
    command = [sys.executable, "-c", source, str(prometheus), str(tmp_path / "data"), str(free_address)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        leftovers.note(int(parent.stdout.readline().split()[1]))
        assert leftovers.running()
        parent.kill()
    asyncio.run(eventually(lambda: not leftovers.running()))


def _already_set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
