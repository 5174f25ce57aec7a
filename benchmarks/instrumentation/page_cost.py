"""Time of a /metrics page of 1,000 and 10,000 lines: tocsin beside prometheus_client, with the same samples in it.

Every series changes before every page, so that a page kept from the last time is no use. Nothing is compressed.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf

import prometheus_client
from prometheus_client import CollectorRegistry, Histogram, Metric, exposition, parser
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.openmetrics import parser as openmetrics_parser

from tocsin.metrics import exposition as tocsin_exposition
from tocsin.metrics.families import families_of
from tocsin.names import HTTP_SERVER_REQUEST_DURATION as DURATION

LINES = 10_000
"""Of the bigger page, which has a target."""
LINES_PER_SERIES = len(DURATION.buckets) + 3
"""Buckets, +Inf, count and sum."""

Page = Callable[[], bytes]
Change = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Format:
    """A text format of metrics: how it is asked for, and how prometheus_client writes and reads it."""

    name: str
    accept: bytes
    write: Callable[[CollectorRegistry], bytes]
    read: Callable[[str], Iterable[Metric]]


_FORMATS = (
    Format("text", b"text/plain;version=0.0.4", exposition.generate_latest, parser.text_string_to_metric_families),
    Format(
        "OpenMetrics",
        b"application/openmetrics-text;version=1.0.0",
        openmetrics_exposition.generate_latest,
        openmetrics_parser.text_string_to_metric_families,
    ),
)


@dataclass(frozen=True, slots=True)
class PageCost:
    """Milliseconds a page took, the best of all."""

    what: str
    format: str
    lines: int
    tocsin: float
    peer: float

    @property
    def ratio(self) -> float:
        return self.tocsin / self.peer


def labels(count: int) -> list[tuple[str, str, str]]:
    return [("GET", f"/shops/{{shop}}/items-{index}/{{item}}", "200") for index in range(count)]


def _of_tocsin(count: int) -> tuple[CollectorRegistry, Change]:
    registry = CollectorRegistry()
    families = families_of(registry)
    rows = labels(count)

    def change() -> None:
        for values in rows:
            families.observe(DURATION, *values, value=0.03)

    return registry, change


def _of_prometheus_client(count: int) -> tuple[CollectorRegistry, Change]:
    registry = CollectorRegistry()
    histogram = Histogram(DURATION.name, DURATION.help, DURATION.labels, buckets=DURATION.buckets, registry=registry)
    children = [histogram.labels(*values) for values in labels(count)]

    def change() -> None:
        for child in children:
            child.observe(0.03)

    return registry, change


def _compare(
    what: str,
    form: Format,
    ours: tuple[CollectorRegistry, Change],
    theirs: tuple[CollectorRegistry, Change],
    rounds: int,
) -> tuple[float, float]:
    """Return the best milliseconds of our page of one registry, and of prometheus_client's page of the other."""
    request = [(b"accept", form.accept)]

    def page() -> bytes:
        return tocsin_exposition.page(ours[0], request)[1]

    def peer() -> bytes:
        return form.write(theirs[0])

    ours[1]()
    theirs[1]()
    differing = _samples(page(), form) ^ _samples(peer(), form)
    if differing:
        raise ValueError(f"{what} as {form.name}: {len(differing)} samples differ, such as {min(differing)}")
    gc.collect()
    best = [inf, inf]
    for _ in range(rounds):
        for index, (write, change) in enumerate(((page, ours[1]), (peer, theirs[1]))):
            change()
            began = time.process_time()
            write()
            best[index] = min(best[index], (time.process_time() - began) * 1e3)
    return best[0], best[1]


def _samples(page: bytes, form: Format) -> set[str]:
    """Return what a page says of request durations: the samples' names and labels."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}"
        for family in form.read(page.decode())
        for sample in family.samples
        if sample.name.startswith(DURATION.name)
    }


def measure(rounds: int = 9) -> list[PageCost]:
    """Return what each page cost.

    Raises:
        ValueError: a page of ours lacks a sample that prometheus_client shows, or has one more.
    """
    disable_created: Callable[[], None] = prometheus_client.disable_created_metrics
    disable_created()
    found = []
    for lines in (LINES // 10, LINES):
        count = lines // LINES_PER_SERIES
        ours, theirs = _of_tocsin(count), _of_prometheus_client(count)
        for form in _FORMATS:
            for what, shown in (("tocsin's own metrics", ours), ("the app's own metrics", theirs)):
                found.append(PageCost(what, form.name, lines, *_compare(what, form, shown, theirs, rounds)))
    return found
