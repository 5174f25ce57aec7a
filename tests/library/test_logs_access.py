"""The access line: one per request, the same whether it was encoded at once or later by the thread that writes it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse

import tocsin
import tocsin.testing
from tocsin.logs import process
from tocsin.logs.access import AccessLines, Record, access_event, address_of
from tocsin.logs.lines import json_line
from tocsin.redact import DEFAULT, REDACTED
from tocsin.request import Facts
from tocsin.testing import Capture, call, dropped
from tocsin.tracing.context import Trace


def configure(lines: Any, registry: CollectorRegistry, **options: Any) -> Any:
    tocsin.configure_logs(**{"service_name": "shop", "stream": lines, "registry": registry, **options})
    return tocsin.get_logger("shop.orders")


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


async def test_access_lines_obey_the_level(registry: CollectorRegistry, lines: Capture) -> None:
    """With level warning only failed requests are written."""
    app = tocsin.instrument(PlainTextResponse("", 200), registry=registry, log_stream=lines, log_level="warning")
    await call(app)
    assert lines.events == []


FACTS = st.builds(
    Record,
    st.sampled_from(["GET", "POST", "_OTHER"]),
    st.sampled_from(["", "/items/{item}", '/"quoted"\\{x}', "/ünïcode/%s/%d", "/\x00"]),
    st.one_of(
        st.text(st.characters(), max_size=30).map(lambda text: f"/{text}"),
        st.sampled_from(
            ["/items/3", "/x?token=abc", "/a b", "/%3Fpassword=x", "/%3Fpassword%3Dx", "/\ud800", "//u:p@h/", "/v1/a:b"]
        ),
    ),
    st.integers(100, 599),
    st.floats(0, 1e6),
    st.floats(0, 4e9),
    st.sampled_from([None, "", "192.0.2.7", "2001:db8::1", "fe80::1%eth0", 'fe80::1%"x', "testclient", "\ud800"]),
    st.one_of(st.none(), st.just(Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True))),
)
CONSTANTS = {"ecs.version": "8.11.0", "service.name": 'the "shop" 100%s', "event.dataset": "shop.access"}


@given(st.lists(FACTS, min_size=1, max_size=5))
def test_the_template_gives_what_encoding_gives(requests: list[Record]) -> None:
    """Byte for byte, whatever path, route, client and numbers are; also when the second and the template are cached."""
    lines = AccessLines(CONSTANTS, DEFAULT, pytest.fail)
    ended = [Facts(*record) for record in requests]
    expected = [json_line(access_event(record, CONSTANTS, DEFAULT)) for record in requests]
    for _ in range(2):
        assert lines.lines(ended) == b"".join(expected)
        assert [lines.lines([facts]) for facts in ended] == expected
    assert all(isinstance(json.loads(line), dict) for line in expected)


@pytest.mark.parametrize(
    ("client", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7"),
        ("unix:", None),
        ("1.2.3", None),
        ("256.1.1.1", None),
        ("1.2.3.4\x00", None),
        ("\ud800", None),
    ],
)
def test_what_elasticsearch_takes_for_an_address(client: str, address: str | None) -> None:
    """Without the zone of a link-local one."""
    assert address_of(client) == address


def facts(**changes: Any) -> Facts:
    given = {"method": "GET", "route": "/x", "path": "/x", "status": 200, "seconds": 0.5, "ended": 1_700_000_000.25}
    return Facts(**{"client": None, "trace": None, **given, **changes})


def access_lines(path: Path) -> list[dict[str, Any]]:
    assert tocsin.force_flush()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_written_by_the_thread_is_the_same(tmp_path: Path, lines: Capture, registry: CollectorRegistry) -> None:
    """Encoded later to a file, at once to a stream in memory: the same bytes, the time that of the request's end."""
    found = []
    for destination in ({"file": tmp_path / "app.log", "stream": None}, {}):
        configure(lines, registry, **destination)
        pipeline = process.process_pipeline()
        pipeline.access(facts(), None)
        pipeline.access(facts(path="/" + "é" * 2_000, status=503), None)
        pipeline.access(facts(bound={"user": "ann", "password": "SECRET"}), None)
        pipeline.access(facts(), ValueError("bad"))
    found = (tmp_path / "app.log").read_bytes()
    assert tocsin.force_flush()
    found = (tmp_path / "app.log").read_bytes()
    assert found == lines.getvalue()
    first, second, third, fourth = lines.events
    assert (first["@timestamp"], first["event.duration"]) == ("2023-11-14T22:13:20.250Z", 500_000_000)
    assert (second["log.level"], len(second["url.path"])) == ("error", 2_001)
    assert (third["user"], third["password"]) == ("ann", REDACTED)
    assert (fourth["error.type"], fourth["log.level"]) == ("ValueError", "info")


@pytest.mark.parametrize("broken", [{"seconds": float("nan")}, {"ended": float("inf")}, {"status": "200"}])
def test_facts_that_make_no_line_are_counted(
    broken: dict[str, Any], tmp_path: Path, registry: CollectorRegistry
) -> None:
    """An application may hand a server anything: the other lines are written."""
    configure(None, registry, file=tmp_path / "app.log", stream=None)
    pipeline = process.process_pipeline()
    pipeline.access(facts(path="/before"), None)
    with contextlib.suppress(TypeError):  # a status that is no number is refused before
        pipeline.access(facts(**broken), None)
    pipeline.access(facts(path="/after"), None)
    assert [line["url.path"] for line in access_lines(tmp_path / "app.log")] == ["/before", "/after"]
    assert dropped(registry) in ({("logs", "encode"): 1}, {})


@pytest.mark.parametrize("level", ["info", "warning", "critical"])
def test_many_at_once_are_as_one_after_the_other(
    level: str, tmp_path: Path, lines: Capture, registry: CollectorRegistry
) -> None:
    """In their order, whatever has to be encoded at once between; and as the level says."""
    ended = [facts(path=f"/{number}", bound={"n": 1} if number % 7 == 0 else None) for number in range(50)]
    ended[20:20] = [facts(path="/failed", status=500), facts(path="/" + "x" * 1_000)]
    configure(None, registry, file=tmp_path / "app.log", stream=None, level=level)
    process.process_pipeline().access_all(ended)
    assert tocsin.force_flush()
    configure(lines, registry, level=level)
    for one in ended:
        process.process_pipeline().access(one, None)
    assert (tmp_path / "app.log").read_bytes() == lines.getvalue()
    assert len(lines.events) == {"info": 52, "warning": 1, "critical": 0}[level]


def test_a_record_is_the_first_of_the_facts() -> None:
    """The template reads the tuple's beginning."""
    assert Facts._fields[: len(Record._fields)] == Record._fields


@pytest.mark.parametrize("format", ["logfmt", "console"])
def test_other_formats_are_written_by_the_thread_too(
    format: str,  # noqa: A002 - the option's name
    tmp_path: Path,
    registry: CollectorRegistry,
) -> None:
    """With the same fields."""
    configure(None, registry, file=tmp_path / "app.log", stream=None, format=format)
    process.process_pipeline().access(facts(), None)
    assert tocsin.force_flush()
    assert "http.route=/x" in (tmp_path / "app.log").read_text()
