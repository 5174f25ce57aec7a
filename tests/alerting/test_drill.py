"""Drills: the way of an alert and its messages, without sending them; and sending them so that nobody is misled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response

from tocsin_alerting import drill
from tocsin_alerting.config import Config
from tocsin_alerting.receivers import KINDS
from tocsin_alerting.receivers.clients import Clients
from tocsin_alerting.recording import HIDDEN, secrets_of
from tocsin_alerting.testing import NOW, config
from tocsin_service.testing import FakeClock, Received, sink

TREE = """
route:
  receiver: team
  group_by: [alertname]
  group_wait: 10s
  routes:
    - matchers: [severity="page"]
      receiver: pager
      continue: true
      routes:
        - matchers: [service="api"]
          receiver: api
    - matchers: [service=~"api|db"]
      receiver: data
      group_by: ['...']
    - matchers: [service="api"]
      receiver: team
receivers:
  - name: team
    webhook_configs: [{url: 'http://127.0.0.1:1/hook/SECRET'}]
  - {name: pager}
  - name: api
    webhook_configs: [{url: 'http://127.0.0.1:1/other'}]
  - name: data
    webhook_configs: [{url: 'http://127.0.0.1:1/data', send_resolved: false}]
"""

KEY = "sssssecret-key-of-a-receiver"
EVERY_KIND: Mapping[str, dict[str, Any]] = {
    "webhook": {"url": f"https://hook.example/{KEY}"},
    "slack": {"api_url": f"https://hooks.slack.example/services/{KEY}", "channel": "#alerts"},
    "pagerduty": {"routing_key": KEY},
    "email": {"to": "a@example.org", "from": "b@example.org", "smarthost": "127.0.0.1:25", "auth_password": KEY},
    "opsgenie": {"api_key": KEY},
    "victorops": {"api_key": KEY, "routing_key": "team"},
    "pushover": {"user_key": KEY, "token": f"{KEY}2"},
    "telegram": {"bot_token": KEY, "chat_id": 5},
    "discord": {"webhook_url": f"https://discord.example/api/webhooks/{KEY}"},
    "msteams": {"webhook_url": f"https://teams.example/{KEY}"},
    "msteamsv2": {"webhook_url": f"https://teams.example/{KEY}"},
    "webex": {"room_id": "room", "http_config": {"authorization": {"credentials": KEY}}},
    "wechat": {"api_secret": KEY, "corp_id": "corp"},
    "sns": {
        "topic_arn": "arn:aws:sns:eu-west-1:1:topic",
        "sigv4": {"region": "eu-west-1", "access_key": "AKIA", "secret_key": KEY},
    },
    "jira": {"api_url": "https://jira.example", "project": "OPS", "issue_type": "Bug"},
    "rocketchat": {"token": KEY, "token_id": f"{KEY}2", "channel": "#alerts"},
    "mattermost": {"webhook_url": f"https://mattermost.example/hooks/{KEY}"},
    "incidentio": {"url": "https://incident.example/alert", "alert_source_token": KEY},
    "console": {},
}


async def rehearse(
    text: str | Config, asked: drill.Asked, *, now: float = NOW, terminal: list[str] | None = None
) -> dict[str, Any]:
    """Return what a drill says, and let it send for real where it is asked to."""
    found = config(text) if isinstance(text, str) else text
    clients = Clients(user_agent="tocsin/test", environ={})
    printed = [] if terminal is None else terminal
    try:
        stage = drill.Stage(found, drill.Timing(found), clients, "http://router:9093", printed.append)
        return await drill.rehearse(asked, stage, now)
    finally:
        await clients.close()


async def test_the_way_through_the_tree_is_shown() -> None:
    """Which nodes were reached and matched, which of them handle the alert, and in which groups."""
    found = await rehearse(TREE, drill.Asked({"alertname": "Down", "severity": "page", "service": "api"}))
    tree = {node["node"]: (node["matched"], node["chosen"]) for node in found["tree"]}
    assert tree == {
        "0": (True, False),
        "0.0": (True, False),
        "0.0.0": (True, True),
        "0.1": (True, True),
        "0.2": (False, False),
    }
    assert [route["receiver"] for route in found["routes"]] == ["api", "data"]
    first, second = found["routes"]
    assert [node["node"] for node in first["path"]] == ["0", "0.0", "0.0.0"]
    assert first["group"]["key"] == '{}/{severity="page"}/{service="api"}:{alertname="Down"}'
    assert first["group"]["group_wait"] == "10s"
    assert second["group"]["labels"] == {"alertname": "Down", "severity": "page", "service": "api"}


async def test_nothing_is_sent_unless_it_is_asked_for() -> None:
    """The request is what would be sent, to the byte, but for its secrets."""
    async with sink() as hook:
        text = TREE.replace("http://127.0.0.1:1/hook/SECRET", f"{hook.url}/hook/SECRET")
        found = await rehearse(text, drill.Asked({"alertname": "Down"}, {"summary": "It is down"}))
        assert hook.received == []
    (shown,) = found["routes"][0]["integrations"]
    (request,) = shown["requests"]
    assert request["method"] == "POST"
    assert "SECRET" not in json.dumps(found)
    assert request["url"].endswith("/...")
    assert request["body"]["alerts"][0]["annotations"] == {"summary": "It is down"}
    assert request["body"]["groupKey"] == '{}:{alertname="Down"}'
    assert "drill" not in json.dumps(request["body"])
    assert shown["taken"] is None


async def test_what_is_sent_says_that_it_is_a_drill() -> None:
    """In its label and in its summary; and it is a group of its own, whose incident is not the real one's."""
    async with sink(lambda _: Response("thank you", 202)) as hook:
        text = TREE.replace("http://127.0.0.1:1/hook/SECRET", f"{hook.url}/hook/SECRET")
        found = await rehearse(text, drill.Asked({"alertname": "Down"}, {"summary": "It is down"}, send=True))
        (received,) = hook.received
    sent = received.json()
    assert sent["alerts"][0]["labels"] == {"alertname": "Down", "drill": "true"}
    assert sent["alerts"][0]["annotations"] == {"summary": "[DRILL] It is down"}
    assert sent["groupKey"] == '{}:{alertname="Down", drill="true"}'
    (shown,) = found["routes"][0]["integrations"]
    assert shown["taken"] is True
    assert shown["requests"][0]["answer"] == {"status": 202, "text": "thank you"}


