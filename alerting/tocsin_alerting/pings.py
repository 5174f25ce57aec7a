"""The other half of the dead man's switch: we ping an external watcher while we are well, and it raises when we stop.

Works with whatever takes a GET as a sign of life: healthchecks.io, Dead Man's Snitch, Better Stack, a heartbeat of
another tocsin's prober.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Self

import pydantic

from tocsin_alerting.heartbeat_telemetry import HeartbeatTelemetry
from tocsin_alerting.receivers.clients import Clients
from tocsin_alerting.receivers.fields import SecretPath, SecretUrl, exactly_one
from tocsin_alerting.receivers.revealing import concealed, reveal
from tocsin_alerting.sources.settings import Name, Positive
from tocsin_service.clock import Clock
from tocsin_service.http import RequestError
from tocsin_service.settings import Settings, flaw

TIMEOUT: Final = 10.0
"""Seconds for one ping."""
AGAIN: Final = 10.0
"""Seconds after which a ping that was not taken is tried again, if that is sooner than the next."""


class PingSettings(Settings):
    """An entry of `pings`; whoever knows the URL can pretend to be us, so that it is a secret."""

    name: Name
    url: SecretUrl | None = None
    url_file: SecretPath | None = None
    every: Positive = 60.0

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "url", "url_file")
        return self


def _distinct(found: Sequence[PingSettings]) -> Sequence[PingSettings]:
    names = [item.name for item in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise flaw(f'two pings are called "{twice}"', expected="names that differ")
    return found


PingList = Annotated[tuple[PingSettings, ...], pydantic.AfterValidator(_distinct)]
"""The field `pings` of the second configuration file; by default `()`."""


class Pings:
    """Sends them.

    Args:
        settings: asked each second, so that a reload takes effect.
        healthy: why alerts would not get through now, or None if they would.
    """

    def __init__(
        self,
        settings: Callable[[], Sequence[PingSettings]],
        http: Clients,
        clock: Clock,
        healthy: Callable[[], str | None],
        telemetry: HeartbeatTelemetry,
    ) -> None:
        self._settings = settings
        self._http = http
        self._clock = clock
        self._healthy = healthy
        self._telemetry = telemetry
        self._due: dict[str, float] = {}
        self._withheld: set[str] = set()

    async def run(self) -> None:
        """Ping, for ever."""
        while True:
            now = self._clock.now()
            found = self._settings()
            self._due = {item.name: self._due.get(item.name, now) for item in found}
            due = [item for item in found if self._due[item.name] <= now]
            delays = await asyncio.gather(*(self._ping(item) for item in due))
            self._due |= {item.name: now + delay for item, delay in zip(due, delays, strict=True)}
            await self._clock.sleep(1.0)

    async def _ping(self, item: PingSettings) -> float:
        """Ping once, or not, and return the seconds until the next time."""
        if (reason := self._healthy()) is not None:
            if item.name not in self._withheld:
                self._telemetry.withheld(item.name, reason)
                self._withheld.add(item.name)
            return 0.0
        self._withheld.discard(item.name)
        try:
            await self._get(reveal(item.url, item.url_file))
        except RequestError as error:
            self._telemetry.ping_failed(item.name, error)
            return min(item.every, AGAIN)
        self._telemetry.pinged(item.name)
        return item.every

    async def _get(self, url: str) -> None:
        try:
            await self._http.request("GET", url, content=None, headers={}, timeout=TIMEOUT, config=None)
        except RequestError as error:
            raise concealed(error, url) from None
