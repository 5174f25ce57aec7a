"""Segments: what one process writes, every other reads, at any instant; and what is left when processes die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.metrics import merge
from tocsin.metrics.described import described, rule_of, text_of
from tocsin.metrics.members import BASE, Members, locked, sweep
from tocsin.metrics.segment import CPU, FIRST, STARTS, Segment, SegmentError, View, in_memory
from tocsin.names import Metric

COUNTER = Metric("orders_total", "counter", "Orders.", ("kind",))
GAUGE = Metric("open_orders", "gauge", "Open.", ())
PEAK = Metric("peak", "gauge", "Highest ever.", (), merge="max_ever")
HIGHEST = Metric("highest", "gauge", "Highest of the living.", (), merge="max")
LOWEST = Metric("lowest", "gauge", "Lowest of the living.", (), merge="min")
SECONDS = Metric("seconds", "histogram", "Seconds.", ("route",), (0.1, 1.0))

labels = st.lists(st.text(st.characters()), max_size=4).map(tuple)
numbers = st.floats(allow_nan=False)


def view_of(segment: Segment) -> View:
    return View(lambda: segment.data)


def everything(views: list[View]) -> dict[tuple[str, tuple[str, ...]], list[float]]:
    return {(s.family, s.labels): s.values for s in merge.Merger(lambda _: True).read(views)}


def put(segment: Segment, metric: Metric, values: list[float], *labels: str) -> int:
    index = segment.add(text_of(metric), labels, len(values))
    for offset, value in enumerate(values):
        segment.cells[index + offset] = value
    return index


@given(
    st.lists(
        st.tuples(st.text(st.characters(), min_size=1), labels, st.lists(numbers, min_size=1, max_size=20)), max_size=30
    )
)
def test_what_is_written_is_read(series: list[tuple[str, tuple[str, ...], list[float]]]) -> None:
    """Any names, labels (separators and half surrogates too) and numbers come back as they were, in order."""
    segment = in_memory(pid=7, started=8, identity=9)
    for family, names, values in series:
        index = segment.add(family, names, len(values))
        for offset, value in enumerate(values):
            segment.cells[index + offset] = value
    view = view_of(segment)
    assert [
        (entry.family, entry.labels, list(view.cells[entry.first : entry.first + entry.size])) for entry in view
    ] == series
    assert (view.pid, view.started, view.identity) == (7, 8, 9)


@given(st.binary(max_size=56), st.floats(min_value=1, max_value=2e9), st.integers(0, 3))
def test_an_exemplar_is_read_whole_or_not_at_all(payload: bytes, at: float, slot: int) -> None:
    """What was kept comes back; a slot in the middle of being written gives nothing instead of a mixture."""
    segment = in_memory()
    index = segment.add("m", (), 4)
    segment.exemplify(index, slot, at, payload, 56)
    view = view_of(segment)
    examples = view.examples[index]
    assert view.example(examples, slot) == payload
    assert view.cells[examples.index + slot] == at
    torn = examples.slots + slot * examples.width + 8
    segment.data[torn : torn + 1] = bytes([segment.data[torn] ^ 1])
    assert view.example(examples, slot) is None


@given(st.binary(max_size=300), st.integers(0, 300))
def test_damaged_descriptions_end_the_reading_and_nothing_else(noise: bytes, where: int) -> None:
    """Whatever bytes stand where a description should, readers show what comes before and do not fail."""
    segment = in_memory()
    put(segment, COUNTER, [3.0], "a")
    good = bytes(segment.data)
    end = view_of(segment).version[1]
    put(segment, COUNTER, [4.0], "b" * 300)
    data = bytearray(segment.data)
    data[end + where : end + where + len(noise)] = noise
    found = everything([View(lambda: data)])
    assert found[text_of(COUNTER), ("a",)] == [3.0]
    assert len(good) == len(data)


@pytest.mark.parametrize("data", [b"", b"tocsin", bytes(FIRST), b"\xff" * FIRST])
def test_what_is_no_segment_is_refused(data: bytes) -> None:
    """Another file, an empty one or one of another version is told apart."""
    with pytest.raises(SegmentError):
        View(lambda: bytearray(data))


def test_readers_follow_a_segment_that_grows(tmp_path: Path) -> None:
    """A segment grows over its first size while others read it, and loses nothing."""
    members = Members(tmp_path / "group", merge.fold)
    segment = members.join(1, 1)
    reader = Members(tmp_path / "group", merge.fold)
    for number in range(3_000):
        put(segment, COUNTER, [float(number)], f"kind {number}")
        if number % 500 == 0:
            found = everything(reader.refresh(fold=False))
            assert len(found) == number + 1
    assert everything(reader.refresh(fold=False))[text_of(COUNTER), ("kind 2999",)] == [2999.0]
    assert len(segment.data) > FIRST


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1000)), max_size=6), min_size=1, max_size=6),
    st.data(),
)
def test_folding_changes_no_sum(processes: list[list[tuple[str, int]]], data: st.DataObject) -> None:
    """However many die, in whatever order and groups: counters of base and living together stay what they were."""
    segments = [in_memory(identity=number) for number, _ in enumerate(processes)]
    for segment, counted in zip(segments, processes, strict=True):
        for kind, amount in dict(counted).items():
            put(segment, COUNTER, [float(amount)], kind)
            put(segment, SECONDS, [1.0, float(amount), 0.0, 2.5], kind)
        segment.cells[STARTS], segment.cells[CPU] = 1.0, 2.0
    views = [view_of(segment) for segment in segments]
    before = everything(views)
    while len(views) > 1 and data.draw(st.booleans()):
        dead = data.draw(st.integers(1, len(views)))
        base = bytearray(merge.fold(views[:dead], ["x"]))
        views = [View(lambda base=base: base), *views[dead:]]  # type: ignore[misc]
        assert everything(views) == before
        assert sum(view.cells[STARTS] for view in views) == len(processes)
        assert sum(view.cells[CPU] for view in views) == 2.0 * len(processes)


def test_gauges_of_the_dead_are_dropped_or_kept_as_their_merge_says() -> None:
    """`sum`, `max` and `min` are over the living; `max_ever` remembers."""
    dead, alive = in_memory(identity=1), in_memory(identity=2)
    for segment, value in ((dead, 9.0), (alive, 2.0)):
        for metric in (GAUGE, PEAK, HIGHEST, LOWEST):
            put(segment, metric, [value if metric is not LOWEST else -value])
    both = everything([view_of(dead), view_of(alive)])
    assert [both[text_of(metric), ()] for metric in (GAUGE, PEAK, HIGHEST, LOWEST)] == [[11.0], [9.0], [9.0], [-9.0]]
    base = bytearray(merge.fold([view_of(dead)], ["dead"]))
    left = everything([View(lambda: base), view_of(alive)])
    assert [left[text_of(metric), ()] for metric in (GAUGE, PEAK, HIGHEST, LOWEST)] == [[2.0], [9.0], [2.0], [-2.0]]


def test_the_newest_exemplar_of_all_workers_is_shown_and_survives_folding() -> None:
    """Of a bucket's exemplars the last one counts, whoever kept it."""
    old, new = in_memory(identity=1), in_memory(identity=2)
    for segment, at, payload in ((old, 10.0, b"old"), (new, 20.0, b"new")):
        segment.exemplify(put(segment, SECONDS, [1.0, 0.0, 0.0, 0.5], "/"), 0, at, payload, 56)
    base = bytearray(merge.fold([view_of(new)], ["new"]))
    for views in ([view_of(old), view_of(new)], [View(lambda: base), view_of(old)]):
        (series,) = merge.Merger(lambda _: True).read(views)
        assert {slot: (example.at, example.payload) for slot, example in series.examples.items()} == {0: (20.0, b"new")}


