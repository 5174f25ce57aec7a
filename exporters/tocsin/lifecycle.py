"""Flushing what is queued, and stopping what runs beside the application, in order and within a deadline."""

from __future__ import annotations

import atexit
import os
import threading
from time import monotonic
from typing import Protocol
from weakref import WeakSet


class Worker(Protocol):
    """Something with a queue and perhaps a thread: a log writer, a span exporter."""

    def flush(self, timeout: float) -> bool:
        """Hand on everything queued up to now; return whether that was done within so many seconds."""

    def shutdown(self, timeout: float) -> bool:
        """Flush, then stop the thread and close what is open; later calls do nothing."""


_sources: WeakSet[Worker] = WeakSet()
"""Flushed first: they hand on to the others."""
_workers: WeakSet[Worker] = WeakSet()
_lock = threading.Lock()
_EXIT_SECONDS = 3.0
_forks_watched = False


def register(worker: Worker, *, first: bool = False) -> None:
    """Have this worker flushed by `force_flush`, and stopped by `shutdown` and at the end of the process.

    Args:
        worker: kept by a weak reference.
        first: it hands on to other workers, so it comes before them.
    """
    with _lock:
        if not _sources and not _workers:
            atexit.register(shutdown, _EXIT_SECONDS)
            _watch_forks()
        (_sources if first else _workers).add(worker)


def _watch_forks() -> None:
    global _forks_watched  # noqa: PLW0603 - once in a process, for it cannot be undone
    if not _forks_watched:
        _forks_watched = True
        os.register_at_fork(after_in_child=_renew)


def _renew() -> None:
    """In a forked child: a lock that another thread held at that moment would never be released."""
    global _lock  # noqa: PLW0603 - as above
    _lock = threading.Lock()


def force_flush(timeout: float = 5.0) -> bool:
    """Write queued log lines and export queued spans now.

    Args:
        timeout: seconds for all of it.

    Returns whether everything was handed on in time.
    """
    deadline = monotonic() + timeout
    done = [worker.flush(max(0.0, deadline - monotonic())) for worker in _all()]
    return all(done)


def shutdown(timeout: float = 5.0) -> bool:
    """Flush, and stop what runs beside the application. Done by itself when the process ends.

    Args:
        timeout: seconds for all of it.

    Returns whether everything was handed on in time.
    """
    deadline = monotonic() + timeout
    done = [worker.shutdown(max(0.0, deadline - monotonic())) for worker in _all()]
    return all(done)


def forget() -> None:
    """Let go of all workers without a word; for tests, which leave some behind that can never be flushed."""
    with _lock:
        _sources.clear()
        _workers.clear()


def _all() -> list[Worker]:
    with _lock:
        return [*_sources, *_workers]
