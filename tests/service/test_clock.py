import asyncio

import pytest

from tocsin_service.clock import SystemClock, parse_rfc3339, rfc3339
from tocsin_service.testing import FakeClock


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("2026-11-23T00:00:00.123Z", "2026-11-23T00:00:00.123Z"),
        ("2026-11-23T01:00:00+01:00", "2026-11-23T00:00:00.000Z"),
        ("2026-11-23T00:00:00.123456789Z", "2026-11-23T00:00:00.123Z"),
        ("2026-11-23T00:00:00", "2026-11-23T00:00:00.000Z"),
    ],
)
def test_times_are_read_with_any_zone_and_written_in_utc(text: str, back: str) -> None:
    """Alertmanager's form: three decimals and Z."""
    assert rfc3339(parse_rfc3339(text)) == back


async def test_the_fake_clock_wakes_sleepers_at_their_own_time() -> None:
    """A simulated hour runs at once and in order."""
    clock = FakeClock(now=0)
    woken: list[float] = []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(clock.now())

    tasks = [asyncio.create_task(sleeper(seconds)) for seconds in (30, 10, 3600)]
    await clock.advance(3600)
    assert woken == [10, 30, 3600]
    await asyncio.gather(*tasks)


async def test_waiting_ends_by_event_or_by_time() -> None:
    """Both clocks agree on what `wait` returns."""
    event = asyncio.Event()
    assert await SystemClock().wait(event, 0.01) is False
    event.set()
    assert await SystemClock().wait(event, None) is True
    clock, event = FakeClock(), asyncio.Event()
    waiting = asyncio.create_task(clock.wait(event, 5))
    await clock.advance(5)
    assert await waiting is False
