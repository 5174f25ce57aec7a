"""Alertmanager's own client against our router."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tocsin_alerting.testing import serving
from tocsin_stack import debian

_CONFIG = """
route:
  receiver: default
  group_by: [service]
  group_wait: 0s
  routes: [{matchers: ['severity="page"', service=~"sh.p"], receiver: page}]
receivers:
  - {name: default, console_configs: [{}]}
  - {name: page, pagerduty_configs: [{routing_key: hidden, url: "http://127.0.0.1:1/"}]}
"""


@pytest.fixture(scope="module")
def amtool() -> Path:
    found = debian.find("amtool")
    if found is None:
        found = debian.fetch("prometheus-alertmanager") / "amtool"
    assert found.exists(), "no amtool: install prometheus-alertmanager, or put amtool on PATH"
    return found


async def _run(amtool: Path, url: str, *arguments: str) -> str:
    command = [str(amtool), *arguments, "--alertmanager.url", url]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_amtool_adds_and_queries_alerts(amtool: Path, database_url: str) -> None:
    """`amtool alert add` and `amtool alert query` with matchers and receivers."""
    async with serving(_CONFIG, database_url=database_url) as router:
        await _run(
            amtool,
            router.url,
            *("alert", "add", "ProbeDown", "service=shop", "severity=page", "--annotation=summary=it is down"),
        )
        await _run(amtool, router.url, "alert", "add", "Slow", "service=blog")
        both = await _run(amtool, router.url, "alert", "query")
        assert "ProbeDown" in both
        assert "it is down" in both
        assert "Slow" in both
        one = await _run(amtool, router.url, "alert", "query", "service=~s.*", "-o", "extended")
        assert "ProbeDown" in one
        assert "Slow" not in one
        by_receiver = await _run(amtool, router.url, "alert", "query", "--receiver", "page", "-o", "json")
        assert '"page"' in by_receiver
        assert "Slow" not in by_receiver


async def test_amtool_reads_our_configuration_and_routes_by_it(amtool: Path, database_url: str) -> None:
    """What we show of the configuration is an alertmanager.yml without secrets."""
    async with serving(_CONFIG, database_url=database_url) as router:
        shown = await _run(amtool, router.url, "config", "show")
        assert "receiver: default" in shown
        assert "hidden" not in shown
        tested = await _run(amtool, router.url, "config", "routes", "test", "severity=page", "service=shop")
        assert tested.strip() == "page"
        tested = await _run(amtool, router.url, "config", "routes", "test", "service=shop")
        assert tested.strip() == "default"
