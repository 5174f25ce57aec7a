"""Ways out: one pooled HTTP client per TLS material and proxy, kept while it is used, and every failure named.

A way does not bound its connections: a receiver that hangs holds as many as it has messages under way (`deliver`
bounds those), and never one that another receiver waits for.
"""

from __future__ import annotations

import contextlib
import http.cookiejar
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import httpx

from tocsin_alerting.receivers import tls
from tocsin_alerting.receivers.http_config import ProxyOptions, TlsConfig
from tocsin_alerting.receivers.proxies import proxy_for
from tocsin_service.http import Failure, RequestError, redact_url

KEPT: Final = 64
"""Ways that are kept for the next message."""
BODY_LIMIT: Final = 1024 * 1024
"""Bytes of an answer that are read; no receiver has more to say."""
_POOL: Final = httpx.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=30.0)

Header = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Way:
    """What makes two requests share a client."""

    tls: tls.Material | None
    """None where no TLS is spoken, and none has to be made ready."""
    http2: bool
    proxy: str | None = field(repr=False)
    connect: tuple[Header, ...] = field(repr=False)
    """Headers for the proxy alone, sent when a tunnel is opened."""

    @classmethod
    def to(
        cls, url: str, options: ProxyOptions, tls_config: TlsConfig, environ: Mapping[str, str], *, http2: bool
    ) -> Self:
        """Return the way to `url` as the configuration has it now.

        Raises:
            RequestError: a file of `tls_config` cannot be read.
        """
        proxy = proxy_for(url, options, environ)
        secure = url.lower().startswith("https:")
        # A request without TLS is handed to the proxy whole: its headers would go on to the receiver.
        headers = options.proxy_connect_header.items() if proxy is not None and secure else ()
        connect = tuple((name, value.get_secret_value()) for name, values in headers for value in values)
        needed = secure or (proxy is not None and proxy.startswith("https:"))
        return cls(tls.material(tls_config) if needed else None, http2, proxy, connect)


class Ways:
    """The clients, made when first needed; the least recently used ones go when there are more than `KEPT`."""

    def __init__(self, *, user_agent: str) -> None:
        self._user_agent = user_agent
        self._open: OrderedDict[Way, _Open] = OrderedDict()

    async def call(
        self, way: Way, method: str, url: str, *, headers: Sequence[Header], content: bytes | None
    ) -> httpx.Response:
        """Send one request and return the answer, whatever it is; the caller bounds the time.

        Raises:
            RequestError: there was no answer.
        """
        fields = [(name.encode(), _sendable(name, value)) for name, value in headers]
        try:
            async with self._client(way) as client:
                request = client.build_request(method, url, headers=fields, content=content)
                return await _read(await client.send(request, stream=True))
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            message = f"{redact_url(url)} is not a URL that can be called"
            raise RequestError(message, reason=Failure.CLIENT_ERROR, permanent=True) from error
        except httpx.TimeoutException as error:
            raise RequestError(f"{redact_url(url)} did not answer in time", reason=Failure.TIMEOUT) from error
        except httpx.HTTPError as error:
            raise RequestError(f"{redact_url(url)}: {_words(error)}", reason=Failure.OTHER) from error

    async def close(self) -> None:
        """Close all connections."""
        while self._open:
            _, entry = self._open.popitem()
            await entry.client.aclose()

    @contextlib.asynccontextmanager
    async def _client(self, way: Way) -> AsyncIterator[httpx.AsyncClient]:
        entry = self._open.get(way)
        if entry is None:
            entry = self._open[way] = _Open(self._make(way))
        self._open.move_to_end(way)
        entry.users += 1
        try:
            await self._let_go()
            yield entry.client
        finally:
            entry.users -= 1

    async def _let_go(self) -> None:
        for way, entry in list(self._open.items()):
            if len(self._open) <= KEPT:
                return
            if not entry.users and self._open.pop(way, None) is not None:
                await entry.client.aclose()

    def _make(self, way: Way) -> httpx.AsyncClient:
        proxy = None
        if way.proxy is not None:
            # The proxy is trusted like the receiver, under its own name.
            secure = way.proxy.startswith("https:")
            towards = tls.context(way.tls, named=False) if secure and way.tls is not None else None
            proxy = httpx.Proxy(way.proxy, headers=list(way.connect), ssl_context=towards)
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if way.tls is None else tls.context(way.tls)
        transport = httpx.AsyncHTTPTransport(verify=verify, http2=way.http2, proxy=proxy, limits=_POOL, trust_env=False)
        # Answers are not unpacked: none is long, and a packed one may be endless. Cookies are nobody's business.
        nobodys = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
        return httpx.AsyncClient(
            transport=transport,
            headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity"},
            cookies=nobodys,
            timeout=httpx.Timeout(None),  # the caller bounds the whole, which no sum of httpx' timeouts does
            follow_redirects=False,
            trust_env=False,
        )


class _Open:
    """A client and how many requests use it now."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.users = 0


async def _read(response: httpx.Response) -> httpx.Response:
    """Return the answer with its body as far as `BODY_LIMIT`, its connection given back."""
    pieces, size = [], 0
    try:
        async for piece in response.aiter_raw():
            pieces.append(piece)
            size += len(piece)
            if size > BODY_LIMIT:
                break
    finally:
        await response.aclose()
    return httpx.Response(
        response.status_code,
        headers=[(k, v) for k, v in response.headers.multi_items() if k not in _FRAMING],
        content=b"".join(pieces)[:BODY_LIMIT],
    )


_FRAMING: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})


def _sendable(name: str, value: str) -> bytes:
    # The protocol's own error would quote the value.
    if any(char in value for char in "\r\n\0"):
        message = f"the header {name} cannot be sent: its value has a line break in it"
        raise RequestError(message, reason=Failure.OTHER)
    return value.encode()


def _words(error: httpx.HTTPError) -> str:
    """Return what went wrong, without what was sent: errors of our own side of the protocol quote headers."""
    if isinstance(error, httpx.LocalProtocolError):
        return "the request breaks the rules of HTTP; look at its headers"
    found: BaseException | None = error
    while found is not None:  # httpx' own words may be none
        if isinstance(found, ssl.SSLError) and found.reason:
            detail = getattr(found, "verify_message", "")
            return f"{found.reason.lower().replace('_', ' ')}{f': {detail}' if detail else ''}"
        if str(found):
            return str(found)
        found = found.__cause__ or found.__context__
    return type(error).__name__
