"""One run of a background job, whoever schedules it: metrics, a span, log lines with its ids, a heartbeat."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from contextvars import Token
from time import perf_counter, time
from typing import Any, Literal

from tocsin import bound as variables
from tocsin.integrations.heartbeat import Event, Heartbeat, heartbeats_of, sender
from tocsin.metrics.families import Families
from tocsin.names import JOB_ACTIVE, JOB_DURATION, JOB_LAST_SUCCESS
from tocsin.request import CURRENT, Current, Running
from tocsin.tracing.context import Trace
from tocsin.tracing.settings import trace_settings
from tocsin.tracing.spans import OpenSpan, current_origin, leave, make_current, span
from tocsin.tracing.tracer import RequestTracer, tracer_for

Outcome = Literal["ok", "error", "retry", "missed", "cancelled"]

_log = logging.getLogger("tocsin")


class Run:
    """One run that has begun. Made by `Jobs.begin`, ended by `Jobs.end`, in the same thread or task."""

    __slots__ = ("alone", "began", "bound", "job", "request", "span", "trace")

    def __init__(self, job: str) -> None:
        self.job = job
        self.trace: Trace | None = None
        self.span: OpenSpan | None = None
        self.alone: Token[Any] | None = None
        self.request: Token[Running | None] | None = None
        self.bound: dict[str, object] = {}
        self.began = perf_counter()


class Jobs:
    """Watches the runs of one scheduler or worker. Thread-safe; never raises into a job, what fails is counted."""

    def __init__(
        self, families: Families, heartbeats: Mapping[str, str | Heartbeat], service_name: str | None = None
    ) -> None:
        """Watch jobs.

        Args:
            families: where runs are counted, and what a job itself counts without naming a registry.
            heartbeats: by job name, where to report.
            service_name: whose the spans are, in a process without an instrumented application; default: what the
                environment says.

        Raises:
            ValueError: a heartbeat's URL is not http or https.
        """
        self._families = families
        self._heartbeats = heartbeats_of(heartbeats)
        self._service_name = service_name
        self._tracer: RequestTracer | None = None
        self._failures_told: set[str] = set()

    def begin(self, job: str, parent: Trace | None = None, attributes: Mapping[str, str] | None = None) -> Run:
        """Note that a run begins in this thread or task, and make its trace current.

        Args:
            job: the name it is counted under.
            parent: the span that asked for this run; None: it begins a trace, whatever is current here.
            attributes: of its span.
        """
        run = Run(job)
        try:
            self._enter(run, parent, attributes)
        except Exception as error:  # a guard: the job runs all the same
            self.failed("begin", error)
        try:
            self._families.add(JOB_ACTIVE, job)
            self._report(job, "start")
        except Exception as error:  # a guard
            self.failed("count", error)
        run.began = perf_counter()
        return run

    def end(self, run: Run, outcome: Outcome | None, error: BaseException | None = None) -> None:
        """Note that a run is over, and make current what was before it.

        Args:
            run: what `begin` returned.
            outcome: how it ended; None: somebody else counts that.
            error: what it raised, for its span.
        """
        seconds = perf_counter() - run.began
        try:
            self._leave(run, error)
        except Exception as failure:  # a guard
            self.failed("end", failure)
        try:
            self._families.add(JOB_ACTIVE, run.job, amount=-1.0)
        except Exception as failure:  # a guard
            self.failed("count", failure)
        if outcome is not None:
            self.record(run.job, outcome, seconds, run.trace)

    def record(self, job: str, outcome: Outcome, seconds: float = 0.0, trace: Trace | None = None) -> None:
        """Count a run that is over, or one that never began; report it if it has a heartbeat.

        Args:
            job: the name it is counted under.
            outcome: how it ended.
            seconds: how long it took; 0 if it never began.
            trace: its span, as an example for the histogram.
        """
        try:
            self._families.observe(JOB_DURATION, job, outcome, value=seconds, trace=trace)
            if outcome == "ok":
                self._families.set(JOB_LAST_SUCCESS, job, value=time())
                self._report(job, "success")
            elif outcome == "error":
                self._report(job, "fail")
        except Exception as failure:  # a guard
            self.failed("count", failure)

    def failed(self, reason: str, error: Exception) -> None:
        """Count a run that is not wholly recorded for an error of our own, and say so the first time."""
        with suppress(Exception):  # nothing is left to tell it to
            self._families.dropped("jobs", reason)
            if reason not in self._failures_told:
                self._failures_told.add(reason)
                _log.warning("run of a job not recorded (%s): %r; counted from now on", reason, error)

    def _enter(self, run: Run, parent: Trace | None, attributes: Mapping[str, str] | None) -> None:
        run.bound = variables.bound()
        variables.restore({})  # a thread of a pool runs one job after the other: what one bound is none of the next's
        outer = CURRENT.get()
        run.request = CURRENT.set(None)
        run.alone = make_current(None)  # a scheduler's timer may have been set inside a request, long over
        if current_origin() is None:  # no application is instrumented here, as in a worker
            settings = trace_settings(self._service_name, None, None, os.environ)
            self._tracer = tracer_for(settings, self._families)
        run.span = span(run.job, kind="consumer", attributes=attributes, parent=parent)
        made = run.span.__enter__()
        run.trace = made if made.trace_id else None
        CURRENT.set(Current(run.trace, self._families, outer.pipeline if outer is not None else None))

    def _leave(self, run: Run, error: BaseException | None) -> None:
        try:
            if run.span is not None:
                run.span.__exit__(type(error) if error is not None else None, error, None)
        finally:
            leave(run.alone)
            if run.request is not None:
                with suppress(ValueError):  # ended in another context than it began in
                    CURRENT.reset(run.request)
            variables.restore(run.bound)

    def _report(self, job: str, event: Event) -> None:
        heartbeat = self._heartbeats.get(job)
        if heartbeat is not None:
            sender().send(job, heartbeat, event, self._families)
