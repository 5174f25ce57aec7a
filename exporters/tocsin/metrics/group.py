"""Which processes are workers of one server, found without being told.

Workers of one server have one leader: the process that started them. A group is named after the leader's pid and the
time it started, so that a pid used again is another group, and after the service, so that two services started by one
process do not mix.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import NamedTuple

SWITCH = "TOCSIN_WORKERS"
"""Set to `off`, every process counts for itself."""
MULTIPROC_DIR = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's variable: all processes that have the same one belong together."""

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # a folder of this user's own is made in it, and checked


_DAY = 86_400.0
_STARTED = 19
"""Which field of `/proc/PID/stat`, from the state on."""


class Leader(NamedTuple):
    """The process that started the workers of a group; this process itself, if it may become a leader."""

    pid: int
    started: int
    """In clock ticks since the machine started; 0 where that cannot be known."""
    evident: bool = False
    """Whether a server is known to have started this process as its worker."""


def enabled(environ: Mapping[str, str]) -> bool:
    """Whether workers may be summed: wished, and possible on this system."""
    wished = environ.get(SWITCH, "").strip().lower() not in ("off", "0", "false", "no")
    return wished and hasattr(os, "fork") and hasattr(os, "register_at_fork")


def declared_folder(environ: Mapping[str, str]) -> Path | None:
    """Return the folder that the user has given for all processes that belong together."""
    folder = environ.get(MULTIPROC_DIR) or environ.get(MULTIPROC_DIR.lower())
    return Path(folder) if folder else None


def leader() -> Leader:
    """Return who leads this process: its server, a parent that runs the same program, or itself."""
    own, parent = os.getpid(), os.getppid()
    server = _server(sys._getframe())
    if server is not None:
        return Leader(server, started(server), evident=True)
    spawner = _spawner()
    if spawner is not None:
        return Leader(spawner, started(spawner))
    command = _command(own)
    if command and command == _command(parent):
        return Leader(parent, started(parent))
    return Leader(own, started(own))


def forked_as_worker(caller: FrameType | None) -> bool:
    """Whether the function that called `os.fork` is a server that starts a worker, which stays the user it is now."""
    if caller is None:
        return False
    if "uwsgi" in sys.modules:
        return True
    if not _is(caller, "gunicorn.arbiter", "spawn_worker"):
        return False
    config = getattr(caller.f_locals.get("self"), "cfg", None)
    return getattr(config, "uid", os.geteuid()) == os.geteuid()


def _server(frame: FrameType | None) -> int | None:
    """Return the pid of the server that this code runs under as a worker, looking through the calls it runs in."""
    while frame is not None:
        if _is(frame, "gunicorn.arbiter", "spawn_worker"):
            worker = frame.f_locals.get("worker")
            if getattr(worker, "pid", None) == os.getpid():
                return os.getppid()
        elif _is(frame, "uvicorn._subprocess", "subprocess_started"):
            return _spawner()
        frame = frame.f_back
    return None


def _spawner() -> int | None:
    """Return the pid of the process that started this one by multiprocessing."""
    process = sys.modules.get("multiprocessing.process")  # not imported for that: a process by itself does not need it
    parent = process.parent_process() if process is not None else None
    return parent.pid if parent is not None else None


def _is(frame: FrameType, module: str, function: str) -> bool:
    return frame.f_code.co_name == function and frame.f_globals.get("__name__") == module


def folder_name(found: Leader, service: str, number: int) -> str:
    """Return the name of a group's folder: who leads it, and what it counts (the service's n-th registry)."""
    digest = hashlib.blake2s(f"{service}\n{number}".encode(), digest_size=6).hexdigest()
    return f"{namespace()}-{found.pid}-{found.started}-{digest}"


def folders_of(pid: int) -> str:
    """Return a pattern for the names of all folders of a leader that is alive."""
    return f"{namespace()}-{pid}-{started(pid)}-*"


def forsaken(name: str, age: float) -> bool:
    """Whether the leader that a folder is named after is no more.

    Args:
        name: of the folder.
        age: seconds since a process came or went in it. Of another container that is all that can be known.
    """
    parts = name.split("-")
    if len(parts) != 4 or not all(part.isdigit() for part in parts[:3]):
        return False
    if parts[0] != namespace():
        return age > _DAY
    return not alive(int(parts[1])) or started(int(parts[1])) != int(parts[2])


def root() -> Path:
    """Return the folder of this user's groups, made if it is not there.

    Raises:
        OSError: no folder can be made that is this user's alone.
    """
    problems = []
    for folder in _roots():
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            private(folder)
        except OSError as error:
            problems.append(str(error))
        else:
            return folder
    raise OSError("; ".join(problems))


def has_folder(name: str) -> bool:
    """Whether there is a folder of a group; makes none."""
    return any((folder / name).is_dir() for folder in _roots())


def _roots() -> list[Path]:
    return [parent / f"tocsin-{os.geteuid()}" for parent in (_SHARED_MEMORY, Path(tempfile.gettempdir()))]


def private(folder: Path) -> None:
    """Make sure that nobody else writes into this folder.

    Raises:
        PermissionError: it is another user's, or others may write into it, or it is a link.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(
            f"{folder} must be a folder of user {os.geteuid()} that nobody else writes to, "
            f"found owner {found.st_uid} and mode {stat.filemode(found.st_mode)}"
        )


def namespace() -> str:
    """Return what tells the pids of this container from those of another one."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "0"


def process_fields(pid: int) -> list[bytes]:
    """Return the fields of `/proc/PID/stat` from the state on; empty if there is no such process, or no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def started(pid: int) -> int:
    """Return when a process started, in clock ticks since the machine did; 0 if that cannot be known."""
    found = process_fields(pid)
    return int(found[_STARTED]) if found else 0


def start_time(pid: int) -> float:
    """Return when a process started in Unix seconds; 0 if that cannot be known."""
    try:
        lines = Path("/proc/stat").read_bytes().splitlines()
    except OSError:
        return 0.0
    booted = next((float(line.split()[1]) for line in lines if line.startswith(b"btime ")), 0.0)
    ticks = started(pid)
    return booted + ticks / os.sysconf("SC_CLK_TCK") if booted and ticks else 0.0


def alive(pid: int) -> bool:
    """Whether there is a process of this pid, a zombie included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
