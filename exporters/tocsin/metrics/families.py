"""Metric families by name, series by label values: what is counted, kept in the cells of a store.

One `Families` belongs to one prometheus_client registry and is one of its collectors. A family is declared by its first
use, so an application sees nothing of integrations it does not use, and may have metrics of the same names itself.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric as PrometheusMetric
from prometheus_client.registry import Collector

from tocsin import names
from tocsin.metrics.lines import Shown
from tocsin.metrics.shared import SharedStore
from tocsin.metrics.store import Exemplar, HeapStore, Reading, Store
from tocsin.metrics.workers import store_for
from tocsin.request import OTHER
from tocsin.tracing.context import Trace

SERIES_LIMIT = 2_000
"""Series a family may have. What comes after goes into one more series whose labels are all `_OTHER`."""

_ALIASES = 4
"""Keys a family may keep per allowed series: one for the labels, the others for what hot paths look up instead."""

_PATIENCE = 0.2
"""Seconds to wait for a registry that is busy. It may wait for us: see `Families._claim`."""

_SHAPE = ("buckets", "labels", "kind")
"""What two metrics of one name must have in common."""

_log = logging.getLogger("tocsin")


class NameTakenError(ValueError):
    """The registry has a metric of this name from somebody else."""


class Family:
    """One metric, and where each of its series is."""

    __slots__ = ("metric", "series", "size", "templates")

    def __init__(self, metric: names.Metric) -> None:
        self.metric = metric
        self.series: dict[object, int] = {}
        """First cell by label values, and by whatever key else `Families.place` was given for them."""
        self.size = 0
        """How many series there are, the one for overflow not counted."""
        self.templates: dict[tuple[str, ...], str] = {}
        """Lines of the metrics page by label values, without the numbers."""

    def forget(self) -> None:
        """Forget where the series are."""
        self.series.clear()
        self.size = 0


class Families(Collector):
    """All metrics that the library keeps for one registry. Several applications may share it; thread-safe.

    `add`, `set` and `observe` raise ValueError for labels that do not fit the metric, and nothing else.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store: Store = HeapStore() if store is None else store
        self.overflowed: list[Family] = []
        """Families that went over their limit since `settle` was called."""
        self.renewals = 0
        """How often every place became invalid: making a new one may move all others, when workers begin to share."""
        self._families: dict[str, Family] = {}
        self._declaring = threading.RLock()
        self._undescribed: tuple[names.Metric, ...] = ()
        self._unclaimed: list[names.Metric] = []
        self._registry: Callable[[], CollectorRegistry | None] = lambda: None
        self._targets: dict[tuple[str, ...], None] = {}
        self._callbacks: list[Callable[[Families], object]] = []
        self._reported: set[object] = set()
        self.store.on_renewal(self._forget)

    # --- counting -------------------------------------------------------------------------------------------------

    def add(self, metric: names.Metric, *labels: str, amount: float = 1.0) -> None:
        """Add to a counter or a gauge; label values in the order of `metric.labels`.

        Raises:
            ValueError: a negative amount for a counter, or labels that do not fit the metric.
        """
        if amount < 0 and metric.kind == "counter":
            raise ValueError(f"{metric.name} is a counter and cannot be lowered, found the amount {amount}")
        family = self._families.get(metric.name)
        if family is None or family.metric is not metric:
            family = self._usable(metric)
            if family is None:
                return
        store = self.store
        with store.lock:
            index = family.series.get(labels)
            if index is None:
                index = self.place(family, labels)
            store.cells[index] += amount
        if self.overflowed:
            self.settle()

    def set(self, metric: names.Metric, *labels: str, value: float) -> None:
        """Set a gauge; label values in the order of `metric.labels`."""
        family = self._usable(metric)
        if family is None:
            return
        store = self.store
        with store.lock:
            index = self.place(family, labels)  # before `store.cells` is looked at: it may replace them
            store.cells[index] = float(value)
        if self.overflowed:
            self.settle()

    def observe(self, metric: names.Metric, *labels: str, value: float, trace: Trace | None = None) -> None:
        """Add an observation to a histogram or a summary, with its trace as an example if that is sampled."""
        family = self._families.get(metric.name)
        if family is None or family.metric is not metric:
            family = self._usable(metric)
            if family is None:
                return
        histogram = metric.kind == "histogram"
        bucket = bisect_left(metric.buckets, value) if histogram else 0
        total = len(metric.buckets) + 1 if histogram else 1
        store = self.store
        with store.lock:
            index = family.series.get(labels)
            if index is None:
                index = self.place(family, labels)
            cells = store.cells
            cells[index + bucket] += 1.0
            cells[index + total] += value
            if trace is not None and trace.sampled and histogram:
                store.exemplify(index, bucket, Exemplar(trace.trace_id, trace.span_id, value, time.time()))
        if self.overflowed:
            self.settle()

    def dropped(self, signal: str, reason: str) -> None:
        """Count a piece of telemetry that was lost: which signal, and why (a short constant word)."""
        self.add(names.TOCSIN_DROPPED, signal, reason)

    def describe_target(self, service_name: str, service_version: str | None) -> None:
        """Name a service behind this page. A registry that has a `target_info` of its own keeps that one."""
        try:
            self.declare(names.TARGET_INFO)
        except NameTakenError:
            return
        self._targets[service_name, service_version or "", "tocsin"] = None
        self.store.name_service(service_name)

    def before_collect(self, callback: Callable[[Families], object]) -> Callable[[], None]:
        """Have this called before each scrape, to set gauges; return what undoes it. A failing one is counted."""
        if callback not in self._callbacks:
            self._callbacks.append(callback)

        def undo() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return undo

    # --- families and their series ----------------------------------------------------------------------------------

    def declare(self, metric: names.Metric) -> Family:
        """Return the family of this metric, which is on the page from now on, if without series.

        Raises:
            NameTakenError: (a ValueError) the registry has a metric of this name from somebody else.
            ValueError: the family has other labels or buckets.
        """
        family = self._families.get(metric.name)
        if family is None:
            with self._declaring:
                family = self._families.get(metric.name)
                if family is None:
                    self._claim(metric)
                    family = self._families.setdefault(metric.name, Family(metric))
        found = family.metric
        if found is not metric:
            for what in _SHAPE:
                if getattr(found, what) != getattr(metric, what):
                    raise ValueError(
                        f"{what}={getattr(metric, what)} was asked for {metric.name}, but this registry already has it "
                        f"with {getattr(found, what)}. Give the same {what}, or give this application its own registry."
                    )
        return family

    def buckets_of(self, metric: names.Metric) -> tuple[float, ...]:
        """Return the buckets that the family of this name has, else those of the metric."""
        family = self._families.get(metric.name)
        return metric.buckets if family is None else family.metric.buckets

    def place(self, family: Family, labels: tuple[str, ...], key: object = None) -> int:
        """Return the first cell of a series, made now if it is new. With `store.lock` held; then call `settle`.

        Making one may replace `store.cells`, and make all others invalid: then `renewals` has changed.

        Args:
            family: what `declare` returned.
            labels: label values, in the order of the metric's labels.
            key: another key to find the series under in `family.series` from now on.

        Raises:
            ValueError: too many or too few labels.
        """
        index = family.series.get(labels)
        if index is None:
            metric = family.metric
            if len(labels) != len(metric.labels):
                raise ValueError(f"{metric.name} has the labels {metric.labels}, found the values {labels}")
            clean = tuple(map(_label, labels))
            index = family.series.get(clean)
            if index is None:
                if family.size >= SERIES_LIMIT:
                    return self._overflow(family)
                index = family.series[clean] = self.store.allocate(metric, clean)
                family.size += 1
            if clean != labels and key is None:
                key = labels
        if key is not None and len(family.series) < SERIES_LIMIT * _ALIASES:
            family.series[key] = index
        return index

    def places(self, *wanted: tuple[Family, tuple[str, ...]]) -> list[int]:
        """Return the first cells of several series, all valid together. As `place` otherwise."""
        found = [family.series.get(labels) for family, labels in wanted]
        known = [index for index in found if index is not None]
        if len(known) == len(found):
            return known
        before = self.renewals
        placed = [self.place(family, labels) for family, labels in wanted]
        if self.renewals != before:
            placed = [self.place(family, labels) for family, labels in wanted]
        return placed

    def settle(self) -> None:
        """Count and report what went over its limit. Without `store.lock` held."""
        over, self.overflowed = self.overflowed, []
        for family in over:
            if family.metric is not names.TOCSIN_DROPPED:
                self.dropped("metrics", "series_limit")
            self.report(
                family,
                "%s has %d series; new ones are counted under %s. Look for a route or label made from user input.",
                family.metric.name,
                SERIES_LIMIT,
                OTHER,
            )

    def report(self, what: object, message: str, *arguments: object) -> None:
        """Log a warning, the first time it is about this."""
        if what not in self._reported:
            self._reported.add(what)
            _log.warning(message, *arguments)

    def _overflow(self, family: Family) -> int:
        labels = (OTHER,) * len(family.metric.labels)
        index = family.series.get(labels)
        if index is None:
            index = family.series[labels] = self.store.allocate(family.metric, labels)
        self.overflowed.append(family)
        return index

    def _usable(self, metric: names.Metric) -> Family | None:
        try:
            return self.declare(metric)
        except NameTakenError as error:
            if metric is not names.TOCSIN_DROPPED:
                self.dropped("metrics", "name_taken")
            self.report(metric.name, "not counted: %s", error)
            return None

    def _claim(self, metric: names.Metric) -> None:
        registry = self._registry()
        if registry is None:
            return
        # The lock of a registry is not reentrant, and this may run in a finalizer, within what holds it.
        if not registry._lock.acquire(timeout=_PATIENCE):
            self._unclaimed.append(metric)
            return
        registry._lock.release()
        self._undescribed = (metric,)
        try:
            self.register(registry)  # once more: it takes the names that `describe` gives, on top of those it has
        except ValueError as error:
            if metric.name in self._families:  # a finalizer was faster
                return
            raise NameTakenError(
                f"the registry already has a metric named like {metric.name} ({error}). "
                "Rename or unregister that one, or give this application its own registry."
            ) from error
        finally:
            self._undescribed = ()

    def shared(self) -> bool:
        """Whether several processes count here, each of which can show the sum."""
        store = self.store
        if not isinstance(store, SharedStore):
            return False
        with store.lock:
            return store.joined()

    def _forget(self) -> None:
        self.renewals += 1
        for family in self._families.values():
            family.forget()

    # --- as a collector -----------------------------------------------------------------------------------------------

    def register(self, registry: CollectorRegistry) -> None:
        """Become a collector of this registry."""
        collectors = registry._collector_to_names
        taken = collectors.get(self, [])
        registry.register(self)
        collectors[self] = [*taken, *collectors[self]]  # so that `unregister` gives all names back
        self._registry = weakref.ref(registry)

    def return_to(self, registry: CollectorRegistry) -> None:
        """Become a collector again of a registry that somebody has emptied, as tests do."""
        with self._declaring:
            if self in registry._collector_to_names:
                return
            self._undescribed = tuple(family.metric for family in list(self._families.values()))
            try:
                self.register(registry)
            except ValueError as error:
                self._undescribed = ()
                self.register(registry)
                self.report(self, "metrics of the library may be on the page twice: %s", error)
            finally:
                self._undescribed = ()

    def describe(self) -> Iterable[PrometheusMetric]:
        """Return the family that is being declared: the registry checks its names for clashes."""
        return [Shown(metric, (), {}) for metric in self._undescribed]

    def collect(self) -> Iterator[PrometheusMetric]:
        """Yield all families with what was counted up to now."""
        self.refresh()
        with self.store.lock:
            readings = self.store.readings()
        grouped: dict[str, list[Reading]] = {name: [] for name in list(self._families)}
        for reading in readings:
            grouped.setdefault(reading.metric.name, []).append(reading)
        for name, found in grouped.items():
            # What only other workers count is declared here too.
            family = self._families.get(name) or self._usable(found[0].metric)
            if family is not None:
                yield Shown(family.metric, _fitting(family.metric, found), family.templates)

    def refresh(self) -> None:
        """Have gauges set by what `before_collect` was given. Done before each scrape; never raises."""
        while self._unclaimed:
            metric = self._unclaimed.pop()
            try:
                with self._declaring:
                    self._claim(metric)
            except NameTakenError as error:
                self.report(metric.name, "on the page twice: %s", error)
            if metric in self._unclaimed:  # the registry is busy still
                break
        for callback in list(self._callbacks):
            try:
                callback(self)
            except Exception as error:  # a pool that was closed, a file that is gone
                self.dropped("metrics", "before_collect")
                self.report(callback, "values were not refreshed before a scrape: %r; counted from now on", error)
        for labels in list(self._targets):  # each time: a forked worker begins without
            self.set(names.TARGET_INFO, *labels, value=1.0)

    def renew_locks(self) -> None:
        """After a fork, in the child: a lock that another thread held would never be released."""
        self._declaring = threading.RLock()
        if isinstance(self.store, HeapStore):
            self.store.lock = threading.RLock()


