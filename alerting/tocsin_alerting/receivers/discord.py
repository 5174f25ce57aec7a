"""Discord: a message of a webhook with one embed, red or green."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Self

import pydantic

from tocsin_alerting.model import Notification
from tocsin_alerting.receivers.cutting import characters
from tocsin_alerting.receivers.fields import SecretPath, SecretUrl, Text, exactly_one
from tocsin_alerting.receivers.sending import ReceiverSettings, Sending, reveal

TITLE_LIMIT: Final = 256
MESSAGE_LIMIT: Final = 4096
CONTENT_LIMIT: Final = 2000
_COLORS: Final = {"firing": 0x992D22, "resolved": 0x2ECC71}


class DiscordSettings(ReceiverSettings):
    """`discord_configs`."""

    webhook_url: SecretUrl | None = None
    webhook_url_file: SecretPath | None = None
    title: Text = '{{ template "discord.default.title" . }}'
    message: Text = '{{ template "discord.default.message" . }}'
    content: Text = '{{ template "discord.default.content" . }}'
    username: str = ""
    avatar_url: str = ""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "webhook_url", "webhook_url_file")
        return self


async def send(notification: Notification, settings: DiscordSettings, sending: Sending) -> None:
    """POST the message.

    Raises:
        RequestError: it was not taken.
    """
    url = reveal(settings.webhook_url, settings.webhook_url_file)
    body = payload(notification, settings, lambda source: sending.text(source, notification))
    await sending.post_json(url, body, settings)


def payload(notification: Notification, settings: DiscordSettings, text: Callable[[str], str]) -> dict[str, Any]:
    """Return the body; `text` renders a template."""
    embed = {
        "title": characters(text(settings.title), TITLE_LIMIT),
        "description": characters(text(settings.message), MESSAGE_LIMIT),
        "color": _COLORS[notification.status],
    }
    body: dict[str, Any] = {"content": characters(text(settings.content), CONTENT_LIMIT), "embeds": [embed]}
    if settings.username:
        body["username"] = settings.username
    if settings.avatar_url:
        body["avatar_url"] = settings.avatar_url
    return body
