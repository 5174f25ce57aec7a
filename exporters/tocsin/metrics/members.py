"""The folder of one group: a segment per living process, one base with what dead ones counted, one lock.

A process holds an advisory lock on its segment for as long as it lives; the kernel lets go of it even after SIGKILL.
A segment nobody holds is folded: its numbers go into a new base that replaces the old one by a rename, and remembers
whose they are, so that nothing counts twice if the folding process dies before it has removed the segment.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from mmap import mmap
from pathlib import Path

from tocsin.metrics.segment import Buffer, Segment, SegmentError, View

BASE = "base"
_NEW_BASE = "base.new"
_LOCK = "lock"
_SUFFIX = ".segment"
_PATIENCE = 0.25
"""Seconds to wait for the lock of a folder. Whoever holds it works for milliseconds, unless it is stopped."""

_ATTEMPTS = 5
_BIRTH = 60.0
"""Seconds that beginning a segment cannot take."""

Fold = Callable[[Iterable[View], list[str]], bytes]
"""(the base, then segments of dead processes; names of these) -> bytes of the new base."""

_held: set[int] = set()
"""Descriptors with a lock: a forked process closes them, for a lock lives as long as any of its descriptors."""


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a group's folder; gives False if somebody else has held it for too long.

    Raises:
        OSError: the folder is gone.
    """
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _held.add(descriptor)
    try:
        yield _wait(descriptor)
    finally:
        if descriptor in _held:  # else this is a process forked meanwhile, which has closed it
            _held.discard(descriptor)
            os.close(descriptor)


class Members:
    """One group's folder, as one process sees it. Not thread-safe.

    Dropped while the process lives, it takes its segment with it: what a registry that is no more has counted is on no
    page. At the end of the process the segment stays.

    Args:
        folder: made by `join`.
        fold: makes a base.
        leads: whether this process leads the group: then the folder goes with the segment, if nobody else is in it.
    """

    def __init__(self, folder: Path, fold: Fold, *, leads: bool = False) -> None:
        self.folder = folder
        self.own = ""
        """Name of this process's segment; empty before `join`."""
        self.views: dict[str, View] = {}
        """The base and all segments by name, own and base included, as of the last `refresh`."""
        self._fold = fold
        self._leads = leads
        self._dropped: weakref.finalize[..., Members] | None = None
        self._base: tuple[tuple[int, int] | None, View | None] = (None, None)

    def join(self, pid: int, started: int, moved: Segment | None = None) -> Segment:
        """Begin this process's segment, or write it again where the folder or the file was removed.

        Raises:
            OSError: no folder, or no room.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return self._join(f"{pid}-{secrets.token_hex(6)}{_SUFFIX}", pid, started, moved)
            except FileNotFoundError:  # the folder was swept away at this moment
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _join(self, name: str, pid: int, started: int, moved: Segment | None) -> Segment:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Hidden until it is locked and begun. If the lock of the folder cannot be had, that must do.
        with locked(self.folder) as held:
            if held:
                self._fold_dead()  # also where nobody asks for a page, files stay few
            file = _File(self.folder / f".{name}")
            try:
                if moved is None:
                    segment = Segment(file.grown, pid, started, secrets.randbits(63))
                else:
                    segment = moved
                    segment.move(file.grown, secrets.randbits(63))
                file.rename(self.folder / name)
            except BaseException:
                file.discard()
                raise
        self.own = name
        if self._dropped is not None:
            self._dropped()  # the file before, which somebody has removed
        self._dropped = weakref.finalize(self, _drop, file, self.folder if self._leads else None, pid)
        self._dropped.atexit = False
        return segment

    def refresh(self, *, fold: bool) -> list[View]:
        """Return the base and all segments that are not in it; fold dead ones first, which needs the lock.

        Raises:
            OSError: the folder is gone.
        """
        if fold:
            self._fold_dead()
        for _ in range(5):
            before = self._identity(BASE)
            found = self._look()
            if self._identity(BASE) == before:  # else somebody folded while we looked
                break
        return found

    def _look(self) -> list[View]:
        names = sorted(path.name for path in self.folder.iterdir() if path.name == BASE or path.suffix == _SUFFIX)
        known = self.views
        base = self._current_base() if BASE in names else None
        views = {BASE: base} if base is not None else {}
        for name in names:
            if name == BASE or (base is not None and name in base.folded):
                continue
            view = known.get(name) or self._opened(name)
            if view is not None:
                view.refresh()
                views[name] = view
        self.views = views
        return list(views.values())

    def _opened(self, name: str) -> View | None:
        path = self.folder / name
        try:
            return View(lambda: _mapped(path))
        except (OSError, SegmentError, ValueError):  # gone, or of another version, or damaged
            return None

    def _current_base(self) -> View | None:
        identity = self._identity(BASE)
        if self._base[0] != identity:
            self._base = (identity, self._opened(BASE))
        return self._base[1]

    def _identity(self, name: str) -> tuple[int, int] | None:
        try:
            found = (self.folder / name).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _fold_dead(self) -> None:
        """Move what dead processes have counted into the base. With the lock held."""
        base = self._current_base()
        done = base.folded if base is not None else frozenset()
        dead: dict[str, View] = {}
        locks: list[int] = []
        try:
            for path in list(self.folder.iterdir()):
                name = path.name
                if name in done or name == _NEW_BASE:
                    path.unlink(missing_ok=True)
                elif name.startswith("."):
                    _remove_unborn(path)
                elif name != self.own and name.endswith(_SUFFIX):
                    lock = _unheld(path)
                    if lock is None:
                        continue
                    locks.append(lock)
                    view = self._opened(name)
                    if view is None:
                        path.unlink(missing_ok=True)
                    else:
                        dead[name] = view
            if dead:
                self._replace_base(self._fold([*([base] if base is not None else []), *dead.values()], list(dead)))
                for name in dead:
                    (self.folder / name).unlink(missing_ok=True)
                    self.views.pop(name, None)
        finally:
            for lock in locks:
                os.close(lock)

    def _replace_base(self, data: bytes) -> None:
        new = self.folder / _NEW_BASE
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        new.rename(self.folder / BASE)

    def living(self) -> list[View]:
        """Return the segments of living processes, as of the last `refresh`."""
        return [view for name, view in self.views.items() if name != BASE]

    def own_view(self) -> View | None:
        """Return this process's segment as others read it."""
        return self.views.get(self.own)

    def leave(self) -> None:
        """Remove the folder if no other process is in it."""
        leave(self.folder, self.own)


