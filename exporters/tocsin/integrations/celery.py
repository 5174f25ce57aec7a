"""Celery: every run of a task is measured, belongs to the trace that asked for it, and can report to a prober.

Works with every pool. With prefork, the children count into the worker's shared memory, and the worker's own port shows
the sum.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, MutableMapping
from importlib import import_module
from time import time
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import signals, states
from celery.exceptions import Reject
from prometheus_client import CollectorRegistry

from tocsin import lifecycle, settings
from tocsin.integrations.heartbeat import Heartbeat
from tocsin.integrations.jobs import Jobs, Outcome, Run
from tocsin.logs.stdlib import StdlibHandler
from tocsin.metrics.families import families_of
from tocsin.metrics.server import Server, serve
from tocsin.request import current_trace, trace_headers
from tocsin.tracing.context import Trace, active_span, parse_traceparent

_EXIT_SECONDS = 3.0
_OUTCOMES: Mapping[str, Outcome] = {states.FAILURE: "error", states.RETRY: "retry", states.IGNORED: "cancelled"}
_log = logging.getLogger("tocsin")


def instrument(
    app: Any = None,
    registry: CollectorRegistry | None = None,
    heartbeats: Mapping[str, str | Heartbeat] | None = None,
    *,
    service_name: str | None = None,
    port: int | None = None,
    address: str = "127.0.0.1",
) -> None:
    """Measure the tasks that this process runs, and hand traces on to those it sends. Again: with the new arguments.

    Call it in the module that makes the Celery application: web processes and workers import that. A task is named as
    Celery names it. Runs are counted in `tocsin_job_duration_seconds` as ok, error, retry, cancelled (revoked while it
    ran, or it raised Ignore) or missed (expired before it began).

    Args:
        app: only tasks of this Celery application are measured; default: of all.
        registry: where to count; default: prometheus_client's REGISTRY.
        heartbeats: by task name, the URL to call after each success; a `Heartbeat` for starts and failures too.
        service_name: whose the worker's spans and metrics are; default: what OTEL_SERVICE_NAME says.
        port: a worker serves its metrics page here; default: no page.
        address: the address of the metrics page.

    Raises:
        ValueError: a heartbeat's URL is not http or https.
    """
    jobs = Jobs(families_of(registry), heartbeats or {}, service_name)
    worker = _Worker(app, registry, jobs, service_name, port, address)
    uninstrument()
    _Connected.worker = worker
    for signal, receiver in worker.receivers():
        signal.connect(receiver, weak=False)
        _Connected.receivers.append((signal, receiver))


def uninstrument() -> None:
    """Leave Celery alone again. Runs under way are still recorded; the port of a running worker stays open."""
    while _Connected.receivers:
        signal, receiver = _Connected.receivers.pop()
        if signal is not signals.task_postrun:
            signal.disconnect(receiver)
    worker, _Connected.worker = _Connected.worker, None
    if worker is not None:
        worker.leave()


class _Connected:
    """What listens to Celery's signals, which belong to the process."""

    receivers: ClassVar[list[tuple[Any, Callable[..., None]]]] = []
    worker: ClassVar[_Worker | None] = None


