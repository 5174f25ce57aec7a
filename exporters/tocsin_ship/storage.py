"""The embedded store's table of log lines and its full-text index; migrations make them. SQLite only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from tocsin_service.db import Database, Migrations
from tocsin_ship.summary import Summary

MIGRATIONS: Final = Migrations("ship", "tocsin_ship.migrations")
_CHUNK: Final = 2000
"""Rows deleted in one transaction, so that lines coming in do not wait."""

_meta = sa.MetaData()
_logs = sa.Table(
    "logs",
    _meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("uid", sa.Text),
    sa.Column("at", sa.Float),
    sa.Column("level", sa.Text),
    sa.Column("service", sa.Text),
    sa.Column("message", sa.Text),
    sa.Column("trace_id", sa.Text),
    sa.Column("extra", sa.Text),
    sa.Column("line", sa.Text),
)
_TERM = re.compile(r'"([^"]*)"?|(\S+)')


@dataclass(frozen=True, slots=True)
class Row:
    """A line to be stored. `uid` is unique to it, `line` is its JSON."""

    uid: str
    summary: Summary
    line: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A line that was found."""

    at: float
    level: str
    service: str
    message: str
    trace_id: str
    line: str


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for; an empty text leaves a filter out."""

    text: str = ""
    level: str = ""
    service: str = ""
    trace: str = ""
    limit: int = 100


def match(text: str) -> str | None:
    """Return FTS5's syntax for what a person typed, or None where no word is in it.

    All words must occur; "several words" in quotes must follow each other; a star at the end takes any ending. Nothing
    else has a meaning, so that no text is an error.
    """
    terms = []
    for found in _TERM.finditer(text.replace("\0", " ")):
        term = found.group(2) if found.group(2) is not None else found.group(1)
        prefix = found.group(2) is not None and term.endswith("*")
        if any(character.isalnum() for character in term):
            terms.append('"' + term.replace('"', '""') + '"' + ("*" if prefix else ""))
    return " ".join(terms) or None


class Logs:
    """The verbs. `database` was opened with `MIGRATIONS`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, rows: Sequence[Row]) -> None:
        """Store rows; one that is there already is passed over."""
        if not rows:
            return
        statement = sqlite.insert(_logs).on_conflict_do_nothing(index_elements=["uid"])
        values = [{"uid": row.uid, "line": row.line, **asdict(row.summary)} for row in rows]
        async with self._database.write() as connection:
            await connection.execute(statement, values)

    async def search(self, query: Query) -> list[Hit]:
        """Return the newest lines that fit."""
        columns = (_logs.c.at, _logs.c.level, _logs.c.service, _logs.c.message, _logs.c.trace_id, _logs.c.line)
        statement = sa.select(*columns).order_by(_logs.c.at.desc(), _logs.c.id.desc()).limit(query.limit)
        if query.text.strip():
            terms = match(query.text)
            if terms is None:
                return []  # punctuation only: the index holds none
            hits = sa.text("SELECT rowid FROM logs_text WHERE logs_text MATCH :terms").bindparams(terms=terms)
            statement = statement.where(_logs.c.id.in_(hits.columns(sa.column("rowid", sa.Integer))))
        for column, wanted in ((_logs.c.level, query.level.lower()), (_logs.c.trace_id, query.trace.lower())):
            if wanted:
                statement = statement.where(column == wanted)
        if query.service:
            statement = statement.where(_logs.c.service == query.service)
        async with self._database.read() as connection:
            return [Hit(*row) for row in await connection.execute(statement)]

    async def count(self) -> int:
        """Return how many lines there are."""
        async with self._database.read() as connection:
            found: int = (await connection.execute(sa.select(sa.func.count()).select_from(_logs))).scalar_one()
            return found

    async def expire(self, before: float) -> int:
        """Delete lines older than `before` (Unix seconds); return how many."""
        oldest = sa.select(_logs.c.id).where(_logs.c.at < before).limit(_CHUNK)
        total = 0
        while deleted := await self._delete(oldest):
            total += deleted
        return total

    async def shrink(self, max_bytes: int) -> int:
        """Delete the oldest lines if more than `max_bytes` are in use; return how many.

        Deleted pages are used again; the file itself does not become smaller.
        """
        used = await self._bytes()
        if used <= max_bytes:
            return 0
        # By share, not until it fits: the index gives its pages back only bit by bit, and we would delete too much.
        surplus = int(await self.count() * min(1.0, (used - max_bytes) / used + 0.05)) + 1
        total = 0
        while total < surplus:
            oldest = sa.select(_logs.c.id).order_by(_logs.c.at, _logs.c.id).limit(min(_CHUNK, surplus - total))
            deleted = await self._delete(oldest)
            if not deleted:
                break
            total += deleted
        async with self._database.write() as connection:
            await connection.execute(sa.text("INSERT INTO logs_text (logs_text, rank) VALUES ('merge', -500)"))
        return total

    async def _delete(self, which: sa.Select[tuple[int]]) -> int:
        async with self._database.write() as connection:
            result = await connection.execute(sa.delete(_logs).where(_logs.c.id.in_(which)))
            return result.rowcount

    async def _bytes(self) -> int:
        async with self._database.read() as connection:
            pages, free, size = [
                (await connection.execute(sa.text(f"PRAGMA {name}"))).scalar_one()
                for name in ("page_count", "freelist_count", "page_size")
            ]
            return int((pages - free) * size)
