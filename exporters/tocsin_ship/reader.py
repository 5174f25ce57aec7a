"""One open file: whole lines from a position on, and the proof that it still is the file it was."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from tocsin_ship.discover import Inode, Log
from tocsin_ship.identity import HEAD, SEAM
from tocsin_ship.lines import MAX_LINE, Block

FINISHED: Final = 5.0
"""Seconds without a write after which the unfinished last line of a rotated file counts as a line."""
_SEARCH: Final = 16 * 1024 * 1024
"""Bytes of an oversized line that are looked through at a time."""


class CutOffError(Exception):
    """The file is not the one that was read: it was truncated."""


@dataclass(slots=True)
class Reader:
    """An open file and where we are in it.

    Args:
        key: its identity.
        path: where it was last seen.
        live: it stands at the path that is written to.
        offset: bytes read.
        acked: bytes that the sink has.
        buffer: room for `MAX_LINE + 1` bytes, shared: fresh memory for each read would cost more than the reading.
    """

    descriptor: int
    inode: Inode
    key: str
    log: Log
    path: str
    live: bool
    offset: int
    acked: int
    buffer: bytearray
    head: bytes = b""
    """The first line, or its beginning."""
    seam: bytes = b""
    """The last bytes before `offset`."""
    size: int = 0
    mtime: float = 0.0
    gone: bool = False
    """No path of its log leads to it any more."""
    searched: int = 0
    """Up to where an oversized line has been looked through for its end."""

    def __post_init__(self) -> None:
        first = os.pread(self.descriptor, HEAD, 0)
        self.head = first[: first.find(b"\n") + 1] or first
        self.seam = os.pread(self.descriptor, min(SEAM, self.offset), max(0, self.offset - SEAM))
        self._look()

    def check(self) -> None:
        """Look at the file again.

        Raises:
            CutOffError: it was truncated.
            OSError: it cannot be read.
        """
        self._look()
        for part, offset in ((self.head, 0), (self.seam, self.offset - len(self.seam))):
            if os.pread(self.descriptor, len(part), offset) != part:
                raise CutOffError

    def next_block(self, limit: int, now: float) -> Block | None:
        """Return the whole lines that follow, at most `limit` bytes unless one line is longer; None if there is none.

        Raises:
            CutOffError: the file was truncated.
            OSError: it cannot be read.
        """
        limit = max(limit, HEAD)
        self._look()
        if self.size == self.offset:
            return None
        size = self._fill(limit)
        end = self.buffer.rfind(b"\n", 0, size) + 1
        if not end and size >= limit:
            size = self._fill(MAX_LINE + 1)
            end = self.buffer.find(b"\n", 0, size) + 1
            if not end and size > MAX_LINE:
                return self._oversized(now)
        if end:
            return self._block(self._bytes(end), self.offset + end)
        if self._may_grow(now):
            return None  # the line is still being written
        return self._block(self._bytes(size), self.offset + size, newline=b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def _look(self) -> None:
        status = os.fstat(self.descriptor)
        self.size, self.mtime = status.st_size, status.st_mtime

    def _may_grow(self, now: float) -> bool:
        return self.live or now - self.mtime < FINISHED

    def _fill(self, limit: int) -> int:
        """Read what follows the position into the buffer and return how much that is.

        The seam is read in the same call: nothing can happen to the file between the proof and the lines.
        """
        seam = bytearray(len(self.seam))
        with memoryview(self.buffer) as buffer, buffer[:limit] as room:
            size = os.preadv(self.descriptor, [seam, room], self.offset - len(seam)) - len(seam)
        same = seam == self.seam if self.offset else size >= len(self.head) and self.buffer.startswith(self.head)
        if size <= 0 or not same:
            raise CutOffError
        return size

    def _bytes(self, size: int) -> bytes:
        with memoryview(self.buffer) as buffer:
            return bytes(buffer[:size])

    def _oversized(self, now: float) -> Block | None:
        """Look for the end of a line that is longer than allowed, a bounded piece at a time."""
        head = self._bytes(MAX_LINE)
        self.searched = max(self.searched, self.offset + MAX_LINE)
        for _ in range(_SEARCH // MAX_LINE):
            piece = os.pread(self.descriptor, MAX_LINE, self.searched)
            if end := piece.find(b"\n") + 1:
                return self._cut_block(head, self.searched + end)
            if not piece:
                return None if self._may_grow(now) else self._cut_block(head, self.searched)
            self.searched += len(piece)
        return None

    def _cut_block(self, head: bytes, end: int) -> Block:
        seam = os.pread(self.descriptor, SEAM, end - SEAM)
        return self._block(head, end, newline=b"\n", truncated=True, seam=seam)

    def _block(
        self, data: bytes, end: int, *, newline: bytes = b"", truncated: bool = False, seam: bytes | None = None
    ) -> Block:
        self.seam = (self.seam + data[-SEAM:])[-SEAM:] if seam is None else seam
        start, self.offset, self.searched = self.offset, end, 0
        return Block(
            key=self.key,
            path=self.path,
            input=self.log.input,
            service=self.log.service,
            start=start,
            end=end,
            data=data + newline if newline else data,
            truncated=truncated,
            seam=self.seam,
        )
