"""A receiver in a process of its own that notes when which notification came; as Slack it bears so many a second."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A notification that was taken: when (Unix seconds), and what it says."""

    at: float
    body: Any


class Sink:
    """The receiver, seen from outside."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.url = f"http://127.0.0.1:{pipe.recv()}"

    def arrivals(self) -> list[Arrival]:
        """Return what has been taken since the last question."""
        self._pipe.send("arrivals")
        return [Arrival(at, json.loads(body)) for at, body in self._pipe.recv()]

    def refusals(self) -> int:
        """Return how many were answered 429 since the last question."""
        self._pipe.send("refusals")
        count: int = self._pipe.recv()
        return count


@contextmanager
def running(rate: float | None = None) -> Iterator[Sink]:
    """Run a receiver.

    Args:
        rate: notifications that it takes a second, the others are answered 429 with Retry-After; None is all.
    """
    here, there = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve, args=(there, rate), daemon=True)
    process.start()
    try:
        yield Sink(here)
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Connection, rate: float | None) -> None:
    asyncio.run(_main(pipe, rate))


async def _main(pipe: Connection, rate: float | None) -> None:
    taken: list[tuple[float, bytes]] = []
    refused = 0
    tokens, asked = 1.0, time.monotonic()

    def admit() -> bool:
        nonlocal tokens, asked, refused
        if rate is None:
            return True
        now = time.monotonic()
        tokens, asked = min(1.0, tokens + (now - asked) * rate), now
        if tokens < 1.0:
            refused += 1
            return False
        tokens -= 1.0
        return True

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            body = await reader.readexactly(_length(head))
            if admit():
                taken.append((time.time(), body))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
            else:
                writer.write(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    pipe.send(server.sockets[0].getsockname()[1])

    def answer() -> None:
        nonlocal refused
        if pipe.recv() == "arrivals":
            pipe.send(taken)
            taken.clear()
        else:
            pipe.send(refused)
            refused = 0

    asyncio.get_running_loop().add_reader(pipe.fileno(), answer)
    await server.serve_forever()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0
