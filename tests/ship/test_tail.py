"""Files are followed without losing or repeating a line, whatever rotation does to them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tocsin_ship.checkpoint import Checkpoint
from tocsin_ship.config import FileInput
from tocsin_ship.lines import MAX_LINE, Block
from tocsin_ship.tail import Tail


class Log:
    """A folder with logs, and a tail that is stepped by hand; `now` is real because files carry real times."""

    def __init__(self, folder: Path, pattern: str = "app.log") -> None:
        self.folder = folder
        self.path = folder / "app.log"
        self.inputs = (FileInput(path=folder / pattern),)
        self.positions = folder / "state" / "positions.json"
        self.positions.parent.mkdir()
        self.later = 0.0
        self.tail = self._open()

    def _open(self, read_size: int = 1 << 20) -> Tail:
        self.checkpoint = Checkpoint.load(self.positions, host="host")
        return Tail(self.inputs, self.checkpoint, read_size=read_size)

    @property
    def now(self) -> float:
        return time.time() + self.later

    def write(self, *lines: str, to: str = "app.log", end: str = "\n") -> None:
        with (self.folder / to).open("a") as file:
            file.write("".join(line + "\n" for line in lines[:-1]) + lines[-1] + end)

    def blocks(self, *, settle: bool = True) -> list[Block]:
        """Look and take until nothing is new."""
        found: list[Block] = []
        self.tail.scan(self.now)
        # The take that notices a cut may be empty.
        while blocks := self.tail.take(self.now) or self.tail.take(self.now):
            found += blocks
            for block in blocks:
                if settle:
                    self.tail.ack(block)
                    self.tail.settle(block, self.now)
        return found

    def read(self, *, settle: bool = True) -> list[str]:
        return b"".join(block.data for block in self.blocks(settle=settle)).decode().splitlines()

    def restart(self, *, crash: bool = False) -> None:
        if not crash:
            self.checkpoint.save(now=self.now)
        self.tail.close()
        self.tail = self._open()

    def copytruncate(self, to: str = "app.log.1") -> None:
        shutil.copy(self.path, self.folder / to)
        os.truncate(self.path, 0)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path)
    yield log
    log.tail.close()


def test_lines_come_once_and_in_order(log: Log) -> None:
    """What was there at the start, and what is added."""
    log.write("one", "two")
    assert log.read() == ["one", "two"]
    assert log.read() == []
    log.write("three")
    assert log.read() == ["three"]


def test_a_line_waits_until_it_is_complete(log: Log) -> None:
    """A writer may be in the middle of it."""
    log.write("one", "tw", end="")
    assert log.read() == ["one"]
    log.write("o")
    assert log.read() == ["two"]


def test_a_file_may_appear_later(log: Log) -> None:
    """It is found by the next look."""
    assert log.read() == []
    log.write("one")
    assert log.read() == ["one"]


def test_a_restart_goes_on_at_the_settled_position(log: Log) -> None:
    """Settled lines do not come again."""
    log.write("one", "two")
    log.read()
    log.restart()
    log.write("three")
    assert log.read() == ["three"]


def test_lines_that_were_not_settled_come_again_after_a_restart(log: Log) -> None:
    """Reading alone moves nothing."""
    log.write("one")
    log.read()
    log.write("two")
    assert log.read(settle=False) == ["two"]
    assert log.read() == []
    log.restart()
    assert log.read() == ["two"]


def test_a_renamed_file_is_read_to_its_end_before_the_new_one(log: Log) -> None:
    """The writer may add to the old file until it opens the new one."""
    log.write("one")
    assert log.read() == ["one"]
    log.path.rename(log.folder / "app.log.1")
    log.write("two", to="app.log.1")
    log.write("three")
    assert log.read() == ["two", "three"]
    log.write("late", to="app.log.1")
    assert log.read() == ["late"]


def test_two_rotations_while_stopped_lose_nothing(log: Log) -> None:
    """The rest of the known file, all of one that was never seen, and the live one."""
    log.write("one", "two")
    log.read()
    log.restart()
    log.write("three")
    log.path.rename(log.folder / "app.log.2")
    log.write("four", "five")
    log.path.rename(log.folder / "app.log.1")
    log.write("six")
    assert log.read() == ["three", "four", "five", "six"]
    assert log.read() == []


def test_rotated_files_from_before_the_start_are_left_alone(log: Log) -> None:
    """Adding a log ships the live file, not its history."""
    log.write("ancient", to="app.log.1")
    os.utime(log.folder / "app.log.1", (1_000_000_000, 1_000_000_000))
    log.write("one")
    assert log.read() == ["one"]
    log.restart()
    assert log.read() == []


def test_copytruncate_between_two_looks_loses_nothing(log: Log) -> None:
    """What was written since the last look is read from the copy."""
    log.write("one")
    assert log.read() == ["one"]
    log.write("two")
    log.copytruncate()
    log.write("three")
    assert log.read() == ["two", "three"]
    assert log.read() == []


def test_copytruncate_is_noticed_when_the_file_is_longer_than_before(log: Log) -> None:
    """Size alone does not tell; the bytes before our position do."""
    log.write("one")
    log.read()
    log.copytruncate()
    log.write("a line that is longer than all that was there", "two")
    assert log.read() == ["a line that is longer than all that was there", "two"]


def test_copytruncate_while_stopped(log: Log) -> None:
    """The copy goes on at the old position, the live file starts anew."""
    log.write("one")
    log.read()
    log.restart()
    log.write("two")
    log.copytruncate()
    log.write("three")
    assert sorted(log.read()) == ["three", "two"]
    assert log.read() == []


def test_a_copy_that_missed_the_last_lines_does_not_come_again(log: Log) -> None:
    """Lines that we read after the copy was made and before the cut."""
    log.write("one", "two")
    shutil.copy(log.path, log.folder / "app.log.1")
    log.write("three")
    assert log.read() == ["one", "two", "three"]
    os.truncate(log.path, 0)
    log.write("four")
    assert log.read() == ["four"]
    log.restart()
    assert log.read() == []


def test_lines_under_way_are_not_read_again_from_the_copy(log: Log) -> None:
    """They were taken from the live file and are still with the sink when it is cut off."""
    log.write("one")
    log.read()
    log.write("two")
    assert log.read(settle=False) == ["two"]
    log.copytruncate()
    log.write("three")
    assert log.read(settle=False) == ["three"]
    log.restart()
    assert sorted(log.read()) == ["three", "two"]


def test_a_copy_of_the_live_file_is_not_read(log: Log) -> None:
    """Somebody made a backup."""
    log.write("one", "two")
    assert log.read() == ["one", "two"]
    shutil.copy(log.path, log.folder / "app.log.bak")
    log.write("three")
    assert log.read() == ["three"]
    log.restart()
    assert log.read() == []


def test_files_with_the_same_header_have_different_ids(log: Log) -> None:
    """A first line that is always the same must not make the second file look delivered."""
    log.write("# header", "one")
    first = log.blocks()
    log.path.rename(log.folder / "app.log.1")
    log.write("# header", "two")
    second = log.blocks()
    assert [block.data for block in second] == [b"# header\ntwo\n"]
    assert first[0].key != second[0].key
    log.restart()
    assert log.read() == []


def test_the_same_header_after_copytruncate(log: Log) -> None:
    """The bytes before the position differ, so it is another file."""
    log.write("# header", "one", "two")
    log.read()
    log.copytruncate()
    log.write("# header", "three", "four", "five", "six")
    assert log.read() == ["# header", "three", "four", "five", "six"]
    assert log.read() == []


def test_a_deleted_file_is_drained(log: Log) -> None:
    """It is open; its lines are still there."""
    log.write("one")
    log.read()
    log.write("two")
    log.path.unlink()
    log.write("three")
    assert sorted(log.read()) == ["three", "two"]


def test_a_deleted_file_is_let_go_when_it_is_delivered(log: Log) -> None:
    """Its disk space is free again half a minute after its last line."""
    log.write("one")
    log.read()
    log.path.unlink()
    log.later = 60
    log.tail.scan(log.now)
    assert log.tail.view() == []


def test_a_file_saved_by_an_editor_does_not_come_again(log: Log) -> None:
    """It has the same lines under another inode."""
    log.write("one", "two")
    log.read()
    shutil.copy(log.path, log.folder / "new")
    (log.folder / "new").replace(log.path)
    log.write("three")
    assert log.read() == ["three"]


def test_the_unfinished_last_line_of_a_rotated_file_is_read(log: Log) -> None:
    """Its writer is gone; nobody will finish it."""
    log.write("one", "half", end="")
    assert log.read() == ["one"]
    log.path.rename(log.folder / "app.log.1")
    log.write("two")
    assert log.read() == ["two"]
    log.later = 10
    (block,) = log.blocks()
    assert (block.data, block.end) == (b"half\n", 8)
    assert log.read() == []


def test_compressed_files_are_not_read(log: Log) -> None:
    """Rotation may compress what we have read already."""
    log.write("one")
    log.read()
    (log.folder / "app.log.1.gz").write_bytes(b"\x1f\x8b\x08\0 not a line\n")
    assert log.read() == []


def test_a_pattern_that_matches_rotated_files_too(tmp_path: Path) -> None:
    """`app*` finds the rotated file by itself; it still belongs to its log."""
    log = Log(tmp_path, "app*")
    log.write("one", to="app.log.1")
    log.write("two")
    assert sorted(log.read()) == ["one", "two"]
    (tmp_path / "app.log.1").rename(tmp_path / "app.log.2")
    log.path.rename(tmp_path / "app.log.1")
    log.write("three")
    assert log.read() == ["three"]
    log.tail.close()


def test_a_line_longer_than_allowed_is_cut(log: Log) -> None:
    """One block holds its beginning; the next line is whole."""
    log.write("x" * (MAX_LINE * 3), "next")
    first, second = log.blocks()
    assert first.truncated
    assert len(first.data) == MAX_LINE + 1
    assert first.end == MAX_LINE * 3 + 1
    assert second.data == b"next\n"


def test_a_long_line_waits_for_its_end(log: Log) -> None:
    """It may still be growing; nothing of it is sent before."""
    log.write("x" * (MAX_LINE * 2), end="")
    assert log.blocks() == []
    log.write("x")
    (block,) = log.blocks()
    assert block.truncated


def test_a_line_of_just_the_limit_is_whole(log: Log) -> None:
    """It is larger than a block is read."""
    log.write("x" * MAX_LINE, "next")
    assert [len(line) for line in log.read()] == [MAX_LINE, 4]


def test_an_unreadable_file_is_named(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so in the status, and is read once that is mended."""
    log.write("one")
    really_open = os.open

    def refuse(path: str, *args: int) -> int:
        if str(path).endswith("app.log"):
            raise PermissionError(13, "Permission denied")
        return really_open(path, *args)

    with monkeypatch.context() as patch:  # the tests may run as root, whom no permission stops
        patch.setattr(os, "open", refuse)
        assert log.read() == []
        assert log.tail.unreadable == {str(log.path): "Permission denied"}
    assert log.read() == ["one"]
    assert log.tail.unreadable == {}


def test_broken_positions_are_set_aside(log: Log) -> None:
    """Lines are sent again rather than skipped."""
    log.write("one")
    log.read()
    log.restart()
    log.positions.write_text('{"version": 1, "ho')
    log.restart(crash=True)
    assert log.read() == ["one"]
    assert log.positions.with_suffix(".broken").exists()


def test_view_shows_what_is_delivered(log: Log) -> None:
    """Position counts acknowledged bytes, size what is there."""
    log.write("one")
    log.read()
    log.write("two")
    log.read(settle=False)
    (view,) = log.tail.view()
    assert (view.size, view.position) == (8, 4)
