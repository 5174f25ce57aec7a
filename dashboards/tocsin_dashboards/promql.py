"""Small pieces of PromQL as text, so that selectors and labels are quoted in one place. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from tocsin.names import Metric


def quote(value: str) -> str:
    """Return `value` as a PromQL string literal."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def equals(label: str, value: str) -> str:
    """Return the matcher `label="value"`."""
    return f"{label}={quote(value)}"


def select(name: str, matchers: Iterable[str] = ()) -> str:
    """Return a selector: the series called `name` whose labels fit every matcher."""
    inside = ",".join(matchers)
    return f"{name}{{{inside}}}" if inside else name


def total(by: Iterable[str], vector: str) -> str:
    """Return the sum of `vector` for each combination of the labels `by` (none: one sum)."""
    labels = ", ".join(by)
    return f"sum by ({labels}) ({vector})" if labels else f"sum({vector})"


def grew(metric: Metric, by: Iterable[str], window: str) -> str:
    """Return an expression that holds where a counter grew within `window` (Prometheus notation), by the labels `by`.

    `increase` alone misses the first event of a label set: a series that appears with the value 1 has, to it, not
    grown. So a series with fewer samples than its target had good scrapes was born on our watch and counts with its
    whole value; one that was there at the first scrape, or came back after an outage, is old news.
    """
    labels = tuple(by)
    grown = total(labels, f"increase({metric.name}[{window}])")
    scrapes = f"max by (job, instance) (sum_over_time(up[{window}]))"
    late = f"count_over_time({metric.name}[{window}]) < on (job, instance) group_left () {scrapes}"
    born = total(labels, f"{metric.name} and ({late})")
    return f"{grown} > 0\nor\n{born} > 0"
