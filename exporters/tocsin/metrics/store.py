"""Where the numbers of a process are kept: cells, which are floats at an index.

`HeapStore` is one process by itself. `tocsin.metrics.workers` has the same for several workers of one server, which
see each other's cells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, MutableSequence
from typing import NamedTuple, Protocol

from tocsin.names import Metric


class Exemplar(NamedTuple):
    """One request as an example of a histogram bucket."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    value: float
    at: float
    """Unix seconds."""


class Reading(NamedTuple):
    """One series as it is now, over all workers if there are several."""

    metric: Metric
    labels: tuple[str, ...]
    values: list[float]
    """counter, gauge, info: one. summary: count, sum. histogram: requests per bucket (not cumulative; the last is
    +Inf), then the sum."""
    exemplars: Mapping[int, Exemplar]
    """By bucket."""


def size_of(metric: Metric) -> int:
    """Return how many cells a series of this metric takes."""
    return {"histogram": len(metric.buckets) + 2, "summary": 2}.get(metric.kind, 1)


class Store(Protocol):
    """Keeps the cells of a process. Everything but `lock` is called with the lock held."""

    lock: threading.RLock
    cells: MutableSequence[float]
    """Changed in place, `store.cells[index] += 1.0`. May be another object after `allocate`: do not keep it."""

    @property
    def sharing(self) -> bool:
        """Whether other processes read these cells. May become true; `on_renewal` then says so."""

    @property
    def in_group(self) -> bool:
        """Whether other processes read these cells, or will when there is something in them."""

    def name_service(self, name: str) -> None:
        """Say whose numbers these are: two services that one process has started are not mixed. Without the lock."""

    def allocate(self, metric: Metric, labels: tuple[str, ...]) -> int:
        """Return the index of the first cell of a new series; its cells are 0."""

    def exemplify(self, index: int, bucket: int, exemplar: Exemplar) -> None:
        """Keep the latest exemplar of a bucket of the series that begins at this index."""

    def readings(self) -> list[Reading]:
        """Return all series, in the order they were first seen."""

    def on_renewal(self, forget: Callable[[], None]) -> None:
        """Call this whenever every index has become invalid: a forked worker begins with cells of its own."""


_NONE: Mapping[int, Exemplar] = {}


class HeapStore:
    """The cells of one process that shares them with nobody."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.cells: MutableSequence[float] = []
        self._series: dict[tuple[str, tuple[str, ...]], tuple[int, int, Metric, tuple[str, ...]]] = {}
        self._end = 0
        self._exemplars: dict[int, dict[int, Exemplar]] = {}

    @property
    def sharing(self) -> bool:
        """Whether other processes read these cells: no."""
        return False

    @property
    def in_group(self) -> bool:
        """Whether they will: no."""
        return False

    def name_service(self, name: str) -> None:
        """Nothing to do: nobody else is here."""

    def allocate(self, metric: Metric, labels: tuple[str, ...]) -> int:
        """Return the index of the first cell of a new series; its cells are 0."""
        size = size_of(metric)
        # The garbage collector may run at any call or new list, and what it ends may count in here, under the lock that
        # this thread has. So cells are taken without a call in between, and a series that is there by now stays.
        index, self._end = self._end, self._end + size
        self.cells.extend([0.0] * (index + size - len(self.cells)))
        return self._series.setdefault((metric.name, labels), (index, index + size, metric, labels))[0]

    def exemplify(self, index: int, bucket: int, exemplar: Exemplar) -> None:
        """Keep the latest exemplar of a bucket of the series that begins at this index."""
        self._exemplars.setdefault(index, {})[bucket] = exemplar

    def readings(self) -> list[Reading]:
        """Return all series, in the order they were first seen."""
        cells, exemplars = self.cells, self._exemplars
        return [
            Reading(metric, labels, list(cells[index:end]), dict(exemplars[index]) if index in exemplars else _NONE)
            for index, end, metric, labels in list(self._series.values())
        ]

    def on_renewal(self, forget: Callable[[], None]) -> None:
        """Nothing to do: the cells of a heap are copied by a fork as they are."""
