"""What gunicorn and uvicorn log themselves: no access line beside ours, the rest in our schema."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gunicorn.glogging
import pytest
from gunicorn.config import Config
from prometheus_client import CollectorRegistry

import tocsin
from tocsin.integrations import servers
from tocsin.testing import Capture

APPLICATION = """
import tocsin
from tocsin.integrations import servers
tocsin.configure_logs(service_name="shop")
servers.quiet_access_log()
servers.adopt_server_log()
def app(environ, start_response):
    start_response("200 OK", [("content-length", "2")])
    return [b"ok"]
"""


def test_a_real_gunicorn_writes_our_schema_only(tmp_path: Path) -> None:
    """Its access log, which was asked for, is silent; what the worker says is JSON on stdout."""
    (tmp_path / "application.py").write_text(APPLICATION)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "application:app", "--bind", f"127.0.0.1:{port}"]
    command += ["--access-logfile", "-", "--workers", "1", "--no-control-socket"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."}
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if b"Booting worker" in line:
                break
        answer = b""
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as response:
                    answer = response.read()
                break
            except OSError:
                process.poll()
        assert answer == b"ok"
    finally:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    events = [json.loads(line) for line in out.splitlines()]
    assert {event["log.logger"] for event in events} == {"gunicorn.error"}
    assert any("Worker exiting" in event["message"] for event in events)


@pytest.mark.parametrize("lifespan", ["on", "off"])
def test_uvicorns_last_lines_are_written(tmp_path: Path, lifespan: str) -> None:
    """It ends itself with the SIGTERM that it was stopped by: `atexit` does not run, and nothing may be queued then."""
    (tmp_path / "application.py").write_text(
        "import tocsin\n"
        "async def app(scope, receive, send):\n"
        "    while scope['type'] == 'lifespan':\n"
        "        message = await receive()\n"
        "        await send({'type': message['type'] + '.complete'})\n"
        "tocsin.configure_logs(service_name='shop')\n"
        "tocsin.instrument(app)\n"
        "app = tocsin.instrument(app)\n"
    )
    command = [sys.executable, "-m", "uvicorn", "application:app", "--port", "0", "--lifespan", lifespan]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        found = []
        for line in process.stdout:
            found.append(json.loads(line)["message"])
            if "Uvicorn running" in found[-1]:
                process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM
    assert found[-1].startswith("Finished server process")


@pytest.fixture
def gunicorn_log() -> Iterator[Any]:
    """gunicorn's own logger, set up as its master does."""
    names = ("gunicorn.error", "gunicorn.access")
    yield gunicorn.glogging.Logger
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate, logger.disabled = True, False
    servers.restore_access_log()


def test_a_file_that_gunicorn_was_told_to_write_stays(
    tmp_path: Path, gunicorn_log: Any, lines: Capture, registry: CollectorRegistry
) -> None:
    """Only its handler for the terminal is replaced."""
    tocsin.configure_logs(service_name="shop", stream=lines, registry=registry)
    config = Config()
    config.set("errorlog", str(tmp_path / "error.log"))
    gunicorn_log(config).error("to the file")
    servers.adopt_server_log()
    logging.getLogger("gunicorn.error").error("to the file too")
    assert lines.events == []
    assert (tmp_path / "error.log").read_text().count("to the file") == 2
    for handler in logging.getLogger("gunicorn.error").handlers:
        handler.close()


def test_access_lines_come_back(tmp_path: Path, gunicorn_log: Any) -> None:
    """When the last application is uninstrumented, servers write of requests again."""
    config = Config()
    config.set("accesslog", str(tmp_path / "access.log"))
    log = gunicorn_log(config)
    servers.quiet_access_log()
    log.access_log.info("silent")
    servers.restore_access_log()
    log.access_log.info("written")
    assert (tmp_path / "access.log").read_text() == "written\n"
    for handler in log.access_log.handlers:
        handler.close()


def test_an_exception_is_told_once(lines: Capture, registry: CollectorRegistry, gunicorn_log: Any) -> None:
    """By our access line, with its trace; a server's traceback of the same one is left out, another's is not."""
    tocsin.configure_logs(service_name="shop", stream=lines, registry=registry)
    gunicorn_log(Config())
    servers.quiet_access_log()
    servers.adopt_server_log()
    error = RuntimeError("boom")
    error.__tocsin_told__ = True  # type: ignore[attr-defined]  # as our access line marks it
    for told in (error, RuntimeError("another")):
        logging.getLogger("gunicorn.error").error("Error handling request", exc_info=told)
    assert [event["error.message"] for event in lines.events] == ["another"]
