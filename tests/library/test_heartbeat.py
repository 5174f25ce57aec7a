"""Heartbeats reach a prober in the background, with retries; they never hold up a job and never show their URL."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tocsin import lifecycle
from tocsin.integrations.heartbeat import Event, Heartbeat, Sender, heartbeats_of
from tocsin.metrics.families import Families, families_of
from tocsin.testing import dropped


class Prober:
    """A real HTTP server that answers with the statuses it is given, 200 afterwards, and keeps what was asked."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.asked: list[str] = []
        self.authorizations: list[str | None] = []
        self.open = threading.Event()
        self.open.set()
        prober = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                prober.asked.append(f"{self.command} {self.path}")
                prober.authorizations.append(self.headers.get("Authorization"))
                prober.open.wait(20)
                self.send_response(prober.statuses.pop(0) if prober.statuses else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.address}"

    def close(self) -> None:
        self.open.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


@pytest.fixture
def prober() -> Iterator[Prober]:
    prober = Prober()
    yield prober
    prober.close()


@pytest.fixture
def sender() -> Iterator[Sender]:
    sender = Sender(timeout=2.0, backoff=(0.01, 0.02))
    yield sender
    assert sender.shutdown(10.0)


@pytest.fixture
def families(registry: CollectorRegistry) -> Families:
    return families_of(registry)


def test_a_success_calls_the_url(prober: Prober, sender: Sender, families: Families) -> None:
    """With POST, from the background."""
    sender.send("nightly", Heartbeat(f"{prober.url}/beat/1234"), "success", families)
    assert sender.flush(10.0)
    assert prober.asked == ["POST /beat/1234"]


@pytest.mark.parametrize(
    ("heartbeat", "event", "asked"),
    [
        (Heartbeat("{url}/b"), "start", None),
        (Heartbeat("{url}/b"), "fail", None),
        (Heartbeat("{url}/b", start=True), "start", "POST /b/start"),
        (Heartbeat("{url}/b/?k=1", fail=True), "fail", "POST /b/fail?k=1"),
    ],
)
def test_starts_and_failures_are_told_where_asked_for(
    prober: Prober, sender: Sender, families: Families, heartbeat: Heartbeat, event: Event, asked: str | None
) -> None:
    """At the same URL with `/start` and `/fail` after its path."""
    given = Heartbeat(heartbeat.url.format(url=prober.url), heartbeat.start, heartbeat.fail)
    sender.send("nightly", given, event, families)
    assert sender.flush(10.0)
    assert prober.asked == ([asked] if asked else [])


def test_a_prober_that_takes_no_post_is_asked_with_get(prober: Prober, sender: Sender, families: Families) -> None:
    """Some push URLs are GET only."""
    prober.statuses = [405]
    sender.send("nightly", Heartbeat(f"{prober.url}/push"), "success", families)
    assert sender.flush(10.0)
    assert prober.asked == ["POST /push", "GET /push"]


def test_a_failed_try_is_repeated(
    prober: Prober, sender: Sender, families: Families, registry: CollectorRegistry
) -> None:
    """Three tries; nothing is lost if the last one is taken."""
    prober.statuses = [500, 429]
    sender.send("nightly", Heartbeat(f"{prober.url}/b"), "success", families)
    assert sender.flush(10.0)
    assert prober.asked == ["POST /b"] * 3
    assert dropped(registry) == {}


