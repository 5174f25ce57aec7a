"""The acceptance test: what a newcomer does and sees, with a real Prometheus and sinks for Slack and PagerDuty."""

import asyncio
import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tocsin_service import web
from tocsin_service.testing import Received, Sink, eventually, sink
from tocsin_stack.testing import Up, alive, descendants, up


class Browser(Protocol):
    """The fixture of tests/conftest.py."""

    def visit(self, url: str, name: str, *, height: int) -> Any: ...


pytestmark = pytest.mark.quiet


def _answer(request: Received) -> Response:
    return PlainTextResponse("ok") if request.path != "/v2/enqueue" else JSONResponse({"status": "success"}, 202)


def _secret(folder: Path, name: str, text: str) -> str:
    file = folder / name
    file.write_text(text + "\n")
    return str(file)


def _groups(received: list[Received]) -> dict[str, list[dict[str, Any]]]:
    """Return the webhook's messages by the labels of their group, in the order they came."""
    groups = defaultdict(list)
    for request in received:
        if request.path == "/hook":
            message = request.json()
            groups[json.dumps(message["groupLabels"], sort_keys=True)].append(message)
    return dict(groups)


PROBES = json.dumps({"service": "shop"})
BUDGET = json.dumps({"service": "shop", "slo": "checkout"})


