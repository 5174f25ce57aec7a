"""Positions on disk: one small file an output, replaced as a whole, so that it is never half written."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from tocsin_service import telemetry
from tocsin_ship.identity import Position

FORGET_AFTER = 7 * 86_400.0
"""Seconds for which the position in a file that is gone is kept."""


class _Saved(msgspec.Struct, frozen=True):
    version: int
    host: str
    inputs: dict[str, float]
    positions: dict[str, Position]


class Checkpoint:
    """What one output knows across restarts.

    Attributes:
        host: the host's name when the positions were begun; part of every file's identity.
        inputs: configured path -> Unix seconds since when it is followed.
        positions: key of a file -> how far it has been delivered.
    """

    def __init__(self, path: Path, *, host: str) -> None:
        self.host = host
        self.inputs: dict[str, float] = {}
        self.positions: dict[str, Position] = {}
        self._path = path
        self._written = b""

    @classmethod
    def load(cls, path: Path, *, host: str) -> Checkpoint:
        """Read `path`, or begin anew where there is none.

        A file that cannot be understood is set aside: lines are then sent again rather than skipped.
        """
        checkpoint = cls(path, host=host)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return checkpoint
        try:
            saved = msgspec.json.decode(data, type=_Saved)
        except msgspec.DecodeError as error:
            aside = path.with_suffix(".broken")
            path.replace(aside)
            telemetry.logger("tocsin.ship").error(
                "the positions file is broken; all files are sent from their start", path=str(aside), reason=str(error)
            )
            return checkpoint
        checkpoint.host = saved.host
        checkpoint.inputs = dict(saved.inputs)
        checkpoint.positions = dict(saved.positions)
        return checkpoint

    def save(self, *, now: float) -> None:
        """Write to disk what has changed.

        Raises:
            OSError: it could not be written; the old file is still there.
        """
        self._forget(now)
        data = msgspec.json.encode(_Saved(1, self.host, self.inputs, self.positions))
        if data == self._written:
            return
        temporary = self._path.with_suffix(".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 only os.open sets the mode at creation
            file.write(data)
            file.flush()
            os.fdatasync(file.fileno())
        temporary.replace(self._path)
        self._written = data

    def _forget(self, now: float) -> None:
        gone = [key for key, position in self.positions.items() if now - position.seen > FORGET_AFTER]
        for key in gone:
            del self.positions[key]
