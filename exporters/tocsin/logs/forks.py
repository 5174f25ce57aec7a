"""Tells everything that has a thread and a lock when the process forks: the child has the lock, and not the thread."""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import WeakSet


class Forking(Protocol):
    """What has to take note of a fork."""

    def before_fork(self) -> bool:
        """Come to rest, if that takes no time; return what `after_fork` takes as `held`."""

    def after_fork(self, *, child: bool, held: bool) -> None:
        """Go on in the parent; begin anew in the child."""


_forking: WeakSet[Forking] = WeakSet()
_resting: list[tuple[Forking, bool]] = []
_watching = threading.Lock()


def watch(forking: Forking) -> None:
    """Tell this one of forks; kept by a weak reference."""
    _forking.add(forking)
    if _watching.acquire(blocking=False):  # once in a process, for it cannot be undone; never released
        os.register_at_fork(
            before=_before,
            after_in_parent=lambda: _after(child=False),
            after_in_child=lambda: _after(child=True),
        )


def _before() -> None:
    _resting[:] = [(forking, forking.before_fork()) for forking in tuple(_forking)]


def _after(*, child: bool) -> None:
    for forking, held in _resting:
        forking.after_fork(child=child, held=held)
    _resting.clear()
