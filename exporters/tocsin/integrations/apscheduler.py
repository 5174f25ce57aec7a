"""APScheduler 3: every run of a job is measured, has a trace of its own, and can report to a prober.

What is timed is the job's function itself, in the thread or task that runs it. Jobs of a process pool are the
exception: from outside they can only be timed from submission to result, and have no span.
"""

from __future__ import annotations

import asyncio
import functools
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary, ref

from apscheduler.events import (
    EVENT_EXECUTOR_ADDED,
    EVENT_JOB_ERROR,
    EVENT_JOB_EXECUTED,
    EVENT_JOB_MISSED,
)
from apscheduler.executors.base import MaxInstancesReachedError
from apscheduler.executors.pool import ProcessPoolExecutor
from apscheduler.job import Job
from apscheduler.util import iscoroutinefunction_partial
from prometheus_client import CollectorRegistry

from tocsin.integrations.heartbeat import Heartbeat
from tocsin.integrations.jobs import Jobs, Outcome
from tocsin.metrics.families import families_of

_SUBMIT = "submit_job"
_GENERATED = re.compile(r"[0-9a-f]{32}")
_SUBMITTED_LIMIT = 10_000

_watched: WeakKeyDictionary[Any, _Watcher] = WeakKeyDictionary()
"""By scheduler; a watcher keeps no strong reference to its scheduler."""


def instrument(
    scheduler: Any, registry: CollectorRegistry | None = None, heartbeats: Mapping[str, str | Heartbeat] | None = None
) -> None:
    """Measure the jobs of a scheduler, running or not, those added later included. Again: with the new arguments.

    A job is named by its id, or by its name where APScheduler made up the id. Runs are counted in
    `tocsin_job_duration_seconds` as ok, error, cancelled (the scheduler was shut down) or missed (too late, or the run
    before it was not over).

    Args:
        scheduler: a BackgroundScheduler, AsyncIOScheduler or any other of APScheduler 3.
        registry: where to count; default: prometheus_client's REGISTRY.
        heartbeats: by job name, the URL to call after each success; a `Heartbeat` for starts and failures too.

    Raises:
        ValueError: a heartbeat's URL is not http or https.
    """
    jobs = Jobs(families_of(registry), heartbeats or {})
    uninstrument(scheduler)
    _watched[scheduler] = _Watcher(scheduler, jobs)


def uninstrument(scheduler: Any) -> None:
    """Leave the scheduler as it was found. Runs under way are still recorded."""
    watcher = _watched.pop(scheduler, None)
    if watcher is not None:
        watcher.detach(scheduler)


def job_name(job: Any) -> str:
    """Return the name a job is counted under: its id, unless APScheduler made that up."""
    return str(job.name) if _GENERATED.fullmatch(str(job.id)) else str(job.id)


class _Watcher:
    """Stands between a scheduler and its executors."""

    def __init__(self, scheduler: Any, jobs: Jobs) -> None:
        self._scheduler = ref(scheduler)
        self._jobs = jobs
        self._executors: list[Any] = []
        self._attached = True
        self._submitted: OrderedDict[tuple[str, object], tuple[str, float | None]] = OrderedDict()
        self._lock = threading.Lock()
        for executor in list(scheduler._executors.values()):
            self._watch(executor)
        scheduler.add_listener(self._executor_added, EVENT_EXECUTOR_ADDED)
        scheduler.add_listener(self._run_over, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR | EVENT_JOB_MISSED)

    def detach(self, scheduler: Any) -> None:
        self._attached = False  # somebody may have wrapped ours since; it only passes on from now on
        scheduler.remove_listener(self._executor_added)
        scheduler.remove_listener(self._run_over)
        for executor in self._executors:
            submit = vars(executor).get(_SUBMIT)
            if isinstance(submit, functools.partial) and submit.func == self._submit:
                delattr(executor, _SUBMIT)
        self._executors.clear()

    def _executor_added(self, event: Any) -> None:
        scheduler = self._scheduler()
        executor = scheduler._executors.get(event.alias) if scheduler is not None else None
        if executor is not None:
            self._watch(executor)

    def _watch(self, executor: Any) -> None:
        if executor not in self._executors:
            setattr(executor, _SUBMIT, functools.partial(self._submit, executor, getattr(executor, _SUBMIT)))
            self._executors.append(executor)

    def _submit(self, executor: Any, submit: Callable[..., None], job: Any, run_times: Sequence[Any]) -> None:
        if not self._attached:
            submit(job, run_times)
            return
        name = job_name(job)
        outside = isinstance(executor, ProcessPoolExecutor)
        for run_time in run_times:
            self._remember(job.id, run_time, name, perf_counter() if outside else None)
        try:
            submit(job if outside else _measured(job, name, self._jobs), run_times)
        except BaseException as error:
            for run_time in run_times:
                self._recall(job.id, run_time)
                if isinstance(error, MaxInstancesReachedError):
                    self._jobs.record(name, "missed")
            raise

    def _run_over(self, event: Any) -> None:
        """Count what is not counted where it runs: runs that were missed, and those of other processes."""
        name, submitted = self._recall(event.job_id, event.scheduled_run_time)
        if event.code == EVENT_JOB_MISSED:
            self._jobs.record(name, "missed")
        elif submitted is not None:
            outcome: Outcome = "ok" if event.code == EVENT_JOB_EXECUTED else "error"
            self._jobs.record(name, outcome, perf_counter() - submitted)

    def _remember(self, job_id: str, run_time: object, name: str, submitted: float | None) -> None:
        with self._lock:
            self._submitted[job_id, run_time] = (name, submitted)
            if len(self._submitted) > _SUBMITTED_LIMIT:  # an executor that broke never told how runs ended
                self._submitted.popitem(last=False)

    def _recall(self, job_id: str, run_time: object) -> tuple[str, float | None]:
        with self._lock:
            return self._submitted.pop((job_id, run_time), (job_id, None))


def _measured(job: Any, name: str, jobs: Jobs) -> Any:
    """Return a copy of the job whose function measures itself. The job in the store stays as it is."""
    try:
        copy = object.__new__(Job)
        for slot in Job.__slots__:
            if slot != "__weakref__" and hasattr(job, slot):
                setattr(copy, slot, getattr(job, slot))
        copy.func = _measuring(job, name, jobs)
    except Exception as error:  # a guard: it runs unmeasured
        jobs.failed("job", error)
        return job
    return copy


def _measuring(job: Any, name: str, jobs: Jobs) -> Callable[..., Any]:
    function = job.func
    attributes = {"apscheduler.job.id": str(job.id), "apscheduler.job.name": str(job.name)}

    def end(run: Any, error: BaseException) -> None:
        jobs.end(run, "cancelled" if isinstance(error, asyncio.CancelledError) else "error", error)

    if iscoroutinefunction_partial(function):  # as APScheduler asks, when it chooses how to run it

        async def run_coroutine(*args: Any, **kwargs: Any) -> Any:
            run = jobs.begin(name, attributes=attributes)
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                end(run, error)
                raise
            jobs.end(run, "ok")
            return result

        return run_coroutine

    def run_function(*args: Any, **kwargs: Any) -> Any:
        run = jobs.begin(name, attributes=attributes)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            end(run, error)
            raise
        jobs.end(run, "ok")
        return result

    return run_function
