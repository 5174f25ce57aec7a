"""What the tests of the stack share: a real Prometheus, free ports, and a look at what runs on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tocsin_service import web
from tocsin_stack import debian


@pytest.fixture(scope="session")
def prometheus() -> Path:
    """The prometheus program: PATH, the user's cache, or fetched into it now."""
    found = debian.find("prometheus")
    if found is None:
        try:
            debian.fetch("prometheus")
        except debian.FetchError as error:
            pytest.skip(f"needs prometheus: {error}")
        found = debian.find("prometheus")
    assert found is not None
    return found


@pytest.fixture
def free_address() -> web.Address:
    """An address on loopback that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return web.Address(*taken.getsockname())


class Leftovers:
    """Processes a test has seen; `running` says which of them are alive, and all are ended after the test."""

    def __init__(self) -> None:
        self._pids: set[int] = set()

    def note(self, pid: int | None) -> int:
        """Remember a process and return its id."""
        assert pid is not None
        self._pids.add(pid)
        return pid

    def running(self) -> set[int]:
        """Return those that run; a zombie does not."""
        return {pid for pid in self._pids if alive(pid)}


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def leftovers() -> Iterator[Leftovers]:
    seen = Leftovers()
    yield seen
    for pid in seen.running():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
