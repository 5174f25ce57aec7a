"""Puts whole lines where they go: a stream, or a file that several processes append to. Never raises into the app."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, Protocol

_LOOK_AGAIN_SECONDS = 1.0
"""How often a file's path is looked at, to follow a rotation by renaming."""


class Writer(Protocol):
    """Where lines go."""

    def write(self, line: bytes) -> None:
        """Write one whole line.

        Raises:
            OSError, ValueError: the line could not be written.
        """


class StreamWriter:
    """Writes to an open stream; None means whatever `sys.stdout` is at that moment."""

    def __init__(self, stream: IO[Any] | None) -> None:
        self._stream = stream
        # Re-entrant: a finalizer or signal handler that logs may run while this thread is writing.
        self._lock = threading.RLock()

    def write(self, line: bytes) -> None:
        """Write and flush one line through the stream's own buffer, so that lines and prints do not cut each other."""
        stream = self._stream if self._stream is not None else sys.stdout
        if stream is None:
            raise ValueError("sys.stdout is None")
        with self._lock:
            binary = getattr(stream, "buffer", None)
            if binary is not None:
                stream.flush()
                binary.write(line)
                binary.flush()
                return
            text: Any = line.decode()
            try:
                stream.write(text)
            except TypeError:  # a binary stream
                whole: Any = line
                stream.write(whole)
            stream.flush()


class FileWriter:
    """Appends to a file, each line in one system call (O_APPEND), and follows it when it is renamed away."""

    def __init__(self, path: Path) -> None:
        """Open or create the file, mode 0640.

        Raises:
            OSError: it cannot be opened for appending.
        """
        self._path = path
        self._lock = threading.RLock()  # as above
        self._look_again = 0.0
        self._descriptor = self._open()

    def write(self, line: bytes) -> None:
        """Append one line."""
        with self._lock:
            now = time.monotonic()
            if now >= self._look_again:
                self._look_again = now + _LOOK_AGAIN_SECONDS
                self._follow()
            written = os.write(self._descriptor, line)
            while written < len(line):  # a full disk, or a pipe: the rest, or an error
                written += os.write(self._descriptor, line[written:])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            os.close(self._descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _follow(self) -> None:
        opened = os.fstat(self._descriptor)
        try:
            there = self._path.stat()
        except FileNotFoundError:
            there = None
        if there is None or (there.st_ino, there.st_dev) != (opened.st_ino, opened.st_dev):
            descriptor = self._open()
            os.close(self._descriptor)
            self._descriptor = descriptor
