"""Files and streams as the thread of an outbox writes them: in whole lines, waiting for nobody longer than asked."""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
import time
from os.path import abspath
from pathlib import Path
from typing import Any

from tocsin.logs.parcel import Parcel, Source

_LOOK_AGAIN_SECONDS = 1.0
"""How often a file's path is looked at, to follow a rotation by renaming."""

_PIPE_BYTES = 4096
"""What a pipe takes in one piece, not mixed with what other processes write (PIPE_BUF)."""

_FILE_BYTES = 1024 * 1024
_NEWLINE = ord("\n")


class DescriptorSink:
    """Writes to a file descriptor, waiting first until it takes something: a reader may be stuck."""

    def __init__(self) -> None:
        self._torn = False
        """Whether the last line written is cut: the disk was full."""
        self._waits = True
        """Whether the descriptor may have to be waited for: no regular file does."""
        self._limit = _PIPE_BYTES
        self._poll: select.poll | None = None
        self._polled = -1

    def descriptor(self) -> int:
        """Return where to write.

        Raises:
            OSError, ValueError: it is closed, or cannot be opened.
        """
        raise NotImplementedError

    def pack(self, payloads: list[bytes], sources: list[Source]) -> list[Parcel]:
        """Return as few parcels as can be written in one piece each; a longer line is one of its own."""
        whole = b"".join(payloads)
        with contextlib.suppress(OSError, ValueError):  # `send` will tell
            mode = os.fstat(self.descriptor()).st_mode
            self._waits = not stat.S_ISREG(mode)
            self._limit = _PIPE_BYTES if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else _FILE_BYTES
        parcels: list[Parcel] = []
        start = first = 0
        while len(whole) - start > self._limit:
            end = whole.rfind(b"\n", start, start + self._limit) + 1 or whole.find(b"\n", start) + 1 or len(whole)
            lines = whole.count(b"\n", start, end)
            parcels.append(Parcel(whole[start:end], sources[first : first + lines]))
            start, first = end, first + lines
        if start < len(whole):
            parcels.append(Parcel(whole[start:], sources[first:]))
        return parcels

    def send(self, parcel: Parcel, patience: float) -> bool:
        """Write a parcel, if the descriptor takes it within so many seconds."""
        deadline = time.monotonic() + patience
        if self._torn:
            parcel.data = b"\n" + parcel.data
            self._torn = False
        data, written = parcel.data, 0
        try:
            while written < len(data):
                descriptor = self.descriptor()
                if self._waits and not self._writable(descriptor, deadline):
                    return False
                with contextlib.suppress(BlockingIOError):  # somebody else filled it since
                    written += os.write(descriptor, data[written:] if written else data)
        except (OSError, ValueError):
            self._torn = data[written - 1] != _NEWLINE if written else data[0] == _NEWLINE
            raise
        finally:
            if written < len(data):  # the rest is sent later; or it is lost, and counted by line
                parcel.data = data[written:]
                parcel.sources = parcel.sources[data[1:written].count(b"\n") :]
        return True

    def _writable(self, descriptor: int, deadline: float) -> bool:
        """Return whether the descriptor takes something, before a time of the monotonic clock."""
        if self._poll is None or self._polled != descriptor:
            self._poll, self._polled = select.poll(), descriptor
            self._poll.register(descriptor, select.POLLOUT)
        if self._poll.poll(0):
            return True
        return bool(self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000))

    def hurry(self) -> None:
        """Nothing is put off."""

    def close(self) -> None:
        """Nothing of ours is open."""

    def forked(self) -> None:
        """Descriptors are shared with the parent."""


class FileSink(DescriptorSink):
    """Appends to a file (O_APPEND: processes can share it), and follows it when it is renamed away."""

    def __init__(self, path: Path) -> None:
        """Open or create the file, mode 0640.

        Raises:
            OSError: it cannot be opened for appending.
        """
        super().__init__()
        self._path = Path(abspath(path))  # noqa: PTH100 - follows no link, and daemons change their directory
        self._descriptor: int | None = self._open()
        self._look_again = 0.0

    def descriptor(self) -> int:
        """Return the descriptor of the file that has the path now."""
        now = time.monotonic()
        if self._descriptor is None:
            self._descriptor = self._open()
        elif now >= self._look_again:
            self._look_again = now + _LOOK_AGAIN_SECONDS
            self._follow(self._descriptor)
        return self._descriptor

    def close(self) -> None:
        """Close the file; the next parcel opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        # O_NONBLOCK: a named pipe without a reader is an error now, and not a wait without end.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        return os.open(self._path, flags, 0o640)

    def _follow(self, descriptor: int) -> None:
        opened = os.fstat(descriptor)
        with contextlib.suppress(OSError):  # the new one cannot be opened: then the old one is better than none
            try:
                there = self._path.stat()
            except FileNotFoundError:
                there = None
            if there is None or (there.st_ino, there.st_dev) != (opened.st_ino, opened.st_dev):
                self._descriptor = self._open()
                self._torn = False
                os.close(descriptor)


class StreamSink(DescriptorSink):
    """Writes to the descriptor of Python's own kind of stream, whose owner may write too, and may close it."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream
        self._before: tuple[bool, bool] | None = None
        if isinstance(stream, io.TextIOWrapper) and (stream.write_through or not stream.line_buffering):
            # By default `print` reaches a pipe cut after some 8,000 bytes, and with `python -u` its newline comes
            # separately: a line of ours would land between. Like this it comes line by line, as on a terminal. Done
            # here, and not by the thread, which might come while another one prints.
            with contextlib.suppress(OSError, ValueError):  # nobody reads it; `send` will tell
                self._before = (stream.line_buffering, stream.write_through)
                stream.reconfigure(line_buffering=True, write_through=False)

    @property
    def closed(self) -> bool:
        """Whether the stream's owner has closed it."""
        return bool(getattr(self._stream, "closed", False))

    def descriptor(self) -> int:
        """Return the stream's descriptor.

        Raises:
            ValueError: the stream is closed.
        """
        descriptor: int = self._stream.fileno()
        return descriptor

    def close(self) -> None:
        """Let the stream buffer as it did before."""
        if self._before is not None:
            with contextlib.suppress(OSError, ValueError):  # it is closed
                self._stream.reconfigure(line_buffering=self._before[0], write_through=self._before[1])
            self._before = None


class ForeignSink:
    """Writes with the methods of a stream of somebody's own making."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def closed(self) -> bool:
        """Whether the stream's owner has closed it."""
        return bool(getattr(self._stream, "closed", False))

    def pack(self, payloads: list[bytes], sources: list[Source]) -> list[Parcel]:
        """Return one parcel."""
        return [Parcel(b"".join(payloads), sources)]

    def send(self, parcel: Parcel, patience: float) -> bool:
        """Write a parcel; nobody can tell whether that would wait."""
        write_whole(self._stream, parcel.data)
        return True

    def hurry(self) -> None:
        """Nothing is put off."""

    def close(self) -> None:
        """Nothing of ours is open."""

    def forked(self) -> None:
        """The stream is shared with the parent."""


def write_whole(stream: Any, data: bytes) -> None:
    """Write and flush through the stream's own buffer, so that lines and prints do not cut each other.

    Raises:
        OSError, ValueError: as the stream does.
    """
    if stream is None:
        raise ValueError("the process has no such stream")
    binary = getattr(stream, "buffer", None)
    if binary is not None:
        stream.flush()
        binary.write(data)
        binary.flush()
        return
    try:
        stream.write(data.decode())
    except TypeError:  # a binary stream
        stream.write(data)
    stream.flush()
