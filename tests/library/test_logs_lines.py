"""What a log line looks like: the names of the schema, and one valid line whatever the values are."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

import tocsin
import tocsin.testing
from tocsin.logs import lines as encoders
from tocsin.logs.lines import console_line, json_line, logfmt_line, timestamp
from tocsin.redact import REDACTED, clean_fields
from tocsin.testing import Capture, dropped


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


def test_a_message_that_is_no_text_raises_nothing(lines: Capture, registry: CollectorRegistry) -> None:
    """The same through structlog."""
    configure(lines, registry).info(Hostile())
    assert lines.events[0]["message"] == "<unprintable Hostile>"