async def test_a_refusal_is_shown_with_its_reason_and_without_secrets() -> None:
    """What the receiver says may quote what it was sent."""

    def refuse(request: Received) -> Response:
        return Response(f"no such path {request.path}", 404)

    async with sink(refuse) as hook:
        text = TREE.replace("http://127.0.0.1:1/hook/SECRET", f"{hook.url}/hook/SECRET")
        found = await rehearse(text, drill.Asked({"alertname": "Down"}, send=True))
    (shown,) = found["routes"][0]["integrations"]
    assert shown["taken"] is False
    assert "answered 404" in shown["problem"]
    assert "SECRET" not in json.dumps(found)


async def test_an_end_can_be_rehearsed_too() -> None:
    """With what a receiver that wants no ends would get: nothing."""
    found = await rehearse(TREE, drill.Asked({"alertname": "Down", "service": "db"}, resolved=True))
    (shown,) = found["routes"][0]["integrations"]
    assert "send_resolved is false" in shown["skipped"]
    found = await rehearse(TREE, drill.Asked({"alertname": "Down"}, resolved=True))
    assert found["routes"][0]["integrations"][0]["requests"][0]["body"]["status"] == "resolved"


def test_every_kind_is_rehearsed_here() -> None:
    """A new kind must be added to the table of this file."""
    assert EVERY_KIND.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", EVERY_KIND)
async def test_a_message_of_every_kind_is_rendered_without_its_secrets(kind: str, tmp_path: Path) -> None:
    """The kind's own code makes it; what it would do with the answer is not in the way."""
    entry = {**EVERY_KIND[kind], "send_resolved": True}
    receivers = [{"name": "team", f"{kind}_configs": [entry]}]
    text = json.dumps({"route": {"receiver": "team"}, "receivers": receivers})
    found = await rehearse(config(text, folder=tmp_path), drill.Asked({"alertname": "Down"}, {"summary": "It is down"}))
    (shown,) = found["routes"][0]["integrations"]
    assert shown["problem"] is None
    assert shown["requests"] or shown["text"]
    assert KEY not in json.dumps(found)
    if kind == "email":
        assert "Subject: [FIRING:1]" in shown["text"]
        assert "<html" not in shown["text"]


