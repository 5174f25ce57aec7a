"""The silences there are: durable in SQL before anybody is told so, the same on every replica, asked in memory."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from tocsin_alerting import silences
from tocsin_alerting.matchers import Matcher, Op, match_all, render
from tocsin_alerting.revisions import METADATA, Mirror, Revised
from tocsin_alerting.silences import Draft, Limits, Posted, Silence, SilenceBook, SilenceError, State
from tocsin_service import telemetry
from tocsin_service.clock import Clock, rfc3339
from tocsin_service.db import Database

SILENCE: Final = sa.Table(
    "alerting_silence",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    *(sa.Column(name, sa.Text) for name in ("matchers", "created_by", "comment", "annotations")),
    *(sa.Column(name, sa.Double) for name in ("starts_at", "ends_at", "updated_at")),
    sa.Column("used", sa.Boolean),
    sa.Column("revision", sa.BigInteger),
)
GRACE: Final = 120.0
"""Seconds for which nothing may fire before a silence ends that expires when resolved: after a start alerts are only
known once Prometheus has sent them again, and an alert that flaps is not over."""

_FORGET_EVERY: Final = 300.0

_MATCHERS: Final = msgspec.json.Decoder(list[tuple[str, Op, str]])
_ANNOTATIONS: Final = msgspec.json.Decoder(dict[str, str])


class Silences:
    """All silences, as this replica knows them.

    Reads are answered from memory, as of the last `refresh` and of every change made here. Writes are committed before
    they return; when the database cannot be used they raise, and what was known stays.

    Args:
        database: gives the database once it is open.
        retention: seconds for which ended silences are kept.
        max_silences, max_silence_size: limits; 0 is none.
        log_changes: write a line about each change.
    """

    def __init__(
        self,
        database: Callable[[], Database],
        clock: Clock,
        *,
        retention: float = 432_000.0,
        max_silences: int = 0,
        max_silence_size: int = 0,
        log_changes: bool = False,
    ) -> None:
        self._table = Revised("silences", SILENCE, database)
        self._clock = clock
        self._retention = retention
        self._limits = Limits(max_silences, max_silence_size)
        self._log = telemetry.logger("tocsin.alerting") if log_changes else None
        self.book = SilenceBook()
        """What is known, to ask about many alerts."""
        self._mirror = Mirror(self._table, read=_read, put=self._put, drop=self.book.discard)
        self._forget_at = 0.0
        self._last_fired: dict[str, float] = {}
        """When something of a silence that expires when resolved was last seen to fire."""

    def _put(self, silence: Silence) -> None:
        self.book.put(silence, self._clock.now())

    # --- asked ------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """A number that changes whenever a silence does."""
        return self.book.version

    def get(self, name: str) -> Silence | None:
        """Return a silence by its id."""
        return self.book.silences.get(name)

    def list(self, filters: Iterable[Matcher] = (), states: Iterable[State] = State) -> Sequence[Silence]:
        """Return silences in the order they are listed in.

        Args:
            filters: matchers that a silence must have, the same in name, operator and value.
            states: where in its life it must be.
        """
        now, wanted, held = self._clock.now(), frozenset(states), tuple(filters)
        found = (silence for silence in self.book.silences.values() if silence.state(now) in wanted)
        return silences.in_order((silence for silence in found if silences.says(silence, held)), now)

    def silenced_by(self, labels: Mapping[str, str], now: float) -> tuple[str, ...]:
        """Return the ids of the silences that silence an alert with these labels, sorted."""
        return self.book.silenced_by(labels, now)

    def counts(self, now: float) -> dict[State, int]:
        """Return how many silences are in each state."""
        return self.book.counts(now)

    # --- kept up to date --------------------------------------------------------------------------------------

    async def refresh(self) -> bool:
        """Hear of what other replicas changed; return whether there was anything."""
        now = self._clock.now()
        if now >= self._forget_at:
            self._forget_at = now + _FORGET_EVERY
            self.forget(now)
        return await self._mirror.refresh()

    # --- changed ----------------------------------------------------------------------------------------------

    async def post(self, draft: Draft) -> str:
        """Make a silence, or change one; return its id, which is another where the former one had to be replaced.

        Raises:
            SilenceError: it is not taken, with the reason for the client.
        """
        now = self._clock.now()
        asked = silences.checked(draft, now)

        async def step(connection: AsyncConnection) -> Posted:
            row = await self._table.find(connection, asked.id) if asked.id else None
            count = int((await connection.execute(sa.select(sa.func.count()).select_from(SILENCE))).scalar_one())
            known = None if row is None else _read(row)
            done = silences.posted(asked, known, now=now, new_id=_new_id, count=count, limits=self._limits)
            await self._table.put(connection, *map(_row, _both(done)))
            return done

        revision, done = await self._table.change(step)
        self._mirror.changed(revision, *_both(done))
        if done.replaced is not None:
            self._tell("silence replaced", done.replaced)
        self._tell("silence updated" if draft.id == done.silence.id else "silence created", done.silence)
        return done.silence.id

    async def expire(self, name: str) -> None:
        """End a silence now; one that has ended stays as it is.

        Raises:
            SilenceError: there is none.
        """
        now = self._clock.now()

        async def step(connection: AsyncConnection) -> tuple[Silence, bool]:
            row = await self._table.find(connection, name)
            if row is None:
                raise SilenceError(404, "silence not found")
            before = _read(row)
            after = silences.ended(before, now)
            if after is not before:
                await self._table.put(connection, _row(after))
            return after, after is not before

        revision, (silence, changed) = await self._table.change(step)
        self._mirror.changed(revision, silence)
        if changed:
            self._tell("silence expired", silence)

    async def settle(self, firing: Iterable[Mapping[str, str]], now: float) -> Sequence[str]:
        """End the silences that expire when resolved and whose alerts are over; return their ids.

        To be called every now and then by the replica that leads.

        Args:
            firing: the labels of all alerts that fire.
        """
        asked = [silence for silence in self.book.silences.values() if silence.expires_when_resolved]
        asked = [silence for silence in asked if silence.state(now) is State.ACTIVE]
        for name in self._last_fired.keys() - {silence.id for silence in asked}:
            del self._last_fired[name]
        if not asked:
            return []
        labels, over = tuple(firing), set[str]()
        for silence in asked:
            if any(match_all(silence.matchers, each) for each in labels):
                self._last_fired[silence.id] = now
                await self._use(silence)
            elif silence.used and now - self._last_fired.setdefault(silence.id, now) >= GRACE:
                over.add(silence.id)
        for name in sorted(over):
            await self.expire(name)
        return sorted(over)

    async def _use(self, silence: Silence) -> None:
        """Write down that a silence has silenced something, so that it is known after a restart."""
        if silence.used:
            return

        async def step(connection: AsyncConnection) -> Silence | None:
            row = await self._table.find(connection, silence.id)
            if row is None:
                return None
            used = dataclasses.replace(_read(row), used=True)
            await self._table.put(connection, _row(used))
            return used

        revision, used = await self._table.change(step)
        self._mirror.changed(revision, *([used] if used else []))

    async def sweep(self, now: float) -> int:
        """Delete the silences that ended longer than `retention` ago; return how many were known here."""
        before = now - self._retention
        await self._table.delete(SILENCE.c.ends_at < before)
        return self.forget(now)

    def forget(self, now: float) -> int:
        """Forget the silences that ended longer than `retention` ago, as `sweep` deletes them; return how many."""
        old = [silence.id for silence in self.book.silences.values() if silence.ends_at < now - self._retention]
        for name in old:
            self._mirror.forget(name)
            self._last_fired.pop(name, None)
        self.book.prune(now)
        return len(old)

    async def close(self) -> None:
        """Wait for what is being written."""
        await self._table.close()

    def _tell(self, what: str, silence: Silence) -> None:
        if self._log is not None:
            self._log.info(
                what,
                silence=silence.id,
                matchers=render(silence.matchers),
                starts_at=rfc3339(silence.starts_at),
                ends_at=rfc3339(silence.ends_at),
                created_by=silence.created_by,
                comment=silence.comment,
            )


def _new_id() -> str:
    return str(uuid.uuid4())


def matchers_text(matchers: Iterable[Matcher]) -> str:
    """Return matchers as a column holds them."""
    return msgspec.json.encode([(item.name, item.op, item.value) for item in matchers]).decode()


def read_matchers(text: str) -> tuple[Matcher, ...]:
    """Return what `matchers_text` was given."""
    return tuple(Matcher(name, op, value) for name, op, value in _MATCHERS.decode(text))


def _both(done: Posted) -> tuple[Silence, ...]:
    return (done.silence,) if done.replaced is None else (done.replaced, done.silence)


def _row(silence: Silence) -> dict[str, Any]:
    row = {entry.name: getattr(silence, entry.name) for entry in dataclasses.fields(silence)}
    annotations = msgspec.json.encode(dict(silence.annotations)).decode()
    return row | {"matchers": matchers_text(silence.matchers), "annotations": annotations}


def _read(row: sa.RowMapping) -> Silence:
    values = {entry.name: row[entry.name] for entry in dataclasses.fields(Silence)}
    values |= {"matchers": read_matchers(row["matchers"]), "annotations": _ANNOTATIONS.decode(row["annotations"])}
    return Silence(**values)
