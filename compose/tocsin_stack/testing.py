"""Drives a real `tocsin up` in tests: starts the process, reads its screen, finds its parts, ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tocsin_stack import state


@dataclass
class Up:
    """A running `tocsin up`."""

    process: asyncio.subprocess.Process
    folder: Path
    began: float
    screen: list[str] = field(default_factory=list)
    """The lines it has printed so far."""
    ready_after: float = 0.0
    """Seconds from the start of the process to its screen."""

    @property
    def urls(self) -> Mapping[str, str]:
        """Where its parts are."""
        return state.read(self.folder).urls

    async def get(self, part: str, path: str) -> Any:
        """GET a path of a part and return the decoded JSON, or the text where it is none."""
        async with httpx.AsyncClient(timeout=5.0) as client:
            response = await client.get(self.urls[part] + path)
        response.raise_for_status()
        return response.json() if "json" in response.headers.get("content-type", "") else response.text

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Ask its Prometheus and return the series of the answer."""
        async with httpx.AsyncClient(timeout=5.0) as client:
            response = await client.get(self.urls["prometheus"] + "/api/v1/query", params={"query": expression})
        result: list[dict[str, Any]] = response.json()["data"]["result"]
        return result

    async def command(self, *arguments: str) -> str:
        """Run another `tocsin` command against it and return what it prints."""
        process = await asyncio.create_subprocess_exec(
            *_command(*arguments, "--storage.path", str(self.folder)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise AssertionError(output.decode())
        return output.decode()

    async def terminate(self) -> tuple[int, float]:
        """Send SIGTERM; return the exit code and the seconds it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return await self.process.wait(), time.monotonic() - began

    async def kill(self) -> None:
        """Send SIGKILL, the end that nothing can prepare for."""
        self.process.kill()
        await self.process.wait()

    def rss(self) -> float:
        """Return the resident memory of the process itself in MiB, without its children."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    async def _read(self, shown: asyncio.Event) -> None:
        stream = self.process.stdout
        if stream is None:
            return
        async for line in stream:
            self.screen.append(line.decode().rstrip("\n"))
            if " is up after " in self.screen[-1] and not self.ready_after:
                self.ready_after = time.monotonic() - self.began
                shown.set()
        shown.set()


@contextlib.asynccontextmanager
async def up(folder: Path, *flags: str, environ: Mapping[str, str] | None = None) -> AsyncIterator[Up]:
    """Run `tocsin up` with `folder` as its data folder until the block ends.

    Raises:
        AssertionError: it ended before it was ready; the message holds what it printed.
    """
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *_command("up", "--storage.path", str(folder), *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(environ) if environ is not None else None,
    )
    running = Up(process, folder, began)
    shown = asyncio.Event()
    reader = asyncio.create_task(running._read(shown))
    try:
        async with asyncio.timeout(30):
            await shown.wait()
        if not running.ready_after:
            raise AssertionError("tocsin up ended:\n" + "\n".join(running.screen))
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reader


def descendants(pid: int) -> set[int]:
    """Return the process ids below `pid`, as Linux' /proc tells."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    level = {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level} - found
        found |= level
    return found


def alive(pids: Sequence[int] | set[int]) -> list[int]:
    """Return those of `pids` that still run; a zombie does not."""
    running = []
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, 0)
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            if stat.rpartition(")")[2].split()[0] != "Z":
                running.append(pid)
    return running


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tocsin_stack", *arguments]
