"""What the router was told survives it: alerts nobody was told of yet, timers, mutes, what receivers believe."""

from __future__ import annotations

import asyncio
import time

import pytest

from tocsin_alerting.storage import Storage
from tocsin_alerting.testing import Served, config, serving
from tocsin_service.clock import rfc3339
from tocsin_service.testing import Sink, eventually, sink


def _config(url: str, *, group_wait: str = "0s", group_interval: str = "300ms", receiver: str = "hook") -> str:
    return f"""
route: {{receiver: {receiver}, group_by: [service], group_wait: {group_wait}, group_interval: {group_interval}}}
receivers: [{{name: {receiver}, webhook_configs: [{{url: "{url}"}}]}}]
"""


def _alert(name: str = "Down", *, ends: float = 60.0, service: str = "shop") -> dict[str, object]:
    return {"labels": {"alertname": name, "service": service}, "endsAt": rfc3339(time.time() + ends)}


def _statuses(got: Sink) -> list[str]:
    return [item.json()["status"] for item in got.received]


async def test_an_alert_nobody_was_told_of_yet_survives_a_crash(any_database_url: str) -> None:
    """It was answered with 200; Prometheus would take a minute to send it again, a webhook never would."""
    async with sink() as got:
        text = _config(got.url, group_wait="1500ms")
        async with serving(text, database_url=any_database_url) as first:
            posted = time.time()
            assert (await first.post(_alert())).status_code == 200
            await first.abandon()
            async with serving(text, database_url=any_database_url) as second:
                (group,) = second.router._dispatcher.groups
                assert group.due == pytest.approx(posted + 1.5, abs=0.3)  # the wait goes on, it does not begin anew
                await got.take(1)
                assert time.time() >= posted + 1.5
    assert _statuses(got) == ["firing"]


async def test_an_alert_that_was_over_before_the_start_is_never_told(database_url: str) -> None:
    """Whoever still has it will send it again."""
    async with sink() as got:
        async with serving(_config(got.url, group_wait="30s"), database_url=database_url) as router:
            await router.post(_alert(ends=0.2))
            await asyncio.sleep(0.3)
        async with serving(_config(got.url), database_url=database_url) as router:
            await router.post(_alert("Other"))
            await got.take(1)
    assert [item["labels"]["alertname"] for item in got.received[0].json()["alerts"]] == ["Other"]


async def test_a_group_keeps_its_rhythm_over_a_restart(database_url: str) -> None:
    """A new alert of a known group waits for the next look, also after a restart."""
    async with sink() as got:
        text = _config(got.url, group_interval="2s")
        async with serving(text, database_url=database_url) as router:
            await router.post(_alert())
            await got.take(1)
            (group,) = router.router._dispatcher.groups
            anchor = group.anchor
        async with serving(text, database_url=database_url) as router:
            await router.post(_alert("Other"))
            await got.take(2)
            (group,) = router.router._dispatcher.groups
            assert (group.looked_at - anchor) % 2 == pytest.approx(0, abs=0.2)
    assert got.received[1].json()["notification_reason"] == "new alerts added"


async def test_whoever_was_told_hears_the_end_though_a_reload_took_the_route_away(database_url: str) -> None:
    """At the receiver that was told, under the name it was told."""
    async with sink() as old, sink() as new:
        before = _config(old.url)
        after = f"""
route: {{receiver: new, group_by: [alertname], group_wait: 0s, group_interval: 300ms}}
receivers:
  - {{name: new, webhook_configs: [{{url: "{new.url}"}}]}}
  - {{name: hook, webhook_configs: [{{url: "{old.url}"}}]}}
"""
        async with serving(before, database_url=database_url) as router:
            await router.post(_alert())
            await old.take(1)
            await router.router.reload(config(after))
            await new.take(1)
        async with serving(after, database_url=database_url) as router:  # also over a restart
            await router.post(_alert(ends=-1))
            await old.take(2)
            await new.take(2)
            await eventually(lambda: len(router.router._dispatcher.groups) == 0)
    assert _statuses(old) == _statuses(new) == ["firing", "resolved"]
    assert {item.json()["groupKey"] for item in old.received} == {'{}:{service="shop"}'}


