"""What the page says of the process: garbage collection, threads, the container's memory, late event loops."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from prometheus_client import CollectorRegistry

from tocsin import names
from tocsin.metrics.families import Families, families_of
from tocsin.runtime import cgroup
from tocsin.runtime import process as runtime
from tocsin.runtime.loop_lag import TICK, lags, missed

Run = Callable[[Coroutine[Any, Any, None]], None]

RUNS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


@pytest.fixture
def families(registry: CollectorRegistry) -> Iterator[Families]:
    families = families_of(registry)
    yield families
    runtime.unwatch(families)


def lag(registry: CollectorRegistry, suffix: str, **labels: str) -> float:
    return registry.get_sample_value(names.LOOP_LAG.name + suffix, labels) or 0.0


def at_least(registry: CollectorRegistry, seconds: str) -> float:
    """Return how many observations lay above a bound."""
    page = {
        sample.labels.get("le"): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == f"{names.LOOP_LAG.name}_bucket"
    }
    return page["+Inf"] - page[seconds] if page else 0.0


# --- garbage collection and threads ------------------------------------------------------------------


def test_each_collection_is_counted_by_generation(registry: CollectorRegistry, families: Families) -> None:
    """A pause is one observation, in the generation that was collected."""
    runtime.watch(families)
    count = f"{names.GC_PAUSE.name}_count"
    gc.collect(2)
    before = registry.get_sample_value(count, {"generation": "2"}) or 0.0
    gc.disable()
    try:
        for _ in range(3):
            gc.collect(2)
        assert registry.get_sample_value(count, {"generation": "2"}) == before + 3
    finally:
        gc.enable()
    assert 0 < (registry.get_sample_value(f"{names.GC_PAUSE.name}_sum", {"generation": "2"}) or 0) < 5


def test_the_end_of_a_collection_alone_is_no_pause() -> None:
    """Its beginning may be of another one, long ago."""
    pauses = runtime._Pauses()
    for phase in ("stop", "start", "stop", "stop"):
        pauses(phase, {"generation": 0})
    assert sum(pauses.now()[0][:-1]) == 1


def test_a_collection_inside_of_the_store_deadlocks_nothing(registry: CollectorRegistry, families: Families) -> None:
    """The collector may stop a thread that holds the lock of the numbers; it waits for nothing."""
    runtime.watch(families)

    def collect_under_lock() -> None:
        with families.store.lock:
            gc.collect()

    thread = threading.Thread(target=collect_under_lock, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert registry.get_sample_value(f"{names.GC_PAUSE.name}_count", {"generation": "2"})


def test_watching_twice_counts_once_and_unwatching_ends_it(registry: CollectorRegistry, families: Families) -> None:
    """One callback in the collector, however many pages and calls; none is left behind."""
    for page in list(runtime._watches):  # of tests before this one, whose registries are not yet collected
        runtime.unwatch(page)
    callbacks = len(gc.callbacks)
    other = families_of(CollectorRegistry())
    for page in (families, families, other):
        runtime.watch(page)
    assert len(gc.callbacks) == callbacks + 1
    runtime.unwatch(other)
    runtime.unwatch(families)
    runtime.unwatch(families)
    assert len(gc.callbacks) == callbacks
    families.set(names.PROCESS_THREADS, value=-1)
    before = list(registry.collect())
    gc.collect()
    assert len(list(registry.collect())) == len(before)
    assert registry.get_sample_value(names.PROCESS_THREADS.name) == -1, "nobody sets it any more"


def test_threads_are_counted_when_the_page_is_read(registry: CollectorRegistry, families: Families) -> None:
    """A thread more is one more on the page."""
    runtime.watch(families)
    before = registry.get_sample_value(names.PROCESS_THREADS.name)
    assert before is not None
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert registry.get_sample_value(names.PROCESS_THREADS.name) == before + 1
    finally:
        end.set()
        thread.join()


FORKED = """
import gc, os
from prometheus_client import CollectorRegistry
from tocsin import names
from tocsin.metrics.families import families_of
from tocsin.runtime import process

