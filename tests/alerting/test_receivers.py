from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from starlette.responses import Response

from tocsin_alerting.model import Notification, Reason
from tocsin_alerting.receivers import console, pagerduty, slack, webhook
from tocsin_alerting.receivers.clients import Clients
from tocsin_alerting.receivers.pagerduty import PagerDutySettings
from tocsin_alerting.receivers.sending import Missing, ReceiverSettings, Sending, concealed
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_alerting.receivers.slack import SlackSettings
from tocsin_alerting.receivers.webhook import WebhookSettings
from tocsin_alerting.templates import Templates
from tocsin_alerting.testing import NOW, alert, notification
from tocsin_service import web
from tocsin_service.http import Failure, RequestError
from tocsin_service.settings import Document, SettingsError
from tocsin_service.testing import Received, sink

_DOWN = alert("Down", service="shop", severity="page", summary="it <is> down & out", runbook_url="https://run.example")
_SLOW = alert("Slow", service="shop", severity="page", end=NOW + 10.25)
_FIRING = replace(notification(_DOWN, service="shop", key="abc"), group_key='{}:{service="shop"}', receiver="team.x")
_BOTH = replace(_FIRING, alerts=(_DOWN, _SLOW))
_ENDED = replace(_FIRING, alerts=(_SLOW,), reason=Reason.ALL_RESOLVED)
_LINK = r"http://router:9093/#/alerts?receiver=team%5C.x"

_S = TypeVar("_S", bound=ReceiverSettings)


def _read(model: type[_S], text: str, folder: Path = Path(), **shared: Any) -> _S:
    """Return settings as a configuration gives them: read, and completed from `global`."""
    found = Document.parse(text, folder=folder).read(model)
    return found.inherit(GlobalSettings.model_validate(shared))


@pytest.fixture
async def sending() -> AsyncIterator[Sending]:
    clients = Clients(user_agent="tocsin/test", environ={})
    yield Sending(clients, Templates())
    await clients.close()


def _answer(status: int, body: str = "", **headers: str) -> Callable[[Received], Response]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: Response(body, status_code=status, headers=named)


# --- webhook ----------------------------------------------------------------------------------------------------


def test_the_webhook_body_is_alertmanagers_version_4() -> None:
    """Receivers written for Alertmanager work unchanged."""
    told = replace(_BOTH, route_labels={"team": "shop"})
    assert webhook.payload(told, _read(WebhookSettings, "{url: 'http://x.example/'}")) == {
        "receiver": r"team\.x",
        "status": "firing",
        "alerts": [
            {
                "status": "firing",
                "labels": {"alertname": "Down", "service": "shop", "severity": "page"},
                "annotations": {"summary": "it <is> down & out", "runbook_url": "https://run.example"},
                "startsAt": "2025-11-23T00:00:00Z",
                "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": "",
                "fingerprint": _DOWN.fingerprint,
            },
            {
                "status": "resolved",
                "labels": {"alertname": "Slow", "service": "shop", "severity": "page"},
                "annotations": {},
                "startsAt": "2025-11-23T00:00:00Z",
                "endsAt": "2025-11-23T00:00:10.25Z",
                "generatorURL": "",
                "fingerprint": _SLOW.fingerprint,
            },
        ],
        "notification_reason": "first notification",
        "groupLabels": {"service": "shop"},
        "commonLabels": {"service": "shop", "severity": "page"},
        "commonAnnotations": {},
        "routeLabels": {"team": "shop"},
        "externalURL": "http://router:9093",
        "version": "4",
        "groupKey": '{}:{service="shop"}',
        "truncatedAlerts": 0,
    }


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (NOW, "2025-11-23T00:00:00Z"),
        (NOW + 0.5, "2025-11-23T00:00:00.5Z"),
        (NOW + 0.123456, "2025-11-23T00:00:00.123456Z"),
        (NOW + 9.9999996, "2025-11-23T00:00:10Z"),
        (0.0, "1970-01-01T00:00:00Z"),
    ],
)
def test_times_are_written_as_go_writes_them(seconds: float, expected: str) -> None:
    """With as many digits as there are."""
    assert webhook.go_time(seconds) == expected


