"""prometheus_client's metrics of the application, summed over workers as ours are.

prometheus_client keeps every number in an object of `values.ValueClass`, made when the metric is. That name is made to
mean a class whose numbers are in the segment, and the objects there are become ones of it: the application's metrics
stay what they are. Only done in a process that shares its cells.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol, cast
from weakref import WeakValueDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, values
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.samples import Exemplar
from prometheus_client.values import MutexValue

from tocsin.metrics.described import Adopted, text_of
from tocsin.metrics.lines import go_number
from tocsin.metrics.shared import WATCHED

EXEMPLAR_ROOM = 640
"""Bytes: OpenMetrics allows 128 characters of labels, here as JSON with the value."""

_UNPLACED = -1

Key = tuple[str, tuple[str, ...]]
"""Description of the metric; then name of the sample, which of several objects of this name and labels it is, and
label values, `le` last where there is one."""


class Cells(Protocol):
    """What is needed of the store. All but `lock` and `cells` with the lock held."""

    lock: threading.RLock
    cells: Any

    def share(self) -> bool:
        """Share the cells, and return whether they are shared."""

    def place(self, family: str, labels: tuple[str, ...], size: int) -> int:
        """Return the first cell of a series."""

    def remove(self, family: str, labels: tuple[str, ...]) -> None:
        """Take a series off the page."""

    def keep(self, index: int, at: float, payload: bytes, width: int) -> None:
        """Keep an exemplar."""


class _Home:
    """Where the numbers of this process are: one place, as prometheus_client has one class of numbers in a process."""

    def __init__(self) -> None:
        self.store: Cells | None = None
        self.owners: WeakValueDictionary[Key, SharedValue] = WeakValueDictionary()
        self.shapes: dict[str, dict[tuple[str, tuple[str, ...]], None]] = {}
        """What numbers each child of a metric has: names of samples, and `le` if they have one."""
        self.placed: set[Key] = set()
        """Series that this process has begun."""


_home = _Home()


class SharedValue(MutexValue):
    """A number of prometheus_client that is kept in a segment."""

    key: Key
    _family: Adopted
    _index: int
    _size: int
    _apart: float
    """What was counted without a cell."""
    _fresh: bool
    """Made by this process, not by the one it was forked from."""
    _tried: bool
    """Counted when no registry that is watched had its metric: left alone until there is a page."""

    def __init__(
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Iterable[str],
        labelvalues: Iterable[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_options: Any,
    ) -> None:
        self._lock = threading.Lock()
        self._exemplar = None
        self.begin(Adopted(typ, metric_name, _own(labelnames), help_text, multiprocess_mode), name, tuple(labelvalues))

    def begin(self, family: Adopted, sample: str, labelvalues: tuple[str, ...]) -> None:
        """Become the number of this sample: nowhere yet, and 0."""
        self._index, self._apart = _UNPLACED, 0.0
        self._fresh, self._tried = True, False
        self._family = family
        self._size = 2 if family.mode.endswith("mostrecent") else 1
        text, number = text_of(family), 0
        while (key := (text, (sample, str(number), *labelvalues))) in _home.owners:
            number += 1
        self.key = key
        _home.owners[key] = self
        _home.shapes.setdefault(text, {})[sample, labelvalues[len(family.labels) :]] = None

    def settle(self, store: Cells) -> None:
        """Get a cell, if a registry that is watched has the metric, and the store is shared. With its lock held."""
        if self._index != _UNPLACED or not _is_watched(self._family.name) or not store.share():
            return
        index = store.place(*self.key, self._size)
        with self._lock:
            for cell in range(index, index + self._size):
                store.cells[cell] = 0.0  # there may be the number of an object that is no more
            store.cells[index] = self._apart
            self._index = index
        _home.placed.add(self.key)

    def settle_for_page(self, store: Cells) -> None:
        """Get a cell though nothing was counted: 0 is shown too. With the store's lock held.

        Not for a gauge that was made before this process was forked: it may have been set there.
        """
        if self._fresh or self._family.kind != "gauge":
            self.settle(store)

    def unsettle(self) -> None:
        """In a forked process: what was counted before is the parent's."""
        self._lock = threading.Lock()
        self._index, self._apart, self._exemplar = _UNPLACED, 0.0, None
        self._fresh = self._tried = False

    @property
    def _value(self) -> float:
        store = _home.store
        return self._apart if store is None or self._index == _UNPLACED else float(store.cells[self._index])

    @_value.setter
    def _value(self, value: float) -> None:
        store = _home.store
        if store is None or self._index == _UNPLACED:
            self._apart = value
        else:
            store.cells[self._index] = value

    def inc(self, amount: float) -> None:
        """Add to the number."""
        if self._index == _UNPLACED and not self._tried:
            self._arrive()
        with self._lock:
            index, store = self._index, _home.store
            if index == _UNPLACED or store is None:
                self._apart += amount
            else:
                store.cells[index] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set the number; with the Unix seconds of now if the last one set is the one to be shown."""
        if self._index == _UNPLACED and not self._tried:
            self._arrive()
        with self._lock:
            self._value = value
            store = _home.store
            if self._size == 2 and store is not None and self._index != _UNPLACED:
                store.cells[self._index + 1] = timestamp or 0.0

    def set_exemplar(self, exemplar: Exemplar) -> None:
        """Keep an example of what was counted."""
        self._exemplar = exemplar
        store = _home.store
        if store is not None and self._index != _UNPLACED:
            with store.lock:
                self._keep_exemplar(store)

    def _arrive(self) -> None:
        store = _home.store
        if store is not None:
            with store.lock:
                self._settle_all(store)
        self._tried = True

    def _settle_all(self, store: Cells) -> None:
        """Get cells for all numbers of this child: the buckets of a histogram are shown together."""
        text, (_, number, *rest) = self.key
        own = tuple(rest[: len(self._family.labels)])
        for sample, le in _home.shapes[text]:
            value = _home.owners.get((text, (sample, number, *own, *le)))
            if value is not None:
                value.settle(store)

    def _keep_exemplar(self, store: Cells) -> None:
        exemplar = self._exemplar
        if exemplar is not None and self._index != _UNPLACED:
            payload = json.dumps([exemplar.labels, exemplar.value], ensure_ascii=False).encode(errors="replace")
            store.keep(self._index, float(exemplar.timestamp or 0.0), payload, EXEMPLAR_ROOM)

    def take_over(self, store: Cells) -> None:
        """Get a cell, for what was counted without one too. With the store's lock held."""
        self.settle(store)
        self._keep_exemplar(store)


