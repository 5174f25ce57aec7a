"""Spans on their way to a collector: real posts to a real server, which may be down, slow, or unwilling."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import ssl
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tocsin import lifecycle
from tocsin.metrics.families import families_of
from tocsin.names import SPANS_EXPORTED
from tocsin.request import Current, Facts, Wire
from tocsin.testing import dropped
from tocsin.tracing import retry
from tocsin.tracing.settings import trace_settings
from tocsin.tracing.spans import leave
from tocsin.tracing.testing import OtlpCollector, Reply, decoded, reset_tracing
from tocsin.tracing.tracer import RequestTracer, tracer_for

PARTIAL = b"\n\x0f\x08\x02\x12\x0bquota is up"
"""An ExportTraceServiceResponse that took all but two spans."""


@pytest.fixture
def collector() -> Iterator[OtlpCollector]:
    with OtlpCollector() as listening:
        yield listening


class Tracing:
    """A tracer that exports to a collector, and its counters."""

    def __init__(self, collector: OtlpCollector, **environ: str) -> None:
        self.registry = CollectorRegistry()
        settings = trace_settings("shop", "1.2", None, {**collector.environ, **environ})
        self.tracer: RequestTracer = tracer_for(settings, families_of(self.registry))

    def request(self, **changed: Any) -> str:
        """Answer one request; return its trace id."""
        trace = self.tracer.begin([])
        leave(self.tracer.enter(trace, Current(trace, families_of(self.registry), None)))
        wire = Wire("http", b"", "1.1", ())
        facts = Facts("GET", "/items/{item}", "/items/5", 200, 0.01, time.time(), None, trace, wire)
        self.tracer.ended(facts._replace(**changed), None)
        return trace.trace_id

    @property
    def exported(self) -> int:
        return int(self.registry.get_sample_value(SPANS_EXPORTED.name) or 0)

    @property
    def dropped(self) -> dict[str, int]:
        return {reason: count for (signal, reason), count in dropped(self.registry).items() if signal == "traces"}


@pytest.fixture
def tracing(collector: OtlpCollector) -> Iterator[Any]:
    made: list[Tracing] = []

    def make(**environ: str) -> Tracing:
        made.append(Tracing(collector, **environ))
        return made[-1]

    yield make
    collector.gate.set()
    reset_tracing()


def test_a_request_arrives_as_a_span(collector: OtlpCollector, tracing: Any) -> None:
    """With its ids, its resource and its counter, by itself, soon after it is over."""
    shop = tracing()
    trace_id = shop.request()
    (span,) = collector.wait_for(1)
    assert (span.trace_id, span.name, span.kind) == (trace_id, "GET /items/{item}", "server")
    assert span.resource["service.name"] == "shop"
    assert collector.posts[0].path == "/v1/traces"
    assert collector.posts[0].headers["content-type"] == "application/x-protobuf"
    assert lifecycle.force_flush(10)
    assert shop.exported == 1
    assert shop.dropped == {}


def test_flush_exports_at_once(collector: OtlpCollector, tracing: Any) -> None:
    """`force_flush` does not wait for the batch to fill or its time to come."""
    shop = tracing(OTEL_BSP_SCHEDULE_DELAY="60000")
    for _ in range(3):
        shop.request()
    assert lifecycle.force_flush(20)
    assert len(collector.spans) == 3
    assert len(collector.posts) == 1
    assert lifecycle.force_flush(20)
    assert len(collector.posts) == 1


def test_full_batches_go_before_their_time(collector: OtlpCollector, tracing: Any) -> None:
    """One connection for all of them."""
    shop = tracing(OTEL_BSP_SCHEDULE_DELAY="60000", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10")
    for _ in range(25):
        shop.request()
    collector.wait_for(20)
    assert [len(list(decoded(post.body))) for post in collector.posts] == [10, 10]
    assert lifecycle.force_flush(20)
    assert len(collector.spans) == 25
    assert collector.connections == 1


def test_headers_and_compression(collector: OtlpCollector, tracing: Any) -> None:
    """As the variables say."""
    tracing(OTEL_EXPORTER_OTLP_HEADERS="api-key=s3cret", OTEL_EXPORTER_OTLP_COMPRESSION="gzip").request()
    collector.wait_for(1)
    headers = collector.posts[0].headers
    assert (headers["api-key"], headers["content-encoding"]) == ("s3cret", "gzip")


def test_a_collector_with_tls_is_trusted_by_its_certificate(
    tmp_path: Path, tracing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """`OTEL_EXPORTER_OTLP_CERTIFICATE` names whom to trust; nobody else is."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is needed to make a certificate: apt-get install openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    asked = f"req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key} -out {certificate}"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([openssl, *asked.split(), *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with OtlpCollector(tls=context) as secure:
        url = secure.url.replace("127.0.0.1", "localhost")
        stranger = tracing(OTEL_EXPORTER_OTLP_ENDPOINT=url)
        stranger.request()
        _until(lambda: "certificate verify failed" in caplog.text)
        friend = tracing(OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_CERTIFICATE=str(certificate))
        trace_id = friend.request()
        assert [span.trace_id for span in secure.wait_for(1)] == [trace_id]


