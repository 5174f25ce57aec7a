"""Rocket.Chat: a message of a user to a channel, with one attachment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Self

import httpx
import orjson
import pydantic

from tocsin_alerting.model import Notification
from tocsin_alerting.receivers.addresses import below
from tocsin_alerting.receivers.cutting import characters
from tocsin_alerting.receivers.fields import SecretPath, Text, Url, at_most_one
from tocsin_alerting.receivers.inheriting import secret_from
from tocsin_alerting.receivers.sending import ReceiverSettings, Sending, concealed, reveal
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_service.http import Failure, RequestError, redact_url
from tocsin_service.settings import Settings

TITLE_LIMIT: Final = 1024


class Field(Settings):
    """One of `fields`: a small table in the attachment."""

    title: Text = ""
    value: Text = ""
    short: bool | None = None


class Action(Settings):
    """One of `actions`: a button, whatever `type` says."""

    type: Text = ""
    text: Text = ""
    url: Text = ""
    msg: Text = ""


class RocketChatSettings(ReceiverSettings):
    """`rocketchat_configs`; `send_resolved` is off by default."""

    send_resolved: bool = False
    api_url: Url = ""
    token: pydantic.SecretStr | None = None
    token_file: SecretPath | None = None
    token_id: pydantic.SecretStr | None = None
    token_id_file: SecretPath | None = None
    channel: Text = ""
    color: Text = '{{ if eq .Status "firing" }}red{{ else }}green{{ end }}'
    title: Text = '{{ template "rocketchat.default.title" . }}'
    title_link: Text = '{{ template "rocketchat.default.titlelink" . }}'
    text: Text = '{{ template "rocketchat.default.text" . }}'
    fields: tuple[Field, ...] = ()
    short_fields: bool = False
    emoji: Text = '{{ template "rocketchat.default.emoji" . }}'
    icon_url: Text = '{{ template "rocketchat.default.iconurl" . }}'
    image_url: Text = ""
    thumb_url: Text = ""
    link_names: bool = False
    actions: tuple[Action, ...] = ()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        at_most_one(self, "token", "token_file")
        at_most_one(self, "token_id", "token_id_file")
        return self

    def inherit(self, shared: GlobalSettings) -> Self:
        """Return the settings with tokens and address from `global` where there are none."""
        taken = secret_from(self, shared, "token", "rocketchat_token")
        taken |= secret_from(self, shared, "token_id", "rocketchat_token_id")
        taken["api_url"] = self.api_url or shared.rocketchat_api_url
        return super().inherit(shared).model_copy(update=taken)


async def send(notification: Notification, settings: RocketChatSettings, sending: Sending) -> None:
    """Call `chat.postMessage`.

    Raises:
        RequestError: it was not taken; Rocket.Chat also says no with status 200.
    """
    token = reveal(settings.token, settings.token_file)
    user = reveal(settings.token_id, settings.token_id_file)
    url = below(settings.api_url, "api/v1/chat.postMessage")
    body = payload(settings, lambda source: sending.text(source, notification))
    headers = {"X-Auth-Token": token, "X-User-Id": user}
    answer = await sending.post_json(url, body, settings, headers=headers, secrets=(token, user))
    if (refusal := _refusal(url, answer)) is not None:
        raise concealed(refusal, url, token, user)


def payload(settings: RocketChatSettings, text: Callable[[str], str]) -> dict[str, Any]:
    """Return the body; `text` renders a template."""
    attachment = {
        "title": characters(text(settings.title), TITLE_LIMIT),
        "title_link": text(settings.title_link),
        "text": text(settings.text),
        "image_url": text(settings.image_url),
        "thumb_url": text(settings.thumb_url),
        "color": text(settings.color),
        "fields": [_field(each, settings, text) for each in settings.fields],
        "actions": [_action(each, text) for each in settings.actions],
    }
    body = {"channel": text(settings.channel), "emoji": text(settings.emoji), "avatar": text(settings.icon_url)}
    return {**_said(body), "attachments": [_said(attachment)]}


def _field(each: Field, settings: RocketChatSettings, text: Callable[[str], str]) -> dict[str, Any]:
    short = settings.short_fields if each.short is None else each.short
    return {"short": short, **_said({"title": text(each.title), "value": text(each.value)})}


def _action(each: Action, text: Callable[[str], str]) -> dict[str, Any]:
    said = _said({"text": text(each.text), "url": text(each.url), "msg": text(each.msg)})
    return {"type": "button", "is_webview": False, "msg_in_chat_window": False, **said}


def _said(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value}


def _refusal(url: str, answer: httpx.Response) -> RequestError | None:
    try:
        said = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return RequestError(f"{redact_url(url)} answered 200 but not in JSON", reason=Failure.OTHER)
    if isinstance(said, dict) and said.get("success") is True:
        return None
    why = str(said.get("error") or "no reason given") if isinstance(said, dict) else "no reason given"
    message = f"{redact_url(url)} refused the message: {' '.join(why.split())[:200]}"
    return RequestError(message, reason=Failure.CLIENT_ERROR, permanent=True)
