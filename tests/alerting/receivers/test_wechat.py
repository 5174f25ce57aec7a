"""WeChat: one token for many messages, and a new one when WeChat wants it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from starlette.responses import Response

from tocsin_alerting.receivers import wechat
from tocsin_alerting.receivers.clients import Clients
from tocsin_alerting.receivers.sending import Sending
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_alerting.receivers.wechat import WeChatSettings
from tocsin_alerting.templates import Templates
from tocsin_alerting.testing import alert, notification
from tocsin_service.http import RequestError
from tocsin_service.testing import FakeClock, Received, Sink, sink

MESSAGE = notification(alert())
ONE = "one"


class WeChat:
    """Answers as WeChat does: each token is one more, and `code` is the next answer to a message."""

    def __init__(self) -> None:
        self.tokens = 0
        self.codes: list[int] = []
        self.paths: list[str] = []

    def __call__(self, received: Received) -> Response:
        self.paths.append(received.path.rpartition("/")[2])
        if received.path.endswith("gettoken"):
            self.tokens += 1
            answer: dict[str, object] = {"errcode": 0, "access_token": f"token-{self.tokens}"}
        else:
            answer = {"errcode": self.codes.pop(0) if self.codes else 0}
        return Response(json.dumps(answer))


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    result = Clients(user_agent="tocsin/test", environ={})
    yield result
    await result.close()


def settings(server: Sink, secret: str = ONE) -> WeChatSettings:
    given = {"api_url": server.url, "api_secret": secret, "corp_id": "corp", "message": "x"}
    return WeChatSettings.model_validate(given).inherit(GlobalSettings())


async def test_a_token_is_kept_for_two_hours(clients: Clients) -> None:
    """WeChat allows few requests for tokens; other apps have tokens of their own."""
    clock, answers = FakeClock(), WeChat()
    async with sink(answers) as server:
        sending = Sending(http=clients, templates=Templates(), now=clock.now)
        await wechat.send(MESSAGE, settings(server), sending)
        await clock.advance(7199)
        await wechat.send(MESSAGE, settings(server), sending)
        assert answers.paths == ["gettoken", "send", "send"]
        await wechat.send(MESSAGE, settings(server, "another"), sending)
        await clock.advance(1)
        await wechat.send(MESSAGE, settings(server), sending)
    assert answers.paths[3:] == ["gettoken", "send", "gettoken", "send"]


async def test_an_expired_token_is_replaced(clients: Clients) -> None:
    """42001 is worth another try, which begins with a new token."""
    answers = WeChat()
    answers.codes = [42001]
    async with sink(answers) as server:
        sending = Sending(http=clients, templates=Templates())
        with pytest.raises(RequestError, match="42001") as caught:
            await wechat.send(MESSAGE, settings(server), sending)
        assert not caught.value.permanent
        await wechat.send(MESSAGE, settings(server), sending)
    assert answers.paths == ["gettoken", "send", "gettoken", "send"]


async def test_another_code_is_final(clients: Clients) -> None:
    """81013, nobody of that name, stays so; -1, busy, does not."""
    answers = WeChat()
    answers.codes = [81013, -1]
    async with sink(answers) as server:
        sending = Sending(http=clients, templates=Templates())
        with pytest.raises(RequestError, match="81013") as caught:
            await wechat.send(MESSAGE, settings(server), sending)
        assert caught.value.permanent
        with pytest.raises(RequestError, match="-1") as caught:
            await wechat.send(MESSAGE, settings(server), sending)
        assert not caught.value.permanent


async def test_a_wrong_secret_is_said(clients: Clients) -> None:
    """WeChat answers 200 and no token; the secret stays out of the message."""
    async with sink(lambda _: Response('{"errcode": 40001, "errmsg": "invalid secret-secret"}')) as server:
        sending = Sending(http=clients, templates=Templates())
        with pytest.raises(RequestError, match="40001") as caught:
            await wechat.send(MESSAGE, settings(server, "secret-secret"), sending)
    assert caught.value.permanent
    assert "secret-secret" not in str(caught.value)
