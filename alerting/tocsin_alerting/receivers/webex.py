"""Webex: a Markdown message to a room, sent by a bot whose token stands in `http_config.authorization`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

import pydantic

from tocsin_alerting.model import Notification
from tocsin_alerting.receivers.cutting import octets
from tocsin_alerting.receivers.fields import Text, Url
from tocsin_alerting.receivers.sending import Missing, ReceiverSettings, Sending
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_service.settings import flaw

LIMIT: Final = 7439
"""Bytes of a message before Webex encrypts it."""


class WebexSettings(ReceiverSettings):
    """`webex_configs`."""

    api_url: Url = ""
    room_id: Text = ""
    message: Text = '{{ template "webex.default.message" . }}'

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if not self.room_id:
            raise flaw("room_id is missing", expected="the id of a Webex room", fix="add it")
        return self

    def inherit(self, shared: GlobalSettings) -> Self:
        """Return the settings with the address from `global`, once it is certain that there is a token.

        Raises:
            Missing: there is none.
        """
        settings = super().inherit(shared)
        if settings.http_config is None or settings.http_config.credentials is None:
            raise Missing(
                "Webex has no token",
                expected="http_config: {authorization: {credentials: the bot's token}}",
                fix="add it",
            )
        return settings.model_copy(update={"api_url": self.api_url or shared.webex_api_url})


async def send(notification: Notification, settings: WebexSettings, sending: Sending) -> None:
    """POST the message.

    Raises:
        RequestError: it was not taken.
    """
    body = payload(settings, lambda source: sending.text(source, notification))
    await sending.post_json(settings.api_url, body, settings)


def payload(settings: WebexSettings, text: Callable[[str], str]) -> dict[str, str]:
    """Return the body; `text` renders a template."""
    return {"markdown": octets(text(settings.message), LIMIT), "roomId": text(settings.room_id)}
