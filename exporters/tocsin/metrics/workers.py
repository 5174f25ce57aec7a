"""Several worker processes on one port, shown as one: what `families_of` keeps its numbers in, and a page is made of.

Nothing has to be configured. `TOCSIN_WORKERS=off` switches it off: then every process shows what it has counted itself.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from weakref import WeakKeyDictionary, WeakValueDictionary

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from tocsin.metrics import group
from tocsin.metrics.shared import WATCHED, SharedStore
from tocsin.metrics.store import HeapStore


class _Process:
    """The stores of this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a finalizer may ask for families while this thread makes some
        self.stores: WeakValueDictionary[int, SharedStore] = WeakValueDictionary()
        """In the order they were made."""
        self.numbers: Counter[str] = Counter()
        """How many stores there were, by service. No number is given twice: the same in all workers, it must not
        depend on when one of them collects its garbage."""
        self.by_registry: WeakKeyDictionary[CollectorRegistry, SharedStore] = WeakKeyDictionary()
        self.prepared = False


_process = _Process()


def store_for(
    service_name: str = "", registry: CollectorRegistry | None = None, environ: Mapping[str, str] | None = None
) -> HeapStore:
    """Return where a process keeps its numbers: shared with the other workers of its server, if it is one of several.

    Args:
        service_name: two services that one process has started are not mixed; default: `OTEL_SERVICE_NAME`.
        registry: its prometheus_client metrics are summed over workers too.
        environ: default: the process's.
    """
    environ = os.environ if environ is None else environ
    if not group.enabled(environ):
        return HeapStore()
    service = service_name or environ.get("OTEL_SERVICE_NAME", "").strip()
    with _process.lock:
        if not _process.prepared:
            _process.prepared = True
            os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
            atexit.register(_at_exit)
        number = _process.numbers[service]
        _process.numbers[service] += 1
        watched = registry is not None and group.declared_folder(environ) is None
        if registry is not None and watched:
            WATCHED.add(registry)
        store = SharedStore(service, number, environ, next(iter(_process.stores.values()), None))
        _process.stores[_process.numbers.total()] = store
        if registry is not None:
            _process.by_registry[registry] = store
    adopt = sys.modules.get("tocsin.metrics.adopt")
    if adopt is not None and watched:  # another registry of this process is shared already
        adopt.watch(registry)
    return store


def collectors(registry: CollectorRegistry) -> list[Collector]:
    """Return what the page of a registry asks for its families, over all workers where there are several.

    Summed are the library's own families (by themselves), prometheus_client's metrics and what the system knows of the
    processes. Collectors of others are asked in this process only.
    """
    store = _process.by_registry.get(registry)
    if store is None or not _joined(store):
        return list(registry._collector_to_names)
    # What a process by itself need not wait for when it starts.
    from tocsin.metrics.jointpage import stand_ins  # noqa: PLC0415

    return stand_ins(registry, store)


def clean_up() -> None:
    """Remove the folders of all workers that this process has started, where none of them is alive any more."""
    from tocsin.metrics.members import leave  # noqa: PLC0415  # as above

    with suppress(OSError):
        for folder in group.root().glob(group.folders_of(os.getpid())):
            leave(folder)


def _joined(store: SharedStore) -> bool:
    with store.lock:
        return store.joined()


def _stores() -> list[SharedStore]:
    return list(_process.stores.values())


def _before_fork() -> None:
    for store in _stores():
        store.about_to_fork()


def _after_fork() -> None:
    _process.lock = threading.RLock()
    for name, loaded in (("members", "forget_locks"), ("adopt", "forked")):
        module = sys.modules.get(f"tocsin.metrics.{name}")  # only there if something was shared before the fork
        if module is not None:
            getattr(module, loaded)()
    caller = sys._getframe().f_back
    for store in _stores():
        store.forked(caller)


def _at_exit() -> None:
    for store in _stores():
        with suppress(OSError):
            store.leave()