def watch(registry: CollectorRegistry) -> None:
    """Share what the metrics of this registry count, where others of this process are shared."""
    store = _home.store
    if store is not None:
        with store.lock:
            _adopt(registry, store)


def watched() -> list[CollectorRegistry]:
    """Return the registries whose metrics are shared."""
    return list(WATCHED)


def begin(store: Cells) -> None:
    """Keep the numbers of prometheus_client in this store from now on, unless they are in another. With its lock."""
    if _home.store is None:
        _home.store = store
        values.ValueClass = SharedValue
    if _home.store is store:
        for value in list(_home.owners.values()):
            value.settle_for_page(store)
        for registry in list(WATCHED):
            _adopt(registry, store)


def home() -> Any:
    """Return the store that the numbers of prometheus_client are in, or None."""
    return _home.store


def sweep() -> None:
    """Before a page: put on it what is new, and take off it what was removed from a metric. With the store's lock."""
    store = _home.store
    if store is None:
        return
    for value in list(_home.owners.values()):
        value.settle_for_page(store)
    for key in [key for key in _home.placed if key not in _home.owners]:
        _home.placed.discard(key)
        store.remove(*key)


def forked() -> None:
    """In a forked process: all numbers begin anew, and are only shared once something is counted.

    prometheus_client's locks are made anew too: one that another thread held at the fork would never be released.
    """
    for registry in watched():
        registry._lock = threading.Lock()
        for collector in list(registry._collector_to_names):
            if isinstance(collector, MetricWrapperBase) and hasattr(collector, "_lock"):
                collector._lock = threading.Lock()
    _home.placed.clear()
    for value in list(_home.owners.values()):
        value.unsettle()


def numbers(metric: MetricWrapperBase) -> list[SharedValue]:
    """Return the numbers of a metric and of its children, which are shared."""
    return [value for one in children(metric) for _, _, value in _parts(one) if isinstance(value, SharedValue)]


def _is_watched(name: str) -> bool:
    return any(name in registry._names_to_collectors for registry in list(WATCHED))


def _adopt(registry: CollectorRegistry, store: Cells) -> None:
    # No lock of a metric may be waited for here: who holds one may wait for the store's. Copies are made in one step.
    for collector in list(registry._collector_to_names):
        if isinstance(collector, MetricWrapperBase):
            for metric in children(collector):
                with suppress(AttributeError):  # a class of somebody else's, without what ours have
                    _adopt_metric(metric, store)


def _adopt_metric(metric: MetricWrapperBase, store: Cells) -> None:
    mode = getattr(metric, "_multiprocess_mode", "")
    family = Adopted(str(metric._type), metric._name, tuple(metric._labelnames), metric._documentation, mode)
    for sample, labelvalues, value in _parts(metric):
        if type(value) is MutexValue:
            with value._lock:
                number = value._value
                # The same object: whoever has it, or waits for its lock, goes on with it.
                value.__class__ = SharedValue
                shared = cast("SharedValue", value)
                shared.begin(family, sample, labelvalues)
                shared._apart = number
            shared.take_over(store)


def children(metric: MetricWrapperBase) -> list[MetricWrapperBase]:
    """Return a metric if it has numbers itself, else its children."""
    return list(metric._metrics.values()) if metric._labelnames and not metric._labelvalues else [metric]


def _parts(metric: MetricWrapperBase) -> list[tuple[str, tuple[str, ...], Any]]:
    """Return (name of the sample, label values, number) of all numbers of a metric without children."""
    name, labelvalues = metric._name, tuple(metric._labelvalues)
    if isinstance(metric, Counter):
        return [(f"{name}_total", labelvalues, metric._value)]
    if isinstance(metric, Gauge):
        return [(name, labelvalues, metric._value)]
    if isinstance(metric, Summary):
        return [(f"{name}_count", labelvalues, metric._count), (f"{name}_sum", labelvalues, metric._sum)]
    if isinstance(metric, Histogram):
        buckets = zip(metric._upper_bounds, metric._buckets, strict=True)
        return [
            (f"{name}_sum", labelvalues, metric._sum),
            *((f"{name}_bucket", (*labelvalues, go_number(bound)), bucket) for bound, bucket in buckets),
        ]
    return []


def _own(labelnames: Iterable[str]) -> tuple[str, ...]:
    """Return the label names of the metric: those of a bucket have `le` besides."""
    return tuple(name for name in labelnames if name != "le")