def test_max_alerts_cuts_the_list_and_says_so() -> None:
    """Common labels are those of what is left; the status is that of the whole group."""
    settings = _read(WebhookSettings, "{url: 'http://x.example/', max_alerts: 1}")
    body = webhook.payload(_BOTH, settings)
    assert (len(body["alerts"]), body["truncatedAlerts"]) == (1, 1)
    assert body["commonLabels"]["alertname"] == "Down"
    reversed_ = webhook.payload(replace(_BOTH, alerts=(_SLOW, _DOWN)), settings)
    assert (reversed_["status"], reversed_["alerts"][0]["status"]) == ("firing", "resolved")


async def test_a_webhook_request_names_its_message_and_ends_with_a_newline(sending: Sending) -> None:
    """The same message sent twice has the same Idempotency-Key."""
    async with sink() as got:
        await webhook.send(_FIRING, _read(WebhookSettings, f"{{url: '{got.url}/hook'}}"), sending)
        (request,) = await got.take(1)
    assert (request.method, request.path) == ("POST", "/hook")
    assert request.headers["idempotency-key"] == "abc"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == "tocsin/test"
    assert request.body.endswith(b"}\n")


async def test_a_webhooks_url_is_a_template_also_in_its_file(sending: Sending, tmp_path: Path) -> None:
    """Read at each message, so that it can be rotated; a file that is not there yet is tried again."""
    settings = _read(WebhookSettings, "{url_file: url}", tmp_path)
    with pytest.raises(RequestError, match="cannot read the secret file") as caught:
        await webhook.send(_FIRING, settings, sending)
    assert not caught.value.permanent
    async with sink() as got:
        inline = _read(WebhookSettings, f"{{url: '{got.url}/{{{{ .CommonLabels.service }}}}'}}")
        await webhook.send(_FIRING, inline, sending)
        (tmp_path / "url").write_text(f"{got.url}/{{{{ .GroupLabels.service }}}}/two\n")
        await webhook.send(_FIRING, _read(WebhookSettings, f"{{url_file: {tmp_path / 'url'}}}"), sending)
        assert [request.path for request in await got.take(2)] == ["/shop", "/shop/two"]


async def test_a_template_that_makes_no_url_is_final(sending: Sending) -> None:
    """And shows nothing of it."""
    settings = _read(WebhookSettings, "{url: '{{ .CommonLabels.none }}/hidden'}")
    with pytest.raises(RequestError, match="made no URL of these alerts") as caught:
        await webhook.send(_FIRING, settings, sending)
    assert caught.value.permanent
    assert "hidden" not in str(caught.value)


async def test_a_payload_of_ones_own_replaces_the_body(sending: Sending) -> None:
    """Every text is a template; what renders to JSON is JSON, and texts of alerts stay texts."""
    text = """
    url: URL
    max_alerts: 1
    payload:
      title: '{{ .CommonLabels.service }}: {{ .CommonAnnotations.summary }}'
      priority: '{{ if eq .Status "firing" }}5{{ else }}0{{ end }}'
      code: '{{ .CommonLabels.code }}'
      empty: '{{ .CommonAnnotations.none }}'
      count: '{{ len .Alerts }}'
      labels: '{{ .CommonLabels | toJson }}'
      fixed: {number: 5, text: '5', list: [true, null, 1.5]}
      '{{ .Status }}': yes
    """
    told = replace(_FIRING, alerts=(alert("Down", service="shop", code="1"), _SLOW))
    async with sink() as got:
        await webhook.send(told, _read(WebhookSettings, text.replace("URL", got.url)), sending)
        (request,) = await got.take(1)
    assert request.json() == {
        "title": "shop: ",
        "priority": 5,
        "code": "1",
        "empty": "",
        "count": 1,
        "labels": {"alertname": "Down", "service": "shop", "code": "1"},
        "fixed": {"number": 5, "text": "5", "list": [True, None, 1.5]},
        "firing": True,
    }


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
        settings = _read(WebhookSettings, f"{{url: '{got.url}/hidden-path'}}")
        with pytest.raises(RequestError) as caught:
            await webhook.send(_FIRING, settings, sending)
    assert (caught.value.reason, caught.value.permanent) == (reason, permanent)
    assert "hidden" not in str(caught.value)


# --- slack ------------------------------------------------------------------------------------------------------


