"""Writing in one process: nothing that happens to a stream happens to the application, and what is lost is counted."""

from __future__ import annotations

import contextlib
import gc
import gzip
import io
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse

import tocsin
import tocsin.testing
from tocsin.logs import forks, outbox, process, writer
from tocsin.logs.pipeline import told
from tocsin.request import Facts
from tocsin.testing import Capture, call, dropped


def configure(lines: Any, registry: CollectorRegistry, **options: Any) -> Any:
    tocsin.configure_logs(**{"service_name": "shop", "stream": lines, "registry": registry, **options})
    return tocsin.get_logger("shop.orders")


class Broken(io.RawIOBase):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [(BrokenPipeError(32, "pipe"), "write"), (ValueError("closed"), "closed"), (RuntimeError("odd"), "write")],
)
async def test_a_log_that_cannot_be_written_costs_a_count(
    error: Exception, reason: str, registry: CollectorRegistry
) -> None:
    """The application answers as if nothing were; `tocsin_dropped_total` says what was lost."""
    app = tocsin.instrument(PlainTextResponse("ok"), registry=registry, log_stream=Broken(error))
    for _ in range(3):
        assert (await call(app)).body == b"ok"
    assert dropped(registry) == {("logs", reason): 3}


async def test_a_closed_stdout_costs_a_count(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Daemons close their standard streams."""
    out = io.TextIOWrapper(io.BytesIO())
    out.close()
    monkeypatch.setattr(sys, "stdout", out)
    assert (await call(tocsin.instrument(PlainTextResponse("ok"), registry=registry))).status == 200
    monkeypatch.setattr(sys, "stdout", None)
    assert (await call(tocsin.instrument(PlainTextResponse("ok"), registry=registry))).status == 200
    assert dropped(registry) == {("logs", "closed"): 2}


async def test_stdout_is_the_default(registry: CollectorRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    """What is stdout at that moment: containers collect it."""
    await call(tocsin.instrument(PlainTextResponse("ok"), registry=registry))
    assert json.loads(capsys.readouterr().out)["message"] == "GET / 200"


def test_a_file_is_appended_to_in_whole_lines(tmp_path: Path, registry: CollectorRegistry) -> None:
    """Two processes can share it: each line is one write; the file is readable by its owner and group only."""
    path = tmp_path / "app.log"
    path.write_text('{"message": "before"}\n')
    tocsin.configure_logs(service_name="shop", file=path, registry=registry)
    tocsin.get_logger().info("after")
    assert tocsin.force_flush()
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["before", "after"]
    other = tmp_path / "new.log"
    tocsin.configure_logs(service_name="shop", file=other, registry=registry)
    assert other.stat().st_mode & 0o137 == 0


def test_a_rotated_file_is_followed(
    tmp_path: Path, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renamed away, a new file is begun within a second; nothing is lost."""
    monkeypatch.setattr("tocsin.logs.sinks._LOOK_AGAIN_SECONDS", 0.0)
    path = tmp_path / "app.log"
    tocsin.configure_logs(service_name="shop", file=path, registry=registry)
    log = tocsin.get_logger()
    log.info("one")
    assert tocsin.force_flush()
    path.rename(tmp_path / "app.log.1")
    log.info("two")
    assert tocsin.force_flush()
    assert [json.loads(line)["message"] for line in (tmp_path / "app.log.1").read_text().splitlines()] == ["one"]
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["two"]


def test_a_full_pipe_or_disk_raises_nothing(registry: CollectorRegistry) -> None:
    """/dev/full refuses every byte."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full (Linux)")
    tocsin.configure_logs(service_name="shop", file="/dev/full", registry=registry)
    tocsin.get_logger().info("lost")
    assert tocsin.force_flush()
    assert dropped(registry) == {("logs", "write"): 1}


def test_a_log_line_from_inside_a_write_does_not_hang(registry: CollectorRegistry) -> None:
    """Finalizers and signal handlers log at any moment, also while the same thread is writing a line."""

    class Nosy(io.StringIO):
        def write(self, text: str) -> int:
            if "outer" in text:
                log.info("inner")
            return super().write(text)

    stream = Nosy()
    log = configure(stream, registry)
    thread = threading.Thread(target=log.info, args=("outer",), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["inner", "outer"]


@pytest.mark.parametrize("closed", [False, True])
async def test_only_an_exception_that_was_written_is_told(
    closed: bool, registry: CollectorRegistry, lines: Capture
) -> None:
    """If our line is lost, the server's own traceback is the last that is left: it is not silenced."""

    async def boom(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("boom")

    app = tocsin.instrument(boom, registry=registry, log_stream=lines)
    if closed:
        lines.close()
    with pytest.raises(RuntimeError, match="boom") as raised:
        await call(app)
    assert told(raised.value) is not closed


# --- the thread ---------------------------------------------------------------------------------------------------


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def messages(path: Path) -> list[str]:
    return [json.loads(line)["message"] for line in path.read_text().splitlines()]


def test_a_line_is_in_the_file_without_a_flush(tmp_path: Path, registry: CollectorRegistry) -> None:
    """Within 200 ms; an error at once; 64 lines at once; also after the thread has fallen asleep."""
    path = tmp_path / "app.log"
    log = configure(None, registry, stream=None, file=path)
    log.info("slow")
    assert messages(path) == []
    until(lambda: messages(path) == ["slow"], 1)
    box = process.process_pipeline().writer
    until(lambda: box._asleep)  # type: ignore[attr-defined]  # nothing shows that it sleeps, which is the point
    log.error("now")
    until(lambda: messages(path)[1:] == ["now"], 1)


@pytest.fixture
def slow_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that would not be sent for an hour."""
    monkeypatch.setattr(outbox, "BATCH_SECONDS", 3600.0)


@pytest.mark.usefixtures("slow_batches")
def test_sixty_four_lines_or_an_error_do_not_wait(tmp_path: Path, registry: CollectorRegistry) -> None:
    """What came before goes first."""
    path = tmp_path / "app.log"
    log = configure(None, registry, stream=None, file=path)
    for number in range(64):
        log.info("%d", number)
    until(lambda: len(messages(path)) == 64)
    log.info("before")
    log.error("error")
    until(lambda: messages(path)[64:] == ["before", "error"])


def test_many_threads_lose_nothing_and_keep_their_order(tmp_path: Path, registry: CollectorRegistry) -> None:
    """Each thread's lines are in its order."""
    path = tmp_path / "app.log"
    log = configure(None, registry, stream=None, file=path)

    def work(name: int) -> None:
        for number in range(500):
            log.info("m", thread=name, number=number)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tocsin.force_flush()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for name in range(6):
        assert [event["number"] for event in events if event["thread"] == name] == list(range(500))
    assert dropped(registry) == {}


@pytest.fixture
def stuck_pipe() -> Iterator[tuple[Any, int]]:
    """A pipe that is full: its write end as a text stream, its read end as a descriptor."""
    reader, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4095 + b"\n")
    os.set_blocking(writing, True)
    stream = os.fdopen(writing, "w")
    try:
        yield stream, reader
    finally:
        os.close(reader)
        with contextlib.suppress(OSError):
            stream.close()


def test_a_stuck_reader_holds_up_nobody(stuck_pipe: tuple[Any, int], registry: CollectorRegistry) -> None:
    """Lines wait, up to 10,000; more are counted; when the reader reads again, those that waited are written."""
    stream, reader = stuck_pipe
    log = configure(stream, registry)
    log.info("first")
    until(lambda: not process.process_pipeline().writer._queue)  # type: ignore[attr-defined]  # the thread has it, and is stuck
    began = time.monotonic()
    for number in range(10_500):
        log.info("m", number=number)
    assert time.monotonic() - began < 10
    assert not tocsin.force_flush(timeout=0.2)
    until(lambda: dropped(registry).get(("logs", "queue_full"), 0) >= 400)
    found = bytearray()

    def read() -> None:
        while data := os.read(reader, 65536):
            found.extend(data)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert tocsin.force_flush(timeout=20)
    tocsin.testing.reset_logs()
    stream.close()
    thread.join(20)
    assert not thread.is_alive()
    whole = [json.loads(line) for line in bytes(found).split(b"\n")[:-1] if line.startswith(b"{")]
    assert whole[0]["message"] == "first"
    assert len(whole) >= 10_000
    assert [event["number"] for event in whole[1:]] == list(range(len(whole) - 1))
    assert dropped(registry) == {("logs", "queue_full"): 10_501 - len(whole)}


def test_what_waits_has_a_bound_in_bytes_too(stuck_pipe: tuple[Any, int], registry: CollectorRegistry) -> None:
    """16 MiB, what the thread is about to write included: long lines are refused before there are 10,000."""
    log = configure(stuck_pipe[0], registry)
    for _ in range(100):
        log.info("x" * 1_000_000)
    assert not tocsin.force_flush(timeout=0.1)
    assert dropped(registry) == {("logs", "queue_full"): 84}


def test_a_reader_that_went_away_costs_a_count(registry: CollectorRegistry) -> None:
    """EPIPE; and the exception of a request is left to the server's log from then on."""
    reader, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        log = configure(stream, registry)
        log.info("read")
        assert tocsin.force_flush()
        assert json.loads(os.read(reader, 65536))["message"] == "read"
        os.close(reader)
        log.info("lost")
        assert tocsin.force_flush()
        assert dropped(registry) == {("logs", "write"): 1}
        error = RuntimeError("boom")
        process.process_pipeline().access(Facts("GET", "", "/", 500, 0.1, 0.0, None, None), error)
        assert not told(error)
        tocsin.testing.reset_logs()


def test_a_stream_closed_by_its_owner_costs_a_count(tmp_path: Path, registry: CollectorRegistry) -> None:
    """And never goes to whatever has its descriptor now."""
    stream = (tmp_path / "one").open("w")
    log = configure(stream, registry)
    stream.close()
    with (tmp_path / "two").open("w") as other:
        log.info("lost")
        assert tocsin.force_flush()
        assert other.fileno() > 0
    assert (tmp_path / "two").read_text() == ""
    assert dropped(registry) == {("logs", "closed"): 1}


def test_a_compressed_stream_is_written_with_its_own_methods(tmp_path: Path, registry: CollectorRegistry) -> None:
    """It has a descriptor too, but raw bytes in there would destroy it."""
    path = tmp_path / "app.log.gz"
    with gzip.open(path, "wb") as stream:
        log = configure(stream, registry)
        log.info("one")
        log.info("two")
        assert tocsin.force_flush()
        tocsin.testing.reset_logs()
    with gzip.open(path, "rt") as written:
        assert [json.loads(line)["message"] for line in written] == ["one", "two"]


def test_stdout_gets_its_buffering_back(monkeypatch: pytest.MonkeyPatch, registry: CollectorRegistry) -> None:
    """While we write to it, prints come line by line, so that they and our lines do not cut each other."""
    reader, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        tocsin.configure_logs(service_name="shop", registry=registry)
        tocsin.get_logger().info("one")
        assert tocsin.force_flush()
        assert stream.line_buffering
        tocsin.testing.reset_logs()
        assert not stream.line_buffering
    os.close(reader)


def test_a_line_after_a_shutdown_is_written(
    tmp_path: Path, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the thread was doing when it was stopped: starting, writing, or asleep because nothing came."""
    monkeypatch.setattr(outbox, "_IDLE_ROUNDS", 1)
    log = configure(None, registry, stream=None, file=tmp_path / "app.log")
    box: Any = process.process_pipeline().writer
    log.info("one")
    until(lambda: box._asleep and not box._queue, 20)
    for number in range(50):
        assert tocsin.shutdown()
        log.info("late", number=number)
        box.attach(process.process_pipeline())
        log.info("again", number=number)
        until(lambda: not box._queue)
    assert tocsin.shutdown()
    assert messages(tmp_path / "app.log") == ["one", *["late", "again"] * 50]


def test_what_a_closed_pipeline_leaves_is_counted(stuck_pipe: tuple[Any, int], registry: CollectorRegistry) -> None:
    """Nobody will write it any more."""
    log = configure(stuck_pipe[0], registry)
    for _ in range(500):
        log.info("m")
    tocsin.testing.reset_logs()
    assert dropped(registry) == {("logs", "closed"): 500}


def test_a_relative_path_is_that_of_the_beginning(
    tmp_path: Path, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Daemons change their directory; the file is looked for where it was."""
    monkeypatch.setattr("tocsin.logs.sinks._LOOK_AGAIN_SECONDS", 0.0)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    log = configure(None, registry, stream=None, file="app.log")
    for directory in (tmp_path, tmp_path / "other"):
        monkeypatch.chdir(directory)
        log.info("m")
        assert tocsin.force_flush()
    assert messages(tmp_path / "app.log") == ["m", "m"]
    assert not (tmp_path / "other" / "app.log").exists()


def test_redirected_stdout_is_written_at_once(tmp_path: Path, registry: CollectorRegistry) -> None:
    """Its owner closes it, and reads it, as soon as he is done; and no thread stays behind for any of them."""
    tocsin.configure_logs(service_name="shop", registry=registry)
    stdout: Any = process.process_pipeline().writer
    for number in range(5):
        path = tmp_path / f"{number}.log"
        with path.open("w") as file, contextlib.redirect_stdout(file):
            tocsin.get_logger().info("redirected")
        assert messages(path) == ["redirected"]
    for _ in range(5):
        reader, writing = os.pipe()
        with os.fdopen(reader, "rb") as read:
            with os.fdopen(writing, "w") as piped, contextlib.redirect_stdout(piped):
                tocsin.get_logger().info("piped")
                assert tocsin.force_flush()
            assert json.loads(read.read())["message"] == "piped"
    assert len(stdout._outboxes) <= 2
    assert dropped(registry) == {}


def test_a_stdout_that_logs_what_it_is_given_is_passed_by(
    registry: CollectorRegistry, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery's workers have one: our lines would come back to us, and be lost there."""

    class Logging(io.StringIO):
        logger = logging.getLogger("redirected")

        def write(self, text: str) -> int:
            self.logger.warning(text)
            return len(text)

    with open(os.dup(1), "w") as real:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr(sys, "__stdout__", real)
        monkeypatch.setattr(sys, "stdout", Logging())
        tocsin.configure_logs(service_name="shop", registry=registry)
        tocsin.get_logger().info("ours")
        assert tocsin.force_flush()
        tocsin.testing.reset_logs()
    assert [json.loads(line)["message"] for line in capfd.readouterr().out.splitlines()] == ["ours"]


def test_two_threads_that_fork_at_once_leave_no_lock_behind(tmp_path: Path, registry: CollectorRegistry) -> None:
    """Each wakes what it put to rest itself."""
    log = configure(None, registry, stream=None, file=tmp_path / "app.log")
    forks._before()
    thread = threading.Thread(target=forks._before)
    thread.start()
    thread.join()
    forks._after(child=False)
    log.info("after")
    assert tocsin.force_flush(1)
    assert messages(tmp_path / "app.log") == ["after"]


def test_a_child_does_not_wait_for_the_parents_lock(registry: CollectorRegistry) -> None:
    """Another thread may have been writing to the terminal, or opening a file, when the process was forked."""
    out = Capture()
    log = configure(out, registry)
    direct: Any = process.process_pipeline().writer
    with contextlib.ExitStack() as held:
        taken, done = threading.Event(), threading.Event()

        def hold() -> None:
            with direct._lock, writer._opening._lock:
                taken.set()
                done.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        held.callback(thread.join)
        held.callback(done.set)
        assert taken.wait(20)
        forks._before()
        forks._after(child=True)
        began = time.monotonic()
        log.info("child")
        writer.open_stdout()
        assert time.monotonic() - began < 0.5
    assert [event["message"] for event in out.events] == ["child"]


# --- at any moment ------------------------------------------------------------------------------------------------


def test_signal_handlers_may_log_at_any_moment(tmp_path: Path, registry: CollectorRegistry) -> None:
    """Also while the same thread is putting a line in, flushing, or starting the thread."""
    path = tmp_path / "app.log"
    log = configure(None, registry, stream=None, file=path)
    handled = 0

    def handle(_number: int, _frame: Any) -> None:
        nonlocal handled
        handled += 1
        log.error("signal")

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        written = 0
        while handled < 200:
            log.info("line")
            written += 1
            if written % 50 == 0:
                tocsin.force_flush()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert tocsin.force_flush()
    found = messages(path)
    assert (found.count("line"), found.count("signal")) == (written, handled)


def test_finalizers_may_log_at_any_moment(tmp_path: Path, registry: CollectorRegistry) -> None:
    """Garbage is collected wherever memory is asked for."""
    log = configure(None, registry, stream=None, file=tmp_path / "app.log")

    class Circle:
        def __init__(self) -> None:
            self.self = self

        def __del__(self) -> None:
            log.info("finalized")

    before = gc.get_threshold()
    gc.set_threshold(5, 1, 1)
    try:
        for number in range(300):
            Circle()
            log.info("line", list=[{}])
            if number % 20 == 0:
                tocsin.force_flush()
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert tocsin.force_flush()
    assert (messages(tmp_path / "app.log").count("line"), messages(tmp_path / "app.log").count("finalized")) == (
        300,
        300,
    )
