"""Slack, by incoming webhook (`api_url`) or as an app (`app_token`): one attachment, red or green, per message."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import threading
import urllib.error
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Self

import pydantic
import slack_sdk
import slack_sdk.errors
import slack_sdk.webhook

from tocsin_alerting import messages
from tocsin_alerting.model import Notification
from tocsin_alerting.receivers.sending import (
    GoDuration,
    ReceiverSettings,
    SecretUrl,
    Sending,
    Url,
    at_most_one,
    concealed,
    reveal,
)
from tocsin_service.http import Failure, RequestError, redact_url, refused, retry_after
from tocsin_service.settings import ConfigPath, flaw

DEFAULT_APP_URL: Final = "https://slack.com/api/chat.postMessage"
TITLE_LIMIT: Final = 1024
TEXT_LIMIT: Final = 3000
"""Characters of the list of alerts; Slack folds longer ones away."""
_METHOD: Final = "chat.postMessage"
_TIMEOUT: Final = 5.0
"""Seconds that a thread waits for the answer."""

# What urllib and slack-sdk raise over a connection or an answer that is cut off or makes no sense.
_BROKEN: Final = (OSError, ValueError, LookupError, http.client.HTTPException, slack_sdk.errors.SlackClientError)
# Answers of Slack's Web API that may be different next time; every other error names something to be repaired.
_PASSING: Final = frozenset({"internal_error", "fatal_error", "service_unavailable", "request_timeout"})


class SlackSettings(ReceiverSettings):
    """`slack_configs`: `api_url`, or `app_token` with `channel`; `send_resolved` is off by default, as always."""

    later: ClassVar[frozenset[str]] = frozenset(
        {
            *("title", "title_link", "text", "fallback", "callback_id", "color", "fields", "short_fields", "actions"),
            *("http_config", "image_url", "thumb_url", "mrkdwn_in", "message_text", "update_message"),
        }
    )

    send_resolved: bool = False
    api_url: SecretUrl | None = None
    api_url_file: ConfigPath | None = None
    app_token: pydantic.SecretStr | None = None
    app_token_file: ConfigPath | None = None
    app_url: Url | None = None
    channel: str = ""
    username: str = "tocsin"
    icon_emoji: str = ""
    icon_url: str = ""
    link_names: bool = False
    pretext: str = ""
    footer: str = ""
    timeout: GoDuration = 0.0

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        at_most_one(self, "api_url", "api_url_file", "app_token", "app_token_file")
        if (self.app_token or self.app_token_file) and not self.channel:
            raise flaw("app_token needs a channel", expected='channel: "#alerts"', fix="add it")
        url = self.app_url
        if url is not None and not url.endswith(f"/{_METHOD}"):
            raise flaw("app_url is not the method's address", expected=f"a URL that ends with /{_METHOD}")
        return self


async def send(notification: Notification, settings: SlackSettings, sending: Sending) -> None:
    """Post the message through slack-sdk, which blocks, in a thread.

    Raises:
        RequestError: it was not taken; the message never holds the address, which is a secret.
    """
    body = payload(notification, settings)
    if settings.app_token or settings.app_token_file:
        token = reveal(settings.app_token, settings.app_token_file)
        address = settings.app_url or DEFAULT_APP_URL
        await _in_thread(address, lambda: _post_as_app(token, address, body, settings))
    else:
        url = reveal(settings.api_url, settings.api_url_file)
        await _in_thread(url, lambda: _post_to_webhook(url, body, settings))


def payload(notification: Notification, settings: SlackSettings) -> dict[str, Any]:
    """Return the message."""
    subject = escape(messages.subject(notification))
    link = messages.link(notification)
    attachment = {
        "color": "danger" if notification.firing else "good",
        "title": messages.cut(subject, TITLE_LIMIT),
        "title_link": link,
        "pretext": settings.pretext,
        "text": messages.cut("\n\n".join(_blocks(notification)), TEXT_LIMIT),
        "fallback": messages.cut(subject, TITLE_LIMIT),
        "footer": settings.footer,
        "mrkdwn_in": ["fallback", "pretext", "text"],
    }
    body = {
        "channel": settings.channel,
        "username": settings.username,
        "icon_emoji": settings.icon_emoji,
        "icon_url": settings.icon_url,
        "link_names": settings.link_names,
        "attachments": [{name: value for name, value in attachment.items() if value or name in {"text", "fallback"}}],
    }
    return {name: value for name, value in body.items() if value}


def escape(text: str) -> str:
    """Return `text` so that Slack shows it as it is: a label must not ring `<!channel>`."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _blocks(notification: Notification) -> list[str]:
    blocks = [f"_labels_ {escape(found)}"] if (found := messages.labels(notification)) else []
    for entry in messages.entries(notification):
        lines = [f"*{escape(entry.title)}*" if len(notification.alerts) > 1 else ""]
        lines += [f"_{name}_ {_value(value)}" for name, value in entry.facts]
        blocks.append("\n".join(line for line in lines if line))
    if left := messages.left_out(notification):
        blocks.append(left)
    return blocks


