from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from tocsin_alerting.model import Reason
from tocsin_alerting.receivers import slack
from tocsin_alerting.receivers.clients import Clients
from tocsin_alerting.receivers.sending import Sending
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_alerting.receivers.slack import SlackSettings
from tocsin_alerting.templates import Templates
from tocsin_alerting.testing import NOW, alert, notification
from tocsin_service.http import Failure, RequestError
from tocsin_service.settings import Document
from tocsin_service.testing import Received, Sink, sink

_FIRST = notification(alert("Down", service="shop"), service="shop")
_LAST = replace(_FIRST, alerts=(alert("Down", service="shop", end=NOW + 10),), reason=Reason.ALL_RESOLVED)


@dataclass
class _Workspace:
    """A Slack that keeps its messages; `errors` are what it answers to the next calls, by method."""

    messages: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, list[str]] = field(default_factory=dict)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def __call__(self, got: Received) -> Response:
        method = got.path.rpartition("/")[2]
        if got.headers.get("authorization") != "Bearer xoxb-hidden":
            return JSONResponse({"ok": False, "error": "invalid_auth"})
        if errors := self.errors.get(method):
            return JSONResponse({"ok": False, "error": errors.pop(0)}, headers={"Retry-After": "9"})
        body = got.json()
        if method == "chat.postMessage":
            # Slack answers with the id of the channel, whatever it was called by.
            channel, ts = f"C-{body['channel'].strip('#')}", f"{next(self.numbers)}.0"
        else:
            channel, ts = body["channel"], body["ts"]
            if (channel, ts) not in self.messages:
                return JSONResponse({"ok": False, "error": "message_not_found"})
        self.messages[channel, ts] = body
        return JSONResponse({"ok": True, "channel": channel, "ts": ts})


@pytest.fixture
async def sending() -> AsyncIterator[Sending]:
    clients = Clients(user_agent="tocsin/test", environ={})
    yield Sending(clients, Templates())
    await clients.close()


def _settings(got: Sink, way: str, folder: Path, **members: Any) -> SlackSettings:
    """Return settings that give the token in one of the ways there are."""
    url = f"{got.url}/api/chat.postMessage"
    (folder / "token").write_text("xoxb-hidden\n")
    (folder / "url").write_text(f"{url}\n")
    bearer = {"http_config": {"authorization": {"credentials": "xoxb-hidden"}}}
    ways: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "app_token": ({"app_token": "xoxb-hidden", "app_url": url}, {}),
        "app_token_file": ({"app_token_file": str(folder / "token"), "app_url": url}, {}),
        "global app token": ({}, {"slack_app_token": "xoxb-hidden", "slack_app_url": url}),
        "global app token file": ({}, {"slack_app_token_file": folder / "token", "slack_app_url": url}),
        "api_url": ({"api_url": url, **bearer}, {}),
        "api_url_file": ({"api_url_file": str(folder / "url"), **bearer}, {}),
        "global api_url": ({}, {"slack_api_url": url, **bearer}),
    }
    own, shared = ways[way]
    found = SlackSettings.model_validate(
        {"channel": "#ops", "update_message": True, "send_resolved": True} | own | members
    )
    return found.inherit(GlobalSettings.model_validate(shared))


_WAYS = (
    *("app_token", "app_token_file", "global app token", "global app token file"),
    *("api_url", "api_url_file", "global api_url"),
)


@pytest.mark.parametrize("way", _WAYS)
async def test_a_group_is_one_message_that_is_kept_up_to_date(sending: Sending, tmp_path: Path, way: str) -> None:
    """However the token is given: posted first, updated afterwards, under the channel's id."""
    workspace = _Workspace()
    async with sink(workspace) as got:
        settings = _settings(got, way, tmp_path)
        handle = await slack.send(_FIRST, settings, sending)
        assert handle == {"ts": "1.0", "channel": "C-ops"}
        again = await slack.send(replace(_LAST, handle=handle), settings, sending)
        assert again == handle
        assert [each.path for each in got.received] == ["/api/chat.postMessage", "/api/chat.update"]
    ((place, message),) = workspace.messages.items()
    assert (place, message["ts"], message["channel"]) == (("C-ops", "1.0"), "1.0", "C-ops")
    assert message["attachments"][0]["color"] == "good"


async def test_without_update_message_each_is_a_message_of_its_own(sending: Sending, tmp_path: Path) -> None:
    """And none leaves a handle."""
    workspace = _Workspace()
    async with sink(workspace) as got:
        settings = _settings(got, "app_token", tmp_path, update_message=False)
        assert await slack.send(_FIRST, settings, sending) is None
        assert await slack.send(replace(_LAST, handle={"ts": "1.0", "channel": "C-ops"}), settings, sending) is None
    assert len(workspace.messages) == 2


