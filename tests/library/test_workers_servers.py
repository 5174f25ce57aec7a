"""Several workers behind one port, under real servers: any scrape shows all of them, whatever happens to each."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tocsin.metrics import group

APP = """
import os, time
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from tocsin import names
from tocsin.metrics.exposition import page
from tocsin.metrics.families import families_of
from tocsin.tracing.context import Trace

BEFORE = Counter("shop_orders", "Made before.", ["kind"])
families = families_of()
LATENCY = Histogram("shop_latency_seconds", "Made after.", buckets=(0.1, 1.0))
QUEUE = Gauge("shop_queue", "Each worker's.", multiprocess_mode="sum")
LEVEL = Gauge("shop_level", "By worker.")
VERSION = Gauge("shop_version", "Set while the module is loaded.", ["version"], multiprocess_mode="max")
VERSION.labels("1.2").set(1)
TRACE = Trace("a" * 32, "b" * 16, True)

def answer(path, accept):
    if path == "/metrics":
        headers, body = page(REGISTRY, [(b"accept", accept)])
        return body
    if path == "/burn":
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
    if path == "/exit":
        os._exit(7)
    families.observe(names.HTTP_SERVER_REQUEST_DURATION, "GET", path, "200", value=0.05, trace=TRACE)
    BEFORE.labels("x").inc()
    LATENCY.observe(0.5, {"trace_id": "c" * 32})
    QUEUE.set(1)
    LEVEL.set(1)
    return str(os.getpid()).encode()

def wsgi(environ, start_response):
    body = answer(environ["PATH_INFO"], environ.get("HTTP_ACCEPT", "").encode())
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    body = answer(scope["path"], dict(scope["headers"]).get(b"accept", b""))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""

GUNICORN = ("-m", "gunicorn", "--workers", "2", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "5")
UVICORN_WORKER = ("-k", "uvicorn_worker.UvicornWorker")
INSTRUMENTED = """
import os
import tocsin
from prometheus_client import Counter
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

ORDERS = Counter("shop_orders", "Orders.", ["kind"])

async def shop(request):
    ORDERS.labels("x").inc()
    return PlainTextResponse(str(os.getpid()))

asgi = tocsin.instrument(Starlette(routes=[Route("/{name}", shop)]), service_name="shop", logs=False)

def plain(environ, start_response):
    ORDERS.labels("x").inc()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]

wsgi = tocsin.instrument(plain, service_name="shop", logs=False)
"""

HOOKS = """
from tocsin.integrations import gunicorn as tocsin_gunicorn

when_ready = tocsin_gunicorn.serve_metrics({port})
child_exit = tocsin_gunicorn.child_exit
on_exit = tocsin_gunicorn.on_exit
"""

ALL_SERVERS = {
    "gunicorn sync": (*GUNICORN, "app:wsgi"),
    "gunicorn sync, preload": (*GUNICORN, "--preload", "app:wsgi"),
    "gunicorn threads": (*GUNICORN, "--threads", "3", "app:wsgi"),
    "gunicorn uvicorn": (*GUNICORN, *UVICORN_WORKER, "app:asgi"),
    "gunicorn uvicorn, preload": (*GUNICORN, *UVICORN_WORKER, "--preload", "app:asgi"),
    "uvicorn, reload": ("-m", "uvicorn", "--reload", "--port", "{port}", "--log-level", "warning", "app:asgi"),
    "gunicorn sync, preload, another user": (*GUNICORN, "--preload", "--user", "65534", "app:wsgi"),
    "uvicorn": ("-m", "uvicorn", "--workers", "2", "--port", "{port}", "--log-level", "warning", "app:asgi"),
}
SERVERS = [name for name in ALL_SERVERS if "another user" not in name and name != "uvicorn, reload"]