@pytest.mark.timeout(240)
async def test_a_broken_checkout_rings_once_for_each_reason_and_a_fix_resolves_it(
    tmp_path: Path, prometheus: Path, browser: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within a minute the failing probe and the burning budget are told, grouped; the fix resolves both."""
    data = tmp_path / "data"
    async with sink(_answer) as receivers:
        flags = [
            *["--demo", "--web.listen-address", "127.0.0.1:0", "--webhook", f"{receivers.url}/hook"],
            *["--slack-webhook-file", _secret(tmp_path, "slack", f"{receivers.url}/services/T/B/xyzzy")],
            *["--pagerduty-key-file", _secret(tmp_path, "pagerduty", "R0UT1NGKEY")],
            *["--pagerduty-url", f"{receivers.url}/v2/enqueue"],
        ]
        async with up(data, *flags) as tocsin:
            with capsys.disabled():
                print(f"\n  ready after {tocsin.ready_after:.2f} s (limit 5 s)")
            assert tocsin.ready_after < 5
            assert {"console", "alerting", "uptime", "prometheus", "ship", "demo"} <= set(tocsin.urls)
            await _all_is_well(tocsin)

            broken = time.monotonic()
            assert "checkout" in await tocsin.command("demo", "break", "checkout")
            await eventually(lambda: {PROBES, BUDGET} <= set(_groups(receivers.received)), timeout=60)
            with capsys.disabled():
                print(f"  both groups told {time.monotonic() - broken:.1f} s after the break (limit 60 s)")
            await _console_shows_it(tocsin)
            await _take_picture(tocsin, browser)

            assert await tocsin.command("demo", "fix") == "nothing is broken\n"
            await eventually(lambda: _resolved(receivers), timeout=90)
            _judge(_groups(receivers.received), receivers)
            await _seen_by_prometheus(tocsin)
            await eventually(lambda: any(line.startswith("OK") for line in tocsin.screen))

            children = descendants(tocsin.process.pid)
            assert len(children) >= 2
            code, seconds = await tocsin.terminate()
            with capsys.disabled():
                print(f"  ended {seconds:.2f} s after SIGTERM with {code} (limit 5 s)")
            assert (code, alive(children)) == (0, [])
            assert seconds < 5
    shown = "\n".join(tocsin.screen) + (data / "tocsin.log").read_text()
    assert "xyzzy" not in shown
    assert "R0UT1NGKEY" not in shown


async def _all_is_well(tocsin: Up) -> None:
    async def well() -> bool:
        checks = await tocsin.get("uptime", "/api/v1/checks")
        return len(checks) == 4 and all(check["state"] == "up" for check in checks)

    await eventually(well, timeout=20)
    await eventually(lambda: tocsin.query('up{service="shop"} == 1'), timeout=20)


async def _console_shows_it(tocsin: Up) -> None:
    page = await tocsin.get("console", "/")
    assert "firing in shop" in page
    assert "ProbeDown" in page
    assert "SloBudgetBurn" in page
    await eventually(lambda: any(line.startswith("ALERT") for line in tocsin.screen))
    lines = await tocsin.get("ship", "/api/v1/logs?level=error&service=shop")
    assert lines
    trace = lines[0]["trace_id"]
    assert all(line["trace_id"] == trace for line in await tocsin.get("ship", f"/api/v1/logs?trace={trace}"))


async def _take_picture(tocsin: Up, browser: Browser) -> None:
    """Look at the page in a browser; `make picture` keeps what it sees for the README."""
    visit = await asyncio.to_thread(browser.visit, tocsin.urls["console"], "console", height=1180)
    assert visit.complaints == []
    if keep := os.environ.get("TOCSIN_PICTURE"):
        shutil.copy(visit.picture, keep)


def _resolved(receivers: Sink) -> bool:
    """Whether the webhook, Slack and PagerDuty have each been told of both ends."""
    groups = _groups(receivers.received)
    return (
        all(groups[group][-1]["status"] == "resolved" for group in (PROBES, BUDGET))
        and _colours(receivers).count("good") == 2
        and sum(actions.count("resolve") for actions in _pagerduty(receivers).values()) == 2
    )


def _colours(receivers: Sink) -> list[str]:
    slack = [request.json() for request in receivers.received if request.path == "/services/T/B/xyzzy"]
    return [message["attachments"][0]["color"] for message in slack]


def _pagerduty(receivers: Sink) -> dict[str, list[str]]:
    """Return the actions of each incident in the order they came."""
    incidents = defaultdict(list)
    for request in receivers.received:
        if request.path == "/v2/enqueue":
            event = request.json()
            assert event["routing_key"] == "R0UT1NGKEY"
            incidents[event["dedup_key"]].append(event["event_action"])
    return dict(incidents)


def _judge(groups: Mapping[str, list[dict[str, Any]]], receivers: Sink) -> None:
    """One message opens each group, one closes it, and each says what a person needs."""
    for messages in groups.values():
        states = [message["status"] for message in messages]
        assert states.count("resolved") == 1
        assert states[-1] == "resolved"
        reasons = [message["notification_reason"] for message in messages]
        assert reasons.count("first notification") == 1
    probe, budget = groups[PROBES][0], groups[BUDGET][0]
    assert {alert["labels"]["alertname"] for alert in probe["alerts"]} == {"ProbeDown"}
    assert {"check": "checkout", "severity": "page"}.items() <= _with(probe, check="checkout")["labels"].items()
    assert _with(probe, check="checkout")["annotations"]["summary"]
    first = budget["alerts"][0]
    assert first["labels"]["alertname"].startswith("SloBudgetBurn")
    assert first["labels"]["http_route"] == "/checkout"
    assert "/runbooks/SloBudgetBurn" in first["annotations"]["runbook_url"]
    _judge_slack_and_pagerduty(receivers)
    keys = [request.headers["idempotency-key"] for request in receivers.received if request.path == "/hook"]
    assert len(keys) == len(set(keys))


def _with(message: Mapping[str, Any], **labels: str) -> dict[str, Any]:
    found: dict[str, Any] = next(a for a in message["alerts"] if labels.items() <= a["labels"].items())
    return found


def _judge_slack_and_pagerduty(receivers: Sink) -> None:
    colours = _colours(receivers)
    assert (colours[0], colours.count("good")) == ("danger", 2)
    incidents = _pagerduty(receivers)
    assert len(incidents) == 2
    assert all(actions[0] == "trigger" for actions in incidents.values())
    assert all((actions[-1], actions.count("resolve")) == ("resolve", 1) for actions in incidents.values())


async def _seen_by_prometheus(tocsin: Up) -> None:
    """What the library writes arrives under its names."""
    failed = 'http_server_request_duration_seconds_count{service="shop",http_route="/checkout",'
    failed += 'http_response_status_code="500"}'
    assert await eventually(lambda: tocsin.query(failed + " > 0"))
    for name in (
        "tocsin_probe_success",
        "alertmanager_notifications_total",
        "tocsin_ship_acked_total",
        "tocsin_part_up",
    ):
        assert await eventually(lambda name=name: tocsin.query(name), timeout=15), name


CRASH = """
uptime:
  defaults: {{interval: 1s, timeout: 500ms, confirm: {{failures: 1, every: 500ms, recover: 1}}}}
  endpoints: [{{name: gone, service: shop, url: "tcp://127.0.0.1:{closed}"}}]
alerting:
  route: {{receiver: hook, group_by: [service], group_wait: 200ms, group_interval: 1s, repeat_interval: 1h}}
  receivers: [{{name: hook, webhook_configs: [{{url: "http://127.0.0.1:{sink}/hook"}}]}}]
"""


def _closed_port() -> int:
    with web.bind(web.Address("127.0.0.1", 0)) as listener:
        return web.bound(listener).port


async def test_kill_9_between_the_outbox_and_the_delivery_loses_nothing(tmp_path: Path) -> None:
    """The message that was written and not delivered arrives after a restart, once."""
    hook = _closed_port()
    file = tmp_path / "tocsin.yml"
    file.write_text(CRASH.format(closed=_closed_port(), sink=hook))
    flags = ["--config.file", str(file), "--web.listen-address", "127.0.0.1:0"]
    environ = _without_prometheus(tmp_path)

    async with up(tmp_path / "data", *flags, environ=environ) as tocsin:

        async def pending() -> bool:
            rows = await tocsin.get("alerting", "/api/v1/notifications")
            return any(row["state"] == "pending" and row["attempts"] > 0 for row in rows)

        await eventually(pending)
        await tocsin.kill()

    async with sink(port=hook) as receiver, up(tmp_path / "data", *flags, environ=environ) as tocsin:
        await receiver.take(1)

        async def resent() -> bool:
            probes = await tocsin.get("uptime", "/api/v1/checks")
            return len(probes[0]["history"]) >= 4

        # The prober and the group go on for several intervals; nothing new may be told.
        await eventually(resent)
        await asyncio.sleep(0)
        assert [request.json()["status"] for request in receiver.received] == ["firing"]
        assert (await tocsin.terminate())[0] == 0


async def test_without_prometheus_and_demo_it_is_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prober, router and console answer from 120 MB, and the screen says what is missing."""
    async with sink() as target:
        flags = ["--probe", target.url, "--web.listen-address", "127.0.0.1:0"]
        async with up(tmp_path / "data", *flags, environ=_without_prometheus(tmp_path)) as tocsin:
            await eventually(lambda: target.received)
            assert "Nobody has been told of anything" in await tocsin.get("console", "/")
            rss = tocsin.rss()
            with capsys.disabled():
                print(f"\n  {rss:.0f} MiB RSS (limit 120), ready after {tocsin.ready_after:.2f} s")
            assert rss < 120
            assert any("no prometheus on PATH" in line for line in tocsin.screen)
            assert (await tocsin.terminate())[0] == 0


def _without_prometheus(folder: Path) -> dict[str, str]:
    """Return an environment in which no Prometheus is found."""
    return {**os.environ, "PATH": str(folder / "no-programs"), "XDG_CACHE_HOME": str(folder / "empty-cache")}
