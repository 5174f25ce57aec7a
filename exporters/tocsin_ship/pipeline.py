"""The loop of one output: take lines, hand them over, and only then move on. One output knows nothing of the others."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, TypeVar

from tocsin_service import telemetry
from tocsin_ship.checkpoint import Checkpoint
from tocsin_ship.delivery import Delivery, State
from tocsin_ship.lines import Block
from tocsin_ship.outputs import Output
from tocsin_ship.tail import Tail, View
from tocsin_ship.telemetry import Telemetry

_T = TypeVar("_T")
_P = ParamSpec("_P")
_SAVE_EVERY: Final = 0.2
"""Seconds between writes of the positions: what a kill may make us send again."""
_SCAN_EVERY: Final = 1.0
_GATHER: Final = 0.05
"""Seconds to let lines gather when they trickle in."""
_TRICKLE: Final = 64 * 1024
_IDLE: Final = (0.1, 0.5)
"""Shortest and longest seconds between looks at files that do not grow."""
_FAREWELL: Final = 0.8
"""Seconds for what is being sent when we have to stop."""
_STUCK: Final = 10.0
"""Seconds without an answer after which an output is called blocked."""


@dataclass(frozen=True, slots=True)
class _Landed:
    """Blocks that an output is done with since it was last asked."""

    acked: Sequence[Block]
    settled: Sequence[Block]


@dataclass(slots=True)
class _Flight:
    """Blocks that were sent, and what of them the output is done with."""

    unacked: deque[Block] = field(default_factory=deque)
    unsettled: deque[Block] = field(default_factory=deque)
    acked: int = 0
    settled: int = 0

    def add(self, blocks: Sequence[Block]) -> None:
        self.unacked.extend(blocks)
        self.unsettled.extend(blocks)

    def landed(self, output: Output) -> _Landed:
        acked = [self.unacked.popleft() for _ in range(output.acked - self.acked)]
        settled = [self.unsettled.popleft() for _ in range(output.settled - self.settled)]
        self.acked += len(acked)
        self.settled += len(settled)
        return _Landed(acked, settled)


class Pipeline:
    """One output with its own reading of the files.

    Everything that touches files happens in one thread of its own, so that a slow disk holds up nobody and nothing
    needs a lock. `run` never ends by itself; `stop` ends it in at most two seconds, whatever the sink does.
    """

    def __init__(
        self, name: str, output: Output, tail: Tail, checkpoint: Checkpoint, delivery: Delivery, meters: Telemetry
    ) -> None:
        self.name = name
        self.output = output
        self.views: Sequence[View] = ()
        """The files as the last look found them."""
        self._tail = tail
        self._checkpoint = checkpoint
        self._delivery = delivery
        self._meters = meters
        self._clock = delivery.clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"ship-{name}")
        self._flight = _Flight()
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._saved_at = 0.0
        self._unsaved: str | None = None
        self._sending_since: float | None = None
        self._behind_since: dict[str, float] = {}
        self._log = telemetry.logger("tocsin.ship")

    async def start(self) -> None:
        """Open the sink and the files, and begin.

        Raises:
            Exception: whatever the sink's `open` raises; it is closed again then.
        """
        try:
            await self.output.open()
        except BaseException:
            await self._close()
            raise
        for loop in (self._deliver, self._watch):
            self._tasks.append(asyncio.create_task(self._guarded(loop), name=f"ship {self.name}"))

    async def stop(self) -> None:
        """Let what is being sent end, within a second; save the positions; leave."""
        self._stopping.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_FAREWELL)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close()

    def state(self) -> tuple[State, str | None]:
        """Return how the output is doing, and what is wrong."""
        tally, since = self._delivery.tally, self._sending_since
        if tally.state is State.OK and since is not None and self._clock.now() - since > _STUCK:
            return State.BLOCKED, f"has taken nothing for {self._clock.now() - since:.0f} s"
        if tally.state is State.OK and self._unsaved is not None:
            return State.BLOCKED, self._unsaved
        return tally.state, tally.error

    @property
    def acked(self) -> int:
        """Lines the sink has taken since the start."""
        return self._delivery.tally.acked

    @property
    def dead(self) -> int:
        """Lines it refused since the start."""
        return self._delivery.tally.dead

    @property
    def unreadable(self) -> dict[str, str]:
        """Paths that cannot be read, and why."""
        return self._tail.unreadable

    async def _deliver(self) -> None:
        pause = _IDLE[0]
        while not self._stopping.is_set():
            blocks = await self._on_thread(self._turn, self._flight.landed(self.output))
            if blocks:
                pause = _IDLE[0]
                await self._send(blocks)
                if sum(len(block.data) for block in blocks) < _TRICKLE:
                    await self._clock.wait(self._stopping, _GATHER)
            else:
                await self.output.rest()
                await self._clock.wait(self._stopping, pause)
                pause = min(_IDLE[1], pause * 1.5)

    async def _send(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            self._meters.read(block.input, self.name, 1 if block.truncated else block.data.count(b"\n"))
        self._flight.add(blocks)
        self._sending_since = self._clock.now()
        try:
            await self.output.send(blocks)
        finally:
            self._sending_since = None

    async def _watch(self) -> None:
        while not self._stopping.is_set():
            self.views = await self._on_thread(self._look, self._flight.landed(self.output))
            self._meters.lag(self.name, self.views, self._behind_since, self._clock.now())
            await self._clock.wait(self._stopping, _SCAN_EVERY)

    async def _guarded(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Keep `loop` going over mistakes of ours: lines are then read again rather than passed over."""
        while not self._stopping.is_set():
            try:
                await loop()
            except Exception as error:
                self._log.exception("an output failed and starts again", output=self.name)
                await self._on_thread(self._tail.rewind)
                await self._delivery.again("internal", 0, f"{type(error).__name__}: see the log")

    # --- in the thread ----------------------------------------------------------------------------------------

    def _turn(self, landed: _Landed) -> list[Block]:
        now = self._clock.now()
        self._move(landed, now)
        if now - self._saved_at >= _SAVE_EVERY:
            self._save(now)
        return self._tail.take(now)

    def _look(self, landed: _Landed) -> Sequence[View]:
        now = self._clock.now()
        self._move(landed, now)
        self._tail.scan(now)
        self._save(now)
        return self._tail.view()

    def _move(self, landed: _Landed, now: float) -> None:
        for block in landed.acked:
            self._tail.ack(block)
        for block in landed.settled:
            self._tail.settle(block, now)

    def _save(self, now: float) -> None:
        try:
            self._checkpoint.save(now=now)
        except OSError as error:
            if self._unsaved is None:
                self._log.error("positions cannot be saved", output=self.name, reason=error.strerror)
            self._unsaved = f"positions cannot be saved: {error.strerror}"
        else:
            self._unsaved = None
        self._saved_at = now

    def _finish(self, landed: _Landed) -> None:
        now = self._clock.now()
        self._move(landed, now)
        self._save(now)
        self._tail.close()

    async def _close(self) -> None:
        try:
            await self.output.close()
        finally:
            await self._on_thread(self._finish, self._flight.landed(self.output))
            self._thread.shutdown(wait=False)

    async def _on_thread(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        call = functools.partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
