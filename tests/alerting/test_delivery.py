"""What leaves the router: real receivers on loopback that answer, refuse, hang and come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.responses import Response

from tocsin_alerting.deliver import PER_DESTINATION
from tocsin_alerting.testing import Served, config, serving
from tocsin_service import web
from tocsin_service.clock import rfc3339
from tocsin_service.testing import FakeClock, Received, eventually, sink

_DOWN: dict[str, object] = {"labels": {"alertname": "Down", "service": "shop"}}
_ATTEMPTS = "alertmanager_notification_requests_total"
_ENDED: dict[str, object] = {**_DOWN, "endsAt": "2020-01-01T00:00:00Z"}


def _config(*urls: str, group_wait: str = "0s", group_interval: str = "50ms", repeat: str = "4h") -> str:
    hooks = "".join(f"\n      - url: {url}" for url in urls)
    return f"""
route:
  receiver: hooks
  group_by: [service]
  group_wait: {group_wait}
  group_interval: {group_interval}
  repeat_interval: {repeat}
receivers:
  - name: hooks
    webhook_configs:{hooks}
"""


def _answers(*statuses: int, then: int = 200, headers: dict[str, str] | None = None) -> Callable[[Received], Response]:
    left = list(statuses)
    return lambda _: Response(status_code=left.pop(0) if left else then, headers=headers)


async def _states(router: Served) -> list[str]:
    return [str(item["state"]) for item in await router.notifications()]


def _settled(router: Served, *states: str) -> Callable[[], object]:
    async def check() -> bool:
        return await _states(router) == list(states)

    return check


async def test_a_firing_and_its_end_are_told(database_url: str) -> None:
    """Once each, however often Prometheus sends them again."""
    async with sink() as got, serving(_config(got.url), database_url=database_url) as router:
        for _ in range(3):
            await router.post(_DOWN)
        await got.take(1)
        for _ in range(3):
            await router.post(_ENDED)
        first, second = await got.take(2)
        await eventually(_settled(router, "delivered", "delivered"))
        await eventually(lambda: len(router.router._dispatcher.groups) == 0)
        assert len(got.received) == 2
    assert (first.json()["status"], first.json()["notification_reason"]) == ("firing", "first notification")
    assert (second.json()["status"], second.json()["notification_reason"]) == ("resolved", "all alerts resolved")
    assert first.headers["idempotency-key"] != second.headers["idempotency-key"]


async def test_old_alerts_of_one_request_come_in_one_message(database_url: str) -> None:
    """Nothing is sent while alerts of the same request are still being taken in."""
    old = "2020-01-01T00:00:00Z"
    alerts = [{"labels": {"alertname": "Down", "service": "shop", "n": str(n)}, "startsAt": old} for n in range(300)]
    async with sink() as got, serving(_config(got.url, group_wait="30s"), database_url=database_url) as router:
        await router.post(*alerts)
        (message,) = await got.take(1)
    assert len(message.json()["alerts"]) == 300


async def test_a_message_is_repeated(database_url: str) -> None:
    """After repeat_interval, with another Idempotency-Key."""
    async with sink() as got, serving(_config(got.url, repeat="100ms"), database_url=database_url) as router:
        await router.post(_DOWN)
        messages = await got.take(3)
    assert [item.json()["notification_reason"] for item in messages[:3]] == [
        "first notification",
        "repeat interval elapsed",
        "repeat interval elapsed",
    ]
    assert len({item.headers["idempotency-key"] for item in messages}) == len(messages)


async def test_a_receiver_that_is_down_gets_the_same_message_later(database_url: str) -> None:
    """5xx is tried again with the same key until it is taken."""
    async with sink(_answers(500, 503)) as got, serving(_config(got.url), database_url=database_url) as router:
        await router.post(_DOWN)
        attempts = await got.take(3)
        await eventually(_settled(router, "delivered"))
        page = (await router.client.get("/metrics")).text
    assert len({item.headers["idempotency-key"] for item in attempts}) == 1
    assert len({item.body for item in attempts}) == 1
    assert 'alertmanager_notifications_total{integration="webhook"} 1.0' in page
    assert 'alertmanager_notification_requests_total{integration="webhook"} 3.0' in page
    assert 'alertmanager_notification_requests_failed_total{integration="webhook"} 2.0' in page


async def test_retry_after_is_honoured(database_url: str) -> None:
    """Not a moment earlier, and the message is not lost."""
    answer = _answers(429, headers={"Retry-After": "1"})
    async with sink(answer) as got, serving(_config(got.url), database_url=database_url) as router:
        await router.post(_DOWN)
        await got.take(1)
        loop = asyncio.get_running_loop()
        start = loop.time()
        await got.take(2)
        assert loop.time() - start >= 0.95


async def test_a_refused_message_is_tried_anew_at_the_next_tick(database_url: str) -> None:
    """4xx is final for the message, not for the alert; each try is another message."""
    answer = _answers(400, 404)
    async with (
        sink(answer) as got,
        serving(_config(got.url, group_interval="200ms"), database_url=database_url) as router,
    ):
        await router.post(_DOWN)
        attempts = await got.take(3)
        await eventually(_settled(router, "delivered", "failed", "failed"))
        page = (await router.client.get("/metrics")).text
        errors = [str(item["error"]) for item in await router.notifications()]
    assert len({item.headers["idempotency-key"] for item in attempts}) == 3
    assert [item.json()["notification_reason"] for item in attempts] == ["first notification"] * 3
    assert 'alertmanager_notifications_failed_total{integration="webhook",reason="clientError"} 2.0' in page
    assert errors[0] == "None"
    assert errors[1].endswith("answered 404")


async def test_a_refused_end_is_told_at_a_later_tick(database_url: str) -> None:
    """The resolved alert stays in its group until somebody has taken it."""
    answer = _answers(200, 400)
    async with (
        sink(answer) as got,
        serving(_config(got.url, group_interval="200ms"), database_url=database_url) as router,
    ):
        await router.post(_DOWN)
        await got.take(1)
        await router.post(_ENDED)
        messages = await got.take(3)
        await eventually(_settled(router, "delivered", "failed", "delivered"))
        await eventually(lambda: len(router.router._dispatcher.groups) == 0)
    assert [item.json()["status"] for item in messages] == ["firing", "resolved", "resolved"]


async def test_a_receiver_that_hangs_holds_up_nobody_else(database_url: str) -> None:
    """Not even with many groups waiting for it."""
    silent = web.bind(web.Address("127.0.0.1", 0))
    async with sink() as got:
        text = _config(f"{web.bound(silent).url}", got.url)
        async with serving(text, database_url=database_url) as router:
            await router.post(*({"labels": {"alertname": "Down", "service": f"s{n}"}} for n in range(40)))
            messages = await got.take(40)
            await eventually(lambda: router.registry.get_sample_value("tocsin_alerting_outbox_pending") == 40)
    silent.close()
    assert len({item.json()["groupKey"] for item in messages}) == 40


async def test_a_slack_that_hangs_holds_up_nobody_else(database_url: str) -> None:
    """Neither other receivers, which need threads to look up host names, nor the end of the process."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=1))
    silent = web.bind(web.Address("127.0.0.1", 0))
    async with sink() as got:
        named = got.url.replace("127.0.0.1", "localhost")
        text = f"""
route: {{receiver: silent, group_by: [service], group_wait: 0s, routes: [{{matchers: [to=good], receiver: good}}]}}
receivers:
  - {{name: silent, slack_configs: [{{api_url: "{web.bound(silent).url}/x", timeout: 30s}}]}}
  - {{name: good, slack_configs: [{{api_url: "{got.url}/chat"}}], webhook_configs: [{{url: "{named}/hook"}}]}}
"""
        async with serving(text, database_url=database_url, extras="rate_limits: {slack: off}") as router:
            await router.post(*({"labels": {"alertname": "Down", "service": f"s{n}"}} for n in range(50)))
            await eventually(
                lambda: router.registry.get_sample_value(_ATTEMPTS, {"integration": "slack"}) == PER_DESTINATION
            )
            await router.post({"labels": {"alertname": "Down", "to": "good"}})
            messages = await got.take(2)
            stopping = loop.time()
        await loop.shutdown_default_executor()
        assert loop.time() - stopping < 10
    silent.close()
    assert sorted(item.path for item in messages) == ["/chat", "/hook"]


