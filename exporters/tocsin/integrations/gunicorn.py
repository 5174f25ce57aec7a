"""Gunicorn: nothing is needed to sum its workers. These hooks of `gunicorn.conf.py` add what only the master can do.

    from tocsin.integrations import gunicorn as tocsin_gunicorn

    when_ready = tocsin_gunicorn.serve_metrics(port=9464)
    child_exit = tocsin_gunicorn.child_exit
    on_exit = tocsin_gunicorn.on_exit

Works on what Gunicorn hands to its hooks; Gunicorn is not imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry, multiprocess

from tocsin.metrics import group, workers
from tocsin.metrics.families import families_of
from tocsin.metrics.server import PORT, serve


def serve_metrics(
    port: int = PORT, address: str = "127.0.0.1", registry: CollectorRegistry | None = None
) -> Callable[[Any], None]:
    """Return a `when_ready` hook: the master serves the metrics of all workers on a port of its own.

    So a scrape takes no worker's time, and is answered while all of them are busy.

    Args:
        port: of the page.
        address: of this machine.
        registry: as given to `tocsin.instrument`; default: prometheus_client's REGISTRY.
    """

    def when_ready(server: Any) -> None:
        try:
            families_of(registry)
            serve(port, address, registry)
        except (OSError, ValueError) as error:  # the workers are well without it
            server.log.error("no metrics on %s:%d: %s", address, port, error)

    return when_ready


def child_exit(_server: Any, worker: Any) -> None:
    """Take a dead worker's gauges out of prometheus_client's own files, where `PROMETHEUS_MULTIPROC_DIR` is set."""
    folder = group.declared_folder(os.environ)
    if folder is not None:
        with suppress(OSError):
            multiprocess.mark_process_dead(worker.pid, str(folder))  # type: ignore[no-untyped-call]


def on_exit(_server: Any) -> None:
    """Remove what the workers of this master have shared. Without this hook the next server that starts does it."""
    workers.clean_up()
