"""Requests to receivers, as their `http_config` has it: credentials, proxies, TLS, redirects, and one deadline.

Alertmanager's client is Go's; what differs is said where it does:

- A redirect to another origin gets the message, but nothing that says who we are; one from https to http is refused.
- A POST that is moved for good (301) stays a POST. Go makes it a GET, whose 200 would pass for a delivery.
- The environment's proxies count only with `proxy_from_environment: true`, which is the same.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import pydantic

from tocsin_alerting.receivers.fields import is_url
from tocsin_alerting.receivers.http_config import HttpConfig
from tocsin_alerting.receivers.oauth2 import Tokens
from tocsin_alerting.receivers.revealing import concealed, reveal
from tocsin_alerting.receivers.ways import Header, Way, Ways
from tocsin_service import http
from tocsin_service.http import Failure, RequestError, redact_url

REDIRECTS: Final = 10
"""Redirects that are followed, one after the other."""

_DEFAULT: Final = HttpConfig()
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_BECOMES_GET: Final = frozenset({302, 303})
_PORTS: Final = {"http": 80, "https": 443}


class Clients:
    """Every outgoing request of the router.

    Args:
        user_agent: `tocsin/<version>`.
        environ: the process' environment, for `proxy_from_environment`.
        monotonic: seconds that only go forward; OAuth2 tokens end by them.
    """

    def __init__(
        self, *, user_agent: str, environ: Mapping[str, str], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._environ = environ
        self._ways = Ways(user_agent=user_agent)
        self._tokens = Tokens(self._ways, environ=environ, monotonic=monotonic)

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
        """Send one request and return the 2xx answer.

        Args:
            headers: an `Authorization` among them goes before that of `config`.
            timeout: seconds for all of it: token, redirects and answer.
            retry: statuses besides 5xx, and 429 with `Retry-After`, after which the same may be sent again.

        Raises:
            RequestError: any other answer, or none; its words hold no secret of `config`.
        """
        if not is_url(url):
            message = f"{redact_url(url)} is not a URL that can be called"
            raise RequestError(message, reason=Failure.CLIENT_ERROR, permanent=True)
        config = config or _DEFAULT
        secrets: set[str] = set()
        try:
            async with asyncio.timeout(timeout):
                credentials = _credentials(config)
                secrets |= credentials.secrets
                sent = _Request(method, url, tuple(headers.items()), content)
                response = await self._follow(sent, config, credentials, secrets)
        except TimeoutError as error:
            raise RequestError(f"{redact_url(url)} did not answer in time", reason=Failure.TIMEOUT) from error
        except RequestError as error:
            raise concealed(error, *secrets) from error
        if response.answer.is_success:
            return response.answer
        raise concealed(_refusal(response, retry), *secrets)

    async def close(self) -> None:
        """Close all connections."""
        await self._ways.close()

    async def _follow(
        self, request: _Request, config: HttpConfig, credentials: _Credentials, secrets: set[str]
    ) -> _Response:
        url = request.url
        for _ in range(REDIRECTS + 1):
            trusted = _same_origin(url, request.url)
            answer = await self._send(request if trusted else request.bare(), config, credentials, secrets, trusted)
            location = answer.headers.get("location")
            if not config.follow_redirects or answer.status_code not in _MOVED or location is None:
                return _Response(request.url, answer, redirected=request.url != url)
            request = request.moved(answer.status_code, location)
        message = f"{redact_url(url)} redirects without end"
        raise RequestError(message, reason=Failure.CLIENT_ERROR, permanent=True)

    async def _send(
        self, request: _Request, config: HttpConfig, credentials: _Credentials, secrets: set[str], trusted: bool
    ) -> httpx.Response:
        way = Way.to(request.url, config, config.tls_config, self._environ, http2=config.enable_http2)
        headers = list(request.headers)
        own = any(name.lower() == "authorization" for name, _ in headers)
        if trusted:
            headers += credentials.headers
        if trusted and not own and credentials.authorization is not None:
            headers.append(("Authorization", credentials.authorization))
        if not trusted or own or config.oauth2 is None:
            return await self._ways.call(way, request.method, request.url, headers=headers, content=request.content)
        refused: str | None = None
        while True:
            token = await self._tokens.authorization(config.oauth2, refused=refused)
            secrets.add(token.partition(" ")[2])
            answer = await self._ways.call(
                way,
                request.method,
                request.url,
                headers=[*headers, ("Authorization", token)],
                content=request.content,
            )
            if answer.status_code != 401 or refused is not None:
                return answer
            refused = token  # it may have been withdrawn before its time: once more with a fresh one


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    url: str
    headers: tuple[Header, ...]
    content: bytes | None

    def bare(self) -> _Request:
        """Return it for somebody else: what it is, but not from whom."""
        kept = tuple((name, value) for name, value in self.headers if name.lower() == "content-type")
        return replace(self, headers=kept)

    def moved(self, status: int, location: str) -> _Request:
        """Return what is sent after a redirect.

        Raises:
            RequestError: it leads nowhere, or out of TLS.
        """
        try:
            url = str(httpx.URL(self.url).join(location))
        except httpx.InvalidURL:
            url = ""
        scheme = urlsplit(url).scheme
        if scheme not in _PORTS or (scheme == "http" and self.url.lower().startswith("https:")):
            where = "from https to http" if scheme == "http" else "to an address that cannot be called"
            message = f"{redact_url(self.url)} redirects {where}"
            raise RequestError(message, reason=Failure.CLIENT_ERROR, permanent=True)
        if status in _BECOMES_GET and self.method != "HEAD":
            without = tuple((name, value) for name, value in self.headers if name.lower() != "content-type")
            return _Request("GET", url, without, None)
        return replace(self, url=url)


@dataclass(frozen=True, slots=True)
class _Response:
    url: str
    answer: httpx.Response
    redirected: bool


@dataclass(frozen=True, slots=True)
class _Credentials:
    """What a configuration adds to a request, read from its files now."""

    headers: tuple[Header, ...]
    authorization: str | None
    secrets: frozenset[str]


def _credentials(config: HttpConfig) -> _Credentials:
    headers = [
        (name, value)
        for name, header in config.http_headers.items()
        for value in (
            *header.values,
            *(each.get_secret_value() for each in header.secrets),
            *(_read(None, file) for file in header.files),
        )
    ]
    open_values = {value for header in config.http_headers.values() for value in header.values}
    secrets = {value for _, value in headers} - open_values
    authorization = None
    if config.basic_auth is not None:
        basic = config.basic_auth
        username = basic.username if basic.username is not None else _read(None, basic.username_file)
        password = _read(basic.password, basic.password_file)
        encoded = base64.b64encode(f"{username}:{password}".encode()).decode()
        authorization = f"Basic {encoded}"
        secrets |= {password, encoded}
    elif (given := config.credentials) is not None:
        credentials = _read(given.credentials, given.credentials_file)
        authorization = f"{given.type} {credentials}"
        secrets.add(credentials)
    return _Credentials(tuple(headers), authorization, frozenset(secrets - {""}))


def _read(value: pydantic.SecretStr | None, file: Path | None) -> str:
    return "" if value is None and file is None else reveal(value, file)


def _same_origin(first: str, second: str) -> bool:
    """Return whether the second is the same server, or the same over TLS."""
    one, other = _origin(first), _origin(second)
    return one == other or (one[1] == other[1] and one[::2] == ("http", 80) and other[::2] == ("https", 443))


def _origin(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        return parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return "", "", 0


def _refusal(response: _Response, retry: frozenset[int]) -> RequestError:
    answer = response.answer
    # What another server says about an address that it made up itself may quote a secret of its own.
    body = "" if response.redirected else answer.text
    error = http.refused(response.url, answer.status_code, answer.headers, body)
    permanent = error.permanent
    if answer.status_code in retry:
        permanent = False
    elif answer.status_code == 429 and error.retry_after is None:
        permanent = True  # nobody says when to come back: the next tick of the group will
    wait = error.retry_after if error.retry_after is not None else http.retry_after(answer.headers)
    return RequestError(str(error), reason=error.reason, permanent=permanent, retry_after=None if permanent else wait)