async def test_an_end_under_a_silence_is_told_after_a_restart_when_the_silence_ends(any_database_url: str) -> None:
    """Alertmanager loses it; we do not, not even over a restart."""
    async with sink() as got:
        async with serving(_config(got.url), database_url=any_database_url) as router:
            await router.post(_alert())
            await got.take(1)
            silence = await _silence(router)
            await router.post(_alert(ends=-0.1))
        async with serving(_config(got.url), database_url=any_database_url) as router:
            await asyncio.sleep(0.8)  # a few looks under the silence
            assert _statuses(got) == ["firing"]
            await router.client.delete(f"/api/v2/silence/{silence}")
            await got.take(2)
    assert _statuses(got) == ["firing", "resolved"]


async def test_an_end_under_a_silence_is_told_at_once_where_that_is_wanted(database_url: str) -> None:
    """For receivers that keep an incident open."""
    async with (
        sink() as got,
        serving(_config(got.url), database_url=database_url, extras="resolve_muted: at_once") as router,
    ):
        await router.post(_alert())
        await got.take(1)
        await _silence(router)
        await router.post(_alert(ends=-0.1))
        await got.take(2)
    assert _statuses(got) == ["firing", "resolved"]


async def test_an_acknowledged_alert_is_not_repeated_but_its_end_is_told(database_url: str) -> None:
    """And when the acknowledgement is withdrawn the reminders come again."""
    async with sink() as got:
        text = _config(got.url).replace("group_interval", "repeat_interval: 300ms, group_interval")
        async with serving(text, database_url=database_url) as router:
            body = {"matchers": [_matcher("service", "shop")], "createdBy": "me", "comment": "on it", "duration": "1h"}
            answer = await router.client.post("/api/v1/acks", json=body)
            assert answer.status_code == 200, answer.text
            await router.post(_alert())
            await got.take(1)
            await asyncio.sleep(1.0)  # three reminders would have come
            assert len(got.received) == 1
            (ack,) = (await router.client.get("/api/v1/acks")).json()
            await router.client.delete(f"/api/v1/acks/{ack['id']}")
            await got.take(2)
            await router.post(_alert(ends=-0.1))
            await eventually(lambda: _statuses(got)[-1] == "resolved")


async def test_alerts_that_cannot_be_written_down_are_kept_and_the_sender_is_told(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 makes it send them again; meanwhile they are known."""

    async def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    async with sink() as got, serving(_config(got.url), database_url=database_url) as router:
        with monkeypatch.context() as broken:
            broken.setattr(Storage, "_keep", full)
            answer = await router.post(_alert())
            assert answer.status_code == 500
            assert "send them again" in answer.json()
            assert len((await router.client.get("/api/v2/alerts")).json()) == 1
        await got.take(1)
        await eventually(lambda: not router.router._dispatcher._unkept, timeout=20)


async def test_a_rate_limit_coalesces_and_loses_nothing(database_url: str) -> None:
    """Twenty groups at five messages a second: each receiver of a group knows the final state."""
    async with sink() as got:
        extras = "receivers: {hook: {rate_limit: 5/s}}"
        async with serving(_config(got.url), database_url=database_url, extras=extras) as router:
            begun = time.monotonic()
            await router.post(*(_alert(service=f"s{n}") for n in range(20)))
            await got.take(3)
            await router.post(*(_alert(service=f"s{n}", ends=-0.1) for n in range(10)))
            await eventually(lambda: router.registry.get_sample_value("tocsin_alerting_outbox_pending") == 0)
            took = time.monotonic() - begun
    assert len(got.received) <= 1 + took * 5 + 1
    final: dict[str, str] = {}
    for item in got.received:
        final[item.json()["groupLabels"]["service"]] = item.json()["status"]
    assert {name for name, status in final.items() if status == "firing"} == {f"s{n}" for n in range(10, 20)}


def _matcher(name: str, value: str) -> dict[str, object]:
    return {"name": name, "value": value, "isRegex": False, "isEqual": True}


async def _silence(router: Served) -> str:
    body = {
        "matchers": [_matcher("service", "shop")],
        "startsAt": rfc3339(time.time()),
        "endsAt": rfc3339(time.time() + 3600),
        "createdBy": "test",
        "comment": "test",
    }
    found: str = (await router.client.post("/api/v2/silences", json=body)).json()["silenceID"]
    return found
