"""Follows files: whole lines in blocks, from where each was left, over rotation, copytruncate and restarts.

The file is the spool: reading moves nothing on disk. `ack` and `settle` say what an output has done with a block, and
only `settle` moves the position that a restart begins at. All methods may block on the disk and belong into one thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tocsin_service import telemetry
from tocsin_ship import discover, identity
from tocsin_ship.checkpoint import Checkpoint
from tocsin_ship.config import FileInput
from tocsin_ship.discover import Inode, Seen
from tocsin_ship.identity import SEAM, Follow, Position
from tocsin_ship.lines import MAX_LINE, Block
from tocsin_ship.reader import FINISHED, CutOffError, Reader

_READ: Final = 256 * 1024
_REST: Final = 30.0
"""Seconds without a write after which a rotated file that is delivered is closed."""
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")


@dataclass(frozen=True, slots=True)
class View:
    """A file as the status page shows it; `position` counts the bytes delivered."""

    input: str
    path: str
    size: int
    position: int


@dataclass(slots=True)
class _Resting:
    """A file that needs no reading as long as it does not change. `key` is empty where it is none of ours."""

    size: int
    mtime: float
    path: str
    key: str = ""


class Tail:
    """The files of one output.

    Args:
        read_size: bytes that one `take` returns at most, give or take a line.
    """

    def __init__(self, inputs: Sequence[FileInput], checkpoint: Checkpoint, *, read_size: int) -> None:
        self._inputs = inputs
        self._checkpoint = checkpoint
        self._read_size = read_size
        self._buffer = bytearray(MAX_LINE + 1)
        self._files: dict[Inode, Reader] = {}
        self._resting: dict[Inode, _Resting] = {}
        self._read_to: dict[str, Position] = {}
        self._unreadable: dict[str, str] = {}
        self._turn = 0
        self._log = telemetry.logger("tocsin.ship")

    @property
    def unreadable(self) -> dict[str, str]:
        """Paths that cannot be read, and why."""
        return dict(self._unreadable)

    def scan(self, now: float) -> None:
        """Look which files there are: open new ones, close finished ones."""
        for item in self._inputs:
            self._checkpoint.inputs.setdefault(str(item.path), now)
        seen = discover.files(self._inputs)
        self._update(seen)
        self._discover(seen, now)
        self._close_finished(now)
        self._tidy(seen, now)

    def take(self, now: float) -> list[Block]:
        """Return the next lines, in the order of each log; an empty list if nothing is new."""
        blocks: list[Block] = []
        left = self._read_size
        for file in self._in_turn():
            while left > 0 and (block := self._next_block(file, min(left, _READ), now)):
                blocks.append(block)
                left -= len(block.data)
        self._turn += 1
        return blocks

    def ack(self, block: Block) -> None:
        """Note that the sink has `block`."""
        for file in self._files.values():
            if file.key == block.key:
                file.acked = max(file.acked, block.end)

    def settle(self, block: Block, now: float) -> None:
        """Note that `block` never has to be sent again."""
        known = self._checkpoint.positions.get(block.key)
        self._checkpoint.positions[block.key] = Position(
            path=block.path,
            offset=block.end,
            seam=len(block.seam),
            mark=identity.mark(block.seam),
            truncated=known is not None and known.truncated,
            seen=now,
        )

    def rewind(self) -> None:
        """Forget what was read and begin again at the settled positions."""
        self.close()
        self._resting.clear()
        self._read_to.clear()

    def view(self) -> list[View]:
        """Return the files that are open."""
        return [View(file.log.input, file.path, file.size, min(file.acked, file.size)) for file in self._files.values()]

    def close(self) -> None:
        """Close all files."""
        for inode in list(self._files):
            self._drop(inode)

    # --- which files ------------------------------------------------------------------------------------------

    def _update(self, seen: dict[Inode, Seen]) -> None:
        for inode, file in list(self._files.items()):
            item = seen.get(inode)
            file.gone = item is None
            file.live = item is not None and item.live
            if item is not None:
                file.path = item.path
            try:
                # Before new files are judged: a copy must not be compared with an original that is another file now.
                file.check()
            except CutOffError:
                self._cut_off(file)
            except OSError as error:
                self._cannot_read(file.path, error)
                self._drop(inode)

    def _discover(self, seen: dict[Inode, Seen], now: float) -> None:
        new = [
            (inode, item)
            for inode, item in seen.items()
            if inode not in self._files and not self._is_resting(inode, item)
        ]
        # The live file first; of copies the longest, which is the one that a position fits.
        for inode, item in sorted(new, key=lambda pair: (not pair[1].live, -pair[1].size)):
            self._resting.pop(inode, None)
            try:
                self._consider(inode, item, now)
                self._unreadable.pop(item.path, None)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._cannot_read(item.path, error)

    def _is_resting(self, inode: Inode, item: Seen) -> bool:
        resting = self._resting.get(inode)
        return resting is not None and (resting.size, resting.mtime) == (item.size, item.mtime)

    def _consider(self, inode: Inode, item: Seen, now: float) -> None:
        descriptor = os.open(item.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        keep = False
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != inode:
                return  # renamed under us; the next scan finds it
            head = os.pread(descriptor, identity.HEAD, 0)
            if not item.live and head.startswith(_COMPRESSED):
                self._resting[inode] = _Resting(item.size, item.mtime, item.path)
                return
            decision = self._decide(descriptor, item, head, status.st_size, now)
            if isinstance(decision, Follow):
                self._follow(inode, descriptor, item, decision, now)
                keep = True
            elif decision.forever:
                self._resting[inode] = _Resting(item.size, item.mtime, item.path)
        finally:
            if not keep:
                os.close(descriptor)

    def _decide(self, descriptor: int, item: Seen, head: bytes, size: int, now: float) -> identity.Decision:
        complete = not item.live and now - item.mtime > FINISHED
        salt = f"{self._checkpoint.host}\0{item.log.path}"
        found = identity.fingerprint(head, salt=salt, complete=complete)
        # What was read by us and is still under way counts as read: it must not be read again from a copy.
        positions = identity.related(found, {**self._checkpoint.positions, **self._read_to}) if found else {}
        since = self._checkpoint.inputs[item.log.input]
        facts = identity.Found(
            fingerprint=found,
            size=size,
            live=item.live,
            recent=item.asked_for or item.mtime >= since,
            matches=frozenset(key for key, position in positions.items() if _fits(descriptor, size, position)),
            same_as=self._same_as(descriptor, size, found) if found and not item.live else frozenset(),
        )
        return identity.decide(facts, positions, self._owned())

    def _owned(self) -> set[str]:
        # A deleted file that has been read to its end may go on under another inode: an editor saved it.
        followed = {file.key for file in self._files.values() if not (file.gone and file.offset == file.size)}
        return followed | {item.key for item in self._resting.values() if item.key}

    def _same_as(self, descriptor: int, size: int, found: str) -> frozenset[str]:
        same = set()
        paths = [(file.key, file.descriptor) for file in self._files.values()]
        for key, other in paths:
            if key.partition("-")[0] == found and _agree(descriptor, other, size):
                same.add(key)
        for item in self._resting.values():
            if item.key.partition("-")[0] == found:
                with contextlib.suppress(OSError), open(item.path, "rb") as file:  # noqa: PTH123
                    if _agree(descriptor, file.fileno(), size):
                        same.add(item.key)
        return frozenset(same)

    def _follow(self, inode: Inode, descriptor: int, item: Seen, decision: Follow, now: float) -> None:
        for other in [file.inode for file in self._files.values() if file.key == decision.key]:
            self._drop(other)
        file = Reader(
            descriptor=descriptor,
            inode=inode,
            key=decision.key,
            log=item.log,
            path=item.path,
            live=item.live,
            offset=decision.offset,
            acked=decision.offset,
            buffer=self._buffer,
        )
        self._files[inode] = file
        # Known from now on, so that its key is not given to another file.
        position = Position(item.path, file.offset, len(file.seam), identity.mark(file.seam), seen=now)
        self._checkpoint.positions.setdefault(decision.key, position)

    def _close_finished(self, now: float) -> None:
        for inode, file in list(self._files.items()):
            position = self._checkpoint.positions[file.key]
            if file.live or position.offset < file.size or now - file.mtime < _REST:
                continue
            if not file.gone:
                self._resting[inode] = _Resting(file.size, file.mtime, file.path, file.key)
            self._drop(inode)

    def _tidy(self, seen: dict[Inode, Seen], now: float) -> None:
        self._resting = {inode: item for inode, item in self._resting.items() if inode in seen}
        for inode, item in self._resting.items():
            item.path = seen[inode].path
        saved = self._checkpoint.positions
        self._read_to = {
            key: position
            for key, position in self._read_to.items()
            if key in saved and saved[key].offset < position.offset
        }
        for key in self._owned():
            position = self._checkpoint.positions.get(key)
            if position is not None and now - position.seen > 3600:
                self._checkpoint.positions[key] = replace(position, seen=now)

    def _cut_off(self, file: Reader) -> None:
        """Take note that `file` was truncated; the next scan finds out what it is now and where its lines went."""
        position = self._checkpoint.positions[file.key]
        self._checkpoint.positions[file.key] = replace(position, truncated=True)
        self._log.info("a log was truncated", path=file.path, position=file.offset)
        self._drop(file.inode)

    def _cannot_read(self, path: str, error: OSError) -> None:
        reason = error.strerror or type(error).__name__
        if self._unreadable.get(path) != reason:
            self._log.error("a log cannot be read", path=path, reason=reason)
        self._unreadable[path] = reason

    def _drop(self, inode: Inode) -> None:
        self._files.pop(inode).close()

    # --- reading ----------------------------------------------------------------------------------------------

    def _in_turn(self) -> Iterable[Reader]:
        """Return the files, oldest first within a log; each time another log begins."""
        logs: dict[str, list[Reader]] = {}
        for file in self._files.values():
            logs.setdefault(file.log.path, []).append(file)
        order = list(logs.values())
        start = self._turn % len(order) if order else 0
        for files in order[start:] + order[:start]:
            yield from sorted(files, key=lambda file: (file.live, file.mtime))

    def _next_block(self, file: Reader, limit: int, now: float) -> Block | None:
        if self._files.get(file.inode) is not file:
            return None  # closed while we went through them
        try:
            block = file.next_block(limit, now)
        except CutOffError:
            self._cut_off(file)
            self.scan(now)
            return None
        except OSError as error:
            self._cannot_read(file.path, error)
            self._drop(file.inode)
            return None
        if block is not None:
            seam = block.seam
            self._read_to[file.key] = Position(file.path, block.end, len(seam), identity.mark(seam))
        return block


def _fits(descriptor: int, size: int, position: Position) -> bool:
    if size < position.offset:
        return False
    seam = os.pread(descriptor, position.seam, position.offset - position.seam)
    return len(seam) == position.seam and identity.mark(seam) == position.mark


def _agree(one: int, other: int, size: int) -> bool:
    """Tell whether two files have the same bytes where the shorter one ends."""
    end = min(size, os.fstat(other).st_size)
    start = max(0, end - SEAM)
    return end > 0 and os.pread(one, end - start, start) == os.pread(other, end - start, start)
