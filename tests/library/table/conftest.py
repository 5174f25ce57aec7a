"""How the correctness table is read and played: one real server process per (framework, server), asked row by row.

`rows.toml` has the table. A row is one request; what it left behind is the difference between two pages of metrics,
the access lines and the exported spans with its trace id. `PROMISES` are what a single request cannot show.
A test module says in `SERVED` which frameworks run under which servers.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tomllib
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tocsin.tracing.testing import OtlpCollector, SeenSpan, decoded

HERE = Path(__file__).parent
UVICORN = ("uvicorn", "--port", "0", "--lifespan", "auto", "--http")
# Two workers: any of them may answer, any may be scraped.
GUNICORN = ("gunicorn", "-w2", "-b127.0.0.1:0", "--no-control-socket", "--graceful-timeout", "1", "-k")
SERVERS = {
    "h11": (*UVICORN, "h11"),
    "httptools": (*UVICORN, "httptools"),
    "uvicorn_worker": (*GUNICORN, "uvicorn_worker.UvicornWorker"),
    "gunicorn_asgi": (*GUNICORN, "asgi", "--preload"),
    "sync": (*GUNICORN, "sync", "--preload"),
}
ASGI = ("fastapi", "starlette", "litestar", "bare")
WITHOUT_ROUTES = ("bare", "wsgi")
RAISES_AGAIN = ("fastapi", "starlette", "bare")
"""The others answer their exceptions themselves."""

PARENT = "b7ad6b7169203331"
MALFORMED = {
    "empty": "",
    "garbage": "x",
    "too short": f"00-{'a' * 32}-{'b' * 16}-0",
    "forbidden version": f"ff-{'a' * 32}-{'b' * 16}-01",
    "no trace": f"00-{'0' * 32}-{'b' * 16}-01",
    "no parent": f"00-{'a' * 32}-{'0' * 16}-01",
    "upper case": f"00-{'A' * 32}-{'b' * 16}-01",
    "not hexadecimal": f"00-{'g' * 32}-{'b' * 16}-01",
    "70 kB": "00-" + "a" * 70_000,
}
_SAMPLE = re.compile(r"^((?:http_server|tocsin_websocket|tocsin_dropped)\w*)\{(.*?)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_METHOD, _ROUTE, _STATUS = "http_request_method", "http_route", "http_response_status_code"
_REQUESTS = "http_server_request_duration_seconds"

Counts = dict[tuple[str, str, str], int]
"""By (method, route, status), or (method, route, type of the exception)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request to one framework, and what it has to leave behind."""

    name: str
    path: str
    status: int
    """What the client gets."""
    route: str
    counted: int
    """The status it is counted under."""
    method: str = "GET"
    label: str = ""
    """The method as a label; the method itself if empty."""
    host: str = "shop.example"
    flags: str = "01"
    """Of the `traceparent` that is sent: 01 sampled, 00 not."""
    service: str = "shop"
    body: str | None = None
    exception: str | None = None
    """The type that is counted as an exception."""
    logged: str | None = None
    """A message that the application logs, with the request's trace id."""
    above: float = 0.0
    below: float = 20.0
    """Bounds of the duration in seconds."""
    silent: bool = False
    """Whether it is none of the application's business: no count, no line, no span."""
    refused_by: tuple[str, ...] = ()
    """Servers that answer 400 before the application sees the request."""
    unanswered_by: tuple[str, ...] = ()
    """Servers that just close the connection."""


_AS_IT_IS = frozenset(Row.__slots__) - {"status", "route", "counted", "exception", "refused_by", "unanswered_by"}


