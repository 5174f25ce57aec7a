"""What every probe begins with: the stopwatch of its phases, the name, the connection, and its one deadline."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
import time
from collections.abc import Awaitable, Sequence
from concurrent.futures import Future
from typing import Any

from tocsin_service import durations
from tocsin_uptime.check import Check
from tocsin_uptime.result import Failure, Phase, Reason

_Address = tuple[int, tuple[Any, ...]]
"""Family, and what `connect` takes for it."""


class ProbeError(Exception):
    """A probe that broke off; `what` ends the sentence "..., but {what}"."""

    def __init__(self, reason: Reason, what: str) -> None:
        super().__init__(what)
        self.reason = reason
        self.what = what


class Stopwatch:
    """Seconds of each phase. `enter` ends the phase before it."""

    def __init__(self) -> None:
        self.phases: dict[Phase, float] = {}
        self.current = Phase.RESOLVE
        self._start = self._entered = time.perf_counter()

    def enter(self, phase: Phase) -> None:
        """Begin `phase` now."""
        self._close()
        self.current = phase
        self.phases[phase] = 0.0

    def stop(self) -> float:
        """End the last phase and return the seconds of the whole probe."""
        self._close()
        return self._entered - self._start

    def _close(self) -> None:
        now = time.perf_counter()
        if self.current in self.phases:
            self.phases[self.current] = now - self._entered
        self._entered = now


async def attempt(check: Check, stopwatch: Stopwatch, probing: Awaitable[None]) -> Failure | None:
    """Await `probing` within the check's timeout; return where it broke off, or None."""
    try:
        async with asyncio.timeout(check.timeout):
            await probing
    except TimeoutError:
        return Failure(_TIMED_OUT[stopwatch.current], stopwatch.current, _timed_out(check, stopwatch.current))
    except ProbeError as error:
        return Failure(error.reason, stopwatch.current, error.what)
    return None


async def connect(check: Check, stopwatch: Stopwatch) -> socket.socket:
    """Return a connected, non-blocking socket.

    Raises:
        ProbeError: no address, or none of them took the connection.
    """
    deadline = asyncio.get_running_loop().time() + check.timeout
    addresses = await _resolve(check.target.host, check.target.port, stopwatch)
    stopwatch.enter(Phase.CONNECT)
    for left in range(len(addresses), 1, -1):
        try:
            # A dead first address (often IPv6) must leave time for the others.
            async with asyncio.timeout((deadline - asyncio.get_running_loop().time()) / left):
                return await _open(addresses[-left])
        except (OSError, ProbeError):
            continue
    return await _open(addresses[-1])


async def _resolve(host: str, port: int, stopwatch: Stopwatch) -> list[_Address]:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, (host, port))]
    stopwatch.enter(Phase.RESOLVE)
    try:
        found = await asyncio.wrap_future(_look_up(host, port))
    except socket.gaierror as error:
        raise ProbeError(Reason.DNS, f"no address was found for {host} ({_reason(error)})") from error
    except UnicodeError as error:
        raise ProbeError(Reason.DNS, f"{host} is not a name that DNS can hold") from error
    return [(family, address) for family, _, _, _, address in found]


_Found = Sequence[tuple[int, int, int, str, tuple[Any, ...]]]
_lookups: dict[tuple[str, int], Future[_Found]] = {}
"""Lookups under way: a name has one thread at most, however often it is probed meanwhile."""


def _look_up(host: str, port: int) -> Future[_Found]:
    """Return the lookup of a name that is under way, or begin one.

    Not on the few threads of the loop: a dead resolver holds a thread for half a minute. Names that work must not
    queue behind it, and a process that is told to end must not wait for it.
    """
    if (under_way := _lookups.get((host, port))) is not None:
        return under_way
    begun: Future[_Found] = Future()
    begun.set_running_or_notify_cancel()  # from here on, one probe that gives up cannot cancel it for the others
    _lookups[host, port] = begun
    try:
        threading.Thread(target=_resolve_now, args=(host, port, begun), name=f"dns {host}", daemon=True).start()
    except RuntimeError:
        del _lookups[host, port]
        raise
    return begun


def _resolve_now(host: str, port: int, begun: Future[_Found]) -> None:
    try:
        found: _Found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except Exception as error:
        del _lookups[host, port]
        begun.set_exception(error)
    else:
        del _lookups[host, port]
        begun.set_result(found)


async def _open(address: _Address) -> socket.socket:
    family, where = address
    shown = f"[{where[0]}]:{where[1]}" if family == socket.AF_INET6 else f"{where[0]}:{where[1]}"
    try:
        # An address family that this machine does not have fails here already.
        connection = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ProbeError(Reason.CONNECT_ERROR, f"{shown} cannot be reached: {_reason(error)}") from error
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, where)
    except ConnectionRefusedError as error:
        connection.close()
        raise ProbeError(Reason.CONNECT_REFUSED, f"{shown} refused the connection") from error
    except TimeoutError:
        connection.close()
        raise
    except OSError as error:
        connection.close()
        raise ProbeError(Reason.CONNECT_ERROR, f"{shown} cannot be reached: {_reason(error)}") from error
    except BaseException:
        connection.close()
        raise
    return connection


_TIMED_OUT = {
    Phase.RESOLVE: Reason.DNS,
    Phase.CONNECT: Reason.CONNECT_TIMEOUT,
    Phase.TLS: Reason.TLS,
    Phase.PROCESSING: Reason.TIMEOUT_HEADERS,
    Phase.TRANSFER: Reason.TIMEOUT_BODY,
}


def _timed_out(check: Check, phase: Phase) -> str:
    target = check.target
    limit = f"within {durations.human(check.timeout)}"
    match phase:
        case Phase.RESOLVE:
            return f"DNS gave no address for {target.host} {limit}"
        case Phase.CONNECT:
            return f"{target.host} port {target.port} took no connection {limit}"
        case Phase.TLS:
            return f"the TLS handshake was not done {limit}"
        case Phase.PROCESSING:
            return f"no answer came {limit}"
        case Phase.TRANSFER:
            return f"the answer was not complete {limit}"


def _reason(error: OSError) -> str:
    return _lower(error.strerror or os.strerror(error.errno or errno.EIO))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
