"""A model of everything that happens to a log: whatever the order, each line comes out exactly once."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tocsin_ship.checkpoint import Checkpoint
from tocsin_ship.config import FileInput
from tocsin_ship.lines import Block, separate
from tocsin_ship.tail import Tail


class Rotation(RuleBasedStateMachine):
    """An application writes; rotation renames and copies; a sink is slow; the shipper stops and is killed."""

    @initialize(header=st.booleans())
    def begin(self, header: bool) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.log = self.folder / "app.log"
        self.header = header
        self.written = 0
        self.sent: dict[str, bytes] = {}
        self.flying: list[Block] = []
        self.start()

    def start(self) -> None:
        self.checkpoint = Checkpoint.load(self.folder / "positions", host="host")
        self.tail = Tail([FileInput(path=self.log)], self.checkpoint, read_size=64)
        self.scan()

    @rule(count=st.integers(1, 8))
    def write(self, count: int) -> None:
        with self.log.open("a") as file:
            if self.header and file.tell() == 0:
                file.write("# the same header in each file\n")
            for _ in range(count):
                file.write(f'{{"n":{self.written}}}\n')
                self.written += 1

    @rule(lines=st.integers(0, 3))
    def rename(self, lines: int) -> None:
        """The application may go on writing to the old file for a moment."""
        if self.log.exists():
            self._shift()
            old = self.folder / "app.log.1"
            self.log.rename(old)
            with old.open("a") as file:
                for _ in range(lines):
                    file.write(f'{{"n":{self.written}}}\n')
                    self.written += 1

    @rule()
    def copytruncate(self) -> None:
        if self.log.exists():
            self._shift()
            shutil.copy(self.log, self.folder / "app.log.1")
            os.truncate(self.log, 0)

    @rule()
    def scan(self) -> None:
        self.tail.scan(time.time())
        self.save()

    @rule(times=st.integers(1, 5))
    def take(self, times: int) -> None:
        for _ in range(times):
            blocks = self.tail.take(time.time())
            self.flying += blocks
            for block in blocks:
                for line in separate(block, now=0.0):
                    assert self.sent.setdefault(line.id, line.data) == line.data, "one id for two lines"

    @rule(part=st.floats(0, 1))
    def settle(self, part: float) -> None:
        count = round(part * len(self.flying))
        for block in self.flying[:count]:
            self.tail.settle(block, time.time())
        del self.flying[:count]

    @rule()
    def save(self) -> None:
        self.checkpoint.save(now=time.time())

    @rule()
    def restart(self) -> None:
        self.save()
        self.kill()

    @rule()
    def kill(self) -> None:
        self.tail.close()
        self.flying.clear()
        self.start()

    def teardown(self) -> None:
        if not hasattr(self, "tail"):
            return
        try:
            for _ in range(3):
                self.scan()
                self.take(400)
            numbers = [data for data in self.sent.values() if data.startswith(b'{"n"')]
            expected = [b'{"n":%d}' % n for n in range(self.written)]
            assert set(numbers) == set(expected), "a line is lost"
            # Files that begin with the same line cannot always be told apart after a crash.
            assert self.header or len(numbers) == len(expected), "a line has two ids"
        finally:
            self.tail.close()
            shutil.rmtree(self.folder)

    def _shift(self) -> None:
        old = sorted(self.folder.glob("app.log.*"), key=lambda path: -int(path.suffix[1:]))
        for path in old:
            path.rename(path.with_suffix(f".{int(path.suffix[1:]) + 1}"))


Rotation.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestRotation = Rotation.TestCase
