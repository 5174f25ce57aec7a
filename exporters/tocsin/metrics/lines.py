"""Lines of the metrics page for the library's own series: prepared once, filled with numbers at each scrape.

A template has all lines of a series with `%s` where a number goes. Samples, the objects that prometheus_client makes
of every line, are only made for who asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.metrics_core import Metric as PrometheusMetric
from prometheus_client.samples import Exemplar as PrometheusExemplar
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from tocsin.metrics.store import Exemplar, Reading
from tocsin.names import Metric

Templates = MutableMapping[tuple[str, ...], str]
"""Lines by label values."""

go_number: Callable[[float], str] = floatToGoString
"""A number as Go writes it, and with it prometheus_client."""

PLAIN_LIMIT = 1e6
"""Below, and from 0 on, a number is written as Python writes it; Go writes others with an exponent."""


class Shown(PrometheusMetric):
    """One family as prometheus_client shows it. `samples` are made when they are looked at."""

    def __init__(self, metric: Metric, readings: Sequence[Reading], templates: Templates) -> None:
        self.name = stem(metric)
        self.documentation = metric.help
        self.unit = ""
        self.type = metric.kind
        self.metric = metric
        self.readings = readings
        self._templates = templates

    def __getattr__(self, name: str) -> Any:
        if name != "samples":
            raise AttributeError(name)
        self.samples: list[Sample] = _samples(self.metric, self.readings)
        return self.samples

    def text(self, *, exemplars: bool) -> str:
        """Return the lines of all series, with or without OpenMetrics exemplars."""
        templates, metric = self._templates, self.metric
        if len(templates) > 2 * len(self.readings) + 100:
            templates.clear()  # series of workers that are no more
        parts = []
        single = metric.kind in ("counter", "gauge")
        for reading in self.readings:
            labels = reading.labels
            template = templates.get(labels)
            if template is None:
                template = templates[labels] = _template(metric, labels)
            if single:
                (value,) = reading.values
                parts.append(template % (value if 0.0 <= value < PLAIN_LIMIT else go_number(value)))
                continue
            lines = template % _numbers(metric, reading.values)
            if exemplars and reading.exemplars:
                lines = _with_exemplars(lines, reading.exemplars)
            parts.append(lines)
        return "".join(parts)


def stem(metric: Metric) -> str:
    """Return the name as prometheus_client and OpenMetrics have it: without `_total` and `_info`."""
    suffix = {"counter": "_total", "info": "_info"}.get(metric.kind, "")
    return metric.name.removesuffix(suffix)


def bounds(metric: Metric) -> tuple[str, ...]:
    """Return the values of `le`, as prometheus_client writes them."""
    return (*map(go_number, metric.buckets), "+Inf")


def escape(value: str) -> str:
    """Return a label value as it stands between quotes."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def line(name: str, labels: Mapping[str, str]) -> str:
    """Return one line with `%s` for the number; labels in alphabetical order."""
    pairs = ",".join([f'{label}="{escape(value)}"' for label, value in sorted(labels.items())])
    return (f"{name}{{{pairs}}} " if pairs else f"{name} ").replace("%", "%%") + "%s\n"


def number(value: float) -> str:
    """Return a number as text."""
    value = float(value)
    return repr(value) if 0.0 <= value < PLAIN_LIMIT else go_number(value)


def exemplar_text(labels: Mapping[str, str], value: float, at: object) -> str:
    """Return an OpenMetrics exemplar, to go to the end of a line; `at` in Unix seconds or None."""
    pairs = ",".join([f'{label}="{escape(text)}"' for label, text in sorted(labels.items())])
    return f" # {{{pairs}}} {number(value)}" if at is None else f" # {{{pairs}}} {number(value)} {at}"


def numbers(values: Iterable[float]) -> tuple[float | str, ...]:
    """Return numbers as `%s` can write them: those that Go writes otherwise than Python as texts."""
    return tuple([value if 0.0 <= value < PLAIN_LIMIT else go_number(value) for value in values])


def _template(metric: Metric, values: tuple[str, ...]) -> str:
    labels = dict(zip(metric.labels, values, strict=True))
    if metric.kind == "histogram":
        buckets = [line(f"{metric.name}_bucket", {**labels, "le": le}) for le in bounds(metric)]
        return "".join([*buckets, line(f"{metric.name}_count", labels), line(f"{metric.name}_sum", labels)])
    if metric.kind == "summary":
        return line(f"{metric.name}_count", labels) + line(f"{metric.name}_sum", labels)
    suffix = {"counter": "_total", "info": "_info"}.get(metric.kind, "")
    return line(stem(metric) + suffix, labels)


def _numbers(metric: Metric, values: list[float]) -> tuple[float | str, ...]:
    if metric.kind == "histogram":
        counts = list(accumulate(values[:-1]))
        count, total = counts[-1], values[-1]
        if 0.0 <= count < PLAIN_LIMIT and 0.0 <= total < PLAIN_LIMIT:
            return (*counts, count, total)
        return numbers((*counts, count, total))
    if metric.kind == "info":
        return (1.0,)  # also where several workers say so
    return numbers(tuple(values))


def _with_exemplars(lines: str, exemplars: Mapping[int, Exemplar]) -> str:
    split = lines.split("\n")
    for bucket, (trace_id, span_id, value, at) in exemplars.items():
        split[bucket] += exemplar_text({"trace_id": trace_id, "span_id": span_id}, value, at)
    return "\n".join(split)


def _samples(metric: Metric, readings: Sequence[Reading]) -> list[Sample]:
    """Return the samples as the families of prometheus_client make them."""
    name, text = stem(metric), metric.help
    found: PrometheusMetric
    if metric.kind == "histogram":
        found = histogram = HistogramMetricFamily(name, text, labels=metric.labels)
        for reading in readings:
            histogram.add_metric(reading.labels, _buckets(metric, reading), reading.values[-1])
    elif metric.kind == "summary":
        found = summary = SummaryMetricFamily(name, text, labels=metric.labels)
        for reading in readings:
            count, total = reading.values
            summary.add_metric(reading.labels, int(count), total)
    elif metric.kind == "info":
        found = info = InfoMetricFamily(name, text)
        for reading in readings:
            info.add_metric((), dict(zip(metric.labels, reading.labels, strict=True)))
    else:
        family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        found = single = family(name, text, labels=metric.labels)
        for reading in readings:
            single.add_metric(reading.labels, reading.values[0])
    return found.samples


def _buckets(metric: Metric, reading: Reading) -> list[tuple[str, float] | tuple[str, float, PrometheusExemplar]]:
    found: list[tuple[str, float] | tuple[str, float, PrometheusExemplar]] = []
    for bucket, (le, count) in enumerate(zip(bounds(metric), accumulate(reading.values[:-1]), strict=True)):
        exemplar = reading.exemplars.get(bucket)
        if exemplar is None:
            found.append((le, count))
        else:
            trace_id, span_id, value, at = exemplar
            found.append((le, count, PrometheusExemplar({"trace_id": trace_id, "span_id": span_id}, value, at)))
    return found
