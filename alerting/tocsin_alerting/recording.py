"""Stands where a receiver's HTTP client would and writes down what is asked, without its secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import httpx
import pydantic

from tocsin_alerting.receivers.clients import Clients
from tocsin_alerting.receivers.http_config import HttpConfig
from tocsin_service.http import RequestError, redact_url
from tocsin_service.settings import SecretError, Settings, secret

HIDDEN: Final = "<secret>"
_PLAIN_HEADERS: Final = frozenset({"content-type", "idempotency-key", "user-agent", "accept"})
_ENVELOPE: Final = frozenset({"MIME-Version", "Content-Type"})
_UNREAD: Final = frozenset({"style", "script", "title"})
_BLOCKS: Final = frozenset({"p", "div", "br", "tr", "table", "li", "ul", "h1", "h2", "h3", "hr"})
_XML: Final = frozenset({"sns"})
_ANSWER: Final[dict[str, Any]] = {
    "ok": True,
    "success": True,
    "status": 1,
    "result": {"message_id": 1},
    "errcode": 0,
    "access_token": "drill",
    "expires_in": 7200,
    "ts": "1.0",
    "channel": "drill",
    "id": "1",
    "key": "DRILL-1",
    "issues": [],
    "transitions": [],
    "total": 0,
}
"""An answer that every kind takes for a success."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request, and the status and text of the real answer if it was really sent."""

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes
    status: int | None = None
    answer: str = ""

    def plain(self, secrets: frozenset[str]) -> dict[str, Any]:
        """Return it for a person: of the URL only the host, of the body what is no secret."""
        shown: dict[str, Any] = {
            "method": self.method,
            "url": redact_url(self.url),
            "headers": {
                name: conceal(value, secrets) if name.lower() in _PLAIN_HEADERS else HIDDEN
                for name, value in self.headers.items()
            },
            "body": _body(self.content, secrets),
        }
        if self.status is not None:
            shown["answer"] = {"status": self.status, "text": conceal(self.answer, secrets)[:500]}
        return shown


class Recorder(Clients):
    """Writes down requests; with `real` it sends them too, without it each is answered as if it had been taken."""

    def __init__(self, kind: str, real: Clients | None) -> None:
        super().__init__(user_agent="", environ={})
        self.requests: list[Recorded] = []
        self._kind = kind
        self._real = real

    async def request(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None,
        headers: Mapping[str, str],
        timeout: float,
        config: HttpConfig | None = None,
        retry: frozenset[int] = frozenset(),
    ) -> httpx.Response:
        """See `Clients.request`."""
        asked = (method, url, dict(headers), content or b"")
        if self._real is None:
            self.requests.append(Recorded(*asked))
            return _taken(self._kind, method, url)
        try:
            answer = await self._real.request(
                method, url, content=content, headers=headers, timeout=timeout, config=config, retry=retry
            )
        except RequestError:
            self.requests.append(Recorded(*asked))
            raise
        self.requests.append(Recorded(*asked, answer.status_code, answer.text))
        return answer


def _taken(kind: str, method: str, url: str) -> httpx.Response:
    request = httpx.Request(method, url)
    if kind in _XML:
        text = "<PublishResponse><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>"
        return httpx.Response(200, text=text, headers={"Content-Type": "text/xml"}, request=request)
    return httpx.Response(200, json=_ANSWER, request=request)


def secrets_of(settings: Settings) -> frozenset[str]:
    """Return every secret of an integration, files included; of secret URLs the path too."""
    found: set[str] = set()
    for text in _secrets(settings):
        found.add(text)
        if "://" in text:
            found.add(text.partition("://")[2].partition("/")[2])
    return frozenset(text for text in found if len(text) > 1)


def _secrets(value: object) -> Iterator[str]:
    if isinstance(value, pydantic.SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, Settings):
        for name in type(value).model_fields:
            each = getattr(value, name)
            if isinstance(each, Path) and name.endswith("_file"):
                yield from _in_file(each)
            else:
                yield from _secrets(each)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _secrets(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _secrets(each)


def _in_file(path: Path) -> Iterator[str]:
    try:
        yield secret(None, path)
    except SecretError:
        return  # sending says so


def conceal(text: str, secrets: frozenset[str]) -> str:
    """Return `text` without any of `secrets`, the longest first: others are parts of it."""
    for each in sorted(secrets, key=len, reverse=True):
        text = text.replace(each, HIDDEN)
    return text


def _body(content: bytes, secrets: frozenset[str]) -> Any:
    text = content.decode(errors="replace")
    try:
        return _hidden(json.loads(text), secrets)
    except ValueError:
        return conceal(text, secrets)


def _hidden(value: Any, secrets: frozenset[str]) -> Any:
    match value:
        case str():
            return conceal(value, secrets)
        case list():
            return [_hidden(each, secrets) for each in value]
        case dict():
            return {name: _hidden(each, secrets) for name, each in value.items()}
        case _:
            return value


def readable(mail: EmailMessage) -> str:
    """Return a mail as a person reads it: its headers, and the text; of one that is HTML alone, the words of it."""
    head = "\n".join(f"{name}: {value}" for name, value in mail.items() if name not in _ENVELOPE)
    part = mail.get_body(("plain", "html"))
    content = "" if part is None else part.get_content()
    if part is not None and part.get_content_subtype() == "html":
        words = _Words()
        words.feed(content)
        content = words.text()
    return f"{head}\n\n{content.strip()}"


class _Words(HTMLParser):
    """Keeps what of a page is read: no styles, and one line for each block."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[str] = []
        self._unread = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._unread += tag in _UNREAD
        self._parts.append("\n" if tag in _BLOCKS else "")

    def handle_endtag(self, tag: str) -> None:
        self._unread -= tag in _UNREAD

    def handle_data(self, data: str) -> None:
        if not self._unread:
            self._parts.append(" ".join(data.split()) and re.sub(r"\s+", " ", data))

    def text(self) -> str:
        lines = (" ".join(line.split()) for line in "".join(self._parts).split("\n"))
        return "\n".join(line for line in lines if line)
