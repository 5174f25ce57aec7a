"""One connection to a collector: spans are posted over it, one batch after the other."""

from __future__ import annotations

import gzip
import http.client
import ssl
from dataclasses import dataclass

from tocsin.tracing.settings import Otlp

_ANSWER_LIMIT = 65_536
_GZIP_LEVEL = 3
_BROKEN = (OSError, http.client.HTTPException, ValueError)
"""ValueError: a host that is no name at all."""


class PostError(Exception):
    """No answer: refused, timed out, broken off, or no HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the collector said."""

    status: int
    retry_after: str | None
    body: bytes


class Collector:
    """Posts to one collector; keeps the connection open between posts. For one thread."""

    def __init__(self, otlp: Otlp) -> None:
        self._otlp = otlp
        self._connection: http.client.HTTPConnection | None = None
        self._headers = {"User-Agent": "tocsin", "Content-Type": "application/x-protobuf", **dict(otlp.headers)}
        if otlp.gzip:
            self._headers["Content-Encoding"] = "gzip"
        self._target = otlp.path
        if otlp.proxy is not None and otlp.scheme == "http":
            self._target = otlp.origin + otlp.path
            self._headers.update(otlp.proxy.headers)

    def post(self, body: bytes, timeout: float) -> Answer:
        """Send a body and return the answer.

        Args:
            body: protobuf, not compressed.
            timeout: seconds for each step of it; at most the configured ones are taken.

        Raises:
            PostError: there was no answer.
        """
        sent = gzip.compress(body, _GZIP_LEVEL) if self._otlp.gzip else body
        timeout = min(timeout, self._otlp.timeout)
        kept = self._connection is not None
        try:
            return self._exchange(sent, timeout)
        except _BROKEN as error:
            self.close()
            if not kept or isinstance(error, TimeoutError):
                raise PostError(str(error) or type(error).__name__) from error
        # A collector may close a connection that was idle; that says nothing about whether it works.
        try:
            return self._exchange(sent, timeout)
        except _BROKEN as error:
            self.close()
            raise PostError(str(error) or type(error).__name__) from error

    def close(self) -> None:
        """Close the connection; the next post opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def forget(self) -> None:
        """Leave the connection to the process this one was forked from."""
        self._connection = None

    def _exchange(self, body: bytes, timeout: float) -> Answer:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._opened(timeout)
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        connection.request("POST", self._target, body, self._headers)
        response = connection.getresponse()
        answer = Answer(response.status, response.headers.get("Retry-After"), response.read(_ANSWER_LIMIT))
        if not response.isclosed():
            self.close()  # a longer answer than there is any reason for
        return answer

    def _opened(self, timeout: float) -> http.client.HTTPConnection:
        otlp = self._otlp
        near = (otlp.host, otlp.port) if otlp.proxy is None else (otlp.proxy.host, otlp.proxy.port)
        if otlp.scheme == "http":
            return http.client.HTTPConnection(*near, timeout=timeout)
        context = ssl.create_default_context(cafile=otlp.certificate)
        if otlp.client_certificate is not None:
            # Without a password, OpenSSL would ask the terminal for that of a key that has one.
            context.load_cert_chain(otlp.client_certificate, otlp.client_key, password="")
        connection = http.client.HTTPSConnection(*near, timeout=timeout, context=context)
        if otlp.proxy is not None:
            connection.set_tunnel(otlp.host, otlp.port, dict(otlp.proxy.headers))
        return connection
