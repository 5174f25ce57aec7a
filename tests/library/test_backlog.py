"""Requests that went well are told a little later, many at once; nothing of it can be seen from outside."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

import tocsin
from tocsin.backlog import BATCH, Backlog, drain_all
from tocsin.lifecycle import force_flush
from tocsin.testing import Capture, active, call, counted


class Told:
    """What a backlog has told, and an event for each time."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.once = threading.Event()

    def __call__(self, items: list[int]) -> None:
        self.batches.append(items)
        self.once.set()


def test_items_are_told_together_when_there_are_enough() -> None:
    """In their order."""
    told = Told()
    backlog = Backlog(told)
    for number in range(BATCH - 1):
        backlog.add(number)
    assert told.batches == []
    backlog.add(BATCH - 1)
    assert told.batches == [list(range(BATCH))]


def test_items_do_not_wait_for_ever() -> None:
    """A single one is told by a thread, soon."""
    told = Told()
    backlog = Backlog(told)
    backlog.add(7)
    assert told.once.wait(10)
    assert told.batches == [[7]]
    assert [thread.name for thread in threading.enumerate()].count("tocsin-backlog") == 1


def test_a_flush_tells_what_waits() -> None:
    """`force_flush` and the end of the process do."""
    told = Told()
    backlog = Backlog(told)
    backlog.add(7)
    assert force_flush()
    assert told.batches == [[7]]
    assert not backlog.items


def test_telling_may_drain() -> None:
    """Telling logs, and logging drains: the inner call does nothing, the outer one goes on."""
    told: list[int] = []

    def tell(items: list[int]) -> None:
        for item in items:
            backlog.drain()
            if item == 0:
                backlog.items.append(2)
            told.append(item)

    backlog = Backlog(tell, limit=2)
    backlog.add(0)
    backlog.add(1)
    assert told == [0, 1, 2]


def test_many_threads_lose_nothing() -> None:
    """Whoever adds may drain; each item is told once."""
    told: list[int] = []
    backlog = Backlog(told.extend, limit=3)

    def add(start: int) -> None:
        for number in range(start, start + 500):
            backlog.add(number)

    threads = [threading.Thread(target=add, args=(start,)) for start in range(0, 4000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backlog.drain()
    assert sorted(told) == list(range(4000))


def test_a_forked_child_does_not_tell_what_its_parent_does() -> None:
    """What waits at the fork is the parent's; the child begins with nothing, and with a thread of its own."""
    told = Told()
    backlog = Backlog(told)
    backlog.add(1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        told.batches.clear()
        told.once.clear()
        backlog.add(2)
        heard = told.once.wait(10)
        os.write(writer, repr((heard, told.batches)).encode())
        os._exit(0)
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(reader, 1000) == b"(True, [[2]])"
    os.close(reader)
    backlog.drain()
    assert told.batches == [[1]]


def test_a_flush_waits_for_what_another_thread_tells() -> None:
    """Else the end of the process would close the log before the last lines are in it."""
    entered, go = threading.Event(), threading.Event()
    told: list[int] = []

    def tell(items: list[int]) -> None:
        entered.set()
        assert go.wait(10)
        told.extend(items)

    backlog = Backlog(tell)
    backlog.add(1)
    other = threading.Thread(target=backlog.drain)
    other.start()
    assert entered.wait(10)
    assert not backlog.flush(0.01)
    go.set()
    assert backlog.flush(10)
    assert told == [1]
    other.join()


def test_who_holds_a_lock_that_the_telling_needs_does_not_wait_for_ever() -> None:
    """A finalizer logs wherever the garbage collector runs it: in the middle of counting, for one."""
    entered, lock = threading.Event(), threading.Lock()

    def tell(items: list[int]) -> None:
        entered.set()
        with lock:
            pass

    backlog = Backlog(tell)
    with lock:
        backlog.add(1)
        assert entered.wait(10)
        assert not backlog.drain()
    assert backlog.drain(10)


def test_backlogs_may_be_made_while_others_are_drained() -> None:
    """An application that is instrumented late does not end the thread that drains."""
    failed: list[RuntimeError] = []
    stop = threading.Event()

    def drain() -> None:
        while not stop.is_set() and not failed:
            try:
                drain_all()
            except RuntimeError as error:
                failed.append(error)

    interval = sys.getswitchinterval()
    kept = [Backlog(list.clear) for _ in range(300)]
    other = threading.Thread(target=drain)
    other.start()
    try:
        sys.setswitchinterval(1e-6)
        kept += [Backlog(list.clear) for _ in range(300)]
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        other.join()
    assert len(kept) == 600
    assert failed == []


async def test_a_scrape_shows_requests_that_still_wait(registry: CollectorRegistry, tmp_path: Any) -> None:
    """The page is exact to the last request before it."""
    app = tocsin.instrument(FastAPI(), registry=registry, log_file=tmp_path / "lines")
    for _ in range(3):
        await call(app, "/nowhere")
    assert counted(registry) == {("GET", "", "404"): 3}


async def test_lines_keep_their_order(registry: CollectorRegistry, tmp_path: Any) -> None:
    """What a request logs comes after the access lines of those before it."""
    app, log = FastAPI(), tocsin.get_logger()

    @app.get("/{n}")
    async def read(n: int) -> None:
        log.info("inside", n=n)

    file = tmp_path / "lines"
    tocsin.instrument(app, registry=registry, log_file=file)
    for n in range(3):
        await call(app, f"/{n}")
    assert force_flush()
    messages = [line.split('"message":"')[1].split('"')[0] for line in file.read_text().splitlines()]
    assert messages == ["inside", "GET /0 200", "inside", "GET /1 200", "inside", "GET /2 200"]


@pytest.mark.parametrize("path", ["/boom", "/"])
async def test_uninstrument_tells_what_waits(path: str, registry: CollectorRegistry, lines: Capture) -> None:
    """Nothing is left behind."""
    app = FastAPI()

    @app.get("/")
    async def ok() -> None:
        return None

    tocsin.instrument(app, registry=registry, log_stream=lines)
    await call(app, path)
    tocsin.uninstrument(app)
    assert sum(counted(registry).values()) == 1
    assert len(lines.access) == 1


async def test_a_request_that_is_open_at_uninstrument_is_counted_when_it_ends(
    registry: CollectorRegistry, tmp_path: Any
) -> None:
    """Nobody drains for it any more: it is told at once, and the gauge falls back."""
    app, entered, go = FastAPI(), asyncio.Event(), asyncio.Event()

    @app.get("/")
    async def wait() -> None:
        entered.set()
        await go.wait()

    tocsin.instrument(app, registry=registry, log_file=tmp_path / "lines")
    request = asyncio.create_task(call(app))
    await entered.wait()
    tocsin.uninstrument(app)
    assert active(registry) == 1
    go.set()
    await request
    assert active(registry) == 0
    assert counted(registry) == {("GET", "/", "200"): 1}
