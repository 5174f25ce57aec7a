"""Counts and durations of requests, kept in plain lists and shown through any prometheus_client registry."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from tocsin import names
from tocsin.request import OTHER, Facts

SERIES_LIMIT = 2_000
"""Series a family may have. What comes after goes into one series whose labels are all `_OTHER`."""

DURATION = names.HTTP_SERVER_REQUEST_DURATION
_COUNTERS = (names.TOCSIN_DROPPED, names.AUTH_FAILURES, names.RATELIMIT_REJECTED)
_log = logging.getLogger("tocsin")


class _Series:
    """One histogram series: counts per bucket (the last is +Inf), their sum, and the last exemplar of each bucket."""

    __slots__ = ("counts", "exemplars", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.exemplars: list[tuple[str, str, float, float] | None] = [None] * buckets
        self.total = 0.0


class _Shown:
    """The families as prometheus_client shows them, without samples at first."""

    def __init__(self, *, target_info: bool) -> None:
        active, target = names.HTTP_SERVER_ACTIVE_REQUESTS, names.TARGET_INFO
        self.duration = HistogramMetricFamily(DURATION.name, DURATION.help, labels=DURATION.labels)
        self.active = GaugeMetricFamily(active.name, active.help, labels=active.labels)
        self.counters = {
            counter.name: CounterMetricFamily(counter.name, counter.help, labels=counter.labels)
            for counter in _COUNTERS
        }
        self.target = InfoMetricFamily(target.name.removesuffix("_info"), target.help)
        self._target_info = target_info

    def families(self) -> list[Family]:
        return [self.duration, self.active, *self.counters.values(), *([self.target] if self._target_info else [])]


class Families(Collector):
    """All metric families the library keeps, for one registry. Several applications may share it; thread-safe."""

    def __init__(self, bounds: tuple[float, ...], *, target_info: bool = True) -> None:
        self.bounds = bounds
        self._le = (*(str(float(bound)) for bound in bounds), "+Inf")
        self._lock = threading.Lock()
        self._series: dict[tuple[str, str, int | str], _Series] = {}
        self._active: dict[str, int] = {}
        self._counters: dict[str, dict[tuple[str, ...], float]] = {metric.name: {} for metric in _COUNTERS}
        self._targets: dict[tuple[str, ...], None] | None = {} if target_info else None
        self._limit_reported: set[str] = set()

    def started(self, method: str) -> None:
        """Count a request in; the method as a label value."""
        with self._lock:
            self._active[method] = self._active.get(method, 0) + 1

    def ended(self, facts: Facts) -> None:
        """Count a request out that was counted in, with what it was."""
        method, route, _, status, seconds, _, trace = facts
        key = (method, route, status)
        index = bisect_left(self.bounds, seconds)
        exemplar = (
            (trace.trace_id, trace.span_id, seconds, time.time()) if trace is not None and trace.sampled else None
        )
        limited = False
        with self._lock:
            self._active[method] -= 1
            series = self._series.get(key)
            if series is None:
                limited = len(self._series) >= SERIES_LIMIT
                series = self._new_series((OTHER, OTHER, OTHER) if limited else key)
            series.counts[index] += 1
            series.total += seconds
            if exemplar is not None:
                series.exemplars[index] = exemplar
        if limited:
            self._over_limit(DURATION)

    def _new_series(self, key: tuple[str, str, int | str]) -> _Series:
        return self._series.setdefault(key, _Series(len(self.bounds) + 1))

    def add(self, metric: names.Metric, *labels: str) -> None:
        """Add one to the series of a counter with these label values, in the order of `metric.labels`."""
        with self._lock:
            series = self._counters[metric.name]
            limited = labels not in series and len(series) >= SERIES_LIMIT
            if limited:
                labels = (OTHER,) * len(labels)
            series[labels] = series.get(labels, 0.0) + 1.0
        if limited:
            self._over_limit(metric)

    def dropped(self, signal: str, reason: str) -> None:
        """Count a piece of telemetry that was lost: which signal, and why (a short constant word)."""
        self.add(names.TOCSIN_DROPPED, signal, reason)

    def describe_target(self, service_name: str, service_version: str | None) -> None:
        """Name a service behind this page."""
        if self._targets is not None:
            self._targets[service_name, service_version or "", "tocsin"] = None

    def describe(self) -> Iterable[Family]:
        """Return the families without samples: the registry checks their names for clashes."""
        return _Shown(target_info=self._targets is not None).families()

    def collect(self) -> Iterator[Family]:
        """Yield all families with what was counted up to now."""
        with self._lock:
            durations = {
                key: (list(series.counts), list(series.exemplars), series.total) for key, series in self._series.items()
            }
            active = dict(self._active)
            counters = {name: dict(series) for name, series in self._counters.items()}
            targets = list(self._targets or ())
        shown = _Shown(target_info=self._targets is not None)
        for (method, route, status), (counts, exemplars, total) in durations.items():
            shown.duration.add_metric((method, route, str(status)), self._buckets(counts, exemplars), total)
        for method, requests in active.items():
            shown.active.add_metric((method,), requests)
        for name, counter in shown.counters.items():
            for labels, value in counters[name].items():
                counter.add_metric(labels, value)
        for labels in targets:
            shown.target.add_metric((), dict(zip(names.TARGET_INFO.labels, labels, strict=True)))
        yield from shown.families()

    def _buckets(
        self, counts: list[int], exemplars: list[tuple[str, str, float, float] | None]
    ) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
        found: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for le, count, exemplar in zip(self._le, accumulate(counts), exemplars, strict=True):
            if exemplar is None:
                found.append((le, count))
            else:
                trace_id, span_id, seconds, at = exemplar
                found.append((le, count, Exemplar({"trace_id": trace_id, "span_id": span_id}, seconds, at)))
        return found

    def _over_limit(self, metric: names.Metric) -> None:
        if metric is not names.TOCSIN_DROPPED:
            self.dropped("metrics", "series_limit")
        if metric.name not in self._limit_reported:
            self._limit_reported.add(metric.name)
            _log.warning(
                "%s has %d series; new ones are counted under %s. Look for a route or label made from user input.",
                metric.name,
                SERIES_LIMIT,
                OTHER,
            )


_by_registry: WeakKeyDictionary[CollectorRegistry, Families] = WeakKeyDictionary()
_by_registry_lock = threading.Lock()


def families_of(registry: CollectorRegistry | None = None, bounds: tuple[float, ...] | None = None) -> Families:
    """Return the families of a registry (default: prometheus_client's REGISTRY), registered on first use.

    Raises:
        ValueError: the registry has these families with other buckets, or other metrics of these names.
    """
    registry = REGISTRY if registry is None else registry
    with _by_registry_lock:
        families = _by_registry.get(registry)
        if families is None:
            families = Families(bounds or DURATION.buckets, target_info=not registry.get_target_info())
            registry.register(families)
            _by_registry[registry] = families
        elif bounds is not None and bounds != families.bounds:
            raise ValueError(
                f"buckets={bounds} was asked for, but this registry already has {DURATION.name} "
                f"with {families.bounds}. Give the same buckets, or give this application its own registry."
            )
    return families
