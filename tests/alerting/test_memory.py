"""What the loop keeps in memory: nothing is lost when the database is away, and nothing is kept for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tocsin_alerting import intake
from tocsin_alerting.dispatch import RETENTION, SWEEP_EVERY, Dispatcher
from tocsin_alerting.router import Router
from tocsin_alerting.testing import alert, config
from tocsin_service.clock import rfc3339
from tocsin_service.testing import FakeClock, eventually

_TEXT = "route: {receiver: screen, group_wait: 0s}\nreceivers: [{name: screen, console_configs: [{}]}]"
_DOWN = alert("Down")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def router(database_url: str, clock: FakeClock) -> AsyncIterator[Router]:
    """A router whose loop the test turns by hand."""
    made = Router(config(_TEXT), database_url=database_url, external_url="http://router", clock=clock)
    await made._start()
    yield made
    await made._drain()
    await made._close()


def _posted(end: float) -> list[intake.Timed]:
    body = f'[{{"labels": {{"alertname": "Down"}}, "endsAt": "{rfc3339(end)}"}}]'
    return intake.decode(body.encode())


async def _turn(dispatcher: Dispatcher) -> None:
    await dispatcher.tick()
    await eventually(lambda: not any(dispatcher._courier.busy(group.key) for group in dispatcher.groups))
    await dispatcher._chores()


async def test_an_end_that_could_not_be_written_is_written_later(router: Router, clock: FakeClock) -> None:
    """The database may be away for a moment."""
    dispatcher, storage = router._dispatcher, router._storage
    dispatcher.accept(_posted(clock.now() + 60))
    await _turn(dispatcher)
    dispatcher.accept(_posted(clock.now() + 120))
    await storage.close()
    with pytest.raises(RuntimeError, match="not open"):
        await dispatcher.remember()
    await storage.open()
    await dispatcher.remember()
    (remembered,) = (await storage.recall()).alerts
    assert remembered.ends_at == clock.now() + 120


async def test_alerts_that_have_ended_are_forgotten(router: Router, clock: FakeClock) -> None:
    """In memory and in the tables, once nobody can be told anything about them."""
    dispatcher, storage = router._dispatcher, router._storage
    dispatcher.accept(_posted(clock.now() + 60))
    await _turn(dispatcher)
    assert dispatcher._told == {_DOWN.fingerprint}
    await clock.advance(SWEEP_EVERY)
    await _turn(dispatcher)
    assert (dispatcher._alerts, dispatcher._told, len(dispatcher.groups)) == ({}, set(), 0)
    assert (await storage.recall()).alerts == ()
    assert len(await storage.recent(10)) == 2
    await clock.advance(RETENTION + SWEEP_EVERY)
    await _turn(dispatcher)
    assert await storage.recent(10) == []
