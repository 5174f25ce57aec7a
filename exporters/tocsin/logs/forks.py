"""Tells everything that has a thread and a lock when the process forks: the child has the lock, and not the thread."""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import ref


class Forking(Protocol):
    """What has to take note of a fork."""

    def before_fork(self) -> bool:
        """Come to rest, if that takes no time; return what `after_fork` takes as `held`."""

    def after_fork(self, *, child: bool, held: bool) -> None:
        """Go on in the parent; begin anew in the child."""


# A list, not a WeakSet: that cannot be walked while another thread adds to it.
_forking: list[ref[Forking]] = []
_resting: dict[int, list[tuple[Forking, bool]]] = {}
"""What came to rest, by the thread that forks: two may do so at once."""
_watching = threading.Lock()


def watch(forking: Forking) -> None:
    """Tell this one of forks; kept by a weak reference."""
    _forking.append(ref(forking, _forking.remove))
    if _watching.acquire(blocking=False):  # once in a process, for it cannot be undone; never released
        os.register_at_fork(
            before=_before,
            after_in_parent=lambda: _after(child=False),
            after_in_child=lambda: _after(child=True),
        )


def _before() -> None:
    found = [forking for reference in tuple(_forking) if (forking := reference()) is not None]
    _resting[threading.get_ident()] = [(forking, forking.before_fork()) for forking in found]


def _after(*, child: bool) -> None:
    resting = _resting.pop(threading.get_ident(), [])
    if child:
        _resting.clear()
    for forking, held in resting:
        forking.after_fork(child=child, held=held)
