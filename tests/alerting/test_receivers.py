from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.responses import JSONResponse, Response

from tocsin_alerting.model import Notification, Reason
from tocsin_alerting.receivers import console, pagerduty, slack, webhook
from tocsin_alerting.receivers.sending import Sending
from tocsin_alerting.testing import NOW, alert, notification
from tocsin_service import web
from tocsin_service.http import Failure, Outbound, RequestError
from tocsin_service.testing import Received, sink

_FIRING = alert(
    "Down", service="shop", severity="page", summary="it <is> down & out", runbook_url="https://run.example"
)
_ENDED = alert("Slow", service="shop", severity="page", end=NOW + 10)


@pytest.fixture
async def sending() -> AsyncIterator[Sending]:
    outbound = Outbound(user_agent="tocsin/test")
    yield Sending(outbound)
    await outbound.close()


def _answer(status: int, body: str = "", **headers: str) -> Callable[[Received], Response]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: Response(body, status_code=status, headers=named)


# --- webhook ----------------------------------------------------------------------------------------------------


def test_the_webhook_body_is_alertmanagers_version_4() -> None:
    """Receivers written for Alertmanager work unchanged."""
    told = replace(notification(_FIRING, _ENDED, service="shop"), receiver="team.x")
    body = webhook.payload(told, webhook.WebhookSettings(url=SecretStr("http://x.example/")))
    assert body == {
        "receiver": r"team\.x",
        "status": "firing",
        "alerts": [
            {
                "status": "firing",
                "labels": {"alertname": "Down", "service": "shop", "severity": "page"},
                "annotations": {"summary": "it <is> down & out", "runbook_url": "https://run.example"},
                "startsAt": "2025-11-23T00:00:00.000Z",
                "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": "",
                "fingerprint": _FIRING.fingerprint,
            },
            {
                "status": "resolved",
                "labels": {"alertname": "Slow", "service": "shop", "severity": "page"},
                "annotations": {},
                "startsAt": "2025-11-23T00:00:00.000Z",
                "endsAt": "2025-11-23T00:00:10.000Z",
                "generatorURL": "",
                "fingerprint": _ENDED.fingerprint,
            },
        ],
        "notification_reason": "first notification",
        "groupLabels": {"service": "shop"},
        "commonLabels": {"service": "shop", "severity": "page"},
        "commonAnnotations": {},
        "externalURL": "http://router:9093",
        "version": "4",
        "groupKey": told.group_key,
        "truncatedAlerts": 0,
    }


def test_max_alerts_cuts_the_list_and_says_so() -> None:
    """Common labels are those of what is left."""
    settings = webhook.WebhookSettings(url=SecretStr("http://x.example/"), max_alerts=1)
    body = webhook.payload(notification(_FIRING, _ENDED), settings)
    assert (len(body["alerts"]), body["truncatedAlerts"]) == (1, 1)
    assert body["commonLabels"]["alertname"] == "Down"


async def test_a_webhook_request_names_its_message_and_ends_with_a_newline(sending: Sending) -> None:
    """The same message sent twice has the same Idempotency-Key."""
    async with sink() as got:
        settings = webhook.WebhookSettings(url=SecretStr(f"{got.url}/hook"))
        await webhook.send(notification(_FIRING, key="abc"), settings, sending)
        (request,) = await got.take(1)
    assert request.path == "/hook"
    assert request.headers["idempotency-key"] == "abc"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == "tocsin/test"
    assert request.body.endswith(b"}\n")


async def test_a_url_file_is_read_at_each_message(sending: Sending, tmp_path: Path) -> None:
    """So that it can be rotated; a file that is not there yet is tried again."""
    settings = webhook.WebhookSettings(url_file=tmp_path / "url")
    with pytest.raises(RequestError, match="cannot read the secret file") as caught:
        await webhook.send(notification(_FIRING), settings, sending)
    assert not caught.value.permanent
    async with sink() as got:
        (tmp_path / "url").write_text(f"{got.url}/one\n")
        await webhook.send(notification(_FIRING), settings, sending)
        (tmp_path / "url").write_text(f"{got.url}/two\n")
        await webhook.send(notification(_FIRING), settings, sending)
        assert [request.path for request in await got.take(2)] == ["/one", "/two"]


