"""The metrics page elsewhere than in the instrumented application: on a port of its own, or as an application.

For what is no web application (a worker, a batch job), and for pages that should not be reachable from outside.
"""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from typing import Any
from urllib.parse import parse_qs
from weakref import WeakSet

from prometheus_client import REGISTRY, CollectorRegistry

from tocsin.loops import beside_the_loop
from tocsin.metrics.exposition import is_slow, page
from tocsin.metrics.families import families_of

PORT = 9464
"""The port that OpenTelemetry names for a Prometheus page."""

_LAST_PORT = 65_535

_TIMEOUT = 10.0
"""Seconds a scraper may take to send its request, or to take in the page."""

_AT_ONCE = 8
"""Connections answered at the same time; more are closed unanswered."""

Headers = list[tuple[bytes, bytes]]
Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]

_REASONS = {200: "200 OK", 405: "405 Method Not Allowed"}


def answer(registry: CollectorRegistry, method: str, headers: Headers, query: str = "") -> tuple[int, Headers, bytes]:
    """Return status, headers and body of the metrics page.

    Args:
        registry: what to show.
        method: only GET and HEAD are answered; the body is left out for HEAD.
        headers: as ASGI has them: lower-case names.
        query: with `name[]=...` only these samples.
    """
    if method not in ("GET", "HEAD"):
        said = b"GET or HEAD\n"
        length = str(len(said)).encode()
        return 405, [(b"allow", b"GET, HEAD"), (b"content-type", b"text/plain"), (b"content-length", length)], said
    sent, body = page(registry, headers, parse_qs(query).get("name[]", ()))
    return 200, sent, b"" if method == "HEAD" else body


# --- a port of its own ----------------------------------------------------------------------------------------------


class Server:
    """A running metrics server. A process forked from this one has none: its copy of the port is closed."""

    def __init__(self, server: _Listener) -> None:
        self._server = server
        self.address: str = str(server.server_address[0])
        self.port = int(server.server_address[1])
        self._thread = threading.Thread(target=server.serve_forever, name="tocsin-metrics", daemon=True)
        self._thread.start()
        _watch_forks()
        _listeners.add(server)

    def close(self) -> None:
        """Stop answering and free the port. Later calls do nothing."""
        if self._server.open:
            self._server.open = False
            self._server.shutdown()
            self._server.server_close()
            self._server.end_reading(inf)
            self._thread.join(_TIMEOUT)


def serve(port: int = PORT, address: str = "127.0.0.1", registry: CollectorRegistry | None = None) -> Server:
    """Serve the metrics page on a port of its own, in a daemon thread.

    Where several workers share their counts, each may serve the same port: whichever answers has the sum of all.

    Args:
        port: 0 for any that is free; `Server.port` says which.
        address: of this machine; `::` or `0.0.0.0` for all.
        registry: what to show; default: prometheus_client's REGISTRY.

    Raises:
        OSError: the port is taken, or the address is none, or not of this machine.
        ValueError: there is no such port.
    """
    if not 0 <= port <= _LAST_PORT:
        raise ValueError(f"port is {port}, expected 0 to {_LAST_PORT}; 0 takes any that is free")
    registry = REGISTRY if registry is None else registry
    return Server(_Listener(address, port, registry, shared=families_of(registry).shared()))


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, address: str, port: int, registry: CollectorRegistry, *, shared: bool) -> None:
        self.registry = registry
        self.open = True
        self._free = threading.BoundedSemaphore(_AT_ONCE)
        self._shared = shared
        self.due: dict[socket.socket, float] = {}
        """By when (monotonic seconds) the request must be there, of each connection that is being read."""
        try:
            found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.address_family = found[0][0]
            super().__init__((address, port), _Handler)
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot serve metrics on {address} port {port}: {error.strerror}. Choose another port or address.",
            ) from error

    def server_bind(self) -> None:
        """Bind; several workers bind the same port, and the kernel spreads the scrapers over them."""
        # A connection that was ours to close lingers for a minute, and must not keep the next process from the port.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._shared:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()  # without the reverse lookup of HTTPServer: it may take long

    def service_actions(self) -> None:
        """End connections whose request comes byte by byte: the timeout of a socket begins anew with each of them."""
        self.end_reading(time.monotonic())

    def end_reading(self, now: float) -> None:
        """End connections whose request was due before."""
        for connection, due in list(self.due.items()):
            if due < now:
                with suppress(OSError):  # it is over by now
                    connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if not too many are at it."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads to be had
            self._free.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a scraper that went away, or sent what is no HTTP."""

    def abandon(self) -> None:
        """In a forked child: the port is the parent's."""
        if self.open:
            self.open = False
            self.socket.close()


_listeners: WeakSet[_Listener] = WeakSet()


@functools.cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_abandon)


def _abandon() -> None:
    for listener in list(_listeners):
        listener.abandon()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT
    server: _Listener

    def handle_one_request(self) -> None:
        """Wait for a request, and answer it."""
        due = self.server.due
        due[self.connection] = time.monotonic() + 2 * self.timeout  # to begin, and to be here
        try:
            super().handle_one_request()
        finally:
            due.pop(self.connection, None)
            if not self.server.open:
                self.close_connection = True

    def do_GET(self) -> None:
        """Answer a scrape, on whatever path."""
        self.server.due.pop(self.connection, None)
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        status, sent, body = answer(self.server.registry, self.command, headers, self.path.partition("?")[2])
        self.send_response(status)
        if "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0":
            self.send_header("connection", "close")  # the body is not read, and must not be taken for a request
        for name, value in sent:
            self.send_header(name.decode("latin-1"), value.decode("latin-1"))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        """Answer like GET, without a body."""
        self.do_GET()

    def do_POST(self) -> None:
        """Refuse."""
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing: scrapes are no news."""

    def version_string(self) -> str:
        """Return what the `Server` header says: nothing of versions."""
        return "tocsin"


# --- as an application ------------------------------------------------------------------------------------------------


def metrics_app(registry: CollectorRegistry | None = None) -> Callable[..., Awaitable[None]]:
    """Return an ASGI application that is the metrics page, to be mounted or served by itself."""
    registry = REGISTRY if registry is None else registry

    async def metrics(scope: Scope, receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        query = scope.get("query_string", b"").decode("latin-1")
        arguments = (registry, scope["method"], scope["headers"], query)
        status, headers, body = (
            await beside_the_loop(lambda: answer(*arguments)) if is_slow(registry) else answer(*arguments)
        )
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return metrics


async def _lifespan(receive: Callable[[], Awaitable[Any]], send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def metrics_wsgi(registry: CollectorRegistry | None = None) -> Callable[..., Iterable[bytes]]:
    """Return a WSGI application that is the metrics page."""
    registry = REGISTRY if registry is None else registry

    def metrics(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        headers = [
            (name[5:].replace("_", "-").lower().encode("latin-1"), str(value).encode("latin-1"))
            for name, value in environ.items()
            if name.startswith("HTTP_")
        ]
        status, sent, body = answer(registry, environ["REQUEST_METHOD"], headers, environ.get("QUERY_STRING", ""))
        start_response(_REASONS[status], [(name.decode("latin-1"), value.decode("latin-1")) for name, value in sent])
        return [body]

    return metrics