@cache
def rows(framework: str) -> list[Row]:
    """Return the rows of the table that this framework has."""
    found = []
    for row in tomllib.loads((HERE / "rows.toml").read_text())["row"]:
        answer = row.get(framework, row["answer"])
        if not answer or framework not in row.get("frameworks", (framework,)):
            continue
        status, _, route = answer.partition(" ")
        found.append(
            Row(
                status=int(status),
                route="" if framework in WITHOUT_ROUTES else route,
                counted=row.get("counted", int(status)),
                exception=row.get("exceptions", {}).get(framework, row.get("exception")),
                refused_by=tuple(row.get("refused_by", ())),
                unanswered_by=tuple(row.get("unanswered_by", ())),
                **{key: value for key, value in row.items() if key in _AS_IT_IS},
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Page:
    """What a page of metrics says of requests."""

    text: str
    counted: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    seconds: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    buckets: dict[tuple[str, str, str], list[int]] = field(default_factory=dict)
    exceptions: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    sockets: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    open: Counter[str] = field(default_factory=Counter)
    """Requests and WebSockets that are not over, by the name of the gauge."""


def read(text: str) -> Page:
    """Read a page in the text format."""
    page = Page(text)
    for name, pairs, value in _SAMPLE.findall(text):
        labels = dict(_LABEL.findall(pairs))
        request = (labels.get(_METHOD, ""), labels.get(_ROUTE, ""), labels.get(_STATUS, ""))
        match name:
            case "http_server_request_duration_seconds_count":
                page.counted[request] = int(float(value))
            case "http_server_request_duration_seconds_sum":
                page.seconds[request] = float(value)  # type: ignore[assignment]  # a Counter subtracts floats as well
            case "http_server_request_duration_seconds_bucket":
                page.buckets.setdefault(request, []).append(int(float(value)))
            case "http_server_exceptions_total":
                page.exceptions[*request[:2], labels["error_type"]] = int(float(value))
            case "tocsin_websocket_duration_seconds_count":
                page.sockets[labels[_ROUTE], labels["close_code"]] = int(float(value))
            case "tocsin_dropped_total":
                page.dropped[labels["signal"], labels["reason"]] = int(float(value))
            case "http_server_active_requests" | "tocsin_websocket_active":
                page.open[name] += int(float(value))
    return page


@dataclass(slots=True)
class Seen:
    """One row, played."""

    trace: str
    answer: httpx.Response | None
    before: Page
    after: Page


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """Wait for what a server does after its client has the answer."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.01)
    return found


class Served:
    """A server process with the table's application, and what it told."""

    def __init__(self, framework: str, server: str, folder: Path, collector: OtlpCollector) -> None:
        self.framework = framework
        self.server = server
        self.unsampled: set[str] = set()
        self.url = ""
        self._folder = folder
        self._collector = collector
        self._log = folder / "log"
        self._read = self._posts = 0
        self._lines: list[dict[str, Any]] = []
        self._spans: list[SeenSpan] = []
        self._seen: dict[str, Seen] = {}
        self._client = httpx.Client(trust_env=False, timeout=20, headers={"connection": "close"})
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "TOCSIN_"))}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)  # so many processes of the same modules
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *SERVERS[server], f"app_{framework}:application"],
                cwd=HERE,
                env=environ | collector.environ,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> None:
        """Return when it answers."""

        def port() -> re.Match[str] | None:
            assert self._process.poll() is None, self._log.read_text()
            return re.search(r"http://127\.0\.0\.1:(\d+)", self._log.read_text())

        self.url = until(port, "listening", seconds=60.0)[0]
        self.page()

    def end(self) -> None:
        """Ask it to end."""
        self._client.close()
        self._process.terminate()

    def ended(self) -> None:
        """Wait until it has."""
        self._process.wait(20)

    # --- asking -------------------------------------------------------------------------------------------------------

    def page(self) -> Page:
        """Scrape it."""
        return read(self._client.get(f"{self.url}/metrics").raise_for_status().text)

    def headers(self, trace: str, flags: str = "01") -> dict[str, str]:
        """Return headers that put a request into a trace."""
        if flags == "00":
            self.unsampled.add(trace)
        return {"traceparent": f"00-{trace}-{PARENT}-{flags}"}

    def ask(self, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> httpx.Response:
        """Ask for something."""
        return self._client.request(method, self.url + path, headers=headers)

    def stream(self, path: str, headers: dict[str, str]) -> Any:
        """Ask for something that is read piece by piece."""
        return self._client.stream("GET", self.url + path, headers=headers)

    def settled(self, before: Page, wanted: Counts, raised: Counts | None = None) -> Page:
        """Return the page once it counts what is wanted more than before; or what it counts after 10 s instead."""
        deadline = time.monotonic() + 10
        while True:
            page = self.page()
            there = page.counted - before.counted == wanted and page.exceptions - before.exceptions == (raised or {})
            if (there and not +page.open) or time.monotonic() > deadline:
                return page
            time.sleep(0.01)

    def played(self, row: Row) -> Seen:
        """Return what a row left behind.

        All rows of the table are played at the first call, one after the other: what one is late to count is found in
        the next.
        """
        if not self._seen:
            page = self.page()
            for each in rows(self.framework):
                self._seen[each.name] = seen = self._play(each, page)
                page = seen.after
        return self._seen[row.name]

    def _play(self, row: Row, before: Page) -> Seen:
        trace = uuid.uuid4().hex
        answer = None
        try:
            answer = self.ask(row.path, row.method, {"host": row.host, **self.headers(trace, row.flags)})
        except httpx.RemoteProtocolError:
            assert self.server in row.unanswered_by
        return Seen(trace, answer, before, self.settled(before, self.wanted(row), self.raised(row)))

    def refused(self, row: Row) -> bool:
        """Whether the server does not let the application see this request."""
        return self.server in row.refused_by

    def wanted(self, row: Row) -> Counts:
        """Return what a row has to add to the counts."""
        if row.silent or self.refused(row):
            return {}
        return {(row.label or row.method, row.route, str(row.counted)): 1}

    def raised(self, row: Row) -> Counts:
        """Return what a row has to add to the exceptions."""
        return {(row.label or row.method, row.route, row.exception): 1} if row.exception else {}

    # --- what it told -------------------------------------------------------------------------------------------------

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All lines of its log so far; the server's own words before it was instrumented are no JSON."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        new = new[: new.rfind(b"\n") + 1]
        self._read += len(new)
        self._lines += [json.loads(line) for line in new.split(b"\n") if line.startswith(b"{")]
        return self._lines

    @property
    def access(self) -> list[dict[str, Any]]:
        """The access lines so far."""
        return [line for line in self.lines if str(line.get("event.dataset", "")).endswith(".access")]

    def access_of(self, trace: str) -> dict[str, Any]:
        """Wait for the one access line of a request, and return it."""
        found = until(lambda: [line for line in self.access if line.get("trace.id") == trace], "an access line")
        assert len(found) == 1
        line: dict[str, Any] = found[0]
        return line

    @property
    def spans(self) -> list[SeenSpan]:
        """All exported spans so far."""
        posts = self._collector.posts[self._posts :]
        self._posts += len(posts)
        self._spans += [span for post in posts for span in decoded(post.body)]
        return self._spans

    def span_of(self, trace: str) -> SeenSpan:
        """Wait for the one span of a request, and return it."""
        found = until(lambda: [span for span in self.spans if span.trace_id == trace], "a span")
        assert len(found) == 1
        span: SeenSpan = found[0]
        return span

    # --- what a row has to be -----------------------------------------------------------------------------------------

    def check(self, row: Row) -> None:
        """Compare a row of the table with what the server told of it."""
        seen = self.played(row)
        if self.refused(row):
            row = replace(row, status=400, silent=True)
        if seen.answer is not None:
            self._check_answer(row, seen.answer, seen.trace)
        self._check_metrics(row, seen)
        if not row.silent:
            self._check_line(row, self.access_of(seen.trace))
            if row.flags == "01":
                self._check_span(row, self.span_of(seen.trace))
            if row.logged is not None:
                until(lambda: self._logged(row, seen.trace) == 1, row.logged)
            if row.exception is not None and self.framework in RAISES_AGAIN:
                escaped = [line for line in self.lines if line["message"] == "escaped" and line["path"] == row.path]
                assert len(escaped) == 1

    def _logged(self, row: Row, trace: str) -> int:
        return sum(line["message"] == row.logged and line.get("trace.id") == trace for line in self.lines)

    def _check_answer(self, row: Row, answer: httpx.Response, trace: str) -> None:
        assert answer.status_code == row.status
        if row.body is not None:
            assert answer.text.strip('"') == row.body
        if row.method == "HEAD":
            assert answer.content == b""
        if row.path == "/cookies":
            assert [value.split(";")[0] for value in answer.headers.get_list("set-cookie")] == ["a=1", "b=2"]
            twice = ["2"] if self.framework == "django" else ["1", "2"]  # its own headers are a dictionary
            assert answer.headers.get_list("x-twice") == twice
        if row.path == "/context":
            assert answer.json()["outer"] == "kept"
            assert answer.json()["traceparent"].startswith(f"00-{trace}-")
            assert answer.json()["traceparent"].endswith(f"-{row.flags}")
        if row.path.endswith("openapi.json"):
            assert "/items/" in answer.text
            assert "/metrics" not in answer.text

    def _check_metrics(self, row: Row, seen: Seen) -> None:
        wanted = self.wanted(row)
        assert seen.after.counted - seen.before.counted == wanted
        assert seen.after.exceptions - seen.before.exceptions == self.raised(row)
        assert not +seen.after.open
        assert seen.after.dropped == {}
        assert row.host not in seen.after.text
        for series in wanted:
            assert row.above <= seen.after.seconds[series] - seen.before.seconds[series] < row.below

    def _check_line(self, row: Row, line: dict[str, Any]) -> None:
        said = (line["http.request.method"], line["http.route"], line["http.response.status_code"])
        assert said == (row.label or row.method, row.route, row.counted)
        assert line["url.path"] == row.path.partition("?")[0]
        assert row.above <= line["event.duration"] / 1e9 < row.below
        assert line["client.ip"] == "127.0.0.1"
        assert line["service.name"] == row.service
        assert line.get("error.type") == row.exception
        if row.exception is not None:
            assert "RuntimeError" in line["error.stack_trace"]

    def _check_span(self, row: Row, span: SeenSpan) -> None:
        method = "HTTP" if row.label == "_OTHER" else row.method
        assert (span.kind, span.parent_id) == ("server", PARENT)
        assert span.name == f"{method} {row.route}".strip()
        assert span.attributes["http.response.status_code"] == row.counted
        assert span.attributes.get("http.route", "") == row.route
        assert span.attributes["url.path"] == row.path.partition("?")[0]
        assert span.status == ("error" if row.counted >= 500 else "unset")
        assert row.above <= (span.end - span.start) / 1e9 < row.below
        assert span.resource["service.name"] == row.service


# --- what single requests cannot show ---------------------------------------------------------------------------------


def bad_trace_headers_begin_new_traces(served: Served) -> None:
    """Nine forms of a header that is none: the request is answered and told, in a trace of its own."""
    paths = {}
    for number, (form, header) in enumerate(MALFORMED.items()):
        path = f"/v1/items/{9_000 + number}"
        try:
            status = served.ask(path, headers={"traceparent": header}).status_code
        except httpx.TransportError:  # closed before all of it was sent
            status = 400
        if form == "70 kB" and status in (400, 431):
            continue  # too long for some servers, which then do not ask the application
        assert status == 200, form
        paths[path] = form
    for path, form in paths.items():

        def told(path: str = path) -> list[dict[str, Any]]:
            return [line for line in served.access if line["url.path"] == path]

        (line,) = until(told, form)
        assert line["trace.id"] not in ("a" * 32, "A" * 32, "0" * 32), form
        assert re.fullmatch("[0-9a-f]{32}", line["trace.id"]), form
        assert served.span_of(line["trace.id"]).parent_id == "", form


def a_big_answer_is_passed_on_piece_by_piece(served: Served, tmp_path: Path) -> None:
    """The application goes on only when the client has the first of five million bytes."""
    trace, before, gate = uuid.uuid4().hex, served.page(), tmp_path / "gate"
    with served.stream("/big", {"x-gate": str(gate), **served.headers(trace)}) as answer:
        pieces = answer.iter_raw()
        size = len(next(pieces))
        assert size < 5_000_000
        gate.touch()
        assert size + sum(map(len, pieces)) == 5_000_000
    route = "" if served.framework in WITHOUT_ROUTES else "/big"
    after = served.settled(before, {("GET", route, "200"): 1})
    assert after.counted - before.counted == {("GET", route, "200"): 1}
    assert served.access_of(trace)["http.response.status_code"] == 200


def a_listener_that_hangs_up_ends_its_stream(served: Served) -> None:
    """Server-sent events: the generator is closed, the request is counted as 499, nothing stays open."""
    trace, before = uuid.uuid4().hex, served.page()
    with served.stream("/events", served.headers(trace)) as answer:
        assert next(answer.iter_raw()).startswith(b"data: tick")
    route = "" if served.framework in WITHOUT_ROUTES else "/events"
    after = served.settled(before, {("GET", route, "499"): 1})
    assert after.counted - before.counted == {("GET", route, "499"): 1}
    assert after.exceptions == before.exceptions
    assert not +after.open
    line = served.access_of(trace)
    assert (line["http.response.status_code"], line["log.level"]) == (499, "info")
    assert "error.type" not in line
    assert served.span_of(trace).attributes["http.response.status_code"] == 499
    until(lambda: [x for x in served.lines if x["message"] == "closed" and x.get("trace.id") == trace], "closing")


def a_websocket_is_counted_by_itself(served: Served) -> None:
    """Under its template and close code; one line, one span, and no HTTP request."""
    trace, before = uuid.uuid4().hex, served.page()
    address = served.url.replace("http", "ws") + "/ws/blue"
    with connect(address, additional_headers=served.headers(trace), proxy=None) as socket:
        socket.send("hello")
        assert socket.recv() == "HELLO"
        with pytest.raises(ConnectionClosed):
            socket.recv()
    route = "" if served.framework in WITHOUT_ROUTES else "/ws/{room}"
    until(lambda: served.page().sockets - before.sockets == {(route, "1000"): 1}, "the end of a WebSocket")
    after = served.page()
    assert after.counted == before.counted
    assert not +after.open
    line = served.access_of(trace)
    assert (line["http.route"], line["http.response.status_code"]) == (route, 101)
    assert served.span_of(trace).parent_id == PARENT


def exemplars_name_sampled_traces_only(served: Served) -> None:
    """The latest sampled request is on the page of OpenMetrics; one that is not sampled never is."""
    ids = {"01": uuid.uuid4().hex, "00": uuid.uuid4().hex}
    for flags, trace in ids.items():
        before = served.page()
        served.ask("/v1/items/1", headers=served.headers(trace, flags))
        assert sum((served.settled(before, _one(served)).counted - before.counted).values()) == 1
    page = served.ask("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}).text
    named = set(re.findall(r'# \{[^}]*trace_id="(\w+)"', page))
    assert page.endswith("# EOF\n")
    assert ids["01"] in named
    assert not named & served.unsampled


def _one(served: Served) -> Counts:
    return {("GET", "" if served.framework in WITHOUT_ROUTES else "/v1/items/{item}", "200"): 1}


def a_client_cannot_forge_lines(served: Served) -> None:
    """Whatever is in path and headers: one line, which is one JSON object with the fields it always has."""
    trace = uuid.uuid4().hex
    path = '/nowhere/\n{"forged":1}\r\x1b[2J\u2028"'
    lie = 'x","forged":"1'
    served.ask(
        "/nowhere/%0A%7B%22forged%22%3A1%7D%0D%1B%5B2J%E2%80%A8%22?forged=%0A1",
        headers={**served.headers(trace), "user-agent": lie, "x-forwarded-for": lie, "tracestate": lie, "baggage": lie},
    )
    assert served.access_of(trace)["url.path"] == path
    assert not [line for line in served.lines if "forged" in line]


def histograms_are_consistent_at_any_moment(served: Served) -> None:
    """Eight clients at once, scraped meanwhile: buckets rise, the last one is the count, none is lost or invented."""
    before = served.page()
    requests = 120

    def one(_: int) -> int:
        return served.ask("/v1/items/1", headers=served.headers(uuid.uuid4().hex, "00")).status_code

    with ThreadPoolExecutor(8) as clients:
        answers = [clients.submit(one, number) for number in range(requests)]
        while not all(answer.done() for answer in answers):
            _check_histograms(served.page())
    assert [answer.result() for answer in answers] == [200] * requests
    wanted = dict.fromkeys(_one(served), requests)
    after = served.settled(before, wanted)
    _check_histograms(after)
    assert after.counted - before.counted == wanted
    assert not +after.open


def _check_histograms(page: Page) -> None:
    assert set(page.buckets) == set(page.counted)
    for series, buckets in page.buckets.items():
        assert buckets == sorted(buckets)
        assert buckets[-1] == page.counted[series]
        assert page.seconds[series] >= 0


def everything_was_told_once(served: Served) -> None:
    """Over the whole table: as many counts as lines as sampled spans; nothing of what is excluded; nothing dropped."""
    page = served.page()
    total = sum(page.counted.values()) + sum(page.sockets.values())
    until(lambda: len(served.access) >= total, "all lines")
    assert len(served.access) == total
    sampled = {line["trace.id"] for line in served.access} - served.unsampled
    assert len(sampled) + len(served.unsampled) == total
    until(lambda: len(served.spans) >= len(sampled), "all spans")
    assert len(served.spans) == len(sampled)
    assert {span.trace_id for span in served.spans} == sampled
    assert not [line for line in served.access if line["url.path"].startswith(("/quiet", "/metrics"))]
    assert {line["url.path"] for line in served.access if "user" in line} <= {"/context"}
    assert page.dropped == {}
    assert not +page.open


PROMISES: tuple[Callable[..., None], ...] = (
    bad_trace_headers_begin_new_traces,
    a_big_answer_is_passed_on_piece_by_piece,
    a_listener_that_hangs_up_ends_its_stream,
    a_websocket_is_counted_by_itself,
    exemplars_name_sampled_traces_only,
    a_client_cannot_forge_lines,
    histograms_are_consistent_at_any_moment,
    everything_was_told_once,
)
ASGI_ONLY = (a_listener_that_hangs_up_ends_its_stream, a_websocket_is_counted_by_itself)
"""What a WSGI client that goes away leaves behind is in test_wsgi_servers.py."""


# --- for the test modules ---------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Pair each framework and server of the module with the table's rows, or with the promises."""
    served: list[tuple[str, str]] = metafunc.module.SERVED
    pairs: list[tuple[tuple[str, str], Any, str]]
    if "row" in metafunc.fixturenames:
        what = "row"
        pairs = [(each, row, row.name) for each in served for row in rows(each[0])]
    else:
        what = "promise"
        pairs = [(each, kept, kept.__name__) for each in served for kept in PROMISES if _makes(each[0], kept)]
    metafunc.parametrize(
        ("served", what),
        [(each, value) for each, value, _ in pairs],
        indirect=["served"],
        ids=[f"{'-'.join(each)}-{name}" for each, _, name in pairs],
    )


def _makes(framework: str, promise: Callable[..., None]) -> bool:
    return framework in ASGI or promise not in ASGI_ONLY


@pytest.fixture(scope="module")
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Served]]:
    """All servers of this module that the chosen tests need, started together."""
    chosen: dict[tuple[str, str], None] = {
        cast("tuple[str, str]", item.callspec.params["served"]): None
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    }
    running: dict[tuple[str, str], Served] = {}
    collectors: list[OtlpCollector] = []
    try:
        for each in chosen:
            collectors.append(OtlpCollector().__enter__())
            framework, server = each
            running[each] = Served(framework, server, tmp_path_factory.mktemp("-".join(each)), collectors[-1])
        yield running
    finally:
        for served in running.values():
            served.end()
        for served in running.values():
            served.ended()
        for collector in collectors:
            collector.__exit__(None, None, None)


@pytest.fixture
def served(request: pytest.FixtureRequest, servers: dict[tuple[str, str], Served]) -> Served:
    """One of them, listening."""
    found = servers[request.param]
    if not found.url:
        found.wait()
    return found