class _Worker:
    """Listens to Celery, in the process that sends tasks, the worker's main process and its children."""

    def __init__(
        self,
        app: Any,
        registry: CollectorRegistry | None,
        jobs: Jobs,
        service_name: str | None,
        port: int | None,
        address: str,
    ) -> None:
        self._app = app
        self._registry = registry
        self._jobs = jobs
        self._service_name = service_name
        self._port = port
        self._address = address
        self._server: Server | None = None
        self._runs: dict[int, Run] = {}
        self._received: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._child = False
        self._leaving = False

    def leave(self) -> None:
        """Hear of runs under way only, until the last of them is over: else their spans and gauges never end."""
        self._leaving = True
        if not self._runs:
            signals.task_postrun.disconnect(self._end)

    def receivers(self) -> list[tuple[Any, Callable[..., None]]]:
        return [
            (signals.before_task_publish, self._publish),
            (signals.task_received, self._receive),
            (signals.task_prerun, self._begin),
            (signals.task_postrun, self._end),
            (signals.task_failure, self._lost),
            (signals.task_revoked, self._revoked),
            (signals.celeryd_init, self._worker_begins),
            (signals.worker_ready, self._worker_ready),
            (signals.worker_process_init, self._child_begins),
            (signals.worker_process_shutdown, self._child_ends),
            (signals.worker_shutdown, self._worker_ends),
        ]

    def _ours(self, task: Any) -> bool:
        return self._app is None or getattr(task, "app", None) is self._app

    # --- one task; Celery logs what a receiver raises, and goes on --------------------------------------------------

    def _publish(self, headers: MutableMapping[str, Any] | None = None, **_: Any) -> None:
        """Put the trace into the message, under the names that OpenTelemetry's instrumentation uses too."""
        if headers is None:
            return
        # A retry comes with the headers of the run before it, which it follows from. Other headers are the caller's.
        again = bool(headers.get("retries"))
        for name, value in trace_headers().items():
            if again or name not in headers:
                headers[name] = value

    def _receive(self, request: Any = None, **_: Any) -> None:
        """Keep in mind when a task began, for one that ends without saying so."""
        if request is not None:
            self._received[request.id] = request

    def _begin(self, task: Any = None, **_: Any) -> None:
        if self._ours(task):
            request = task.request
            attributes = {"celery.task_id": str(request.id), "celery.retries": str(request.retries)}
            self._runs[id(request)] = self._jobs.begin(task.name, _parent(request), attributes)

    def _end(self, task: Any = None, retval: Any = None, state: str | None = None, **_: Any) -> None:
        run = self._runs.pop(id(task.request), None)
        if run is not None:
            outcome = _outcome(state, retval)
            if outcome is None and not self._child:
                outcome = "error"
            # A child that exits inside a task is counted by the main process, which sees it go.
            failed = outcome == "error" and isinstance(retval, BaseException)
            self._jobs.end(run, outcome, retval if failed else None)
            if self._leaving and not self._runs:
                signals.task_postrun.disconnect(self._end)

    def _lost(self, sender: Any = None, task_id: str = "", exception: Any = None, **_: Any) -> None:
        """Count, in the main process, what a child did not live to count."""
        if isinstance(exception, TimeLimitExceeded | WorkerLostError) and self._ours(sender):
            request = self._received.pop(task_id, None)
            if request is not None:  # Celery 5.7 tells of a time limit twice
                self._jobs.record(sender.name, "error", _seconds(request))

    def _revoked(
        self, sender: Any = None, request: Any = None, terminated: bool = False, expired: bool = False, **_: Any
    ) -> None:
        if not self._ours(sender):
            return
        if terminated:
            received = self._received.pop(getattr(request, "id", ""), None)
            self._jobs.record(sender.name, "cancelled", _seconds(received))
        elif expired:
            self._jobs.record(sender.name, "missed")

    # --- the worker ---------------------------------------------------------------------------------------------------

    def _worker_begins(self, **_: Any) -> None:
        """Prepare what the pool's children share, and keep Celery away from the logs if tocsin writes them."""
        import_module("structlog")  # before the pool forks: each child would, in its first task that logs
        name = settings.service_name(self._service_name, os.environ)
        families_of(self._registry).describe_target(name, None)  # before too, for the children count under it
        if any(isinstance(handler, StdlibHandler) for handler in logging.getLogger().handlers):
            # That somebody listens is what keeps it away. Its level (`-l`) counts for its own logs only.
            signals.setup_logging.connect(self._logging_is_set_up, weak=False)
            _Connected.receivers.append((signals.setup_logging, self._logging_is_set_up))

    def _logging_is_set_up(self, **_: Any) -> None:
        pass

    def _worker_ready(self, **_: Any) -> None:
        if self._port is not None:
            try:
                self._server = serve(port=self._port, address=self._address, registry=self._registry)
            except OSError as error:
                _log.error("no metrics page on %s:%d: %s; the worker runs without", self._address, self._port, error)

    def _child_begins(self, **_: Any) -> None:
        self._child = True

    def _child_ends(self, **_: Any) -> None:
        # Children leave without running what `atexit` has.
        lifecycle.shutdown(_EXIT_SECONDS)

    def _worker_ends(self, **_: Any) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


def _parent(request: Any) -> Trace | None:
    """Return the span that asked for this run, or None."""
    # An eager task runs inside of what calls it; and OpenTelemetry's own instrumentation may have begun a span already.
    current = current_trace() if request.is_eager else active_span()
    if current is not None:
        return current
    value = request.get("traceparent")
    found = parse_traceparent(value.encode("latin-1", "replace")) if isinstance(value, str) else None
    if found is None:
        return None
    state = request.get("tracestate")
    return Trace(*found, state if isinstance(state, str) else "")


def _seconds(request: Any) -> float:
    """Return how long the worker's main process has known a task to run; 0 if it does not."""
    began = getattr(request, "time_start", None)
    return max(0.0, time() - began) if began else 0.0


def _outcome(state: str | None, retval: object) -> Outcome | None:
    """Return how a run ended, or None if Celery does not know: it left by SystemExit or the like."""
    if state is None:
        return None
    if isinstance(retval, Reject):
        return "retry" if retval.requeue else "error"
    return _OUTCOMES.get(state, "ok")
