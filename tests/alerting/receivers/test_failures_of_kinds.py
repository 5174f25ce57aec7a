"""What a receiver's answer means: tried again or not, and in words that hold no secret."""

from __future__ import annotations

import itertools
import json
import runpy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tocsin_alerting.receivers import KINDS
from tocsin_alerting.receivers.clients import Clients
from tocsin_alerting.receivers.sending import Sending
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_alerting.templates import Templates
from tocsin_alerting.testing import alert, notification
from tocsin_service.http import Failure, RequestError
from tocsin_service.testing import serving

CAPTURE = runpy.run_path(str(Path(__file__).with_name("capture.py")))
CASES = {case["name"]: case for case in CAPTURE["cases"]()}
TEMPLATES = Templates()

# The first case of each kind, and the secrets in it.
SIMPLE = {
    "opsgenie": ("opsgenie", ["genie-key"]),
    "victorops": ("victorops", ["victor-key"]),
    "pushover": ("pushover", ["push-token", "user-key"]),
    "telegram": ("telegram", ["telegram-token"]),
    "discord": ("discord", ["discord-token"]),
    "msteams": ("msteams", ["teams-secret"]),
    "msteamsv2": ("msteamsv2", ["teams-secret"]),
    "webex": ("webex", ["webex-token"]),
    "wechat": ("wechat", ["wechat-secret"]),
    "sns": ("sns", ["aws-secret"]),
    "jira": ("jira-new", ["jira-password"]),
    "rocketchat": ("rocketchat", ["rocket-token", "rocket-id"]),
    "mattermost": ("mattermost", ["mattermost-secret"]),
    "incidentio": ("incidentio", ["incident-token"]),
}
OVERRIDES: dict[str, dict[str, Any]] = {
    "pushover": {"user_key": "user-key-user-key"},
    "jira-new": {"http_config": {"basic_auth": {"username": "bot", "password": "jira-password"}}},
}


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    result = Clients(user_agent="tocsin/test", environ={})
    yield result
    await result.close()


async def send(kind: str, url: str, clients: Clients, **different: object) -> None:
    """Send one message of a kind to the server at `url`."""
    case = SIMPLE[kind][0]
    raw = CAPTURE["expanded"]({**CASES[case]["settings"], **OVERRIDES.get(case, {}), **different}, url)
    settings = KINDS[kind].settings.model_validate(raw).inherit(GlobalSettings())
    more = {"pushover": {"api": f"{url}/1/messages.json"}, "sns": {"environ": {}}}.get(kind, {})
    sending = Sending(http=clients, templates=TEMPLATES)
    await KINDS[kind].send(notification(alert()), settings, sending, **more)


async def failure(kind: str, url: str, clients: Clients) -> RequestError:
    """Return the error that a message of a kind ends with."""
    with pytest.raises(RequestError) as caught:
        await send(kind, url, clients)
    return caught.value


RETRIED_429 = {"opsgenie", "telegram", "wechat", "jira", "incidentio"}
RETRIED_ALWAYS = {"telegram", "wechat"}


@pytest.mark.parametrize("kind", SIMPLE)
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
async def test_a_status_is_final_or_worth_another_try(kind: str, status: int, clients: Clients) -> None:
    """5xx is tried again by all kinds, 429 and other 4xx by those of which Alertmanager tries them again."""
    async with serving(Response("no", status_code=status)) as url:
        error = await failure(kind, url, clients)
    again = status >= 500 or kind in RETRIED_ALWAYS or (status == 429 and kind in RETRIED_429)
    assert error.permanent is not again
    assert (error.reason is Failure.AUTH_ERROR) is (status == 401)


@pytest.mark.parametrize("kind", SIMPLE)
async def test_no_error_holds_a_secret_that_the_receiver_quotes(kind: str, clients: Clients) -> None:
    """A server that sends the request back, as error pages do, learns us nothing to log, wherever its page is cut."""

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        headers = " ".join(f"{name}: {value}" for name, value in request.headers.items())
        body = (await request.body()).decode()
        parts = [headers, request.headers.get("authorization", ""), request.url.query, request.url.path, body]
        await Response("x" * turn[0] + parts[turn[1]] + "-", status_code=400)(scope, receive, send)

    turn = 0, 0
    async with serving(echo) as url:
        for turn in itertools.product(range(150, 196, 9), range(5)):
            error = await failure(kind, url, clients)
            assert "x" * turn[0] in str(error)
            shown = str(error).rpartition("x" * turn[0])[2]
            for secret in SIMPLE[kind][1]:
                assert secret[:12] not in shown


async def test_rocketchat_also_says_no_with_status_200(clients: Clients) -> None:
    """`success: false` is final, and its reason is told."""
    body = json.dumps({"success": False, "error": "error-channel rocket-token-rocket"})
    async with serving(Response(body)) as url:
        error = await failure("rocketchat", url, clients)
    assert error.permanent
    assert "error-channel <secret>" in str(error)
    async with serving(Response("<html>")) as url:
        assert not (await failure("rocketchat", url, clients)).permanent


async def test_telegram_must_say_ok(clients: Clients) -> None:
    """A page of somebody in between, with status 200, is no delivery."""
    async with serving(Response("<html>")) as url:
        assert not (await failure("telegram", url, clients)).permanent
    async with serving(Response('{"ok": true}')) as url:
        await send("telegram", url, clients)


TEMPLATED = {
    **dict.fromkeys(set(SIMPLE) - {"incidentio"}, "message"),
    **dict.fromkeys(("msteams", "msteamsv2", "rocketchat", "mattermost"), "title"),
    "victorops": "state_message",
    "jira": "project",
}


@pytest.mark.parametrize(("kind", "name"), sorted(TEMPLATED.items()))
async def test_a_template_that_fails_is_final(kind: str, name: str, clients: Clients) -> None:
    """The same alerts would fail again; nobody is called."""
    with pytest.raises(RequestError, match="template") as caught:
        await send(kind, "http://127.0.0.1:9", clients, **{name: '{{ template "nowhere" . }}'})
    assert caught.value.permanent
