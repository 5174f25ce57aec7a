"""Telegram: a message of a bot to a chat, as HTML unless said otherwise."""

from __future__ import annotations

import html
import re
from typing import Annotated, Final, Literal, Self

import httpx
import orjson
import pydantic

from tocsin_alerting import messages
from tocsin_alerting.model import Notification
from tocsin_alerting.receivers import markup
from tocsin_alerting.receivers.addresses import below
from tocsin_alerting.receivers.cutting import characters
from tocsin_alerting.receivers.fields import SecretPath, Text, Url, at_most_one
from tocsin_alerting.receivers.inheriting import secret_from
from tocsin_alerting.receivers.sending import ReceiverSettings, Sending, reveal
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_service.http import Failure, RequestError
from tocsin_service.settings import flaw

LIMIT: Final = 4096
"""Characters of a message."""
_NOTICE_LIMIT: Final = 500
# Whatever is wrong may be repaired at Telegram: the bot was not in the group yet, say.
_RETRY: Final = frozenset(range(400, 500))


class TelegramSettings(ReceiverSettings):
    """`telegram_configs`."""

    api_url: Url = ""
    bot_token: pydantic.SecretStr | None = None
    bot_token_file: SecretPath | None = None
    chat_id: Annotated[int, pydantic.Field(strict=True)] | None = None
    chat_id_file: SecretPath | None = None
    message_thread_id: Annotated[int, pydantic.Field(strict=True)] = 0
    parse_mode: Literal["HTML", "Markdown", "MarkdownV2", ""] = "HTML"
    message: Text = '{{ template "telegram.default.message" . }}'
    disable_notifications: bool = False

    @pydantic.field_validator("message")
    @classmethod
    def _check_message(cls, value: str, info: pydantic.ValidationInfo) -> str:
        return markup.checked(value) if info.data.get("parse_mode") == "HTML" else value

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        at_most_one(self, "bot_token", "bot_token_file")
        at_most_one(self, "chat_id", "chat_id_file")
        if not self.chat_id and self.chat_id_file is None:
            raise flaw("chat_id is missing", expected="chat_id or chat_id_file", fix="add the number of the chat")
        return self

    def inherit(self, shared: GlobalSettings) -> Self:
        """Return the settings with token and address from `global` where there are none."""
        taken = secret_from(self, shared, "bot_token", "telegram_bot_token")
        return super().inherit(shared).model_copy(update={**taken, "api_url": self.api_url or shared.telegram_api_url})


async def send(notification: Notification, settings: TelegramSettings, sending: Sending) -> None:
    """Call `sendMessage`.

    Raises:
        RequestError: it was not taken; it is always worth another try.
    """
    token = reveal(settings.bot_token, settings.bot_token_file)
    render = sending.html if settings.parse_mode == "HTML" else sending.text
    body = payload(notification, settings, chat=_chat(settings), message=render(settings.message, notification))
    url = below(settings.api_url, f"bot{token}/sendMessage")
    answer = await sending.post_json(url, body, settings, secrets=(token,), retry=_RETRY)
    if not _taken(answer):
        raise RequestError("Telegram answered 200 but did not take the message", reason=Failure.OTHER)


def payload(notification: Notification, settings: TelegramSettings, *, chat: str, message: str) -> dict[str, str]:
    """Return the body for a rendered message."""
    body = {"chat_id": chat, "text": fitted(notification, settings, message), "disable_web_page_preview": "true"}
    if settings.parse_mode:
        body["parse_mode"] = settings.parse_mode
    if settings.message_thread_id:
        body["message_thread_id"] = str(settings.message_thread_id)
    if settings.disable_notifications:
        body["disable_notification"] = "true"
    return body


def fitted(notification: Notification, settings: TelegramSettings, message: str) -> str:
    """Return what Telegram takes of a message: cut HTML would be refused, so that a notice stands for it."""
    if settings.parse_mode != "HTML" or len(message) <= LIMIT:
        return characters(message, LIMIT)
    subject = html.escape(characters(messages.subject(notification), _NOTICE_LIMIT))
    return f"{subject}\nThe message has more than the {LIMIT} characters that Telegram takes. Shorten its template."


def _chat(settings: TelegramSettings) -> str:
    if settings.chat_id_file is None:
        return str(settings.chat_id)
    chat = reveal(None, settings.chat_id_file)
    if not re.fullmatch(r"-?\d+", chat):
        message = f"{settings.chat_id_file} holds no chat_id; write the number of the chat into it"
        raise RequestError(message, reason=Failure.OTHER)
    return chat


def _taken(answer: httpx.Response) -> bool:
    try:
        said = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return False
    return isinstance(said, dict) and said.get("ok") is True
