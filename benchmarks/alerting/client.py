"""A client that costs little: one connection, requests that were made before, answers read only as far as needed."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterable
from types import TracebackType


class AnswerError(Exception):
    """An answer other than 200."""


class Poster:
    """One connection on which requests go one after the other, as Prometheus' do."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Poster:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._socket.close()

    def post(self, requests: Iterable[bytes]) -> None:
        """Send requests and read their answers.

        Raises:
            AnswerError: an answer is not 200.
        """
        for request in requests:
            self._socket.sendall(request)
            answer = b""
            # Alerts are answered without a body.
            while not answer.endswith(b"\r\n\r\n"):
                part = self._socket.recv(65536)
                if not part:
                    raise AnswerError("the server closed the connection")
                answer += part
                if not answer.startswith(b"HTTP/1.1 200"[: len(answer)]):
                    raise AnswerError(answer.decode(errors="replace")[:500])


def get(port: int, path: str) -> tuple[float, int]:
    """Return the seconds and bytes of an answer.

    Raises:
        AnswerError: it is not 200.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.connect()
    begun = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    seconds = time.perf_counter() - begun
    connection.close()
    if answer.status != 200:
        raise AnswerError(f"{path}: {answer.status} {body[:300].decode(errors='replace')}")
    return seconds, len(body)
