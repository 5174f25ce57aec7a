"""A collector that accepts OTLP/HTTP traces on loopback in a process of its own, and only counts the spans."""

from __future__ import annotations

import gzip
import http.client
import http.server
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

_PATH = tuple((field << 3) | 2 for field in (1, 2, 2))
"""Tags on the way to a span: TracesData.resource_spans = 1, ResourceSpans.scope_spans = 2, ScopeSpans.spans = 2."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def spans_in(data: bytes, depth: int = 0) -> int:
    """Return the number of spans in an ExportTraceServiceRequest; only length-delimited fields on the way to them."""
    if depth == len(_PATH):
        return 1
    count = at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        size, at = _varint(data, at)
        if tag & 7 != 2:
            raise ValueError(f"field {tag >> 3} at level {depth} has wire type {tag & 7}, expected 2")
        if tag == _PATH[depth]:
            count += spans_in(data[at : at + size], depth + 1)
        at += size
    return count


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    spans = 0
    lock = threading.Lock()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        with self.lock:
            _Handler.spans += spans_in(body)
        self._answer(b"", "application/x-protobuf")

    def do_GET(self) -> None:
        """Answer how many spans came since the last question."""
        with self.lock:
            count, _Handler.spans = _Handler.spans, 0
        self._answer(str(count).encode(), "text/plain")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _serve(report: Connection) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    report.send(server.server_address[1])
    server.serve_forever()


@contextmanager
def running() -> Iterator[str]:
    """Run the collector; gives its base URL, as in `OTEL_EXPORTER_OTLP_ENDPOINT`."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join(10)


def received(url: str) -> int:
    """Return how many spans the collector at `url` has received since this was last asked."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("GET", "/spans")
        return int(connection.getresponse().read())
    finally:
        connection.close()
