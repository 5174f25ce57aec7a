"""The handlers that stand in for python-logstash's: the same events, sent by a thread to real sockets."""

from __future__ import annotations

import contextlib
import json
import logging
import logging.config
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import logstash
import pytest
from prometheus_client import CollectorRegistry

import tocsin
from tocsin.integrations.logstash import (
    LogstashHandler,
    TCPLogstashHandler,
    UDPLogstashHandler,
)
from tocsin.metrics.families import families_of
from tocsin.redact import REDACTED
from tocsin.request import CURRENT, Current
from tocsin.testing import dropped
from tocsin.tracing.context import Trace


def until(condition: Callable[[], object], seconds: float = 15) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


class Sink:
    """A TCP server that keeps the lines it receives. It can go away and come back on the same port."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.port = 0
        self.connections = 0
        self._open: list[socket.socket] = []
        self.start()

    def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._open = [listener]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        while True:
            try:
                data = connection.recv(65536)
            except OSError:
                return
            if not data:
                return
            self.received += data

    def stop(self) -> None:
        for each in self._open:
            # Not only closed: a thread that waits in `accept` would keep it alive.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open = []

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in bytes(self.received).split(b"\n")[:-1]]


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink()
    yield sink
    sink.stop()


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger whose handlers are closed afterwards."""
    logger = logging.getLogger("shop.orders")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def datagrams() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        yield receiver


@pytest.mark.parametrize("version", [0, 1])
def test_events_are_the_packages_own(
    version: int, sink: Sink, logger: logging.Logger, registry: CollectorRegistry
) -> None:
    """The same record through the package's formatter and through our handler is the same event."""
    handler = TCPLogstashHandler("127.0.0.1", sink.port, "app", ["web"], False, version, registry=registry)
    logger.addHandler(handler)
    records: list[logging.LogRecord] = []
    logger.addFilter(lambda record: not records.append(record))  # type: ignore[func-returns-value]  # it keeps them
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("failed %d times", 3, extra={"order": 42, "items": ["a"], "odd": {1}})
    handler.flush()
    until(lambda: sink.events)
    kind = logstash.LogstashFormatterVersion1 if version else logstash.LogstashFormatterVersion0
    assert sink.events == [json.loads(kind("app", ["web"], False).format(records[0]))]
    assert isinstance(handler.formatter, kind)


def test_datagrams_carry_one_event_each(
    datagrams: socket.socket, logger: logging.Logger, registry: CollectorRegistry
) -> None:
    """Without a newline, as the package sends them; `LogstashHandler` is the one for UDP."""
    assert LogstashHandler is UDPLogstashHandler
    handler = UDPLogstashHandler("localhost", datagrams.getsockname()[1], version=1, registry=registry)
    logger.addHandler(handler)
    logger.info("one")
    logger.info("x" * 100_000)
    logger.info("two")
    handler.flush()
    received = [datagrams.recv(65536) for _ in range(2)]
    assert [json.loads(data)["message"] for data in received] == ["one", "two"]
    assert not received[0].endswith(b"\n")
    assert dropped(registry) == {("logs", "logstash_write"): 1}


def test_only_the_class_changes_in_a_configuration(sink: Sink) -> None:
    """The arguments of the package in a dictConfig; configuring again closes what was there before."""
    config = {
        "version": 1,
        "handlers": {
            "logstash": {
                "class": "tocsin.integrations.logstash.TCPLogstashHandler",
                "host": "127.0.0.1",
                "port": sink.port,
                "message_type": "app",
                "tags": ["web"],
                "fqdn": False,
                "version": 1,
            }
        },
        "loggers": {"configured": {"handlers": ["logstash"], "level": "INFO"}},
        "disable_existing_loggers": False,
    }
    logging.config.dictConfig(config)
    logging.getLogger("configured").info("hello")
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, "loggers": {"configured": {}}})
    until(lambda: sink.events)
    (event,) = sink.events
    assert (event["message"], event["type"], event["tags"], event["level"]) == ("hello", "app", ["web"], "INFO")


def test_ids_of_the_trace_are_added_and_secrets_taken_out(
    sink: Sink, logger: logging.Logger, registry: CollectorRegistry
) -> None:
    """In messages, fields at any depth and stack traces; numbers that JSON does not have are null."""
    handler = TCPLogstashHandler("127.0.0.1", sink.port, version=1, registry=registry)
    logger.addHandler(handler)
    trace = Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)
    token = CURRENT.set(Current(trace, families_of(registry), None))
    try:
        raise RuntimeError("amqp://u:SECRET@mq/")
    except RuntimeError:
        extra = {"token": "SECRET", "deep": [{"api_key": "SECRET"}], "n": float("nan"), "lone": "\ud800"}
        logger.exception("password=SECRET", extra=extra)
    finally:
        CURRENT.reset(token)
    handler.flush()
    until(lambda: sink.events)
    (event,) = [json.loads(line, parse_constant=pytest.fail) for line in bytes(sink.received).splitlines()]
    assert b"SECRET" not in sink.received
    assert event["message"] == f"password={REDACTED}"
    assert (event["trace.id"], event["trace_id"], event["span.id"]) == (trace.trace_id, trace.trace_id, trace.span_id)
    assert event["n"] is None


