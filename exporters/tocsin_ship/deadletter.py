"""Lines a sink refused for good: kept as NDJSON with the reason, so that a person can look and send them again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tocsin_service import clock
from tocsin_ship.lines import Line


@dataclass(frozen=True, slots=True)
class Refusal:
    """One line and why it was refused.

    Args:
        reason: a short name, also the label of `tocsin_ship_dead_total`.
        status: the sink's HTTP status, or None.
        error: the sink's own words.
    """

    line: Line
    reason: str
    status: int | None
    error: str


class DeadLetters:
    """The file of one output; it is made when there is something to put into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, output: str, refusals: Sequence[Refusal], *, now: float) -> None:
        """Append and force to disk.

        Raises:
            OSError: it could not be written; nothing may be given up then.
        """
        records = b"".join(msgspec.json.encode(_record(output, item, now)) + b"\n" for item in refusals)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        with open(descriptor, "ab") as file:  # noqa: PTH123 only os.open sets the mode at creation
            if _ends_torn(descriptor):
                file.write(b"\n")
            file.write(records)
            file.flush()
            os.fdatasync(descriptor)


def _record(output: str, item: Refusal, now: float) -> dict[str, object]:
    return {
        "at": clock.rfc3339(now),
        "output": output,
        "reason": item.reason,
        "status": item.status,
        "error": item.error,
        "file": item.line.path,
        "offset": item.line.offset,
        "id": item.line.id,
        "line": item.line.data.decode("utf-8", "replace"),
    }


def _ends_torn(descriptor: int) -> bool:
    """Tell whether a crash left half a record at the end."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