def _value(text: str) -> str:
    return f"<{escape(text)}>" if text.startswith(("http://", "https://")) and " " not in text else escape(text)


async def _in_thread(url: str, call: Callable[[], None]) -> None:
    try:
        await _in_own_thread(call)
    except RequestError as error:
        raise concealed(error, url) from None
    except TimeoutError as error:
        raise RequestError(f"{redact_url(url)} did not answer in time", reason=Failure.TIMEOUT) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise RequestError(f"{redact_url(url)} did not answer in time", reason=Failure.TIMEOUT) from error
        raise RequestError(f"{redact_url(url)}: {error.reason}", reason=Failure.OTHER) from error
    except _BROKEN as error:
        raise RequestError(f"{redact_url(url)}: {type(error).__name__}", reason=Failure.OTHER) from error


async def _in_own_thread(call: Callable[[], None]) -> None:
    """Run a blocking call in a thread of its own, which holds up neither others nor the end of the process.

    asyncio's pool has a handful of threads, which also look up host names for every other receiver: a Slack that hangs
    would take them all.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if done.done():
            return  # nobody waits any more
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def work() -> None:
        failure: BaseException | None = None
        try:
            call()
        except BaseException as error:  # handed on to whoever waits
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, failure)

    threading.Thread(target=work, name="slack", daemon=True).start()
    await done


def _post_to_webhook(url: str, body: dict[str, Any], settings: SlackSettings) -> None:
    client = slack_sdk.webhook.WebhookClient(
        url, timeout=_timeout(settings), logger=_silent(), retry_handlers=[], user_agent_prefix="tocsin"
    )
    response = client.send_dict(body)
    if not 200 <= response.status_code < 300:
        raise refused(url, response.status_code, dict(response.headers.items()), response.body)
    _check_answer(url, response.body)


def _check_answer(url: str, body: str) -> None:
    """Slack also says no with status 200. Look-alikes of Slack answer in JSON."""
    try:
        answer = json.loads(body)
        good = isinstance(answer, dict) and answer.get("ok") is True
    except ValueError:
        good = body.strip() == "ok"
    if not good:
        excerpt = " ".join(body.split())[:200]
        message = f"{redact_url(url)} answered 200 but not ok: {excerpt}"
        raise RequestError(message, reason=Failure.CLIENT_ERROR, permanent=True)


def _post_as_app(token: str, address: str, body: dict[str, Any], settings: SlackSettings) -> None:
    client = slack_sdk.WebClient(
        token=token,
        base_url=address.removesuffix(_METHOD),
        timeout=_timeout(settings),
        logger=_silent(),
        retry_handlers=[],
        user_agent_prefix="tocsin",
    )
    try:
        client.api_call(_METHOD, json=body)
    except slack_sdk.errors.SlackApiError as error:
        raise _api_error(address, error.response) from error


def _api_error(address: str, response: Any) -> RequestError:
    status, headers = response.status_code, dict(response.headers)
    name = response.data.get("error", "") if isinstance(response.data, Mapping) else ""
    if status != 200 and name != "ratelimited":
        return refused(address, status, headers, name)
    message = f"{redact_url(address)} refused the message: {name or 'no reason given'}"
    if name in {"ratelimited", "rate_limited"}:
        return RequestError(message, reason=Failure.RATE_LIMITED, retry_after=retry_after(headers))
    if name in _PASSING:
        return RequestError(message, reason=Failure.SERVER_ERROR)
    auth = name in {"invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired"}
    return RequestError(message, reason=Failure.AUTH_ERROR if auth else Failure.CLIENT_ERROR, permanent=True)


def _timeout(settings: SlackSettings) -> int:
    return max(1, round(settings.timeout or _TIMEOUT))


def _silent() -> logging.Logger:
    """Return a logger that says nothing: slack-sdk's own would write addresses and tokens."""
    logger = logging.Logger("tocsin.slack_sdk", level=logging.CRITICAL + 1)
    logger.addHandler(logging.NullHandler())
    return logger
