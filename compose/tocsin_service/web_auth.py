"""Who may ask: passwords, headers and the rate of `--web.config.file`, around any ASGI app."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import bcrypt
import pydantic
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tocsin_service.web_config import RateLimit, WebFile

REMEMBERED: Final = 100
"""Answers to passwords that are kept, right ones and wrong ones apart."""
WAITING: Final = 64
"""Unknown passwords that wait to be checked; more are asked to come again."""
BCRYPT_LIMIT: Final = 72
"""Bytes of a password that bcrypt looks at."""


class Guard:
    """Wraps an ASGI app: 401 without a right password, 429 above the rate, and the headers on every answer.

    Args:
        clock: seconds, for the rate.
    """

    def __init__(self, app: ASGIApp, file: WebFile, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._file = file
        self._passwords = Passwords()
        self._bucket = _Bucket(clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        settings = self._file.settings()
        answer = _dressed(send, settings.http_server_config.headers)
        refusal: PlainTextResponse | None = None
        if not self._bucket.take(settings.rate_limit):
            refusal = PlainTextResponse("Too many requests; come again in a moment.\n", status_code=429)
        elif settings.basic_auth_users:
            refusal = await self._refusal(Headers(scope=scope), settings.basic_auth_users)
        if refusal is None:
            await self._app(scope, receive, answer)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, answer)

    async def _refusal(self, headers: Headers, users: Mapping[str, pydantic.SecretStr]) -> PlainTextResponse | None:
        given = credentials(headers.get("authorization", ""))
        if given is not None:
            name, password = given
            right = await self._passwords.check(name, password, users)
            if right:
                return None
            if right is None:
                text = "Too many passwords are being checked; come again in a moment.\n"
                return PlainTextResponse(text, status_code=503, headers={"Retry-After": "5"})
        ask = {"WWW-Authenticate": 'Basic realm="tocsin", charset="UTF-8"'}
        return PlainTextResponse("Unauthorized\n", status_code=401, headers=ask)


def _cost(hashed: str) -> str:
    return hashed.split("$")[2]


def matches(password: bytes, hashed: str) -> bool:
    """Return whether `password` is the one of a bcrypt hash."""
    try:
        return bcrypt.checkpw(password[:BCRYPT_LIMIT], hashed.encode())
    except ValueError:
        return False


class Passwords:
    """Checks passwords against bcrypt hashes in a thread, one at a time, and remembers the answers.

    A check takes a hash of some 70 ms of CPU: Prometheus' posts must not pay that each time, nor everybody else wait
    for somebody who guesses. Answers are kept under a keyed digest, so that memory holds no password.
    """

    def __init__(self, *, matches: Callable[[bytes, str], bool] = matches) -> None:
        self._matches = matches
        self._key = secrets.token_bytes(32)
        self._known: dict[bool, OrderedDict[bytes, None]] = {True: OrderedDict(), False: OrderedDict()}
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def check(self, name: str, password: bytes, users: Mapping[str, pydantic.SecretStr]) -> bool | None:
        """Return whether `password` is that of `name`; None is "ask later"."""
        # A name that nobody has is checked against somebody's hash, so that it takes as long as one that exists.
        hashed = max((each.get_secret_value() for each in users.values()), key=_cost)
        known = name in users
        if known:
            hashed = users[name].get_secret_value()
        digest = self._digest(name, password, hashed, known)
        if (answer := self._recall(digest)) is not None:
            return answer
        if self._waiting >= WAITING:
            return None
        self._waiting += 1
        try:
            async with self._turn:
                if (answer := self._recall(digest)) is not None:
                    return answer
                right = await asyncio.to_thread(self._matches, password, hashed) and known
        finally:
            self._waiting -= 1
        kept = self._known[right]
        kept[digest] = None
        if len(kept) > REMEMBERED:
            kept.popitem(last=False)
        return right

    def _recall(self, digest: bytes) -> bool | None:
        for right, kept in self._known.items():
            if digest in kept:
                kept.move_to_end(digest)
                return right
        return None

    def _digest(self, name: str, password: bytes, hashed: str, known: bool) -> bytes:
        parts = (name.encode(), password, hashed.encode(), bytes([known]))
        return hashlib.blake2b(b"".join(len(part).to_bytes(8) + part for part in parts), key=self._key).digest()


def credentials(header: str) -> tuple[str, bytes] | None:
    """Return name and password of an `Authorization: Basic` header (RFC 7617), or None where it holds none."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (name.decode(), password) if colon else None
    except (binascii.Error, UnicodeDecodeError):
        return None


class _Bucket:
    """A token bucket, whose size may change from one request to the next."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spent = 0.0
        self._at = clock()

    def take(self, limit: RateLimit) -> bool:
        if not limit.interval:
            return True
        now = self._clock()
        self._spent = max(0.0, self._spent - (now - self._at) / limit.interval)
        self._at = now
        if self._spent + 1 > limit.burst:
            return False
        self._spent += 1
        return True


def _dressed(send: Send, headers: Mapping[str, str]) -> Send:
    if not any(headers.values()):
        return send

    async def give(message: Message) -> None:
        if message["type"] == "http.response.start":
            shown = MutableHeaders(scope=message)
            for name, value in headers.items():
                if value:
                    shown[name] = value
        await send(message)

    return give
