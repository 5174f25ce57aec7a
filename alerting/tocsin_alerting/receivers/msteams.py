"""Microsoft Teams by an incoming webhook: a message card. Microsoft retires these: see `msteamsv2` for workflows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

import pydantic

from tocsin_alerting.model import Notification
from tocsin_alerting.receivers.fields import SecretPath, SecretUrl, Text, exactly_one
from tocsin_alerting.receivers.sending import ReceiverSettings, Sending, reveal

_COLORS: Final = {"firing": "8C1A1A", "resolved": "2DC72D"}


class MsTeamsSettings(ReceiverSettings):
    """`msteams_configs`."""

    webhook_url: SecretUrl | None = None
    webhook_url_file: SecretPath | None = None
    title: Text = '{{ template "msteams.default.title" . }}'
    summary: Text = '{{ template "msteams.default.summary" . }}'
    text: Text = '{{ template "msteams.default.text" . }}'

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "webhook_url", "webhook_url_file")
        return self


async def send(notification: Notification, settings: MsTeamsSettings, sending: Sending) -> None:
    """POST the card.

    Raises:
        RequestError: it was not taken.
    """
    url = reveal(settings.webhook_url, settings.webhook_url_file)
    body = payload(notification, settings, lambda source: sending.text(source, notification))
    await sending.post_json(url, body, settings)


def payload(notification: Notification, settings: MsTeamsSettings, text: Callable[[str], str]) -> dict[str, str]:
    """Return the body; `text` renders a template."""
    return {
        "@context": "http://schema.org/extensions",
        "type": "MessageCard",
        "title": text(settings.title),
        "summary": text(settings.summary),
        "text": text(settings.text),
        "themeColor": _COLORS[notification.status],
    }
