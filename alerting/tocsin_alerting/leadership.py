"""Who of several replicas tells receivers: a lease in the database, renewed while it lasts, with fencing.

The leader stops by its own clock before others may begin by the database's clock. What it still has under way then is
refused by its `epoch` when it comes to be written.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from tocsin_alerting.storage import Storage
from tocsin_alerting.telemetry import Telemetry
from tocsin_service.clock import Clock

LEASE: Final = 3.0
"""Seconds that a leader may be silent before another takes over."""
_MARGIN: Final = 0.5
"""Seconds before that at which it gives up by itself: a request under way is cancelled in time."""
_TIMEOUT: Final = 1.5
"""Seconds for one question to the database: a connection that hangs must not outlast the lease."""

DATABASE_ERRORS: Final = (SQLAlchemyError, OSError, TimeoutError)
"""What a database that is away raises."""


class Leadership:
    """Whether this replica leads.

    Args:
        lease: see `LEASE`.
        on_gain: called when this replica begins to lead; if the database fails it, the lease is given up.
        on_loss: called at once when it does not any more.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        clock: Clock,
        telemetry: Telemetry,
        on_gain: Callable[[], Awaitable[None]],
        on_loss: Callable[[], None],
        lease: float = LEASE,
    ) -> None:
        self.name = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        """What the database knows this replica by."""
        self.epoch = 0
        self._storage = storage
        self._clock = clock
        self._telemetry = telemetry
        self._on_gain = on_gain
        self._on_loss = on_loss
        self._lease = lease
        self._leads = False
        self._until: float | None = None
        self._alone = False
        self._gaining: asyncio.Task[None] | None = None

    @property
    def leads(self) -> bool:
        """Whether this replica may tell receivers at this moment."""
        return self._leads and (self._until is None or _monotonic() < self._until)

    async def begin(self) -> None:
        """Lead at once if nobody else does; a database that is not shared is taken whoever had it.

        Raises:
            SQLAlchemyError: the database cannot be used.
        """
        self._alone = not self._storage.shared
        await self._try()
        if self._gaining is not None:
            await self._gaining

    async def run(self) -> None:
        """Keep the lease, or wait for it, for ever."""
        while True:
            if self._alone:
                # Nobody else is meant to use it; who is deposed notices at his next write.
                await self._clock.sleep(3600.0)
                continue
            try:
                await (self._renew() if self._leads else self._try())
            except DATABASE_ERRORS as error:
                self._telemetry.database_failed(error)
            if self._leads and not self.leads:
                self.lost()
            await asyncio.sleep(self._lease / 6)

    async def _renew(self) -> None:
        asked = _monotonic()
        # Not longer than the lease lasts: then it is lost whatever the database may say.
        left = max(0.05, (self._until or asked) - asked)
        async with asyncio.timeout(min(_TIMEOUT, left)):
            kept = await self._storage.renew(self.epoch, seconds=self._lease, now=self._clock.now())
        if kept:
            self._until = asked + self._lease - _MARGIN
        else:
            self.lost()

    async def _try(self) -> None:
        asked = _monotonic()
        # Waited for to its end: a lease that is taken and not known to be would keep everybody silent.
        epoch = await self._storage.lead(self.name, seconds=self._lease, now=self._clock.now())
        if epoch is not None:
            self.epoch, self._leads = epoch, True
            self._until = None if self._alone else asked + self._lease - _MARGIN
            self._telemetry.leading(leads=True, epoch=epoch)
            # Beside the renewals: what there is to recall may take longer than the lease.
            self._gaining = asyncio.create_task(self._gain(epoch), name="take over")

    async def _gain(self, epoch: int) -> None:
        try:
            await self._on_gain()
        except DATABASE_ERRORS as error:
            self._telemetry.database_failed(error)
            if self.epoch == epoch:
                self.lost()
                if self._alone:
                    raise

    def lost(self) -> None:
        """Take note that another may lead."""
        if self._leads:
            self._leads = False
            self._telemetry.leading(leads=False, epoch=self.epoch)
            self._on_loss()

    async def resign(self) -> None:
        """Let another lead at once; nothing happens if another does."""
        if self._leads and not self._alone:
            self._leads = False
            async with asyncio.timeout(_TIMEOUT):
                await self._storage.resign(self.epoch)


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
