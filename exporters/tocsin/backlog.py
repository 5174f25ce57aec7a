"""Requests that are over and not yet told: kept for a moment, so that many are told at once.

Code that runs right after an application finds the processor's caches and branch predictors full of the application:
the same instructions take three to six times as long there as in a loop (measured: 2.7 instead of 0.4 us for what
makes the facts of a request). So the request only leaves itself here, and up to 64 are turned into numbers, lines and
spans in one go: at the 64th, after 200 ms, before a scrape, before a log event is written, and at the end.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar
from weakref import WeakSet

from tocsin import lifecycle

BATCH = 64
SECONDS = 0.2

T = TypeVar("T")


class Backlog(Generic[T]):
    """What waits to be told by one function. Any thread may add and drain."""

    def __init__(self, tell: Callable[[list[T]], None], limit: int = BATCH) -> None:
        """Begin empty.

        Args:
            tell: called with items that waited, in their order; must not raise.
            limit: how many items may wait; 1 tells each at once.
        """
        self.items: deque[T] = deque()
        self.limit = limit
        self._tell = tell
        self._draining = threading.RLock()
        self._depth = 0
        _Drainer.know(self)
        lifecycle.register(self, first=True)

    def add(self, item: T) -> None:
        """Keep an item, and tell all if that is enough of them."""
        items = self.items
        items.append(item)
        if len(items) >= self.limit:
            self.drain()
        elif not _Drainer.awake:
            _Drainer.wake()

    def drain(self) -> None:
        """Tell everything that waits. Does nothing inside of itself: telling may log, and logging drains."""
        if not self.items:
            return
        with self._draining:
            if self._depth:
                return
            self._depth = 1
            items = self.items
            try:
                while items:
                    # Counted first: others may add meanwhile, and nobody else takes.
                    self._tell([items.popleft() for _ in range(len(items))])
            finally:
                self._depth = 0

    def flush(self, timeout: float) -> bool:
        """Tell everything that waits; what is told is queued elsewhere, so this takes no time to speak of."""
        self.drain()
        return not self.items

    def shutdown(self, timeout: float) -> bool:
        """Flush."""
        return self.flush(timeout)

    def forget(self) -> None:
        """Begin empty in a forked child: what waits is the parent's to tell."""
        self.items.clear()
        self._draining = threading.RLock()
        self._depth = 0


class _Drainer:
    """One thread of the process that drains what has waited long enough. It sleeps while nothing waits."""

    backlogs: ClassVar[WeakSet[Backlog[Any]]] = WeakSet()
    awake = False
    _due = threading.Event()
    _thread: threading.Thread | None = None

    _watches_forks = False

    @classmethod
    def know(cls, backlog: Backlog[Any]) -> None:
        cls.backlogs.add(backlog)
        if not cls._watches_forks:
            cls._watches_forks = True
            os.register_at_fork(after_in_child=cls.after_fork)

    @classmethod
    def wake(cls) -> None:
        cls.awake = True
        if cls._thread is None:
            cls._thread = threading.Thread(target=cls._run, name="tocsin-backlog", daemon=True)
            try:
                cls._thread.start()
            except RuntimeError:  # the interpreter is ending: `shutdown` drains
                cls._thread = None
                return
        cls._due.set()

    @classmethod
    def _run(cls) -> None:
        pause = threading.Event()
        while True:
            cls._due.wait()
            pause.wait(SECONDS)
            cls._due.clear()
            cls.awake = False  # before draining: what comes now wakes again
            for backlog in list(cls.backlogs):
                backlog.drain()

    @classmethod
    def after_fork(cls) -> None:
        cls.awake, cls._thread, cls._due = False, None, threading.Event()
        for backlog in list(cls.backlogs):
            backlog.forget()


def drain_all() -> None:
    """Tell everything that waits in this process."""
    for backlog in list(_Drainer.backlogs):
        backlog.drain()
