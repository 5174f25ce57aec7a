"""Where lines go: a file that several processes append to, an open stream, or what `sys.stdout` is at that moment.

What has a file descriptor is written by a thread of its own, in batches (`tocsin.logs.outbox`). Streams in memory, and
a terminal that a person looks at, are written at once. Users of one destination share its writer.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
import sys
import threading
from pathlib import Path
from typing import IO, Any, Protocol
from weakref import WeakValueDictionary

from tocsin.logs import forks
from tocsin.logs.outbox import Outbox
from tocsin.logs.parcel import Item, Source
from tocsin.logs.sinks import FileSink, ForeignSink, StreamSink, write_whole


class Writer(Protocol):
    """Where lines go."""

    @property
    def synchronous(self) -> bool:
        """Whether a line is written when `put` returns."""

    def attach(self, source: Source) -> None:
        """Note a user."""

    def detach(self, source: Source, timeout: float = 1.0) -> None:
        """Forget a user; after the last one write what is queued, and close what was opened."""

    def put(self, item: Item, urgent: bool = False) -> bool:
        """Take lines for writing; return whether they, or at least what came before them, were written."""

    def flush(self, timeout: float) -> bool:
        """Write what is queued; return whether that was done within so many seconds."""


# --- streams that are written at once ---------------------------------------------------------------------------------


class DirectWriter:
    """Writes each line at once, in the thread of its author: for streams in memory, and for terminals."""

    synchronous = True

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        # Re-entrant: a finalizer or signal handler that logs may run while this thread is writing.
        self._lock = threading.RLock()
        forks.watch(self)

    def before_fork(self) -> bool:
        """Wait for nobody: a terminal may be held up."""
        return False

    def after_fork(self, *, child: bool, held: bool) -> None:
        """Have a lock of its own in the child: another thread of the parent may have been writing."""
        if child:
            self._lock = threading.RLock()

    def attach(self, source: Source) -> None:
        """There is nothing to note."""

    def detach(self, source: Source, timeout: float = 1.0) -> None:
        """The stream is its owner's."""

    def put(self, item: Item, urgent: bool = False) -> bool:
        """Write the lines; return whether that worked."""
        source, payload, lines = item
        # Not for ever: what another thread is writing to may take nothing.
        if not (lock := self._lock).acquire(timeout=1.0):
            source.lost("write", lines)
            return False
        try:
            write_whole(self._stream, payload)
        except ValueError:
            source.lost("closed", lines)
        except Exception:  # also of a stream of the application's own making
            source.lost("write", lines)
        else:
            return True
        finally:
            lock.release()
        return False

    def flush(self, timeout: float) -> bool:
        """Everything was written."""
        return True


class StdoutWriter:
    """Writes to what `sys.stdout` is at the moment of each line."""

    def __init__(self) -> None:
        self._sources: list[Source] = []
        self._begin()

    @property
    def synchronous(self) -> bool:
        """Whether stdout is written at once now."""
        self._follow()
        return self._writer.synchronous

    def attach(self, source: Source) -> None:
        """Note a user."""
        self._follow()
        self._sources.append(source)
        for writer in self._writers():
            writer.attach(source)

    def detach(self, source: Source, timeout: float = 1.0) -> None:
        """Forget a user; after the last one write what is queued."""
        with contextlib.suppress(ValueError):
            self._sources.remove(source)
        for writer in self._writers():
            writer.detach(source, timeout)
        if not self._sources:
            self._begin()

    def _begin(self) -> None:
        self._stream: Any = self  # what sys.stdout never is
        self._writer: Writer = DirectWriter(None)
        self._outboxes: dict[int, Outbox] = {}

    def _writers(self) -> list[Writer]:
        return [*self._outboxes.values(), *([] if self._writer in self._outboxes.values() else [self._writer])]

    def put(self, item: Item, urgent: bool = False) -> bool:
        """Take lines for what stdout is now."""
        if sys.stdout is not self._stream:
            self._follow()
        return self._writer.put(item, urgent)

    def flush(self, timeout: float) -> bool:
        """Write what is queued."""
        return self._writer.flush(timeout)

    def _follow(self) -> None:
        stream = sys.stdout
        if stream is self._stream:
            return
        target = _destination(stream)
        writer: Writer | None = self._outboxes.get(id(target))
        if writer is None:
            self._let_go_of_closed()
            writer = DirectWriter(target) if _is_redirection(target) else open_stream(target)
            for source in self._sources:
                writer.attach(source)
            if isinstance(writer, Outbox):  # it keeps the stream, so the id stays the stream's
                self._outboxes[id(target)] = writer
        self._writer, self._stream = writer, stream

    def _let_go_of_closed(self) -> None:
        """Forget former streams that their owners have closed, or there would be a thread for each."""
        for key, outbox in tuple(self._outboxes.items()):
            if getattr(outbox.sink, "closed", False):
                del self._outboxes[key]
                for source in tuple(self._sources):
                    outbox.detach(source)


