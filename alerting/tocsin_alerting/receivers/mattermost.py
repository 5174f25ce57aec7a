"""Mattermost by an incoming webhook: one attachment from the settings, or `attachments` below a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Self

import pydantic

from tocsin_alerting.model import Notification
from tocsin_alerting.receivers.cutting import characters
from tocsin_alerting.receivers.fields import SecretPath, SecretUrl, Text, at_most_one
from tocsin_alerting.receivers.inheriting import secret_from
from tocsin_alerting.receivers.sending import ReceiverSettings, Sending, reveal
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_service.settings import Settings, flaw

TEXT_LIMIT: Final = 16383
"""Characters of the text above the attachments."""
_ATTACHMENT: Final = (
    *("fallback", "color", "pretext", "text", "author_name", "author_link", "author_icon", "title", "title_link"),
    *("thumb_url", "footer", "footer_icon", "image_url"),
)


class Field(Settings):
    """One of `fields`: a small table in an attachment."""

    title: Text = ""
    value: Text = ""
    short: bool | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if not self.title or not self.value:
            raise flaw("a field needs title and value", expected="{title: ..., value: ...}", fix="add what is missing")
        return self


class Attachment(Settings):
    """One of `attachments`. Without any, the same fields of the settings themselves make one."""

    fallback: Text = ""
    color: Text = ""
    pretext: Text = ""
    text: Text = ""
    author_name: Text = ""
    author_link: Text = ""
    author_icon: Text = ""
    title: Text = ""
    title_link: Text = ""
    fields: tuple[Field, ...] = ()
    thumb_url: Text = ""
    footer: Text = ""
    footer_icon: Text = ""
    image_url: Text = ""


class Props(Settings):
    """`props`."""

    card: Text = ""


class Priority(Settings):
    """`priority`: how loudly it is said; nothing without `priority` in it."""

    priority: Text = ""
    requested_ack: bool = False
    persistent_notifications: bool = False


class MattermostSettings(ReceiverSettings):
    """`mattermost_configs`."""

    webhook_url: SecretUrl | None = None
    webhook_url_file: SecretPath | None = None
    channel: Text = ""
    username: Text = '{{ template "mattermost.default.username" . }}'
    text: Text = '{{ template "mattermost.default.text" . }}'
    icon_url: Text = ""
    icon_emoji: Text = ""
    fallback: Text = '{{ template "mattermost.default.fallback" . }}'
    color: Text = '{{ template "mattermost.default.color" . }}'
    pretext: Text = ""
    author_name: Text = ""
    author_link: Text = ""
    author_icon: Text = ""
    title: Text = '{{ template "mattermost.default.title" . }}'
    title_link: Text = '{{ template "mattermost.default.titlelink" . }}'
    fields: tuple[Field, ...] = ()
    thumb_url: Text = ""
    footer: Text = ""
    footer_icon: Text = ""
    image_url: Text = ""
    attachments: tuple[Attachment, ...] = ()
    type: Text = ""
    props: Props = Props()
    priority: Priority = Priority()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        at_most_one(self, "webhook_url", "webhook_url_file")
        return self

    def inherit(self, shared: GlobalSettings) -> Self:
        """Return the settings with the address from `global` where there is none."""
        taken = secret_from(self, shared, "webhook_url", "mattermost_webhook_url")
        return super().inherit(shared).model_copy(update=taken)


async def send(notification: Notification, settings: MattermostSettings, sending: Sending) -> None:
    """POST the message.

    Raises:
        RequestError: it was not taken.
    """
    url = reveal(settings.webhook_url, settings.webhook_url_file)
    body = payload(settings, lambda source: sending.text(source, notification))
    await sending.post_json(url, body, settings)


def payload(settings: MattermostSettings, text: Callable[[str], str]) -> dict[str, Any]:
    """Return the body; `text` renders a template."""
    body: dict[str, Any] = {
        "channel": text(settings.channel),
        "username": text(settings.username),
        "text": characters(text(settings.text), TEXT_LIMIT) if settings.attachments else "",
        "icon_url": text(settings.icon_url),
        "icon_emoji": text(settings.icon_emoji),
        "type": text(settings.type),
        "attachments": [_attachment(each, text) for each in settings.attachments or (settings,)],
    }
    if card := text(settings.props.card):
        body["props"] = {"card": card}
    if priority := text(settings.priority.priority):
        asked = {name for name in ("requested_ack", "persistent_notifications") if getattr(settings.priority, name)}
        body["priority"] = {"priority": priority, **dict.fromkeys(asked, True)}
    return {name: value for name, value in body.items() if value}


def _attachment(each: Attachment | MattermostSettings, text: Callable[[str], str]) -> dict[str, Any]:
    found: dict[str, Any] = {name: text(getattr(each, name)) for name in _ATTACHMENT}
    found["fields"] = [_field(field, text) for field in each.fields]
    return {name: value for name, value in found.items() if value}


def _field(each: Field, text: Callable[[str], str]) -> dict[str, Any]:
    short = {} if each.short is None else {"short": each.short}
    return {"title": text(each.title), "value": text(each.value), **short}