def _slack(told: Notification, text: str, **words: str) -> dict[str, Any]:
    templates = Sending(Clients(user_agent="t", environ={}), Templates(**words))  # type: ignore[arg-type]
    settings = _read(SlackSettings, text)
    return slack.payload(told, settings, lambda source: templates.text(source, told))


def test_a_slack_message_is_alertmanagers_to_the_letter() -> None:
    """Members that are empty are left out, but for four of the attachment."""
    assert _slack(_BOTH, "{api_url: 'http://x.example/', channel: '#ops'}") == {
        "channel": "#ops",
        "username": "Alertmanager",
        "attachments": [
            {
                "title": "[FIRING:1] shop (page)",
                "title_link": _LINK,
                "text": "",
                "fallback": f"[FIRING:1] shop (page) | {_LINK}",
                "callback_id": "",
                "footer": "",
                "color": "danger",
                "mrkdwn_in": ["fallback", "pretext", "text"],
            }
        ],
    }


def test_a_resolved_slack_message_is_green() -> None:
    """And says so."""
    (attachment,) = _slack(_ENDED, "{api_url: 'http://x.example/'}")["attachments"]
    assert (attachment["color"], attachment["title"]) == ("good", "[RESOLVED] shop (Slow page)")


def test_every_field_of_a_slack_message_is_a_template() -> None:
    """Fields, actions and what they ask; a link needs no name, no value and no question."""
    text = """
    api_url: http://x.example/
    channel: '#{{ .CommonLabels.service }}'
    username: '{{ .Receiver }}'
    icon_emoji: ':{{ .Status }}:'
    icon_url: http://i/{{ .Status }}
    link_names: true
    message_text: text {{ .Status }}
    color: '{{ .Status }}1'
    title: title {{ .Status }}
    title_link: http://l/{{ .Status }}
    pretext: pre {{ .Status }}
    text: '{{ range .Alerts }}{{ .Annotations.summary }}{{ end }}'
    footer: foot {{ .Status }}
    fallback: fall {{ .Status }}
    callback_id: call {{ .Status }}
    image_url: http://image/{{ .Status }}
    thumb_url: http://thumb/{{ .Status }}
    mrkdwn_in: [text]
    short_fields: true
    fields:
    - {title: 'a {{ .Status }}', value: '{{ .CommonLabels.severity }}'}
    - {title: b, value: '{{ .CommonLabels.none }}', short: false}
    actions:
    - type: button
      text: go {{ .Status }}
      url: http://go/{{ .Status }}
      style: primary
      name: n
      value: v
      confirm: {text: sure}
    - type: button
      text: ack
      name: ack {{ .Status }}
      value: '{{ .Status }}'
      confirm: {text: 'really {{ .Status }}', ok_text: ok}
    """
    assert _slack(_FIRING, text) == {
        "channel": "#shop",
        "username": r"team\.x",
        "icon_emoji": ":firing:",
        "icon_url": "http://i/firing",
        "link_names": True,
        "text": "text firing",
        "attachments": [
            {
                "title": "title firing",
                "title_link": "http://l/firing",
                "pretext": "pre firing",
                "text": "it <is> down & out",
                "fallback": "fall firing",
                "callback_id": "call firing",
                "fields": [
                    {"title": "a firing", "value": "page", "short": True},
                    {"title": "b", "short": False},
                ],
                "actions": [
                    {"type": "button", "text": "go firing", "url": "http://go/firing", "style": "primary"},
                    {
                        "type": "button",
                        "text": "ack",
                        "name": "ack firing",
                        "value": "firing",
                        "confirm": {"text": "really firing", "ok_text": "ok"},
                    },
                ],
                "image_url": "http://image/firing",
                "thumb_url": "http://thumb/firing",
                "footer": "foot firing",
                "color": "firing1",
                "mrkdwn_in": ["text"],
            }
        ],
    }


def test_slack_can_say_it_in_tocsins_words() -> None:
    """The default texts are templates of ours then, and the settings the same."""
    (attachment,) = _slack(_FIRING, "{api_url: 'http://x.example/'}", words="tocsin")["attachments"]
    assert "Down" in attachment["title"]
    assert "FIRING" not in attachment["title"]


