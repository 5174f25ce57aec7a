"""The way in for alerts: nearly all requests are re-posts, so that nothing is between the server and the book."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from tocsin_alerting.answers import HEADERS, problem
from tocsin_alerting.dispatch import NotDurableError
from tocsin_alerting.intake import RefusedError
from tocsin_service import web

Accept = Callable[[bytes], Awaitable[list[str]]]
"""Takes the body of a request and returns what is wrong with those of its alerts that are refused."""

_HEADERS: Final = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
_TAKEN: Final = [*_HEADERS, (b"content-length", b"0")]
_JSON: Final = "application/json"
_DIGITS: Final = len(str(web.DEFAULT_BODY_LIMIT))
"""Content-Lengths with fewer of them are below the limit."""


def fast(app: ASGIApp, path: str, accept: Accept) -> ASGIApp:
    """Return `app` with `POST path` answered here.

    A request that says how long it is and comes from no page of a browser needs no `web.Hardened` around it; any other
    one gets it.

    Args:
        accept: may raise `RefusedError`, which is answered as it says, and `NotDurableError`, which is answered 500.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        kind = _content_type(scope["headers"])
        if body and kind != _JSON:
            message = f'unsupported media type "{kind}", only [{_JSON}] are allowed'
            await _refuse(send, 415, problem(415, message))
            return
        try:
            problems = await accept(body)
        except RefusedError as error:
            await _refuse(send, error.status, problem(error.code, str(error)))
        except NotDurableError as error:
            await _refuse(send, 500, str(error))
        else:
            if problems:
                await _refuse(send, 400, "\n".join(problems))
                return
            await send({"type": "http.response.start", "status": 200, "headers": _TAKEN})
            await send({"type": "http.response.body", "body": b""})

    hardened = web.Hardened(answer)

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != path or scope["method"] != "POST":
            await app(scope, receive, send)
        elif _plain(scope["headers"]):
            await answer(scope, receive, send)
        else:
            await hardened(scope, receive, send)

    return choose


def _plain(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    small = False
    for name, value in headers:
        if name == b"content-length":
            small = len(value) < _DIGITS
        elif name == b"origin":
            return False
    return small


async def _body(receive: Receive) -> bytes | None:
    """Return the body, or None if the client has gone."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return bytes(message.get("body", b""))
    parts: list[bytes] = []
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
    return None


def _content_type(headers: Iterable[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == b"content-type":
            return value.decode("latin-1").partition(";")[0].strip().lower() or "application/octet-stream"
    return "application/octet-stream"


async def _refuse(send: Send, status: int, data: object) -> None:
    body = orjson.dumps(data)
    headers = [*_HEADERS, (b"content-type", _JSON.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