async def test_a_first_notification_begins_a_new_message(sending: Sending, tmp_path: Path) -> None:
    """Its handle is empty: the former message told of another time."""
    workspace = _Workspace()
    async with sink(workspace) as got:
        settings = _settings(got, "app_token", tmp_path)
        first = await slack.send(_FIRST, settings, sending)
        second = await slack.send(_FIRST, settings, sending)
    assert first != second
    assert len(workspace.messages) == 2


@pytest.mark.parametrize("error", ["message_not_found", "cant_update_message", "edit_window_closed"])
async def test_a_message_that_cannot_be_updated_any_more_is_replaced(
    sending: Sending, tmp_path: Path, error: str
) -> None:
    """Somebody deleted it, or it is too old: the new one is updated from then on."""
    workspace = _Workspace(errors={"chat.update": [error]})
    async with sink(workspace) as got:
        settings = _settings(got, "app_token", tmp_path)
        handle = await slack.send(replace(_LAST, handle={"ts": "0.5", "channel": "C-ops"}), settings, sending)
        assert [each.path for each in got.received] == ["/api/chat.update", "/api/chat.postMessage"]
        assert got.received[1].json()["channel"] == "#ops"
        assert "ts" not in got.received[1].json()
    assert handle == {"ts": "1.0", "channel": "C-ops"}


@pytest.mark.parametrize(
    ("error", "reason", "permanent", "wait"),
    [
        ("channel_not_found", Failure.CLIENT_ERROR, True, None),
        ("invalid_auth", Failure.AUTH_ERROR, True, None),
        ("internal_error", Failure.SERVER_ERROR, False, None),
        ("ratelimited", Failure.RATE_LIMITED, False, 9.0),
        ("", Failure.CLIENT_ERROR, True, None),
    ],
)
@pytest.mark.parametrize("method", ["chat.postMessage", "chat.update"])
async def test_what_slacks_api_answers_decides_whether_it_is_tried_again(
    sending: Sending, tmp_path: Path, method: str, error: str, reason: Failure, permanent: bool, wait: float | None
) -> None:
    """A channel that is not there will not come by trying; an error of Slack's own will pass."""
    told = _FIRST if method == "chat.postMessage" else replace(_LAST, handle={"ts": "1.0", "channel": "C-ops"})
    async with sink(_Workspace(errors={method: [error]})) as got:
        with pytest.raises(RequestError, match="refused the message: ") as caught:
            await slack.send(told, _settings(got, "app_token", tmp_path), sending)
        assert len(got.received) == 1
    found = caught.value
    assert (found.reason, found.permanent, found.retry_after) == (reason, permanent, wait)
    assert "hidden" not in str(found)


@pytest.mark.parametrize(("status", "reason"), [(429, Failure.RATE_LIMITED), (503, Failure.SERVER_ERROR)])
async def test_slacks_api_that_is_busy_says_when_to_come_back(
    sending: Sending, tmp_path: Path, status: int, reason: Failure
) -> None:
    """And is not asked for a new message instead of an update."""
    answer = JSONResponse({"ok": False, "error": "ratelimited"}, status_code=status, headers={"Retry-After": "9"})
    async with sink(lambda _: answer) as got:
        told = replace(_LAST, handle={"ts": "1.0", "channel": "C-ops"})
        with pytest.raises(RequestError) as caught:
            await slack.send(told, _settings(got, "app_token", tmp_path), sending)
        assert [each.path for each in got.received] == ["/api/chat.update"]
    assert (caught.value.reason, caught.value.permanent, caught.value.retry_after) == (reason, False, 9.0)


async def test_an_incoming_webhook_in_a_file_posts_each_message(sending: Sending, tmp_path: Path) -> None:
    """What the file holds is known only now; such an address can update nothing, and names no message."""
    (tmp_path / "hook").write_text("URL")
    async with sink(lambda _: Response("ok")) as got:
        (tmp_path / "hook").write_text(f"{got.url}/services/T0")
        text = f"{{api_url_file: {tmp_path / 'hook'}, update_message: true}}"
        settings = Document.parse(text).read(SlackSettings).inherit(GlobalSettings())
        assert await slack.send(_FIRST, settings, sending) is None
        assert await slack.send(replace(_LAST, handle={"ts": "1.0", "channel": "C"}), settings, sending) is None
        assert [each.path for each in got.received] == ["/services/T0"] * 2


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://slack.com/api/chat.postMessage", "https://slack.com/api/chat.update"),
        ("https://slack.com/api/chat.postMessage/?x=1", "https://slack.com/api/chat.update"),
        ("http://proxy.example:8080/slack/chat.postMessage", "http://proxy.example:8080/slack/chat.update"),
        ("https://slack-gov.com/api/chat.postMessage", "https://slack-gov.com/api/chat.update"),
    ],
)
def test_updates_go_where_messages_go(url: str, expected: str) -> None:
    """Beside chat.postMessage, on whatever server."""
    assert slack.update_url(url) == expected
