"""Where lines go: what `configure_logs` set up, what an application has of its own, and what is closed when."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse

import tocsin
import tocsin.testing
from tocsin.logs import process
from tocsin.testing import Capture, call, dropped


def configure(lines: Any, registry: CollectorRegistry, **options: Any) -> Any:
    tocsin.configure_logs(**{"service_name": "shop", "stream": lines, "registry": registry, **options})
    return tocsin.get_logger("shop.orders")


@pytest.mark.parametrize(
    "options", [{"level": "loud"}, {"format": "xml"}, {"file": "x.log"}], ids=["level", "format", "stream and file"]
)
def test_bad_options_are_refused(options: dict[str, str], lines: Capture, registry: CollectorRegistry) -> None:
    """At once, and saying what is expected."""
    with pytest.raises(ValueError, match=r"expected one of|give one of them"):
        configure(lines, registry, **options)


async def test_instrument_keeps_what_configure_logs_set_up(registry: CollectorRegistry, lines: Capture) -> None:
    """Stream, format and name of `configure_logs` hold for applications instrumented afterwards."""
    configure(lines, registry, format="logfmt")
    await call(tocsin.instrument(PlainTextResponse("ok"), registry=registry))
    assert "event.dataset=shop.access" in lines.getvalue().decode()


async def test_two_applications_have_two_logs(lines: Capture) -> None:
    """Lines inside a request go where that application's lines go, with its service name."""
    log = tocsin.get_logger()
    captures = {"one": lines, "two": Capture()}
    apps = {}
    for name, capture in captures.items():

        async def app(scope: Any, receive: Any, send: Any) -> None:
            log.info("inside")
            await PlainTextResponse("ok")(scope, receive, send)

        apps[name] = tocsin.instrument(app, service_name=name, registry=CollectorRegistry(), log_stream=capture)
    for instrumented in apps.values():
        await call(instrumented)
    for name, capture in captures.items():
        assert [(e["service.name"], e["message"]) for e in capture.events] == [(name, "inside"), (name, "GET / 200")]


def test_lines_outside_of_requests_are_the_first_applications(registry: CollectorRegistry, lines: Capture) -> None:
    """Instrumenting a second application in the process does not take the first one's lines away."""
    second = Capture()
    tocsin.instrument(PlainTextResponse("ok"), service_name="one", registry=registry, log_stream=lines)
    tocsin.instrument(PlainTextResponse("ok"), service_name="two", registry=CollectorRegistry(), log_stream=second)
    tocsin.get_logger().info("started")
    assert [event["service.name"] for event in lines.events] == ["one"]
    assert second.events == []


def descriptors(path: Path) -> int:
    """Return how many descriptors of this process have the file open."""
    return sum(os.path.realpath(link) == str(path) for link in Path("/proc/self/fd").iterdir() if link.is_symlink())


def test_the_file_is_closed_with_its_last_user(tmp_path: Path, registry: CollectorRegistry) -> None:
    """Two applications share a file; what they logged is in it when it is closed."""
    path = tmp_path / "app.log"
    one = tocsin.instrument(PlainTextResponse("ok"), registry=registry, log_file=path)
    two = tocsin.instrument(PlainTextResponse("ok"), registry=CollectorRegistry(), log_file=path)
    assert descriptors(path) == 1
    tocsin.get_logger().info("before")
    tocsin.uninstrument(one)
    assert descriptors(path) == 1
    tocsin.get_logger().info("between")
    tocsin.uninstrument(two)
    assert descriptors(path) == 0
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["before", "between"]


def test_a_reset_closes_the_file(tmp_path: Path, registry: CollectorRegistry) -> None:
    """So does configuring another one."""
    first, second = tmp_path / "1.log", tmp_path / "2.log"
    tocsin.configure_logs(service_name="shop", file=first, registry=registry)
    tocsin.get_logger().info("one")
    tocsin.configure_logs(service_name="shop", file=second, registry=registry)
    assert (descriptors(first), descriptors(second)) == (0, 1)
    assert json.loads(first.read_text())["message"] == "one"
    tocsin.testing.reset_logs()
    assert descriptors(second) == 0


def test_uninstrumenting_undoes_what_instrument_configured(registry: CollectorRegistry, lines: Capture) -> None:
    """The root logger and structlog are as before; of two applications the one that is left takes over."""
    second = Capture()
    root = logging.getLogger()
    handlers = list(root.handlers)
    root.handlers.clear()
    try:
        one = tocsin.instrument(PlainTextResponse("ok"), service_name="one", registry=registry, log_stream=lines)
        two = tocsin.instrument(
            PlainTextResponse("ok"), service_name="two", registry=CollectorRegistry(), log_stream=second
        )
        tocsin.uninstrument(one)
        tocsin.get_logger().info("second's")
        assert (len(lines.events), [event["service.name"] for event in second.events]) == (0, ["two"])
        assert root.handlers
        tocsin.uninstrument(two)
        assert not root.handlers
        assert not structlog.is_configured()
    finally:
        root.handlers[:] = handlers


def test_a_line_after_the_end_is_counted(lines: Capture, registry: CollectorRegistry) -> None:
    """Whoever kept a pipeline that was closed loses lines, and knows how many."""
    configure(lines, registry)
    pipeline = process.process_pipeline()
    tocsin.testing.reset_logs()
    pipeline.event("info", "late", {})
    assert lines.events == []
    assert dropped(registry) == {("logs", "closed"): 1}
