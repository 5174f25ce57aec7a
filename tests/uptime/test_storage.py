"""Storage: one contract for SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from tocsin import names
from tocsin_service import telemetry
from tocsin_service.db import Database
from tocsin_service.testing import FakeClock
from tocsin_uptime.recorder import KEPT_WAITING, RETENTION, Recorder
from tocsin_uptime.result import Phase, Reason, Result, State
from tocsin_uptime.state import Standing
from tocsin_uptime.storage import MIGRATIONS, Storage

_NOW = 1_763_856_000.0


@pytest.fixture
async def storage(any_database_url: str) -> AsyncIterator[Storage]:
    """Empty tables on each database."""
    database = await Database.open(any_database_url, [MIGRATIONS])
    yield Storage(database)
    await database.close()


def _result(at: float, verdict: State = State.UP, **fields: object) -> Result:
    plain = Result(
        at=at, verdict=verdict, reason=Reason.OK, sentence="", duration=0.25, phases={Phase.CONNECT: 0.125}, status=200
    )
    return plain if not fields else Result(**{**_fields(plain), **fields})  # type: ignore[arg-type]


def _fields(result: Result) -> dict[str, object]:
    return {name: getattr(result, name) for name in Result.__slots__}


async def test_results_and_standings_come_back_as_they_were(storage: Storage) -> None:
    """Oldest first, to the millisecond, with phases and words."""
    failed = _result(
        _NOW + 30.123, State.DOWN, reason=Reason.STATUS, sentence="HTTP 503 ☃", excerpt="sorry", status=503
    )
    standing = Standing(State.DOWN, _NOW + 30.123, failures=0, successes=1, row_began=_NOW + 40)
    await storage.write([("shop", _result(_NOW)), ("shop", failed), ("other", _result(_NOW))], {"shop": standing})
    found = await storage.remembered(["shop", "new"], _NOW + 60)
    assert list(found["shop"].recent) == [_result(_NOW), failed]
    assert found["shop"].standing == standing
    assert list(found["shop"].hours) == [(int(_NOW // 3600), 1, 2)]
    assert found["new"].standing is None
    assert list(found["new"].recent) == []


async def test_a_standing_is_replaced_by_the_newer_one(storage: Storage) -> None:
    """There is one row a check."""
    await storage.write([], {"shop": Standing(State.UP, _NOW), "other": Standing(State.UP, _NOW)})
    await storage.write([], {"shop": Standing(State.DOWN, _NOW + 1)})
    found = await storage.remembered(["shop", "other"], _NOW)
    assert found["shop"].standing == Standing(State.DOWN, _NOW + 1)
    assert found["other"].standing == Standing(State.UP, _NOW)


async def test_the_last_sixty_results_are_remembered_and_a_day_is_counted(storage: Storage) -> None:
    """Hours are whole hours of Unix time; unknown results count neither way; older days do not count."""
    day = [("shop", _result(_NOW + minute * 60)) for minute in range(120)]
    other = [
        ("shop", _result(_NOW + 7200, State.DOWN)),
        ("shop", _result(_NOW + 7260, State.UNKNOWN)),
        ("shop", _result(_NOW - 90_000, State.DOWN)),
    ]
    await storage.write(day + other, {})
    found = (await storage.remembered(["shop"], _NOW + 7300))["shop"]
    assert len(found.recent) == 60
    assert found.recent[-1].at == _NOW + 7260
    hour = int(_NOW // 3600)
    assert sorted(found.hours) == [(hour, 60, 60), (hour + 1, 60, 60), (hour + 2, 0, 1)]


async def test_the_same_instant_twice_is_stored_once(storage: Storage) -> None:
    """A clock that was set back must not make a whole batch fail."""
    await storage.write([("shop", _result(_NOW))], {})
    await storage.write([("shop", _result(_NOW, State.DOWN)), ("shop", _result(_NOW + 1))], {})
    found = (await storage.remembered(["shop"], _NOW + 2))["shop"]
    assert [result.verdict for result in found.recent] == [State.UP, State.UP]


async def test_text_that_a_database_cannot_hold_does_not_block_it(storage: Storage) -> None:
    """PostgreSQL refuses NUL in text."""
    await storage.write([("shop", _result(_NOW, State.DOWN, sentence="a\0b", excerpt="\0"))], {})
    assert (await storage.remembered(["shop"], _NOW))["shop"].recent[0].sentence == "ab"


async def test_old_results_are_deleted(storage: Storage) -> None:
    """Retention takes what is older than the instant, and says how much."""
    await storage.write([("shop", _result(_NOW + second)) for second in range(10)], {})
    assert await storage.expire(_NOW + 4) == 4
    assert len((await storage.remembered(["shop"], _NOW))["shop"].recent) == 6


async def test_a_check_that_is_no_longer_watched_is_forgotten(storage: Storage) -> None:
    """A namesake that comes later starts afresh; its results of old stay until they expire."""
    await storage.write([("goes", _result(_NOW))], {name: Standing(State.DOWN, _NOW) for name in ("stays", "goes")})
    await storage.forget_all_but(["stays"])
    found = await storage.remembered(["stays", "goes"], _NOW)
    assert found["stays"].standing == Standing(State.DOWN, _NOW)
    assert found["goes"].standing is None
    assert len(found["goes"].recent) == 1


# --- the recorder -----------------------------------------------------------------------------------------------


def _recorder(url: str, clock: FakeClock) -> tuple[Recorder, CollectorRegistry]:
    registry = CollectorRegistry()
    return Recorder(url, clock=clock, errors=telemetry.counter(names.PROBE_HISTORY_ERRORS, registry)), registry


async def test_what_waits_for_a_database_is_written_when_it_is_back(tmp_path: Path) -> None:
    """Each failed write is counted, nothing of the batch is lost, and order is kept."""
    folder = tmp_path / "data"
    folder.write_text("a file where the folder should be")
    clock = FakeClock(_NOW)
    recorder, registry = _recorder(f"sqlite:///{folder}/uptime.db", clock)
    assert await recorder.remembered(["shop"]) == {}
    recorder.add("shop", _result(_NOW), Standing(State.UP, _NOW))
    await recorder.flush()
    recorder.add("shop", _result(_NOW + 1, State.DOWN), Standing(State.DOWN, _NOW + 1))
    await recorder.flush()
    assert registry.get_sample_value(names.PROBE_HISTORY_ERRORS.name) == 3
    folder.unlink()
    await recorder.flush()
    found = (await recorder.remembered(["shop"]))["shop"]
    assert [result.at for result in found.recent] == [_NOW, _NOW + 1]
    assert found.standing == Standing(State.DOWN, _NOW + 1)
    assert registry.get_sample_value(names.PROBE_HISTORY_ERRORS.name) == 3
    await recorder.close()


async def test_memory_is_bounded_while_the_database_is_away(tmp_path: Path) -> None:
    """Beyond the limit the oldest results go; standings never do."""
    blocked = tmp_path / "data"
    blocked.write_text("")
    recorder, _ = _recorder(f"sqlite:///{blocked}/uptime.db", FakeClock(_NOW))
    for second in range(KEPT_WAITING + 10):
        recorder.add("shop", _result(_NOW + second), Standing(State.UP, _NOW))
        if second == KEPT_WAITING // 2:
            await recorder.flush()
    await recorder.flush()
    blocked.unlink()
    await recorder.flush()
    assert len((await recorder.remembered(["shop"]))["shop"].recent) == 60
    database = await Database.open(f"sqlite:///{blocked}/uptime.db")
    assert await Storage(database).expire(_NOW + 1e9) == KEPT_WAITING
    await database.close()
    await recorder.close()


async def test_retention_takes_what_is_two_days_old(tmp_path: Path) -> None:
    """Newer results stay."""
    clock = FakeClock(_NOW)
    recorder, _ = _recorder(f"sqlite:///{tmp_path}/uptime.db", clock)
    recorder.add("shop", _result(_NOW - RETENTION - 1), Standing(State.UP, _NOW))
    recorder.add("shop", _result(_NOW), Standing(State.UP, _NOW))
    await recorder.flush()
    await recorder.expire()
    assert [result.at for result in (await recorder.remembered(["shop"]))["shop"].recent] == [_NOW]
    await recorder.close()
