"""Answers in Alertmanager's forms: bare JSON strings from handlers, `{"code", "message"}` from the request layer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Final

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

HEADERS: Final = {"Cache-Control": "no-store", "Vary": "Origin"}
"""Of every answer of the API. Alertmanager also lets every page of every origin read it; we do not."""


class BadRequestError(Exception):
    """A request that is answered 400 with its reason as a bare JSON string, as Alertmanager's handlers do."""


def json_answer(data: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return `data` as JSON."""
    return Response(
        orjson.dumps(data), status_code=status, media_type="application/json", headers={**HEADERS, **(headers or {})}
    )


def problem(code: int, message: str) -> dict[str, object]:
    """Return the body of a refusal by the request layer."""
    return {"code": code, "message": message}


async def on_bad_request(_: Request, error: Exception) -> Response:
    """Answer a `BadRequestError`."""
    return json_answer(str(error), 400)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer an unknown path or a wrong method: as Alertmanager's API does within it, in plain text elsewhere."""
    if not isinstance(error, HTTPException):
        raise error
    status, message, headers = error.status_code, error.detail, dict(error.headers or {})
    path = request.url.path
    if "/api/v2/" not in path:
        text = "404 page not found" if status == 404 else message
        return PlainTextResponse(f"{text.rstrip()}\n", status_code=status, headers=headers)
    if status == 404:
        message = f"path {path} was not found"
    elif status == 405:
        allowed = ",".join(name.strip() for name in headers.get("Allow", "").split(","))
        message = f"method {request.method} is not allowed, but [{allowed}] are"
    return json_answer(problem(status, message), status, headers)


class Pieces(Response):
    """A JSON document that is made in pieces; other tasks have their turn between two of them.

    One piece is sent as any answer is; more are sent as they are made, so that a list of a hundred thousand alerts is
    never whole in memory.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__(media_type="application/json", headers=HEADERS)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        start = {"type": "http.response.start", "status": self.status_code}
        first, second = next(self._pieces, b""), next(self._pieces, None)
        if second is None:
            await send(start | {"headers": [*headers, (b"content-length", b"%d" % len(first))]})
            await send({"type": "http.response.body", "body": first})
            return
        await send(start | {"headers": headers})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        await send({"type": "http.response.body", "body": second, "more_body": True})
        for piece in self._pieces:
            await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
