"""Writes docs/metrics.md from `tocsin.names`: `python -m tocsin.reference FILE` writes it, `--check` compares."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from tocsin.names import METRICS, Metric

_HEAD = """# Metrics of the library

Every metric an instrumented application shows on its `/metrics` page, and a question to ask Prometheus about each.
Written by `make generate` from `tocsin.names`. What is counted how: [instrument.md](instrument.md); what several
workers become: [workers.md](workers.md).

A family has at most 2,000 series; what comes after is counted under `_OTHER`. Counters and histograms are summed over
all workers, dead ones included; gauges as said with each. A family without a series is not on the page.
"""
_MERGED = {
    "sum": "summed over living workers",
    "max": "the largest of the living workers",
    "min": "the smallest of the living workers",
    "max_ever": "the largest of all workers, dead ones included",
}


def page(metrics: Iterable[Metric] = METRICS) -> str:
    """Return the page as Markdown: all metrics that have an example query."""
    return "\n".join((_HEAD, *map(_entry, (metric for metric in metrics if metric.query))))


def _entry(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
    facts = [f"{metric.kind}; labels: {labels}."]
    if metric.kind == "gauge":
        facts.append(f"Of several workers: {_MERGED[metric.merge]}.")
    if metric.buckets:
        facts.append(f"Bucket bounds: {', '.join(f'{bound:g}' for bound in metric.buckets)}.")
    return f"## {metric.name}\n\n{metric.help}\n\n{' '.join(facts)}\n\n```promql\n{metric.query}\n```\n"


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` return 1 if the file is not what would be written."""
    check = "--check" in arguments
    files = [Path(argument) for argument in arguments if not argument.startswith("-")]
    if len(files) != 1:
        sys.stderr.write("usage: python -m tocsin.reference [--check] docs/metrics.md\n")
        return 2
    (file,) = files
    if not check:
        file.write_text(page(), encoding="utf-8")
        return 0
    if file.exists() and file.read_text(encoding="utf-8") == page():
        return 0
    sys.stderr.write(f"{file} is not what tocsin.names says; run `make generate`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
