"""The one screen of `tocsin up`: each part, its address, whether it is up; then the alerts as they come."""

from __future__ import annotations

import contextlib
import io
import os
import queue
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, TextIO

from rich.console import Console
from rich.text import Text

from tocsin_service import telemetry

LAST_WORDS: Final = 0.3
"""Seconds the end waits for what is not written yet."""

_COLOURS = {"up": "green", "off": "dim", "absent": "yellow", "down": "red", "starting": "yellow"}
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What makes a terminal act instead of show; tabs and newlines may stay."""


@dataclass(frozen=True, slots=True)
class Row:
    """One part: `state` is up, off, absent, starting or down; `note` says what it does or what to do."""

    part: str
    state: str
    url: str
    note: str = ""


class Screen:
    """Writes for a person: colours on a terminal, plain text elsewhere; a context manager.

    A thread does the writing, so that a terminal held still with Ctrl+S, a pipe that nobody reads or a closed window
    holds up nobody who rings. What waits then is bounded; the rest is dropped.

    Args:
        out: None is stdout; where there is none (`>&-`), nothing is written.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        out = out or sys.stdout
        terminal = out is not None and out.isatty()
        # Not through the file's own buffer: a thread that hangs in it would make the end of the process fail.
        self._descriptor = None if out is None else out.fileno()
        self._encoding = "utf-8" if out is None else out.encoding
        # A pipe has no width of its own; a long URL must not be folded there.
        width = None if terminal else 160
        self._console = Console(
            file=io.StringIO(),  # rich flushes its file even while it captures, and that too hangs after Ctrl+S
            force_terminal=terminal,
            highlight=False,
            soft_wrap=True,
            width=width,
            markup=False,
            emoji=False,
        )
        self._waiting: queue.Queue[bytes | None] = queue.Queue(maxsize=1000)
        self._writer = threading.Thread(target=self._write, name="screen", daemon=True)

    def __enter__(self) -> Self:
        self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._put(None)
        self._writer.join(LAST_WORDS)

    def parts(self, rows: Sequence[Row], *, seconds: float, hints: Sequence[str] = ()) -> None:
        """Show all parts, and what to try next."""
        self._print(Text.assemble(("tocsin", "bold"), f" is up after {seconds:.1f} s\n"))
        widths = [max(len(column) for column in columns) for columns in zip(*map(_plain, rows), strict=True)]
        for row in rows:
            part, state, url = (text.ljust(width) for text, width in zip(_plain(row), widths, strict=True))
            line = Text.assemble(part, "  ", (state, _COLOURS.get(row.state, "")), "  ", url, "  ", row.note)
            self._print(line)
        self._print("")
        for hint in hints:
            self._print(hint)

    def say(self, text: str) -> None:
        """Show a line or block (an alert). Its text comes from anywhere: what would steer a terminal is not sent."""
        text = _CONTROL.sub("?", text)
        style = {"ALERT": "bold red", "OK": "bold green"}.get(text.split(maxsplit=1)[0] if text.strip() else "", "")
        head, newline, rest = text.partition("\n")
        self._print(Text(head, style=style))
        if newline and rest:
            self._print(rest)

    def _print(self, text: str | Text) -> None:
        with self._console.capture() as shown:
            self._console.print(text)
        self._put(shown.get().encode(self._encoding, errors="replace"))

    def _put(self, data: bytes | None) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(data)

    def _write(self) -> None:
        try:
            while (data := self._waiting.get()) is not None:
                while data and self._descriptor is not None:
                    data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            telemetry.logger("tocsin.screen").warning("nobody reads the screen any more", reason=error.strerror)


def _plain(row: Row) -> tuple[str, str, str]:
    return row.part, row.state, row.url
