"""For tests of exported spans: a real collector on loopback that keeps what is posted to it, and answers as told."""

from __future__ import annotations

import gzip
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, cast

from tocsin.tracing import export, protobuf, spans
from tocsin.tracing.context import propagation
from tocsin.tracing.recording import KINDS

__all__ = ["OtlpCollector", "Reply", "SeenEvent", "SeenSpan", "decoded", "reset_tracing"]

_KINDS = {number: name for name, number in KINDS.items()}
_STATUS = ("unset", "ok", "error")


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """An event of a span that was exported."""

    name: str
    at: int
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SeenSpan:
    """A span that was exported. Ids are lower-case hexadecimal digits, times Unix nanoseconds."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty if the trace begins here."""
    state: str
    start: int
    end: int
    status: str
    """`unset`, `ok` or `error`."""
    message: str
    attributes: dict[str, Any]
    events: tuple[SeenEvent, ...]
    links: tuple[tuple[str, str], ...]
    """(trace id, span id) of each."""
    dropped: tuple[int, int, int]
    """Attributes, events and links that were too many."""
    scope: str
    resource: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the collector answers."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Post:
    """What was posted."""

    path: str
    headers: dict[str, str]
    body: bytes
    """Unpacked, if it was compressed."""
    reply: Reply


class OtlpCollector:
    """Takes posts of spans on a free loopback port while its `with` block runs."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.posts: list[Post] = []
        self.connections = 0
        self.replies: deque[Reply] = deque()
        """The next answers; when there are none left, everything is accepted."""
        self.gate = threading.Event()
        """While it is cleared, posts are read and not answered."""
        self.gate.set()
        self._arrived = threading.Condition()
        self._server: _Listener | None = None
        self._port = 0

    def __enter__(self) -> OtlpCollector:
        """Listen."""
        collector = self

        class Handler(_Handler):
            owner = collector

        self._server = _Listener(("127.0.0.1", self._port), Handler)
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        """Stop listening, also on connections that are open; `with` may be used again, on the same port."""
        self.gate.set()
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        """What `OTEL_EXPORTER_OTLP_ENDPOINT` has to be."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}"

    @property
    def environ(self) -> dict[str, str]:
        """Variables that have spans exported here, soon after they are over."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "20"}

    @property
    def spans(self) -> list[SeenSpan]:
        """All spans that were accepted, in the order they came."""
        return [span for post in list(self.posts) if post.reply.status == 200 for span in decoded(post.body)]

    def wait_for(self, spans: int, timeout: float = 20.0) -> list[SeenSpan]:
        """Return all accepted spans once there are so many.

        Raises:
            TimeoutError: there were fewer after `timeout` seconds; the message says how many.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.spans) >= spans, timeout):
                raise TimeoutError(f"{len(self.spans)} spans in {len(self.posts)} posts, expected {spans}")
        return self.spans

    def wait_for_posts(self, posts: int, timeout: float = 20.0) -> list[Post]:
        """Return all posts once there are so many, accepted or not.

        Raises:
            TimeoutError: there were fewer after `timeout` seconds.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.posts) >= posts, timeout):
                raise TimeoutError(f"{len(self.posts)} posts, expected {posts}")
        return list(self.posts)

    def receive(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """Keep a post, and return what to answer once the gate is open."""
        with self._arrived:
            reply = self.replies.popleft() if self.replies else Reply()
            unpacked = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
            self.posts.append(Post(path, headers, unpacked, reply))
            self._arrived.notify_all()
        self.gate.wait()
        return reply


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing about a connection that broke: some tests break them."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: OtlpCollector

    def setup(self) -> None:
        super().setup()
        self.owner.connections += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.owner.receive(self.path, headers, body)
        if self.owner._server is None:
            self.close_connection = True
            return
        try:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
        except OSError:  # who posted did not wait for the answer
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name for it
        """Say nothing."""


def reset_tracing() -> None:
    """Stop all exporters, and take back what is set for the whole process: the next test begins as a new one."""
    export.abandon_all()
    spans.forget_origin()
    propagation.names = frozenset(("tracecontext", "baggage"))
    bridge = spans.bridge()
    if bridge is not None:
        bridge.withdraw_provider()


def decoded(body: bytes) -> Iterator[SeenSpan]:
    """Yield the spans of an `ExportTraceServiceRequest`.

    Raises:
        ValueError: it is none.
    """
    for resource_spans in _each(body, 1):
        resource = _attributes(next(_each(resource_spans, 1), b""), 1)
        for scope_spans in _each(resource_spans, 2):
            scope = next(_each(next(_each(scope_spans, 1), b""), 1), b"").decode()
            for span in _each(scope_spans, 2):
                yield _span(span, scope, resource)


def _each(message: bytes, number: int) -> Iterator[bytes]:
    """Yield the values of one field; protobuf leaves out what is zero or empty."""
    return (value for found, value in protobuf.fields(message) if found == number and isinstance(value, bytes))


def _span(message: bytes, scope: str, resource: dict[str, Any]) -> SeenSpan:
    found: dict[int, Any] = dict(protobuf.fields(message))
    status = dict(protobuf.fields(found.get(15, b"")))
    return SeenSpan(
        name=found.get(5, b"").decode(),
        kind=_KINDS[found[6]],
        trace_id=found[1].hex(),
        span_id=found[2].hex(),
        parent_id=found.get(4, b"").hex(),
        state=found.get(3, b"").decode(),
        start=_fixed(found.get(7, b"")),
        end=_fixed(found.get(8, b"")),
        status=_STATUS[cast("int", status.get(3, 0))],
        message=cast("bytes", status.get(2, b"")).decode(),
        attributes=_attributes(message, 9),
        events=tuple(
            SeenEvent(next(_each(event, 2), b"").decode(), _fixed(next(_each(event, 1), b"")), _attributes(event, 3))
            for event in _each(message, 11)
        ),
        links=tuple((next(_each(link, 1)).hex(), next(_each(link, 2)).hex()) for link in _each(message, 13)),
        dropped=(found.get(10, 0), found.get(12, 0), found.get(14, 0)),
        scope=scope,
        resource=resource,
    )


def _fixed(value: bytes) -> int:
    return int.from_bytes(value, "little")


def _attributes(message: bytes, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in _each(message, number):
        parts = dict(protobuf.fields(pair))
        found[cast("bytes", parts.get(1, b"")).decode()] = _value(cast("bytes", parts.get(2, b"")))
    return found


def _value(message: bytes) -> Any:
    """Return the content of an `AnyValue`, of which there is at most one."""
    for number, value in protobuf.fields(message):
        if isinstance(value, int):
            return bool(value) if number == 2 else value - 2**64 * (value >= 2**63)
        return _READERS[number](value)
    return None


_READERS: dict[int, Callable[[bytes], Any]] = {
    1: bytes.decode,
    4: lambda value: struct.unpack("<d", value)[0],
    5: lambda value: [_value(item) for item in _each(value, 1)],
    6: lambda value: _attributes(value, 1),
    7: bytes,
}