def test_removed_series_are_on_no_page_until_they_come_back() -> None:
    """What a process takes off its page is not read, nor folded."""
    segment = in_memory()
    index = put(segment, COUNTER, [1.0], "a")
    merger = merge.Merger(lambda _: True)
    view = view_of(segment)
    assert len(list(merger.read([view]))) == 1
    segment.remove(index)
    assert not list(merger.read([view]))
    assert not everything([View(lambda: bytearray(merge.fold([view], ["x"])))])
    segment.remove(index, removed=False)
    assert len(list(merger.read([view]))) == 1


@pytest.mark.parametrize("metric", [COUNTER, GAUGE, PEAK, SECONDS])
def test_a_metric_is_described_completely(metric: Metric) -> None:
    """A description read in another process is the same metric; in this one it is the very object."""
    text = text_of(metric)
    assert described(text) is metric
    assert rule_of(text).survives == (metric in (COUNTER, PEAK, SECONDS))


# --- the folder of a group ----------------------------------------------------------------------------------------

CHILD = """
import os, sys
from pathlib import Path
from tocsin.metrics import merge
from tocsin.metrics.described import text_of
from tocsin.metrics.members import Members
from tocsin.names import Metric
members = Members(Path(sys.argv[1]), merge.fold)
segment = members.join(os.getpid(), 1)
index = segment.add(text_of(Metric("orders_total", "counter", "Orders.", ("kind",))), ("a",), 1)
segment.cells[index] = 5.0
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a process with a segment in `tmp_path/group` that has counted 5."""
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "group")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def total(members: Members, *, alone: bool = True) -> float:
    if not alone:
        return sum(value[0] for value in everything(members.refresh(fold=False)).values())
    with locked(members.folder) as held:
        assert held
        return sum(value[0] for value in everything(members.refresh(fold=True)).values())


