"""Families of any collector as text, as prometheus_client would write them, in a fraction of its time.

prometheus_client validates and escapes the labels of every line on every scrape. Here lines are prepared once and kept.
Its own Counter, Gauge, Summary and Histogram are read without making samples of them, if a trial, once per process,
gives the same bytes as prometheus_client does. What is out of the ordinary (timestamps, native histograms, names that
must be quoted or escaped) it writes itself.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, values
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as PrometheusMetric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.samples import Sample

from tocsin.metrics.lines import Shown, exemplar_text, line, number, numbers

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_EOF = "# EOF\n"
_PREFIXES_LIMIT = 25_000
"""Beginnings of lines that are kept, and as many that may be needed again: 25 MiB if labels change at each scrape."""
_TEXT_TYPES = {
    "counter": ("_total", "counter"),
    "info": ("_info", "gauge"),
    "stateset": ("", "gauge"),
    "gaugehistogram": ("", "histogram"),
    "unknown": ("", "untyped"),
}
"""What the text format calls the types of OpenMetrics: suffix of the name, type."""
_LATE = ("_created", "_gsum", "_gcount")
"""Suffixes of samples that the text format has no place for: they become gauges after the family."""

_prefixes: dict[tuple[object, ...], str] = {}
_older: dict[tuple[object, ...], str] = {}


class _Lines:
    """What is kept of one child: its lines with `%s` for the numbers."""

    __slots__ = ("after", "created", "created_text", "inside", "lines")

    def __init__(self, lines: str, *, inside: bool, after: str) -> None:
        self.lines = lines
        self.inside = inside
        """Whether the last line is `_created`."""
        self.after = after
        """Or that line by itself, to go after the family."""
        self.created = 0.0
        self.created_text = ""
        """Written once: it hardly ever changes, and big numbers take long."""

    def created_of(self, child: Any) -> str:
        """Return when a child was made, as text."""
        created = child._created
        if created != self.created:
            self.created, self.created_text = created, number(created)
        return self.created_text


_kept: WeakKeyDictionary[object, dict[tuple[bool, bool], dict[tuple[str, ...], _Lines]]] = WeakKeyDictionary()
"""By metric; by (OpenMetrics, with `_created`); by label values."""


class Source(prometheus_client.registry.Collector):
    """One family as a registry of its own."""

    def __init__(self, family: PrometheusMetric) -> None:
        self._family = family

    def collect(self) -> Iterable[PrometheusMetric]:
        """Return the family."""
        return [self._family]


@dataclass(frozen=True, slots=True)
class Format:
    """How a page is written."""

    content_type: str
    encode: Callable[[Any], bytes]
    """As prometheus_client writes it."""

    @property
    def openmetrics(self) -> bool:
        """OpenMetrics, or the text format."""
        return self.content_type.startswith("application/openmetrics-text")

    @property
    def plain(self) -> bool:
        """Whether names that are valid everywhere are written as they are."""
        keywords = getattr(self.encode, "keywords", {})
        return keywords.get("escaping", openmetrics.UNDERSCORES) in (openmetrics.UNDERSCORES, openmetrics.ALLOWUTF8)


def texts(collector: Any, shape: Format) -> Iterator[str]:
    """Yield the families of a collector as text.

    Raises:
        Exception: whatever the collector raises, or what came of values that are no numbers or labels that are no text.
    """
    if shape.plain and type(collector) in _READERS and reads_alike():
        text = _text_of_metric(collector, openmetrics=shape.openmetrics)
        if text is not None:
            yield text
            return
    for family in collector.collect():
        text = None
        if shape.plain:
            if isinstance(family, Shown):
                text = head(family, openmetrics=shape.openmetrics) + family.text(exemplars=shape.openmetrics)
            else:
                text = _text_of_family(family, openmetrics=shape.openmetrics)
        yield _text_of_prometheus(family, shape) if text is None else text


def head(family: PrometheusMetric, *, openmetrics: bool) -> str:
    """Return the lines before the samples of a family."""
    name, kind = family.name, family.type
    text = family.documentation.replace("\\", "\\\\").replace("\n", "\\n")
    if openmetrics:
        text = text.replace('"', '\\"')
        unit = f"# UNIT {name} {family.unit}\n" if family.unit else ""
        return f"# HELP {name} {text}\n# TYPE {name} {kind}\n{unit}"
    suffix, kind = _TEXT_TYPES.get(kind, ("", kind))
    return f"# HELP {name}{suffix} {text}\n# TYPE {name}{suffix} {kind}\n"


def _text_of_prometheus(family: PrometheusMetric, shape: Format) -> str:
    return shape.encode(Source(family)).decode("utf-8").removesuffix(_EOF)


def _text_of_family(family: PrometheusMetric, *, openmetrics: bool) -> str | None:
    """Return a family as text, or None if it is out of the ordinary."""
    if _NAME.fullmatch(family.name) is None:
        return None
    parts = [head(family, openmetrics=openmetrics)]
    late: dict[str, list[str]] = {}
    for sample in family.samples:
        text = _text_of_sample(family, sample, openmetrics=openmetrics)
        if text is None:
            return None
        suffix = sample.name.removeprefix(family.name)
        if not openmetrics and suffix in _LATE and sample.name == family.name + suffix:
            late.setdefault(suffix, []).append(text)
        else:
            parts.append(text)
    for suffix, lines in sorted(late.items()):
        parts += [_late_head(family, suffix), *lines]
    return "".join(parts)


def _late_head(family: PrometheusMetric, suffix: str) -> str:
    return head(PrometheusMetric(family.name + suffix, family.documentation, "gauge"), openmetrics=False)


def _text_of_sample(family: PrometheusMetric, sample: Sample, *, openmetrics: bool) -> str | None:
    if sample.timestamp is not None or getattr(sample, "native_histogram", None):
        return None
    key = (sample.name, *sample.labels.items())
    prefix = _prefixes.get(key)
    if prefix is None:
        prefix = _older.pop(key, None)
        if prefix is None:
            if _NAME.fullmatch(sample.name) is None or not all(map(_LABEL.fullmatch, sample.labels)):
                return None
            prefix = (line(sample.name, sample.labels) % "").removesuffix("\n")
        if len(_prefixes) >= _PREFIXES_LIMIT:
            _older.clear()
            _older.update(_prefixes)
            _prefixes.clear()
        _prefixes[key] = prefix
    exemplar = sample.exemplar
    if exemplar is None or not openmetrics:
        return f"{prefix}{number(sample.value)}\n"
    if (family.type, sample.name) not in (
        ("counter", f"{family.name}_total"),
        ("histogram", f"{family.name}_bucket"),
        ("gaugehistogram", f"{family.name}_bucket"),
    ):
        return None
    return f"{prefix}{number(sample.value)}{exemplar_text(exemplar.labels, exemplar.value, exemplar.timestamp)}\n"


# --- prometheus_client's own metrics, without samples ---------------------------------------------------------------


def _read_single(child: Any) -> list[float]:
    if "_child_samples" in vars(child):  # Gauge.set_function
        return [sample.value for sample in child._child_samples()]
    value = child._value
    return [value._value if type(value) is values.MutexValue else value.get()]


def _read_summary(child: Any) -> list[float]:
    return [child._count.get(), child._sum.get()]


def _read_histogram(child: Any) -> list[float]:
    buckets = child._buckets
    if type(child._sum) is values.MutexValue:
        # One reading of a float needs no lock.
        counts, total = [bucket._value for bucket in buckets], child._sum._value
    else:
        counts, total = [bucket.get() for bucket in buckets], child._sum.get()
    read = list(accumulate(counts))
    read.append(read[-1])
    if child._upper_bounds[0] >= 0:
        read.append(total)
    return read


def _exemplars_of(child: Any) -> Iterable[tuple[int, Any]]:
    """Return the exemplars of a counter or histogram, by line."""
    if isinstance(child, Counter):
        cells = [child._value]
    elif isinstance(child, Histogram):
        cells = child._buckets
    else:
        return ()
    found = [(index, cell.get_exemplar()) for index, cell in enumerate(cells)]
    return [one for one in found if one[1]]


_READERS: dict[type, Callable[[Any], list[float]]] = {
    Counter: _read_single,
    Gauge: _read_single,
    Summary: _read_summary,
    Histogram: _read_histogram,
}
"""Values of a child, in the order of its samples, without `_created`."""


def _text_of_metric(metric: Any, *, openmetrics: bool) -> str | None:
    """Return a metric of prometheus_client as text, or None if it has a name out of the ordinary."""
    (family,) = metric.describe()
    if _NAME.fullmatch(family.name) is None or not all(map(_LABEL.fullmatch, metric._labelnames)):
        return None
    read = _READERS[type(metric)]
    if metric._labelnames:
        with metric._lock:
            children = list(metric._metrics.items())
    else:
        children = [((), metric)]
    created = bool(prometheus_client.metrics._use_created)
    kept = _kept.setdefault(metric, {}).setdefault((openmetrics, created), {})
    if len(kept) > 2 * len(children) + 100:
        kept.clear()  # of children that were removed
    parts = [head(family, openmetrics=openmetrics)]
    late = []
    for labels, child in children:
        templates = kept.get(labels)
        if templates is None:
            templates = kept[labels] = _prepare(
                family, dict(zip(metric._labelnames, labels, strict=True)), child, openmetrics
            )
        found: list[float | str] = list(numbers(read(child)))
        if templates.inside:
            found.append(templates.created_of(child))
        elif templates.after:
            late.append(templates.after % templates.created_of(child))
        lines = templates.lines % tuple(found)
        if openmetrics:
            lines = _with_exemplars(lines, child)
        parts.append(lines)
    if late:
        parts += [_late_head(family, "_created"), *late]
    return "".join(parts)


def _prepare(family: PrometheusMetric, labels: dict[str, str], child: Any, openmetrics: bool) -> _Lines:
    inside: list[str] = []
    after = ""
    has_created = False
    for sample in child._child_samples():
        text = line(family.name + sample.name, {**labels, **sample.labels})
        if sample.name == "_created" and not openmetrics:
            after = text
        else:
            has_created = has_created or sample.name == "_created"
            inside.append(text)
    return _Lines("".join(inside), inside=has_created, after=after)


def _with_exemplars(lines: str, child: Any) -> str:
    exemplars = _exemplars_of(child)
    if not exemplars:
        return lines
    split = lines.split("\n")
    for index, exemplar in exemplars:
        split[index] += exemplar_text(exemplar.labels, exemplar.value, exemplar.timestamp)
    return "\n".join(split)


@functools.cache
def reads_alike() -> bool:
    """Whether reading prometheus_client's metrics from inside gives what it gives itself. Tried out once."""
    if values.ValueClass is not values.MutexValue:
        return False  # trial metrics would be written into the files of its multiprocess mode
    registry = CollectorRegistry()
    metrics: list[Any] = []
    try:
        for labels in ((), ("b", "a")):
            for kind in _READERS:
                metric: Any = kind(
                    f"trial_{kind.__name__.lower()}_{len(labels)}", 'a "trial"\n\\', labels, registry=registry
                )
                metrics.append(metric)
                child = metric.labels("x%s", 'y"') if labels else metric
                if kind in (Counter, Gauge):
                    child.inc(2_000_000)
                else:
                    child.observe(0.3)
                if kind is Histogram:
                    child.observe(7, {"trace_id": "t"})
        for openmetrics_too, encode in ((False, generate_latest), (True, openmetrics.generate_latest)):
            ours = "".join(_text_of_metric(metric, openmetrics=openmetrics_too) or "" for metric in metrics)
            if encode(registry).decode().removesuffix(_EOF) != ours:
                return False
    except Exception:  # another version of prometheus_client, with other insides
        return False
    return True