async def test_what_a_receiver_answers_cannot_stop_its_message(any_database_url: str) -> None:
    """PostgreSQL stores no NUL; the message is tried again all the same."""
    left = [Response("no\0way", status_code=503, headers={"Retry-After": "2"})]
    async with (
        sink(lambda _: left.pop() if left else Response()) as got,
        serving(_config(got.url), database_url=any_database_url) as router,
    ):
        await router.post(_DOWN)
        await got.take(1)

        async def shown() -> bool:
            return str((await router.notifications())[0]["error"]).endswith("answered 503: no way")

        await eventually(shown)
        await eventually(_settled(router, "delivered"))


async def test_a_pause_that_a_receiver_asks_for_is_at_most_an_hour(database_url: str) -> None:
    """A wrong Retry-After must not cost a day of alerts."""
    clock = FakeClock()
    answer = _answers(503, headers={"Retry-After": "864000"})
    async with sink(answer) as got, serving(_config(got.url), database_url=database_url, clock=clock) as router:
        await router.post(_DOWN)

        async def taken(count: int) -> bool:
            await clock.advance(0.1)
            return len(got.received) == count

        await eventually(lambda: taken(1))

        async def refused() -> bool:
            return bool((await router.notifications())[0]["error"])

        await eventually(refused)
        await clock.advance(3590)
        assert len(got.received) == 1
        await clock.advance(20)
        await eventually(lambda: taken(2))