def test_a_segment_is_folded_when_its_process_is_dead_and_not_before(
    tmp_path: Path, live: Callable[[], subprocess.Popen[str]]
) -> None:
    """The kernel says who lives, by a lock it lets go of even after SIGKILL."""
    first, second = live(), live()
    members = Members(tmp_path / "group", merge.fold)
    assert total(members) == 10.0
    assert len(members.living()) == 2
    first.kill()
    first.wait(10)
    assert total(members) == 10.0
    assert len(members.living()) == 1
    second.kill()
    second.wait(10)
    assert total(members) == total(Members(tmp_path / "group", merge.fold)) == 10.0
    assert sorted(path.name for path in members.folder.iterdir()) == ["base", "lock"]


def test_a_folding_process_may_die_at_any_step(tmp_path: Path, live: Callable[[], subprocess.Popen[str]]) -> None:
    """Killed between the new base and the removal of the segments it holds, nothing counts twice."""
    process = live()
    (segment,) = (tmp_path / "group").glob("*.segment")
    kept = segment.read_bytes()
    process.kill()
    process.wait(10)
    members = Members(tmp_path / "group", merge.fold)
    assert total(members) == 5.0
    segment.write_bytes(kept)  # as if it had not been removed
    (members.folder / "base.new").write_bytes(b"half")
    assert total(Members(tmp_path / "group", merge.fold), alone=False) == 5.0
    assert total(Members(tmp_path / "group", merge.fold)) == 5.0
    assert sorted(path.name for path in members.folder.iterdir()) == [BASE, "lock"]


def test_a_page_is_shown_while_somebody_holds_the_lock(
    tmp_path: Path, live: Callable[[], subprocess.Popen[str]]
) -> None:
    """A process that was stopped with the lock in its hands delays pages by a moment; only folding waits."""
    process = live()
    members = Members(tmp_path / "group", merge.fold)
    with locked(members.folder) as mine:
        assert mine
        process.kill()
        process.wait(10)
        other = Members(tmp_path / "group", merge.fold)
        with locked(other.folder) as theirs:
            assert not theirs
            assert total(other, alone=False) == 5.0
    assert total(members) == 5.0


def test_pages_never_show_less_while_others_fold(tmp_path: Path, live: Callable[[], subprocess.Popen[str]]) -> None:
    """A reader without the lock sees each dead segment either by itself or in the base, never both or neither."""
    processes = [live() for _ in range(6)]
    members = Members(tmp_path / "group", merge.fold)
    seen: set[float] = set()
    done = threading.Event()

    def read() -> None:
        reader = Members(tmp_path / "group", merge.fold)
        while not done.is_set():
            seen.add(total(reader, alone=False))

    thread = threading.Thread(target=read)
    thread.start()
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert total(members) == 30.0
    done.set()
    thread.join(10)
    assert seen == {30.0}


def test_folders_are_removed_when_forsaken_and_empty_of_life(
    tmp_path: Path, live: Callable[[], subprocess.Popen[str]]
) -> None:
    """Whoever sweeps leaves the folder in which a process lives, whatever became of its leader."""
    process = live()
    (tmp_path / "other").mkdir()
    sweep(tmp_path, lambda _name, _age: True, 0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["group"]
    process.kill()
    process.wait(10)
    sweep(tmp_path, lambda _name, _age: False, 0.0)
    assert (tmp_path / "group").exists()
    sweep(tmp_path, lambda _name, _age: True, 0.0)
    assert not (tmp_path / "group").exists()


def test_files_are_this_users_alone(tmp_path: Path, live: Callable[[], subprocess.Popen[str]]) -> None:
    """Nobody else reads or writes what is counted."""
    live()
    group = tmp_path / "group"
    assert group.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in group.iterdir()} == {0o600}
    assert os.geteuid() == group.stat().st_uid


FINALIZERS = """
import gc, os, sys
from prometheus_client import CollectorRegistry
from tocsin.metrics.families import Families
from tocsin.metrics.workers import store_for
from tocsin.names import Metric

DONE = Metric("done_total", "counter", "Done.", ("kind",))
families = Families(store_for("shop", None, {"PROMETHEUS_MULTIPROC_DIR": sys.argv[1]}))
total = 0

class Cycle:
    def __init__(self, number):
        self.me, self.number = self, number
    def __del__(self):
        families.add(DONE, f"finalized {self.number}")

gc.set_threshold(3)
for number in range(400):
    Cycle(number)
    families.add(DONE, f"counted {number}")
gc.collect()
assert families.store.sharing
counted = {reading.labels[0]: reading.values[0] for reading in families.store.readings()}
assert len(counted) == 800 and set(counted.values()) == {1.0}, counted
"""


def test_a_finalizer_may_count_while_a_series_is_made(tmp_path: Path) -> None:
    """The collector may run it in the midst of appending to the segment, in the thread that holds the lock."""
    done = subprocess.run(
        [sys.executable, "-c", FINALIZERS, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
