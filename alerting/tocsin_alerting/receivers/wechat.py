"""WeChat Work: a message of an app to its users, with a token that is fetched when one is needed and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import httpx
import orjson
import pydantic

from tocsin_alerting.model import Notification
from tocsin_alerting.receivers.addresses import below
from tocsin_alerting.receivers.fields import SecretPath, Text, Url, at_most_one
from tocsin_alerting.receivers.inheriting import secret_from
from tocsin_alerting.receivers.sending import Missing, ReceiverSettings, Sending, reveal
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_service.http import Failure, RequestError, redact_url

TOKEN_LIFE: Final = 7200.0
"""Seconds that WeChat says a token is good for."""
_RETRY: Final = frozenset(range(400, 500))
# WeChat's own codes. Source: https://developer.work.weixin.qq.com/document/path/90313
_BUSY: Final = -1
_TOKEN_INVALID: Final = frozenset({40014, 42001})


class WeChatSettings(ReceiverSettings):
    """`wechat_configs`; `send_resolved` is off by default."""

    send_resolved: bool = False
    api_secret: pydantic.SecretStr | None = None
    api_secret_file: SecretPath | None = None
    api_url: Url = ""
    corp_id: Text = ""
    message: Text = '{{ template "wechat.default.message" . }}'
    message_type: Literal["text", "markdown", ""] = "text"
    agent_id: Text = '{{ template "wechat.default.agent_id" . }}'
    to_user: Text = '{{ template "wechat.default.to_user" . }}'
    to_party: Text = '{{ template "wechat.default.to_party" . }}'
    to_tag: Text = '{{ template "wechat.default.to_tag" . }}'

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        at_most_one(self, "api_secret", "api_secret_file")
        return self

    def inherit(self, shared: GlobalSettings) -> Self:
        """Return the settings with secret, company and address from `global` where there are none."""
        taken = secret_from(self, shared, "api_secret", "wechat_api_secret")
        corp_id = self.corp_id or shared.wechat_api_corp_id
        if not corp_id:
            expected = "corp_id here, or wechat_api_corp_id in global"
            raise Missing("corp_id is missing, and global has none", expected=expected, fix="add one of them")
        taken |= {"corp_id": corp_id, "api_url": self.api_url or shared.wechat_api_url}
        return super().inherit(shared).model_copy(update=taken)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    until: float


async def send(notification: Notification, settings: WeChatSettings, sending: Sending) -> None:
    """Fetch a token if there is none, and send the message.

    Raises:
        RequestError: it was not taken; tried again after any status but 200, and with a new token if that was why.
    """

    def text(source: str) -> str:
        return sending.text(source, notification)

    body, corp_id = payload(settings, text), text(settings.corp_id)
    secret = text(reveal(settings.api_secret, settings.api_secret_file))
    name = hashlib.sha256("\0".join((settings.api_url, corp_id, secret)).encode()).hexdigest()
    key = f"wechat {name}"
    token = sending.memory.get(key)
    if not isinstance(token, _Token) or token.until <= sending.now():
        token = sending.memory[key] = await _fetch(settings, sending, corp_id, secret)
    url = below(settings.api_url, "message/send", access_token=token.text)
    hidden = (secret, token.text)
    answer = await sending.post_json(url, body, settings, secrets=hidden, retry=_RETRY)
    code, said = _answer(url, answer)
    if code in _TOKEN_INVALID:
        sending.memory.pop(key, None)
    if code:
        raise _refusal(url, code, said, permanent=code not in _TOKEN_INVALID and code != _BUSY)


async def _fetch(settings: WeChatSettings, sending: Sending, corp_id: str, secret: str) -> _Token:
    url = below(settings.api_url, "gettoken", corpid=corp_id, corpsecret=secret)
    asked = sending.now()
    answer = await sending.request("GET", url, settings, secrets=(secret,), retry=_RETRY)
    code, said = _answer(url, answer)
    token = said.get("access_token")
    if code or not isinstance(token, str) or not token:
        raise _refusal(url, code, said, permanent=code != _BUSY)
    return _Token(token, asked + TOKEN_LIFE)


def payload(settings: WeChatSettings, text: Callable[[str], str]) -> dict[str, Any]:
    """Return the body; `text` renders a template."""
    kind = settings.message_type or "text"
    message = text(settings.message)
    to = {
        "touser": text(settings.to_user),
        "toparty": text(settings.to_party),
        "totag": text(settings.to_tag),
        "agentid": text(settings.agent_id),
    }
    return {
        "text": {"content": message if kind == "text" else ""},
        "markdown": {"content": message if kind == "markdown" else ""},
        **{name: value for name, value in to.items() if value},
        "safe": "0",
        "msgtype": kind,
    }


def _answer(url: str, answer: httpx.Response) -> tuple[int, dict[str, Any]]:
    try:
        said = orjson.loads(answer.content)
        if isinstance(said, dict):
            return int(said.get("errcode") or 0), said
    except (ValueError, TypeError):
        pass
    raise RequestError(f"{redact_url(url)} answered 200 but not in JSON", reason=Failure.OTHER)


def _refusal(url: str, code: int, said: dict[str, Any], *, permanent: bool) -> RequestError:
    # `errmsg` quotes what was sent only in part and never the secret, but nobody promises that.
    message = f"{redact_url(url)} refused the message: errcode {code}"
    return RequestError(message, reason=Failure.CLIENT_ERROR, permanent=permanent)
