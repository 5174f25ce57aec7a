"""Fakes and real little servers for tests of services: a clock to turn by hand, a sink that records requests."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tocsin_service import run, web


class FakeClock:
    """A clock that stands still until `advance` turns it; sleepers wake in the order of their instants."""

    def __init__(self, now: float = 1_763_856_000.0) -> None:
        self._now = now
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        woken = self._sleeper(seconds)
        await woken.wait()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        waiting = [asyncio.ensure_future(event.wait())]
        if seconds is not None:
            waiting.append(asyncio.ensure_future(self._sleeper(seconds).wait()))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        return event.is_set()

    async def advance(self, seconds: float) -> None:
        """Turn the clock, stopping at each sleeper's instant so that it acts at its own time."""
        end = self._now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now, _, woken = heapq.heappop(self._sleepers)
            woken.set()
            await settle()
        self._now = end
        await settle()

    def _sleeper(self, seconds: float) -> asyncio.Event:
        woken = asyncio.Event()
        heapq.heappush(self._sleepers, (self._now + max(0.0, seconds), next(self._order), woken))
        return woken


async def settle(turns: int = 20) -> None:
    """Let tasks that are ready run."""
    for _ in range(turns):
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Received:
    """A request that a `Sink` got."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as decoded JSON."""
        return json.loads(self.body)


@dataclass
class Sink:
    """A real HTTP server on loopback that records what it is sent; `answer` decides the response."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    answer: Callable[[Received], Response] = field(default=lambda _: Response("ok"))
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def take(self, count: int, *, timeout: float = 10.0) -> list[Received]:
        """Wait until at least `count` requests have come and return all."""
        async with asyncio.timeout(timeout), self._news:
            await self._news.wait_for(lambda: len(self.received) >= count)
        return self.received

    async def _handle(self, request: Request) -> Response:
        received = Received(request.method, request.url.path, dict(request.headers), await request.body())
        async with self._news:
            self.received.append(received)
            self._news.notify_all()
        return self.answer(received)


@contextlib.asynccontextmanager
async def sink(answer: Callable[[Received], Response] | None = None, *, port: int = 0) -> AsyncIterator[Sink]:
    """Run a `Sink` on `port`, or on a free one."""
    result = Sink()
    if answer is not None:
        result.answer = answer
    methods = ["GET", "POST", "PUT", "DELETE", "HEAD"]
    app = Starlette(routes=[Route("/{path:path}", result._handle, methods=methods)])
    async with serving(app, port=port) as result.url:
        yield result


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, *, port: int = 0) -> AsyncIterator[str]:
    """Serve an ASGI app on loopback, on `port` or a free one, and give its URL."""
    listener = web.bind(web.Address("127.0.0.1", port))
    item = run.Running(run.Service("test", app=app, listener=listener))
    await item.start()
    try:
        yield web.bound(listener).url
    finally:
        await item.stop()


async def eventually(condition: Callable[[], Any], *, timeout: float = 10.0, every: float = 0.02) -> Any:
    """Wait until `condition()` is true and return its value; a coroutine it returns is awaited."""
    async with asyncio.timeout(timeout):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(every)
