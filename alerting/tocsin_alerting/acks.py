"""Acknowledgements: somebody has seen an alert and is at it. They stop repeats, and nothing else.

What is new is told in spite of one, and so is every end. They are kept as silences are: durable before the answer,
the same on every replica, asked in memory.

    AckError
"""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from tocsin_alerting.index import Index
from tocsin_alerting.matchers import Matcher
from tocsin_alerting.model import fingerprint as fingerprint_of
from tocsin_alerting.revisions import METADATA, Mirror, Revised
from tocsin_alerting.silence_store import matchers_text, read_matchers
from tocsin_alerting.silences import milliseconds
from tocsin_service import telemetry
from tocsin_service.clock import Clock, rfc3339
from tocsin_service.db import Database

ACK: Final = sa.Table(
    "alerting_ack",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    *(sa.Column(name, sa.Text) for name in ("matchers", "fingerprint", "created_by", "comment", "via")),
    *(sa.Column(name, sa.Double) for name in ("starts_at", "ends_at", "updated_at")),
    sa.Column("revision", sa.BigInteger),
)
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{16}")
_FORGET_EVERY: Final = 300.0


class AckError(Exception):
    """An acknowledgement that is not taken; `status` is that of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Ack:
    """One acknowledgement, of one alert (`fingerprint`) or of all that satisfy `matchers`.

    Args:
        via: where it came from: `api`, `slack`, ...
    """

    id: str
    matchers: tuple[Matcher, ...]
    fingerprint: str
    created_by: str
    comment: str
    starts_at: float
    ends_at: float
    updated_at: float
    via: str = "api"

    def holds(self, now: float) -> bool:
        """Return whether it is in force."""
        return self.starts_at <= now < self.ends_at


class Acks:
    """All acknowledgements, as this replica knows them; see `silence_store.Silences`.

    Args:
        database: gives the database once it is open.
        retention: seconds for which ended ones are kept.
    """

    def __init__(self, database: Callable[[], Database], clock: Clock, *, retention: float = 432_000.0) -> None:
        self.version = 0
        """Changes whenever an acknowledgement does."""
        self._table = Revised("acks", ACK, database)
        self._clock = clock
        self._retention = retention
        self._log = telemetry.logger("tocsin.alerting")
        self._index = Index[str]()
        self._by_fingerprint: dict[str, set[str]] = {}
        self._mirror = Mirror(self._table, read=_read, put=self._put, drop=self._drop)
        self._forget_at = 0.0

    # --- asked ------------------------------------------------------------------------------------------------

    def acknowledged(self, labels: Mapping[str, str], now: float, *, fingerprint: str | None = None) -> Ack | None:
        """Return the acknowledgement of an alert that holds longest; None if there is none.

        Args:
            fingerprint: that of `labels`, where it is known: working it out costs more than all the rest.
        """
        names = self._index.matching(labels)
        if self._by_fingerprint:
            names += self._by_fingerprint.get(fingerprint or fingerprint_of(labels), ())
        if not names:
            return None
        held = [ack for name in names if (ack := self._mirror.values[name]).holds(now)]
        return max(held, key=lambda ack: (ack.ends_at, ack.id), default=None)

    def get(self, name: str) -> Ack | None:
        """Return an acknowledgement by its id."""
        return self._mirror.values.get(name)

    def list(self) -> Sequence[Ack]:
        """Return those in force, the first to end first, and after them the ended ones, the last ended first."""
        now = self._clock.now()
        known = list(self._mirror.values.values())
        held = sorted((ack for ack in known if ack.holds(now)), key=lambda ack: (ack.ends_at, ack.id))
        ended = sorted((ack for ack in known if not ack.holds(now)), key=lambda ack: (-ack.ends_at, ack.id))
        return [*held, *ended]

    # --- kept up to date --------------------------------------------------------------------------------------

    async def refresh(self) -> bool:
        """Hear of what other replicas changed; return whether there was anything."""
        now = self._clock.now()
        if now >= self._forget_at:
            self._forget_at = now + _FORGET_EVERY
            self._forget(now)
        return await self._mirror.refresh()

    def _put(self, ack: Ack) -> None:
        self._drop(ack.id)
        if self._clock.now() >= ack.ends_at:
            return
        if ack.fingerprint:
            self._by_fingerprint.setdefault(ack.fingerprint, set()).add(ack.id)
        else:
            self._index.add(ack.id, ack.matchers)

    def _drop(self, name: str) -> None:
        self.version += 1
        self._index.discard(name)
        for fingerprint, names in list(self._by_fingerprint.items()):
            names.discard(name)
            if not names:
                del self._by_fingerprint[fingerprint]

    # --- changed ----------------------------------------------------------------------------------------------

    async def post(
        self,
        *,
        matchers: Sequence[Matcher] = (),
        fingerprint: str = "",
        created_by: str,
        comment: str = "",
        ends_at: float,
        via: str = "api",
    ) -> Ack:
        """Acknowledge the alert with a fingerprint, or all that satisfy matchers, until `ends_at`.

        Raises:
            AckError: neither or both, who did it is missing, or the end is past.
        """
        now = self._clock.now()
        if bool(matchers) == bool(fingerprint):
            raise AckError(400, "an acknowledgement needs matchers or a fingerprint, and not both")
        if fingerprint and _FINGERPRINT.fullmatch(fingerprint) is None:
            raise AckError(400, "a fingerprint is 16 hexadecimal digits, as alerts show it")
        if matchers and all(item.matches_absence for item in matchers):
            raise AckError(400, "these matchers fit every alert; name a label that must be there")
        if not created_by:
            raise AckError(400, "an acknowledgement needs a name under createdBy")
        if ends_at <= now:
            raise AckError(400, "the end of the acknowledgement is not in the future")
        at = milliseconds(now)
        name = str(uuid.uuid4())
        ack = Ack(name, tuple(matchers), fingerprint, created_by, comment, at, milliseconds(ends_at), at, via)

        async def step(connection: AsyncConnection) -> None:
            await self._table.put(connection, _row(ack))

        revision, _ = await self._table.change(step)
        self._mirror.changed(revision, ack)
        self._tell("alert acknowledged", ack)
        return ack

    async def withdraw(self, name: str) -> None:
        """End an acknowledgement now; one that has ended stays as it is.

        Raises:
            AckError: there is none.
        """
        now = self._clock.now()

        async def step(connection: AsyncConnection) -> Ack:
            row = await self._table.find(connection, name)
            if row is None:
                raise AckError(404, "acknowledgement not found")
            ack = _read(row)
            if ack.holds(now):
                at = milliseconds(now)
                ack = dataclasses.replace(ack, ends_at=at, updated_at=at)
                await self._table.put(connection, _row(ack))
            return ack

        revision, ack = await self._table.change(step)
        self._mirror.changed(revision, ack)
        self._tell("acknowledgement withdrawn", ack)

    async def sweep(self, now: float) -> int:
        """Delete what ended longer than `retention` ago; return how many were known here."""
        await self._table.delete(ACK.c.ends_at < now - self._retention)
        return self._forget(now)

    def _forget(self, now: float) -> int:
        old = [ack.id for ack in self._mirror.values.values() if ack.ends_at < now - self._retention]
        for name in old:
            self._mirror.forget(name)
        return len(old)

    async def close(self) -> None:
        """Wait for what is being written."""
        await self._table.close()

    def _tell(self, what: str, ack: Ack) -> None:
        about = {"fingerprint": ack.fingerprint} if ack.fingerprint else {"matchers": [str(m) for m in ack.matchers]}
        self._log.info(what, ack=ack.id, by=ack.created_by, via=ack.via, ends_at=rfc3339(ack.ends_at), **about)


def _row(ack: Ack) -> dict[str, Any]:
    row = {entry.name: getattr(ack, entry.name) for entry in dataclasses.fields(ack)}
    return row | {"matchers": matchers_text(ack.matchers)}


def _read(row: sa.RowMapping) -> Ack:
    values = {entry.name: row[entry.name] for entry in dataclasses.fields(Ack)}
    return Ack(**values | {"matchers": read_matchers(row["matchers"])})
