"""WSGI applications under real servers: gunicorn's sync and threaded workers, and the servers for development."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tocsin.names import HTTP_SERVER_REQUEST_DURATION

BARE = """
import time
import tocsin

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/boom":
        raise RuntimeError("boom")
    if path == "/file":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1000000")])
        return environ["wsgi.file_wrapper"](open("big", "rb"))
    if path == "/nothing":
        start_response("204 No Content", [])
        return []
    start_response("200 OK", [("Content-Type", "text/plain")])
    return stream() if path == "/stream" else [b"ok"]

def stream():
    while True:
        yield b"x" * 65536
        time.sleep(0.01)

application = tocsin.instrument(application, service_name="shop")
"""

FLASK = """
import time
import flask
import tocsin

application = flask.Flask(__name__)

@application.route("/")
def index():
    return "ok"

@application.route("/boom")
def boom():
    raise RuntimeError("boom")

@application.route("/file")
def file():
    return flask.send_file("big", mimetype="text/plain")

@application.route("/nothing")
def nothing():
    return "", 204

@application.route("/stream")
def stream():
    def pieces():
        while True:
            yield b"x" * 65536
            time.sleep(0.01)
    return flask.Response(flask.stream_with_context(pieces()))

tocsin.instrument(application, service_name="shop")
"""

DJANGO = """
import os
import time
import django.http
from django.core.wsgi import get_wsgi_application
from django.urls import path
import tocsin

SECRET_KEY = "a test's"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop"
WSGI_APPLICATION = "shop.application"
USE_TZ = True

def index(request):
    return django.http.HttpResponse("ok")

def boom(request):
    raise RuntimeError("boom")

def file(request):
    return django.http.FileResponse(open("big", "rb"))

def nothing(request):
    return django.http.HttpResponse(status=204)

def stream(request):
    def pieces():
        while True:
            yield b"x" * 65536
            time.sleep(0.01)
    return django.http.StreamingHttpResponse(pieces())

urlpatterns = [
    path("", index), path("boom", boom), path("file", file), path("nothing", nothing), path("stream", stream)
]

if __name__ == "shop":
    os.environ["DJANGO_SETTINGS_MODULE"] = "shop"
    application = tocsin.instrument(get_wsgi_application(), service_name="shop")
"""

APPS = {"bare": BARE, "flask": FLASK, "django": DJANGO}
GUNICORN = ["-m", "gunicorn", "-w1", "-b127.0.0.1:0", "--no-control-socket", "shop:application"]


@dataclass
class Served:
    """A server with an instrumented application."""

    url: str
    log: Path

    def get(self, path: str, method: str = "GET") -> httpx.Response:
        return httpx.request(method, self.url + path, timeout=20)

    def counted(self) -> dict[tuple[str, str, str], int]:
        return {
            (
                sample.labels["http_request_method"],
                sample.labels["http_route"],
                sample.labels["http_response_status_code"],
            ): int(sample.value)
            for metric in text_string_to_metric_families(self.get("/metrics").text)
            for sample in metric.samples
            if sample.name == f"{HTTP_SERVER_REQUEST_DURATION.name}_count"
        }

    def lines(self) -> list[dict[str, Any]]:
        """What was written as JSON: the server's own words are not."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def access(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line.get("event.dataset") == "shop.access"]


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def eventually(found: Callable[[], Any], expected: object) -> None:
    """Wait until it is so: a server may be a moment behind what its client has seen. Fail with what it is instead."""
    deadline = time.monotonic() + 10
    while found() != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found() == expected


Serve = Callable[..., Served]


@pytest.fixture
def serve_wsgi(tmp_path: Path) -> Iterator[Serve]:
    """Run Python with these arguments in a folder with the application `shop`; gives where it listens."""
    running: list[subprocess.Popen[bytes]] = []

    def start(source: str, *arguments: str) -> Served:
        (tmp_path / "shop.py").write_text(source)
        (tmp_path / "big").write_bytes(b"x" * 1_000_000)
        log = tmp_path / "log"
        with log.open("wb") as out:
            running.append(
                subprocess.Popen([sys.executable, "-u", *arguments], cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT)
            )

        def listening() -> re.Match[str] | None:
            assert running[-1].poll() is None, log.read_text()
            return re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text())

        port = until(listening)[1]
        served = Served(f"http://127.0.0.1:{port}", log)

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", int(port))) == 0

        until(answers)
        return served

    yield start
    for process in running:
        process.terminate()
        process.wait(20)


def route(app: str, path: str) -> str:
    return "" if app == "bare" else path


@pytest.mark.parametrize("app", APPS)
@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_under_gunicorn_each_request_is_counted_once(app: str, worker: str, serve_wsgi: Serve) -> None:
    """Statuses, HEAD, made-up methods, files sent by the kernel, exceptions: once each in counts and lines."""
    served = serve_wsgi(APPS[app], *GUNICORN, "-k", worker)
    assert served.get("/").text == "ok"
    assert served.get("/", "HEAD").content == b""
    assert served.get("/nothing").status_code == 204
    assert served.get("/file").content == b"x" * 1_000_000
    assert served.get("/boom").status_code == 500
    made_up = served.get("/", "BREW").status_code
    expected = {
        ("GET", route(app, "/"), "200"): 1,
        ("HEAD", route(app, "/"), "200"): 1,
        ("GET", route(app, "/nothing"), "204"): 1,
        ("GET", route(app, "/file"), "200"): 1,
        ("GET", route(app, "/boom"), "500"): 1,
        ("_OTHER", "" if app == "flask" else route(app, "/"), str(made_up)): 1,
    }
    if app == "bare":
        expected = {("GET", "", "200"): 2, ("HEAD", "", "200"): 1, ("GET", "", "204"): 1, ("GET", "", "500"): 1} | {
            ("_OTHER", "", "200"): 1
        }
    eventually(served.counted, expected)
    eventually(lambda: len(served.access()), 6)
    lines = served.access()
    assert [line["error.type"] for line in lines if "error.type" in line] == ["RuntimeError"]
    assert all(line["client.ip"] == "127.0.0.1" for line in lines)


@pytest.mark.parametrize("app", APPS)
def test_under_gunicorn_a_client_that_goes_away_is_499(app: str, serve_wsgi: Serve) -> None:
    """The worker finds out when it writes to nobody; it then answers others, with nothing in flight."""
    served = serve_wsgi(APPS[app], *GUNICORN)
    with httpx.stream("GET", served.url + "/stream") as response:
        assert next(response.iter_raw())
    eventually(served.counted, {("GET", route(app, "/stream"), "499"): 1})
    assert 'http_server_active_requests{http_request_method="GET"} 0' in served.get("/metrics").text
    (line,) = until(served.access)
    assert line["http.response.status_code"] == 499


def test_under_djangos_runserver(serve_wsgi: Serve) -> None:
    """The server for development uses the same handler."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = serve_wsgi(
        DJANGO, "-m", "django", "runserver", "--noreload", "--pythonpath=.", "--settings=shop", f"127.0.0.1:{port}"
    )
    assert served.get("/").text == "ok"
    assert served.get("/nowhere").status_code == 404
    eventually(served.counted, {("GET", "/", "200"): 1, ("GET", "", "404"): 1})


def test_under_flasks_development_server(serve_wsgi: Serve) -> None:
    """`flask run`."""
    served = serve_wsgi(FLASK, "-m", "flask", "--app", "shop:application", "run", "--port", "0")
    assert served.get("/").text == "ok"
    assert served.get("/boom").status_code == 500
    eventually(served.counted, {("GET", "/", "200"): 1, ("GET", "/boom", "500"): 1})
