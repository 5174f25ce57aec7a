"""The cells of one process as bytes that other processes can read while they change.

A segment is a header and records that are only ever appended. A record describes a metric, a series of it with its
cells, or the exemplars of a series. Cells change in place, eight aligned bytes at a time; a new record counts once
`used` in the header covers it. So a reader needs no lock, and a process killed at any instant leaves nothing half done.

    header   magic · used (bytes) · pid · start · identity · removals · numbers about the process · spare cells
    record   size · checksum of the description · kind · state · length of the description | description | cells
"""

from __future__ import annotations

import gc
import json
import re
import struct
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import mmap
from typing import Any, Final, NamedTuple, cast
from zlib import crc32

MAGIC: Final = int.from_bytes(b"tocsin01", "little")
HEADER: Final = 4096
"""Bytes."""
FIRST: Final = 1 << 16
"""Bytes of a new segment."""

# Words (eight bytes) of the header.
_MAGIC, _USED, PID, STARTED, IDENTITY, _REMOVALS = range(6)
# Cells of the header: numbers about the process that owns the segment; a base adds up those of dead processes.
CPU, STARTS, OLDEST, LOST, ZERO = range(6, 11)
"""CPU seconds last seen, 1 if it is a worker, start in Unix seconds, series without room; always 0."""
SPARE: Final = 64
"""First of the spare cells of the header, where numbers go that found no room."""
SPARE_CELLS: Final = HEADER // 8 - SPARE

_RECORD = struct.Struct("<IIHHI")
_STATE = 10
"""Where in a record its state stands."""
METRIC, SERIES, EXEMPLARS, FOLDED = range(1, 5)
_REMOVED = 1
_CHECKSUM = struct.Struct("<I")
_SLOT = struct.Struct("<Id")
"""What an exemplar begins with after the checksum of it all: length of its text, Unix seconds."""
_SLOT_SIZE = _CHECKSUM.size + _SLOT.size

_SEPARATOR, _ESCAPE = "\x1f", "\x1e"
_MARKS = re.compile(f"[{_SEPARATOR}{_ESCAPE}]")

Buffer = mmap | bytearray


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector away: a finalizer of the application's may count, and so append to what is half done.

    Only where something is appended, which happens once for each series.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class SegmentError(ValueError):
    """These bytes are no segment, or one of another version."""


class Entry(NamedTuple):
    """One series of a segment."""

    family: str
    """The metric, as the text it was described with: the same for every process."""
    labels: tuple[str, ...]
    first: int
    """Its first cell."""
    size: int
    """How many cells it has."""
    offset: int
    """Where its record begins, in bytes."""


@dataclass(frozen=True, slots=True)
class Examples:
    """The exemplars of a series: as many slots as it has buckets."""

    index: int
    """First of the cells that say when each was written, in Unix seconds; 0: there is none."""
    slots: int
    """Where the slots begin, in bytes."""
    width: int
    """Bytes of a slot."""
    count: int


