"""The zoo: real servers on loopback, one for each way a target can behave, and certificates to break TLS with."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tocsin_service.settings import Document
from tocsin_uptime import config
from tocsin_uptime.config import Config

Animal = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _says(answer: bytes) -> Animal:
    async def animal(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return animal


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends the request back as the body; the fixture has read its headers."""
    head: bytes = reader.head  # type: ignore[attr-defined]  # left there by the zoo's keeper
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    body = head + await reader.readexactly(length)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


async def _silent(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def _slow_headers(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nServer: sl")
    await asyncio.sleep(30)


async def _slow_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it")
    await asyncio.sleep(30)


async def _reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # Lingering for zero seconds makes the kernel send RST instead of FIN.
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _huge(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    for _turn in range(1600):
        writer.write(b"x" * 65536)
        await writer.drain()


async def _trickled(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n":
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)


async def _endless_headers(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for _turn in range(10_000):
        writer.write(b"X-Filler: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


async def _endless_trailers(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Filler: ")
    for _turn in range(10_000):
        writer.write(b"x" * 1000)
        await writer.drain()


ANIMALS: dict[str, Animal] = {
    "/ok": _says(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nhealthy"),
    "/created": _says(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"),
    "/empty": _says(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "/500": _says(b"HTTP/1.1 500 Oops\r\nContent-Length: 22\r\n\r\nno\tdatabase\r\n\x1b[31mred!"),
    "/503": _says(b"HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n"),
    "/moved": _says(
        b"HTTP/1.1 302 Found\r\nLocation: https://shop.example/a?token=secret\r\nContent-Length: 0\r\n\r\n"
    ),
    "/until-close": _says(b"HTTP/1.0 200 OK\r\n\r\nall there is"),
    "/hints": _says(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "/head": _says(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"),
    "/early-close": _says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"),
    "/nothing": _says(b""),
    "/garbage": _says(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n" * 3),
    "/echo": _echo,
    "/silent": _silent,
    "/slow-headers": _slow_headers,
    "/slow-body": _slow_body,
    "/reset": _reset,
    "/huge": _huge,
    "/trickled": _trickled,
    "/endless-headers": _endless_headers,
    "/endless-trailers": _endless_trailers,
    "/two-answers": _says(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
    ),
}


@dataclass(frozen=True)
class Zoo:
    """Where the animals live: `url` + the path of one."""

    url: str
    port: int


@contextlib.asynccontextmanager
async def open_zoo(context: ssl.SSLContext | None = None) -> AsyncIterator[Zoo]:
    visits: set[asyncio.Task[None]] = set()

    async def keeper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        visits.add(task)
        try:
            reader.head = await reader.readuntil(b"\r\n\r\n")  # type: ignore[attr-defined]  # for `_echo`
            path = reader.head.split()[1].decode().partition("?")[0]  # type: ignore[attr-defined]
            await ANIMALS[path](reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass  # visitors may leave early
        finally:
            visits.discard(task)
            writer.transport.abort() if writer.is_closing() else writer.close()

    server = await asyncio.start_server(keeper, "127.0.0.1", 0, ssl=context)
    # A visitor who does not trust us ends the handshake, which is what the tests are about.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Zoo(f"{'https' if context else 'http'}://127.0.0.1:{port}", port)
    finally:
        server.close()
        for task in list(visits):
            task.cancel()
        await asyncio.gather(*visits, return_exceptions=True)
        asyncio.get_running_loop().set_exception_handler(None)


@pytest.fixture
async def zoo() -> AsyncIterator[Zoo]:
    """Plain HTTP animals."""
    async with open_zoo() as opened:
        yield opened


@pytest.fixture
def https_zoo() -> Callable[[ssl.SSLContext], contextlib.AbstractAsyncContextManager[Zoo]]:
    """Opens a zoo behind TLS."""
    return open_zoo


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nobody listens on, kept from others by being bound."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def load() -> Callable[[str], Config]:
    """Reads a configuration from YAML text."""
    return lambda text: config.load(Document.parse(text, file="uptime.yml"))


# --- certificates -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificates:
    """A little authority in a folder."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, names: str, *, days: int = 30) -> ssl.SSLContext:
        """Return a server's context with a certificate for `names`; negative `days` make an expired one."""
        stem = f"{abs(hash((names, days)))}"
        key, request, certificate = (self.folder / f"{stem}.{kind}" for kind in ("key", "csr", "pem"))
        _openssl(
            "req", *_NEW_KEY, "-keyout", key, "-out", request, "-subj", "/CN=x", "-addext", f"subjectAltName={names}"
        )
        signed_by = ("-CA", self.authority, "-CAkey", self.folder / "ca.key")
        _openssl(
            "x509", "-req", "-in", request, *signed_by, "-days", days, "-copy_extensions", "copy", "-out", certificate
        )
        return _server(certificate, key)

    def self_signed(self) -> ssl.SSLContext:
        """Return a server's context with a certificate that vouches for itself."""
        return _server(self.folder / "ca.pem", self.folder / "ca.key")


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _openssl(*arguments: str | Path | int) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def _server(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, made with the `openssl` command."""
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    ca = ("-keyout", made.folder / "ca.key", "-out", made.authority, "-days", 30, "-subj", "/CN=tocsin test authority")
    _openssl("req", "-x509", *_NEW_KEY, *ca, "-addext", "subjectAltName=IP:127.0.0.1")
    return made
