"""python-logstash's handlers and formatters, without the network in the application's thread.

In a logging configuration only the class changes: `logstash.TCPLogstashHandler` becomes
`tocsin.integrations.logstash.TCPLogstashHandler`, with the same arguments. The package's own formatters make the
events; the ids of the trace are added, secrets taken out. A thread sends them: a Logstash that is away is tried again
with growing pauses, up to 10,000 events wait for it, and what does not fit is counted in `tocsin_dropped_total`.

python-logstash's AMQP handler has no counterpart here: it talks to a broker through pika, whose connection belongs to
one thread. Keep the package's, behind `logging.handlers.QueueHandler`.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from prometheus_client import CollectorRegistry

from tocsin.logs.lines import plain
from tocsin.logs.network import TcpSink, UdpSink
from tocsin.logs.outbox import Outbox
from tocsin.metrics.families import families_of
from tocsin.names import TOCSIN_DROPPED, Field
from tocsin.redact import DEFAULT, Redactor
from tocsin.request import current_trace

try:
    _package: Any = import_module("logstash")
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "tocsin.integrations.logstash needs the package it stands in for: pip install python-logstash"
    ) from error

__all__ = [
    "LogstashFormatterVersion0",
    "LogstashFormatterVersion1",
    "LogstashHandler",
    "TCPLogstashHandler",
    "UDPLogstashHandler",
]

_PORT = 5959

_Version0: Any = _package.LogstashFormatterVersion0
_Version1: Any = _package.LogstashFormatterVersion1


class _Redacting:
    """Takes secrets out of the finished event, and numbers that JSON does not have."""

    redactor: Redactor = DEFAULT

    @classmethod
    def serialize(cls, message: dict[str, Any]) -> bytes:
        """Return the event as the package does."""
        encoded: bytes = super().serialize(plain(cls.redactor.fields(message)))  # type: ignore[misc]  # the package's
        return encoded

    @classmethod
    def format_timestamp(cls, time: float) -> str:
        """Return what the package returns, without the call that Python 3.12 warns of."""
        moment = datetime.fromtimestamp(time, tz=UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


class LogstashFormatterVersion0(_Redacting, _Version0):  # type: ignore[misc]  # the package has no types
    """The package's version 0, without secrets."""


class LogstashFormatterVersion1(_Redacting, _Version1):  # type: ignore[misc]  # the package has no types
    """The package's version 1, without secrets."""


class _Handler(logging.Handler):
    """Formats a record in the thread that logs it, and leaves the rest to another."""

    def __init__(
        self,
        host: str,
        port: int = _PORT,
        message_type: str = "logstash",
        tags: list[str] | None = None,
        fqdn: bool = False,
        version: int = 0,
        *,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """Take the package's arguments.

        Args:
            host: where Logstash is: a name or an address.
            port: where it listens.
            message_type: the `type` of the events.
            tags: the `tags` of the events.
            fqdn: name this host in full.
            version: of the event schema: 1, anything else is 0.
            registry: where lost events are counted; default: prometheus_client's REGISTRY.
        """
        super().__init__()
        self.host, self.port = host, port
        kind = LogstashFormatterVersion1 if version == 1 else LogstashFormatterVersion0
        self.formatter = kind(message_type, tags, fqdn)
        self.refused = 0
        """Events that found the queue full and were not counted yet."""
        self._families = families_of(registry)
        self._outbox = Outbox(self._sink())
        self._outbox.attach(self)

    def _sink(self) -> TcpSink | UdpSink:
        raise NotImplementedError

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit a record that passes the filters; without the lock, for a finalizer that logs must not wait."""
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; never raises, never waits."""
        try:
            data = self.format(_with_trace(record))
            line: bytes = data.encode() if isinstance(data, str) else data
            urgent = record.levelno >= logging.ERROR
        except Exception:  # a guard: arguments that do not fit the text, a `repr` that raises
            self.lost("encode", 1)
            return
        self._outbox.put((self, line, 1), urgent)

    def lost(self, reason: str, lines: int) -> None:
        """Count events that will not be sent."""
        self._families.add(TOCSIN_DROPPED, "logs", f"logstash_{reason}", amount=lines)

    def flush(self) -> None:
        """Send what is queued, for at most a second."""
        self._outbox.flush(1.0)

    def close(self) -> None:
        """Send what is queued, for at most a second, and close the connection."""
        # Not `detach`: as with the package's, a record that comes later makes a new connection.
        self._outbox.rest(1.0)
        super().close()


class TCPLogstashHandler(_Handler):
    """Sends events over TCP, one on a line: for Logstash's `tcp` input with the codec `json_lines`."""

    def _sink(self) -> TcpSink:
        return TcpSink(self.host, self.port)


class UDPLogstashHandler(_Handler):
    """Sends events over UDP, one in a datagram: for Logstash's `udp` input with the codec `json`."""

    def _sink(self) -> UdpSink:
        return UdpSink(self.host, self.port)


LogstashHandler = UDPLogstashHandler
"""As in the package."""


def _with_trace(record: logging.LogRecord) -> logging.LogRecord:
    """Return the record with the ids of the current trace as extra fields."""
    trace = current_trace()
    if trace is None:
        return record
    ids = {Field.TRACE_ID: trace.trace_id, Field.TRACE_ID_FLAT: trace.trace_id, Field.SPAN_ID: trace.span_id}
    return logging.makeLogRecord({**record.__dict__, **ids})
