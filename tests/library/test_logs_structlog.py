"""structlog and tocsin: one schema, whoever configured it and whenever it was imported."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse

import tocsin
import tocsin.testing
from tocsin.redact import REDACTED
from tocsin.testing import Capture, call


def configure(lines: Any, registry: CollectorRegistry, **options: Any) -> Any:
    tocsin.configure_logs(**{"service_name": "shop", "stream": lines, "registry": registry, **options})
    return tocsin.get_logger("shop.orders")


def test_levels_are_obeyed(lines: Capture, registry: CollectorRegistry) -> None:
    """Lower ones are not written, by structlog or the access log, even from loggers made before."""
    log = tocsin.get_logger()
    configure(lines, registry, level="warning")
    log.info("no")
    log.warning("yes")
    structlog.get_logger().info("no")
    assert [event["message"] for event in lines.events] == ["yes"]


def test_structlog_itself_writes_the_schema(lines: Capture, registry: CollectorRegistry) -> None:
    """After `configure_logs`, `structlog.get_logger()` is as good as ours."""
    configure(lines, registry)
    structlog.get_logger("mine").bind(a=1).info("hello", b=2)
    (event,) = lines.events
    assert (event["message"], event["log.logger"], event["a"], event["b"]) == ("hello", "mine", 1, 2)


async def test_instrument_leaves_the_applications_structlog_alone(registry: CollectorRegistry, lines: Capture) -> None:
    """Who configured structlog keeps it; `tocsin.get_logger` and access lines have our schema all the same."""
    own = io.StringIO()
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(own), processors=[structlog.processors.JSONRenderer()]
    )
    try:
        app = tocsin.instrument(PlainTextResponse("ok"), registry=registry, log_stream=lines)
        await call(app)
        structlog.get_logger().info("mine")
        tocsin.get_logger().info("ours")
    finally:
        structlog.reset_defaults()
    assert json.loads(own.getvalue()) == {"event": "mine"}
    assert [event["message"] for event in lines.events] == ["GET / 200", "ours"]


async def test_bound_variables_appear_and_do_not_leak(registry: CollectorRegistry, lines: Capture) -> None:
    """What a handler binds is in its lines, threads and access line included, and gone in the next request."""
    app = FastAPI()
    log = tocsin.get_logger()

    @app.get("/bind")
    async def bind() -> None:
        structlog.contextvars.bind_contextvars(user="ann", password="SECRET")
        log.info("bound")

    @app.get("/free")
    def free() -> None:
        log.info("free")

    structlog.contextvars.bind_contextvars(worker=3)
    tocsin.instrument(app, registry=registry, log_stream=lines)
    await call(app, "/bind")
    await call(app, "/free")
    assert structlog.contextvars.get_contextvars() == {"worker": 3}
    seen = [(e["message"], e.get("user"), e.get("password"), e.get("worker")) for e in lines.events]
    assert seen == [
        ("bound", "ann", REDACTED, 3),
        ("GET /bind 200", "ann", REDACTED, 3),
        ("free", None, None, 3),
        ("GET /free 200", None, None, 3),
    ]


def test_a_logger_is_structlogs(lines: Capture, registry: CollectorRegistry) -> None:
    """`bind`, `unbind`, positional arguments, `exception`, `log`, async variants, `is_enabled_for`."""
    log = configure(lines, registry, level="debug")
    bound = log.bind(a=1, b=2).unbind("b").bind(c=3)
    assert isinstance(bound, structlog.BoundLoggerBase)
    bound.debug("%s and %d", "x", 5)
    bound.log(logging.WARNING, "by number", d=4)
    log.warning("old name")
    log.fatal("worst")
    asyncio.run(log.ainfo("async", e=5))
    seen = [(e["log.level"], e["message"], e.get("a"), e.get("c")) for e in lines.events]
    assert seen == [
        ("debug", "x and 5", 1, 3),
        ("warning", "by number", 1, 3),
        ("warning", "old name", None, None),
        ("critical", "worst", None, None),
        ("info", "async", None, None),
    ]
    assert log.is_enabled_for(logging.DEBUG)
    configure(lines, registry, level="error")
    assert (log.is_enabled_for(logging.DEBUG), log.get_effective_level()) == (False, logging.ERROR)


def test_structlogs_own_test_helper_sees_our_events(lines: Capture, registry: CollectorRegistry) -> None:
    """`capture_logs` puts itself in front of `structlog.get_logger()`'s processors; the short way gives way to it."""
    configure(lines, registry)
    with structlog.testing.capture_logs() as captured:
        structlog.get_logger().info("seen", a=1)
    assert captured == [{"a": 1, "event": "seen", "log_level": "info"}]
    assert lines.events == []


