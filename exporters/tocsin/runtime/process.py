"""The process behind the page: garbage collection, threads, the container's memory, and how late event loops are.

What can be read is read when the page is. Processor time, memory of the process, file descriptors and start time are
prometheus_client's `process_*`, in its default registry; a registry of your own gets them with
`prometheus_client.ProcessCollector(registry=...)`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Mapping
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

from tocsin import names
from tocsin.metrics.families import Families
from tocsin.runtime.cgroup import Group, find_group
from tocsin.runtime.loop_lag import TICK, LoopLag, lag_of

REFRESH_SECONDS = 5.0
"""How old the values of a worker may be that did not answer the scrape itself."""

_GENERATIONS = ("0", "1", "2")


class _Pauses:
    """A tally of the collector's pauses: for each generation the count in each bucket, then the seconds in all.

    The collector may interrupt code that holds the lock of a store. So nothing is locked here, and nothing is handed
    on before the page is read: the collector runs once at a time, and only it writes.
    """

    def __init__(self) -> None:
        self.cells = [[0.0] * (len(names.GC_PAUSE.buckets) + 2) for _ in _GENERATIONS]
        self._started = 0.0

    def __call__(self, phase: str, info: Mapping[str, Any]) -> None:
        if phase == "start":
            self._started = time.perf_counter()
        elif self._started:
            seconds = time.perf_counter() - self._started
            cells = self.cells[info["generation"]]
            cells[bisect_left(names.GC_PAUSE.buckets, seconds)] += 1.0
            cells[-1] += seconds
            self._started = 0.0  # who is called for the end of a collection only has not seen its beginning

    def now(self) -> list[list[float]]:
        """Return a copy of the tally."""
        return [list(cells) for cells in self.cells]


class _Watch:
    """What is handed to one page of metrics whenever that is read."""

    def __init__(self, group: Group | None) -> None:
        self.lock = threading.Lock()
        self.loops: list[LoopLag] = []
        self._group = group
        self._limited = False
        self._seen = _pauses.now()

    def __call__(self, families: Families) -> None:
        with self.lock:
            self.loops = [lag for lag in self.loops if lag.collect()]
            families.set(names.PROCESS_THREADS, value=_threads())
            self._read_memory(families)
            self._fold_pauses(families)

    def begin_again(self) -> None:
        """After a fork, in the child: what the parent did, and the loops that run there, are the parent's."""
        self.lock = threading.Lock()
        self.loops = []
        self._seen = _pauses.now()

    def _fold_pauses(self, families: Families) -> None:
        before, self._seen = self._seen, _pauses.now()
        family = families.declare(names.GC_PAUSE)
        for generation, old, new in zip(_GENERATIONS, before, self._seen, strict=True):
            if old == new:
                continue
            with families.store.lock:
                first = families.place(family, (generation,))
                for offset, (less, more) in enumerate(zip(old, new, strict=True)):
                    families.store.cells[first + offset] += more - less

    def _read_memory(self, families: Families) -> None:
        memory = self._group.memory() if self._group is not None else None
        if memory is None:
            return
        families.set(names.MEMORY_USAGE, value=memory.usage)
        if memory.limit is not None or self._limited:  # a limit that was lifted is none any more, not the last one
            self._limited = True
            families.set(names.MEMORY_LIMIT, value=inf if memory.limit is None else memory.limit)


_pauses = _Pauses()
_watches: WeakKeyDictionary[Families, _Watch] = WeakKeyDictionary()
_lock = threading.Lock()
_once: set[str] = set()
_refresher: threading.Thread | None = None


def watch(families: Families, *, group: Group | None = None) -> None:
    """Show garbage collection, threads and memory of this process on a page of metrics. Done twice, it is done once.

    Args:
        families: the page.
        group: the control group whose memory is shown; default: that of this process.
    """
    with _lock:
        if "fork" not in _once:
            _once.add("fork")
            os.register_at_fork(after_in_child=_after_fork)
        if families in _watches:
            return
        if _pauses not in gc.callbacks:
            gc.callbacks.append(_pauses)
        _watches[families] = watched = _Watch(group or find_group())
        families.before_collect(watched)
    _keep_fresh()


def watch_loop(loop: asyncio.AbstractEventLoop, families: Families) -> None:
    """Show how late an event loop is; from any thread. Ends with the loop, or with `unwatch`. Twice is once.

    A loop that is not running may not be watched before it runs, or the wait until then is taken for lag.
    """
    watch(families)
    watched = _watches.get(families)
    if watched is None or loop.is_closed():
        return
    with watched.lock:
        if not any(lag.watches(loop) for lag in watched.loops):
            watched.loops.append(lag_of(loop, families))
            # Whether this is one of several workers may not be known before it has counted something.
            loop.call_soon_threadsafe(loop.call_later, 2 * TICK, _keep_fresh)


def watch_running_loop(families: Families) -> None:
    """Show how late the event loop is that runs in this thread, if one does."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # another kind of loop, as of trio
        return
    watch_loop(loop, families)


def unwatch(families: Families) -> None:
    """Undo `watch` and `watch_loop`. What was counted stays on the page, and gauges keep their last value."""
    with _lock:
        watched = _watches.pop(families, None)
        if watched is None:
            return
        families.before_collect(watched)()  # known already: this only gives what undoes it
        if not _watches and _pauses in gc.callbacks:
            gc.callbacks.remove(_pauses)
    for lag in watched.loops:
        lag.stop()


def _threads() -> int:
    """Return how many threads the process has, those that Python does not know included."""
    try:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208  # ten times the speed of Path.iterdir
    except OSError:  # not Linux
        return threading.active_count()


# --- several workers ------------------------------------------------------------------------------------------------


def _keep_fresh() -> None:
    """Where workers share their numbers, keep this one's fresh: another one may answer the scrape.

    A thread, for it has to go on while the event loop is stuck, and workers without a loop need it as well. Not in the
    process that forks the workers: that one has counted nothing before, and shares nothing.
    """
    global _refresher  # noqa: PLW0603  # one for the process
    with _lock:
        if _refresher is None and _shared():
            _refresher = threading.Thread(target=_refresh, name="tocsin-refresh", daemon=True)
            _refresher.start()


def _shared() -> list[Families]:
    return [families for families in list(_watches) if getattr(families.store, "sharing", False)]


def _refresh() -> None:
    global _refresher  # noqa: PLW0603  # one for the process
    while True:
        time.sleep(REFRESH_SECONDS)
        with _lock:
            shared = _shared()
            if not shared:
                _refresher = None
                return
        while shared:
            shared.pop().refresh()  # and let go of it, so that a page that nobody else holds may end


def _after_fork() -> None:
    global _lock, _refresher  # noqa: PLW0603  # what another thread held at the fork is held for ever
    _lock = threading.Lock()
    _refresher = None
    for watched in list(_watches.values()):
        watched.begin_again()
    _keep_fresh()
