"""Results and standings in SQL. Queries are SQLAlchemy Core and the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tocsin_service.db import Database, Migrations
from tocsin_uptime.history import RECENT
from tocsin_uptime.result import Phase, Reason, Result, State
from tocsin_uptime.state import Standing

MIGRATIONS: Final = Migrations("uptime", "tocsin_uptime.migrations")
_HOUR_MS = 3_600_000

_metadata = sa.MetaData()
_results = sa.Table(
    "probe_result",
    _metadata,
    sa.Column("check_name", sa.String(100), primary_key=True),
    sa.Column("at_ms", sa.BigInteger, primary_key=True),
    sa.Column("verdict", sa.String(10)),
    sa.Column("reason", sa.String(24)),
    sa.Column("duration", sa.Double),
    sa.Column("phases", sa.JSON),
    sa.Column("status", sa.Integer),
    sa.Column("sentence", sa.Text),
    sa.Column("excerpt", sa.Text),
)
_states = sa.Table(
    "probe_state",
    _metadata,
    sa.Column("check_name", sa.String(100), primary_key=True),
    sa.Column("state", sa.String(10)),
    sa.Column("since_ms", sa.BigInteger),
    sa.Column("failures", sa.Integer),
    sa.Column("successes", sa.Integer),
    sa.Column("row_began_ms", sa.BigInteger),
)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is known of a check from before: standing (None: nothing), last results and hourly counts."""

    standing: Standing | None
    recent: Sequence[Result]
    hours: Sequence[tuple[int, int, int]]


class Storage:
    """The verbs on the prober's tables; all raise what SQLAlchemy and the driver raise."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Both dialects have ON CONFLICT, each in a class of its own.
        self._insert: Any = sqlite.insert if database.dialect == "sqlite" else postgresql.insert

    async def write(self, results: Sequence[tuple[str, Result]], standings: Mapping[str, Standing]) -> None:
        """Store a batch of (check, result) and where checks stand, in one transaction."""
        async with self._database.write() as connection:
            if results:
                # The same instant twice means a clock that was set back: the first row stays.
                rows = [_result_row(name, result) for name, result in results]
                await connection.execute(self._insert(_results).on_conflict_do_nothing(), rows)
            if standings:
                insert = self._insert(_states)
                changed = {column.name: insert.excluded[column.name] for column in _states.c if not column.primary_key}
                upsert = insert.on_conflict_do_update(index_elements=["check_name"], set_=changed)
                await connection.execute(upsert, [_state_row(*item) for item in standings.items()])

    async def remembered(self, names: Iterable[str], now: float) -> dict[str, Remembered]:
        """Return what is stored of each of `names`."""
        day_ago = _ms(now) - 24 * _HOUR_MS
        hour = (_results.c.at_ms // _HOUR_MS).label("hour")
        good = sa.func.sum(sa.case((_results.c.verdict.in_([State.UP, State.DEGRADED]), 1), else_=0))
        counts = (
            sa.select(_results.c.check_name, hour, good, sa.func.count())
            .where(_results.c.at_ms >= day_ago, _results.c.verdict != State.UNKNOWN)
            .group_by(_results.c.check_name, hour)
        )
        hours: dict[str, list[tuple[int, int, int]]] = {}
        found: dict[str, Remembered] = {}
        async with self._database.read() as connection:
            standings = {row.check_name: _standing(row) for row in await connection.execute(sa.select(_states))}
            for name, hour_, good_, all_ in await connection.execute(counts):
                hours.setdefault(name, []).append((int(hour_), int(good_), int(all_)))
            for name in names:
                # One read of the clustered key each; a window over all rows would read two days of everything.
                query = sa.select(_results).where(_results.c.check_name == name)
                rows = await connection.execute(query.order_by(_results.c.at_ms.desc()).limit(RECENT))
                recent = [_result(row) for row in rows]
                found[name] = Remembered(standings.get(name), recent[::-1], hours.get(name, []))
        return found

    async def forget_all_but(self, names: Iterable[str]) -> None:
        """Delete the standings of checks that are no longer watched, so that a namesake starts afresh."""
        async with self._database.write() as connection:
            known = set((await connection.execute(sa.select(_states.c.check_name))).scalars())
            for name in known - set(names):
                await connection.execute(sa.delete(_states).where(_states.c.check_name == name))

    async def expire(self, before: float) -> int:
        """Delete results older than `before` (Unix seconds) and return how many."""
        async with self._database.write() as connection:
            done = await connection.execute(sa.delete(_results).where(_results.c.at_ms < _ms(before)))
            return done.rowcount


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _result_row(name: str, result: Result) -> dict[str, object]:
    fine = result.verdict is State.UP
    return {
        "check_name": name,
        "at_ms": _ms(result.at),
        "verdict": result.verdict,
        "reason": result.reason,
        "duration": round(result.duration, 6),
        "phases": {phase.value: round(seconds, 6) for phase, seconds in result.phases.items()},
        "status": result.status,
        # Nearly all results are fine, and there are millions.
        "sentence": "" if fine else result.sentence.replace("\0", ""),
        "excerpt": result.excerpt.replace("\0", ""),
    }


def _result(row: Any) -> Result:
    return Result(
        at=row.at_ms / 1000,
        verdict=State(row.verdict),
        reason=Reason(row.reason),
        sentence=row.sentence,
        duration=row.duration,
        phases={Phase(name): seconds for name, seconds in row.phases.items()},
        status=row.status,
        excerpt=row.excerpt,
    )


def _state_row(name: str, standing: Standing) -> dict[str, object]:
    return {
        "check_name": name,
        "state": standing.state,
        "since_ms": _ms(standing.since),
        "failures": standing.failures,
        "successes": standing.successes,
        "row_began_ms": None if standing.row_began is None else _ms(standing.row_began),
    }


def _standing(row: Any) -> Standing:
    return Standing(
        state=State(row.state),
        since=row.since_ms / 1000,
        failures=row.failures,
        successes=row.successes,
        row_began=None if row.row_began_ms is None else row.row_began_ms / 1000,
    )
