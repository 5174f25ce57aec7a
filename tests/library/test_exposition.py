"""The metrics page: formats and their negotiation, the same bytes as prometheus_client, and the ways to serve it."""

from __future__ import annotations

import gzip
import http.client
import logging
import math
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    Summary,
    generate_latest,
    metrics,
    values,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    UnknownMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as PrometheusMetric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from starlette.responses import PlainTextResponse

import tocsin
from tocsin import names
from tocsin.metrics import foreign, lines, server
from tocsin.metrics.exposition import accepts_gzip, is_slow, negotiate, page, render
from tocsin.metrics.families import Families, families_of
from tocsin.metrics.http import http_metrics
from tocsin.request import Facts
from tocsin.testing import Capture, call, counted, dropped
from tocsin.tracing.context import Trace
from tocsin_stack import debian

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5"
FORMATS = (
    "text/plain",
    "text/plain;version=1.0.0;escaping=allow-utf-8",
    "text/plain;version=1.0.0;escaping=values",
    "application/openmetrics-text",
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8",
    "application/openmetrics-text;version=1.0.0;escaping=dots",
)
TRACE = Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is not one of several workers, whatever another test made of it."""
    monkeypatch.setenv("TOCSIN_WORKERS", "off")
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)


def fill(families: Families) -> None:
    """Count something of every kind."""
    http = http_metrics(families)
    for number in range(5):
        http.started("GET")
        http.ended(Facts("GET", "/items/{id}", "/items/1", 200, 0.004 * number, 1.7e9, None, TRACE))
    families.describe_target("shop", "7")
    families.dropped("logs", "write")
    families.observe(names.Metric("size_bytes", "summary", "Bytes.", ("kind",)), "a", value=2.5e6)
    families.set(names.Metric("temperature", "gauge", 'Degrees "outside"\n\\.'), value=-3.5)


def theirs(registry: CollectorRegistry) -> None:
    """Register and change metrics of every kind that prometheus_client has."""
    Counter("orders", "Orders \\ \n placed.", registry=registry).inc(3, {"trace_id": "a"})
    labelled = Counter("refunds", "Refunds.", ("why", "by"), registry=registry)
    labelled.labels("because", "me").inc(2_000_000)
    labelled.labels('"\n\\%s{}', "é").inc(0.25)
    Gauge("depth", "Depth.", registry=registry).set(-math.inf)
    Gauge("asked", "Asked.", registry=registry).set_function(lambda: 17)
    Gauge("warmth", "Warmth.", ("room",), registry=registry).labels("a").set(math.nan)
    Summary("weight_grams", "Weight.", ("of",), unit="grams", registry=registry).labels("a").observe(1e-7)
    histogram = Histogram("wait_seconds", "Wait.", ("for_",), registry=registry)
    histogram.labels("a").observe(0.3, {"trace_id": "b", "span_id": "c"})
    histogram.labels("b").observe(1e9)
    Histogram("below", "Below zero.", buckets=(-1, 0, 1), registry=registry).observe(-0.5)
    Histogram("empty", "Nothing yet.", ("a",), registry=registry)
    Info("build", "Build.", registry=registry).info({"version": "1"})
    Enum("state", "State.", states=["on", "off"], registry=registry).state("off")
    PlatformCollector(registry=registry)


class Custom(Collector):
    """A collector that gives families as they are."""

    def __init__(self, *families: PrometheusMetric) -> None:
        self.families = families

    def describe(self) -> Iterable[PrometheusMetric]:
        return ()

    def collect(self) -> Iterable[PrometheusMetric]:
        return self.families


def peculiar() -> Iterator[PrometheusMetric]:
    """Yield what other collectors give and prometheus_client's metrics do not."""
    stamped = GaugeMetricFamily("stamped", "With a time.", labels=["a"])
    stamped.add_metric(["b"], 1, timestamp=1_700_000_000.25)
    yield stamped
    yield GaugeHistogramMetricFamily("lengths", "Lengths.", [("1", 2), ("+Inf", 3)], 4)
    yield UnknownMetricFamily("mystery", "No type.", 7)
    yield CounterMetricFamily("made", "With creation.", 3, created=1_700_000_000.5)
    yield HistogramMetricFamily("many", "Exemplars.", [("1", 2, Exemplar({"a": "b"}, 0.5, 3.25)), ("+Inf", 2)], 1)
    yield CounterMetricFamily("example", "Without a time.", 3, exemplar=Exemplar({"a": '"'}, 1))
    dotted = GaugeMetricFamily("with.dots", "A name to be quoted.", labels=["a.b"])
    dotted.add_metric(["c"], 1)
    yield dotted
    label = GaugeMetricFamily("plain", "A label to be quoted.", labels=["a.b"])
    label.add_metric(["c"], 1)
    yield label


