"""Jobs of real APScheduler schedulers are measured, traced and reported; the scheduler does what it did."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import structlog
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED
from apscheduler.executors.pool import ProcessPoolExecutor, ThreadPoolExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.background import BackgroundScheduler
from prometheus_client import CollectorRegistry

import tocsin
from tocsin import lifecycle, names
from tocsin.integrations.apscheduler import instrument, uninstrument
from tocsin.integrations.heartbeat import Heartbeat
from tocsin.metrics.families import families_of
from tocsin.request import CURRENT, Current, current_trace
from tocsin.testing import Capture, dropped
from tocsin.tracing.spans import Span

SECONDS = 20.0


def counts(registry: CollectorRegistry) -> dict[tuple[str, str], int]:
    """Return how often jobs ended, by (job, outcome)."""
    return {
        (sample.labels["job"], sample.labels["outcome"]): int(sample.value)
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == f"{names.JOB_DURATION.name}_count"
    }


def values(registry: CollectorRegistry, name: str) -> dict[str, float]:
    return {
        sample.labels["job"]: sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name
    }


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        threading.Event().wait(0.005)


async def happens(condition: Callable[[], object]) -> None:
    """Wait for what this event loop does."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.005)


@pytest.fixture
def scheduler() -> Iterator[BackgroundScheduler]:
    # However slow this machine is now: runs are late only where a test says so.
    scheduler = BackgroundScheduler(timezone=UTC, job_defaults={"misfire_grace_time": None})
    yield scheduler
    if scheduler.running:
        scheduler.shutdown()


def test_runs_are_counted_with_duration_outcome_and_last_success(
    scheduler: BackgroundScheduler, registry: CollectorRegistry
) -> None:
    """The duration is that of the function, whenever it was submitted."""
    instrument(scheduler, registry)
    inside = threading.Event()
    leave = threading.Event()

    def work() -> None:
        inside.set()
        leave.wait(SECONDS)
        time.sleep(0.02)

    def fail() -> None:
        raise OSError("no disk")

    scheduler.add_job(work, id="work")
    scheduler.add_job(fail, id="fail")
    before = time.time()
    scheduler.start()
    assert inside.wait(SECONDS)
    assert values(registry, names.JOB_ACTIVE.name)["work"] == 1
    leave.set()
    until(lambda: len(counts(registry)) == 2)
    assert counts(registry) == {("work", "ok"): 1, ("fail", "error"): 1}
    assert values(registry, names.JOB_ACTIVE.name) == {"work": 0, "fail": 0}
    last_success = values(registry, names.JOB_LAST_SUCCESS.name)
    assert last_success.keys() == {"work"}
    assert before <= last_success["work"] <= time.time()
    assert values(registry, f"{names.JOB_DURATION.name}_sum")["work"] >= 0.02
    assert dropped(registry) == {}


def test_the_schedulers_own_events_are_as_before(scheduler: BackgroundScheduler, registry: CollectorRegistry) -> None:
    """Return values and exceptions reach other listeners; a job gets its arguments; the stored job is untouched."""
    events: list[Any] = []
    scheduler.add_listener(events.append, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)
    instrument(scheduler, registry)

    def add(a: int, b: int = 0) -> int:
        return a + b

    def fail() -> None:
        raise OSError("no disk")

    stored = scheduler.add_job(add, "interval", hours=1, args=(1,), kwargs={"b": 2}, id="add")
    stored.modify(next_run_time=datetime.now(UTC))
    scheduler.add_job(fail, id="fail")
    scheduler.start()
    until(lambda: len(events) == 2)
    by_job = {event.job_id: event for event in events}
    assert by_job["add"].retval == 3
    assert isinstance(by_job["fail"].exception, OSError)
    assert "in fail" in by_job["fail"].traceback
    job = scheduler.get_job("add")
    assert job is not None
    assert job.func is add


def test_a_run_that_comes_too_late_is_missed(scheduler: BackgroundScheduler, registry: CollectorRegistry) -> None:
    """As is one whose predecessor is not over."""
    instrument(scheduler, registry)
    leave = threading.Event()
    missed = threading.Event()
    refused = threading.Event()
    scheduler.add_listener(lambda _: missed.set(), EVENT_JOB_MISSED)
    scheduler.add_listener(lambda _: refused.set(), EVENT_JOB_MAX_INSTANCES)
    late = datetime.now(UTC) - timedelta(hours=1)
    scheduler.add_job(print, "date", run_date=late, id="late", misfire_grace_time=1)
    scheduler.add_job(leave.wait, "interval", seconds=0.05, args=(SECONDS,), id="slow")
    scheduler.start()
    assert missed.wait(SECONDS)
    assert refused.wait(SECONDS)
    scheduler.pause()
    leave.set()
    until(lambda: counts(registry).get(("slow", "ok")))
    assert counts(registry)["late", "missed"] == 1
    assert counts(registry)["slow", "missed"] >= 1
    assert "late" not in values(registry, names.JOB_ACTIVE.name)


