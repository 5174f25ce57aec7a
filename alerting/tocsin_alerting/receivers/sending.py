"""What all receivers share: how settings inherit, how a request is sent, and how its failure is named."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

import httpx
import orjson

from tocsin_alerting.model import Notification
from tocsin_alerting.receivers.clients import Clients
from tocsin_alerting.receivers.http_config import HttpConfig
from tocsin_alerting.receivers.revealing import concealed as concealed  # noqa: PLC0414 - for all receivers
from tocsin_alerting.receivers.revealing import reveal as reveal  # noqa: PLC0414 - likewise
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_alerting.templates import Data, TemplateError, Templates, data
from tocsin_service.http import Failure, RequestError
from tocsin_service.settings import Settings

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds for one attempt."""


class Missing(ValueError):  # noqa: N818 - it is told as a problem of the configuration, not raised through
    """Settings that `global` does not complete either; `what`, `expected`, `fix` as for a configuration problem."""

    def __init__(self, what: str, *, expected: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.fix = fix


class ReceiverSettings(Settings):
    """Settings every integration has."""

    send_resolved: bool = True
    http_config: HttpConfig | None = None

    def inherit(self, shared: GlobalSettings) -> Self:
        """Return the settings with what they do not say taken from `global`; kinds with more to take extend it.

        Raises:
            Missing: something is required and stands nowhere.
        """
        if self.http_config is None and shared.http_config is not None:
            return self.model_copy(update={"http_config": shared.http_config})
        return self


@dataclass(frozen=True, slots=True)
class Sending:
    """What a receiver needs to send: HTTP clients, templates, the time, and the terminal if there is one."""

    http: Clients
    templates: Templates
    now: Callable[[], float] = time.time
    terminal: Callable[[str], None] | None = None
    memory: dict[str, object] = field(default_factory=dict)
    """What a kind keeps between messages (an access token, say), under a key that begins with its name."""

    def text(self, source: str, notification: Notification) -> str:
        """Render a template of the settings.

        Raises:
            RequestError: it fails; trying again would not help.
        """
        return self._render(self.templates.text, source, notification)

    def html(self, source: str, notification: Notification) -> str:
        """Render a template with HTML escaping; raises like `text`."""
        return self._render(self.templates.html, source, notification)

    def _render(self, render: Callable[[str, Data], str], source: str, notification: Notification) -> str:
        if "{{" not in source:
            return source
        try:
            return render(source, self._data(notification))
        except TemplateError as error:
            message = f"a template failed: {error}"
            raise RequestError(message, reason=Failure.OTHER, permanent=True) from error

    def _data(self, notification: Notification) -> Data:
        # A message has a dozen templates, rendered one after the other from the same.
        kept = self.memory.get(_DATA)
        if not isinstance(kept, _Kept) or kept.notification is not notification:
            kept = self.memory[_DATA] = _Kept(notification, data(notification))
        return kept.found

    async def post_json(
        self,
        url: str,
        body: object,
        settings: ReceiverSettings,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        timeout: float = 0.0,
        secrets: tuple[str, ...] = (),
        retry: frozenset[int] = frozenset(),
    ) -> httpx.Response:
        """Send `body` as JSON with a newline at its end, as Alertmanager does, and return the 2xx answer.

        Args:
            secrets: what no error may show beside the URL: keys in `body` or `headers`.
            timeout: seconds for the attempt; 0 is the default.
            retry: statuses besides 5xx (and 429 with `Retry-After`) after which the same message is tried again.

        Raises:
            RequestError: it was not taken.
        """
        content = orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE)
        return await self.request(
            method,
            url,
            settings,
            content=content,
            headers={"Content-Type": "application/json", **(headers or {})},
            timeout=timeout,
            secrets=secrets,
            retry=retry,
        )

    async def request(
        self,
        method: str,
        url: str,
        settings: ReceiverSettings,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 0.0,
        secrets: tuple[str, ...] = (),
        retry: frozenset[int] = frozenset(),
    ) -> httpx.Response:
        """Send one request through the receiver's own `http_config`; see `post_json`."""
        try:
            return await self.http.request(
                method,
                url,
                content=content,
                headers=headers or {},
                timeout=timeout or DEFAULT_TIMEOUT,
                config=settings.http_config,
                retry=retry,
            )
        except RequestError as error:
            raise concealed(error, url, *secrets) from None


@dataclass(frozen=True, slots=True)
class _Kept:
    notification: Notification
    found: Data


_DATA: Final = "sending.data"