class Server:
    """A server with two workers."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.process = process

    def get(self, path: str, accept: str = "text/plain") -> str:
        """Ask on a connection of its own, so that any worker may answer. Again if the one asked was killed."""
        until = time.monotonic() + 30
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            try:
                connection.request("GET", path, headers={"accept": accept, "connection": "close"})
                return connection.getresponse().read().decode()
            except (OSError, http.client.HTTPException):
                if time.monotonic() > until:
                    raise
            finally:
                connection.close()

    def workers(self) -> set[int]:
        """The pids of the workers."""
        return {int(pid) for pid in _children(self.process.pid) if "multiprocessing.resource_tracker" not in _said(pid)}

    def count(self, requests: int = 0, pids: int = 2) -> int:
        """Send so many requests, and go on until so many workers have answered one; return how many were sent."""
        seen: set[str] = set()
        sent = 0
        until = time.monotonic() + 60
        while sent < requests or len(seen) < pids:
            seen.add(self.get("/shop"))
            sent += 1
            assert time.monotonic() < until, f"only {seen} of {pids} workers answer"
        return sent

    def metrics(self, accept: str = "text/plain") -> dict[str, float]:
        """One scrape, by series."""
        return parse(self.get("/metrics", accept))

    def folders(self) -> list[Path]:
        """The folders of the group."""
        return list(group.root().glob(f"*-{self.process.pid}-*"))


def parse(text: str) -> dict[str, float]:
    """Return the values of a page by series."""
    lines = (line.partition(" # ")[0] for line in text.splitlines() if line and not line.startswith("#"))
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}


def _children(pid: int) -> list[str]:
    found = []
    for folder in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += (folder / "children").read_text().split()
    return found


def _said(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return "multiprocessing.resource_tracker"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server by its name in the table, with added environment variables."""
    with contextlib.ExitStack() as stack:

        def begin(name: str, app: str = APP, **environ: str) -> Server:
            (tmp_path / "app.py").write_text(app)
            port = free_port()
            command = [sys.executable, *(part.format(port=port) for part in ALL_SERVERS[name])]
            log = stack.enter_context((tmp_path / "log").open("wb"))
            process = subprocess.Popen(
                command, cwd=tmp_path, stdout=log, stderr=log, env={**os.environ, **environ}, start_new_session=True
            )

            def stop() -> None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)

            stack.callback(stop)
            server = Server(port, process)
            server.get("/metrics")
            until(lambda: len(server.workers()) == (1 if name == "uvicorn, reload" else 2))
            return server

        yield begin


REQUESTS = (
    "http_server_request_duration_seconds_count"
    '{http_request_method="GET",http_response_status_code="200",http_route="/shop"}'
)
COUNT = "http_server_request_duration_seconds_count"
ORDERS = 'shop_orders_total{kind="x"}'


@pytest.mark.parametrize("name", SERVERS)
def test_any_scrape_shows_the_requests_of_all_workers(start: Callable[..., Server], name: str) -> None:
    """After N requests over both workers every scrape reads N, whoever answers it, with nothing configured."""
    server = start(name)
    sent = server.count(40)
    for _ in range(8):
        shown = server.metrics()
        assert shown[REQUESTS] == sent
        assert shown[ORDERS] == sent
        assert shown["shop_latency_seconds_count"] == sent
        assert shown['shop_latency_seconds_bucket{le="0.1"}'] == 0
        assert shown['shop_latency_seconds_bucket{le="1.0"}'] == sent
        assert shown["shop_latency_seconds_sum"] == sent * 0.5
        assert shown["shop_queue"] == 2
        assert {shown[f'shop_level{{pid="{pid}"}}'] for pid in server.workers()} == {1.0}
        assert shown['shop_version{version="1.2"}'] == 1
        assert shown["tocsin_workers"] == 2
        assert shown["tocsin_worker_starts_total"] == 2


@pytest.mark.parametrize("name", SERVERS)
def test_a_killed_worker_takes_no_count_with_it(start: Callable[..., Server], name: str) -> None:
    """After SIGKILL its requests are still counted, its gauges are gone, and CPU time does not fall."""
    server = start(name)
    sent = server.count(20)
    server.get("/burn")
    before = server.metrics()
    victim = min(server.workers())
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in server.workers() and len(server.workers()) == 2)
    until(lambda: server.metrics()["tocsin_worker_starts_total"] >= 3)
    after = server.metrics()
    assert after[REQUESTS] == after[ORDERS] - 1 == sent
    assert after["shop_queue"] == 1
    assert f'shop_level{{pid="{victim}"}}' not in after
    assert after["process_cpu_seconds_total"] >= before["process_cpu_seconds_total"]
    assert after["process_start_time_seconds"] == before["process_start_time_seconds"]
    assert after["process_resident_memory_bytes"] > 0
    sent += server.count(20)
    assert server.metrics()[REQUESTS] == sent