async def test_an_end_takes_the_place_of_a_firing_that_was_not_taken(database_url: str) -> None:
    """The firing may have arrived before its connection broke: the end is told, and never the other way round."""
    down = True

    def answer(_: Received) -> Response:
        return Response(status_code=503 if down else 200)

    async with sink(answer) as got, serving(_config(got.url), database_url=database_url) as router:
        await router.post(_DOWN)
        await got.take(1)
        await router.post(_ENDED)
        await eventually(lambda: any(item.json()["status"] == "resolved" for item in got.received))
        down = False
        await eventually(_settled(router, "delivered", "superseded"))
        statuses = [item.json()["status"] for item in got.received]
    assert statuses == sorted(statuses)  # firing, ..., resolved, ...


async def test_an_alert_that_ends_before_any_attempt_is_never_told(database_url: str) -> None:
    """While the receiver asks us to wait, nothing is attempted and nothing needs to be."""
    slow_down = _answers(429, headers={"Retry-After": "2"})
    async with sink(slow_down) as got, serving(_config(got.url), database_url=database_url) as router:
        await router.post(_DOWN)
        await got.take(1)
        brief = {"labels": {"alertname": "Brief", "service": "blog"}}
        await router.post(brief)
        await eventually(_settled(router, "pending", "pending"))
        await router.post({**brief, "endsAt": "2020-01-01T00:00:00Z"})
        await eventually(_settled(router, "superseded", "delivered"))
        assert [item.json()["groupLabels"] for item in got.received] == [{"service": "shop"}] * 2


async def test_an_alert_that_was_only_refused_is_not_told_to_have_ended(database_url: str) -> None:
    """The receiver answered that it did not take it, so nobody knows of it."""
    answer = _answers(429, headers={"Retry-After": "2"})
    async with sink(answer) as got, serving(_config(got.url), database_url=database_url) as router:
        await router.post(_DOWN)
        await got.take(1)
        await router.post(_ENDED)
        await eventually(_settled(router, "superseded"))
        await eventually(lambda: len(router.router._dispatcher.groups) == 0)
        assert [item.json()["status"] for item in got.received] == ["firing"]


