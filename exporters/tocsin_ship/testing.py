"""Real little sinks on loopback for tests of shippers: lines over TCP, a strict `_bulk`, and a line that cuts out."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tocsin_service.testing import eventually, serving


class LineSink:
    """A TCP server that records lines and can be killed: what it has not read by then is lost, as in a crash."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.port = 0
        self.reading = asyncio.Event()
        """Cleared, the sink accepts and reads nothing."""
        self.reading.set()
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=16 * 1024 * 1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """Reset all connections and stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer, reading in list(self._connections.items()):
            writer.transport.abort()
            reading.cancel()
        await eventually(lambda: not self._connections)

    async def take(self, count: int, *, timeout: float = 20.0) -> list[bytes]:
        """Wait for `count` different lines and return all lines, repeated ones too."""
        await eventually(lambda: len(set(self.lines)) >= count, timeout=timeout)
        return self.lines

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reading = self._connections[writer] = asyncio.create_task(self._read(reader))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([reading])
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        del self._connections[writer]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await self.reading.wait()
                line = await reader.readline()
                if not line.endswith(b"\n"):
                    break
                self.lines.append(line[:-1])


@contextlib.asynccontextmanager
async def line_sink() -> AsyncIterator[LineSink]:
    """Run a `LineSink` on a free port."""
    sink = LineSink()
    await sink.start()
    try:
        yield sink
    finally:
        sink.reading.set()
        await sink.kill()


@dataclass
class BulkServer:
    """A server that takes `_bulk` as strictly as Elasticsearch takes it for a data stream.

    Attributes:
        documents: `_id` -> source, as stored.
        whole: statuses to answer the next requests with, before looking at them.
        judge: given `_id` and source, the status to refuse an event with, or None to take it.
        spoils: given `_id` and source, the status to refuse the request with for the sake of one event, or None.
        limit: bytes a body may have.
        authorization: the header that is asked for, or None.
        requests: how many events each request carried; refused ones too.
        doubled: how many events came that were there already.
    """

    url: str = ""
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    whole: deque[int] = field(default_factory=deque)
    judge: Callable[[str, dict[str, Any]], int | None] = field(default=lambda *_: None)
    spoils: Callable[[str, dict[str, Any]], int | None] = field(default=lambda *_: None)
    limit: int = 100 * 1024 * 1024
    authorization: str | None = None
    requests: list[int] = field(default_factory=list)
    doubled: int = 0

    async def take(self, count: int, *, timeout: float = 20.0) -> dict[str, dict[str, Any]]:
        """Wait until `count` events are stored."""
        await eventually(lambda: len(self.documents) >= count, timeout=timeout)
        return self.documents

    async def handle(self, request: Request) -> Response:
        """Answer `POST /<stream>/_bulk`."""
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.requests.append(body.count(b"\n") // 2)
        if refusal := self._refusal(request, body):
            return refusal
        lines = body[:-1].split(b"\n")
        try:
            pairs = [(_created(json.loads(lines[at])), lines[at + 1]) for at in range(0, len(lines), 2)]
        except (ValueError, KeyError, IndexError) as error:
            return _problem(400, "illegal_argument_exception", f"malformed action: {error}")
        if spoilt := next(filter(None, (self._spoils(key, source) for key, source in pairs)), None):
            return _problem(spoilt, "exception", "something in this request is too much for the server")
        items = [{"create": self._create(key, source)} for key, source in pairs]
        return JSONResponse({"errors": any("error" in item["create"] for item in items), "items": items})

    def _refusal(self, request: Request, body: bytes) -> Response | None:
        if self.authorization is not None and request.headers.get("authorization") != self.authorization:
            return _problem(401, "security_exception", "missing authentication credentials")
        if self.whole:
            return _problem(self.whole.popleft(), "es_rejected_execution_exception", "told to refuse")
        if request.headers.get("content-type") != "application/x-ndjson":
            return _problem(406, "media_type_header_exception", "wrong content type")
        if len(body) > self.limit:
            return _problem(413, "content_too_long_exception", "entity content is too long")
        if not body.endswith(b"\n"):
            return _problem(400, "illegal_argument_exception", "the bulk request must be terminated by a newline")
        return None

    def _spoils(self, key: str, source: bytes) -> int | None:
        try:
            event = json.loads(source)
        except ValueError:
            return None
        return self.spoils(key, event)

    def _create(self, key: str, source: bytes) -> dict[str, Any]:
        try:
            event = json.loads(source.decode(), parse_constant=_no_constant)
        except ValueError as error:
            return _item(400, "document_parsing_exception", str(error))
        if not isinstance(event, dict) or not isinstance(event.get("@timestamp"), str):
            return _item(400, "document_parsing_exception", "a data stream needs @timestamp")
        scalars = [name for name in ("host", "service", "error", "user") if not isinstance(event.get(name, {}), dict)]
        if scalars:
            return _item(400, "document_parsing_exception", f"object mapping for {scalars} found a concrete value")
        if (status := self.judge(key, event)) is not None:
            return _item(status, _TYPES.get(status, "exception"), "told to refuse")
        if key in self.documents:
            self.doubled += 1
            return _item(409, "version_conflict_engine_exception", "document already exists")
        self.documents[key] = event
        return {"status": 201}


_TYPES = {
    400: "document_parsing_exception",
    403: "security_exception",
    404: "index_not_found_exception",
    429: "es_rejected_execution_exception",
    503: "unavailable_shards_exception",
}


@contextlib.asynccontextmanager
async def bulk_server() -> AsyncIterator[BulkServer]:
    """Run a `BulkServer` on a free port."""
    server = BulkServer()
    app = Starlette(routes=[Route("/{stream}/_bulk", server.handle, methods=["POST"])])
    async with serving(app) as server.url:
        yield server


@dataclass
class Proxy:
    """Stands before a server; of the next `cut` answers nothing comes through, though the server has done its work."""

    port: int = 0
    cut: int = 0

    async def pump(self, upstream: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to port `upstream`."""
        back, there = await asyncio.open_connection("127.0.0.1", upstream)
        forward = asyncio.create_task(_copy(reader, there))
        try:
            while data := await back.read(65536):
                if self.cut:
                    self.cut -= 1
                    break
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            forward.cancel()
            await asyncio.gather(forward, return_exceptions=True)
            for end in (writer, there):
                end.transport.abort()


@contextlib.asynccontextmanager
async def proxy(upstream: int) -> AsyncIterator[Proxy]:
    """Run a `Proxy` before port `upstream` of loopback."""
    result = Proxy()
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 a callback of asyncio runs in a task; for mypy
        tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await result.pump(upstream, reader, writer)
        tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    result.port = server.sockets[0].getsockname()[1]
    try:
        yield result
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def _created(action: Any) -> str:
    if list(action) != ["create"] or list(action["create"]) != ["_id"]:
        raise ValueError("a data stream takes create with _id")
    key: str = action["create"]["_id"]
    if not 0 < len(key.encode()) <= 512:
        raise ValueError("_id is too long")
    return key


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _item(status: int, kind: str, reason: str) -> dict[str, Any]:
    return {"status": status, "error": {"type": kind, "reason": reason}}


def _problem(status: int, kind: str, reason: str) -> Response:
    return JSONResponse({"error": {"type": kind, "reason": reason}, "status": status}, status_code=status)
