"""Before every endpoint: how many GETs at once, how long a request may take, and what is counted of it."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final

from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tocsin import names
from tocsin_alerting.options import Options
from tocsin_service import telemetry

_PATHS: Final = frozenset(
    {
        *("/", "/metrics", "/-/healthy", "/-/ready", "/-/reload"),
        *(f"/api/v2/{name}" for name in ("alerts", "alerts/groups", "receivers", "silences", "status")),
        *(f"/api/v1/{name}" for name in ("alerts", "notifications", "receivers", "silences", "status", "acks")),
    }
)
_BEGINNINGS: Final = {
    "/api/v2/silence/": "/api/v2/silence/{silenceID}",
    "/api/v1/silence/": "/api/v1/silence/{silenceID}",
    "/api/v1/alerts/": "/api/v1/alerts/{fingerprint}",
    "/api/v1/acks/": "/api/v1/acks/{id}",
    "/api/v1/sources/": "/api/v1/sources/{name}",
    "/static/": "/static/",
    "/-/": "/-/",
}
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


def handler(path: str) -> str:
    """Return the name that requests for `path` are counted under: anybody may ask for any path."""
    if path in _PATHS:
        return path
    return next((name for beginning, name in _BEGINNINGS.items() if path.startswith(beginning)), "other")


class Front:
    """Wraps the whole app of the router.

    `/metrics` and `/-/` are always answered: whoever asks there wants to know how bad it is. So are the files of the
    page, which a browser asks for a dozen at a time.
    """

    def __init__(self, app: ASGIApp, options: Options, registry: CollectorRegistry) -> None:
        self._app = app
        self._prefix = options.route_prefix
        self._limit = options.get_concurrency or max(8, os.cpu_count() or 1)
        self._timeout = options.web_timeout
        self._gets = 0
        self._seconds = telemetry.histogram(names.ROUTER_HTTP_SECONDS, registry)
        self._bytes = telemetry.histogram(names.ROUTER_HTTP_BYTES, registry)
        self._limited = telemetry.counter(names.ROUTER_HTTP_LIMITED, registry).labels("get")
        telemetry.gauge(names.ROUTER_HTTP_IN_FLIGHT, registry).labels("get").set_function(lambda: self._gets)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = handler(scope["path"].removeprefix(self._prefix))
        method = scope["method"]
        if method != "GET" or name.startswith(("/-/", "/metrics", "/static/")):
            await self._answer(scope, receive, send, name, method)
        elif self._gets >= self._limit:
            self._limited.inc()
            text = f"{self._limit} GET requests are being answered already, which is the limit; try again later.\n"
            await PlainTextResponse(text, status_code=503)(scope, receive, send)
        else:
            self._gets += 1
            try:
                await self._answer(scope, receive, send, name, method)
            finally:
                self._gets -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send, name: str, method: str) -> None:
        answer = _Answer(send)
        begun = time.perf_counter()
        try:
            if self._timeout:
                await self._in_time(scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        finally:
            verb = method.lower() if method in _METHODS else "other"
            self._seconds.labels(name, verb, answer.status).observe(time.perf_counter() - begun)
            self._bytes.labels(name, verb).observe(answer.size)

    async def _in_time(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            async with asyncio.timeout(self._timeout) as limit:
                await self._app(scope, receive, answer)
        except TimeoutError:
            if answer.started or not limit.expired():
                raise
            text = f"Exceeded configured timeout of {self._timeout:g}s.\n"
            await PlainTextResponse(text, status_code=503)(scope, receive, answer)


class _Answer:
    """Looks on as an answer is sent."""

    __slots__ = ("_send", "size", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.size = 0

    @property
    def started(self) -> bool:
        return self.status != 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.size += len(message.get("body", b""))
        await self._send(message)
