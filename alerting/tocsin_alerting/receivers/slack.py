"""Slack: one attachment per message, by incoming webhook or as an app; with `update_message`, one message per group.

slack-sdk judges the answers of the Web API, and no more. Its clients block, know neither `http_config`'s proxies,
certificates, OAuth2 nor redirects, and would need a thread per message; requests go through `Clients` like all others.

A message can be updated wherever the address is that of the Web API's chat.postMessage, however the token is given:
`app_token`, `app_token_file`, those of `global`, or `api_url` with `http_config: authorization`. What Slack answers to
the first message, its `ts` and `channel`, is the handle of the later ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Self
from urllib.parse import urlsplit, urlunsplit

import httpx
import orjson
import pydantic
import slack_sdk.errors
from slack_sdk.web.slack_response import SlackResponse

from tocsin_alerting.messages import cut
from tocsin_alerting.model import Notification
from tocsin_alerting.receivers.fields import GoDuration, SecretPath, SecretUrl, Text, Url, at_most_one
from tocsin_alerting.receivers.sending import Missing, ReceiverSettings, Sending, concealed, reveal
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_service.http import Failure, RequestError, redact_url, retry_after
from tocsin_service.settings import Settings, flaw

DEFAULT_APP_URL: Final = "https://slack.com/api/chat.postMessage"
TITLE_LIMIT: Final = 1024
_POST: Final = "chat.postMessage"
_UPDATE: Final = "chat.update"
_RETRY: Final = frozenset({429})
_ADDRESSES: Final = ("api_url", "api_url_file", "app_token", "app_token_file")

# Answers of the Web API that may be different next time; every other error names something to be repaired.
_PASSING: Final = frozenset({"internal_error", "fatal_error", "service_unavailable", "request_timeout"})
_NOT_US: Final = frozenset({"invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired"})
_SLOWER: Final = frozenset({"ratelimited", "rate_limited", "message_limit_exceeded"})
# After these the message cannot be updated any more: it was deleted, or is too old.
_GONE: Final = frozenset({"message_not_found", "cant_update_message", "edit_window_closed"})


class Field(Settings):
    """One of `fields`."""

    title: Text = pydantic.Field(min_length=1)
    value: Text = pydantic.Field(min_length=1)
    short: bool | None = None


class Confirm(Settings):
    """`confirm` of an action."""

    text: Text = pydantic.Field(min_length=1)
    title: Text = ""
    ok_text: Text = ""
    dismiss_text: Text = ""


class Action(Settings):
    """One of `actions`: a link (`url`), or a button (`name`) that somebody answers."""

    type: Text = pydantic.Field(min_length=1)
    text: Text = pydantic.Field(min_length=1)
    url: Text = ""
    style: Text = ""
    name: Text = ""
    value: Text = ""
    confirm: Confirm | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if not self.url and not self.name:
            raise flaw("an action has neither name nor url", expected="url of a link, or name of a button")
        return self


def _default(name: str) -> str:
    return f'{{{{ template "slack.default.{name}" . }}}}'


class SlackSettings(ReceiverSettings):
    """`slack_configs`; `send_resolved` is off by default, as always."""

    send_resolved: bool = False
    api_url: SecretUrl | None = None
    api_url_file: SecretPath | None = None
    app_token: pydantic.SecretStr | None = None
    app_token_file: SecretPath | None = None
    app_url: Url | None = None
    channel: Text = ""
    username: Text = _default("username")
    icon_emoji: Text = _default("iconemoji")
    icon_url: Text = _default("iconurl")
    link_names: bool = False
    message_text: Text = ""
    color: Text = _default("color")
    title: Text = _default("title")
    title_link: Text = _default("titlelink")
    pretext: Text = _default("pretext")
    text: Text = _default("text")
    fields: tuple[Field, ...] = ()
    short_fields: bool = False
    footer: Text = _default("footer")
    fallback: Text = _default("fallback")
    callback_id: Text = _default("callbackid")
    image_url: Text = ""
    thumb_url: Text = ""
    mrkdwn_in: tuple[str, ...] = ()
    actions: tuple[Action, ...] = ()
    update_message: bool = False
    timeout: GoDuration = 0.0

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        at_most_one(self, *_ADDRESSES)
        return self

    def inherit(self, shared: GlobalSettings) -> Self:
        """Take the address, or the app's token, from `global` where neither is given here.

        Raises:
            Missing: there is none; or what is there cannot do what is asked of it.
        """
        taken: dict[str, object] = {"app_url": self.app_url or shared.slack_app_url}
        own = self.http_config is not None and self.http_config.credentials is not None
        if all(getattr(self, name) is None for name in _ADDRESSES):
            taken |= {name: getattr(shared, f"slack_{name}") for name in _ADDRESSES}
            if own and (taken["app_token"] or taken["app_token_file"]):
                taken |= {"app_token": None, "app_token_file": None}  # whoever brings a token wants no other
            if not any(taken[name] for name in _ADDRESSES):
                fix = "add api_url_file here, or slack_api_url_file or slack_app_token_file under global"
                raise Missing("Slack has no address", expected="api_url, api_url_file or app_token", fix=fix)
        settings = super().inherit(shared).model_copy(update=taken)
        is_app = settings.app_token is not None or settings.app_token_file is not None
        if is_app and settings.http_config is not None and settings.http_config.credentials is not None:
            what = "http_config has an authorization beside the token of a Slack app"
            raise Missing(what, expected="one of the two", fix="remove the authorization, or use api_url with it")
        url = settings.api_url.get_secret_value() if settings.api_url else ""
        if settings.update_message and url and not _is_api(url):
            what = "update_message needs a bot token: an incoming webhook cannot update what it has posted"
            raise Missing(what, expected="app_token, or api_url: https://slack.com/api/chat.postMessage")
        return settings


async def send(notification: Notification, settings: SlackSettings, sending: Sending) -> dict[str, str] | None:
    """Post the message, or update the one the handle names, and return the handle for the next one.

    Raises:
        RequestError: it was not taken; its words hold neither the address nor the token.
    """
    body = payload(notification, settings, lambda source: sending.text(source, notification))
    is_app = settings.app_token is not None or settings.app_token_file is not None
    token = reveal(settings.app_token, settings.app_token_file) if is_app else ""
    url = (settings.app_url or DEFAULT_APP_URL) if is_app else reveal(settings.api_url, settings.api_url_file)
    message = _Message(settings, sending, token)
    if not settings.update_message:
        await message.call(url, body)
        return None
    handle = notification.handle
    if handle.get("ts") and handle.get("channel") and (is_app or _is_api(url)):
        try:
            return await message.call(update_url(url), {**body, "channel": handle["channel"], "ts": handle["ts"]})
        except _GoneError:
            pass  # somebody deleted it: a new one takes its place
    return await message.call(url, body)


def payload(notification: Notification, settings: SlackSettings, text: Callable[[str], str]) -> dict[str, Any]:
    """Return the message, rendered by `text`. Members are left out where Alertmanager leaves them out."""
    attachment = {
        "title": cut(text(settings.title), TITLE_LIMIT),
        "title_link": text(settings.title_link),
        "pretext": text(settings.pretext),
        "text": text(settings.text),
        "fallback": text(settings.fallback),
        "callback_id": text(settings.callback_id),
        "fields": [_field(field, settings, text) for field in settings.fields],
        "actions": [_action(action, text) for action in settings.actions],
        "image_url": text(settings.image_url),
        "thumb_url": text(settings.thumb_url),
        "footer": text(settings.footer),
        "color": text(settings.color),
        "mrkdwn_in": list(settings.mrkdwn_in) or ["fallback", "pretext", "text"],
    }
    body = {
        "channel": text(settings.channel),
        "username": text(settings.username),
        "icon_emoji": text(settings.icon_emoji),
        "icon_url": text(settings.icon_url),
        "link_names": settings.link_names,
        "text": text(settings.message_text),
        "attachments": [_without_empty(attachment, kept={"text", "fallback", "callback_id", "footer"})],
    }
    return _without_empty(body)


def update_url(url: str) -> str:
    """Return the address of chat.update beside that of chat.postMessage."""
    parts = urlsplit(url)
    if parts.hostname == "slack.com":
        return f"https://slack.com/api/{_UPDATE}"
    path = f"{parts.path.rstrip('/').rpartition('/')[0]}/{_UPDATE}"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _is_api(url: str) -> bool:
    return urlsplit(url).path.rstrip("/").endswith(f"/{_POST}")


def _field(field: Field, settings: SlackSettings, text: Callable[[str], str]) -> dict[str, Any]:
    short = settings.short_fields if field.short is None else field.short
    return {**_without_empty({"title": text(field.title), "value": text(field.value)}), "short": short}


def _action(action: Action, text: Callable[[str], str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": text(action.type),
        "text": text(action.text),
        "url": text(action.url),
        "style": text(action.style),
    }
    if not action.url:  # a link needs nobody to answer it
        found |= {"name": text(action.name), "value": text(action.value)}
        if (confirm := action.confirm) is not None:
            asked = {name: text(getattr(confirm, name)) for name in ("text", "title", "ok_text", "dismiss_text")}
            return _without_empty({**found, "confirm": _without_empty(asked)}, kept={"confirm"})
    return _without_empty(found)


def _without_empty(members: dict[str, Any], *, kept: frozenset[str] | set[str] = frozenset()) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value or name in kept}


class _GoneError(RequestError):
    """The message that should be updated is not there any more, or too old."""


class _Message:
    """One message on its way: with what it is sent, and what its errors say."""

    def __init__(self, settings: SlackSettings, sending: Sending, token: str) -> None:
        self._settings = settings
        self._sending = sending
        self._token = token

    async def call(self, url: str, body: dict[str, Any]) -> dict[str, str] | None:
        """POST `body` and return `ts` and `channel` of the answer, if it has them."""
        settings, channel = self._settings, body.get("channel", "")
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            answer = await self._sending.post_json(
                url,
                body,
                settings,
                headers=headers,
                timeout=settings.timeout,
                secrets=(self._token,),
                retry=_RETRY,
            )
            return _taken(url, answer)
        except RequestError as error:
            known = concealed(error, url, self._token)
            where = f'channel "{channel}": ' if channel else ""
            raise type(error)(
                f"{where}{known}", reason=known.reason, permanent=known.permanent, retry_after=known.retry_after
            ) from error


def _taken(url: str, answer: httpx.Response) -> dict[str, str] | None:
    """Return what the answer names the message, or raise: Slack also says no with status 200."""
    is_json = answer.headers.get("content-type", "").startswith("application/json")
    if not is_json and answer.content.strip() == b"ok":
        return None
    try:
        data = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        data = None
    if not isinstance(data, dict):
        # JSON that is cut off may be whole the next time; a page of text stays what it is.
        what = f"{redact_url(url)} answered {answer.status_code} but not ok: {' '.join(answer.text.split())[:200]}"
        raise RequestError(what, reason=Failure.CLIENT_ERROR, permanent=not is_json)
    response = SlackResponse(
        client=None,
        http_verb="POST",
        api_url=redact_url(url),
        req_args={},
        data=data,
        headers=dict(answer.headers),
        status_code=200,
    )
    try:
        response.validate()  # type: ignore[no-untyped-call]  # slack-sdk has no types for it
    except slack_sdk.errors.SlackApiError as error:
        raise _refused(url, error.response) from error
    ts, channel = data.get("ts"), data.get("channel")
    return {"ts": str(ts), "channel": str(channel)} if ts and channel else None


def _refused(url: str, response: Any) -> RequestError:
    headers: Mapping[str, str] = response.headers
    name = str(response.get("error") or "")
    message = f"{redact_url(url)} refused the message: {name or 'no reason given'}"
    if name in _GONE:
        return _GoneError(message, reason=Failure.CLIENT_ERROR, permanent=True)
    if name in _SLOWER:
        return RequestError(message, reason=Failure.RATE_LIMITED, retry_after=retry_after(headers))
    if name in _PASSING:
        return RequestError(message, reason=Failure.SERVER_ERROR)
    reason = Failure.AUTH_ERROR if name in _NOT_US else Failure.CLIENT_ERROR
    return RequestError(message, reason=reason, permanent=True)