def test_a_job_without_an_id_is_counted_under_its_name(
    scheduler: BackgroundScheduler, registry: CollectorRegistry
) -> None:
    """Made-up ids would be a new series with each start; a job that is missed is known too."""
    instrument(scheduler, registry)

    def nightly() -> None: ...

    scheduler.add_job(nightly)
    scheduler.add_job(nightly, name="cleanup")
    scheduler.add_job(
        nightly, "date", run_date=datetime.now(UTC) - timedelta(hours=1), name="late", misfire_grace_time=1
    )
    scheduler.start()
    until(lambda: len(counts(registry)) == 3)
    own = "test_a_job_without_an_id_is_counted_under_its_name.<locals>.nightly"
    assert counts(registry) == {(own, "ok"): 1, ("cleanup", "ok"): 1, ("late", "missed"): 1}


def test_each_run_is_a_trace_of_its_own(
    scheduler: BackgroundScheduler, registry: CollectorRegistry, lines: Capture
) -> None:
    """Lines of a run share its ids, which the histogram has as examples; what a run binds is not the next one's."""
    tocsin.configure_logs(service_name="jobs", stream=lines, registry=registry)
    scheduler.add_executor(ThreadPoolExecutor(1))
    instrument(scheduler, registry)
    log = tocsin.get_logger()

    def work(number: int) -> None:
        log.info("begins", number=number)
        structlog.contextvars.bind_contextvars(bound_by=number)
        tocsin.auth_failed("expired")
        log.info("ends", number=number)

    for number in range(2):
        scheduler.add_job(work, args=(number,), id=f"work-{number}")
    scheduler.start()
    until(lambda: len(counts(registry)) == 2)
    assert lifecycle.force_flush(SECONDS)
    ids: dict[int, set[tuple[str, str]]] = {}
    for line in lines.application:
        if line["message"] in {"begins", "ends"}:
            ids.setdefault(line["number"], set()).add((line["trace.id"], line["span.id"]))
            assert line.get("bound_by") == (line["number"] if line["message"] == "ends" else None)
    assert [len(found) for found in ids.values()] == [1, 1]
    assert ids[0] != ids[1]
    examples = {
        (sample.exemplar.labels["trace_id"], sample.exemplar.labels["span_id"])
        for metric in registry.collect()
        for sample in metric.samples
        if sample.exemplar is not None
    }
    assert examples == ids[0] | ids[1]
    refused = [
        sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == names.AUTH_FAILURES.name
    ]
    assert refused == [2], "what a job counts is counted with the jobs"


async def test_coroutine_jobs_are_awaited(registry: CollectorRegistry) -> None:
    """On an AsyncIOScheduler, beside ordinary functions; one that the scheduler cancels is cancelled."""
    scheduler = AsyncIOScheduler(timezone=UTC, job_defaults={"misfire_grace_time": None})
    instrument(scheduler, registry)
    waiting = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.02)

    async def fail() -> None:
        await asyncio.sleep(0)
        raise OSError("no disk")

    async def forever() -> None:
        waiting.set()
        await asyncio.Event().wait()

    def ordinary() -> None: ...

    functions: list[Callable[[], None] | Callable[[], Awaitable[None]]] = [work, fail, forever, ordinary]
    for function in functions:
        scheduler.add_job(function, id=function.__name__)
    scheduler.start()
    await asyncio.wait_for(waiting.wait(), SECONDS)
    await happens(lambda: len(counts(registry)) == 3)
    assert values(registry, names.JOB_ACTIVE.name)["forever"] == 1
    scheduler.shutdown()
    await happens(lambda: len(counts(registry)) == 4)
    assert counts(registry) == {
        ("work", "ok"): 1,
        ("fail", "error"): 1,
        ("ordinary", "ok"): 1,
        ("forever", "cancelled"): 1,
    }
    assert values(registry, f"{names.JOB_DURATION.name}_sum")["work"] >= 0.015
    assert values(registry, names.JOB_ACTIVE.name) == dict.fromkeys(("work", "fail", "forever", "ordinary"), 0)


