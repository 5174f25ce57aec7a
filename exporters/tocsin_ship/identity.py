"""Which file is which, over renames, copies and restarts. Pure.

A file is recognised by its first line: the fingerprint. Two files of one log may begin with the same line (a header,
or one is a copy of the other); the bytes before the last known position, the seam, then tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

HEAD: Final = 1024
"""Bytes that are looked at for a fingerprint."""
SEAM: Final = 256
"""Bytes before a position by which it is recognised."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file has been delivered.

    Args:
        path: where the file was last seen, for people.
        offset: bytes delivered.
        seam: how many bytes before `offset` the mark covers.
        mark: digest of them.
        truncated: the file was cut off under this position; a copy may exist.
        seen: Unix seconds when the file was last there.
    """

    path: str
    offset: int
    seam: int
    mark: str
    truncated: bool = False
    seen: float = 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is not followed yet.

    Args:
        fingerprint: see `fingerprint`; None as long as its first line is incomplete.
        size: bytes.
        live: it stands at the path that is being written to.
        recent: it was written to since we know the log, or it was asked for by name.
        matches: keys of the positions whose seam it has.
        same_as: keys of followed files with which it agrees as far as the shorter one goes.
    """

    fingerprint: str | None
    size: int
    live: bool
    recent: bool
    matches: frozenset[str] = frozenset()
    same_as: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Follow:
    """Read the file from `offset` under the identity `key`."""

    key: str
    offset: int


@dataclass(frozen=True, slots=True)
class Ignore:
    """Do not read it. With `forever` False, ask again later."""

    reason: str
    forever: bool


Decision = Follow | Ignore


def fingerprint(head: bytes, *, salt: str, complete: bool = False) -> str | None:
    """Return 24 hex digits for the first line of a file, or None while that line is incomplete.

    Args:
        head: the first `HEAD` bytes, or all there are.
        salt: what else makes the log unique: its host and path.
        complete: nothing will be added to the file, so that what is there counts as a line.
    """
    end = head.find(b"\n", 0, HEAD)
    if end < 0 and len(head) < HEAD and not (complete and head):
        return None
    first = head[: end + 1] if end >= 0 else head[:HEAD]
    return blake2b(first, digest_size=12, key=blake2b(salt.encode(), digest_size=32).digest()).hexdigest()


def mark(seam: bytes) -> str:
    """Return the digest of a seam."""
    return blake2b(seam, digest_size=8).hexdigest()


def related(found: str, positions: Mapping[str, Position]) -> dict[str, Position]:
    """Return the positions in files that began with the line of fingerprint `found`."""
    return {key: position for key, position in positions.items() if key.partition("-")[0] == found}


def decide(found: Found, positions: Mapping[str, Position], owned: Set[str]) -> Decision:
    """Say what to do with a file.

    Args:
        positions: those of its fingerprint, see `related`.
        owned: keys of the files that are there and known.
    """
    if found.fingerprint is None:
        return Ignore("its first line is not complete", forever=False)
    if free := found.matches - owned:
        key = max(free, key=lambda key: positions[key].offset)
        return Follow(key, positions[key].offset)
    # What stands at the live path is never a copy: it may be new and have written no more than the same header.
    if not found.live and found.same_as:
        return Ignore("it is a copy of a file that is followed", forever=False)
    if not found.live and (cut := _cut_off(found, positions, owned)):
        # The original was read further than the copy reaches: nothing is left in it.
        return Follow(cut, found.size)
    if not found.live and not found.recent:
        return Ignore("it was finished before this log was first followed", forever=True)
    return Follow(_new_key(found.fingerprint, positions, owned), 0)


def _cut_off(found: Found, positions: Mapping[str, Position], owned: Set[str]) -> str | None:
    keys = [
        key
        for key, position in positions.items()
        if position.truncated and key not in owned and found.size < position.offset
    ]
    return min(keys, key=lambda key: positions[key].offset, default=None)


def _new_key(found: str, positions: Mapping[str, Position], owned: Set[str]) -> str:
    """Return an unused key: the same line at the same offset of two files must not get the same id."""
    key, count = found, 0
    while key in positions or key in owned:
        count += 1
        key = f"{found}-{count}"
    return key
