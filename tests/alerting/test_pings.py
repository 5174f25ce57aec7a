"""Pings to an external watcher, over real HTTP under a clock turned by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse, Response

from tocsin_alerting.heartbeat_telemetry import HeartbeatTelemetry
from tocsin_alerting.pings import PingList, Pings, PingSettings
from tocsin_alerting.receivers.clients import Clients
from tocsin_service.settings import Document, Settings, SettingsError
from tocsin_service.testing import FakeClock, Received, Sink, eventually, sink


class SecondFile(Settings):
    pings: PingList = ()


def configured(text: str, folder: Path = Path()) -> tuple[PingSettings, ...]:
    """Return the pings of a second file."""
    return Document.parse(f"pings:\n{text}", file="tocsin.yml", folder=folder).read(SecondFile).pings


@dataclass
class Router:
    """Pings that run, what they are told, and who hears them."""

    watcher: Sink
    settings: list[PingSettings]
    clock: FakeClock = field(default_factory=FakeClock)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    reason: str | None = None

    def count(self, outcome: str) -> float:
        labels = {"ping": "outside", "outcome": outcome}
        return self.registry.get_sample_value("tocsin_alerting_heartbeat_pings_total", labels) or 0.0

    async def until(self, outcome: str, count: int) -> None:
        """Wait for an answer that is on its way; the clock stands still."""
        await eventually(lambda: self.count(outcome) == count)


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    async with sink() as watcher:
        made = Router(watcher, list(configured(f"- {{name: outside, url: '{watcher.url}/ping/0f3a7c5e-secret-uuid'}}")))
        http = Clients(user_agent="tocsin/test", environ={})
        pings = Pings(lambda: made.settings, http, made.clock, lambda: made.reason, HeartbeatTelemetry(made.registry))
        task = asyncio.ensure_future(pings.run())
        yield made
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await http.close()


async def test_we_ping_while_we_are_well(router: Router) -> None:
    """At once, then each minute."""
    await router.until("delivered", 1)
    await router.clock.advance(59)
    assert router.count("delivered") == 1
    await router.clock.advance(2)
    await router.until("delivered", 2)
    assert {(each.method, each.path) for each in router.watcher.received} == {("GET", "/ping/0f3a7c5e-secret-uuid")}


async def test_pings_stop_when_alerts_would_not_get_through(router: Router, capsys: pytest.CaptureFixture[str]) -> None:
    """The watcher then raises; with the trouble over, the next ping goes out within a second."""
    await router.until("delivered", 1)
    router.reason = "the outbox is stuck for 12m"
    await router.clock.advance(180)
    assert (router.count("delivered"), router.count("withheld")) == (1, 1)
    assert "".join(capsys.readouterr()).count("the outbox is stuck for 12m") <= 1
    router.reason = None
    await router.clock.advance(2)
    await router.until("delivered", 2)


async def test_a_ping_that_fails_is_tried_again_soon(router: Router, capsys: pytest.CaptureFixture[str]) -> None:
    """It is counted, and its address is in no log, though the watcher quotes it."""

    def answer(received: Received) -> Response:
        return PlainTextResponse(f"{received.path} is not known", status_code=404)

    await router.until("delivered", 1)
    router.watcher.answer = answer
    await router.clock.advance(61)
    await router.until("failed", 1)
    await router.clock.advance(11)
    await router.until("failed", 2)
    assert "secret" not in "".join(capsys.readouterr()).replace("<secret>", "")


async def test_a_reload_takes_effect(router: Router) -> None:
    """A new ping goes out within a second, one that is gone no more."""
    await router.until("delivered", 1)
    router.settings[:] = configured(f"- {{name: other, url: '{router.watcher.url}/other'}}")
    await router.clock.advance(2)
    await router.watcher.take(2)
    await router.clock.advance(100)
    assert router.watcher.received[1].path == "/other"
    assert router.count("delivered") == 1


async def test_an_address_can_stand_in_a_file(tmp_path: Path) -> None:
    """Whoever knows it can pretend to be us."""
    (tmp_path / "url").write_text("https://hc.example/x\n")
    (ping,) = configured("- {name: a, url_file: url, every: 30s}", tmp_path)
    assert (ping.url_file, ping.every) == (tmp_path / "url", 30.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {name: a}", "url or url_file is missing"),
        ("- {name: a, url: hc.example}", "this is not a URL"),
        ("- {name: a, url: 'https://a.example'}\n- {name: a, url: 'https://b.example'}", 'two pings are called "a"'),
    ],
)
def test_what_is_wrong_with_the_settings_is_said(text: str, message: str) -> None:
    """With its place in the file."""
    with pytest.raises(SettingsError) as error:
        configured(text)
    assert message in str(error.value)