async def test_a_job_added_inside_a_request_does_not_belong_to_it(registry: CollectorRegistry) -> None:
    """asyncio's timers remember where they were set: the runs of a year would be one trace."""
    scheduler = AsyncIOScheduler(timezone=UTC, job_defaults={"misfire_grace_time": None})
    instrument(scheduler, registry)
    scheduler.start()
    traces: list[Any] = []

    async def work() -> None:
        traces.append(current_trace())

    request = Current(Span("1" * 32, "2" * 16, sampled=True), families_of(registry), None)
    token = CURRENT.set(request)
    scheduler.add_job(work, id="work")
    CURRENT.reset(token)
    await happens(lambda: counts(registry))
    scheduler.shutdown()
    (trace,) = traces
    assert trace.trace_id != "1" * 32
    assert trace.parent_id == ""


def square(number: int) -> int:
    if number < 0:
        raise ValueError(number)
    return number * number


def test_jobs_in_other_processes_are_counted_from_outside(
    scheduler: BackgroundScheduler, registry: CollectorRegistry
) -> None:
    """Their outcome is known here; their time is from submission to result."""
    scheduler.add_executor(ProcessPoolExecutor(1))
    instrument(scheduler, registry)
    results: list[Any] = []
    scheduler.add_listener(lambda event: results.append(event.retval), EVENT_JOB_EXECUTED)
    scheduler.add_job("math:isqrt", args=(49,), id="root")
    scheduler.add_job("math:isqrt", args=(-1,), id="bad")
    scheduler.start()
    until(lambda: len(counts(registry)) == 2)
    assert counts(registry) == {("root", "ok"): 1, ("bad", "error"): 1}
    assert results == [7]
    assert values(registry, names.JOB_LAST_SUCCESS.name).keys() == {"root"}


def test_instrumenting_again_and_undoing_it(scheduler: BackgroundScheduler, registry: CollectorRegistry) -> None:
    """The last call counts; executors added later are watched; afterwards nothing is left of us."""
    first = CollectorRegistry()
    scheduler.start()
    instrument(scheduler, first)
    instrument(scheduler, registry)
    scheduler.add_executor(ThreadPoolExecutor(1), "later")
    scheduler.add_job(square, args=(2,), id="default")
    scheduler.add_job(square, args=(2,), id="later", executor="later")
    until(lambda: len(counts(registry)) == 2)
    assert counts(registry) == {("default", "ok"): 1, ("later", "ok"): 1}
    uninstrument(scheduler)
    uninstrument(scheduler)
    done = threading.Event()
    scheduler.add_job(done.set, id="after")
    assert done.wait(SECONDS)
    assert len(counts(registry)) == 2
    assert counts(first) == {}
    assert not any("submit_job" in vars(executor) for executor in scheduler._executors.values())
    assert not scheduler._listeners


def test_what_another_library_wrapped_around_ours_only_passes_on(
    scheduler: BackgroundScheduler, registry: CollectorRegistry
) -> None:
    """Nothing is counted after `uninstrument`, and once after instrumenting again."""
    scheduler.start()
    instrument(scheduler, registry)
    executor = scheduler._executors["default"]
    ours, seen = executor.submit_job, []

    def theirs(job: Any, run_times: Any) -> None:
        seen.append(job.id)
        ours(job, run_times)

    executor.submit_job = theirs
    uninstrument(scheduler)
    done = threading.Event()
    scheduler.add_job(done.set, id="unseen")
    assert done.wait(SECONDS)
    instrument(scheduler, registry)
    scheduler.add_job(square, args=(2,), id="seen")
    until(lambda: counts(registry))
    assert counts(registry) == {("seen", "ok"): 1}
    assert seen == ["unseen", "seen"]


def test_heartbeats_report_success_and_failure(scheduler: BackgroundScheduler, registry: CollectorRegistry) -> None:
    """To the URL given for the job, with `/start` and `/fail` where asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    prober = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=prober.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{prober.server_port}"
    instrument(
        scheduler,
        registry,
        heartbeats={"good": f"{url}/good", "bad": Heartbeat(f"{url}/bad", fail=True), "quiet": f"{url}/quiet"},
    )
    started = threading.Event()
    scheduler.add_job(square, args=(2,), id="good")
    scheduler.add_job(square, args=(-2,), id="bad")
    scheduler.add_job(square, args=(-2,), id="quiet")
    scheduler.add_job(started.set, id="unnamed")
    scheduler.start()
    until(lambda: len(counts(registry)) == 4)
    assert lifecycle.force_flush(SECONDS)
    prober.shutdown()
    thread.join()
    prober.server_close()
    assert sorted(asked) == ["/bad/fail", "/good"]
    assert dropped(registry) == {}


def test_a_heartbeat_that_cannot_work_is_refused(scheduler: BackgroundScheduler) -> None:
    """Before anything is changed."""
    with pytest.raises(ValueError, match="heartbeat of job 'nightly'"):
        instrument(scheduler, heartbeats={"nightly": "prober"})
    assert not scheduler._listeners
