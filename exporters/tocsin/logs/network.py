"""Parcels over TCP and UDP, for the thread of an outbox: who is away is tried again, with growing pauses."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import Any

from tocsin.logs.parcel import Parcel, Source

_CONNECT_SECONDS = 5.0
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_RESOLVE_SECONDS = 60.0
"""How long a name's address is used for datagrams."""


class _Pause:
    """When to try again somebody who is away: after 0.5 seconds, then twice as long, at most 30."""

    def __init__(self) -> None:
        self._seconds = _PAUSE_SECONDS
        self._until = 0.0

    def is_over(self) -> bool:
        """Whether it is time."""
        return time.monotonic() >= self._until

    def failed(self) -> None:
        """Note that it failed."""
        self._until = time.monotonic() + self._seconds
        self._seconds = min(self._seconds * 2, _LONGEST_PAUSE_SECONDS)

    def skip(self) -> None:
        """Let the next try be now."""
        self._until = 0.0

    def worked(self) -> None:
        """Note that it worked."""
        self._seconds, self._until = _PAUSE_SECONDS, 0.0


class TcpSink:
    """One connection, made when it is needed."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None
        self._pause = _Pause()

    def pack(self, payloads: list[bytes], sources: list[Source]) -> list[Parcel]:
        """Return the events on a line each."""
        return [Parcel(b"".join([payload + b"\n" for payload in payloads]), sources)]

    def send(self, parcel: Parcel, patience: float) -> bool:
        """Send all of a parcel; after a broken connection again from the event that was cut."""
        deadline = time.monotonic() + patience
        if self._socket is None and not self._connect(patience):
            return False
        connection, sent = self._socket, 0
        assert connection is not None  # noqa: S101 - for the type checker
        try:
            if _gone(connection):
                raise ConnectionResetError
            poll = select.poll()  # not `select.select`: that refuses descriptors from 1,024 on
            poll.register(connection, select.POLLOUT)
            while sent < len(parcel.data):
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    return False
                sent += connection.send(parcel.data[sent:])
        except OSError:
            sent = parcel.data.rfind(b"\n", 0, sent) + 1
            self.close()
            self._pause.failed()
            return False
        finally:
            parcel.data = parcel.data[sent:]
        return True

    def _connect(self, patience: float) -> bool:
        if not self._pause.is_over():
            return False
        try:
            connection = socket.create_connection(self._address, max(0.05, min(patience, _CONNECT_SECONDS)))
        except OSError:
            self._pause.failed()
            return False
        connection.setblocking(False)
        self._socket = connection
        self._pause.worked()
        return True

    def hurry(self) -> None:
        """Connect without a pause."""
        self._pause.skip()

    def close(self) -> None:
        """Close the connection; the next parcel makes a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def forked(self) -> None:
        """Leave the connection to the parent."""
        self.close()


def _gone(connection: socket.socket) -> bool:
    """Whether the other side has closed: then what is sent is lost without an error."""
    with contextlib.suppress(BlockingIOError):
        return not connection.recv(1, socket.MSG_PEEK)
    return False


class UdpSink:
    """One socket; the name is resolved once a minute."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._socket: socket.socket | None = None
        self._address: Any = None
        self._resolve_at = 0.0
        self._pause = _Pause()

    def pack(self, payloads: list[bytes], sources: list[Source]) -> list[Parcel]:
        """Return a datagram for each event."""
        return [Parcel(payload, [source]) for payload, source in zip(payloads, sources, strict=True)]

    def send(self, parcel: Parcel, patience: float) -> bool:
        """Send a datagram.

        Raises:
            OSError: it is too long, or no way leads there.
        """
        if time.monotonic() >= self._resolve_at and not self._resolve():
            return False
        assert self._socket is not None  # noqa: S101 - for the type checker
        self._socket.sendto(parcel.data, self._address)
        return True

    def _resolve(self) -> bool:
        if not self._pause.is_over():
            return False
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
        except OSError:
            self._pause.failed()
            return False
        self.close()
        self._socket, self._address = socket.socket(family, kind, protocol), address
        self._resolve_at = time.monotonic() + _RESOLVE_SECONDS
        self._pause.worked()
        return True

    def hurry(self) -> None:
        """Resolve without a pause."""
        self._pause.skip()

    def close(self) -> None:
        """Close the socket; the next parcel opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket, self._resolve_at = None, 0.0

    def forked(self) -> None:
        """Open a socket of its own."""
        self.close()
