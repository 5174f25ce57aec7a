"""What a running `tocsin up` says of itself in its data folder, so that other commands find it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_LOCK = "up.lock"
_STATE = "up.json"


class StateError(Exception):
    """No `tocsin up` runs from a data folder, another one already does, or it cannot be written to."""


@dataclass(frozen=True, slots=True)
class State:
    """The process and the URL of each of its parts."""

    pid: int
    urls: Mapping[str, str]


def take(folder: Path) -> IO[str]:
    """Take the data folder for this process; the lock lasts as long as the returned file is open.

    The kernel lets go of it when the process ends, however it ends.

    Raises:
        StateError: another process has it, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        message = f"cannot keep data in {folder}: {error.strerror}; choose another --storage.path"
        raise StateError(message) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip() or "?"
        lock.close()
        message = f"{folder} is in use by process {holder}; stop it, or choose another --storage.path"
        raise StateError(message) from error
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def write(folder: Path, urls: Mapping[str, str]) -> None:
    """Say where the parts are."""
    part = folder / f"{_STATE}.part"
    part.write_text(json.dumps({"pid": os.getpid(), "urls": dict(urls)}), encoding="utf-8")
    part.replace(folder / _STATE)


def clear(folder: Path) -> None:
    """Say that nothing runs any more."""
    (folder / _STATE).unlink(missing_ok=True)


def read(folder: Path) -> State:
    """Return what runs from `folder`.

    Raises:
        StateError: nothing does.
    """
    try:
        data = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        os.kill(data["pid"], 0)
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"no tocsin runs from {folder}; start one with: tocsin up --demo"
        raise StateError(message) from error
    return State(data["pid"], data["urls"])
