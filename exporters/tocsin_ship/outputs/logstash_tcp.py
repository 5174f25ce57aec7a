"""Logstash's tcp input: JSON lines over a socket, with as much certainty as a protocol without answers allows.

Best effort: the peer never says what it has. What its kernel has not acknowledged counts as not sent, and the last
lines before an unclean break are sent again. So a break makes duplicates rather than gaps, but a Logstash that is
killed may still lose what it held in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tocsin_ship import lines
from tocsin_ship.config import LogstashTcp
from tocsin_ship.delivery import Delivery
from tocsin_ship.lines import Block, Text

SEND_BUFFER: Final = 128 * 1024
"""Bytes of our kernel's buffer: what is in it is lost with the connection."""
TAIL_BYTES: Final = 1024 * 1024
"""At least so many acknowledged bytes are kept to be sent again,"""
TAIL_SECONDS: Final = 2.0
"""and everything that is younger than this;"""
TAIL_AGE: Final = 60.0
"""but nothing older than this,"""
TAIL_LIMIT: Final = 8 * 1024 * 1024
"""and no more than this."""
_CONNECT_TIMEOUT: Final = 10.0
_FAREWELL: Final = 1.0
"""Seconds for the peer to read what is under way when we leave."""


@dataclass(slots=True)
class _Sent:
    """A piece of the stream.

    `end` counts bytes on this connection; `acked_at` is None until the peer's kernel has it. A piece that is sent again
    is counted once.
    """

    text: Text
    blocks: int
    end: int = 0
    acked_at: float | None = None
    counted: bool = False


class LogstashTcpOutput:
    """See `tocsin_ship.outputs.Output`."""

    kind = "logstash_tcp"
    read_size = 1024 * 1024

    def __init__(self, config: LogstashTcp, delivery: Delivery) -> None:
        self._host = config.host
        self._delivery = delivery
        self._socket: socket.socket | None = None
        self._written = 0
        self._waiting: deque[_Sent] = deque()
        self._tail: deque[_Sent] = deque()
        self._acked = 0
        self._settled = 0

    @property
    def acked(self) -> int:
        """Blocks that the peer's kernel has."""
        self._note_acks()
        return self._acked

    @property
    def settled(self) -> int:
        """Blocks that will not be sent again, not even after an unclean break."""
        self._note_acks()
        return self._settled

    async def open(self) -> None:
        """Nothing to do: a server that is away may come."""

    async def send(self, blocks: Sequence[Block]) -> None:
        """Return when our kernel has all of it."""
        now = self._delivery.clock.now()
        texts = [await asyncio.to_thread(lines.joined, block, now=now) for block in blocks]
        text = texts[0] if len(texts) == 1 else _together(texts)
        self._waiting.append(_Sent(text, len(blocks)))
        await self._flush()

    async def rest(self) -> None:
        """Notice that the peer has gone, and send it the tail again."""
        if self._socket is not None and _has_left(self._socket):
            self._break()
        await self._flush()

    async def close(self) -> None:
        """Leave cleanly: only when the peer has read everything to the end it closes without an error."""
        if self._socket is None:
            return
        try:
            async with asyncio.timeout(_FAREWELL):
                await _farewell(self._socket)
            self._settle_all()
        except (TimeoutError, OSError):
            pass
        finally:
            self._disconnect()

    async def _flush(self) -> None:
        while self._waiting:
            item = self._waiting[0]
            try:
                connection = await self._connected()
                if _has_left(connection):
                    raise ConnectionResetError("the server closed the connection")
                await asyncio.get_running_loop().sock_sendall(connection, item.text.data)
            except (OSError, TimeoutError) as error:
                await self._failed(error)
                continue
            self._waiting.popleft()
            self._written += len(item.text.data)
            item.end = self._written
            self._tail.append(item)
            self._delivery.working()

    async def _failed(self, error: Exception) -> None:
        self._break()
        again = sum(item.text.count for item in self._waiting)
        words = getattr(error, "strerror", None) or str(error) or "no answer in time"
        await self._delivery.again("connection", again, f"{self._host}: {words}")

    async def _connected(self) -> socket.socket:
        if self._socket is None:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                self._socket = await _connect(self._host.host, self._host.port)
            self._written = 0
        return self._socket

    def _break(self) -> None:
        """Put the tail before what waits: the peer may have lost it."""
        self._disconnect()
        for item in reversed(self._tail):
            item.acked_at = None
            self._waiting.appendleft(item)
        self._tail.clear()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _note_acks(self) -> None:
        """Ask the kernel how far the peer's kernel is, and let go of what is safe."""
        if self._socket is None:
            return
        now = self._delivery.clock.now()
        taken = self._written - _unacknowledged(self._socket)
        for item in self._tail:
            if item.end <= taken and item.acked_at is None:
                item.acked_at = now
                self._count(item)
        while self._tail and self._is_safe(self._tail[0], taken, now):
            self._settled += self._tail.popleft().blocks

    def _is_safe(self, item: _Sent, taken: int, now: float) -> bool:
        if item.acked_at is None:
            return False
        age = now - item.acked_at
        after = taken - item.end
        return age >= TAIL_AGE or after >= TAIL_LIMIT or (age >= TAIL_SECONDS and after >= TAIL_BYTES)

    def _count(self, item: _Sent) -> None:
        if not item.counted:
            item.counted = True
            self._acked += item.blocks
            self._delivery.acked(item.text.count)

    def _settle_all(self) -> None:
        for item in self._tail:
            self._count(item)
            self._settled += item.blocks
        self._tail.clear()


async def _connect(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    problem: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        connection = socket.socket(family, kind, protocol)
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError, AttributeError):  # names that only Linux has
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        try:
            await loop.sock_connect(connection, address)
        except OSError as error:
            connection.close()
            problem = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise problem


async def _farewell(connection: socket.socket) -> None:
    """End the stream and wait for the peer to do the same."""
    connection.shutdown(socket.SHUT_WR)
    while await asyncio.get_running_loop().sock_recv(connection, 4096):
        pass


def _has_left(connection: socket.socket) -> bool:
    """Tell whether the peer closed.

    It never sends, so anything readable is the end; other bytes are thrown away.
    """
    while True:
        try:
            if not connection.recv(4096):
                return True
        except BlockingIOError:
            return False
        except OSError:
            return True


def _unacknowledged(connection: socket.socket) -> int:
    """Return the bytes that the peer's kernel has not acknowledged (SIOCOUTQ)."""
    try:
        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except OSError:
        return 1 << 62  # the connection is gone: nothing more is known to be taken
    count: int = struct.unpack("i", answer)[0]
    return count


def _together(texts: Sequence[Text]) -> Text:
    return Text(b"".join(text.data for text in texts), sum(text.count for text in texts))