@pytest.mark.parametrize("name", ["gunicorn sync", "gunicorn uvicorn", "gunicorn sync, preload", "uvicorn"])
def test_reloads_neither_lose_counts_nor_leave_files(start: Callable[..., Server], name: str) -> None:
    """Over eight reloads of two workers no count ever falls, none is lost, and files stay bounded."""
    server = start(name)
    sent, last = 0, {REQUESTS: 0.0, "process_cpu_seconds_total": 0.0}
    for _ in range(8):
        sent += server.count(4)
        old = server.workers()
        server.process.send_signal(signal.SIGHUP)
        until(lambda old=old: len(server.workers()) == 2 and not server.workers() & old)  # type: ignore[misc]
        shown = server.metrics()
        assert shown[REQUESTS] == sent
        for series, value in last.items():
            assert shown[series] >= value
        last = {series: shown[series] for series in last}
        masters = 1 if "preload" in name else 0
        files = [path.name for folder in server.folders() for path in folder.iterdir()]
        assert len(files) <= 2 + masters + 2, files
    until(lambda: server.metrics()["tocsin_workers"] == 2)


@pytest.mark.parametrize("name", ["gunicorn uvicorn", "gunicorn sync, preload"])
def test_exemplars_survive(start: Callable[..., Server], name: str) -> None:
    """Ours and the application's own exemplars are on an OpenMetrics page, of any worker, dead ones included."""
    server = start(name)
    server.count(10)
    for pid in server.workers():
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: pid not in server.workers())  # type: ignore[misc]
    text = server.get("/metrics", "application/openmetrics-text; version=1.0.0")
    assert re.search(
        rf'duration_seconds_bucket{{.*}} \d+\.0 # {{span_id="{"b" * 16}",trace_id="{"a" * 32}"}} 0.05 ', text
    )
    assert re.search(rf'shop_latency_seconds_bucket{{le="1.0"}} \d+\.0 # {{trace_id="{"c" * 32}"}} 0.5 ', text)


def test_cpu_time_never_falls(start: Callable[..., Server]) -> None:
    """`process_cpu_seconds_total` rises over scrapes of whichever worker, and over the deaths of workers."""
    server = start("gunicorn sync")
    last = 0.0
    for turn in range(12):
        server.get("/burn")
        seconds = server.metrics()["process_cpu_seconds_total"]
        assert seconds >= last
        last = seconds
        if turn % 4 == 3:
            victim = min(server.workers())
            os.kill(victim, signal.SIGKILL)
            until(lambda victim=victim: victim not in server.workers())  # type: ignore[misc]
    assert last >= 12 * 0.2


def test_prometheus_multiproc_dir_is_respected(start: Callable[..., Server], tmp_path: Path) -> None:
    """With prometheus_client's variable its own mode is used for its metrics, in its folder, and ours join there."""
    folder = tmp_path / "multiproc"
    folder.mkdir()
    server = start("gunicorn sync", PROMETHEUS_MULTIPROC_DIR=str(folder))
    sent = server.count(20)
    shown = server.metrics()
    assert shown[REQUESTS] == shown[ORDERS] == shown["shop_latency_seconds_count"] == sent
    assert shown["tocsin_workers"] == 2
    assert list(folder.glob("counter_*.db"))
    assert list(folder.glob("tocsin-*/*.segment"))
    assert not server.folders()


def test_it_can_be_switched_off(start: Callable[..., Server]) -> None:
    """With TOCSIN_WORKERS=off every worker shows what it has counted itself."""
    server = start("gunicorn sync", TOCSIN_WORKERS="off")
    sent = server.count(20)
    shown = server.metrics()
    assert 0 < shown[REQUESTS] < sent
    assert "tocsin_workers" not in shown
    assert not server.folders()


def test_what_a_dead_server_has_left_is_removed_by_the_next(start: Callable[..., Server]) -> None:
    """The folder of a server whose every process was killed goes when another starts."""
    dead = start("gunicorn sync")
    dead.count()
    left = dead.folders()
    assert left
    os.killpg(dead.process.pid, signal.SIGKILL)
    dead.process.wait(20)
    start("gunicorn sync").count()
    assert not any(folder.exists() for folder in left)