registry = CollectorRegistry()
process.watch(families_of(registry))
gc.collect()
gc.disable()
child = os.fork()
if child == 0:
    gc.collect()
    seen = registry.get_sample_value(names.GC_PAUSE.name + "_count", {"generation": "2"})
    os._exit(0 if seen == 1.0 else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_counts_its_own_pauses_only() -> None:
    """What the parent did and had not shown yet is not the child's. In a process of its own: stores remember forks."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# --- memory ------------------------------------------------------------------


def v2(folder: Path, *, limit: str, inactive: int = 300) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.current").write_text("1000\n")
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.stat").write_text(f"anon 5\nfile 400\ninactive_file {inactive}\nactive_file 100\n")


def v1(folder: Path, *, limit: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.usage_in_bytes").write_text("2000\n")
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 500\n")


def group_of(tmp_path: Path, text: str) -> cgroup.Memory | None:
    process = tmp_path / "cgroup"
    process.write_text(text)
    group = cgroup.find_group(process, tmp_path / "fs")
    return group.memory() if group is not None else None


def test_memory_leaves_out_page_cache_that_can_be_dropped(tmp_path: Path) -> None:
    """Version 2, in a container that sees its own group as the root."""
    v2(tmp_path / "fs", limit="4096")
    assert group_of(tmp_path, "0::/\n") == cgroup.Memory(700, 4096)


def test_no_limit_is_none(tmp_path: Path) -> None:
    """`max` in version 2, a number beyond all memory in version 1."""
    v2(tmp_path / "fs", limit="max")
    assert group_of(tmp_path, "0::/\n") == cgroup.Memory(700, None)
    v1(tmp_path / "fs" / "memory", limit=9223372036854771712)
    assert group_of(tmp_path, "4:memory:/\n0::/\n") == cgroup.Memory(1500, None)


def test_the_limit_of_a_group_above_counts_with_the_usage_of_that_group(tmp_path: Path) -> None:
    """Usage and limit are always of the same group, or their ratio would mean nothing."""
    v2(tmp_path / "fs" / "system.slice", limit="8192", inactive=0)
    v2(tmp_path / "fs" / "system.slice" / "shop.service", limit="max")
    assert group_of(tmp_path, "0::/system.slice/shop.service\n") == cgroup.Memory(1000, 8192)


@pytest.mark.parametrize("path", ["/docker/4711", "/../../shop"])
def test_a_path_of_the_host_is_read_where_the_container_has_it(tmp_path: Path, path: str) -> None:
    """Without a namespace of its own, a container is told a path that it cannot see."""
    v1(tmp_path / "fs" / "memory", limit=65536)
    assert group_of(tmp_path, f"4:memory,hugetlb:{path}\n") == cgroup.Memory(1500, 65536)


@pytest.mark.parametrize("text", ["", "0::/\n", "4:memory:/x\n", "nonsense\n"])
def test_without_control_groups_there_is_nothing(tmp_path: Path, text: str) -> None:
    """Not a container, not Linux, not readable: no series, no error."""
    assert group_of(tmp_path, text) is None


def test_memory_is_on_the_page_and_a_limit_that_was_lifted_is_infinite(
    registry: CollectorRegistry, families: Families, tmp_path: Path
) -> None:
    """No limit: no series. A limit that is gone is not the last one for ever."""
    v2(tmp_path / "fs", limit="max")
    (tmp_path / "cgroup").write_text("0::/\n")
    runtime.watch(families, group=cgroup.find_group(tmp_path / "cgroup", tmp_path / "fs"))
    assert registry.get_sample_value(names.MEMORY_USAGE.name) == 700
    assert registry.get_sample_value(names.MEMORY_LIMIT.name) is None
    v2(tmp_path / "fs", limit="5000")
    assert registry.get_sample_value(names.MEMORY_LIMIT.name) == 5000
    v2(tmp_path / "fs", limit="max")
    assert registry.get_sample_value(names.MEMORY_LIMIT.name) == float("inf")
    (tmp_path / "fs" / "memory.current").unlink()
    assert registry.get_sample_value(names.MEMORY_USAGE.name) == 700


# --- the event loop ------------------------------------------------------------------


def test_every_missed_instant_is_an_observation() -> None:
    """A stall of 1.1 s is five observations: what five requests, one every 0.25 s, would have waited."""
    assert missed(10.0, 10.0) == 1
    assert missed(10.0, 9.5) <= 0
    assert lags(10.0, 11.1, 0) == pytest.approx([1.1, 0.85, 0.6, 0.35, 0.1])


def test_a_stall_seen_twice_is_counted_as_if_seen_once() -> None:
    """What is observed while a loop is stuck, and what is observed when it is over, add up to the whole stall."""
    looked = lags(0.0, 1.1, 0)
    over = lags(0.0, 3.1, len(looked))
    whole = lags(0.0, 3.1, 0)
    assert len(looked + over) == len(whole)
    assert sum(looked + over) == pytest.approx(sum(whole), abs=len(whole) * TICK)


def test_a_night_of_standing_still_is_not_counted_in_full() -> None:
    """A process that was stopped for days comes back at once."""
    assert len(lags(0.0, 500_000.0, 0)) == 14_400


@RUNS
def test_a_blocked_loop_shows_its_lag(run: Run, registry: CollectorRegistry, families: Families) -> None:
    """Code that blocks for a second is four observations, the greatest of about a second."""

    async def block() -> None:
        runtime.watch_running_loop(families)
        runtime.watch_running_loop(families)
        await asyncio.sleep(2.5 * TICK)
        late, count, seconds = at_least(registry, "0.25"), lag(registry, "_count"), lag(registry, "_sum")
        began = time.monotonic()
        time.sleep(1.05)  # noqa: ASYNC251  # the point of the test
        await asyncio.sleep(0.5 * TICK)
        took = time.monotonic() - began  # longer where others want the processor too
        assert 2 <= at_least(registry, "0.25") - late <= took / TICK
        assert 3 <= lag(registry, "_count") - count <= took / TICK + 1
        assert 1.5 <= lag(registry, "_sum") - seconds <= took * (took / TICK + 1) / 2 + TICK

    run(block())


@RUNS
def test_a_loop_that_is_stuck_now_is_seen_from_another_thread(
    run: Run, registry: CollectorRegistry, families: Families
) -> None:
    """A page on a port of its own tells of a loop that never comes back, and more at each scrape."""
    stuck, free = threading.Event(), threading.Event()

    async def block() -> None:
        runtime.watch_running_loop(families)
        await asyncio.sleep(TICK)
        stuck.set()
        free.wait(30)
        await asyncio.sleep(0)

    thread = threading.Thread(target=run, args=(block(),), daemon=True)
    thread.start()
    try:
        assert stuck.wait(20)
        deadline = time.monotonic() + 20
        while at_least(registry, "0.5") < 1:
            assert time.monotonic() < deadline
            free.wait(0.05)
        first = at_least(registry, "0.25")
        while at_least(registry, "1.0") < 2:
            assert time.monotonic() < deadline
            free.wait(0.05)
        assert at_least(registry, "0.25") > first
    finally:
        free.set()
        thread.join(20)
    assert not thread.is_alive()


def test_a_loop_that_is_over_is_forgotten(registry: CollectorRegistry, families: Families) -> None:
    """A closed loop is not a stuck one."""

    async def watched() -> None:
        runtime.watch_running_loop(families)
        await asyncio.sleep(0)

    asyncio.run(watched())
    seen = lag(registry, "_count")
    time.sleep(3 * TICK)
    assert lag(registry, "_count") == seen


def test_a_loop_that_is_not_watched_any_more_is_left_alone(registry: CollectorRegistry, families: Families) -> None:
    """After `unwatch` a loop makes no observations, and can be watched again."""

    async def watched() -> None:
        loop = asyncio.get_running_loop()
        runtime.watch_loop(loop, families)
        await asyncio.sleep(1.5 * TICK)
        assert lag(registry, "_count") >= 1
        runtime.unwatch(families)
        seen = lag(registry, "_count")
        await asyncio.sleep(2 * TICK)
        assert lag(registry, "_count") == seen
        runtime.watch_loop(loop, families)
        await asyncio.sleep(1.5 * TICK)
        assert lag(registry, "_count") > seen

    asyncio.run(watched())


def test_without_a_running_loop_there_is_nothing_to_watch(registry: CollectorRegistry, families: Families) -> None:
    """Called from a synchronous server it does nothing, and raises nothing."""
    runtime.watch_running_loop(families)
    assert registry.get_sample_value(f"{names.LOOP_LAG.name}_count") is None


# --- several workers ------------------------------------------------------------------

APP = """
import os, time
from pathlib import Path
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
import tocsin
from tocsin.runtime import process as runtime

runtime.REFRESH_SECONDS = 0.2

async def block(request):
    Path("stuck").touch()
    while not Path("free").exists():
        time.sleep(0.05)
    return JSONResponse(None)

async def pid(request):
    return JSONResponse(os.getpid())

app = Starlette(routes=[Route("/block", block), Route("/pid", pid)])
tocsin.instrument(app, logs=False, traces=False)
"""


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[str]:
    """The base URL of a real uvicorn with two workers."""
    (tmp_path / "two_workers.py").write_text(APP)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "two_workers:app", "--workers", "2", "--log-level", "warning"]
        server = subprocess.Popen(
            [*command, "--fd", str(listener.fileno())], cwd=tmp_path, pass_fds=[listener.fileno()]
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(20)


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  # our own server
        return str(answer.read().decode())


def shown(url: str) -> dict[str, float]:
    """Return the numbers of a page of metrics."""
    lines = [line.rpartition(" ") for line in read(f"{url}/metrics").splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in lines}


def threads(pids: set[int]) -> int:
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids)


def test_workers_show_the_threads_of_all_and_the_loop_that_is_stuck_in_one(workers: str, tmp_path: Path) -> None:
    """Whichever worker answers: what the others are now is at most some seconds old."""
    pids: set[int] = set()
    while len(pids) < 2:
        pids.add(int(read(f"{workers}/pid")))
    deadline = time.monotonic() + 20
    while shown(workers)[names.PROCESS_THREADS.name] != threads(pids):
        assert time.monotonic() < deadline
    blocked = threading.Thread(target=read, args=(f"{workers}/block",))
    blocked.start()
    try:
        while not (tmp_path / "stuck").exists():  # before, that worker might take the connection of the scrape too
            assert time.monotonic() < deadline
            time.sleep(0.02)
        late = 0.0
        while late < 1:
            assert time.monotonic() < deadline
            page = shown(workers)
            within, in_all = (page.get(f'{names.LOOP_LAG.name}_bucket{{le="{le}"}}', 0.0) for le in ("1.0", "+Inf"))
            late = in_all - within
            time.sleep(0.05)
    finally:
        (tmp_path / "free").touch()
        blocked.join()