def test_a_long_slack_title_is_cut() -> None:
    """At 1024 characters, whatever script they are in."""
    (attachment,) = _slack(_FIRING, f"{{api_url: 'http://x.example/', title: '{'ö' * 1025}'}}")["attachments"]
    assert attachment["title"] == "ö" * 1023 + "…"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{api_url: 'http://x/', api_url_file: b}", "api_url and api_url_file stand side by side"),
        ("{api_url: 'http://x/', app_token: b}", "api_url and app_token stand side by side"),
        ("{app_token: a, app_token_file: b}", "app_token and app_token_file stand side by side"),
        ("{fields: [{title: a}]}", '"value" is missing'),
        ("{fields: [{title: '', value: b}]}", "title"),
        ("{actions: [{type: button, text: a}]}", "an action has neither name nor url"),
        ("{actions: [{type: button, text: a, name: b, confirm: {}}]}", '"text" is missing'),
        ("{title: '{{ .Broken'}", "broken template: line 1"),
        ("{titel: a}", 'did you mean "title"?'),
    ],
)
def test_slack_settings_that_cannot_be_meant_are_refused(text: str, problem: str) -> None:
    """When the file is read, with the place."""
    with pytest.raises(SettingsError) as caught:
        Document.parse(text).read(SlackSettings)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shared", "address", "token"),
    [
        ("{api_url: 'http://own/'}", {"slack_api_url": "http://all/"}, "http://own/", None),
        ("{}", {"slack_api_url": "http://all/"}, "http://all/", None),
        ("{app_token: own}", {"slack_api_url": "http://all/"}, None, "own"),
        ("{}", {"slack_app_token": "all"}, None, "all"),
        ("{api_url: 'http://own/'}", {"slack_app_token": "all"}, "http://own/", None),
        ("{http_config: {basic_auth: {}}}", {"slack_app_token": "all"}, None, "all"),
    ],
)
def test_slack_takes_its_address_from_global(
    text: str, shared: dict[str, Any], address: str | None, token: str | None
) -> None:
    """Or the token of an app, unless it has either itself."""
    found = _read(SlackSettings, text, **shared)
    assert (found.api_url.get_secret_value() if found.api_url else None) == address
    assert (found.app_token.get_secret_value() if found.app_token else None) == token
    assert found.app_url == "https://slack.com/api/chat.postMessage"


@pytest.mark.parametrize(
    ("text", "shared", "problem"),
    [
        ("{}", {}, "Slack has no address"),
        ("{http_config: {authorization: {credentials: x}}}", {"slack_app_token": "a"}, "Slack has no address"),
        ("{app_token: a, http_config: {authorization: {credentials: x}}}", {}, "beside the token of a Slack app"),
        ("{app_token: a}", {"http_config": {"bearer_token": "x"}}, "beside the token of a Slack app"),
        ("{api_url: 'http://x/hook', update_message: true}", {}, "update_message needs a bot token"),
    ],
)
def test_slack_settings_that_global_does_not_complete_are_refused(
    text: str, shared: dict[str, Any], problem: str
) -> None:
    """As Alertmanager refuses them."""
    with pytest.raises(Missing, match=problem):
        _read(SlackSettings, text, **shared)


async def test_slack_takes_a_message_by_webhook(sending: Sending) -> None:
    """An incoming webhook answers `ok`."""
    async with sink(_answer(200, "ok")) as got:
        assert await slack.send(_FIRING, _read(SlackSettings, f"{{api_url: '{got.url}/T0/B0'}}"), sending) is None
        (request,) = await got.take(1)
    assert (request.method, request.path) == ("POST", "/T0/B0")
    assert request.json()["attachments"][0]["color"] == "danger"


async def test_nobody_at_slacks_address_is_tried_again(sending: Sending) -> None:
    """A refused connection is no refusal of the message."""
    listener = web.bind(web.Address("127.0.0.1", 0))
    url = web.bound(listener).url
    listener.close()
    with pytest.raises(RequestError) as caught:
        await slack.send(_FIRING, _read(SlackSettings, f"{{api_url: '{url}/hidden'}}"), sending)
    assert (caught.value.permanent, caught.value.reason) == (False, Failure.OTHER)
    assert "hidden" not in str(caught.value)