@pytest.mark.parametrize("name", SERVERS)
def test_an_instrumented_application_needs_nothing_more(start: Callable[..., Server], name: str) -> None:
    """`tocsin.instrument(app)` is all there is to do: requests are counted by route over all workers."""
    server = start(name, INSTRUMENTED)
    sent = server.count(40)
    for _ in range(4):
        shown = server.metrics()
        assert sum(value for series, value in shown.items() if series.startswith(COUNT)) == sent
        assert shown[ORDERS] == sent
        assert shown['http_server_active_requests{http_request_method="GET"}'] == 0
        assert shown["tocsin_workers"] == 2


def test_gunicorns_master_can_serve_the_metrics(start: Callable[..., Server], tmp_path: Path) -> None:
    """With the hooks the master shows all workers on a port of its own, is none itself, and tidies up at the end."""
    port = free_port()
    (tmp_path / "gunicorn.conf.py").write_text(HOOKS.format(port=port))
    server = start("gunicorn sync")
    sent = server.count(10)
    master = Server(port, server.process)
    shown = master.metrics()
    assert shown[REQUESTS] == shown[ORDERS] == shown["shop_latency_seconds_count"] == sent
    assert shown["tocsin_workers"] == 2
    os.kill(min(server.workers()), signal.SIGKILL)
    until(lambda: master.metrics()["tocsin_worker_starts_total"] == 3)
    assert master.metrics()[REQUESTS] == sent
    left = server.folders()
    assert left
    server.process.terminate()
    server.process.wait(20)
    assert not any(folder.exists() for folder in left)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["gunicorn sync", "gunicorn uvicorn", "gunicorn sync, preload", "uvicorn"])
def test_no_answered_request_is_lost_whoever_dies_when(start: Callable[..., Server], name: str) -> None:
    """Workers are killed at random instants under load: counts never fall, and every answered request is counted."""
    server = start(name)
    dice = random.Random(7)
    answered = Counter[str]()
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/shop", headers={"connection": "close"})
                answered["sent"] += 1
                if connection.getresponse().read():
                    answered["answered"] += 1
            connection.close()

    client = threading.Thread(target=ask)
    client.start()
    last = 0.0
    for _ in range(25):
        end = time.monotonic() + dice.uniform(0.0, 0.4)
        while time.monotonic() < end:
            shown = server.metrics().get(REQUESTS, 0.0)
            assert shown >= last
            last = shown
        for pid in sorted(server.workers())[: dice.choice([0, 1, 1, 2])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    done.set()
    client.join(30)
    until(lambda: len(server.workers()) == 2)
    shown = server.metrics()[REQUESTS]
    assert answered["answered"] <= shown <= answered["sent"]
    files = [path for folder in server.folders() for path in folder.iterdir()]
    assert len(files) <= 2 + 2 + ("preload" in name)


def test_counts_survive_a_reload_while_developing(start: Callable[..., Server], tmp_path: Path) -> None:
    """With uvicorn's --reload the next process goes on where the last one was."""
    server = start("uvicorn, reload")
    sent = server.count(5, pids=1)
    old = server.workers()
    ahead = iter(range(10, 10_000, 10))

    def changed() -> bool:
        # The reloader compares times of files, four times a second, and a change before it first looks is none.
        os.utime(tmp_path / "app.py", times=(time.time(), time.time() + next(ahead)))
        end = time.monotonic() + 2
        while time.monotonic() < end and server.workers() & old:
            time.sleep(0.02)
        return not server.workers() & old

    until(changed)
    until(lambda: len(server.workers()) == 1)
    assert server.metrics()[REQUESTS] == sent
    assert server.metrics()["tocsin_workers"] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_workers_may_run_as_another_user_than_their_master(start: Callable[..., Server]) -> None:
    """Gunicorn's --user: workers that gave up root share what they count, though their master's files are closed."""
    server = start("gunicorn sync, preload, another user")
    sent = server.count(20)
    shown = server.metrics()
    assert shown[REQUESTS] == shown[ORDERS] == sent
    assert shown["tocsin_workers"] == 2
    (victim, _) = server.workers()
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in server.workers())
    assert server.metrics()[REQUESTS] == sent
