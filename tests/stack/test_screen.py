"""The screen: what a terminal gets, and that no terminal can hold up or end the process."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TextIO

import pytest

from tocsin_stack.screen import Row, Screen


@contextlib.contextmanager
def pipe(encoding: str = "utf-8") -> Iterator[tuple[TextIO, int]]:
    """Give the end to write to and the end to read from."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding=encoding) as out:
        yield out, reading


def shown(text: str, *, encoding: str = "utf-8") -> str:
    with pipe(encoding) as (out, reading):
        with Screen(out) as screen:
            screen.say(text)
        out.close()
        with os.fdopen(reading, encoding=encoding) as source:
            return source.read()


def test_parts_stand_in_columns() -> None:
    """One line for each part, as wide as it needs to be: a URL is not folded where there is no terminal."""
    rows = [Row("console", "up", "http://127.0.0.1:9095", "x" * 200), Row("ship", "off", "", "no log files")]
    with pipe() as (out, reading):
        with Screen(out) as screen:
            screen.parts(rows, seconds=1.23, hints=["log: [a]/b"])
        out.close()
        with os.fdopen(reading) as source:
            assert source.read().splitlines() == [
                "tocsin is up after 1.2 s",
                "",
                f"console  up   http://127.0.0.1:9095  {'x' * 200}",
                "ship     off                         no log files",
                "",
                "log: [a]/b",
            ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("ALERT [red]x[/red]\n  10.0.0.1:100:2 [b]", "ALERT [red]x[/red]\n  10.0.0.1:100:2 [b]\n"),
        ("OK\x1b]0;owned\x07\n\x1b[2J\x9b2J\r", "OK?]0;owned?\n?[2J?2J?\n"),
        ("", "\n"),
    ],
)
def test_text_of_alerts_is_text(text: str, lines: str) -> None:
    """Markup, emoji names and escape sequences in an alert, which may hold an answer of a stranger, do nothing."""
    assert shown(text) == lines


def test_a_terminal_without_utf_8_shows_question_marks() -> None:
    """A character that it lacks costs that character, not the message."""
    assert shown("ALERT café ✓", encoding="latin-1") == "ALERT café ?\n"


SPEAKER = """
import sys
from tocsin_stack.screen import Screen
with Screen() as screen:
    screen.say("ready")
    for line in sys.stdin:
        screen.say(line)
        print("said", file=sys.stderr, flush=True)
"""


def test_a_terminal_that_is_held_still_holds_up_nobody() -> None:
    """After Ctrl+S saying something returns at once; after Ctrl+Q all of it is there."""
    terminal, theirs = os.openpty()
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "stdout": theirs}
    with subprocess.Popen([sys.executable, "-c", SPEAKER], text=True, bufsize=1, **pipes) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        assert b"ready" in os.read(terminal, 1000)
        os.write(terminal, b"\x13")
        for number in range(20):
            process.stdin.write(f"ALERT {number}.\n")
            assert process.stderr.readline() == "said\n"
        os.write(terminal, b"\x11")
        text = b""
        while b"ALERT 19." not in text:
            text += os.read(terminal, 1000)
        assert text.count(b"ALERT") == 20
        process.stdin.close()
    assert process.returncode == 0
    os.close(theirs)
    os.close(terminal)


def test_a_pipe_whose_reader_sleeps_holds_up_nobody() -> None:
    """What waits is bounded, the rest is dropped, and the end does not wait for it."""
    with pipe() as (out, reading):
        began = time.monotonic()
        with Screen(out) as screen:
            for _ in range(2000):
                screen.say("x" * 1000)
        assert time.monotonic() - began < 10
        os.close(reading)


def test_a_reader_that_went_away_is_no_error() -> None:
    """`tocsin up | head -1`, or a window that was closed: the alerts go on to everybody else."""
    with pipe() as (out, reading):
        os.close(reading)
        with Screen(out) as screen:
            screen.say("ALERT")
            screen.say("OK")


def test_no_stdout_at_all_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tocsin up >&-`: Python then has no stdout, and its descriptor may belong to any other file."""
    monkeypatch.setattr("sys.stdout", None)
    wrote: list[int] = []
    monkeypatch.setattr("os.write", lambda descriptor, _: wrote.append(descriptor))
    with Screen() as screen:
        screen.say("ALERT")
    assert wrote == []
