"""prometheus_client's metrics as their page shows them, from what all workers have counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric as PrometheusMetric
from prometheus_client.samples import Exemplar

from tocsin.metrics import adopt
from tocsin.metrics.described import Adopted
from tocsin.metrics.lines import go_number
from tocsin.metrics.merge import Series

Shown = dict[tuple[str, str], list[tuple[Adopted, Series]]]
"""Series by kind and name of their family."""


def by_name(series: Iterable[tuple[Adopted, Series]]) -> Shown:
    """Return these series by the families they belong to."""
    shown: Shown = {}
    for family, one in series:
        shown.setdefault((family.kind, family.name), []).append((family, one))
    return shown


def is_computed(metric: MetricWrapperBase) -> bool:
    """Whether a gauge asks a function for its value: then only this process can."""
    return any("_child_samples" in vars(child) for child in adopt.children(metric))


def family(metric: MetricWrapperBase, shown: Shown, *, alone: bool) -> PrometheusMetric:
    """Return a metric with what all workers have counted; taken out of `shown`.

    Args:
        metric: as it is in this process.
        shown: all there is.
        alone: no other registry of this process has a metric of the same name; else only those series are shown that
            this metric has in this process.
    """
    mode, labels = getattr(metric, "_multiprocess_mode", ""), tuple(metric._labelnames)
    series = shown.get((str(metric._type), metric._name), [])
    found = [(family, one) for family, one in series if family.labels == labels and family.mode == mode]
    if not alone:
        own = {value.key[1] for value in adopt.numbers(metric)}
        found = [(family, one) for family, one in found if one.labels in own]
    result = PrometheusMetric(metric._name, metric._documentation, str(metric._type), metric._unit)
    _fill(result, found)
    return result


def others(shown: Shown, taken: Callable[[str], bool]) -> Iterator[PrometheusMetric]:
    """Yield what only other workers count, as a module that only they have loaded.

    Args:
        shown: all there is.
        taken: whether this process has a metric of a name itself.
    """
    for (kind, name), series in shown.items():
        if not taken(name):
            newest = series[-1][0]
            result = PrometheusMetric(name, newest.help, kind)
            _fill(result, [(family, one) for family, one in series if family == newest])
            yield result


def _fill(result: PrometheusMetric, series: list[tuple[Adopted, Series]]) -> None:
    if result.type == "histogram":
        _fill_histogram(result, series)
        return
    for family, one in series:
        sample, _, *values = one.labels
        labels = dict(zip(family.labels, values, strict=True))
        if one.pid:
            labels["pid"] = str(one.pid)
        result.add_sample(sample, labels, one.values[0], exemplar=_exemplar(one))


def _fill_histogram(result: PrometheusMetric, series: list[tuple[Adopted, Series]]) -> None:
    by_labels: dict[tuple[tuple[str, ...], str], tuple[dict[str, str], list[tuple[float, Series]], list[float]]] = {}
    for family, one in series:
        _, number, *values = one.labels
        own = tuple(values[: len(family.labels)])
        labels, buckets, sums = by_labels.setdefault(
            (own, number), (dict(zip(family.labels, own, strict=True)), [], [])
        )
        if len(values) > len(own):
            buckets.append((float(values[-1]), one))
        else:
            sums.append(one.values[0])
    for labels, buckets, sums in by_labels.values():
        count = 0.0
        for bound, one in sorted(buckets, key=lambda bucket: bucket[0]):
            count += one.values[0]
            le = {**labels, "le": go_number(bound)}
            result.add_sample(f"{result.name}_bucket", le, count, exemplar=_exemplar(one))
        result.add_sample(f"{result.name}_count", labels, count)
        if not buckets or min(buckets, key=lambda bucket: bucket[0])[0] >= 0:
            result.add_sample(f"{result.name}_sum", labels, sum(sums))


def _exemplar(series: Series) -> Exemplar | None:
    example = series.examples.get(0)
    if example is None:
        return None
    labels, value = json.loads(example.payload)
    return Exemplar(labels, value, example.at)