def _fitting(metric: names.Metric, readings: list[Reading]) -> list[Reading]:
    """Leave out what another worker counts under the same name in another shape, as before a change of buckets."""
    fits: dict[int, bool] = {id(metric): True}
    for found in {id(reading.metric): reading.metric for reading in readings}.values():
        fits[id(found)] = all(getattr(found, what) == getattr(metric, what) for what in _SHAPE)
    return readings if all(fits.values()) else [reading for reading in readings if fits[id(reading.metric)]]


def _label(value: object) -> str:
    """Return a label value as text that can be encoded: halves of surrogate pairs are joined or replaced."""
    text = value if isinstance(value, str) else str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


_by_registry: weakref.WeakKeyDictionary[CollectorRegistry, Families] = weakref.WeakKeyDictionary()
_by_registry_lock = threading.RLock()
_hooks: list[Callable[[], None]] = []


def families_of(registry: CollectorRegistry | None = None) -> Families:
    """Return the families of a registry (default: prometheus_client's REGISTRY), registered on first use."""
    registry = REGISTRY if registry is None else registry
    families = _by_registry.get(registry)
    if families is None:
        with _by_registry_lock:
            families = _by_registry.get(registry)
            if families is None:
                if not _hooks:
                    _hooks.append(_after_fork)
                    os.register_at_fork(after_in_child=_after_fork)
                families = Families(store_for(registry=registry))
                families.register(registry)
                _by_registry[registry] = families
    if families not in registry._collector_to_names:
        families.return_to(registry)
    return families


def existing_families(registry: object) -> Families | None:
    """Return the families of a registry if it has some; None also for what is no CollectorRegistry."""
    return _by_registry.get(registry) if isinstance(registry, CollectorRegistry) else None


def _after_fork() -> None:
    global _by_registry_lock  # noqa: PLW0603
    _by_registry_lock = threading.RLock()
    for families in list(_by_registry.values()):
        families.renew_locks()