def test_a_logstash_that_is_away_is_waited_for(sink: Sink, logger: logging.Logger, registry: CollectorRegistry) -> None:
    """Nothing is lost, nobody waits, order is kept; also when it goes away in between."""
    sink.stop()
    handler = TCPLogstashHandler("127.0.0.1", sink.port, version=1, registry=registry)
    logger.addHandler(handler)
    began = time.monotonic()
    for number in range(500):
        logger.info("before", extra={"number": number})
    assert time.monotonic() - began < 5
    sink.start()
    until(lambda: len(sink.events) == 500)
    sink.stop()
    sink.start()
    for number in range(500, 700):
        logger.info("after", extra={"number": number})
    until(lambda: len(sink.events) == 700)
    assert [event["number"] for event in sink.events] == list(range(700))
    assert dropped(registry) == {}


def test_what_does_not_fit_is_counted(logger: logging.Logger, registry: CollectorRegistry) -> None:
    """10,000 events wait for a Logstash that never comes; flushing says so and does not take long."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        handler = TCPLogstashHandler("127.0.0.1", nobody.getsockname()[1], version=1, registry=registry)
        logger.addHandler(handler)
        for _ in range(10_300):
            logger.info("m")
        began = time.monotonic()
        handler.flush()
        assert time.monotonic() - began < 3
        assert 200 <= dropped(registry)["logs", "logstash_queue_full"] <= 300


def test_a_reader_that_is_stuck_holds_up_nobody(logger: logging.Logger, registry: CollectorRegistry) -> None:
    """It accepts and never reads; when it is closed, the next connection begins with a whole event."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        handler = TCPLogstashHandler("127.0.0.1", listener.getsockname()[1], version=1, registry=registry)
        logger.addHandler(handler)
        began = time.monotonic()
        for number in range(2000):
            logger.info("x" * 5_000, extra={"number": number})
        assert time.monotonic() - began < 10
        stuck, _ = listener.accept()
        assert not tocsin.force_flush(timeout=0.3)
        stuck.close()
        second, _ = listener.accept()
        second.settimeout(10)
        with second, second.makefile("rb") as file:
            assert json.loads(file.readline())["message"] == "x" * 5_000
            while json.loads(file.readline())["number"] != 1999:
                pass


def test_records_that_cannot_be_formatted_are_counted(sink: Sink, registry: CollectorRegistry) -> None:
    """The application goes on."""
    handler = TCPLogstashHandler("127.0.0.1", sink.port, registry=registry)
    handler.handle(logging.makeLogRecord({"msg": "%d", "args": ("not a number",)}))
    handler.handle(logging.makeLogRecord({"msg": "no level"}))
    handler.handle(logging.makeLogRecord({"msg": "fine", "levelno": 20}))
    handler.flush()
    until(lambda: len(sink.events) == 1)
    handler.close()
    assert dropped(registry) == {("logs", "logstash_encode"): 2}


def test_a_closed_handler_starts_anew(sink: Sink, logger: logging.Logger, registry: CollectorRegistry) -> None:
    """`dictConfig` closes handlers that loggers still have: a record makes a new connection, in the thread."""
    handler = TCPLogstashHandler("127.0.0.1", sink.port, version=1, registry=registry)
    logger.addHandler(handler)
    logger.info("one")
    handler.close()
    assert handler._outbox._by_author is False
    logger.info("two")
    until(lambda: len(sink.events) == 2)
    assert sink.connections == 2


def test_a_program_with_many_descriptors_is_no_obstacle(sink: Sink, registry: CollectorRegistry) -> None:
    """Above 1,024, where `select` gives up: a busy server has as many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2_000:
        pytest.skip("needs 2,000 file descriptors: ulimit -Hn 4096")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2_000), hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1_100):
            stack.callback(os.close, os.dup(0))
        handler = TCPLogstashHandler("127.0.0.1", sink.port, version=1, registry=registry)
        stack.callback(handler.close)
        handler.handle(logging.makeLogRecord({"msg": "m", "levelno": 20}))
        until(lambda: len(sink.events) == 1)
    assert dropped(registry) == {}


def test_a_forked_child_has_a_connection_of_its_own(
    sink: Sink, logger: logging.Logger, registry: CollectorRegistry
) -> None:
    """Two processes on one connection would mix their events."""
    handler = TCPLogstashHandler("127.0.0.1", sink.port, version=1, registry=registry)
    logger.addHandler(handler)
    logger.info("parent")
    handler.flush()
    until(lambda: sink.connections == 1)
    child = os.fork()
    if child == 0:
        try:
            logger.info("child")
            handler.flush()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    logger.info("parent again")
    handler.flush()
    until(lambda: len(sink.events) == 3)
    assert sink.connections == 2
    assert sorted(event["message"] for event in sink.events) == ["child", "parent", "parent again"]


def test_a_formatter_of_the_applications_own_is_used(
    sink: Sink, logger: logging.Logger, registry: CollectorRegistry
) -> None:
    """Text or bytes."""
    handler = TCPLogstashHandler("127.0.0.1", sink.port, registry=registry)
    handler.setFormatter(logging.Formatter('{"plain": "%(message)s"}'))
    logger.addHandler(handler)
    logger.info("text")
    handler.flush()
    until(lambda: sink.events)
    assert sink.events == [{"plain": "text"}]