@pytest.mark.parametrize(
    ("status", "headers", "reason", "permanent"),
    [
        (400, {}, Failure.CLIENT_ERROR, True),
        (403, {}, Failure.AUTH_ERROR, True),
        (429, {}, Failure.RATE_LIMITED, True),
        (429, {"retry_after": "7"}, Failure.RATE_LIMITED, False),
        (503, {}, Failure.SERVER_ERROR, False),
    ],
)
async def test_what_a_webhook_answers_decides_whether_it_is_tried_again(
    sending: Sending, status: int, headers: dict[str, str], reason: Failure, permanent: bool
) -> None:
    """4xx waits for the next tick, except where the receiver says when to come back."""
    async with sink(_answer(status, "no", **headers)) as got:
        settings = webhook.WebhookSettings(url=SecretStr(f"{got.url}/hidden-path"))
        with pytest.raises(RequestError) as caught:
            await webhook.send(notification(_FIRING), settings, sending)
    assert (caught.value.reason, caught.value.permanent) == (reason, permanent)
    assert "hidden" not in str(caught.value)


# --- slack ------------------------------------------------------------------------------------------------------


def test_a_slack_message_is_red_and_readable() -> None:
    """Title, what to know and what to do; text of labels cannot become markup."""
    settings = slack.SlackSettings(api_url=SecretStr("http://x.example/"), channel="#ops", icon_emoji=":bell:")
    body = slack.payload(notification(_FIRING, now=NOW + 35), settings)
    (attachment,) = body.pop("attachments")
    assert body == {"channel": "#ops", "username": "tocsin", "icon_emoji": ":bell:"}
    assert attachment["color"] == "danger"
    assert attachment["title"] == "ALERT page shop Down: it &lt;is&gt; down &amp; out"
    assert attachment["title_link"] == "http://router:9093/#/alerts?receiver=team"
    assert attachment["fallback"] == attachment["title"]
    assert attachment["text"] == "_since_ 00:00:00 UTC (35 s)\n_do_ runbook https://run.example"


def test_a_resolved_slack_message_is_green() -> None:
    """And says how long it lasted."""
    body = slack.payload(
        notification(_ENDED, reason=Reason.ALL_RESOLVED), slack.SlackSettings(api_url=SecretStr("http://x.example/"))
    )
    (attachment,) = body["attachments"]
    assert (attachment["color"], attachment["text"]) == ("good", "_lasted_ 10 s")


async def test_slack_takes_a_message_by_webhook(sending: Sending) -> None:
    """An incoming webhook answers `ok`."""
    async with sink(_answer(200, "ok")) as got:
        await slack.send(notification(_FIRING), slack.SlackSettings(api_url=SecretStr(f"{got.url}/T0/B0")), sending)
        (request,) = await got.take(1)
    assert request.path == "/T0/B0"
    assert request.json()["attachments"][0]["color"] == "danger"


async def test_slack_takes_a_message_from_an_app(sending: Sending) -> None:
    """chat.postMessage with the token as bearer."""
    async with sink(lambda _: JSONResponse({"ok": True, "ts": "1"})) as got:
        settings = slack.SlackSettings(
            app_token=SecretStr("xoxb-hidden"), channel="#ops", app_url=f"{got.url}/api/chat.postMessage"
        )
        await slack.send(notification(_FIRING), settings, sending)
        (request,) = await got.take(1)
    assert (request.path, request.headers["authorization"]) == ("/api/chat.postMessage", "Bearer xoxb-hidden")
    assert request.json()["channel"] == "#ops"