def test_other_processors_may_stand_before_ours(lines: Capture, registry: CollectorRegistry) -> None:
    """What is configured for structlog stays the application's to extend; DropEvent drops."""

    def drop_health(_logger: Any, _method: str, event: Any) -> Any:
        if event["event"] == "health":
            raise structlog.DropEvent
        return {**event, "added": True}

    configure(lines, registry)
    structlog.configure(processors=[drop_health, *structlog.get_config()["processors"]])
    structlog.get_logger().info("health")
    structlog.get_logger().info("order")
    assert [(e["message"], e["added"]) for e in lines.events] == [("order", True)]


def program(source: str, tmp_path: Path) -> list[dict[str, Any]]:
    """Run a program; return the lines it wrote to stdout."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", source], cwd=tmp_path, capture_output=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr.decode()
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_structlog_is_configured_when_it_is_imported(tmp_path: Path) -> None:
    """It takes 30 ms to import, so we do not; whoever does later finds it configured, as if it had come first."""
    source = """
import sys, tocsin
tocsin.configure_logs(service_name="shop")
log = tocsin.get_logger("ours")
assert "structlog" not in sys.modules and "rich" not in sys.modules
finders = len(sys.meta_path)
import structlog
assert len(sys.meta_path) == finders - 1
structlog.get_logger("theirs").info("late", a=1)
log.info("ours too")
assert structlog.__spec__.loader.get_source("structlog")
"""
    late, ours = program(source, tmp_path)
    assert (late["message"], late["a"], late["log.logger"], late["service.name"]) == ("late", 1, "theirs", "shop")
    assert (ours["message"], ours["log.logger"]) == ("ours too", "ours")


def test_structlog_imported_by_our_logger_is_configured_too(tmp_path: Path) -> None:
    """The first event of `get_logger` loads it."""
    source = """
import tocsin
tocsin.configure_logs(service_name="shop")
tocsin.get_logger().info("first")
import structlog
structlog.get_logger().info("second")
"""
    assert [line["message"] for line in program(source, tmp_path)] == ["first", "second"]


def test_structlog_imported_after_a_reset_is_left_alone(tmp_path: Path) -> None:
    """Nobody waits for it any more."""
    source = """
import sys, tocsin.testing
before = list(sys.meta_path)
tocsin.configure_logs(service_name="shop")
tocsin.testing.reset_logs()
assert sys.meta_path == before
import structlog
assert not structlog.is_configured()
"""
    assert program(source, tmp_path) == []


async def test_threads_and_background_tasks_keep_what_was_bound(registry: CollectorRegistry, lines: Capture) -> None:
    """A thread of the pool, a task and a background task write the ids and the variables of their request."""
    app = FastAPI()
    log = tocsin.get_logger()
    stdlib = logging.getLogger("stdlib")
    stdlib.handlers[:] = [tocsin.stdlib_handler()]
    tasks = []

    @app.get("/")
    async def root() -> None:
        structlog.contextvars.bind_contextvars(user="ann")
        await asyncio.to_thread(log.info, "thread")
        tasks.append(asyncio.create_task(asyncio.to_thread(stdlib.warning, "task")))

    tocsin.instrument(app, registry=registry, log_stream=lines)
    await call(app)
    await asyncio.gather(*tasks)
    stdlib.handlers.clear()
    by_message = {event["message"]: event for event in lines.events}
    assert {by_message[name]["user"] for name in ("thread", "task", "GET / 200")} == {"ann"}
    assert len({by_message[name]["trace.id"] for name in ("thread", "task", "GET / 200")}) == 1
