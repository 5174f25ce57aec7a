"""Time as a parameter, so that a simulated week runs in a second (see `tocsin_service.testing.FakeClock`)."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What a loop may know about time."""

    def now(self) -> float:
        """Return Unix seconds, UTC."""

    async def sleep(self, seconds: float) -> None:
        """Wait; zero or less gives other tasks a turn."""

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Wait until `event` is set or `seconds` have passed (None: for ever); return whether it is set."""


class SystemClock:
    """The real one."""

    def now(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        try:
            async with asyncio.timeout(None if seconds is None else max(0.0, seconds)):
                await event.wait()
        except TimeoutError:
            pass
        return event.is_set()


def rfc3339(now: float) -> str:
    """Return `now` as UTC with three decimals, as Alertmanager's API writes it: `2026-11-23T00:00:00.123Z`."""
    # Round to milliseconds first: isoformat would cut, and 0.9996 s must carry into the next second.
    moment = datetime.fromtimestamp(round(now * 1000) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_rfc3339(text: str) -> float:
    """Return Unix seconds of an RFC 3339 time with any zone; a time without zone is UTC.

    Raises:
        ValueError: not such a time.
    """
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