def test_a_connection_closed_in_between_is_opened_again(collector: OtlpCollector, tracing: Any) -> None:
    """A collector that was restarted while nothing was sent costs nothing, and nobody is told."""
    shop = tracing()
    shop.request()
    collector.wait_for(1)
    assert lifecycle.force_flush(10)
    collector.__exit__(None, None, None)
    shop.tracer._exporter._collector._connection.sock.shutdown(2)  # as the end of that process would
    collector.__enter__()
    shop.request()
    collector.wait_for(2)
    assert lifecycle.force_flush(10)
    assert (shop.exported, shop.dropped) == (2, {})


def test_a_collector_that_is_down_holds_up_nobody(
    collector: OtlpCollector, tracing: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Spans are kept and sent once it is back; the log says so once in each direction."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.02)
    shop = tracing(OTEL_EXPORTER_OTLP_HEADERS="api-key=s3cret")
    collector.__exit__(None, None, None)
    with caplog.at_level(logging.INFO, "tocsin"):
        began = time.perf_counter()
        for _ in range(100):
            shop.request()
        assert time.perf_counter() - began < 1.0
        _until(lambda: caplog.records)
        collector.__enter__()
        assert len(collector.wait_for(100)) == 100
        assert lifecycle.force_flush(10)
    assert (shop.exported, shop.dropped) == (100, {})
    failing, again = [record.getMessage() for record in caplog.records]
    assert f"cannot be exported to {collector.url}/v1/traces" in failing
    assert "again" in again
    assert "s3cret" not in failing + again


def test_a_slow_collector_holds_up_nobody(collector: OtlpCollector, tracing: Any) -> None:
    """It has a post and does not answer; requests go on, and the queue holds what it may."""
    shop = tracing(OTEL_BSP_MAX_QUEUE_SIZE="50", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10", OTEL_BSP_SCHEDULE_DELAY="60000")
    collector.gate.clear()
    for _ in range(10):
        shop.request()
    collector.wait_for_posts(1)
    began = time.perf_counter()
    for _ in range(200):
        shop.request()
    assert time.perf_counter() - began < 1.0
    assert shop.dropped == {"queue_full": 150}
    assert not lifecycle.force_flush(0.05)
    collector.gate.set()
    assert lifecycle.force_flush(20)
    assert (shop.exported, len(collector.spans)) == (60, 60)


def test_a_collector_that_answers_too_late_is_asked_again(
    collector: OtlpCollector, tracing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`OTEL_EXPORTER_OTLP_TIMEOUT` bounds a post; the batch goes again."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.02)
    shop = tracing(OTEL_EXPORTER_OTLP_TIMEOUT="150")
    collector.gate.clear()
    shop.request()
    collector.wait_for_posts(2)
    collector.gate.set()
    assert lifecycle.force_flush(20)
    assert shop.exported == 1


def test_retry_after_is_honoured(collector: OtlpCollector, tracing: Any) -> None:
    """503 with Retry-After: the batch comes again, not before that time, and is counted once."""
    collector.replies.append(Reply(503, {"Retry-After": "1"}))
    shop = tracing()
    shop.request()
    collector.wait_for_posts(1)
    first = time.monotonic()
    collector.wait_for(1)
    assert 0.8 < time.monotonic() - first < 10
    assert [post.reply.status for post in collector.posts] == [503, 200]
    assert lifecycle.force_flush(10)
    assert (shop.exported, shop.dropped) == (1, {})


@pytest.mark.parametrize("status", [400, 401, 500, 301])
def test_what_is_refused_for_good_is_dropped_and_counted(status: int, collector: OtlpCollector, tracing: Any) -> None:
    """Sending it again would change nothing; the next batch is tried."""
    collector.replies.append(Reply(status))
    shop = tracing()
    shop.request()
    shop.request()
    assert not lifecycle.force_flush(20)
    assert shop.dropped == {"refused": 2}
    shop.request()
    collector.wait_for(1)
    assert lifecycle.force_flush(10)
    assert shop.exported == 1


def test_what_is_too_large_goes_in_halves(collector: OtlpCollector, tracing: Any) -> None:
    """One span that no collector would take costs itself alone; nothing is sent or counted twice."""
    shop = tracing(OTEL_BSP_SCHEDULE_DELAY="60000")
    # 5 are too many, so are the first 2 of them; the very first one is too large by itself.
    collector.replies.extend([Reply(413), Reply(413), Reply(413)])
    ids = [shop.request() for _ in range(5)]
    assert not lifecycle.force_flush(20)
    assert [len(list(decoded(post.body))) for post in collector.posts] == [5, 2, 1, 1, 3]
    assert [span.trace_id for span in collector.spans] == ids[1:]
    assert (shop.exported, shop.dropped) == (4, {"too_large": 1})


def test_a_host_that_is_no_name_is_told_once(
    tracing: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As any collector that cannot be reached."""
    monkeypatch.setattr(retry, "GIVE_UP_AFTER", 0.0)
    shop = tracing(OTEL_EXPORTER_OTLP_ENDPOINT="http://a..b:4318")
    for _ in range(2):
        shop.request()
        assert not lifecycle.force_flush(20)
    assert shop.dropped == {"unavailable": 2}
    assert len(caplog.records) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_spans_go_through_a_proxy(scheme: str, collector: OtlpCollector, tracing: Any) -> None:
    """Asked with the whole URL, or for a tunnel, with its credentials; the collector's stay inside of that."""
    asked: list[tuple[str, dict[str, str]]] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append((self.requestline, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(200)
            self.end_headers()

        def do_CONNECT(self) -> None:
            asked.append((self.requestline, {name.lower(): value for name, value in self.headers.items()}))
            self.send_error(502)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name for it
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        shop = tracing(
            OTEL_EXPORTER_OTLP_ENDPOINT=f"{scheme}://collector.example:4318",
            OTEL_EXPORTER_OTLP_HEADERS="api-key=s3cret",
            ALL_PROXY=f"http://me:pw@127.0.0.1:{proxy.server_port}",
        )
        shop.request()
        _until(lambda: asked)
        shop.tracer.close(20)
        proxy.shutdown()
    line, headers = asked[0]
    assert headers["proxy-authorization"] == "Basic bWU6cHc="
    if scheme == "http":
        assert line == "POST http://collector.example:4318/v1/traces HTTP/1.1"
        assert (headers["host"], headers["api-key"]) == ("collector.example:4318", "s3cret")
        assert (shop.exported, shop.dropped) == (1, {})
    else:
        assert line.startswith("CONNECT collector.example:4318 HTTP/1.")
        assert "api-key" not in headers


def test_a_partial_success_is_counted(collector: OtlpCollector, tracing: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What the collector rejected is dropped, and its reason told."""
    collector.replies.append(Reply(200, {"Content-Type": "application/x-protobuf"}, PARTIAL))
    shop = tracing(OTEL_BSP_SCHEDULE_DELAY="60000")
    for _ in range(5):
        shop.request()
    assert not lifecycle.force_flush(20)
    assert (shop.exported, shop.dropped) == (3, {"rejected": 2})
    assert "quota is up" in caplog.text


def test_a_shutdown_tries_once_more_and_then_gives_up(collector: OtlpCollector, tracing: Any) -> None:
    """Bounded, whatever the collector does; what is lost is counted, and nothing is taken afterwards."""
    collector.replies.extend([Reply(503, {"Retry-After": "30"})] * 9)
    shop = tracing()
    shop.request()
    collector.wait_for_posts(1)
    began = time.monotonic()
    exporter = shop.tracer._exporter
    assert not exporter.shutdown(10)
    assert time.monotonic() - began < 8
    assert [post.reply.status for post in collector.posts] == [503, 503]
    assert shop.dropped == {"unavailable": 1}
    shop.request()
    assert shop.dropped == {"unavailable": 1, "shutdown": 1}
    assert exporter.shutdown(10)


def test_a_shutdown_exports_what_is_queued(collector: OtlpCollector, tracing: Any) -> None:
    """At the end of the process nothing is lost, and the thread is gone."""
    shop = tracing(OTEL_BSP_SCHEDULE_DELAY="60000")
    for _ in range(1200):
        shop.request()
    assert shop.tracer.close(20)
    assert len(collector.spans) == 1200
    assert not [thread for thread in threading.enumerate() if thread.name == "tocsin-spans"]
    assert shop.request() not in {span.trace_id for span in collector.spans}


def test_no_thread_before_the_first_span(collector: OtlpCollector, tracing: Any) -> None:
    """A process that is forked before it answers has nothing that a fork could break."""
    before = threading.active_count()
    shop = tracing()
    shop.tracer.begin([])
    assert threading.active_count() == before


def test_a_forked_worker_begins_with_an_empty_queue(collector: OtlpCollector, tracing: Any) -> None:
    """The parent's spans are exported by the parent alone; the child's by a thread of its own; their ids differ."""
    shop = tracing(OTEL_BSP_SCHEDULE_DELAY="60000")
    shop.request()
    assert lifecycle.force_flush(20)
    mine = [shop.request() for _ in range(3)]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for _ in range(2):
                shop.request(route="/child")
            code = 0 if shop.tracer._exporter.flush(20) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert lifecycle.force_flush(20)
    names = [span.name for span in collector.spans]
    assert sorted(names) == ["GET /child"] * 2 + ["GET /items/{item}"] * 4
    assert len({span.span_id for span in collector.spans}) == 6
    assert set(mine) < {span.trace_id for span in collector.spans}


def test_an_exporter_nobody_holds_is_freed(collector: OtlpCollector) -> None:
    """Instrumenting in every test of a suite piles nothing up."""
    shop = Tracing(collector)
    gone = weakref.ref(shop.tracer._exporter)
    del shop
    gc.collect()
    assert gone() is None


def test_the_console_shows_spans(capsys: pytest.CaptureFixture[str], tracing: Any, collector: OtlpCollector) -> None:
    """`OTEL_TRACES_EXPORTER=console`: one JSON line each, and nothing is posted."""
    shop = tracing(OTEL_TRACES_EXPORTER="console")
    trace_id = shop.request()
    assert lifecycle.force_flush(20)
    written = capsys.readouterr().out
    assert f'"trace_id":"{trace_id}"' in written
    assert '"name":"GET /items/{item}"' in written
    assert written.count("\n") == 1
    assert collector.posts == []


def _until(happened: Any, timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    turn = threading.Event()
    while not happened():
        assert time.monotonic() < deadline
        turn.wait(0.005)


# --- when to try again -------------------------------------------------------------------------------------------

AT = 1_700_000_000.0


@pytest.mark.parametrize(
    ("status", "action", "reason"),
    [
        (200, "DONE", "accepted"),
        (202, "DONE", "accepted"),
        (None, "RETRY", "unavailable"),
        (429, "RETRY", "unavailable"),
        (502, "RETRY", "unavailable"),
        (503, "RETRY", "unavailable"),
        (504, "RETRY", "unavailable"),
        (413, "SPLIT", "too_large"),
        (400, "DROP", "refused"),
        (500, "DROP", "refused"),
        (307, "DROP", "refused"),
    ],
)
def test_which_answers_are_worth_another_attempt(status: int | None, action: str, reason: str) -> None:
    """The table of the OTLP specification."""
    verdict = retry.judge(status, None, attempt=1, waited=0.0, now=AT, dice=0.5)
    assert (verdict.action, verdict.reason) == (retry.Action[action], reason)


def test_waits_double_and_are_spread() -> None:
    """1, 2, 4 ... seconds at most, half of it by chance."""
    waits = [
        [retry.judge(None, None, attempt=n, waited=0.0, now=AT, dice=dice).wait for n in range(1, 8)]
        for dice in (0.0, 1.0)
    ]
    assert waits == [[0.5, 1, 2, 4, 8, 15, 15], [1, 2, 4, 8, 16, 30, 30]]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("7", 7.0),
        ("99999999999", 600.0),
        (formatdate(AT + 20, usegmt=True), 20.0),
        (formatdate(AT - 20, usegmt=True), 0.0),
        ("Wed, 99 Foo 2020", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    """RFC 9110; nothing longer than ten minutes is believed."""
    assert retry.pause_of(header, AT) == seconds


@pytest.mark.parametrize("header", ["0", formatdate(AT - 20, usegmt=True), formatdate(AT, usegmt=True)])
def test_no_collector_is_asked_again_at_once(header: str) -> None:
    """A pause of nothing, or a clock that differs, would have us post as fast as we can for a minute."""
    assert retry.judge(503, header, attempt=1, waited=0.0, now=AT, dice=0.0).wait == 0.5


def test_a_batch_is_given_up_after_a_minute() -> None:
    """So that newer spans are tried; the pause that was asked for still holds."""
    late = retry.judge(None, None, attempt=9, waited=55.0, now=AT, dice=1.0)
    assert (late.action, late.reason, late.wait) == (retry.Action.DROP, "unavailable", 0.0)
    long = retry.judge(503, "120", attempt=1, waited=0.0, now=AT, dice=0.0)
    assert (long.action, long.wait) == (retry.Action.DROP, 120.0)
