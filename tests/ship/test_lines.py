"""Whatever bytes an application wrote, every line leaves as one valid JSON object."""

from __future__ import annotations

import json
import logging
import sys

import logstash
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_ship import lines
from tocsin_ship.lines import Block

NOW = 1_763_856_000.0
AT = "2025-11-23T00:00:00.000Z"


def block(data: bytes, *, start: int = 0, service: str | None = None, truncated: bool = False) -> Block:
    return Block("k", "/app.log", "*.log", service, start, start + len(data), data, truncated)


def read(data: bytes, **settings: object) -> list[dict[str, object]]:
    return [json.loads(line.data) for line in lines.separate(block(data, **settings), now=NOW)]  # type: ignore[arg-type]


events = st.dictionaries(
    st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=20), max_size=5
)
written = st.one_of(
    events.map(lambda event: json.dumps(event).encode()),
    events.map(lambda event: json.dumps(event, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.binary(max_size=40).map(lambda data: data.replace(b"\n", b" ")),
    st.sampled_from(
        [b"", b"{}", b"{} {}", b"{}{}", b'{"a":', b"1}", b"}", b"{", b"[]", b'{"x":NaN}', b"\0\0{}", b"{}\r"]
    ),
)


@given(st.lists(written, min_size=1, max_size=12), st.none() | st.just("shop"))
def test_any_bytes_become_one_json_object_per_line(content: list[bytes], service: str | None) -> None:
    """No line is lost, none is added, and each is an object in UTF-8, whichever way it is read."""
    data = b"\n".join(content) + b"\n"
    expected = sum(bool(line.strip(b"\0 \t\r\f\v")) for line in content)
    found = lines.separate(block(data, service=service), now=NOW)
    text = lines.joined(block(data, service=service), now=NOW)
    assert len(found) == text.count == expected
    assert text.data == b"".join(line.data + b"\n" for line in found)
    for line in found:
        assert isinstance(orjson.loads(line.data), dict)
        assert b"\n" not in line.data


@given(st.lists(written, min_size=1, max_size=12), st.integers(0, 1 << 40))
def test_an_event_knows_where_its_line_began(content: list[bytes], start: int) -> None:
    """The offset is that of the line in the file, so that the id is the same however the file is cut into blocks."""
    data = b"\n".join(content) + b"\n"
    whole = lines.separate(block(data, start=start), now=NOW)
    pieces = []
    for line in content:
        pieces += lines.separate(block(line + b"\n", start=start), now=NOW)
        start += len(line) + 1
    assert [(line.id, line.data) for line in whole] == [(line.id, line.data) for line in pieces]


@given(st.lists(events.map(lambda event: json.dumps(event).encode()), min_size=1))
def test_json_objects_pass_untouched(content: list[bytes]) -> None:
    """The bytes of a valid event are not rewritten."""
    data = b"".join(line + b"\n" for line in content)
    if b"\\ud" not in data:
        assert lines.joined(block(data), now=NOW).data == data


def test_a_line_that_is_not_json_is_wrapped() -> None:
    """It becomes the message of an event dated now and tagged `_raw`."""
    assert read(b"Killed\n") == [{"@timestamp": AT, "message": "Killed", "tags": ["_raw"]}]


@pytest.mark.parametrize("text", [b"[1]", b'"text"', b"12", b"null", b'{"a":1} {"b":2}', b'{"a":1', b"[" * 5000])
def test_json_that_is_not_one_object_is_wrapped(text: bytes) -> None:
    """Only an object is an event."""
    (event,) = read(text + b"\n")
    assert event["message"] == text.decode()
    assert event["tags"] == ["_raw"]


def test_two_events_on_a_line_do_not_hide_one_on_two_lines() -> None:
    """As many values as lines is not enough: `{}{"a":` and `1}` are two broken lines."""
    assert [event["message"] for event in read(b'{}{"a":\n1}\n')] == ['{}{"a":', "1}"]


def test_what_python_calls_json_is_mended() -> None:
    """NaN and infinities become null, half surrogates the replacement character; the rest of the event stays."""
    (event,) = read(b'{"a": NaN, "b": [-Infinity, 1.5], "c": "\\ud800x", "d": 123456789012345678901234567890}\n')
    assert event == {"a": None, "b": [None, 1.5], "c": "\ufffdx", "d": 123456789012345678901234567890}


def test_invalid_utf8_is_replaced_inside_the_event() -> None:
    """A broken byte does not cost the event its structure."""
    assert read(b'{"message":"caf\xe9"}\n') == [{"message": "caf\ufffd"}]


def test_zeros_left_by_a_crash_are_dropped() -> None:
    """The event behind them is read."""
    assert read(b'\0\0\0{"a":1}\n') == [{"a": 1}]


def test_blank_lines_are_no_events() -> None:
    """They are passed over, and the offsets behind them are right."""
    found = lines.separate(block(b'\n \r\n{"a":1}\n'), now=NOW)
    assert [(line.offset, line.data) for line in found] == [(4, b'{"a":1}')]


def test_a_service_is_given_to_events_that_have_none() -> None:
    """An event's own service wins, wherever it is written."""
    data = b'{"a":1}\n{"service.name":"own"}\n{"service":{"name":"own"}}\nplain\n'
    first, second, third, fourth = read(data, service="shop")
    assert first == {"a": 1, "service.name": "shop"}
    assert second == {"service.name": "own"}
    assert third == {"service": {"name": "own"}}
    assert fourth["service.name"] == "shop"


def test_a_line_that_is_too_long_is_cut_and_says_so() -> None:
    """Its beginning is kept with the tag `_truncated`."""
    (event,) = read(b'{"message":"' + b"x" * 100 + b"\n", truncated=True)
    assert event["tags"] == ["_raw", "_truncated"]
    assert str(event["message"]).startswith('{"message":"xxx')


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"@timestamp": AT, "host": "web-1"}, {"@timestamp": AT, "host.name": "web-1"}),
        ({"@timestamp": AT, "host": {"ip": "::1"}}, {"@timestamp": AT, "host": {"ip": "::1"}}),
        ({"@timestamp": AT, "host": "a", "host.name": "b"}, {"@timestamp": AT, "host.name": "b", "labels.host": "a"}),
        ({"@timestamp": AT, "host": None}, {"@timestamp": AT, "host": None}),
        ({"@timestamp": AT, "service": "shop"}, {"@timestamp": AT, "service.name": "shop"}),
        ({"@timestamp": AT, "user": 7}, {"@timestamp": AT, "user.name": 7}),
        ({"message": "x"}, {"message": "x", "@timestamp": AT}),
    ],
)
def test_elasticsearch_gets_no_text_where_ecs_has_an_object(
    event: dict[str, object], expected: dict[str, object]
) -> None:
    """`host` and its like are the commonest reason for a document to be refused."""
    assert json.loads(lines.to_ecs(json.dumps(event).encode(), now=NOW)) == expected


def test_an_event_of_python_logstash_arrives_unharmed() -> None:
    """Version 1 of its format: all fields as they were, but `host` and `process` under the names ECS has for them."""
    formatter = logstash.LogstashFormatterVersion1("logstash", ["web"], fqdn=False)
    record = logging.LogRecord("shop.pay", logging.ERROR, "pay.py", 7, "charge %s", ("c1",), None)
    record.order = {"id": 7, "sum": 12.5, "tags": [None, True]}
    try:
        raise ValueError("no such card")
    except ValueError:
        record.exc_info = sys.exc_info()
    formatted: bytes = formatter.format(record)
    original = json.loads(formatted)
    (line,) = lines.documents([block(formatted + b"\n")], now=NOW)
    arrived = json.loads(line.data)
    host = original.pop("host")
    assert isinstance(host, str)
    assert arrived.pop("host.name") == host
    assert arrived.pop("process.pid") == original.pop("process")
    assert arrived == original
    assert arrived["order"] == {"id": 7, "sum": 12.5, "tags": [None, True]}
    assert "no such card" in arrived["stack_trace"]
    assert lines.joined(block(formatted + b"\n"), now=NOW).data == formatted + b"\n"
