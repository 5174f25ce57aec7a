"""What every page and API of ours has: an address on loopback, limits, and headers that keep browsers honest."""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DEFAULT_BODY_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of a request body; more is answered with 413."""
DEFAULT_TIMEOUT: Final = 30.0
"""Seconds an answer may take to start; then 503."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}


class AddressError(Exception):
    """An address that cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service listens. Port 0 takes a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port`, `[ipv6]:port` or `:port` (all interfaces, as Prometheus' tools read it).

        Raises:
            AddressError: no port, or not a number of 0 to 65535.
        """
        host, colon, port = text.strip().rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise AddressError(f'"{text}" is not an address; write host:port, for example 127.0.0.1:9095')
        return cls(host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port))  # noqa: S104 what ":port" means

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as a person opens it; all interfaces are shown as loopback."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://{Address(host, self.port)}"


def bind(address: Address, *, or_any_port: bool = False) -> socket.socket:
    """Return a listening socket.

    Args:
        or_any_port: where the port is taken, take a free one instead (for defaults that nobody asked for).

    Raises:
        AddressError: the address is taken or not ours; the message says what to do.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            if or_any_port:
                return bind(Address(address.host, 0))
            raise AddressError(f"{address} is in use by another program; stop it or choose another port") from error
        raise AddressError(f"cannot listen on {address}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def bound(listener: socket.socket) -> Address:
    """Return the address a socket has, with its real port."""
    host, port = listener.getsockname()[:2]
    return Address(host, port)


class Hardened:
    """Wraps an ASGI app with limits, security headers and a refusal of cross-site writes.

    A browser that shows a foreign page may still post to a service on loopback; such a request names its page in
    `Origin`, and is answered with 403.
    """

    def __init__(
        self, app: ASGIApp, *, body_limit: int = DEFAULT_BODY_LIMIT, timeout: float | None = DEFAULT_TIMEOUT
    ) -> None:
        self._app = app
        self._body_limit = body_limit
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if refusal := _refusal(scope["method"], headers, self._body_limit):
            await refusal(scope, receive, send)
            return
        exchange = _Exchange(receive, send, self._body_limit)
        try:
            await exchange.run(self._app, scope, self._timeout)
        except _BodyTooLargeError:
            if exchange.started:
                raise
            await _too_large(self._body_limit)(scope, receive, send)
        except TimeoutError:
            if exchange.started:
                raise
            text = "This took too long. Try again, or ask for less.\n"
            await PlainTextResponse(text, status_code=503, headers={"Retry-After": "5"})(scope, receive, send)


class _BodyTooLargeError(HTTPException):
    """Raised inside the app that reads the body; Starlette turns it into the answer before it reaches us."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"The body is larger than {limit} bytes.\n")


class _Exchange:
    """One request and its answer: counts the body, adds headers, and stops the clock when the answer starts."""

    def __init__(self, receive: Receive, send: Send, body_limit: int) -> None:
        self.started = False
        self._receive = receive
        self._send = send
        self._limit = self._left = body_limit
        self._deadline: asyncio.Timeout | None = None

    async def run(self, app: ASGIApp, scope: Scope, timeout: float | None) -> None:
        async with asyncio.timeout(timeout) as self._deadline:
            await app(scope, self._take, self._give)

    async def _take(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise _BodyTooLargeError(self._limit)
        return message

    async def _give(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            if self._deadline is not None:
                self._deadline.reschedule(None)
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


def _refusal(method: str, headers: Headers, body_limit: int) -> PlainTextResponse | None:
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) > body_limit:
        return _too_large(body_limit)
    origin = headers.get("origin")
    if method in _SAFE_METHODS or origin is None or _host(origin) == headers.get("host"):
        return None
    return PlainTextResponse("Requests that change something are taken from our own pages only.\n", status_code=403)


def _host(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # anybody may send anything
        return ""


def _too_large(body_limit: int) -> PlainTextResponse:
    return PlainTextResponse(f"The body is larger than {body_limit} bytes.\n", status_code=413)
