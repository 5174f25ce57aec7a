"""A bounded queue with one thread behind it: who puts something in never waits, whatever becomes of the other end.

`put` takes no lock, so it may be called from signal handlers and finalizers, at any moment: it appends to a deque, and
rings a bell that is a bare lock. What is in the queue is sent by the thread, or by whoever calls `flush`; only one of
them at a time. A forked child begins with an empty queue and without a thread: what the parent had queued, the parent
sends.
"""

from __future__ import annotations

import _thread
import contextlib
import sys
import threading
from collections import Counter, deque
from time import monotonic

from tocsin import lifecycle
from tocsin.logs import forks
from tocsin.logs.parcel import Item, Parcel, Sink, Source

LINES_LIMIT = 10_000
BYTES_LIMIT = 16 * 1024 * 1024
BATCH_LINES = 64
BATCH_SECONDS = 0.2

_PATIENCE_SECONDS = 1.0
"""How long the thread waits for a stream that takes nothing, before it looks whether it should stop."""

_LATE_SECONDS = 0.2
"""How long a line may hold up its author when the thread has been stopped: at the end of the process."""

_IDLE_ROUNDS = 10


class Outbox:
    """A queue, its thread and its sink."""

    synchronous = False

    def __init__(self, sink: Sink, *, batch_lines: int = BATCH_LINES) -> None:
        self.sink = sink
        self.failing = False
        """Whether the last parcel was lost."""
        self._batch_lines = batch_lines
        self._sources: list[Source] = []
        self._reset()
        self._by_author = False
        forks.watch(self)
        lifecycle.register(self)

    def _reset(self) -> None:
        """Be as new: no thread, nothing queued, nobody holding a lock."""
        self._queue: deque[Item] = deque()
        # Two counts instead of one: each is written on one side only.
        self._lines_in = self._lines_out = 0
        self._bytes_in = self._bytes_out = 0
        self._parcels: deque[Parcel] = deque()
        self._packed = (0, 0)  # lines and bytes of those
        self._sending = threading.Lock()
        self._starting = threading.Lock()
        self._bell = threading.Lock()
        self._bell.acquire()
        self._started = False
        self._asleep = True
        self._urgent = False

    # --- who uses it ----------------------------------------------------------------------------------------------

    def attach(self, source: Source) -> None:
        """Note a source, so that its losses are reported."""
        self._sources.append(source)
        self._by_author = False

    def detach(self, source: Source, timeout: float = 1.0) -> None:
        """Forget a source; after the last one flush for so many seconds, stop the thread and close the sink.

        What the sink did not take by then is lost, and counted.
        """
        if self._sources == [source] and not self.shutdown(timeout):
            self._discard()
        self._report()
        with contextlib.suppress(ValueError):
            self._sources.remove(source)

    # --- in -------------------------------------------------------------------------------------------------------

    def put(self, item: Item, urgent: bool = False) -> bool:
        """Queue lines: sent at once if urgent, else with others within 200 ms.

        Returns whether they were taken, and the ones before them were sent.
        """
        source, payload, lines = item
        size = len(payload)
        if (
            self._lines_in - self._lines_out + lines > LINES_LIMIT
            or self._bytes_in - self._bytes_out + size > BYTES_LIMIT
        ):
            source.refused += lines
            return False
        self._lines_in += lines
        self._bytes_in += size
        self._queue.append(item)
        if urgent:
            self._urgent = True
            self._ring()
        elif self._asleep or self._lines_in % self._batch_lines == 0:
            self._ring()
        return not self.failing

    def _ring(self) -> None:
        if self._by_author:
            self.flush(_LATE_SECONDS)
        elif not self._started:
            self._start()
        elif self._bell.locked():
            with contextlib.suppress(RuntimeError):  # somebody else was faster
                self._bell.release()

    def _start(self) -> None:
        """Start the thread: without `threading`, whose locks a finalizer might find held."""
        if not self._starting.acquire(blocking=False):
            return
        try:
            if not self._started:
                _thread.start_new_thread(self._run, (self._bell,))
                self._started = True
                _flush_with_multiprocessing(self)
        except RuntimeError:  # no threads any more: the interpreter is about to end
            self._by_author = True
            self.flush(_LATE_SECONDS)
        finally:
            self._starting.release()

    # --- out ------------------------------------------------------------------------------------------------------

    def _run(self, bell: _thread.LockType) -> None:
        idle = 0
        # Whoever stopped this thread gave its bell away: what is noted about being asleep is the next one's then.
        if bell is self._bell:
            self._asleep = False
        while bell is self._bell:
            try:
                if not self._urgent:
                    bell.acquire(timeout=BATCH_SECONDS)
                self._urgent = False
                if self._queue or self._parcels:
                    idle = 0
                    self._send_all(monotonic() + _PATIENCE_SECONDS, _PATIENCE_SECONDS)
                elif idle < _IDLE_ROUNDS:
                    idle += 1
                else:
                    self._asleep = True
                    if not self._queue and bell is self._bell:  # nothing came in between
                        bell.acquire()
                    if bell is self._bell:
                        self._asleep = False
                    idle = 0
                self._report()
            except Exception:  # a guard: of a thread that dies nobody hears
                self.failing = True

    def flush(self, timeout: float) -> bool:
        """Send what is queued now; return whether all of it was sent, or lost and counted, within so many seconds."""
        self.sink.hurry()
        done = self._send_all(monotonic() + timeout, timeout)
        self._report()
        return done

    def shutdown(self, timeout: float) -> bool:
        """Flush, stop the thread, and close the sink. What comes later is sent by its author."""
        deadline = monotonic() + timeout
        done = self.flush(timeout)
        self._by_author = True
        bell, self._bell = self._bell, threading.Lock()  # the next thread's; the old one ends when it sees this
        self._bell.acquire()
        self._started, self._asleep = False, True
        with contextlib.suppress(RuntimeError):
            bell.release()
        if self._sending.acquire(timeout=max(0.0, deadline - monotonic())):
            try:
                self.sink.close()
            finally:
                self._sending.release()
        return done

    def rest(self, timeout: float) -> bool:
        """Do as `shutdown` does; but what comes later starts a thread again, unless the process is about to end."""
        late = self._by_author
        done = self.shutdown(timeout)
        self._by_author = late
        return done

    def _discard(self) -> None:
        """Count as lost what nobody will send any more."""
        if not self._sending.acquire(timeout=_PATIENCE_SECONDS):  # it is being sent, and nobody can tell how much
            return
        try:
            left = Counter(source for parcel in self._parcels for source in parcel.sources)
            self._parcels.clear()
            with contextlib.suppress(IndexError):
                while True:
                    source, payload, lines = self._queue.popleft()
                    left[source] += lines
                    self._leave(lines, len(payload))
            self._leave(*self._packed)
            self._packed = (0, 0)
        finally:
            self._sending.release()
        for source, lines in left.items():
            source.lost("closed", lines)

    def _leave(self, lines: int, size: int) -> None:
        self._lines_out += lines
        self._bytes_out += size

    def _send_all(self, deadline: float, patience: float) -> bool:
        """Send what is queued by now; return False if the sink takes nothing until the deadline."""
        if not self._sending.acquire(timeout=max(0.0, patience)):
            return False
        try:
            rounds = len(self._queue) // self._batch_lines + 2  # one for what was left from the last time
            for _ in range(rounds):
                self._pack()
                while self._parcels:
                    if not self._send(self._parcels[0], max(0.0, deadline - monotonic())):
                        return False
                    self._parcels.popleft()
            return True
        finally:
            self._sending.release()

    def _pack(self) -> None:
        """Move a batch out of the queue, as parcels."""
        if self._parcels:
            return
        # Only now: what is in a parcel takes memory until it is sent.
        self._leave(*self._packed)
        self._packed = (0, 0)
        payloads: list[bytes] = []
        sources: list[Source] = []
        queue = self._queue
        while queue and len(sources) < self._batch_lines:
            source, payload, lines = queue.popleft()
            payloads.append(payload)
            sources += [source] * lines
        if payloads:
            self._packed = (len(sources), sum(map(len, payloads)))
            self._parcels.extend(self.sink.pack(payloads, sources))

    def _send(self, parcel: Parcel, patience: float) -> bool:
        try:
            done = self.sink.send(parcel, patience)
        except Exception as error:  # also of a stream of the application's own making
            reason = "closed" if isinstance(error, ValueError) else "write"
            for source, lines in Counter(parcel.sources).items():
                with contextlib.suppress(Exception):  # what cannot even be counted must not be tried again for ever
                    source.lost(reason, lines)
            self.failing = True
            return True
        if done:
            self.failing = False
        return done

    def _report(self) -> None:
        """Count what was refused since the last time."""
        for source in tuple(self._sources):
            refused = source.refused
            if refused:
                source.refused -= refused
                source.lost("queue_full", refused)

    # --- fork -----------------------------------------------------------------------------------------------------

    def before_fork(self) -> bool:
        """Let a parcel that is being sent be sent, so that no half of it is in a buffer that the child inherits."""
        return self._sending.acquire(timeout=0.1)

    def after_fork(self, *, child: bool, held: bool) -> None:
        """Go on in the parent; begin anew in the child."""
        if child:
            self._reset()
            for source in self._sources:
                source.refused = 0
            self.sink.forked()
        elif held:
            self._sending.release()


def _flush_with_multiprocessing(outbox: Outbox) -> None:
    """Flush at the end of a child of multiprocessing too: where it was forked, it ends without `atexit`."""
    multiprocessing = sys.modules.get("multiprocessing")
    util = sys.modules.get("multiprocessing.util")
    if multiprocessing is not None and util is not None and multiprocessing.parent_process() is not None:
        util.Finalize(outbox, outbox.flush, args=(_PATIENCE_SECONDS,), exitpriority=0)
