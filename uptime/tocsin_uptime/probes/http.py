"""The HTTP(S) probe: one request on a fresh connection, timed phase by phase. Redirects are not followed.

Written on an asyncio protocol and httptools instead of an HTTP client: a tenth of the CPU, and every phase and every
way to break is seen where it happens.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final

import httptools

from tocsin_service.http import redact_url
from tocsin_uptime.check import Check
from tocsin_uptime.probes.connect import ProbeError, Stopwatch, attempt, connect
from tocsin_uptime.result import Failure, Observation, Phase, Reason

BODY_LIMIT: Final = 256 * 1024
"""Bytes of an answer's body that are read; then the connection is closed."""
HEADER_LIMIT: Final = 64 * 1024
"""Bytes an answer may have before its body begins, or behind it."""
USER_AGENT: Final = "tocsin-uptime"

# Verification errors of OpenSSL (x509_vfy.h).
_EXPIRED = 10
_NOT_YET_VALID = 9
_MISMATCH = {62, 64}


def encode(
    *, method: str, path: bytes, authority: bytes, headers: Mapping[str, str], body: bytes | None = None
) -> bytes:
    """Return the request as it goes over the wire (HTTP/1.1, one request a connection).

    Args:
        path: path and query, percent-encoded.
        authority: host and port for the `Host` header, unless `headers` has one.
    """
    given = {name.lower() for name in headers}
    lines = [b"%s %s HTTP/1.1" % (method.encode("ascii"), path)]
    lines += [b"%s: %s" % (name.encode("ascii"), value.encode("utf-8")) for name, value in headers.items()]
    defaults = {b"Host": authority, b"User-Agent": USER_AGENT.encode(), b"Accept": b"*/*"}
    lines += [b"%s: %s" % item for item in defaults.items() if item[0].lower().decode() not in given]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


async def probe(check: Check) -> Observation:
    """Send the request once and read the answer; see `probes.Probe`."""
    stopwatch = Stopwatch()
    answer = _Answer(stopwatch, without_body=check.target.method == "HEAD")
    try:
        failure = await attempt(check, stopwatch, _exchange(check, stopwatch, answer))
    finally:
        answer.abort()
    if failure is not None and failure.reason is Reason.TIMEOUT_BODY and not answer.headers_done:
        failure = Failure(Reason.TIMEOUT_HEADERS, failure.phase, f"{failure.what}, not even its headers")
    duration = stopwatch.stop()
    return Observation(
        duration=duration,
        phases=stopwatch.phases,
        failure=failure,
        status=answer.status,
        body=bytes(answer.body),
        truncated=answer.truncated,
        location=answer.location,
    )


async def _exchange(check: Check, stopwatch: Stopwatch, answer: _Answer) -> None:
    target = check.target
    connection = await connect(check, stopwatch)
    if target.tls is not None:
        stopwatch.enter(Phase.TLS)
    name = target.server_name if target.tls is not None else None
    try:
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: answer, sock=connection, ssl=target.tls, server_hostname=name
        )
    except ssl.SSLError as error:
        raise _tls_error(error, target.server_name) from error
    except TimeoutError:
        raise
    except OSError as error:
        raise ProbeError(Reason.TLS, "the connection was broken off in the TLS handshake") from error
    stopwatch.enter(Phase.PROCESSING)
    transport.write(target.request)
    await answer.complete


def _tls_error(error: ssl.SSLError, name: str) -> ProbeError:
    if not isinstance(error, ssl.SSLCertVerificationError):
        detail = (error.reason or "protocol error").replace("_", " ").lower()
        return ProbeError(Reason.TLS, f"the TLS handshake failed ({detail})")
    if error.verify_code == _EXPIRED:
        return ProbeError(Reason.TLS_EXPIRED, f"the certificate of {name} has expired")
    if error.verify_code == _NOT_YET_VALID:
        return ProbeError(Reason.TLS_EXPIRED, f"the certificate of {name} is not valid yet")
    if error.verify_code in _MISMATCH:
        return ProbeError(Reason.TLS_HOSTNAME, f"the certificate is for another name than {name}")
    return ProbeError(Reason.TLS_UNTRUSTED, f"the certificate of {name} is not trusted ({error.verify_message})")


class _Answer(asyncio.Protocol):
    """Takes in one answer; `complete` is done when there is nothing more to read, or fails with a `ProbeError`."""

    def __init__(self, stopwatch: Stopwatch, *, without_body: bool) -> None:
        self.status: int | None = None
        self.body = bytearray()
        self.truncated = False
        self.headers_done = False
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopwatch = stopwatch
        self._without_body = without_body
        self._framed = False
        self._location = ""
        self._head_bytes = 0
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.BaseTransport | None = None

    @property
    def location(self) -> str:
        """Where a redirect leads, without path and query: they may hold secrets."""
        if not self._location or self.status is None or not 300 <= self.status < 400:
            return ""
        return "another path" if self._location.startswith("/") else redact_url(self._location)

    def abort(self) -> None:
        """Close the connection at once and forget an error that nobody waited for."""
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()
        if not self.complete.done():
            self.complete.cancel()
        elif not self.complete.cancelled():
            self.complete.exception()

    # --- asyncio -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self.complete.done():
            return
        if self._stopwatch.current is Phase.PROCESSING:
            self._stopwatch.enter(Phase.TRANSFER)
        before = len(self.body)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._finish()
        except httptools.HttpParserError as error:
            detail = " ".join(str(error).split())
            self._break(Reason.PROTOCOL, f"the answer is not HTTP ({detail})")
        # Headers, and trailers behind a chunked body: the parser keeps them, however long they are.
        self._head_bytes = self._head_bytes + len(data) if len(self.body) == before else 0
        if self._head_bytes > HEADER_LIMIT:
            where = "trailers" if self.headers_done else "headers"
            self._break(Reason.PROTOCOL, f"the {where} are longer than {HEADER_LIMIT // 1024} KiB")

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self.headers_done and not self._framed:
            # A body without a length ends where the connection ends (RFC 9112 section 6.3).
            self._finish()
        where = "in the middle of the answer" if self._head_bytes or self.headers_done else "without an answer"
        how = "was reset" if exc is not None else "was closed"
        self._break(Reason.RESET, f"the connection {how} {where}")

    # --- httptools ---------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.complete.done():
            return
        match name.lower():
            case b"content-length":
                self._framed = True
            case b"transfer-encoding":
                self._framed = b"chunked" in value.lower()
            case b"location":
                self._location = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self.complete.done():
            return  # something behind the answer; it was not asked for
        self.status = self._parser.get_status_code()
        # 1xx are interim answers; the real one follows (RFC 9110 section 15.2). 101 ends what is HTTP.
        self.headers_done = self.status >= 200 or self.status == 101
        if self._without_body and self.headers_done:
            self._finish()

    def on_body(self, body: bytes) -> None:
        if self.complete.done():
            return
        self.body += body[: BODY_LIMIT - len(self.body) + 1]
        if len(self.body) > BODY_LIMIT:
            del self.body[BODY_LIMIT:]
            self.truncated = True
            self._finish()

    def on_message_complete(self) -> None:
        if self.headers_done:
            self._finish()

    def _finish(self) -> None:
        if not self.complete.done():
            self.complete.set_result(None)

    def _break(self, reason: Reason, what: str) -> None:
        if not self.complete.done():
            self.complete.set_exception(ProbeError(reason, what))