def leave(folder: Path, own: str = "") -> None:
    """Remove a folder if nobody but the owner of the segment `own` is in it."""
    with suppress(OSError), locked(folder) as held:
        if held:
            remove(folder, own)


def sweep(root: Path, forsaken: Callable[[str, float], bool], now: float) -> None:
    """Remove the folders of groups whose leader is dead and in which nobody lives."""
    with suppress(OSError):
        for folder in root.iterdir():
            if forsaken(folder.name, now - folder.stat().st_mtime):
                leave(folder)


def remove(folder: Path, own: str = "") -> bool:
    """Remove a folder whose lock is held, if nobody but the owner of `own` holds a segment in it."""
    for path in folder.iterdir():
        if path.name != own and path.name.endswith(_SUFFIX):
            lock = _unheld(path)
            if lock is None:
                return False
            os.close(lock)
    shutil.rmtree(folder, ignore_errors=True)
    return True


def forget_locks() -> None:
    """Close what this process has from the one it was forked from: those locks are not its own."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


def _wait(descriptor: int) -> bool:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.001)
        else:
            return True


def _remove_unborn(path: Path) -> None:
    """Remove a segment that a process did not live to begin, if that is long ago: it may be doing so right now."""
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > _BIRTH:
            path.unlink()


def _unheld(path: Path) -> int | None:
    """Return a descriptor with the lock of a segment whose process is dead; None if it lives."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


class _File:
    """The file of this process's segment, locked for as long as the process lives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        _held.add(self._lock)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def grown(self, size: int) -> Buffer:
        # Room is taken now: a page that could not be had when it is written to would kill the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._lock, 0, size)
        else:  # macOS
            os.ftruncate(self._lock, size)
        # Mapped by another descriptor, of which a mapping keeps a copy: a forked process could not let go of the lock.
        return _mapped(self._path)

    def rename(self, path: Path) -> None:
        self._path.rename(path)
        self._path = path

    def discard(self) -> None:
        """Let go of the lock, and remove the file."""
        _held.discard(self._lock)
        os.close(self._lock)
        self._path.unlink(missing_ok=True)


def _drop(file: _File, folder: Path | None, pid: int) -> None:
    if os.getpid() == pid:  # else it is the file of the process that this one was forked from
        with suppress(OSError):
            file.discard()
        if folder is not None:
            leave(folder)


def _mapped(path: Path) -> Buffer:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if sys.version_info >= (3, 13):
            return mmap(descriptor, 0, trackfd=False)  # else it keeps a copy of the descriptor
        return mmap(descriptor, 0)
    finally:
        os.close(descriptor)
