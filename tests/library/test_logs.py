"""What a log line looks like, what it never shows, and that writing it never hurts the application."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import io
import json
import logging
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse

import tocsin
from tocsin.logs import lines as encoders
from tocsin.logs.lines import console_line, json_line, logfmt_line, timestamp
from tocsin.logs.pipeline import told
from tocsin.redact import REDACTED, clean_fields, is_secret, redact_text
from tocsin.testing import Capture, call, dropped


def configure(lines: Any, registry: CollectorRegistry, **options: Any) -> Any:
    tocsin.configure_logs(**{"service_name": "shop", "stream": lines, "registry": registry, **options})
    return tocsin.get_logger("shop.orders")


def test_a_line_has_the_names_of_the_schema(lines: Capture, registry: CollectorRegistry) -> None:
    """Elastic Common Schema, dotted; UTC with milliseconds; the first three as ECS orders them."""
    configure(lines, registry, service_version="1.2").info("order placed", order=42, total=9.5)
    (event,) = lines.events
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("@timestamp"))
    assert event == {
        "log.level": "info",
        "message": "order placed",
        "ecs.version": "8.11.0",
        "service.name": "shop",
        "service.version": "1.2",
        "log.logger": "shop.orders",
        "order": 42,
        "total": 9.5,
    }
    assert list(lines.events[0])[:3] == ["@timestamp", "log.level", "message"]


def test_timestamps_are_utc_with_milliseconds() -> None:
    """Unix seconds in, RFC 3339 out, truncated."""
    assert timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert timestamp(1_700_000_000.9996) == "2023-11-14T22:13:20.999Z"


async def test_the_access_line(registry: CollectorRegistry, lines: Capture) -> None:
    """Exactly one per request, with all a person or a dashboard asks for; never the query."""
    app = FastAPI()

    @app.get("/items/{item}")
    async def item(item: int) -> int:
        return item

    tocsin.instrument(app, service_name="shop", service_version="7", registry=registry, log_stream=lines)
    await call(app, "/items/3?token=abc&q=1", client="2001:db8::1", headers={"authorization": "Bearer s3cret-value"})
    (line,) = lines.events
    del line["@timestamp"], line["trace.id"], line["trace_id"], line["span.id"]
    assert line.pop("event.duration") > 0
    assert line == {
        "log.level": "info",
        "message": "GET /items/3 200",
        "ecs.version": "8.11.0",
        "service.name": "shop",
        "service.version": "7",
        "event.dataset": "shop.access",
        "http.request.method": "GET",
        "http.route": "/items/{item}",
        "url.path": "/items/3",
        "http.response.status_code": 200,
        "client.ip": "2001:db8::1",
    }


async def test_a_client_that_is_no_address_is_left_out(registry: CollectorRegistry, lines: Capture) -> None:
    """Elasticsearch refuses a whole document whose `client.ip` is no address."""
    app = tocsin.instrument(PlainTextResponse("ok"), registry=registry, log_stream=lines)
    await call(app, client="testclient")
    assert "client.ip" not in lines.access[0]


def test_fields_cannot_break_the_index(lines: Capture, registry: CollectorRegistry) -> None:
    """A plain value under a name that the schema has as an object, or a reserved name, moves under `labels.`."""
    configure(lines, registry).info(
        "failed", error="timeout", url="/x", message="mine", http={"a": 1}, **{"log.level": 3}
    )
    (event,) = lines.events
    assert event["labels.error"] == "timeout"
    assert event["labels.url"] == "/x"
    assert event["labels.message"] == "mine"
    assert event["labels.log.level"] == 3
    assert event["log.level"] == "info"
    assert event["http"] == {"a": 1}


# --- always valid -------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Account:
    name: str
    password: str


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE

VALUES = [
    (float("nan"), None),
    (float("inf"), None),
    (b"raw \xff", "raw \\xff"),
    ("lone \ud800 surrogate", "lone \\ud800 surrogate"),
    (2**70, str(2**70)),
    (-(2**63), -(2**63)),
    ({1: "a", (2, 3): "b", None: "c"}, {"1": "a", "(2, 3)": "b", "None": "c"}),
    ({"n": float("nan"), "d": {"s": "\udfff"}}, {"n": None, "d": {"s": "\\udfff"}}),
    ([1, {2}, (3,)], [1, [2], [3]]),
    (Colour.RED, "red"),
    (datetime.date(2026, 1, 2), "2026-01-02"),
    (decimal.Decimal("1.50"), "1.50"),
    (Account("ann", "hunter2"), {"name": "ann", "password": REDACTED}),
    (Hostile(), "<unprintable Hostile>"),
    ("two\nlines \x1b[31m", "two\nlines \x1b[31m"),
    (None, None),
    (True, True),
    (ValueError("token=abc"), f"ValueError: token={REDACTED}"),
]


@pytest.fixture(params=["orjson", "json"])
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With orjson, and as if it were not installed."""
    name: str = request.param
    if name == "json":
        monkeypatch.setattr(encoders, "_fast", encoders._compact)
    return name


