"""What the applications of the correctness table have in common. Runs inside of the servers, not inside of pytest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import structlog

import tocsin

log = tocsin.get_logger("shop")
OUTER: ContextVar[str] = ContextVar("outer", default="lost")
"""Set outside of the instrumented application, read inside of it."""

PAUSE = 0.05
LATER = 1.0
PIECE = b"x" * 62_500
PIECES = 80
COOKIES = [("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-twice", "1"), ("x-twice", "2")]


def instrumented(app: Any, name: str = "shop") -> Any:
    """Instrument twice: that it changes nothing is what every row of the table then shows."""
    once = tocsin.instrument(app, service_name=name, exclude=("/quiet*",))
    return tocsin.instrument(once, service_name=name, exclude=("/quiet*",))


def inside() -> dict[str, str]:
    """Log from where a thread runs, with a variable that must not leak; tell what is known there."""
    structlog.contextvars.bind_contextvars(user="ann")
    log.info("inside")
    return {"outer": OUTER.get(), **tocsin.trace_headers()}


async def later() -> None:
    """Run after the answer."""
    await asyncio.sleep(LATER)
    log.info("later")


async def pieces() -> AsyncIterator[bytes]:
    """Take two pauses for three pieces."""
    yield b"x"
    for _ in range(2):
        await asyncio.sleep(PAUSE)
        yield b"x"


async def broken() -> AsyncIterator[bytes]:
    """Fail in the midst of an answer."""
    yield b"half"
    raise RuntimeError("halfway")


async def big(gate: str) -> AsyncIterator[bytes]:
    """Give five megabytes, the first piece before the gate is open. A gate is a file that the client makes."""
    yield PIECE
    deadline = time.monotonic() + 10
    while not Path(gate).exists():  # noqa: ASYNC240  # a test's signal, in a file system in memory
        if time.monotonic() > deadline:
            raise TimeoutError("the client did not see the first piece")
        await asyncio.sleep(0.005)
    for _ in range(PIECES - 1):
        yield PIECE


async def events() -> AsyncIterator[bytes]:
    """Tell events without end, and say when nobody listens any more."""
    try:
        while True:
            yield b"data: tick\n\n"
            await asyncio.sleep(0.005)
    finally:
        log.info("closed")


async def cancelled() -> None:
    """Be cancelled, as a server does it to what takes too long."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(10)


def sync_pieces() -> Iterator[bytes]:
    """As `pieces`, for WSGI."""
    yield b"x"
    for _ in range(2):
        time.sleep(PAUSE)
        yield b"x"


def sync_broken() -> Iterator[bytes]:
    """As `broken`, for WSGI."""
    yield b"half"
    raise RuntimeError("halfway")


def sync_big(gate: str) -> Iterator[bytes]:
    """As `big`, for WSGI."""
    yield PIECE
    deadline = time.monotonic() + 10
    while not Path(gate).exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the client did not see the first piece")
        time.sleep(0.005)
    for _ in range(PIECES - 1):
        yield PIECE


def beside(first: Any, second: Any) -> Any:
    """Return two instrumented ASGI applications of one process as one, told apart by the host that is asked for."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        OUTER.set("kept")
        chosen = second if (b"host", b"second.example") in scope.get("headers", ()) else first
        try:
            await chosen(scope, receive, send)
        except RuntimeError as error:
            log.warning("escaped", path=scope["path"], why=str(error))
            raise

    return application


def beside_wsgi(first: Any, second: Any) -> Any:
    """As `beside`, for WSGI."""

    def application(environ: Any, start_response: Any) -> Any:
        OUTER.set("kept")
        chosen = second if environ.get("HTTP_HOST") == "second.example" else first
        return chosen(environ, start_response)

    return application
