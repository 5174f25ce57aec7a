"""Posts alerts to every router, each at its own pace: what was not accepted is kept and tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import httpx
import orjson
from prometheus_client import Counter

from tocsin_service import telemetry
from tocsin_service.clock import Clock
from tocsin_service.http import Backoff, Outbound, RequestError, redact_url
from tocsin_uptime.alerts import Alert, Board, Receipts
from tocsin_uptime.config import Alertmanager

OUTCOMES: Final = ("accepted", "failed")
"""The `outcome` labels of posts."""
_BATCH: Final = 100
_BACKOFF = Backoff(initial=0.5, factor=1.5, maximum=10.0)
"""A router that is back hears of everything within some 15 seconds."""


class Posts:
    """The alerts on the board, and one poster for each router.

    Args:
        transports: base URL of a router -> where its requests go instead of the network.
        outcomes: counts posts by outcome.
    """

    def __init__(
        self,
        alertmanagers: Iterable[Alertmanager],
        *,
        clock: Clock,
        transports: Mapping[str, httpx.AsyncBaseTransport],
        outcomes: Counter,
    ) -> None:
        self.board = Board()
        self._clock = clock
        self._transports = {url.rstrip("/"): transport for url, transport in transports.items()}
        self._outcomes = outcomes
        self._changed = asyncio.Event()
        self._posters: dict[Alertmanager, _Poster] = {}
        self.replace(alertmanagers)

    def replace(self, alertmanagers: Iterable[Alertmanager]) -> None:
        """Tell exactly these routers; those known keep what they have accepted."""
        before, self._posters = self._posters, {}
        for router in alertmanagers:
            self._posters[router] = before[router] if router in before else self._poster(router)
        self._changed.set()

    def put_up(self, alert: Alert) -> None:
        """Have every router know `alert`; a new one, or one with a new state, is posted at once."""
        if self.board.post(alert):
            for poster in self._posters.values():
                poster.news.set()

    async def run(self) -> None:
        """Post until cancelled."""
        while True:
            self._changed.clear()
            posters = list(self._posters.values())
            tasks = [asyncio.create_task(poster.run()) for poster in posters]
            try:
                await self._changed.wait()
            finally:
                await _end(tasks)
                await asyncio.gather(*(poster.close() for poster in posters))

    async def finish(self) -> None:
        """Post what is owed once more, for a prober that stops, and close all connections."""
        try:
            await asyncio.gather(*(poster.turn() for poster in self._posters.values()))
        finally:
            await asyncio.gather(*(poster.close() for poster in self._posters.values()))

    def _poster(self, router: Alertmanager) -> _Poster:
        return _Poster(router, self._transports.get(router.url.rstrip("/")), self)

    def prune(self) -> None:
        """Take down alerts that nobody needs any more."""
        self.board.prune((poster.receipts for poster in self._posters.values()), self._clock.now())

    def count(self, outcome: str) -> None:
        """Count one post."""
        self._outcomes.labels(outcome).inc()

    @property
    def clock(self) -> Clock:
        """The prober's clock."""
        return self._clock


class _Poster:
    """One router's share."""

    def __init__(self, router: Alertmanager, transport: httpx.AsyncBaseTransport | None, posts: Posts) -> None:
        self.receipts = Receipts(router.resend)
        self.news = asyncio.Event()
        self._router = router
        self._transport = transport
        self._posts = posts
        self._client: Outbound | None = None
        self._away = False
        self._log = telemetry.logger("tocsin.uptime.posts").bind(router=redact_url(router.url))

    async def run(self) -> None:
        clock = self._posts.clock
        attempt = 0
        while True:
            self.news.clear()
            if await self.turn():
                attempt = 0
                due = self.receipts.next_due(self._posts.board)
                await clock.wait(self.news, None if due is None else due - clock.now())
            else:
                await clock.sleep(_BACKOFF.delay(attempt))
                attempt += 1

    async def turn(self) -> bool:
        """Post everything that is owed; return whether all of it was accepted."""
        posts = self._posts
        owed = self.receipts.owed(posts.board, posts.clock.now())
        for start in range(0, len(owed), _BATCH):
            if not await self._post(owed[start : start + _BATCH]):
                return False
        posts.prune()
        return True

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _post(self, alerts: Sequence[Alert]) -> bool:
        now = self._posts.clock.now()
        content = orjson.dumps([alert.payload(now, self._router.resend) for alert in alerts])
        try:
            if self._client is None:
                self._client = Outbound(user_agent="tocsin-uptime", transport=self._transport)
            headers = {"Content-Type": "application/json"}
            await self._client.post(f"{self._router.url}/api/v2/alerts", content=content, headers=headers)
        except Exception as error:
            # Whatever it is: alerts are kept, and the next attempt may do better.
            self._failed(error)
            return False
        self._posts.count("accepted")
        self.receipts.accept(alerts, now)
        if self._away:
            self._log.info("the alert router takes alerts again")
        self._away = False
        return True

    def _failed(self, error: Exception) -> None:
        self._posts.count("failed")
        if not self._away:
            reason = str(error) if isinstance(error, RequestError) else type(error).__name__
            self._log.error("the alert router does not take alerts, they are kept and sent again", reason=reason)
        self._away = True


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
