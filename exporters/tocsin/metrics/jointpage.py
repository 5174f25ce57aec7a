"""What the page of one of several workers is made of: stand-ins for the collectors of its registry.

Only loaded in a process that shares its cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from prometheus_client import REGISTRY, CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric as PrometheusMetric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from tocsin import names
from tocsin.metrics import adopt, processes, summed
from tocsin.metrics.segment import STARTS, View
from tocsin.metrics.shared import SharedStore


def stand_ins(registry: CollectorRegistry, store: SharedStore) -> list[Collector]:
    """Return what answers for the collectors of a registry, over all workers, and for what only others have."""
    page = _Page(registry, store)
    found = [page.stand_in(collector) for collector in list(registry._collector_to_names)]
    return [*found, _Rest(page), _Counts(page)]


class _Page:
    """What one page is made of. Read from the segments once, when it is first needed."""

    def __init__(self, registry: CollectorRegistry, store: SharedStore) -> None:
        self.registry = registry
        self.store = store
        self.folder = store.declared
        # Not functools.cached_property: up to Python 3.11 it holds a lock that would be held for ever after a fork.
        self._shown: summed.Shown | None = None
        self._views: tuple[list[View], list[View]] | None = None

    def stand_in(self, collector: Collector) -> Collector:
        """Return what answers for a collector of the registry."""
        if type(collector) is ProcessCollector and collector._pid() == "self":
            return _Processes(self, collector._prefix)
        if isinstance(collector, MetricWrapperBase):
            return self._metric(collector)
        if self.folder is not None and isinstance(collector, MultiProcessCollector):
            return _Nothing()  # `_Rest` asks one
        return collector

    def _metric(self, metric: MetricWrapperBase) -> Collector:
        if metric._type in ("info", "stateset") or summed.is_computed(metric):
            return metric
        # With a folder declared its numbers are in prometheus_client's own files.
        return _Summed(self, metric) if self.folder is None else _Nothing()

    @property
    def shown(self) -> summed.Shown:
        """What prometheus_client's metrics have counted in all workers."""
        if self._shown is None:
            self._shown = self._adopted()
        return self._shown

    @property
    def views(self) -> tuple[list[View], list[View]]:
        """The segments of living workers, and all."""
        if self._views is None:
            with self.store.lock:
                self._views = self.store.views()
        return self._views

    def _adopted(self) -> summed.Shown:
        home = adopt.home()
        if home is None or self.folder is not None:
            return {}
        with home.lock:
            adopt.sweep()
            return summed.by_name(home.adopted())


class _Nothing(Collector):
    def collect(self) -> Iterable[PrometheusMetric]:
        return ()


@dataclass(frozen=True, slots=True)
class _Summed(Collector):
    """A metric of prometheus_client."""

    page: _Page
    metric: MetricWrapperBase

    def collect(self) -> Iterable[PrometheusMetric]:
        rivals = [other for other in adopt.watched() if other is not self.page.registry]
        alone = not any(self.metric._name in other._names_to_collectors for other in rivals)
        return (summed.family(self.metric, self.page.shown, alone=alone),)


@dataclass(frozen=True, slots=True)
class _Processes(Collector):
    """`process_cpu_seconds_total` and its like."""

    page: _Page
    prefix: str

    def collect(self) -> Iterable[PrometheusMetric]:
        living, everyone = self.page.views
        return processes.families(living, everyone, self.prefix)


@dataclass(frozen=True, slots=True)
class _Rest(Collector):
    """What this process has no collector for: metrics of modules that only other workers have loaded."""

    page: _Page

    def collect(self) -> Iterable[PrometheusMetric]:
        if self.page.folder is not None:
            return _multiprocess(str(self.page.folder))
        registries = adopt.watched()
        if self.page.registry is not REGISTRY and len(registries) > 1:
            return ()  # they may be of any of them
        taken = [registry._names_to_collectors for registry in registries]
        return summed.others(self.page.shown, lambda name: any(name in names for names in taken))


@dataclass(frozen=True, slots=True)
class _Counts(Collector):
    """How many workers there are, and were."""

    page: _Page

    def collect(self) -> Iterable[PrometheusMetric]:
        living, everyone = self.page.views
        taken = self.page.registry._names_to_collectors
        if names.WORKERS.name not in taken:
            yield GaugeMetricFamily(names.WORKERS.name, names.WORKERS.help, len(living))
        if names.WORKER_STARTS.name not in taken:
            starts = sum(view.cells[STARTS] for view in everyone)
            yield CounterMetricFamily(names.WORKER_STARTS.name, names.WORKER_STARTS.help, starts)


def _multiprocess(folder: str) -> Iterable[PrometheusMetric]:
    with suppress(ValueError, OSError):  # the folder is gone
        return list(MultiProcessCollector(None, folder).collect())  # type: ignore[no-untyped-call]
    return ()