def test_what_is_not_delivered_is_counted_and_said_once_without_the_secret(
    prober: Prober,
    sender: Sender,
    families: Families,
    registry: CollectorRegistry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The path and the password of the URL are keys: whoever has them can keep an alert quiet."""
    heartbeat = Heartbeat(f"http://me:hunter2@{prober.address}/beat/s3cret?token=s3cret")
    with caplog.at_level(logging.WARNING, "tocsin"):
        for _ in range(2):
            prober.statuses = [404]
            sender.send("nightly", heartbeat, "success", families)
            assert sender.flush(10.0)
    assert prober.asked == ["POST /beat/s3cret?token=s3cret"] * 2, "a 404 is not tried again"
    assert prober.authorizations == ["Basic bWU6aHVudGVyMg=="] * 2
    assert dropped(registry) == {("heartbeat", "status_4xx"): 2}
    assert len(caplog.messages) == 1
    assert "'nightly'" in caplog.text
    assert "http://127.0.0.1/..." in caplog.text
    assert "s3cret" not in caplog.text
    assert "hunter2" not in caplog.text


def test_a_prober_that_is_gone_is_unreachable(
    sender: Sender, families: Families, registry: CollectorRegistry, prober: Prober
) -> None:
    """Counted once after three tries."""
    prober.close()
    sender.send("nightly", Heartbeat(f"{prober.url}/b"), "success", families)
    assert sender.flush(10.0)
    assert dropped(registry) == {("heartbeat", "unreachable"): 1}


def test_a_prober_that_hangs_times_out(prober: Prober, families: Families, registry: CollectorRegistry) -> None:
    """And holds up nobody but the background thread."""
    sender = Sender(timeout=0.1, backoff=())
    prober.open.clear()
    began = monotonic()
    sender.send("nightly", Heartbeat(f"{prober.url}/b"), "success", families)
    assert monotonic() - began < 0.1
    assert sender.flush(10.0)
    assert dropped(registry) == {("heartbeat", "timeout"): 1}


def test_only_the_newest_event_of_a_heartbeat_waits(prober: Prober, sender: Sender, families: Families) -> None:
    """So the queue cannot grow, and a late start does not come after the success it belongs to."""
    prober.open.clear()
    blocked = Heartbeat(f"{prober.url}/blocked")
    heartbeat = Heartbeat(f"{prober.url}/b", start=True, fail=True)
    sender.send("other", blocked, "success", families)
    for _ in range(1_000):
        sender.send("nightly", heartbeat, "start", families)
        sender.send("nightly", heartbeat, "success", families)
    prober.open.set()
    assert sender.flush(10.0)
    assert prober.asked == ["POST /blocked", "POST /b"]


def test_a_retry_gives_way_to_a_newer_event(prober: Prober, families: Families, registry: CollectorRegistry) -> None:
    """A failed `start` is not repeated after the `success`."""
    sender = Sender(timeout=2.0, backoff=(30.0, 30.0))
    heartbeat = Heartbeat(f"{prober.url}/b", start=True)
    prober.statuses = [500]
    sender.send("nightly", heartbeat, "start", families)
    assert not sender.flush(0.3), "waits for its second try"
    sender.send("nightly", heartbeat, "success", families)
    assert sender.flush(10.0)
    assert prober.asked == ["POST /b/start", "POST /b"]
    assert dropped(registry) == {}


def test_shutdown_sends_what_is_left_without_pauses(prober: Prober, families: Families) -> None:
    """The process is ending: the second try comes at once."""
    sender = Sender(timeout=2.0, backoff=(30.0, 30.0))
    prober.statuses = [500]
    sender.send("nightly", Heartbeat(f"{prober.url}/b"), "success", families)
    assert sender.shutdown(10.0)
    assert prober.asked == ["POST /b"] * 2
    sender.send("nightly", Heartbeat(f"{prober.url}/b"), "success", families)
    assert sender.flush(10.0), "and it can go on"
    assert sender.shutdown(10.0)


def test_force_flush_waits_for_heartbeats(prober: Prober, sender: Sender, families: Families) -> None:
    """As for log lines and spans."""
    sender.send("nightly", Heartbeat(f"{prober.url}/b"), "success", families)
    assert lifecycle.force_flush(10.0)
    assert prober.asked == ["POST /b"]


def test_a_script_that_ends_delivers_its_heartbeat(prober: Prober) -> None:
    """At the end of the process, without being asked."""
    program = f"""
from tocsin.integrations.heartbeat import Heartbeat, sender
from tocsin.metrics.families import families_of
sender().send("script", Heartbeat("{prober.url}/b"), "success", families_of())
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
    assert prober.asked == ["POST /b"]


def test_a_forked_child_sends_its_own_and_not_its_parents(prober: Prober) -> None:
    """What waits in the parent is sent by the parent alone; the child starts a thread of its own."""
    program = f"""
import os
from tocsin import lifecycle
from tocsin.integrations.heartbeat import Heartbeat, Sender
from tocsin.metrics.families import families_of
sender, families = Sender(backoff=(0.3,)), families_of()
sender.send("parent", Heartbeat("{prober.url}/parent"), "success", families)
child = os.fork()
if child == 0:
    sender.send("child", Heartbeat("{prober.url}/child"), "success", families)
    os._exit(0 if sender.flush(10.0) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert sender.flush(10.0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=dict(os.environ))
    assert sorted(prober.asked) == ["POST /child", "POST /parent"]


@pytest.mark.parametrize(
    "url", ["ftp://prober/b", "prober/b", "http:///b", "https://prober:port/b", "file:///etc/passwd"]
)
def test_a_url_that_cannot_work_is_refused_at_once(url: str) -> None:
    """The message names the job and shows no path."""
    with pytest.raises(ValueError, match="heartbeat of job 'nightly'") as caught:
        heartbeats_of({"nightly": url})
    assert "/b" not in str(caught.value).partition("found")[2]
