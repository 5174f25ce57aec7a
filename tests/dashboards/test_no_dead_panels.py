"""A real Prometheus scrapes a real metrics page; every query of every panel must give numbers."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, Gauge, Histogram, start_http_server

from tocsin.names import HTTP_SERVER_ACTIVE_REQUESTS, HTTP_SERVER_REQUEST_DURATION, Metric
from tocsin_dashboards import Slo, build, lint

PATIENCE = 60.0
"""Seconds until every panel must be alive; it takes about five."""

CHOICES = {"service": "shop", "instance": ".*", "http_route": ".*"}
"""What Grafana puts in for the variables of a reader who chose one service."""

MACROS = {"__rate_interval": "5s", "__range": "30s"}


class Shop:
    """The metrics of a small shop under load, as the library writes them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.duration = Histogram(
            *self._family(HTTP_SERVER_REQUEST_DURATION),
            buckets=HTTP_SERVER_REQUEST_DURATION.buckets,
            registry=self.registry,
        )
        self.active = Gauge(*self._family(HTTP_SERVER_ACTIVE_REQUESTS), registry=self.registry)

    @staticmethod
    def _family(metric: Metric) -> tuple[str, str, tuple[str, ...]]:
        return metric.name, metric.help, metric.labels

    def serve_some(self) -> None:
        """Answer a few requests: fast, slow, refused, failing."""
        for route, status, seconds in (("/", 200, 0.02), ("/buy", 200, 0.4), ("/buy", 503, 1.2), ("/", 429, 0.001)):
            self.duration.labels("GET", route, status).observe(seconds)
        self.active.labels("GET").set(2)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def shop() -> Iterator[tuple[Shop, int]]:
    """A shop and the port of its metrics page."""
    shop = Shop()
    server, thread = start_http_server(0, addr="127.0.0.1", registry=shop.registry)
    yield shop, server.server_port
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def address(prometheus: Path, shop: tuple[Shop, int], tmp_path: Path) -> Iterator[str]:
    """The address of a Prometheus that scrapes the shop every second, with tocsin's rules loaded."""
    slos = [Slo("availability", None, 99.9, window=3600)]
    (tmp_path / "rules.yml").write_text(
        build.rules_text(slos, scrape_interval=1, evaluation_interval=1), encoding="utf-8"
    )
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {
                "job_name": "shop",
                "static_configs": [{"targets": [f"127.0.0.1:{shop[1]}"], "labels": {"service": "shop"}}],
            }
        ],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    port = free_port()
    with (tmp_path / "prometheus.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [
                prometheus,
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
            ],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(30)


@pytest.fixture
async def api(address: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of that Prometheus."""
    async with httpx.AsyncClient(base_url=address, trust_env=False) as client:
        yield client


@dataclass(frozen=True)
class Ask:
    """One query of the dashboard as Grafana would send it."""

    where: str
    expr: str
    instant: bool


def questions() -> list[Ask]:
    """Return every query of every panel of every dashboard."""
    return [
        Ask(
            f"{name}: {panel['title']} {target['refId']}",
            lint.resolve(target["expr"], {**CHOICES, **MACROS}),
            target["instant"],
        )
        for name, text in build.dashboards().items()
        for panel in json.loads(text)["panels"]
        for target in panel["targets"]
    ]


async def data(api: httpx.AsyncClient, path: str, **parameters: str) -> Any:
    answer = await api.get(f"/api/v1/{path}", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def values(api: httpx.AsyncClient, ask: Ask) -> list[float]:
    """Return the newest value of each series that a query gives now."""
    if ask.instant:
        result = (await data(api, "query", query=ask.expr))["result"]
        return [float(series["value"][1]) for series in result]
    now = float((await data(api, "query", query="time()"))["result"][1])
    result = (await data(api, "query_range", query=ask.expr, start=f"{now - 15}", end=f"{now}", step="1"))["result"]
    return [float(value) for series in result for _, value in series["values"]]


async def dead(api: httpx.AsyncClient, asks: list[Ask]) -> dict[str, list[float]]:
    """Return the queries without a series or with a value that is no number."""
    answers = {ask.where: await values(api, ask) for ask in asks}
    return {where: found for where, found in answers.items() if not found or any(math.isnan(value) for value in found)}


async def test_every_panel_of_every_dashboard_gives_numbers(api: httpx.AsyncClient, shop: tuple[Shop, int]) -> None:
    """Under load no panel is empty and none shows NaN; the variables offer what there is."""
    asks = questions()
    assert len(asks) >= 15
    empty: dict[str, list[float]] | str = "not asked yet"
    try:
        async with asyncio.timeout(PATIENCE):
            while empty:
                shop[0].serve_some()
                await asyncio.sleep(0.2)
                try:
                    empty = await dead(api, asks)
                except httpx.TransportError as not_up_yet:
                    empty = repr(not_up_yet)
    except TimeoutError:
        pytest.fail(f"dead after {PATIENCE:g} s: {empty}")

    match = {"match[]": 'http_server_request_duration_seconds_count{service=~"shop"}'}
    assert await data(api, "label/service/values", **match) == ["shop"]
    assert await data(api, "label/http_route/values", **match) == ["/", "/buy"]
    rules = await data(api, "rules")
    broken = [rule for group in rules["groups"] for rule in group["rules"] if rule["health"] == "err"]
    assert broken == []


async def test_a_quiet_service_shows_zeros_not_gaps(api: httpx.AsyncClient, shop: tuple[Shop, int]) -> None:
    """A service that nobody calls any more has a rate of 0 and a failing share of 0, and never NaN."""
    shop[0].serve_some()
    quiet = {"Requests", "Failing", "In flight", "Alerts firing", "Error budget left", "Requests by route"}
    found: dict[str, list[float]] = {}
    try:
        async with asyncio.timeout(PATIENCE):
            while not (quiet <= set(found) and all(found[title] for title in quiet)):
                await asyncio.sleep(0.5)
                try:
                    found = {ask.where.split(": ")[1].rsplit(" ", 1)[0]: await values(api, ask) for ask in questions()}
                except httpx.TransportError:
                    continue
    except TimeoutError:
        pytest.fail(f"no value after {PATIENCE:g} s: {sorted(title for title in quiet if not found.get(title))}")
    assert not any(math.isnan(value) for series in found.values() for value in series)
    assert set(found["Requests"]) == {0.0}
    assert set(found["Failing"]) == {0.0}
