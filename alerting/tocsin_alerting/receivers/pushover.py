"""Pushover: a push message to somebody's phone, which calls again until it is acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self
from urllib.parse import urlencode

import pydantic

from tocsin_alerting.model import Notification
from tocsin_alerting.receivers import markup
from tocsin_alerting.receivers.cutting import characters
from tocsin_alerting.receivers.fields import GoDuration, SecretPath, Text, exactly_one
from tocsin_alerting.receivers.sending import ReceiverSettings, Sending, reveal
from tocsin_service.settings import flaw

API: Final = "https://api.pushover.net/1/messages.json"
TITLE_LIMIT: Final = 250
MESSAGE_LIMIT: Final = 1024
URL_LIMIT: Final = 512


class PushoverSettings(ReceiverSettings):
    """`pushover_configs`."""

    user_key: pydantic.SecretStr | None = None
    user_key_file: SecretPath | None = None
    token: pydantic.SecretStr | None = None
    token_file: SecretPath | None = None
    title: Text = '{{ template "pushover.default.title" . }}'
    html: bool = False
    message: Text = '{{ template "pushover.default.message" . }}'
    url: Text = '{{ template "pushover.default.url" . }}'
    url_title: Text = ""
    device: Text = ""
    sound: Text = ""
    priority: Text = '{{ if eq .Status "firing" }}2{{ else }}0{{ end }}'
    retry: GoDuration = 60.0
    expire: GoDuration = 3600.0
    ttl: GoDuration = 0.0
    monospace: bool = False

    @pydantic.field_validator("message")
    @classmethod
    def _check_message(cls, value: str, info: pydantic.ValidationInfo) -> str:
        return markup.checked(value) if info.data.get("html") else value

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "user_key", "user_key_file")
        exactly_one(self, "token", "token_file")
        if self.html and self.monospace:
            raise flaw("html and monospace stand side by side", expected="at most one of them", fix="remove one")
        return self


async def send(notification: Notification, settings: PushoverSettings, sending: Sending, *, api: str = API) -> None:
    """POST the message, all of it in the query.

    Raises:
        RequestError: it was not taken.
    """

    def text(source: str) -> str:
        return sending.text(source, notification)

    token = text(reveal(settings.token, settings.token_file))
    user = text(reveal(settings.user_key, settings.user_key_file))
    said = payload(settings, text, lambda source: sending.html(source, notification))
    url = f"{api}?{urlencode({'token': token, 'user': user, **said})}"
    headers = {"Content-Type": "text/plain"}
    await sending.request("POST", url, settings, headers=headers, secrets=(token, user))


def payload(settings: PushoverSettings, text: Callable[[str], str], html: Callable[[str], str]) -> dict[str, str]:
    """Return the parameters; `text` and `html` render a template."""
    message = characters((html if settings.html else text)(settings.message), MESSAGE_LIMIT).strip()
    said = {
        "title": characters(text(settings.title), TITLE_LIMIT),
        "message": message or "(no details)",  # Pushover refuses an empty one
        "url": characters(text(settings.url), URL_LIMIT),
        "url_title": text(settings.url_title),
        "priority": text(settings.priority),
        "retry": str(int(settings.retry)),
        "expire": str(int(settings.expire)),
        "device": text(settings.device),
        "sound": text(settings.sound),
    }
    if settings.html:
        said["html"] = "1"
    if settings.monospace:
        said["monospace"] = "1"
    if settings.ttl:
        said["ttl"] = str(int(settings.ttl))
    return said