@pytest.mark.parametrize(
    ("value", "expected"), VALUES, ids=[f"{type(v).__name__}-{n}" for n, (v, _) in enumerate(VALUES)]
)
def test_any_value_makes_a_valid_line(
    value: Any, expected: Any, encoder: str, lines: Capture, registry: CollectorRegistry
) -> None:
    """One line of strict JSON whatever is logged, the same with and without orjson."""
    configure(lines, registry).info("m", value=value)
    assert lines.getvalue().count(b"\n") == 1
    (event,) = [json.loads(line, parse_constant=pytest.fail) for line in lines.getvalue().splitlines()]
    assert event["value"] == expected
    assert dropped(registry) == {}


def test_cycles_end(encoder: str, lines: Capture, registry: CollectorRegistry) -> None:
    """A structure that contains itself is cut."""
    configure(lines, registry).info("m", value=CYCLE)
    assert "nested too deep" in lines.getvalue().decode()
    assert len(lines.events) == 1


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()) | st.integers(), inner),
    max_leaves=10,
)


@given(fields=st.dictionaries(st.text(st.characters()), JSONISH))
def test_lines_are_valid_for_generated_fields(fields: dict[str, Any]) -> None:
    """JSON, logfmt and console: one event never makes two lines, and JSON always parses."""
    event: dict[str, Any] = {
        "@timestamp": timestamp(0),
        "log.level": "info",
        "message": "m",
        **{f"x.{name}": value for name, value in clean_fields(fields).items()},
    }
    line = json_line(event)
    assert isinstance(json.loads(line, parse_constant=pytest.fail), dict)
    for encode in (json_line, logfmt_line, console_line):
        line = encode(event)
        assert line.endswith(b"\n")
        assert len(line.decode().splitlines()) == 1 or encode is json_line
        assert line.count(b"\n") == 1


def test_logfmt_and_console(registry: CollectorRegistry) -> None:
    """Two forms for people; control characters in values stay on their line."""
    out = Capture()
    configure(out, registry, format="logfmt").warning("two words", path="/a b", n=1, forged="x\nlevel=error")
    assert 'log.level=warning message="two words"' in out.getvalue().decode()
    assert 'path="/a b" n=1 forged="x\\nlevel=error"' in out.getvalue().decode()
    out = Capture()
    log = configure(out, registry, format="console")
    try:
        raise KeyError("k")
    except KeyError:
        log.exception("went wrong", n=1)
    text = out.getvalue().decode()
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} ERROR went wrong  log.logger=shop.orders", text)
    assert "\n    Traceback" in text


# --- what is never shown ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("token", "password", "passwd", "secret", "api_key", "apikey", "apiKey", "API-Key", "authorization", "Cookie"),
        *("set-cookie", "signature", "sig", "code", "session", "sessionid", "session_id", "X-Auth-Token", "jwt"),
        *("userPassword", "client_secret", "access_key", "private_key", "X-Amz-Signature", "X-Amz-Credential"),
        *("X-Goog-Signature", "refreshToken", "http.request.headers.authorization"),
    ],
)
def test_secret_names(name: str) -> None:
    """Case, dashes and camelCase do not matter."""
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["status_code", "tokens_used", "author", "codec", "path", "signal", "design", "sigma", "key"]
)
def test_names_that_are_no_secrets(name: str) -> None:
    """What only looks like one stays readable."""
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/cb?code=abc&state=1", f"/cb?code={REDACTED}&state=1"),
        ("https://x/?a=1&access_token=abc#f", f"https://x/?a=1&access_token={REDACTED}#f"),
        ("https://x/?api%5Fkey=abc", f"https://x/?api%5Fkey={REDACTED}"),
        ("login password=hunter2 user=ann", f"login password={REDACTED} user=ann"),
        ('password="two words" x', f"password={REDACTED} x"),
        ("failed with code=403", "failed with code=403"),
        ("postgresql://app:hunter2@db/shop", f"postgresql://app:{REDACTED}@db/shop"),
        ("sent Authorization: Bearer abcdefghij", f"sent Authorization: Bearer {REDACTED}"),
        ("nothing to hide = here", "nothing to hide = here"),
    ],
)
def test_secrets_in_texts(text: str, shown: str) -> None:
    """Query keys, `name=value` pairs, passwords in URLs and HTTP credentials."""
    assert redact_text(text) == shown


