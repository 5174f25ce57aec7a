"""What the loop keeps in memory: nothing is lost when the database is away, and nothing is kept for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tocsin_alerting.dispatch import Dispatcher
from tocsin_alerting.options import Options
from tocsin_alerting.router import Router
from tocsin_alerting.testing import NOW, alert, config
from tocsin_service.clock import rfc3339
from tocsin_service.testing import FakeClock, eventually

_TEXT = "route: {receiver: screen, group_wait: 0s}\nreceivers: [{name: screen, console_configs: [{}]}]"
_DOWN = alert("Down")
_OPTIONS = Options(gc_interval=1800.0, retention=432_000.0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def router(database_url: str, clock: FakeClock) -> AsyncIterator[Router]:
    """A router whose loop the test turns by hand."""
    made = Router(config(_TEXT), database_url=database_url, clock=clock, options=_OPTIONS)
    await made._start()
    yield made
    await made._drain()
    await made._close()


def _body(end: float) -> bytes:
    times = f'"startsAt": "{rfc3339(NOW)}", "endsAt": "{rfc3339(end)}"'
    return f'[{{"labels": {{"alertname": "Down"}}, {times}}}]'.encode()


async def _turn(dispatcher: Dispatcher) -> None:
    await dispatcher.tick()
    await eventually(lambda: not any(dispatcher._courier.busy(group.id) for group in dispatcher.groups))
    await dispatcher._chores()


async def test_an_end_that_could_not_be_written_is_written_later(router: Router, clock: FakeClock) -> None:
    """The database may be away for a moment; nothing is remembered as written that is not."""
    dispatcher, storage = router._dispatcher, router._storage
    await dispatcher.post(_body(clock.now() + 60))
    await _turn(dispatcher)
    await clock.advance(40)
    await dispatcher.post(_body(clock.now() + 60))
    await storage.close()
    with pytest.raises(RuntimeError, match="not open"):
        await dispatcher.remember()
    await storage.open()
    await dispatcher.remember()
    ((remembered, _),) = (await storage.recall()).alerts
    assert remembered.ends_at == clock.now() + 60


async def test_alerts_that_have_ended_are_forgotten(router: Router, clock: FakeClock) -> None:
    """In memory and in the tables, once nobody can be told anything about them."""
    dispatcher, storage = router._dispatcher, router._storage
    await dispatcher.post(_body(clock.now() + 60))
    await _turn(dispatcher)
    assert dispatcher.book.entries.keys() == {_DOWN.fingerprint}
    await clock.advance(2 * _OPTIONS.gc_interval + 60)
    await _turn(dispatcher)  # tells its end
    await _turn(dispatcher)
    await clock.advance(_OPTIONS.gc_interval)
    await _turn(dispatcher)
    assert (dispatcher.book.entries, dispatcher.book._known, len(dispatcher.groups)) == ({}, {}, 0)
    assert len(await storage.recent(10)) == 2
    await clock.advance(_OPTIONS.retention + 2 * _OPTIONS.gc_interval)
    await _turn(dispatcher)
    assert await storage.recent(10) == []
    remembered = await storage.recall()
    assert (list(remembered.alerts), list(remembered.lanes), list(remembered.anchors)) == ([], [], [])
