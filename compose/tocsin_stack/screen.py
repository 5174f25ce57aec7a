"""The one screen of `tocsin up`: each part, its address, whether it is up; then the alerts as they come."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

_COLOURS = {"up": "green", "off": "dim", "absent": "yellow", "down": "red", "starting": "yellow"}


@dataclass(frozen=True, slots=True)
class Row:
    """One part: `state` is up, off, absent, starting or down; `note` says what it does or what to do."""

    part: str
    state: str
    url: str
    note: str = ""


class Screen:
    """Writes for a person: colours on a terminal, plain text elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        # A pipe has no width of its own; a long URL must not be folded there.
        width = None if sys.stdout.isatty() else 160
        self._console = console or Console(highlight=False, soft_wrap=True, width=width)

    def parts(self, rows: Sequence[Row], *, seconds: float, hints: Sequence[str] = ()) -> None:
        """Show all parts, and what to try next."""
        self._console.print(f"[bold]tocsin[/bold] is up after {seconds:.1f} s\n")
        widths = [max(len(column) for column in columns) for columns in zip(*map(_plain, rows), strict=True)]
        for row in rows:
            part, state, url = (text.ljust(width) for text, width in zip(_plain(row), widths, strict=True))
            line = Text.assemble(part, "  ", (state, _COLOURS.get(row.state, "")), "  ", url, "  ", row.note)
            self._console.print(line)
        self._console.print()
        for hint in hints:
            self._console.print(hint, markup=False)

    def say(self, text: str) -> None:
        """Show a line or block as it is (an alert)."""
        style = {"ALERT": "bold red", "OK": "bold green"}.get(text.split(maxsplit=1)[0] if text.strip() else "", "")
        head, newline, rest = text.partition("\n")
        self._console.print(Text(head, style=style))
        if newline and rest:
            self._console.print(rest, markup=False)


def _plain(row: Row) -> tuple[str, str, str]:
    return row.part, row.state, row.url
