"""Outbound HTTP: one client per process part, failures with a reason, backoff, and no secret in any message."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

import httpx

_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


class Failure(StrEnum):
    """Why a request was not taken; also the `reason` label of metrics (Alertmanager's names)."""

    CLIENT_ERROR = "clientError"
    AUTH_ERROR = "authError"
    RATE_LIMITED = "rateLimited"
    SERVER_ERROR = "serverError"
    TIMEOUT = "contextDeadlineExceeded"
    OTHER = "other"


class RequestError(Exception):
    """A request that was not taken.

    Attributes:
        reason: the class of failure.
        permanent: the same request will never be taken; do not send it again.
        retry_after: seconds the receiver asks us to wait, or None.
    """

    def __init__(
        self, message: str, *, reason: Failure, permanent: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.permanent = permanent
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts: `initial * factor**n`, at most `maximum`, spread by `jitter` (0.5: give or take half)."""

    initial: float = 0.5
    factor: float = 1.5
    maximum: float = 60.0
    jitter: float = 0.5

    def delay(self, attempt: int, *, uniform: Callable[[float, float], float] = random.uniform) -> float:
        """Return the seconds to wait after failed attempt number `attempt`, counted from 0."""
        # The exponent is bounded so that the thousandth attempt does not overflow.
        planned = min(self.maximum, self.initial * self.factor ** min(attempt, 100))
        return planned * uniform(1 - self.jitter, 1 + self.jitter)


class Outbound:
    """An httpx client that turns every failure into a `RequestError` whose message may be shown to anyone.

    Args:
        transport: where requests go; None is the network, `httpx.ASGITransport(app=...)` an app in this process.
        timeout: seconds for a whole attempt.
    """

    def __init__(
        self, *, user_agent: str, timeout: float = 10.0, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._timeout = timeout
        # A proxy of the environment cannot reach this machine's loopback (Go's clients make the same exception).
        direct = dict.fromkeys(f"all://{host}" for host in _LOOPBACK)
        self._client = httpx.AsyncClient(
            transport=transport, mounts=direct, headers={"User-Agent": user_agent}, follow_redirects=False
        )

    async def post(
        self, url: str, *, content: bytes, headers: Mapping[str, str], timeout: float | None = None
    ) -> httpx.Response:
        """POST `content` and return the 2xx answer.

        Raises:
            RequestError: any other answer, or none.
        """
        return await self.request("POST", url, content=content, headers=headers, timeout=timeout)

    async def get(self, url: str, *, timeout: float | None = None) -> httpx.Response:
        """GET and return the 2xx answer; raises like `post`."""
        return await self.request("GET", url, content=None, headers={}, timeout=timeout)

    async def request(
        self, method: str, url: str, *, content: bytes | None, headers: Mapping[str, str], timeout: float | None = None
    ) -> httpx.Response:
        """Send one request and return the 2xx answer; raises like `post`."""
        limit = self._timeout if timeout is None else timeout
        try:
            # httpx bounds each read, not their sum, and a transport into an app of this process knows no limit.
            async with asyncio.timeout(limit):
                response = await self._client.request(method, url, content=content, headers=headers, timeout=limit)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise RequestError(f"{redact_url(url)} did not answer in time", reason=Failure.TIMEOUT) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            message = f"{redact_url(url)} is not a URL that can be called"
            raise RequestError(message, reason=Failure.CLIENT_ERROR, permanent=True) from error
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise RequestError(f"{redact_url(url)}: {reason}", reason=Failure.OTHER) from error
        if response.is_success:
            return response
        raise refused(url, response.status_code, response.headers, response.text)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def refused(url: str, status: int, headers: Mapping[str, str], body: str) -> RequestError:
    """Return the error that an answer other than 2xx stands for."""
    excerpt = " ".join(body.split())[:200]
    message = f"{redact_url(url)} answered {status}" + (f": {excerpt}" if excerpt else "")
    if status in {401, 403}:
        return RequestError(message, reason=Failure.AUTH_ERROR, permanent=True)
    if status == 429:
        return RequestError(message, reason=Failure.RATE_LIMITED, retry_after=retry_after(headers))
    if status >= 500:
        return RequestError(message, reason=Failure.SERVER_ERROR, retry_after=retry_after(headers))
    return RequestError(message, reason=Failure.CLIENT_ERROR, permanent=status != 408)


def retry_after(headers: Mapping[str, str], *, date: str | None = None) -> float | None:
    """Return the seconds of a `Retry-After` header (RFC 9110 section 10.2.3), or None.

    The date form is measured against the answer's own `Date` header, so that our clock does not matter.
    """
    found = {name.lower(): value for name, value in headers.items()}
    value = found.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,6}(\.\d+)?", value):
        return float(value)
    try:
        until = parsedate_to_datetime(value)
        start = parsedate_to_datetime(date or found.get("date", ""))
        return max(0.0, (until - start).total_seconds())
    except (ValueError, TypeError):
        return None


def redact_url(url: str) -> str:
    """Return scheme and host of a URL; path, query and credentials of webhooks are secrets.

    `https://hooks.slack.com/services/T0/B0/x` -> `https://hooks.slack.com/...`
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "<url>"
    if not parts.scheme or not host:
        return "<url>"
    rest = "/..." if parts.path.strip("/") or parts.query else ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{rest}"