def test_secrets_reach_no_line(lines: Capture, registry: CollectorRegistry) -> None:
    """Message, fields at any depth, exception text and stack trace."""
    log = configure(lines, registry)
    log.info(
        "GET /x?token=SECRET", url_seen="/y?sig=SECRET", payload={"user": [{"password": "SECRET"}]}, cookie="SECRET"
    )
    try:
        raise RuntimeError("cannot connect to amqp://u:SECRET@mq/")
    except RuntimeError:
        log.exception("broker")
    logging.getLogger("x").handle(
        logging.makeLogRecord(
            {"name": "x", "levelno": 30, "msg": "api_key=%s", "args": ("SECRET",), "secret": "SECRET"}
        )
    )
    handler = tocsin.stdlib_handler()
    handler.handle(logging.makeLogRecord({"levelno": 30, "msg": "api_key=%s", "args": ("SECRET",), "secret": "SECRET"}))
    assert len(lines.events) >= 3
    assert "SECRET" not in lines.getvalue().decode()


# --- exceptions and the standard library --------------------------------------------------------------------------


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


def test_levels_are_obeyed(lines: Capture, registry: CollectorRegistry) -> None:
    """Lower ones are not written, by structlog or the access log, even from loggers made before."""
    log = tocsin.get_logger()
    configure(lines, registry, level="warning")
    log.info("no")
    log.warning("yes")
    structlog.get_logger().info("no")
    assert [event["message"] for event in lines.events] == ["yes"]


async def test_access_lines_obey_the_level(registry: CollectorRegistry, lines: Capture) -> None:
    """With level warning only failed requests are written."""
    app = tocsin.instrument(PlainTextResponse("", 200), registry=registry, log_stream=lines, log_level="warning")
    await call(app)
    assert lines.events == []


@pytest.mark.parametrize(
    "options", [{"level": "loud"}, {"format": "xml"}, {"file": "x.log"}], ids=["level", "format", "stream and file"]
)
def test_bad_options_are_refused(options: dict[str, str], lines: Capture, registry: CollectorRegistry) -> None:
    """At once, and saying what is expected."""
    with pytest.raises(ValueError, match=r"expected one of|give one of them"):
        configure(lines, registry, **options)


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


# --- context variables --------------------------------------------------------------------------------------------


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


# --- writing ------------------------------------------------------------------------------------------------------


class Broken(io.RawIOBase):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [(BrokenPipeError(32, "pipe"), "write"), (ValueError("closed"), "closed"), (RuntimeError("odd"), "write")],
)
async def test_a_log_that_cannot_be_written_costs_a_count(
    error: Exception, reason: str, registry: CollectorRegistry
) -> None:
    """The application answers as if nothing were; `tocsin_dropped_total` says what was lost."""
    app = tocsin.instrument(PlainTextResponse("ok"), registry=registry, log_stream=Broken(error))
    for _ in range(3):
        assert (await call(app)).body == b"ok"
    assert dropped(registry) == {("logs", reason): 3}