async def test_a_broken_template_is_a_sentence() -> None:
    """It parses, and fails when it is used: a drill finds that before the night does."""
    text = """
route: {receiver: team}
receivers:
  - name: team
    slack_configs: [{api_url: 'https://hooks.slack.example/x', channel: '#a', text: '{{ index .Alerts 5 }}'}]
"""
    found = await rehearse(text, drill.Asked({"alertname": "Down"}))
    assert found["routes"][0]["integrations"][0]["problem"].startswith("a template failed")


async def test_muted_times_are_named() -> None:
    """A drill says what would keep the alert quiet now."""
    text = """
time_intervals:
  - {name: always, time_intervals: [{years: ['2000:2100']}]}
  - {name: never, time_intervals: [{years: ['1999']}]}
route:
  receiver: team
  routes:
    - {matchers: [a="1"], mute_time_intervals: [always, never]}
    - {matchers: [a="2"], active_time_intervals: [never]}
    - {matchers: [a="3"], active_time_intervals: [always]}
receivers: [{name: team}]
"""
    for value, names in {"1": ["always"], "2": ["never"], "3": []}.items():
        found = await rehearse(text, drill.Asked({"a": value}))
        assert found["routes"][0]["muted"]["intervals"] == names


async def test_the_terminal_gets_a_message_only_if_it_is_sent() -> None:
    """A console receiver prints nothing while it is only looked at."""
    text = "route: {receiver: me}\nreceivers: [{name: me, console_configs: [{}]}]\n"
    printed: list[str] = []
    found = await rehearse(text, drill.Asked({"alertname": "Down"}), terminal=printed)
    assert "Down" in found["routes"][0]["integrations"][0]["text"]
    assert printed == []
    await rehearse(text, drill.Asked({"alertname": "Down"}, send=True), terminal=printed)
    assert "Down" in printed[0]


def test_secrets_are_found_wherever_they_stand(tmp_path: Path) -> None:
    """In the entry, in its http_config, in files; and of a URL the path alone too."""
    (tmp_path / "key").write_text("from-a-file\n")
    text = json.dumps(
        {
            "route": {"receiver": "team"},
            "receivers": [
                {
                    "name": "team",
                    "webhook_configs": [
                        {
                            "url": "https://hook.example/path",
                            "http_config": {
                                "basic_auth": {"username": "a", "password": "pass-word"},
                                "http_headers": {"X-Key": {"secrets": ["in-a-header"]}},
                            },
                        }
                    ],
                    "pagerduty_configs": [{"routing_key_file": "key"}],
                }
            ],
        }
    )
    hook, pager = config(text, folder=tmp_path).receivers["team"].integrations
    assert {"https://hook.example/path", "path", "pass-word", "in-a-header"} <= secrets_of(hook.settings)
    assert "from-a-file" in secrets_of(pager.settings)


async def test_a_running_router_is_asked_over_http() -> None:
    """POST /api/v1/test; what is asked for is checked."""
    found = config(TREE)
    clients = Clients(user_agent="tocsin/test", environ={})
    stage = drill.Stage(found, drill.Timing(found), clients, "http://router:9093")
    app = Starlette(routes=drill.routes(lambda: stage, FakeClock()))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        answer = await client.post("/api/v1/test", json={"labels": {"alertname": "Down", "severity": "page"}})
        assert answer.status_code == 200
        assert answer.json()["routes"][0]["receiver"] == "pager"
        assert answer.headers["cache-control"] == "no-store"
        for body, status in (
            ({}, 400),
            ({"labels": {}}, 422),
            ({"labels": {"a": ""}}, 422),
            ({"labels": {"": "a"}}, 422),
        ):
            assert (await client.post("/api/v1/test", json=body)).status_code == status
        assert (await client.post("/api/v1/test", json={"labels": {"a": "b"}, "sent": True})).status_code == 400
        assert (
            await client.post("/api/v1/test", content=b"{}", headers={"Content-Type": "text/plain"})
        ).status_code == 415
    await clients.close()


def test_hidden_is_the_word_that_alertmanager_uses() -> None:
    """So that people know it."""
    assert HIDDEN == "<secret>"