# --- negotiation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html, */*;q=0.8", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("application/openmetrics-text; version=0.0.1", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;q=0.4, text/plain;q=0.5", "text/plain; version=0.0.4; charset=utf-8"),
        ("Application/OpenMetrics-Text; Version=1.0.0", "application/openmetrics-text; version=1.0.0"),
        ("text/plain;q=0.4, application/openmetrics-text;q=0.5", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;q=0, text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;q=0.2, */*;q=0.5", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=nonsense", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;q=high", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=1.0.0;escaping=values", "text/plain; version=1.0.0; charset=utf-8; escaping=values"),
        (
            # What Prometheus 3 sends.
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
            "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
            "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
        ),
        (";;q==,,text/plain;q=0.1;=", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_the_heaviest_format_is_chosen(accept: str, content_type: str) -> None:
    """Weights decide, then the order; a format of which nothing is known is passed over."""
    assert negotiate(accept).content_type.startswith(content_type)


@given(st.text(alphabet="abtexplinomrcs/-;,=q0.15 *\x00é", max_size=80))
def test_no_accept_header_is_an_error(accept: str) -> None:
    """It is somebody else's text."""
    assert negotiate(accept).content_type.startswith(("text/plain", "application/openmetrics-text"))


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        ("", False),
        ("gzip", True),
        ("br, GZIP", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0", False),
        ("*", True),
        ("br", False),
        ("*;q=0, gzip", True),
        ("gzip;q=0, *", False),
    ],
)
def test_gzip_is_for_who_takes_it(accept: str, taken: bool) -> None:
    """A weight of zero is a refusal."""
    assert accepts_gzip(accept) is taken


# --- the same as prometheus_client --------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", FORMATS)
@pytest.mark.parametrize("created", [True, False])
def test_the_page_is_what_prometheus_client_makes(
    accept: str, created: bool, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte, in every format, twice: the second page is made of kept lines."""
    monkeypatch.setattr(metrics, "_use_created", created)
    registry.set_target_info({"service_name": "x"})
    fill(families_of(registry))
    theirs(registry)
    registry.register(Custom(*peculiar()))
    encode, _ = choose_encoder(accept)
    for _ in range(2):
        assert render(registry, negotiate(accept)).decode() == encode(registry).decode()


def test_metrics_of_prometheus_client_are_read_from_inside() -> None:
    """The trial succeeds with the version that is installed; if not, pages are right but slow."""
    foreign.reads_alike.cache_clear()
    assert foreign.reads_alike()


def test_removed_children_leave_the_page(registry: CollectorRegistry) -> None:
    """Kept lines are of what is there."""
    gauge = Gauge("depth", "Depth.", ("pool",), registry=registry)
    for number in range(300):
        gauge.labels(str(number)).set(number)
    assert render(registry, negotiate("")) == generate_latest(registry)
    for number in range(1, 300):
        gauge.remove(str(number))
    assert render(registry, negotiate("")) == generate_latest(registry)
    gauge.labels("0").set(1)
    assert b'depth{pool="0"} 1.0\n' in render(registry, negotiate(""))


def test_lines_that_come_once_are_not_kept_for_ever(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector whose labels change from scrape to scrape; what stays is prepared once."""
    monkeypatch.setattr(foreign, "_PREFIXES_LIMIT", 50)
    foreign._prefixes.clear()
    foreign._older.clear()
    made: list[str] = []
    monkeypatch.setattr(foreign, "line", lambda name, labels: made.append(labels["a"]) or lines.line(name, labels))

    class Churning(Custom):
        def collect(self) -> Iterable[PrometheusMetric]:
            family = GaugeMetricFamily("pods", "Pods.", labels=["a"])
            family.add_metric(["stays"], 1)
            for number in range(20):
                family.add_metric([f"{len(made)} {number}"], 1)
            return [family]

    registry.register(Churning())
    for _ in range(30):
        assert render(registry, negotiate("")).count(b"\n") == 23
        assert len(foreign._prefixes) + len(foreign._older) <= 100
    assert made.count("stays") == 1


TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12) | st.text(
    alphabet='"\\\n%s{}, =#\r\u2028'
)
NUMBERS = st.floats() | st.integers(-(10**20), 10**20).map(float)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(TEXT, TEXT), max_size=5), st.lists(NUMBERS, min_size=5, max_size=5))
def test_any_label_and_number_comes_through(labels: list[tuple[str, str]], numbers: list[float]) -> None:
    """Quotes, newlines, backslashes, percent signs, any character and any float: as prometheus_client writes them."""
    registry = CollectorRegistry()
    families = families_of(registry)
    gauge = Gauge("theirs", "Theirs.", ("a", "b"), registry=registry)
    family = GaugeMetricFamily("custom", "Custom.", labels=("a", "b"))
    registry.register(Custom(family))
    ours = names.Metric("ours", "gauge", "Ours.", ("a", "b"))
    for pair, number in zip(labels, numbers, strict=False):
        families.set(ours, *pair, value=number)
        gauge.labels(*pair).set(number)
        if len(set(labels)) == len(labels):
            family.add_metric(pair, number)
    for accept, parse in (("", parse_text), ("application/openmetrics-text", parse_openmetrics)):
        text = render(registry, negotiate(accept)).decode()
        assert text == choose_encoder(accept)[0](registry).decode()
        found = {family.name: family for family in parse(text)}
        for name in ("ours", "theirs") if labels else ():
            read = {(sample.labels["a"], sample.labels["b"]): sample.value for sample in found[name].samples}
            assert read.keys() == set(labels[: len(numbers)])


def test_what_cannot_be_encoded_is_replaced(registry: CollectorRegistry) -> None:
    """Half a surrogate pair in somebody's label costs a character, where prometheus_client answers 500."""
    Counter("orders", "Orders.", ("why",), registry=registry).labels("\udc80").inc()
    families_of(registry).add(names.Metric("ours_total", "counter", "Ours.", ("why",)), "\udc80")
    text = render(registry, negotiate("")).decode()
    assert 'orders_total{why="?"} 1.0' in text
    assert 'ours_total{why="\ufffd"} 1.0' in text


def test_only_named_samples(registry: CollectorRegistry) -> None:
    """`name[]` as prometheus_client has it."""
    fill(families_of(registry))
    Counter("orders", "Orders.", registry=registry)
    _, body = page(registry, [], ["size_bytes_count", "orders_total"])
    assert {line.split(b"{")[0].split()[0] for line in body.splitlines() if not line.startswith(b"#")} == {
        b"size_bytes_count",
        b"orders_total",
    }


def test_only_who_has_the_named_samples_is_asked(registry: CollectorRegistry) -> None:
    """One that fails costs its own, as on a whole page; one that did not tell its names may have any."""

    class Told(Broken):
        def describe(self) -> Iterable[PrometheusMetric]:
            return [GaugeMetricFamily("before", "Before."), GaugeMetricFamily("later", "Later.")]

    class Dear(Custom):
        def describe(self) -> Iterable[PrometheusMetric]:
            return [GaugeMetricFamily("dear", "Dear.")]

        def collect(self) -> Iterable[PrometheusMetric]:
            raise AssertionError("asked")

    families_of(registry)
    registry.register(Told())
    registry.register(Dear())
    registry.register(Custom(GaugeMetricFamily("untold", "Untold.", 1)))
    Counter("orders", "Orders.", registry=registry)
    _, body = page(registry, [], ["before", "orders_total", "untold"])
    found = [line for line in body.decode().splitlines() if not line.startswith("#")]
    assert found == ["before 1.0", "untold 1.0", "orders_total 0.0"]
    _, body = page(registry, [], [names.TOCSIN_DROPPED.name])
    assert b'reason="collector",signal="metrics"} 1.0' in body


WORKERS = """
import os
from prometheus_client import REGISTRY, Counter
from tocsin.metrics.exposition import page
from tocsin.metrics.families import families_of

orders = Counter("orders", "Orders.")
families_of()
if os.fork() == 0:
    families_of().dropped("a", "b")
    orders.inc(3)
    page(REGISTRY, [])
    os._exit(0)
os.wait()
orders.inc()
print(page(REGISTRY, [], ["orders_total"])[1].decode())
"""


def test_named_samples_are_of_all_workers() -> None:
    """As on the whole page."""
    environ = {key: value for key, value in os.environ.items() if key != "TOCSIN_WORKERS"}
    found = subprocess.run(
        [sys.executable, "-c", WORKERS], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert "orders_total 4.0" in found.stdout


# --- collectors that fail ------------------------------------------------------------------------------------------


class Broken(Collector):
    """A collector that fails after its first family."""

    def describe(self) -> Iterable[PrometheusMetric]:
        return ()

    def collect(self) -> Iterator[PrometheusMetric]:
        yield GaugeMetricFamily("before", "Before.", 1)
        raise OSError("the database is gone")


def test_a_failing_collector_costs_its_own_families_only(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """What it did not give is counted each time, and said once."""
    fill(families_of(registry))
    registry.register(Broken())
    Gauge("asked", "Asked.", registry=registry).set_function(lambda: 1 / 0)
    registry.register(Custom(GaugeMetricFamily("bad", "No number.", "much")))  # type: ignore[arg-type]
    Counter("after", "After.", registry=registry)
    with caplog.at_level(logging.WARNING, "tocsin"):
        for _ in range(2):
            text = render(registry, negotiate("")).decode()
    assert {family.name for family in parse_text(text)} >= {"http_server_request_duration_seconds", "before", "after"}
    assert "asked" not in text
    assert "bad" not in text
    assert len(caplog.records) == 3
    registry.unregister(next(c for c in registry._collector_to_names if isinstance(c, Broken)))
    for collector in [c for c in registry._collector_to_names if isinstance(c, Gauge | Custom)]:
        registry.unregister(collector)
    assert dropped(registry) == {("logs", "write"): 1, ("metrics", "collector"): 6}


def test_a_failing_collector_without_our_families_is_said_too(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """The page of a registry that nothing was instrumented with."""
    registry.register(Broken())
    with caplog.at_level(logging.WARNING, "tocsin"):
        assert b"before 1.0" in render(registry, negotiate(""))
    assert "the database is gone" in caplog.text


# --- the page of an application -----------------------------------------------------------------------------------


async def test_the_page_is_negotiated(registry: CollectorRegistry) -> None:
    """OpenMetrics for who asks, text for all others; gzip for who takes it."""
    app = tocsin.instrument(PlainTextResponse("ok"), registry=registry, logs=False)
    await call(app)
    text = await call(app, "/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert int(text.headers["content-length"]) == len(text.body)
    openmetrics = await call(app, "/metrics", headers={"accept": OPENMETRICS})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.body.endswith(b"# EOF\n")
    assert {f.name for f in parse_openmetrics(openmetrics.body.decode())} >= {names.HTTP_SERVER_REQUEST_DURATION.name}
    packed = await call(app, "/metrics", headers={"accept-encoding": "deflate, gzip;q=0.5"})
    assert packed.headers["content-encoding"] == "gzip"
    assert settled(gzip.decompress(packed.body)) == settled(text.body) != []


def settled(page: bytes) -> list[bytes]:
    """Return the page without what the process changes by living on between two of them."""
    living = (b"process_", b"tocsin_memory_", b"tocsin_gc_", b"tocsin_event_loop_")
    return [line for line in page.splitlines() if not line.startswith(living)]


async def test_exemplars_name_sampled_traces_only(registry: CollectorRegistry) -> None:
    """An exemplar that leads to a trace nobody recorded would be a dead end."""
    app = tocsin.instrument(PlainTextResponse("ok"), registry=registry, logs=False)
    trace = "0af7651916cd43dd8448eb211c80319c"
    await call(app, headers={"traceparent": f"00-{trace}-b7ad6b7169203331-00"})
    page = (await call(app, "/metrics", headers={"accept": OPENMETRICS})).body.decode()
    assert "trace_id" not in page
    await call(app, headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    page = (await call(app, "/metrics", headers={"accept": OPENMETRICS})).body.decode()
    found = [s.exemplar for f in parse_openmetrics(page) for s in f.samples if s.exemplar]
    assert [exemplar.labels["trace_id"] for exemplar in found] == [trace]
    assert "trace_id" not in (await call(app, "/metrics")).body.decode()


async def test_scrapes_are_not_counted(registry: CollectorRegistry, lines: Capture) -> None:
    """Neither in metrics nor in the log; HEAD has no body; other methods are refused."""
    app = tocsin.instrument(PlainTextResponse("ok"), registry=registry, log_stream=lines)
    assert (await call(app, "/metrics")).status == 200
    head = await call(app, "/metrics", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert (await call(app, "/metrics", method="POST")).status == 405
    assert counted(registry) == {}
    assert lines.events == []


@pytest.mark.parametrize("options", [{"metrics_path": None}, {"metrics": False}, {"metrics_path": "/other"}])
async def test_the_page_can_be_elsewhere_or_nowhere(options: dict[str, Any], registry: CollectorRegistry) -> None:
    """Then /metrics is the application's own."""
    app = tocsin.instrument(PlainTextResponse("mine"), registry=registry, logs=False, **options)
    assert (await call(app, "/metrics")).body == b"mine"
    if options.get("metrics_path"):
        assert b"# HELP" in (await call(app, "/other")).body


def test_promtool_has_nothing_to_say(registry: CollectorRegistry) -> None:
    """Prometheus's own linter reads the page, of all metrics of the library."""
    if debian.find("promtool") is None:
        debian.fetch("prometheus")
    promtool = debian.find("promtool")
    assert promtool is not None
    families = families_of(registry)
    fill(families)
    families.observe(names.JOB_DURATION, "a", "ok", value=1)
    families.set(names.MEMORY_USAGE, value=5e9)
    _, body = page(registry, [])
    found = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, timeout=60, check=False)
    complaints = [line for line in found.stdout.decode().splitlines() + found.stderr.decode().splitlines() if line]
    assert [line for line in complaints if not line.startswith("temperature")] == []


def best(work: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def test_a_big_page_takes_a_fraction_of_the_time(registry: CollectorRegistry) -> None:
    """10,000 lines in less than 0.15 of what prometheus_client takes, for our metrics and for the application's."""
    foreign.reads_alike.cache_clear()
    http = http_metrics(families_of(registry))
    histogram = Histogram("wait_seconds", "Wait.", ("a",), registry=registry)
    for number in range(300):
        http.started("GET")
        http.ended(Facts("GET", f"/{number}", "/", 200, 0.004, 1.7e9, None, TRACE))
        histogram.labels(str(number)).observe(1)
    shape = negotiate("")
    assert render(registry, shape).count(b"\n") > 10_000
    ratios = (best(lambda: render(registry, shape), 5) / best(lambda: generate_latest(registry), 2) for _ in range(6))
    assert any(ratio < 0.15 for ratio in ratios)


def test_a_page_tells_whether_it_takes_long(registry: CollectorRegistry) -> None:
    """The first one may; afterwards it is known."""
    assert is_slow(registry)
    while is_slow(registry):
        page(registry, [])
    for number in range(2_000):
        families_of(registry).add(names.RATELIMIT_REJECTED, f"/{number}", "p")
    page(registry, [(b"accept-encoding", b"gzip")])
    assert is_slow(registry)


# --- served elsewhere ---------------------------------------------------------------------------------------------


@pytest.fixture
def served(registry: CollectorRegistry) -> Iterator[server.Server]:
    running = server.serve(0, registry=registry)
    yield running
    running.close()


def ask(served: server.Server, method: str = "GET", path: str = "/metrics", **headers: str) -> tuple[int, Any, bytes]:
    with closing(http.client.HTTPConnection(served.address, served.port, timeout=20)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def test_a_port_of_its_own(registry: CollectorRegistry, served: server.Server) -> None:
    """With negotiation, compression, HEAD and `name[]`; nothing but reading is possible."""
    fill(families_of(registry))
    status, headers, body = ask(served)
    assert (status, body) == (200, generate_latest(registry))
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    _, headers, packed = ask(served, accept=OPENMETRICS, **{"accept-encoding": "gzip"})
    assert gzip.decompress(packed).endswith(b"# EOF\n")
    status, headers, body = ask(served, "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) == len(generate_latest(registry))
    assert ask(served, "POST")[0] == 405
    assert ask(served, path="/?name[]=size_bytes_count")[2].count(b"\n") == 3


def test_a_port_that_is_taken(registry: CollectorRegistry, served: server.Server) -> None:
    """The message says which, and what to do."""
    with pytest.raises(OSError, match=f"127.0.0.1 port {served.port}.*another port"):
        server.serve(served.port, registry=registry)


def test_workers_share_a_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them can show the sum; here two registries of one process are the two workers."""
    monkeypatch.delenv("TOCSIN_WORKERS")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    registries = [CollectorRegistry(), CollectorRegistry()]
    running = [server.serve(0, registry=registries[0])]
    running.append(server.serve(running[0].port, registry=registries[1]))
    assert ask(running[1])[0] == 200
    for one in running:
        one.close()


def test_a_closed_server_frees_its_port(registry: CollectorRegistry) -> None:
    """Closing twice is once."""
    running = server.serve(0, registry=registry)
    running.close()
    running.close()
    server.serve(running.port, registry=registry).close()


def test_a_port_is_free_again_whoever_closed_the_connections(registry: CollectorRegistry) -> None:
    """Those that were the server's to close linger for a minute; a process that is started again does not wait."""
    running = server.serve(0, registry=registry)
    assert ask(running, connection="close")[0] == 200
    running.close()
    server.serve(running.port, registry=registry).close()


def test_a_closed_server_answers_nobody_any_more(registry: CollectorRegistry) -> None:
    """Not on a connection that was kept, either."""
    running = server.serve(0, registry=registry)
    with closing(http.client.HTTPConnection(running.address, running.port, timeout=20)) as connection:
        connection.request("GET", "/")
        connection.getresponse().read()
        running.close()
        connection.sock.settimeout(server._TIMEOUT / 2)  # a silent one is closed after that time anyway
        assert connection.sock.recv(1) == b""


def test_an_address_that_is_none(registry: CollectorRegistry) -> None:
    """The message says which."""
    with pytest.raises(OSError, match=r"no.such.host.invalid port 0.*another port or address"):
        server.serve(0, "no.such.host.invalid", registry=registry)


def test_a_body_is_not_taken_for_a_request(served: server.Server) -> None:
    """One answer, and the connection is over."""
    with socket.create_connection((served.address, served.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        with connection.makefile("rb") as answers:
            assert answers.read().count(b"HTTP/1.1 200") == 1


def test_a_request_that_comes_byte_by_byte_is_ended(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a few such clients would take all connections for ever."""
    monkeypatch.setattr(server._Handler, "timeout", 0.2)
    running = server.serve(0, registry=registry)
    with socket.create_connection((running.address, running.port), timeout=20) as connection:
        connection.settimeout(0.05)
        deadline = time.monotonic() + 20
        ended = False
        while not ended:
            assert time.monotonic() < deadline
            try:
                connection.send(b"x")
                ended = connection.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:  # the other end is gone
                ended = True
    running.close()


def test_a_forked_process_does_not_hold_the_port(registry: CollectorRegistry) -> None:
    """Else scrapers would connect to nobody after the parent is gone."""
    running = server.serve(0, registry=registry)
    context = multiprocessing.get_context("fork")
    done = context.Event()
    child = context.Process(target=done.wait, args=(60,))
    child.start()
    running.close()
    again = server.serve(running.port, registry=registry)
    assert child.is_alive()
    assert ask(again)[0] == 200
    again.close()
    done.set()
    child.join(20)


def test_silent_clients_do_not_hold_up_a_scrape(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many connections are kept; when they have been silent for too long they are closed."""
    monkeypatch.setattr(server._Handler, "timeout", 0.2)
    running = server.serve(0, registry=registry)
    silent = [socket.create_connection((running.address, running.port)) for _ in range(20)]
    for connection in silent:
        connection.settimeout(20)
        assert connection.recv(1) == b""
        connection.close()
    assert ask(running)[0] == 200
    running.close()


def test_garbage_is_no_news(served: server.Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever sends what is no HTTP gets an answer to it, and nothing is printed."""
    with socket.create_connection((served.address, served.port), timeout=20) as connection:
        connection.sendall(b"\x16\x03\x01\r\n\r\n")
        assert connection.recv(1000)
    assert ask(served)[0] == 200
    assert capsys.readouterr().err == ""


async def test_an_asgi_application(registry: CollectorRegistry) -> None:
    """To be mounted, or served by itself; big pages are made in a thread."""
    fill(families_of(registry))
    app = server.metrics_app(registry)
    threads: list[threading.Thread] = []
    families_of(registry).before_collect(lambda _: threads.append(threading.current_thread()))
    while is_slow(registry):
        assert (await call(app)).body == generate_latest(registry)
    assert threads[0] is not threading.main_thread()
    threads.clear()
    answer = await call(app, "/?name[]=size_bytes_count", headers={"accept-encoding": "gzip"})
    assert gzip.decompress(answer.body).count(b"\n") == 3
    assert threads == [threading.main_thread()]
    assert (await call(app, method="POST")).status == 405


def test_an_asgi_application_by_itself(registry: CollectorRegistry, serve: Callable[..., str]) -> None:
    """Under a real server, which begins and ends it."""
    url = serve(server.metrics_app(registry), lifespan="on")
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  # the server above
        assert answer.status == 200


def test_a_wsgi_application(registry: CollectorRegistry) -> None:
    """The same page."""
    fill(families_of(registry))
    app = server.metrics_wsgi(registry)
    sent: list[Any] = []
    environ: dict[str, Any] = {"HTTP_ACCEPT": OPENMETRICS}
    setup_testing_defaults(environ)
    (body,) = app(environ, lambda *arguments: sent.append(arguments))
    ((status, headers),) = sent
    assert status == "200 OK"
    assert dict(headers)["content-type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    app({**environ, "REQUEST_METHOD": "POST"}, lambda *arguments: sent.append(arguments))
    assert sent[1][0] == "405 Method Not Allowed"


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_cannot_be_is_refused(port: int, registry: CollectorRegistry) -> None:
    """With what can be."""
    with pytest.raises(ValueError, match="expected 0 to 65535"):
        tocsin.serve(port, registry=registry)
