"""Microsoft Teams by a workflow: an adaptive card, as Power Automate's webhook trigger takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Self

import pydantic

from tocsin_alerting.model import Notification
from tocsin_alerting.receivers.fields import SecretPath, SecretUrl, Text, exactly_one
from tocsin_alerting.receivers.sending import ReceiverSettings, Sending, reveal

_COLORS: Final = {"firing": "Attention", "resolved": "Good"}


class MsTeamsV2Settings(ReceiverSettings):
    """`msteamsv2_configs`."""

    webhook_url: SecretUrl | None = None
    webhook_url_file: SecretPath | None = None
    title: Text = '{{ template "msteamsv2.default.title" . }}'
    text: Text = '{{ template "msteamsv2.default.text" . }}'

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "webhook_url", "webhook_url_file")
        return self


async def send(notification: Notification, settings: MsTeamsV2Settings, sending: Sending) -> None:
    """POST the card.

    Raises:
        RequestError: it was not taken.
    """
    url = reveal(settings.webhook_url, settings.webhook_url_file)
    body = payload(notification, settings, lambda source: sending.text(source, notification))
    await sending.post_json(url, body, settings)


def payload(notification: Notification, settings: MsTeamsV2Settings, text: Callable[[str], str]) -> dict[str, Any]:
    """Return the body; `text` renders a template."""
    heading = {
        "type": "TextBlock",
        "text": text(settings.title),
        "weight": "Bolder",
        "size": "Medium",
        "wrap": True,
        "style": "heading",
        "color": _COLORS[notification.status],
    }
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.2",
        "body": [heading, {"type": "TextBlock", "text": text(settings.text), "wrap": True}],
        "msteams": {"width": "full"},
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}
