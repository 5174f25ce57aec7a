"""A program beside us is kept running, and never outlives us."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tocsin_service.http import Backoff
from tocsin_service.testing import eventually
from tocsin_stack import child
from tocsin_stack.child import Child

QUICK = Backoff(initial=0.01, factor=1.0, maximum=0.01, jitter=0.0)
SLEEPS = ["/bin/sh", "-c", "echo ready; exec sleep 60"]
STUBBORN = ["/bin/sh", "-c", "trap '' TERM; sleep 60 & echo $! ready; while :; do wait; done"]


class Watched:
    """A child that is ready once it wrote "ready", and its restarts."""

    def __init__(self, command: Sequence[str], output: Path, *, backoff: Backoff = QUICK, **options: Any) -> None:
        self.output = output
        self.restarts = 0
        self.child = Child(
            "bell",
            command,
            output=output,
            answers=self._wrote_ready,
            environ={"PATH": "/usr/bin:/bin", **options.pop("environ", {})},
            on_restart=self._count,
            backoff=backoff,
            **options,
        )

    async def _wrote_ready(self) -> bool:
        return "ready" in self.output.read_text(encoding="utf-8")

    def _count(self) -> None:
        self.restarts += 1


@asynccontextmanager
async def running(watched: Watched, *, patience: float = 10) -> AsyncIterator[Child]:
    await watched.child.start(patience=patience)
    task = asyncio.create_task(watched.child.watch())
    try:
        yield watched.child
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await watched.child.stop()


async def test_it_is_up_once_it_answers_and_gone_after_stop(tmp_path: Path, leftovers: Any) -> None:
    """`start` waits for readiness; `stop` ends the process within its grace and may be called twice."""
    watched = Watched(SLEEPS, tmp_path / "out.log")
    bell = watched.child
    await bell.start(patience=10)
    assert bell.state == "up"
    leftovers.note(bell.pid)
    for _ in range(2):
        await bell.stop()
        assert (bell.state, bell.pid) == ("down", None)
    assert not leftovers.running()


async def test_a_slow_start_does_not_hold_us_up(tmp_path: Path) -> None:
    """`start` returns after its patience; readiness is then found by the watch."""
    watched = Watched(["/bin/sh", "-c", 'sleep "$0"; echo ready; exec sleep 60', "0.5"], tmp_path / "out.log")
    async with running(watched, patience=0.05) as bell:
        assert bell.state == "starting"
        await eventually(lambda: bell.state == "up")


async def test_it_is_started_again_whenever_it_ends(tmp_path: Path, leftovers: Any) -> None:
    """After kill -9 another process takes over, and the restart is counted."""
    watched = Watched(SLEEPS, tmp_path / "out.log")
    async with running(watched) as bell:
        first = leftovers.note(bell.pid)
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: bell.state == "up" and bell.pid not in {None, first})
        leftovers.note(bell.pid)
        assert watched.restarts == 1
    assert not leftovers.running()


async def test_a_program_that_always_ends_is_tried_less_and_less_often(tmp_path: Path) -> None:
    """The wait doubles while it ends at once, so a broken program costs nothing."""
    waits: list[float] = []

    class Noting:
        def now(self) -> float:
            return 0.0

        async def sleep(self, seconds: float) -> None:
            waits.append(seconds)
            await asyncio.sleep(0)

        async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
            return event.is_set()

    backoff = Backoff(initial=0.5, factor=2.0, maximum=3.0, jitter=0.0)
    watched = Watched(["/bin/false"], tmp_path / "out.log", clock=Noting(), backoff=backoff)
    async with running(watched):
        await eventually(lambda: len(waits) >= 5)
    assert waits[:5] == [0.5, 1.0, 2.0, 3.0, 3.0]


async def test_a_program_that_cannot_be_run_says_so_in_its_last_words(tmp_path: Path) -> None:
    """A missing binary is an outcome like any other: down, with the reason at hand."""
    watched = Watched([str(tmp_path / "nowhere")], tmp_path / "out.log")
    await watched.child.start(patience=10)
    assert watched.child.pid is None
    assert watched.child.said() == [f"cannot run {tmp_path}/nowhere: No such file or directory"]
    await watched.child.stop()


@pytest.mark.parametrize(
    ("end", "words"),
    [("exit 3", "exit code 3"), ("kill -9 $$", "killed: Killed"), ("kill -35 $$", "killed: Real-time signal 1")],
    ids=["exit", "killed", "odd"],
)
async def test_how_it_ended_is_known_in_words(tmp_path: Path, end: str, words: str) -> None:
    """A person learns whether it gave up or was killed, and what it said in this run alone."""
    watched = Watched(["/bin/sh", "-c", f"echo one; echo two; {end}"], tmp_path / "out.log", backoff=Backoff())
    async with running(watched) as bell:
        assert await eventually(lambda: bell.ended) == words
        assert bell.said() == ["one", "two"]


async def test_one_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path, leftovers: Any) -> None:
    """The stop is bounded, and reaches the whole session of the program."""
    watched = Watched(STUBBORN, tmp_path / "out.log")
    await watched.child.start(patience=10)
    leftovers.note(watched.child.pid)
    leftovers.note(int(watched.output.read_text(encoding="utf-8").split()[0]))
    assert len(leftovers.running()) == 2
    async with asyncio.timeout(2):
        await watched.child.stop(grace=0.2)
    await eventually(lambda: not leftovers.running())


async def test_a_removed_log_file_does_not_end_the_watch(tmp_path: Path) -> None:
    """Somebody tidies up the data folder: the program is started again all the same."""
    watched = Watched(["/bin/sh", "-c", "exec sleep 0.05"], tmp_path / "out.log")
    async with running(watched, patience=0.01) as bell:
        watched.output.unlink()
        await eventually(lambda: watched.restarts >= 2)
        assert bell.said() == []


async def test_secrets_of_our_environment_are_not_handed_on(tmp_path: Path) -> None:
    """Only what a program needs to find its way is passed."""
    ours = {"PATH": "/usr/bin:/bin", "TZ": "UTC", "SLACK_WEBHOOK": "hush"}
    assert child.environment(ours) == {"PATH": "/usr/bin:/bin", "TZ": "UTC"}


async def test_its_output_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file starts empty and is emptied when it has grown too large, without a gap of zeros."""
    monkeypatch.setattr(child, "LOG_LIMIT", 1000)
    monkeypatch.setattr(child, "_TRIM_EVERY", 0.05)
    output = tmp_path / "out.log"
    output.write_text("old words\n", encoding="utf-8")
    talks = "echo ready; head -c 5000 /dev/zero | tr '\\0' x; while :; do echo tick; sleep 0.05; done"
    watched = Watched(["/bin/sh", "-c", talks], output)
    async with running(watched):
        await eventually(lambda: output.stat().st_size < 1000 and "tick" in output.read_text(encoding="utf-8"))
    assert set(output.read_text(encoding="utf-8").split()) == {"tick"}


def test_it_ends_when_we_are_killed(tmp_path: Path, leftovers: Any) -> None:
    """kill -9 of the supervisor leaves no orphan."""
    source = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from tocsin_stack.child import Child
        async def ready(): return True
        async def main():
            child = Child("bell", ["/bin/sleep", "60"], output=Path(sys.argv[1]), answers=ready, environ={})
            await child.start(patience=10)
            print(child.pid, flush=True)
            await child.watch()
        asyncio.run(main())
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", source, str(tmp_path / "out.log")], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        leftovers.note(int(parent.stdout.readline()))
        assert leftovers.running()
        parent.kill()
    wait_until(lambda: not leftovers.running())


def test_one_whose_parent_is_already_gone_does_not_start() -> None:
    """A parent that dies between fork and the request to die with it is noticed by its number."""
    stranger = 1 if os.getpid() != 1 else 2
    done = subprocess.run(child.tied(["/bin/echo", "hello"], parent=stranger), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def wait_until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        await eventually(condition)

    asyncio.run(wait())