async def test_without_send_resolved_the_end_is_silent(database_url: str) -> None:
    """And the next occurrence is a first notification."""
    async with sink() as got:
        text = _config(got.url).replace(f"url: {got.url}", f"{{url: '{got.url}', send_resolved: false}}")
        async with serving(text, database_url=database_url) as router:
            await router.post(_DOWN)
            await got.take(1)
            await router.post(_ENDED)
            await eventually(lambda: len(router.router._dispatcher.groups) == 0)
            await router.post(_DOWN)
            messages = await got.take(2)
    assert [item.json()["notification_reason"] for item in messages] == ["first notification"] * 2


async def test_a_stop_sends_what_is_due_and_leaves_the_rest(database_url: str) -> None:
    """The rest is sent at the next start."""
    down = True

    def answer(_: Received) -> Response:
        return Response(status_code=503 if down else 200)

    async with sink(answer) as broken, sink() as good:
        async with serving(_config(broken.url, good.url), database_url=database_url) as router:
            await router.post(_DOWN)
        assert len(good.received) == 1
        attempts = len(broken.received)
        assert attempts >= 1
        down = False
        async with serving(_config(broken.url, good.url), database_url=database_url) as router:
            await eventually(_settled(router, "delivered", "delivered"))
        assert len(good.received) == 1
        assert len(broken.received) == attempts + 1
        assert len({item.headers["idempotency-key"] for item in broken.received}) == 1


async def test_a_reload_keeps_alerts_timers_and_messages_under_way(database_url: str) -> None:
    """The new receiver hears at the next tick of the group, not at once; nothing is repeated."""
    async with sink() as old, sink() as new:
        async with serving(_config(old.url, group_interval="1s"), database_url=database_url) as router:
            await router.post(_DOWN)
            await old.take(1)
            due = router.router._dispatcher.groups.next_due
            await router.router.reload(config(_config(old.url, new.url, group_interval="1s")))
            assert router.router._dispatcher.groups.next_due == due
            (message,) = await new.take(1)
            await eventually(_settled(router, "delivered", "delivered"))
        assert message.json()["notification_reason"] == "first notification"
        assert len(old.received) == 1


async def test_a_receiver_removed_by_a_reload_leaves_no_message_waiting(database_url: str) -> None:
    """It is given up with a reason, not tried for ever."""
    async with sink(_answers(then=503)) as got, serving(_config(got.url), database_url=database_url) as router:
        await router.post(_DOWN)
        await got.take(1)
        await router.router.reload(config("route: {receiver: none}\nreceivers: [{name: none}]"))
        await eventually(_settled(router, "failed"))
        (message,) = await router.notifications()
    assert message["error"] == 'the receiver "hooks" has no such webhook any more'


async def test_a_secret_url_is_in_no_answer_and_no_log(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Errors name scheme and host."""
    async with sink(_answers(then=500)) as got:
        text = _config(f"{got.url}/hidden-path")
        async with serving(text, database_url=database_url) as router:
            await router.post(_DOWN)
            await got.take(1)

            async def refused() -> bool:
                return bool((await router.notifications())[0]["error"])

            await eventually(refused)
            shown = str(await router.notifications())
    logged = capsys.readouterr()
    shown += logged.out + logged.err
    assert "/..." in shown
    assert "hidden" not in shown


async def test_an_alert_sent_again_ends_at_its_last_end(database_url: str) -> None:
    """What Prometheus does: an end in the near future with each message."""
    async with sink() as got, serving(_config(got.url), database_url=database_url) as router:
        for seconds in (0.3, 0.6):
            await router.post({**_DOWN, "endsAt": rfc3339(time.time() + seconds)})
        first, second = await got.take(2)
    assert [first.json()["status"], second.json()["status"]] == ["firing", "resolved"]
