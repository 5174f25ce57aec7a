"""Time of a page of metrics that sums 32 workers: tocsin beside prometheus_client's several-process mode.

Every worker counts in every series before every scrape. The worker that is scraped is one of them, as behind a real
port.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError

import page_cost
from prometheus_client import CollectorRegistry, Histogram, exposition, parser
from prometheus_client.multiprocess import MultiProcessCollector

from tocsin.metrics import exposition as tocsin_exposition
from tocsin.metrics.families import families_of
from tocsin.names import HTTP_SERVER_REQUEST_DURATION as DURATION

WORKERS = 32
LINES = 3_600
_ROUNDS = 7
_TIMEOUT = 120.0

Count = Callable[[], None]
Page = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class ScrapeCost:
    """Milliseconds a page took, the best of all rounds."""

    tocsin: float
    peer: float

    @property
    def ratio(self) -> float:
        return self.tocsin / self.peer


def _of_tocsin() -> tuple[Count, Page]:
    registry = CollectorRegistry()
    families = families_of(registry)
    labels = page_cost.labels(LINES // page_cost.LINES_PER_SERIES)

    def count() -> None:
        for values in labels:
            families.observe(DURATION, *values, value=0.03)

    return count, lambda: tocsin_exposition.page(registry, [])[1]


def _of_prometheus_client() -> tuple[Count, Page]:
    kept = Histogram(DURATION.name, DURATION.help, DURATION.labels, buckets=DURATION.buckets, registry=None)
    children = [kept.labels(*values) for values in page_cost.labels(LINES // page_cost.LINES_PER_SERIES)]

    def count() -> None:
        for child in children:
            child.observe(0.03)

    collect: Callable[[CollectorRegistry], object] = MultiProcessCollector

    def page() -> bytes:
        registry = CollectorRegistry()  # a new one for each scrape, as its documentation says
        collect(registry)
        return exposition.generate_latest(registry)

    return count, page


_MAKERS = {"tocsin": _of_tocsin, "prometheus_client": _of_prometheus_client}


def _work(count: Count, page: Page, barrier: Barrier, report: Connection | None) -> None:
    """Count, wait for all others, and in the one worker that reports: scrape."""
    times = []
    try:
        for round_ in range(1, _ROUNDS + 1):
            count()
            barrier.wait(_TIMEOUT)
            if report is not None:
                began = time.process_time()
                body = page()
                times.append((time.process_time() - began) * 1e3)
                _check(body, float(round_ * WORKERS))
            barrier.wait(_TIMEOUT)
    except BrokenBarrierError:
        return  # another worker says why
    except BaseException:
        barrier.abort()
        raise
    if report is not None:
        report.send(min(times))


def _check(body: bytes, expected: float) -> None:
    counts = {
        sample.value
        for family in parser.text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name == f"{DURATION.name}_count"
    }
    if counts != {expected}:
        raise ValueError(f"a page of {WORKERS} workers counts {sorted(counts)}, expected {expected} in every series")


def leader(who: str) -> None:
    """Start the workers, and print what a scrape took."""
    count, page = _MAKERS[who]()  # before the fork, as with --preload
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(WORKERS)
    here, there = fork.Pipe()
    workers = [
        fork.Process(target=_work, args=(count, page, barrier, there if i == 0 else None)) for i in range(WORKERS)
    ]
    for process in workers:
        process.start()
    there.close()
    milliseconds = here.recv()
    for process in workers:
        process.join()
    print(json.dumps(milliseconds))


def measure() -> ScrapeCost:
    """Return what a scrape costs."""
    found = {}
    for who in _MAKERS:
        with tempfile.TemporaryDirectory(prefix="scrape-") as folder:
            environ = {name: value for name, value in os.environ.items() if name.upper() != "PROMETHEUS_MULTIPROC_DIR"}
            if who == "prometheus_client":
                environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            command = [sys.executable, __file__, who]
            done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, timeout=300, check=True)
            found[who] = json.loads(done.stdout)
    return ScrapeCost(found["tocsin"], found["prometheus_client"])


if __name__ == "__main__":
    leader(*sys.argv[1:])