async def test_a_closed_stdout_costs_a_count(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Daemons close their standard streams."""
    out = io.TextIOWrapper(io.BytesIO())
    out.close()
    monkeypatch.setattr(sys, "stdout", out)
    assert (await call(tocsin.instrument(PlainTextResponse("ok"), registry=registry))).status == 200
    monkeypatch.setattr(sys, "stdout", None)
    assert (await call(tocsin.instrument(PlainTextResponse("ok"), registry=registry))).status == 200
    assert dropped(registry) == {("logs", "closed"): 2}


async def test_stdout_is_the_default(registry: CollectorRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    """What is stdout at that moment: containers collect it."""
    await call(tocsin.instrument(PlainTextResponse("ok"), registry=registry))
    assert json.loads(capsys.readouterr().out)["message"] == "GET / 200"


def test_a_file_is_appended_to_in_whole_lines(tmp_path: Path, registry: CollectorRegistry) -> None:
    """Two processes can share it: each line is one write; the file is readable by its owner and group only."""
    path = tmp_path / "app.log"
    path.write_text('{"message": "before"}\n')
    tocsin.configure_logs(service_name="shop", file=path, registry=registry)
    tocsin.get_logger().info("after")
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["before", "after"]
    other = tmp_path / "new.log"
    tocsin.configure_logs(service_name="shop", file=other, registry=registry)
    assert other.stat().st_mode & 0o137 == 0


def test_a_rotated_file_is_followed(
    tmp_path: Path, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renamed away, a new file is begun within a second; nothing is lost."""
    monkeypatch.setattr("tocsin.logs.writer._LOOK_AGAIN_SECONDS", 0.0)
    path = tmp_path / "app.log"
    tocsin.configure_logs(service_name="shop", file=path, registry=registry)
    log = tocsin.get_logger()
    log.info("one")
    path.rename(tmp_path / "app.log.1")
    log.info("two")
    assert [json.loads(line)["message"] for line in (tmp_path / "app.log.1").read_text().splitlines()] == ["one"]
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["two"]


def test_a_full_pipe_or_disk_raises_nothing(registry: CollectorRegistry) -> None:
    """/dev/full refuses every byte."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full (Linux)")
    tocsin.configure_logs(service_name="shop", file="/dev/full", registry=registry)
    tocsin.get_logger().info("lost")
    assert dropped(registry) == {("logs", "write"): 1}


@pytest.mark.parametrize(("message", "args"), [("%s", (Hostile(),)), (Hostile(), ())], ids=["argument", "message"])
def test_the_standard_library_handler_never_raises(
    message: Any, args: tuple[Any, ...], lines: Capture, registry: CollectorRegistry
) -> None:
    """Whatever `__str__` and `__repr__` do, the application goes on, and there is a line."""
    configure(lines, registry)
    record = logging.LogRecord("library", logging.WARNING, __file__, 1, message, args, None)
    tocsin.stdlib_handler().handle(record)
    assert "<unprintable" in lines.events[0]["message"]


def test_a_message_that_is_no_text_raises_nothing(lines: Capture, registry: CollectorRegistry) -> None:
    """The same through structlog."""
    configure(lines, registry).info(Hostile())
    assert lines.events[0]["message"] == "<unprintable Hostile>"


async def test_a_query_hidden_in_the_path_is_redacted(registry: CollectorRegistry, lines: Capture) -> None:
    """`/login%3Ftoken=...` reaches the application as a path with a question mark in it."""
    app = tocsin.instrument(PlainTextResponse("ok"), registry=registry, log_stream=lines)

    async def encoded(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "path": "/login?token=SECRET"}, receive, send)

    await call(encoded)
    assert lines.access[0]["url.path"] == f"/login?token={REDACTED}"
    assert "SECRET" not in lines.getvalue().decode()


def test_a_cut_stack_trace_hides_no_name(lines: Capture, registry: CollectorRegistry) -> None:
    """Wherever a long trace is cut, also between a secret's name and its value, the value is gone."""
    log = configure(lines, registry)
    for length in range(32_768 - 40, 32_768):
        log.error("failed", exc_info=RuntimeError("password=HUNTER2SECRET " + "x" * length))
    assert all(len(event["error.stack_trace"]) <= 32_768 for event in lines.events)
    assert "SECRET" not in "".join(event["error.stack_trace"] for event in lines.events)


def test_a_log_line_from_inside_a_write_does_not_hang(registry: CollectorRegistry) -> None:
    """Finalizers and signal handlers log at any moment, also while the same thread is writing a line."""

    class Nosy(io.StringIO):
        def write(self, text: str) -> int:
            if "outer" in text:
                log.info("inner")
            return super().write(text)

    stream = Nosy()
    log = configure(stream, registry)
    thread = threading.Thread(target=log.info, args=("outer",), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["inner", "outer"]


@pytest.mark.parametrize("closed", [False, True])
async def test_only_an_exception_that_was_written_is_told(
    closed: bool, registry: CollectorRegistry, lines: Capture
) -> None:
    """If our line is lost, the server's own traceback is the last that is left: it is not silenced."""

    async def boom(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("boom")

    app = tocsin.instrument(boom, registry=registry, log_stream=lines)
    if closed:
        lines.close()
    with pytest.raises(RuntimeError, match="boom") as raised:
        await call(app)
    assert told(raised.value) is not closed


def test_lines_outside_of_requests_are_the_first_applications(registry: CollectorRegistry, lines: Capture) -> None:
    """Instrumenting a second application in the process does not take the first one's lines away."""
    second = Capture()
    tocsin.instrument(PlainTextResponse("ok"), service_name="one", registry=registry, log_stream=lines)
    tocsin.instrument(PlainTextResponse("ok"), service_name="two", registry=CollectorRegistry(), log_stream=second)
    tocsin.get_logger().info("started")
    assert [event["service.name"] for event in lines.events] == ["one"]
    assert second.events == []
