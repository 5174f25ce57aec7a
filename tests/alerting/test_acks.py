"""Acknowledgements: who has an alert, until when; on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tocsin_alerting.acks import Ack, AckError, Acks
from tocsin_alerting.matchers import parse
from tocsin_alerting.model import fingerprint
from tocsin_alerting.testing import NOW
from tocsin_service.db import Database, Migrations
from tocsin_service.testing import FakeClock

_MIGRATIONS = Migrations("alerting", "tocsin_alerting.migrations")
_LABELS = {"alertname": "Down", "team": "web"}
_NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
async def replicas(any_database_url: str, clock: FakeClock) -> AsyncIterator[list[Acks]]:
    """Two processes with one database."""
    databases = [await Database.open(any_database_url, [_MIGRATIONS]) for _ in range(2)]
    yield [Acks(lambda database=database: database, clock, retention=600.0) for database in databases]
    for database in databases:
        await database.close()


@pytest.fixture
async def acks(replicas: list[Acks]) -> Acks:
    await replicas[0].refresh()
    return replicas[0]


async def _by_matchers(acks: Acks, text: str = 'team="web"', *, end: float = NOW + 3600) -> Ack:
    return await acks.post(matchers=parse(text), created_by="ann", comment="on it", ends_at=end)


async def test_alerts_are_acknowledged_by_matchers(acks: Acks, clock: FakeClock) -> None:
    """Until the end, or until it is withdrawn."""
    ack = await _by_matchers(acks)
    assert (ack.created_by, ack.comment, ack.via, ack.starts_at) == ("ann", "on it", "api", NOW)
    assert acks.acknowledged(_LABELS, NOW) is ack
    assert acks.acknowledged({"team": "db"}, NOW) is None
    assert acks.acknowledged(_LABELS, NOW + 3600) is None
    await clock.advance(60)
    await acks.withdraw(ack.id)
    assert acks.acknowledged(_LABELS, clock.now()) is None
    (found,) = acks.list()
    assert (found.ends_at, found.updated_at) == (NOW + 60, NOW + 60)


async def test_one_alert_is_acknowledged_by_its_fingerprint(acks: Acks) -> None:
    """Whether the caller knows it or not; another alert with more labels is another alert."""
    ack = await acks.post(fingerprint=fingerprint(_LABELS), created_by="ann", ends_at=NOW + 60, via="slack")
    assert acks.acknowledged(_LABELS, NOW) is ack
    assert acks.acknowledged(_LABELS, NOW, fingerprint=fingerprint(_LABELS)) is ack
    assert acks.acknowledged({**_LABELS, "x": "y"}, NOW) is None
    assert ack.via == "slack"
    await acks.withdraw(ack.id)
    assert acks.acknowledged(_LABELS, NOW) is None


async def test_the_one_that_holds_longest_counts(acks: Acks) -> None:
    """So that withdrawing it leaves the other."""
    short, long = await _by_matchers(acks, end=NOW + 60), await _by_matchers(acks, 'alertname="Down"', end=NOW + 90)
    assert acks.acknowledged(_LABELS, NOW) is long
    await acks.withdraw(long.id)
    assert acks.acknowledged(_LABELS, NOW) is short
    assert [ack.id for ack in acks.list()] == [short.id, long.id]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "needs matchers or a fingerprint, and not both"),
        ({"matchers": parse('a="b"'), "fingerprint": "0" * 16}, "needs matchers or a fingerprint, and not both"),
        ({"fingerprint": "xyz"}, "a fingerprint is 16 hexadecimal digits"),
        ({"matchers": parse('a!="b"')}, "these matchers fit every alert"),
        ({"matchers": parse('a="b"'), "created_by": ""}, "needs a name under createdBy"),
        ({"matchers": parse('a="b"'), "ends_at": NOW}, "not in the future"),
    ],
)
async def test_what_cannot_be_is_refused(acks: Acks, members: dict[str, object], words: str) -> None:
    """With what to do."""
    with pytest.raises(AckError, match=words) as caught:
        await acks.post(**{"created_by": "ann", "ends_at": NOW + 60, **members})  # type: ignore[arg-type]  # on purpose
    assert caught.value.status == 400
    assert acks.list() == []


async def test_what_is_not_there_cannot_be_withdrawn(acks: Acks) -> None:
    """And what has ended stays as it is."""
    with pytest.raises(AckError, match="not found") as caught:
        await acks.withdraw(_NOBODY)
    assert caught.value.status == 404
    ack = await _by_matchers(acks)
    await acks.withdraw(ack.id)
    before = acks.get(ack.id)
    await acks.withdraw(ack.id)
    assert acks.get(ack.id) == before


async def test_all_replicas_know_them(replicas: list[Acks]) -> None:
    """At their next refresh."""
    one, two = replicas
    ack = await _by_matchers(one)
    single = await one.post(fingerprint=fingerprint(_LABELS), created_by="bob", ends_at=NOW + 7200)
    assert await two.refresh()
    assert two.list() == one.list() == [ack, single]
    assert two.acknowledged(_LABELS, NOW) == single
    assert not await two.refresh()
    version = two.version
    await one.withdraw(single.id)
    await two.refresh()
    assert two.version != version
    assert two.acknowledged(_LABELS, NOW) == ack


async def test_ended_ones_are_deleted_after_the_retention(replicas: list[Acks], clock: FakeClock) -> None:
    """Here, in the database, and in the memory of others."""
    one, two = replicas
    await _by_matchers(one, end=NOW + 60)
    await two.refresh()
    await clock.advance(60 + 600.5)
    assert await one.sweep(clock.now()) == 1
    await two.refresh()
    assert one.list() == two.list() == []
