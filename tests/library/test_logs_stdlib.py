"""The standard library writes the same schema, and its exceptions have type, message and stack."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import tocsin
import tocsin.testing
from tocsin.redact import REDACTED
from tocsin.testing import Capture


def configure(lines: Any, registry: CollectorRegistry, **options: Any) -> Any:
    tocsin.configure_logs(**{"service_name": "shop", "stream": lines, "registry": registry, **options})
    return tocsin.get_logger("shop.orders")


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


def test_exceptions_have_type_message_and_stack(lines: Capture, registry: CollectorRegistry) -> None:
    """From `exception`, from `exc_info` of any form; built-ins without their module."""
    log = configure(lines, registry)
    try:
        raise ValueError("bad")
    except ValueError as error:
        log.exception("one")
        log.error("two", exc_info=error)
        log.warning("three", exc_info=sys.exc_info())
    log.info("none", exc_info=True)
    for event in lines.events[:3]:
        assert (event["error.type"], event["error.message"]) == ("ValueError", "bad")
        assert 'raise ValueError("bad")' in event["error.stack_trace"]
    assert "error.type" not in lines.events[3]


def test_the_standard_library_takes_the_same_schema(lines: Capture, registry: CollectorRegistry) -> None:
    """Level, logger, `extra` as fields, exception; a message whose arguments do not fit is still a line."""
    configure(lines, registry, level="debug")
    logger = logging.getLogger("lib.db")
    handler = tocsin.stdlib_handler()
    logger.addHandler(handler)
    logger.setLevel(1)
    logger.propagate = False
    try:
        logger.warning("slow %s", "query", extra={"rows": 3})
        try:
            raise OSError("disk")
        except OSError:
            logger.critical("gone", exc_info=True)
        logger.info("%d items", "x")
        logger.log(5, "below debug")
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    slow, gone, misfit, trace = lines.events
    assert (slow["log.level"], slow["message"], slow["log.logger"], slow["rows"]) == (
        "warning",
        "slow query",
        "lib.db",
        3,
    )
    assert (gone["log.level"], gone["error.type"]) == ("critical", "OSError")
    assert misfit["message"] == "%d items ('x',)"
    assert trace["log.level"] == "debug"


def test_stacks_are_written(lines: Capture, registry: CollectorRegistry) -> None:
    """`stack_info=True`, of the standard library and of structlog; and the trace of a record from another process."""
    log = configure(lines, registry)
    handler = tocsin.stdlib_handler()
    record = logging.getLogger("lib").makeRecord(
        "lib", 30, __file__, 1, "m", (), None, sinfo="Stack:\n  password=x here"
    )
    handler.handle(record)
    record = logging.makeLogRecord({"levelno": 40, "msg": "sent", "exc_text": "Traceback: elsewhere"})
    handler.handle(record)
    log.info("bound", stack_info=True)
    log.info("none", stack_info=False)
    stacks = [event.get("error.stack_trace") for event in lines.events]
    assert stacks[:2] == [f"Stack:\n  password={REDACTED} here", "Traceback: elsewhere"]
    assert stacks[2].rstrip().endswith('log.info("bound", stack_info=True)')
    assert stacks[3] is None
    assert "stack_info" not in lines.events[3]


@pytest.mark.parametrize(("message", "args"), [("%s", (Hostile(),)), (Hostile(), ())], ids=["argument", "message"])
def test_the_standard_library_handler_never_raises(
    message: Any, args: tuple[Any, ...], lines: Capture, registry: CollectorRegistry
) -> None:
    """Whatever `__str__` and `__repr__` do, the application goes on, and there is a line."""
    configure(lines, registry)
    record = logging.LogRecord("library", logging.WARNING, __file__, 1, message, args, None)
    tocsin.stdlib_handler().handle(record)
    assert "<unprintable" in lines.events[0]["message"]


def test_levels_of_their_own_are_the_next_lower_ones(lines: Capture, registry: CollectorRegistry) -> None:
    """Libraries have levels between; the schema has five."""
    configure(lines, registry, level="debug")
    for number in (5, 15, 25, 35, 55):
        tocsin.stdlib_handler().handle(logging.makeLogRecord({"levelno": number, "msg": "m", "name": "lib"}))
    assert [event["log.level"] for event in lines.events] == ["debug", "debug", "info", "warning", "critical"]


def test_the_root_logger_of_an_application_is_its_own(lines: Capture, registry: CollectorRegistry) -> None:
    """A handler of its own stays the only one, and so does its level; without, ours is there until the reset."""
    root = logging.getLogger()
    (own,) = foreign = [logging.NullHandler()]
    saved, root.handlers[:] = list(root.handlers), foreign
    try:
        configure(lines, registry)
        assert root.handlers == [own]
        root.handlers.clear()
        configure(lines, registry)
        logging.getLogger("library").info("hello")
        assert [event["message"] for event in lines.events] == ["hello"]
        tocsin.testing.reset_logs()
        assert root.handlers == []
    finally:
        root.handlers[:] = saved