# --- one writer for each destination ----------------------------------------------------------------------------------

_open: WeakValueDictionary[object, Any] = WeakValueDictionary()


class _Opening:
    """One thread at a time looks for a writer or makes one; a forked child does not wait for one of its parent's."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # re-entrant: opened where stdout was changed, perhaps by a finalizer
        self._watched = False

    def __enter__(self) -> None:
        if not self._watched:
            self._watched = True
            forks.watch(self)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def before_fork(self) -> bool:
        """Let a file that is being opened be opened."""
        return self._lock.acquire(timeout=0.1)

    def after_fork(self, *, child: bool, held: bool) -> None:
        """Go on."""
        if child:
            self._lock = threading.RLock()
        elif held:
            self._lock.release()


_opening = _Opening()


def open_file(path: str | os.PathLike[str]) -> Outbox:
    """Return the writer that appends to a file, created with mode 0640; followed when it is renamed away.

    Raises:
        OSError: it cannot be opened for appending.
    """
    key = os.path.realpath(path)
    with _opening:
        outbox: Outbox | None = _open.get(key)
        if outbox is None:
            outbox = _open[key] = Outbox(FileSink(Path(path)))
        else:
            FileSink(Path(path)).close()  # it may have been closed since: whether it can be opened is told now
        return outbox


def open_stream(stream: IO[Any] | None) -> Writer:
    """Return the writer for a stream: a thread of its own behind a pipe, socket or file; anything else directly."""
    try:
        threaded = not os.isatty(stream.fileno())  # type: ignore[union-attr]  # None is answered below
    except Exception:  # no descriptor, or closed, or no stream at all
        threaded = False
    if not threaded:
        return DirectWriter(stream)
    with _opening:
        outbox: Outbox | None = _open.get(id(stream))
        if outbox is None:
            outbox = _open[id(stream)] = Outbox(StreamSink(stream) if _is_plain(stream) else ForeignSink(stream))
        return outbox


def open_stdout() -> StdoutWriter:
    """Return the writer for whatever `sys.stdout` is at the moment of each line."""
    with _opening:
        writer: StdoutWriter | None = _open.get("stdout")
        if writer is None:
            writer = _open["stdout"] = StdoutWriter()
        return writer


def _destination(stream: Any) -> Any:
    """Return the stream, or the real stdout instead of one that logs what it is given: that would come back to us.

    Celery's workers put such a one in stdout's place.
    """
    return sys.__stdout__ if isinstance(getattr(stream, "logger", None), logging.Logger) else stream


def _is_redirection(stream: Any) -> bool:
    """Whether this is a file that somebody put in stdout's place, to close and read it as soon as he is done."""
    try:
        return stream is not sys.__stdout__ and stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except Exception:  # no descriptor, or closed, or no stream at all
        return False


def _is_plain(stream: Any) -> bool:
    """Whether its descriptor takes what the stream itself would write there: not so if it compresses."""
    layer = stream.buffer if type(stream) is io.TextIOWrapper else stream
    layer = layer.raw if type(layer) in (io.BufferedWriter, io.BufferedRandom) else layer
    return type(layer) is io.FileIO
