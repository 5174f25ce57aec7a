"""What goes through an outbox: whose lines they are, what is sent in one go, and who sends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Source(Protocol):
    """Whose lines they are."""

    refused: int
    """Lines that found the queue full and were not counted yet."""

    def lost(self, reason: str, lines: int) -> None:
        """Count lines that were not sent."""


Item = tuple[Source, bytes, int]
"""Whose lines they are, the lines, and how many."""


@dataclass(slots=True, eq=False)
class Parcel:
    """What is sent in one go: whole lines."""

    data: bytes
    sources: list[Source]
    """Whose lines these are, one for each line."""


class Sink(Protocol):
    """Where parcels go. Called by one thread at a time."""

    def pack(self, payloads: list[bytes], sources: list[Source]) -> list[Parcel]:
        """Return what was put in as parcels, in order; with the source of each line."""

    def send(self, parcel: Parcel, patience: float) -> bool:
        """Send a parcel; return False if it could not be taken within so many seconds, for the time being.

        Of a parcel that was sent in part, `data` is shortened to the rest.

        Raises:
            OSError, ValueError: the parcel is lost.
        """

    def hurry(self) -> None:
        """Take note that somebody waits: what was put off should be tried now."""

    def close(self) -> None:
        """Close what is open; `send` opens it again."""

    def forked(self) -> None:
        """Take note of being in a forked child."""