class Segment:
    """A segment that is written by this process.

    Args:
        grow: returns a buffer of at least this many bytes that begins with everything written before.

    Raises:
        OSError: there is no room for a file of this size; everything written stays as it is.
    """

    def __init__(self, grow: Callable[[int], Buffer], pid: int, started: int, identity: int) -> None:
        self._grow = grow
        self._metrics: dict[str, int] = {}
        self._series: dict[int, tuple[int, int]] = {}
        """Where the record of a series begins in bytes, and how many cells it has, by the first of them."""
        self._examples: dict[int, Examples] = {}
        self._map(FIRST)
        self._used = HEADER
        self._words[PID], self._words[STARTED], self._words[IDENTITY] = pid, started, identity
        self._words[_USED] = HEADER
        self._words[_MAGIC] = MAGIC

    def _map(self, size: int) -> None:
        self._buffer = self._grow(size)
        self._room = len(self._buffer)
        view = memoryview(self._buffer)
        # A memoryview is no MutableSequence by name, but all of it that is needed.
        self.cells = cast("MutableSequence[float]", view.cast("d"))
        self._words = view.cast("Q")

    @property
    def data(self) -> Buffer:
        """What was written, and room for more behind it."""
        return self._buffer

    def move(self, grow: Callable[[int], Buffer], identity: int) -> None:
        """Go on in another buffer, with everything written until now.

        Raises:
            OSError: there is no room there; then nothing has changed.
        """
        buffer = grow(self._room)
        buffer[: self._room] = bytes(self._buffer)
        self._grow = lambda _size: buffer
        self._map(self._room)
        self._grow = grow
        self._words[IDENTITY] = identity

    def add(self, family: str, labels: tuple[str, ...], size: int) -> int:
        """Append a series with so many cells, all 0, and return the index of the first."""
        number = self._metrics.get(family)
        if number is None:
            self._append(METRIC, family.encode("utf-8", "surrogatepass"), 0)
            number = self._metrics[family] = len(self._metrics)
        offset = self._used
        index = self._append(SERIES, _joined(number, labels), size)
        self._series[index] = (offset, size)
        return index

    def remove(self, index: int, *, removed: bool = True) -> None:
        """Take the series that begins at this cell off all pages, or bring it back."""
        if index not in self._series:  # one that found no room
            return
        offset, _ = self._series[index]
        self._buffer[offset + _STATE] = _REMOVED if removed else 0
        self._words[_REMOVALS] += 1

    def folded(self, names: list[str]) -> None:
        """Append the names of the segments whose numbers are in this one."""
        self._append(FOLDED, _text(names), 0)

    def exemplify(self, index: int, slot: int, at: float, payload: bytes, width: int) -> None:
        """Keep an example in a slot of the series that begins at this cell; it has as many slots as cells.

        Args:
            index: first cell of the series; one that is not known is passed over.
            slot: the number of the slot, from 0 on.
            at: Unix seconds.
            payload: what is kept; left out if longer than `width` bytes.
            width: room of each slot in bytes, which the first example of a series decides.
        """
        examples = self._examples.get(index)
        if examples is None:
            if index not in self._series:
                return
            count = self._series[index][1]
            width = _SLOT_SIZE + -(-width // 8) * 8
            with undisturbed():
                cells = self._append(EXEMPLARS, _text([index, count, width]), count + count * width // 8)
                examples = self._examples[index] = Examples(cells, (cells + count) * 8, width, count)
        if len(payload) > examples.width - _SLOT_SIZE or not 0 <= slot < examples.count:
            return
        rest = _SLOT.pack(len(payload), at) + payload
        start = examples.slots + slot * examples.width
        self._buffer[start : start + 4 + len(rest)] = _CHECKSUM.pack(crc32(rest)) + rest
        self.cells[examples.index + slot] = at

    def _append(self, kind: int, description: bytes, cells: int) -> int:
        """Append a record and return the index of its first cell."""
        padded = -(-len(description) // 8) * 8
        size = _RECORD.size + padded + cells * 8
        start = self._used
        end = self._used = start + size  # taken first: a signal handler may append in the middle of this
        if end > self._room:
            try:
                self._map(max(self._room + self._room // 2 // FIRST * FIRST, -(-end // FIRST) * FIRST))
            except OSError:
                self._used = start
                raise
        body = start + _RECORD.size
        self._buffer[body : body + len(description)] = description
        self._buffer[start:body] = _RECORD.pack(size, crc32(description), kind, 0, len(description))
        self._words[_USED] = self._used
        return (body + padded) // 8


class View:
    """A segment as another process reads it. What was read of its descriptions stays known; cells are as they are."""

    def __init__(self, remap: Callable[[], Buffer]) -> None:
        """Read a segment.

        Args:
            remap: returns its bytes as many as they are now.

        Raises:
            SegmentError: they are no segment.
        """
        self._remap = remap
        self._buffer: Buffer = bytearray()
        self._metrics: list[str] = []
        self._map()
        if self._room < HEADER or self._words[_MAGIC] != MAGIC:
            raise SegmentError(f"no segment of this version in {self._room} bytes")
        self.pid, self.started, self.identity = (self._words[word] for word in (PID, STARTED, IDENTITY))
        self.entries: list[Entry] = []
        self.examples: dict[int, Examples] = {}
        """By the first cell of the series."""
        self.folded: frozenset[str] = frozenset()
        self._read = HEADER
        self.refresh()

    def _map(self) -> None:
        self._buffer = self._remap()
        self._room = len(self._buffer)
        view = memoryview(self._buffer)[: self._room // 8 * 8]
        self.cells = view.cast("d")
        self._words = view.cast("Q")

    @property
    def version(self) -> tuple[int, int, int]:
        """What changes when entries or exemplars come, or are removed."""
        return self.identity, self._read, self._words[_REMOVALS]

    def refresh(self) -> None:
        """Read the descriptions that came since."""
        used = self._words[_USED]
        if used > self._room:
            self._map()
        start, end = self._read, min(used, self._room)
        if start < end:
            data = bytes(self._buffer[start:end])
            offset = 0
            while offset < len(data):
                size = self._record(data, offset, start)
                if not size:  # damaged, or on its way through the caches of the machine: looked at again next time
                    break
                offset += size
            self._read = start + offset

    def removed(self, entry: Entry) -> bool:
        """Whether the process took this series off its page."""
        return self._buffer[entry.offset + _STATE] == _REMOVED

    def example(self, examples: Examples, slot: int) -> bytes | None:
        """Return what is kept in a slot, or None if it is being written at this moment."""
        start = examples.slots + slot * examples.width
        data = bytes(self._buffer[start : start + examples.width])
        (checksum,), (length, _) = _CHECKSUM.unpack_from(data), _SLOT.unpack_from(data, _CHECKSUM.size)
        end = _SLOT_SIZE + length
        return data[_SLOT_SIZE:end] if end <= len(data) and crc32(data[4:end]) == checksum else None

    def _record(self, data: bytes, offset: int, start: int) -> int:
        """Read the record at an offset of the data, which begins at `start`; return its size, 0 if it is none."""
        body = offset + _RECORD.size
        if body > len(data):
            return 0
        size, checksum, kind, _, length = _RECORD.unpack_from(data, offset)
        description = data[body : body + length]
        if size < _RECORD.size + length or size % 8 or offset + size > len(data) or crc32(description) != checksum:
            return 0
        first = (start + body + length + 7) // 8
        cells = (start + offset + size) // 8 - first
        if kind == SERIES:
            number, labels = _split(description)
            self.entries.append(Entry(self._metrics[number], labels, first, cells, start + offset))
        elif kind == METRIC:
            self._metrics.append(description.decode("utf-8", "surrogatepass"))
        elif kind == EXEMPLARS:
            index, count, width = json.loads(description)
            self.examples[index] = Examples(first, (first + count) * 8, width, count)
        elif kind == FOLDED:
            self.folded = frozenset(json.loads(description))
        return int(size)

    def __iter__(self) -> Iterator[Entry]:
        """Return the series that are on the page."""
        return iter(
            [entry for entry in self.entries if not self.removed(entry)] if self._words[_REMOVALS] else self.entries
        )


def in_memory(pid: int = 0, started: int = 0, identity: int = 0) -> Segment:
    """Return a segment that is not in a file yet: `bytes(segment.data)` is what to write."""
    held = bytearray()

    def grow(size: int) -> Buffer:
        nonlocal held
        held = held + bytes(size - len(held))  # another object: views of the old one forbid to resize it
        return held

    return Segment(grow, pid, started, identity)


def _joined(number: int, labels: tuple[str, ...]) -> bytes:
    """Return a number and texts as one text: several times faster to take apart than JSON, and a page reads many."""
    text = _SEPARATOR.join((str(number), *labels))
    if text.count(_SEPARATOR) > len(labels) or _ESCAPE in text:
        text = _SEPARATOR.join((str(number), *(_MARKS.sub(_escape, label) for label in labels)))
    return text.encode("utf-8", "surrogatepass")


def _split(description: bytes) -> tuple[int, tuple[str, ...]]:
    text = description.decode("utf-8", "surrogatepass")
    number, *labels = text.split(_SEPARATOR)
    if _ESCAPE in text:
        labels = [label.replace(_ESCAPE + "s", _SEPARATOR).replace(_ESCAPE + "e", _ESCAPE) for label in labels]
    return int(number), tuple(labels)


def _escape(mark: re.Match[str]) -> str:
    return _ESCAPE + ("s" if mark[0] == _SEPARATOR else "e")


def _text(description: list[Any]) -> bytes:
    return json.dumps(description, separators=(",", ":")).encode()
