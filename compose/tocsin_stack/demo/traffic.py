"""Customers of the shop: ten gentle requests a second over real HTTP, with the mistakes that customers make."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

import httpx

from tocsin_service import telemetry

RATE: Final = 10.0
"""Requests started each second."""
AT_ONCE: Final = 8
"""Requests that may be under way; beyond that customers stay away instead of queueing up."""

Credentials = Literal["none", "good", "garbled"]


@dataclass(frozen=True, slots=True)
class Step:
    """One request of a customer."""

    method: str
    path: str
    body: dict[str, object] | None = field(default=None)
    credentials: Credentials = "none"


_BROWSE = (
    Step("GET", "/products"),
    Step("POST", "/checkout", credentials="good"),
    Step("GET", "/products/1"),
    Step("POST", "/cart", {"product": 3, "count": 2}),
    Step("POST", "/checkout", credentials="good"),
    Step("GET", "/"),
    Step("GET", "/products/4"),
    Step("POST", "/checkout", credentials="good"),
    Step("GET", "/search?q=bell"),
)
_MISTAKES = (
    Step("GET", "/products/404"),
    Step("GET", "/account", credentials="good"),
    Step("POST", "/checkout"),
    Step("POST", "/login", {"user": "impatient"}),
    Step("GET", "/account", credentials="garbled"),
    Step("POST", "/login", {"user": "impatient"}),
    Step("GET", "/wp-login.php"),
    Step("POST", "/login", {"user": "impatient"}),
)


def steps() -> Iterator[Step]:
    """Yield requests for ever: nine of ordinary business, three of them checkouts, then one that is odd."""
    for odd in itertools.cycle(_MISTAKES):
        yield from _BROWSE
        yield odd
        # Somebody who hammers on the login, so that the rate limit has something to do.
        if odd is _MISTAKES[-1]:
            yield from (Step("POST", "/login", {"user": "impatient"}),) * 8


class Traffic:
    """Requests against the shop at `url` until it is cancelled; what fails is counted in the shop."""

    def __init__(self, url: str, *, rate: float = RATE) -> None:
        self._url = url
        self._interval = 1 / rate
        self._token = ""
        self._log = telemetry.logger("shop.traffic")
        self._running: set[asyncio.Task[None]] = set()

    @property
    def under_way(self) -> int:
        """How many requests wait for their answer."""
        return len(self._running)

    async def run(self) -> None:
        """Send requests; a loop for `run.Service`."""
        limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
        async with httpx.AsyncClient(base_url=self._url, timeout=5.0, limits=limits, trust_env=False) as client:
            try:
                for step in steps():
                    if len(self._running) < AT_ONCE:
                        task = asyncio.create_task(self._send(client, step))
                        self._running.add(task)
                        task.add_done_callback(self._running.discard)
                    await asyncio.sleep(self._interval)
            finally:
                for task in self._running:
                    task.cancel()
                await asyncio.gather(*self._running, return_exceptions=True)

    async def _send(self, client: httpx.AsyncClient, step: Step) -> None:
        headers = {"traceparent": traceparent(), "User-Agent": "demo-customer"}
        try:
            if step.credentials == "good":
                headers["Authorization"] = f"Bearer {self._token or await self._login(client, headers)}"
            elif step.credentials == "garbled":
                headers["Authorization"] = "Bearer not.a.token"
            answer = await client.request(step.method, step.path, json=step.body, headers=headers)
            if answer.status_code == 401 and step.credentials == "good":
                self._token = ""  # expired, or the shop was started again: the next one signs in
        except httpx.HTTPError as error:
            self._log.debug("no answer", path=step.path, reason=str(error))

    async def _login(self, client: httpx.AsyncClient, headers: dict[str, str]) -> str:
        # Each customer signs in as somebody else, or the rate limit would keep them all out.
        answer = await client.post("/login", json={"user": f"ann-{secrets.token_hex(3)}"}, headers=headers)
        answer.raise_for_status()
        self._token = str(answer.json()["token"])
        return self._token


def traceparent() -> str:
    """Return a new W3C trace context header, sampled."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
