"""Hands spans to a collector from a thread of its own: bounded, never in the way of a request, fork-safe.

The thread starts with the first span, and ends when there was nothing to do for a while.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections import deque
from time import monotonic, time
from typing import TYPE_CHECKING
from weakref import WeakSet

from tocsin import lifecycle
from tocsin.names import SPANS_EXPORTED, TOCSIN_DROPPED
from tocsin.redact import Redactor
from tocsin.tracing import console, otlp, retry
from tocsin.tracing.post import Answer, Collector, PostError
from tocsin.tracing.settings import TraceSettings

if TYPE_CHECKING:
    from tocsin.metrics.families import Families
    from tocsin.tracing.otlp import Item

_log = logging.getLogger("tocsin")

_IDLE_SECONDS = 60.0
"""After so long without a span the thread ends: an application that was uninstrumented leaves none behind."""

_exporters: WeakSet[Exporter] = WeakSet()
_forks_watched: list[bool] = []


class Exporter:
    """Queues spans, and posts them in batches. Made once per instrumented application."""

    def __init__(self, settings: TraceSettings, families: Families, redact: Redactor) -> None:
        self.redact = redact
        self.value_limit = settings.value_limit
        self.attribute_limit = settings.attribute_limit
        self.event_limit = settings.event_limit
        self.link_limit = settings.link_limit
        self._families = families
        self._batching = settings.batching
        self._limit = settings.batching.queue_size
        self._full_batch = settings.batching.batch_size
        self._console = settings.console
        self._shown = "" if settings.otlp is None else settings.otlp.shown
        self._collector = None if settings.otlp is None else Collector(settings.otlp)
        self._encoder = otlp.Encoder(settings, redact)
        self._queue: deque[Item] = deque()
        self._failing = False
        self._closed = False
        self._renew()
        lifecycle.register(self)
        _exporters.add(self)
        if not _forks_watched:
            _forks_watched.append(True)
            os.register_at_fork(after_in_child=_after_fork)

    def _renew(self) -> None:
        """Begin as a process of its own: with an empty queue, and no thread."""
        self._queue.clear()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._progress = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._roused = False
        self._hurried = False
        self._taken = self._finished = self._lost = 0
        self._deadline = float("inf")
        self._not_before = 0.0
        if self._collector is not None:
            self._collector.forget()

    def put(self, item: Item) -> None:
        """Queue a span that is over; never blocks. Drops it, counted, if the queue is full."""
        queue = self._queue
        if len(queue) >= self._limit or self._closed:
            self._families.dropped("traces", "shutdown" if self._closed else "queue_full")
            return
        queue.append(item)
        if self._thread is None:
            self._start()
        if len(queue) >= self._full_batch and not self._roused:
            self._roused = True
            self._wake.set()

    def flush(self, timeout: float) -> bool:
        """Export everything queued up to now; return whether a collector took it within so many seconds."""
        if self._closed:
            return True
        with self._lock:
            lost = self._lost
            target = self._taken + len(self._queue)
            if self._finished >= target:
                return True
            self._hurried = True
        if self._thread is None:
            self._start()
        self._wake.set()
        with self._progress:
            done = self._progress.wait_for(lambda: self._finished >= target, timeout)
            return done and self._lost == lost

    def shutdown(self, timeout: float) -> bool:
        """Export what is queued, with one attempt a batch, and stop the thread; what comes later is dropped."""
        if self._closed:
            return True
        self._closed = True
        lost = self._lost
        self._deadline = monotonic() + timeout
        self._stop.set()
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        while thread is None and self._queue and monotonic() < self._deadline:
            self._drain()  # at the end of the process, where no thread can be started any more
        with self._lock:
            left = len(self._queue)
            self._queue.clear()
        if left:
            self._drop(left, "shutdown")
        return not left and self._lost == lost and (thread is None or not thread.is_alive())

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="tocsin-spans", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is ending; `shutdown` exports what is queued
            self._thread = None

    def _run(self) -> None:
        busy = monotonic()
        while not self._stop.is_set():
            # The pause a collector asked for holds for everything, not only for the batch it refused.
            self._stop.wait(max(0.0, self._not_before - monotonic()))
            if not self._hurried and len(self._queue) < self._full_batch:
                self._wake.wait(self._batching.delay)
            self._wake.clear()
            self._roused = False
            if self._queue:
                self._drain()
                busy = monotonic()
            elif monotonic() - busy > _IDLE_SECONDS and self._ended():
                return
        while self._queue:
            self._drain()
        if self._collector is not None:
            self._collector.close()

    def _ended(self) -> bool:
        """Whether the thread may end: nothing came for a while, and nobody waits."""
        with self._lock:
            # First gone, then looked: whoever queues a span looks after that, and starts another.
            self._thread = None
            if self._queue or self._hurried:
                self._thread = threading.current_thread()
                return False
            if self._collector is not None:
                self._collector.close()  # before the next thread can be started: it would lose its connection
        return True

    def _drain(self) -> None:
        """Export until less than a batch is left; all of it if somebody waits."""
        while True:
            batch = self._batch()
            self._export(batch)
            with self._progress:
                self._finished += len(batch)
                self._hurried = self._hurried and bool(self._queue)
                self._progress.notify_all()
                if not self._hurried and len(self._queue) < self._full_batch:
                    return

    def _batch(self) -> list[Item]:
        with self._lock:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._full_batch))]
            self._taken += len(batch)
        return batch

    def _export(self, batch: list[Item]) -> None:
        try:
            if self._console:
                console.write(batch, self.redact)
            if self._collector is not None:
                self._post(self._collector, batch)
            elif self._console:
                self._families.add(SPANS_EXPORTED, amount=len(batch))
        except Exception as error:  # a guard: this thread must outlive whatever is in a batch
            self._drop(len(batch), "error")
            _log.warning("%d spans not exported: %r", len(batch), error)

    def _post(self, collector: Collector, batch: list[Item]) -> None:
        body, count, failures = self._encoder.request(batch)
        if count and not self._deliver(collector, body, count):
            half = len(batch) // 2
            self._post(collector, batch[:half])
            self._post(collector, batch[half:])
        elif failures:
            self._drop(failures, "encode")

    def _deliver(self, collector: Collector, body: bytes, count: int) -> bool:
        """Return whether that was the end of it: accepted, or dropped; False: it is to be sent in halves."""
        began, attempt = monotonic(), 0
        while True:
            attempt += 1
            last = self._stop.is_set()
            answer, problem = self._attempt(collector, body)
            verdict = retry.judge(
                None if answer is None else answer.status,
                None if answer is None else answer.retry_after,
                attempt=attempt,
                waited=monotonic() - began,
                now=time(),
                dice=random.random(),  # noqa: S311  # spreads load, keeps no secret
            )
            if verdict.action is retry.Action.DONE and answer is not None:
                self._accepted(answer, count)
                return True
            if verdict.action is retry.Action.SPLIT and count > 1 and monotonic() < self._deadline:
                return False
            self._tell_failure(problem)
            if verdict.action is not retry.Action.RETRY or last:
                self._not_before = monotonic() + verdict.wait
                self._drop(count, verdict.reason)
                return True
            # Where a shutdown cuts this short, it is tried once more.
            self._stop.wait(verdict.wait)

    def _attempt(self, collector: Collector, body: bytes) -> tuple[Answer | None, str]:
        """Return the collector's answer, and in words what was wrong."""
        try:
            answer = collector.post(body, max(0.1, self._deadline - monotonic()))
        except PostError as error:
            return None, str(error)
        return answer, f"status {answer.status}"

    def _accepted(self, answer: Answer, count: int) -> None:
        refused, message = otlp.rejected(answer.body)
        refused = max(0, min(refused, count))
        if refused:
            self._drop(refused, "rejected")
            _log.warning("the collector at %s rejected %d of %d spans: %.200s", self._shown, refused, count, message)
        self._families.add(SPANS_EXPORTED, amount=count - refused)
        if self._failing:
            self._failing = False
            _log.info("spans are exported to %s again", self._shown)

    def _tell_failure(self, problem: str) -> None:
        if not self._failing:
            self._failing = True
            _log.warning(
                "spans cannot be exported to %s (%s); at most %d are kept, more are dropped and counted in %s",
                self._shown,
                problem,
                self._limit,
                TOCSIN_DROPPED.name,
            )

    def _drop(self, count: int, reason: str) -> None:
        self._lost += count
        self._families.add(TOCSIN_DROPPED, "traces", reason, amount=count)


def abandon_all() -> None:
    """Stop all exporters without exporting what is queued; for tests."""
    for exporter in list(_exporters):
        exporter.shutdown(0.0)


def _after_fork() -> None:
    for exporter in list(_exporters):
        exporter._renew()  # of this module