@pytest.mark.parametrize(
    ("status", "body", "headers", "reason", "permanent", "wait"),
    [
        (404, "no_service", {}, Failure.CLIENT_ERROR, True, None),
        (200, "no", {}, Failure.CLIENT_ERROR, True, None),
        (200, '{"ok": false}', {}, Failure.CLIENT_ERROR, True, None),
        (500, "oops", {}, Failure.SERVER_ERROR, False, None),
        (429, "rate_limited", {"retry_after": "30"}, Failure.RATE_LIMITED, False, 30.0),
        (429, "rate_limited", {}, Failure.RATE_LIMITED, False, None),
    ],
)
async def test_what_slacks_webhook_answers_decides_whether_it_is_tried_again(
    sending: Sending,
    status: int,
    body: str,
    headers: dict[str, str],
    reason: Failure,
    permanent: bool,
    wait: float | None,
) -> None:
    """Retry-After is honoured, and no error shows the address."""
    async with sink(_answer(status, body, **headers)) as got:
        settings = slack.SlackSettings(api_url=SecretStr(f"{got.url}/services/hidden"))
        with pytest.raises(RequestError) as caught:
            await slack.send(notification(_FIRING), settings, sending)
    found = caught.value
    assert (found.reason, found.permanent, found.retry_after) == (reason, permanent, wait)
    assert "hidden" not in str(found)


@pytest.mark.parametrize(
    ("status", "error", "reason", "permanent", "wait"),
    [
        (200, "channel_not_found", Failure.CLIENT_ERROR, True, None),
        (200, "invalid_auth", Failure.AUTH_ERROR, True, None),
        (200, "internal_error", Failure.SERVER_ERROR, False, None),
        (429, "ratelimited", Failure.RATE_LIMITED, False, 9.0),
        (503, "service_unavailable", Failure.SERVER_ERROR, False, 9.0),
    ],
)
async def test_what_slacks_api_answers_decides_whether_it_is_tried_again(
    sending: Sending, status: int, error: str, reason: Failure, permanent: bool, wait: float | None
) -> None:
    """A channel that is not there will not come by trying; an error of Slack's own will pass."""
    answer = JSONResponse({"ok": False, "error": error}, status_code=status, headers={"Retry-After": "9"})
    async with sink(lambda _: answer) as got:
        settings = slack.SlackSettings(
            app_token=SecretStr("xoxb-hidden"), channel="#ops", app_url=f"{got.url}/chat.postMessage"
        )
        with pytest.raises(RequestError) as caught:
            await slack.send(notification(_FIRING), settings, sending)
    found = caught.value
    assert (found.reason, found.permanent, found.retry_after) == (reason, permanent, wait)
    assert "hidden" not in str(found)


async def test_nobody_at_slacks_address_is_tried_again(sending: Sending) -> None:
    """A refused connection is no refusal of the message."""
    listener = web.bind(web.Address("127.0.0.1", 0))
    url = web.bound(listener).url
    listener.close()
    with pytest.raises(RequestError, match="refused") as caught:
        await slack.send(notification(_FIRING), slack.SlackSettings(api_url=SecretStr(f"{url}/hidden")), sending)
    assert (caught.value.permanent, caught.value.reason) == (False, Failure.OTHER)
    assert "hidden" not in str(caught.value)


async def test_slack_that_does_not_answer_is_tried_again(sending: Sending) -> None:
    """After the configured time."""
    listener = web.bind(web.Address("127.0.0.1", 0))
    settings = slack.SlackSettings(api_url=SecretStr(f"{web.bound(listener).url}/hidden"), timeout="1s")
    with pytest.raises(RequestError, match="did not answer in time") as caught:
        await slack.send(notification(_FIRING), settings, sending)
    assert (caught.value.permanent, caught.value.reason) == (False, Failure.TIMEOUT)
    listener.close()


