"""The memory of the container: what its control group (cgroup, version 2 or 1) is charged, and what it may use.

Source: the Linux kernel's cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PROCESS = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")

_UNLIMITED = 1 << 60
"""Version 1 says "no limit" with the greatest number of bytes that its pages can count."""


class Files(NamedTuple):
    """What the files of one version of the control groups are called."""

    usage: str
    limit: str
    reclaimable: bytes
    """The line of `memory.stat` with the page cache that can be dropped at any time, in bytes."""


_V2 = Files("memory.current", "memory.max", b"inactive_file")
_V1 = Files("memory.usage_in_bytes", "memory.limit_in_bytes", b"total_inactive_file")


class Memory(NamedTuple):
    """Bytes charged to a group, without page cache that can be dropped, and the bytes it may use (None: no limit)."""

    usage: int
    limit: int | None


class Group(NamedTuple):
    """Where a process is accounted: its own group first, then those above that have a limit and can be seen here."""

    files: Files
    folders: tuple[Path, ...]

    def memory(self) -> Memory | None:
        """Read the nearest group that has a limit, else the own one; None if it cannot be read."""
        try:
            for folder in self.folders:
                limit = _limit(folder / self.files.limit)
                if limit is not None:
                    return Memory(self._usage(folder), limit)
            return Memory(self._usage(self.folders[0]), None)
        except (OSError, ValueError):  # the group is gone or not ours to read
            return None

    def _usage(self, folder: Path) -> int:
        charged = int((folder / self.files.usage).read_text())
        for line in (folder / "memory.stat").read_bytes().splitlines():
            name, _, value = line.partition(b" ")
            if name == self.files.reclaimable:
                return max(0, charged - int(value))
        return charged


def find_group(process: Path = PROCESS, mount: Path = MOUNT) -> Group | None:
    """Return the group whose memory this process is charged to, or None where there are no control groups.

    Args:
        process: what `/proc/self/cgroup` says.
        mount: where the control groups are mounted.
    """
    try:
        return _find(process.read_text(), mount)
    except (OSError, ValueError):  # not Linux, or nothing for us to read
        return None


def _find(text: str, mount: Path) -> Group | None:
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths.update(dict.fromkeys(controllers.split(","), path))
    # A host may have both versions at once; then the memory is with the one that has the controller.
    for files, key, root in ((_V1, "memory", mount / "memory"), (_V2, "", mount), (_V2, "", mount / "unified")):
        if key in paths:
            folders = [folder for folder in _upwards(root, paths[key]) if (folder / files.usage).exists()]
            if folders:
                limited = [folder for folder in folders[1:] if _limit(folder / files.limit) is not None]
                return Group(files, (folders[0], *limited))
    return None


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except FileNotFoundError:  # the root group of version 2 has none
        return None
    return None if text == "max" or int(text) >= _UNLIMITED else int(text)


def _upwards(root: Path, path: str) -> list[Path]:
    """Return the group's folder and those above it, down to the mount.

    Inside a container the path may be the host's, which is not there: its mount shows the container's group itself.
    """
    parts = [part for part in path.split("/") if part]
    if ".." in parts or not root.joinpath(*parts).is_dir():
        parts = []
    return [root.joinpath(*parts[:length]) for length in range(len(parts), -1, -1)]