async def test_slack_that_does_not_answer_is_tried_again(sending: Sending) -> None:
    """After the configured time."""
    listener = web.bind(web.Address("127.0.0.1", 0))
    settings = _read(SlackSettings, f"{{api_url: '{web.bound(listener).url}/hidden', timeout: 100ms}}")
    with pytest.raises(RequestError, match="did not answer in time") as caught:
        await slack.send(_FIRING, settings, sending)
    assert (caught.value.permanent, caught.value.reason) == (False, Failure.TIMEOUT)
    assert "hidden" not in str(caught.value)
    listener.close()


@pytest.mark.parametrize(
    ("status", "body", "headers", "reason", "permanent", "wait"),
    [
        (404, "no_service", {}, Failure.CLIENT_ERROR, True, None),
        (200, "no", {}, Failure.CLIENT_ERROR, True, None),
        (200, '{"ok": false}', {}, Failure.CLIENT_ERROR, True, None),
        (200, '{"ok": tr', {"content_type": "application/json"}, Failure.CLIENT_ERROR, False, None),
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
    """Retry-After is honoured; errors name the channel and never show the address."""
    async with sink(_answer(status, body, **headers)) as got:
        settings = _read(SlackSettings, f"{{api_url: '{got.url}/services/hidden', channel: '#ops'}}")
        with pytest.raises(RequestError, match=r'^channel "#ops": ') as caught:
            await slack.send(_FIRING, settings, sending)
    found = caught.value
    assert (found.reason, found.permanent, found.retry_after) == (reason, permanent, wait)
    assert "hidden" not in str(found)


# --- pagerduty --------------------------------------------------------------------------------------------------


def _json(item: Notification) -> list[dict[str, Any]]:
    body = webhook.payload(item, _read(WebhookSettings, "{url: 'http://x.example/'}"))
    return list(body["alerts"])


async def _pagerduty(told: Notification, text: str, sending: Sending) -> dict[str, Any]:
    async with sink(_answer(202)) as got:
        await pagerduty.send(told, _read(PagerDutySettings, text.replace("URL", got.url)), sending)
        (request,) = await got.take(1)
    found: dict[str, Any] = request.json()
    return found


async def test_pagerduty_gets_one_incident_per_group(sending: Sending) -> None:
    """Trigger and resolve share the SHA-256 of the group key; all else is Alertmanager's."""
    text = "{routing_key: k, url: 'URL/v2/enqueue'}"
    opened = {
        "routing_key": "k",
        "dedup_key": _BOTH.group_hash,
        "event_action": "trigger",
        "payload": {
            "summary": "[FIRING:1] shop (page)",
            "source": "Alertmanager",
            "severity": "error",
            "custom_details": {
                "firing": _json(_FIRING),
                "resolved": _json(_ENDED),
                "num_firing": 1,
                "num_resolved": 1,
            },
        },
        "client": "Alertmanager",
        "client_url": _LINK,
    }
    assert await _pagerduty(_BOTH, text, sending) == opened
    closed = await _pagerduty(_ENDED, text, sending)
    assert (closed["dedup_key"], closed["event_action"]) == (opened["dedup_key"], "resolve")


async def test_pagerduty_is_told_what_the_configuration_says(sending: Sending) -> None:
    """Everything is a template; texts stay texts; images and links that render to nothing are left out."""
    text = """
    routing_key: 'k-{{ .CommonLabels.service }}'
    url: URL/v2/enqueue
    client: '{{ .Receiver }}'
    client_url: http://c/{{ .Status }}
    description: about {{ .Status }}
    severity: '{{ if eq .CommonLabels.severity "page" }}critical{{ else }}info{{ end }}'
    class: class {{ .Status }}
    component: component {{ .Status }}
    group: group {{ .Status }}
    details: {firing: '1', empty: '', summary: '{{ .CommonAnnotations.summary }}', deep: {list: ['{{ .Status }}', 2]}}
    images: [{src: 'http://s/{{ .Status }}', href: http://h, alt: a}, {src: '{{ .CommonLabels.none }}', alt: gone}]
    links: [{href: '{{ .CommonAnnotations.runbook_url }}', text: Runbook}, {href: '{{ .CommonLabels.none }}'}]
    """
    assert await _pagerduty(_FIRING, text, sending) == {
        "routing_key": "k-shop",
        "dedup_key": _FIRING.group_hash,
        "event_action": "trigger",
        "payload": {
            "summary": "about firing",
            "source": r"team\.x",
            "severity": "critical",
            "class": "class firing",
            "component": "component firing",
            "group": "group firing",
            "custom_details": {
                "firing": "1",
                "empty": "",
                "summary": "it <is> down & out",
                "deep": {"list": ["firing", 2]},
                "resolved": [],
                "num_firing": 1,
                "num_resolved": 0,
            },
        },
        "client": r"team\.x",
        "client_url": "http://c/firing",
        "images": [{"src": "http://s/firing", "href": "http://h", "alt": "a"}],
        "links": [{"href": "https://run.example", "text": "Runbook"}],
    }


async def test_the_older_pagerduty_api_is_used_with_a_service_key(sending: Sending) -> None:
    """Its members, and two of the newer that Alertmanager sends along empty."""
    text = "{service_key: k, url: URL, details: {firing: x, resolved: y}}"
    opened = {
        "service_key": "k",
        "incident_key": _FIRING.group_hash,
        "event_type": "trigger",
        "description": "[FIRING:1] shop (Down page)",
        "event_action": "",
        "payload": None,
        "client": "Alertmanager",
        "client_url": _LINK,
        "details": {"firing": "x", "resolved": "y", "num_firing": 1, "num_resolved": 0},
    }
    assert await _pagerduty(_FIRING, text, sending) == opened
    closed = await _pagerduty(_ENDED, text, sending)
    assert (closed["event_type"], "client" in closed, "client_url" in closed) == ("resolve", False, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{routing_key: k}", "https://events.pagerduty.com/v2/enqueue"),
        ("{routing_key: k, url: 'http://own/'}", "http://own/"),
        ("{service_key: k}", pagerduty.GENERIC_URL),
        ("{service_key: k, url: 'https://events.pagerduty.com/v2/enqueue'}", pagerduty.GENERIC_URL),
        ("{service_key: k, routing_key: k}", pagerduty.GENERIC_URL),
    ],
)
def test_each_pagerduty_key_has_its_address(text: str, expected: str) -> None:
    """An address of the other API beside a service key means nothing, as in Alertmanager."""
    assert pagerduty.address(_read(PagerDutySettings, text)) == expected
    if "routing_key: k}" in text and "service" not in text:
        shared = _read(PagerDutySettings, text, pagerduty_url="http://all/")
        assert pagerduty.address(shared) == "http://all/"


@pytest.mark.parametrize(
    "text", ["{}", "{routing_key: a, routing_key_file: b}", "{service_key: a, service_key_file: b}"]
)
def test_pagerduty_needs_a_key_once(text: str) -> None:
    """One of the two kinds, as a value or as a file."""
    with pytest.raises(SettingsError, match="key"):
        _read(PagerDutySettings, text)


@pytest.mark.parametrize("key", ["routing_key", "service_key"])
async def test_an_event_too_large_for_pagerduty_loses_its_details_only(sending: Sending, key: str) -> None:
    """It is better told without them than not at all; its summary is cut on its own."""
    many = tuple(alert("Down", instance=f"{n}", text="x" * 10_000) for n in range(60))
    text = f"{{{key}: k, url: URL, description: '{'ö' * 1025}'}}"
    event = await _pagerduty(replace(_FIRING, alerts=many), text, sending)
    details = event["payload"]["custom_details"] if key == "routing_key" else event["details"]
    assert list(details) == ["error"]
    assert "larger than 512000 bytes" in details["error"]
    summary = event["payload"]["summary"] if key == "routing_key" else event["description"]
    assert summary == "ö" * 1023 + "…"


@pytest.mark.parametrize(
    ("key", "status", "permanent"),
    [
        ("routing_key_file", 429, False),
        ("routing_key_file", 403, True),
        ("routing_key_file", 400, True),
        ("service_key_file", 403, False),
        ("service_key_file", 503, False),
    ],
)
async def test_pagerduty_rate_limits_are_tried_again(
    sending: Sending, tmp_path: Path, key: str, status: int, permanent: bool
) -> None:
    """The older API says it with 403. The key comes from its file, and is not shown."""
    (tmp_path / "key").write_text("hidden\n")
    async with sink(lambda got: Response(got.body[:60], status_code=status)) as got:
        settings = _read(PagerDutySettings, f"{{{key}: {tmp_path / 'key'}, url: '{got.url}/x'}}")
        with pytest.raises(RequestError, match=f"answered {status}") as caught:
            await pagerduty.send(_FIRING, settings, sending)
        (request,) = await got.take(1)
    assert caught.value.permanent is permanent
    assert request.json()[key.removesuffix("_file")] == "hidden"
    assert "hidden" not in str(caught.value)


# --- shared -----------------------------------------------------------------------------------------------------


async def test_a_secret_that_a_receiver_quotes_is_not_shown(sending: Sending) -> None:
    """Many servers name the path they do not know, and some the body they do not like."""

    def quote(got: Received) -> Response:
        return Response(f"Cannot POST {got.path} {got.body[:60].decode()}", status_code=404)

    async with sink(quote) as got:
        hook = _read(WebhookSettings, f"{{url: '{got.url}/hook/hidden'}}")
        chat = _read(SlackSettings, f"{{api_url: '{got.url}/services/hidden'}}")
        pager = _read(PagerDutySettings, f"{{routing_key: hidden-key, url: '{got.url}/v2/enqueue'}}")
        for call in (
            webhook.send(_FIRING, hook, sending),
            slack.send(_FIRING, chat, sending),
            pagerduty.send(_FIRING, pager, sending),
        ):
            with pytest.raises(RequestError, match="answered 404: Cannot POST <secret>") as caught:
                await call
            assert "hidden" not in str(caught.value)


def test_concealing_keeps_what_the_error_says() -> None:
    """The reason, the wait, and the host."""
    error = RequestError("https://h.example: T0/B0/longsecretlongsecret", reason=Failure.OTHER, retry_after=3.0)
    found = concealed(error, "https://h.example/T0/B0/longsecretlongsecret?key=v", "T0")
    assert str(found) == "https://h.example: <secret>/B0/<secret>"
    assert (found.reason, found.permanent, found.retry_after) == (Failure.OTHER, False, 3.0)


async def test_a_template_that_fails_is_final_and_hurts_nobody_else(sending: Sending) -> None:
    """Its words name the template's error."""
    async with sink() as got:
        broken = _read(SlackSettings, f"{{api_url: '{got.url}', title: '{{{{ index 1 2 }}}}'}}")
        with pytest.raises(RequestError, match="a template failed") as caught:
            await slack.send(_FIRING, broken, sending)
        assert caught.value.permanent
        await slack.send(_FIRING, _read(SlackSettings, f"{{api_url: '{got.url}'}}"), sending)
        assert len(got.received) == 1


async def test_a_receivers_http_config_is_its_own_or_globals(sending: Sending) -> None:
    """They are not mixed."""
    shared = {"http_config": {"bearer_token": "all"}}
    async with sink() as got:
        own = "http_config: {http_headers: {X-Own: {values: ['1']}}}"
        await webhook.send(_FIRING, _read(WebhookSettings, f"{{url: '{got.url}'}}", **shared), sending)
        await webhook.send(_FIRING, _read(WebhookSettings, f"{{url: '{got.url}', {own}}}", **shared), sending)
        first, second = await got.take(2)
    assert (first.headers["authorization"], "x-own" in first.headers) == ("Bearer all", False)
    assert ("authorization" in second.headers, second.headers["x-own"]) == (False, "1")


def test_settings_show_no_secret() -> None:
    """Printed, dumped or in an error of pydantic's."""
    found = [
        _read(SlackSettings, "{app_token: hidden, http_config: {basic_auth: {password: hidden}}}"),
        _read(WebhookSettings, "{url: 'http://x/hidden', http_config: {proxy_url: 'http://a:hidden@p:1'}}"),
        _read(PagerDutySettings, "{routing_key: hidden}"),
    ]
    assert "hidden" not in repr(found)
    assert "hidden" not in json.dumps([each.model_dump(mode="json") for each in found])


# --- console ----------------------------------------------------------------------------------------------------


async def test_the_console_prints_the_block(sending: Sending) -> None:
    """On the terminal tocsin was started from, in tocsin's words."""
    printed: list[str] = []
    await console.send(_FIRING, console.ConsoleSettings(), replace(sending, terminal=printed.append))
    assert printed[0].startswith("ALERT  page  shop  Down: it <is> down & out")
    await console.send(_FIRING, console.ConsoleSettings(), sending)  # without one, nobody is there to read