async def test_an_answer_of_slacks_that_is_cut_off_is_tried_again(sending: Sending) -> None:
    """A proxy that breaks down in the middle of it says nothing about the message."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length is not None
        await reader.readexactly(int(length[1]))  # or the connection is reset instead
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\no")
        writer.close()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        settings = slack.SlackSettings(api_url=SecretStr(f"http://{host}:{port}/hidden"))
        with pytest.raises(RequestError, match="IncompleteRead") as caught:
            await slack.send(notification(_FIRING), settings, sending)
    assert (caught.value.permanent, caught.value.reason) == (False, Failure.OTHER)
    assert "hidden" not in str(caught.value)


async def test_a_secret_that_a_receiver_quotes_is_not_shown(sending: Sending) -> None:
    """Many servers name the path they do not know, and some the body they do not like."""

    def quote(got: Received) -> Response:
        return Response(f"Cannot POST {got.path} {got.body[:60].decode()}", status_code=404)

    async with sink(quote) as got:
        hook = webhook.WebhookSettings(url=SecretStr(f"{got.url}/hook/hidden"))
        chat = slack.SlackSettings(api_url=SecretStr(f"{got.url}/services/hidden"))
        pager = pagerduty.PagerDutySettings(routing_key=SecretStr("hidden-key"), url=f"{got.url}/v2/enqueue")
        for call in (
            webhook.send(notification(_FIRING), hook, sending),
            slack.send(notification(_FIRING), chat, sending),
            pagerduty.send(notification(_FIRING), pager, sending),
        ):
            with pytest.raises(RequestError, match="answered 404: Cannot POST <secret>") as caught:
                await call
            assert "hidden" not in str(caught.value)


# --- pagerduty --------------------------------------------------------------------------------------------------


def _pagerduty(told: Notification, **members: object) -> dict[str, object]:
    settings = pagerduty.PagerDutySettings.model_validate({"routing_key": "k", **members})
    return pagerduty.payload(told, settings, routing_key="k")


def test_pagerduty_gets_one_incident_per_group() -> None:
    """Trigger and resolve share the SHA-256 of the group key."""
    firing = notification(_FIRING, service="shop")
    ended = notification(_ENDED, service="shop", reason=Reason.ALL_RESOLVED)
    opened, closed = _pagerduty(firing), _pagerduty(ended)
    expected = hashlib.sha256(firing.group_key.encode()).hexdigest()
    assert (opened["dedup_key"], opened["event_action"]) == (expected, "trigger")
    assert (closed["dedup_key"], closed["event_action"]) == (expected, "resolve")
    assert opened["links"] == [{"href": "https://run.example", "text": "Runbook"}]


def test_pagerduty_is_told_what_the_configuration_says() -> None:
    """Severity is `error` unless it says otherwise, as in Alertmanager; strings stay strings."""
    body = _pagerduty(notification(_FIRING), **{"class": "web", "details": {"firing": "1", "empty": ""}})
    content = body["payload"]
    assert isinstance(content, dict)
    assert (content["severity"], content["source"], content["class"]) == ("error", "shop", "web")
    assert content["summary"] == "ALERT page shop Down: it <is> down & out"
    assert content["custom_details"] == {
        "firing": "1",
        "empty": "",
        "num_firing": "1",
        "num_resolved": "0",
        "resolved": [],
    }


def test_an_event_too_large_for_pagerduty_loses_its_details_only() -> None:
    """It is better told without them than not at all."""
    told = notification(*(alert("Down", instance=f"{n}", text="x" * 10_000) for n in range(60)))
    content = _pagerduty(told)["payload"]
    assert isinstance(content, dict)
    assert "larger than 512000 bytes" in content["custom_details"]["error"]


async def test_pagerduty_rate_limits_are_tried_again(sending: Sending, tmp_path: Path) -> None:
    """429 is not final here; the key comes from its file."""
    (tmp_path / "key").write_text("routing\n")
    async with sink(_answer(429)) as got:
        settings = pagerduty.PagerDutySettings(routing_key_file=tmp_path / "key", url=f"{got.url}/v2/enqueue")
        with pytest.raises(RequestError) as caught:
            await pagerduty.send(notification(_FIRING), settings, sending)
        (request,) = await got.take(1)
    assert not caught.value.permanent
    assert request.json()["routing_key"] == "routing"


# --- console ----------------------------------------------------------------------------------------------------


async def test_the_console_prints_the_block(sending: Sending) -> None:
    """On the terminal tocsin was started from."""
    printed: list[str] = []
    await console.send(notification(_FIRING), console.ConsoleSettings(), replace(sending, terminal=printed.append))
    assert printed[0].startswith("ALERT  page  shop  Down: it <is> down & out")
