"""Which files exist: the configured paths, and what rotation made of them (`app.log.1`, `app.log-20261123`)."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Iterable, Set
from dataclasses import dataclass

from tocsin_ship.config import FileInput

Inode = tuple[int, int]
"""Device and inode."""

_AFTER_PATH = frozenset("0123456789.-_")


@dataclass(frozen=True, slots=True)
class Log:
    """A path that something writes to; its rotated files belong to it."""

    path: str
    input: str
    service: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """A file that is there. `asked_for`: a configured path names it, not only its log."""

    log: Log
    path: str
    live: bool
    asked_for: bool
    size: int
    mtime: float


def files(inputs: Iterable[FileInput]) -> dict[Inode, Seen]:
    """Return the regular files of all inputs; live paths first, so that a hard link counts as the live one."""
    live: dict[str, Log] = {}
    rotated: dict[str, tuple[Log, bool]] = {}
    for item in inputs:
        pattern = os.path.abspath(item.path)  # noqa: PTH100 Path.resolve would follow the links that are watched
        matched = set(glob.iglob(pattern, recursive=True))  # noqa: PTH207 the pattern is absolute
        others = set(glob.iglob(pattern + "?*", recursive=True))  # noqa: PTH207
        for path in sorted(matched | others):
            parent = _parent(path, pattern, matched)
            log = Log(parent or path, str(item.path), item.service)
            # A file of two inputs belongs to the first.
            if parent is not None:
                rotated.setdefault(path, (log, path in matched))
            elif path in matched:
                live.setdefault(path, log)
    found: dict[Inode, Seen] = {}
    for path, log in live.items():
        _note(found, log, path, live=True, asked_for=True)
    for path, (log, asked_for) in rotated.items():
        _note(found, log, path, live=False, asked_for=asked_for)
    return found


def _parent(path: str, pattern: str, matched: Set[str]) -> str | None:
    """Return the live path whose rotated file `path` is, or None.

    The live file need not be there: rotation has moved it away and nothing was written since.
    """
    folder = path.rfind("/") + 1
    for end in range(folder + 1, len(path)):
        live = path[:end]
        if path[end] in _AFTER_PATH and (live in matched or _is_named_by(live, pattern)):
            return live
    return None


def _is_named_by(path: str, pattern: str) -> bool:
    # A pattern that ends in a star names every beginning of a name; only files that are there count then.
    return not pattern.endswith("*") and fnmatch.fnmatchcase(path, pattern)


def _note(found: dict[Inode, Seen], log: Log, path: str, *, live: bool, asked_for: bool) -> None:
    try:
        status = os.stat(path)  # noqa: PTH116 one call, no objects: this runs every second
    except OSError:
        return  # gone between the listing and now, or a dangling link
    # Anything else (a pipe, say) could block us.
    if stat.S_ISREG(status.st_mode):
        seen = Seen(log, path, live, asked_for, status.st_size, status.st_mtime)
        found.setdefault((status.st_dev, status.st_ino), seen)
