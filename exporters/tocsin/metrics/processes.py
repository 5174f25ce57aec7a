"""What the system knows of the workers: when they started, and what they have used (proc(5))."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as PrometheusMetric

from tocsin.metrics import group
from tocsin.metrics.segment import CPU, OLDEST, View

# Fields of /proc/PID/stat from the state on: proc(5) counts that as the third.
_USER, _SYSTEM, _STARTED, _VIRTUAL, _RESIDENT = 11, 12, 19, 20, 21


def families(living: Iterable[View], everyone: Iterable[View], prefix: str) -> Iterator[PrometheusMetric]:
    """Yield what prometheus_client shows of a process, over all workers.

    CPU time is that of dead workers too, as far as it was seen while they lived, and never falls. Memory and files are
    those of living workers together, and the start is that of the first worker.

    Args:
        living: segments of living workers.
        everyone: all segments, and the base of dead workers.
        prefix: of the names, `process_`.
    """
    if not group.process_fields(os.getpid()):  # no /proc
        return
    virtual = resident = files = count = 0
    ticks, page = os.sysconf("SC_CLK_TCK"), resource.getpagesize()
    everyone = list(everyone)
    for view in everyone:
        found = group.process_fields(view.pid) if view.pid else []
        if found and int(found[_STARTED]) == view.started:
            # Kept in its segment: it must still count when the process is dead.
            view.cells[CPU] = max(view.cells[CPU], (int(found[_USER]) + int(found[_SYSTEM])) / ticks)
    for view in living:
        found = group.process_fields(view.pid)
        if not found or int(found[_STARTED]) != view.started:  # of another container, or about to go
            continue
        count += 1
        virtual += int(found[_VIRTUAL])
        resident += int(found[_RESIDENT]) * page
        files += _open_files(view.pid)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    oldest = min((view.cells[OLDEST] for view in everyone if view.cells[OLDEST]), default=0.0)
    cpu = sum(view.cells[CPU] for view in everyone)
    yield GaugeMetricFamily(f"{prefix}virtual_memory_bytes", "Virtual memory size in bytes.", virtual)
    yield GaugeMetricFamily(f"{prefix}resident_memory_bytes", "Resident memory size in bytes.", resident)
    yield GaugeMetricFamily(f"{prefix}start_time_seconds", "Start time of the first worker in Unix seconds.", oldest)
    yield CounterMetricFamily(f"{prefix}cpu_seconds_total", "Total user and system CPU time spent in seconds.", cpu)
    yield GaugeMetricFamily(f"{prefix}open_fds", "Number of open file descriptors.", files)
    yield GaugeMetricFamily(f"{prefix}max_fds", "Maximum number of open file descriptors.", limit * count)


def _open_files(pid: int) -> int:
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 0
