"""Requests counted under the names of the OpenTelemetry conventions, or of the library that an application came from.

`started` and `ended` run on every request: a lookup, a bisection and three additions under one lock.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from tocsin import names as contract
from tocsin.metrics import presets
from tocsin.metrics.families import Families
from tocsin.metrics.store import Exemplar
from tocsin.request import KNOWN_METHODS, OTHER, Facts

if TYPE_CHECKING:
    from tocsin.instrumentation import HttpMetrics

_exemplar = tuple.__new__
"""A third of the time that the constructor of a named tuple takes."""

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class OtelMetrics:
    """`http_server_request_duration_seconds` and `http_server_active_requests`."""

    sizes = False

    def __init__(self, families: Families, buckets: tuple[float, ...] | None, labels: tuple[str, ...]) -> None:
        duration = contract.HTTP_SERVER_REQUEST_DURATION
        duration = replace(duration, buckets=buckets or families.buckets_of(duration))
        duration = presets.with_labels(duration, labels)
        self._families = families
        self._store = families.store
        self._duration = families.declare(duration)
        self._active = families.declare(contract.HTTP_SERVER_ACTIVE_REQUESTS)
        self._durations = self._duration.series
        self._actives = self._active.series
        self._bounds = duration.buckets
        self._sum = len(duration.buckets) + 1
        self._labelled = bool(labels)
        self._lists = {method: [0] for method in (*KNOWN_METHODS, OTHER)}
        self._shown = dict.fromkeys(self._lists, 0)
        """What of the lists is in the store already."""
        self.open: Mapping[str, list[int]] | None = None
        self._pid = os.getpid()
        self._look()
        # The families outlive this, and must not keep it: applications come and go, in tests by the hundred.
        look = weakref.WeakMethod(self._look)
        families.store.on_renewal(lambda: _call(look()))
        show = functools.partial(_show_open, self._lists, self._shown)
        weakref.finalize(self, _end, families, show, families.before_collect(show)).atexit = False

    def _look(self) -> None:
        """Choose how open requests are counted: where other processes read the cells, only the cells will do."""
        if os.getpid() != self._pid:  # forked: what is open is the parent's
            self._pid = os.getpid()
            for method, count in self._lists.items():
                count[0] = self._shown[method] = 0
        self.open = None if self._store.in_group or not _atomic() else self._lists

    def started(self, method: str) -> None:
        """Count a request in."""
        store = self._store
        with store.lock:
            self._change_active(method, 1.0)

    def ended(self, facts: Facts) -> None:
        """Count a request out that `started` counted in, with what it was."""
        store = self._store
        with store.lock:
            self._change_active(facts.method, -1.0)
            self._count(facts)
        if self._families.overflowed:
            self._families.settle()

    def ended_all(self, ended: Iterable[Facts]) -> list[Exception]:
        """Count requests that were open in the lists, and return what went wrong: a status that is no number, say."""
        failures: list[Exception] = []
        count = self._count
        with self._store.lock:
            for facts in ended:
                try:
                    count(facts)
                except Exception as error:
                    failures.append(error)
        if self._families.overflowed:
            self._families.settle()
        return failures

    def _change_active(self, method: str, amount: float) -> None:
        index = self._actives.get(method)
        if index is None:  # also for a request that was open when its process forked
            index = self._families.place(self._active, (method,), method)
        self._store.cells[index] += amount

    def _count(self, facts: Facts) -> None:
        method, route, _, status, seconds, at, _, trace = facts[:8]
        key = (method, route, status, facts.labels) if self._labelled else (method, route, status)
        index = self._durations.get(key)
        if index is None:
            index = self._new_series(facts, key)
        bucket = bisect_left(self._bounds, seconds)
        cells = self._store.cells
        cells[index + bucket] += 1.0
        cells[index + self._sum] += seconds
        if trace is not None and trace.sampled:
            self._store.exemplify(index, bucket, _exemplar(Exemplar, (trace.trace_id, trace.span_id, seconds, at)))

    def _new_series(self, facts: Facts, key: object) -> int:
        """Return where the duration of these facts goes. Its method is in the gauge from now on, if with 0."""
        labels = (facts.method, facts.route, str(facts.status), *facts.labels)
        index, _ = self._families.places((self._duration, labels), (self._active, (facts.method,)))
        if labels in self._durations:  # not so above the limit of series
            self._families.place(self._duration, labels, key)
        return index


def _call(function: Callable[[], None] | None) -> None:
    if function is not None:
        function()


def _show_open(lists: Mapping[str, list[int]], shown: dict[str, int], families: Families) -> None:
    """Add to the gauge what the lists have counted since the last time."""
    for method, (now,) in lists.items():
        change = now - shown[method]
        if change:
            shown[method] = now
            families.add(contract.HTTP_SERVER_ACTIVE_REQUESTS, method, amount=float(change))


def _end(families: Families, show: Callable[[Families], None], undo: Callable[[], None]) -> None:
    show(families)  # requests that ended since the last page
    undo()


def _atomic() -> bool:
    """Whether `list[0] += 1` cannot be torn by another thread.

    CPython gives the interpreter's lock away at calls and backward jumps, and there is none in it; without that lock
    it can be.
    """
    enabled: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
    return enabled()


_NAMES: dict[str, Callable[[Families, tuple[float, ...] | None, tuple[str, ...]], HttpMetrics]] = {
    "otel": OtelMetrics,
    "instrumentator": presets.Instrumentator,
    "starlette_exporter": presets.StarletteExporter,
}


def http_metrics(
    families: Families,
    names: str = "otel",
    buckets: tuple[float, ...] | None = None,
    labels: tuple[str, ...] = (),
    app_name: str = "",
) -> HttpMetrics:
    """Return what counts the requests of an application.

    Args:
        families: where they are counted.
        names: `otel`, or those of a library to migrate from: `instrumentator`, `starlette_exporter`.
        buckets: upper bounds of durations in seconds; default: what the registry has already, else those of `names`.
        labels: names of further labels, whose values are `Facts.labels`.
        app_name: what starlette_exporter's label of that name says; default: `starlette`.

    Raises:
        ValueError: unknown names, labels that cannot be, or a registry that has these metrics in another shape.
    """
    make = _NAMES.get(names)
    if make is None:
        raise ValueError(f"names is {names!r}, expected one of {', '.join(_NAMES)}")
    for label in labels:
        if _LABEL.fullmatch(label) is None or label.startswith("__") or label == "le":
            raise ValueError(
                f"label {label!r} cannot be: a label name has letters, digits and '_', does not begin with a digit "
                "or '__', and is not 'le'"
            )
    if app_name:
        return presets.StarletteExporter(families, buckets, tuple(labels), app_name)
    return make(families, buckets, tuple(labels))
