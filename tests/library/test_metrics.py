"""The metric families: what is counted where, their bounds, and sharing registries."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, values
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.responses import PlainTextResponse

import tocsin
from tocsin import names
from tocsin.metrics import families as metrics
from tocsin.metrics.families import Families, families_of
from tocsin.metrics.http import http_metrics
from tocsin.metrics.lines import Shown
from tocsin.metrics.store import HeapStore, size_of
from tocsin.request import Facts
from tocsin.testing import active, call, counted, dropped, fresh_registry
from tocsin.tracing.context import Trace

LIBRARY = (
    names.HTTP_SERVER_REQUEST_DURATION,
    names.HTTP_SERVER_ACTIVE_REQUESTS,
    names.TARGET_INFO,
    names.TOCSIN_DROPPED,
    names.AUTH_FAILURES,
    names.RATELIMIT_REJECTED,
)


TRACE = Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)
SIZE = names.Metric("size_bytes", "summary", "Bytes.", ("kind",))
QUEUE = names.Metric("queue_length", "gauge", "Length.", ("queue",))
DONE = names.Metric("done_total", "counter", "Done.", ("kind",))
WAIT = names.Metric("wait_seconds", "histogram", "Waiting.", ("kind",), (0.1, 1.0))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is not one of several workers, whatever another test made of it."""
    monkeypatch.setenv("TOCSIN_WORKERS", "off")
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)


def facts(
    route: str = "/",
    status: int = 200,
    seconds: float = 0.01,
    trace: Trace | None = None,
    labels: tuple[str, ...] = (),
    method: str = "GET",
) -> Facts:
    return Facts(method, route, route, status, seconds, 1_700_000_000.5, None, trace, labels=labels)


def observe(families: Families, *finished: Facts) -> None:
    http = http_metrics(families)
    for one in finished:
        http.started(one.method)
        http.ended(one)


class Workers(HeapStore):
    """A store whose workers begin to share at the n-th new series, as when the first of them is forked."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.forget: list[Callable[[], None]] = []

    def on_renewal(self, forget: Callable[[], None]) -> None:
        self.forget.append(forget)

    def allocate(self, metric: names.Metric, labels: tuple[str, ...]) -> int:
        self.at -= 1
        if self.at == 0:
            self.renew()
        known = self._series.get((metric.name, labels))
        return known[0] if known else super().allocate(metric, labels)

    def renew(self) -> None:
        """Move all cells: what somebody remembers of their places is wrong from now on."""
        moved: list[float] = [0.0] * 7
        for key, (index, end, metric, labels) in self._series.items():
            self._series[key] = (len(moved), len(moved) + end - index, metric, labels)
            moved += self.cells[index : index + size_of(metric)]
        self.cells, self._end = moved, len(moved)
        for forget in self.forget:
            forget()


async def test_the_page_has_the_families_of_the_contract(registry: CollectorRegistry) -> None:
    """Names, kinds, help, labels and buckets are those of `tocsin.names`."""
    app = tocsin.instrument(
        PlainTextResponse("ok"), service_name="shop", service_version="7", registry=registry, logs=False
    )
    await call(app)
    families_of(registry).dropped("logs", "write")
    tocsin.auth_failed("expired", registry=registry)
    tocsin.rate_limited("/login", "per-ip", registry=registry)
    page = (await call(app, "/metrics")).body.decode()
    found = {family.name: family for family in parse_text(page)}
    for metric in LIBRARY:
        family = found[metric.name.removesuffix("_total")]
        assert family.type == {"info": "gauge"}.get(metric.kind, metric.kind)
        assert family.documentation == metric.help
        assert set(family.samples[0].labels) - {"le"} == set(metric.labels)
    bounds = [s.labels["le"] for s in found[names.HTTP_SERVER_REQUEST_DURATION.name].samples if "le" in s.labels]
    assert [float(bound) for bound in bounds] == [*names.HTTP_SECONDS, float("inf")]
    assert (
        registry.get_sample_value(
            "target_info", {"service_name": "shop", "service_version": "7", "telemetry_sdk_name": "tocsin"}
        )
        == 1.0
    )


def test_a_histogram_is_consistent(registry: CollectorRegistry) -> None:
    """Buckets rise, a value on a bound is in its bucket, +Inf is the count, the sum is the sum."""
    http = http_metrics(families_of(registry), buckets=(0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 1.0, 7.0):
        http.started("GET")
        http.ended(facts(seconds=seconds))
    labels = {"http_request_method": "GET", "http_route": "/", "http_response_status_code": "200"}
    name = names.HTTP_SERVER_REQUEST_DURATION.name
    found = [registry.get_sample_value(f"{name}_bucket", {**labels, "le": le}) for le in ("0.1", "1.0", "+Inf")]
    assert found == [2, 4, 5]
    assert registry.get_sample_value(f"{name}_count", labels) == 5
    assert registry.get_sample_value(f"{name}_sum", labels) == pytest.approx(8.65)


def test_threads_lose_no_count(registry: CollectorRegistry) -> None:
    """Applications of several event loops share the families."""
    families = families_of(registry)
    threads = [threading.Thread(target=lambda: [observe(families, facts()) for _ in range(2_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted(registry) == {("GET", "/", "200"): 8_000}
    assert active(registry) == 0


def test_series_are_limited(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Above the limit everything new is one series; that is counted, and said once."""
    monkeypatch.setattr(metrics, "SERIES_LIMIT", 10)
    families = families_of(registry)
    with caplog.at_level(logging.WARNING, "tocsin"):
        observe(families, *(facts(route=f"/{n}") for n in range(30)), facts(route="/0"))
        for n in range(12):
            tocsin.rate_limited(f"/{n}", "p", registry=registry)
    assert len(counted(registry)) == 11
    assert counted(registry)["_OTHER", "_OTHER", "_OTHER"] == 20
    assert counted(registry)["GET", "/0", "200"] == 2
    assert registry.get_sample_value(names.RATELIMIT_REJECTED.name, {"http_route": "_OTHER", "policy": "_OTHER"}) == 2
    assert dropped(registry) == {("metrics", "series_limit"): 22}
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == [
        names.HTTP_SERVER_REQUEST_DURATION.name,
        names.RATELIMIT_REJECTED.name,
    ]


# --- counting -----------------------------------------------------------------------------------------------------


def test_every_kind_is_counted(registry: CollectorRegistry) -> None:
    """Counters, gauges, histograms and summaries; a family is there from its first use on."""
    families = families_of(registry)
    assert generate_latest(registry) == b""
    families.add(DONE, "a")
    families.add(DONE, "a", amount=2.5)
    families.add(QUEUE, "q", amount=3)
    families.add(QUEUE, "q", amount=-1)
    families.set(QUEUE, "r", value=7)
    families.observe(SIZE, "s", value=10)
    families.observe(SIZE, "s", value=20)
    families.observe(WAIT, "w", value=0.5, trace=TRACE)
    values = {
        "done_total": ({"kind": "a"}, 3.5),
        "queue_length": ({"queue": "q"}, 2),
        "size_bytes_count": ({"kind": "s"}, 2),
        "size_bytes_sum": ({"kind": "s"}, 30),
        "wait_seconds_bucket": ({"kind": "w", "le": "1.0"}, 1),
        "wait_seconds_count": ({"kind": "w"}, 1),
    }
    for name, (labels, value) in values.items():
        assert registry.get_sample_value(name, labels) == value
    assert registry.get_sample_value("queue_length", {"queue": "r"}) == 7
    (histogram,) = (family for family in registry.collect() if family.name == "wait_seconds")
    (exemplar,) = (sample.exemplar for sample in histogram.samples if sample.exemplar)
    assert exemplar.labels == {"trace_id": TRACE.trace_id, "span_id": TRACE.span_id}
    assert exemplar.value == 0.5


def test_a_counter_is_not_lowered(registry: CollectorRegistry) -> None:
    """It would look like a restart."""
    with pytest.raises(ValueError, match=r"done_total is a counter.*-1"):
        families_of(registry).add(DONE, "a", amount=-1)


def test_labels_must_fit(registry: CollectorRegistry) -> None:
    """The message shows what was expected, and what was found."""
    with pytest.raises(ValueError, match=r"\('kind',\).*\('a', 'b'\)"):
        families_of(registry).add(DONE, "a", "b")


def test_the_same_name_has_one_shape(registry: CollectorRegistry) -> None:
    """Other buckets or labels under the same name are an error that says what to do; an equal metric is the same."""
    families = families_of(registry)
    families.observe(WAIT, "a", value=1)
    families.observe(replace(WAIT), "a", value=1)
    assert registry.get_sample_value("wait_seconds_count", {"kind": "a"}) == 2
    with pytest.raises(ValueError, match=r"buckets=\(3,\).*\(0.1, 1.0\).*its own registry"):
        families.observe(replace(WAIT, buckets=(3,)), "a", value=1)
    with pytest.raises(ValueError, match=r"labels=\('other',\)"):
        families.declare(replace(WAIT, labels=("other",)))


def test_a_taken_name_is_an_error_where_it_is_declared(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """Counting itself never fails for it: it is left out, counted as dropped, and said once."""
    Gauge("done", "Somebody else's.", registry=registry)
    families = families_of(registry)
    with pytest.raises(ValueError, match=r"already has a metric named like done_total.*own registry"):
        families.declare(DONE)
    with caplog.at_level(logging.WARNING, "tocsin"):
        families.add(DONE, "a")
        families.add(DONE, "a")
    assert dropped(registry) == {("metrics", "name_taken"): 2}
    assert len(caplog.records) == 1


def test_a_name_of_ours_cannot_be_taken(registry: CollectorRegistry) -> None:
    """prometheus_client refuses it as it does for any two metrics, in the application's own line."""
    families_of(registry).add(DONE, "a")
    families_of(registry).set(QUEUE, "q", value=1)
    with pytest.raises(ValueError, match="done_total"):
        Counter("done", "Mine.", registry=registry)


def test_gauges_are_refreshed_before_a_scrape(registry: CollectorRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """By callbacks; one that fails costs a count, and can be taken back."""
    families = families_of(registry)
    lengths = iter((1.0, 2.0, 3.0))

    def broken(_: Families) -> None:
        raise OSError("gone")

    undo = families.before_collect(lambda found: found.set(QUEUE, "q", value=next(lengths)))
    undo_broken = families.before_collect(broken)
    with caplog.at_level(logging.WARNING, "tocsin"):
        assert registry.get_sample_value("queue_length", {"queue": "q"}) == 1
        assert registry.get_sample_value("queue_length", {"queue": "q"}) == 2
    assert len(caplog.records) == 1
    undo_broken()
    undo()
    assert registry.get_sample_value("queue_length", {"queue": "q"}) == 2
    assert dropped(registry) == {("metrics", "before_collect"): 2}


def test_labels_that_are_no_text_are_made_so(registry: CollectorRegistry) -> None:
    """Half a surrogate pair could not be encoded, and would cost the whole page."""
    families = families_of(registry)
    families.add(DONE, "\ud83d\ude00 \udc80")
    families.add(DONE, "\U0001f600 \udc80")
    families.add(DONE, 7)  # type: ignore[arg-type]  # callers without a type checker
    assert registry.get_sample_value("done_total", {"kind": "\U0001f600 \ufffd"}) == 2
    assert registry.get_sample_value("done_total", {"kind": "7"}) == 1


@pytest.mark.parametrize("at", range(1, 8))
@pytest.mark.parametrize("style", ["otel", "instrumentator", "starlette_exporter"])
def test_nothing_is_lost_when_cells_move(style: str, at: int) -> None:
    """Making a series may move all others, when workers begin to share; what is known of places is looked up again."""
    registry, plain = CollectorRegistry(), CollectorRegistry()
    for target, store in ((registry, Workers(at)), (plain, HeapStore())):
        families = Families(store)
        families.register(target)
        http = http_metrics(families, style)
        for one in (facts("/a"), facts("/b", method="POST"), facts("/a", 404)):
            http.started(one.method)
            http.ended(one)
        if isinstance(store, Workers):
            store.renew()
        http.started("GET")
        http.ended(facts("/a"))
        families.set(QUEUE, "q", value=1)
    assert generate_latest(registry) == generate_latest(plain)


def test_a_reader_sees_whole_observations(registry: CollectorRegistry) -> None:
    """Whatever other threads are counting: buckets, count and sum are of the same observations."""
    families = families_of(registry)
    http = http_metrics(families)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            http.started("GET")
            http.ended(facts(seconds=0.5))

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    name = names.HTTP_SERVER_REQUEST_DURATION.name
    counts: list[float] = []
    try:
        while len(set(counts)) < 20:
            (family,) = (family for family in families.collect() if family.name == name)
            samples = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
            if samples:
                count = samples[f"{name}_count", None]
                assert samples[f"{name}_bucket", "+Inf"] == samples[f"{name}_bucket", "0.5"] == count
                assert samples[f"{name}_sum", None] == count * 0.5
                counts.append(count)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert isinstance(family, Shown)
    assert counts == sorted(counts)


def test_what_is_ended_by_the_garbage_collector_may_count_at_any_moment() -> None:
    """Also while its thread makes a series, under the lock: here before each line of that in turn."""
    codes = (HeapStore.allocate.__code__, Families.place.__code__)
    at, passed = 0, 1
    while passed > at:
        families = Families(HeapStore())
        families.declare(DONE)
        at, passed = at + 1, 0

        def collect(frame: FrameType, event: str, _: object, at: int = at, families: Families = families) -> Any:
            nonlocal passed
            if frame.f_code in codes and event == "line":
                passed += 1
                if passed == at:  # nothing is traced inside of this
                    families.add(DONE, "same")
                    families.add(DONE, "other")
            return collect

        before = sys.gettrace()
        sys.settrace(collect)
        try:
            families.add(DONE, "same")
        finally:
            sys.settrace(before)
        if passed >= at:
            readings = [(reading.labels, reading.values) for reading in families.store.readings()]
            assert sorted(readings) == [(("other",), [1]), (("same",), [2])]
    assert at > 10


def test_a_first_use_waits_for_no_registry(registry: CollectorRegistry) -> None:
    """It may be in a finalizer, within what the thread does to the registry; the name is claimed a little later."""
    families = families_of(registry)
    with registry._lock:
        families.add(DONE, "a")
    assert registry.get_sample_value("done_total", {"kind": "a"}) == 1
    with pytest.raises(ValueError, match="done"):
        Counter("done", "Mine.", registry=registry)


def test_a_registry_that_was_emptied_has_our_metrics_again(registry: CollectorRegistry) -> None:
    """Tests empty it between two applications; names are given back with the metrics."""
    families_of(registry).add(DONE, "a")
    families_of(registry).set(QUEUE, "q", value=1)
    for collector in list(registry._collector_to_names):
        registry.unregister(collector)
    assert registry._names_to_collectors == {}
    families_of(registry).add(DONE, "a")
    assert registry.get_sample_value("done_total", {"kind": "a"}) == 2
    assert registry.get_sample_value("queue_length", {"queue": "q"}) == 1
    registry.unregister(families_of(registry))
    Gauge("done", "Somebody else's.", registry=registry)
    families_of(registry).add(QUEUE, "q")
    assert registry.get_sample_value("queue_length", {"queue": "q"}) == 2


def test_applications_that_are_gone_leave_nothing(registry: CollectorRegistry) -> None:
    """Neither what is called before a scrape, nor a request that ended after the last one."""
    families = families_of(registry)
    http = http_metrics(families)
    assert http.open is not None
    http.open["GET"][0] += 1
    assert active(registry) == 1
    http.open["GET"][0] -= 1
    del http
    gc.collect()
    assert active(registry) == 0
    assert families._callbacks == []


def test_a_fork_does_not_inherit_a_held_lock(registry: CollectorRegistry) -> None:
    """The thread that would let go of it is not there in the child."""
    families = families_of(registry)
    families.add(DONE, "a")
    with families.store.lock:
        child = multiprocessing.get_context("fork").Process(target=families.add, args=(DONE, "a"))
        child.start()
        child.join(20)
        alive = child.is_alive()
        if alive:
            child.kill()
    assert not alive
    assert child.exitcode == 0


# --- requests -----------------------------------------------------------------------------------------------------


def test_added_labels(registry: CollectorRegistry) -> None:
    """Their values come with the facts of each request."""
    http = http_metrics(families_of(registry), labels=("tenant",))
    for tenant in ("a", "b", "a"):
        http.started("GET")
        http.ended(facts(labels=(tenant,)))
    labels = {"http_request_method": "GET", "http_route": "/", "http_response_status_code": "200", "tenant": "a"}
    assert registry.get_sample_value("http_server_request_duration_seconds_count", labels) == 2


@pytest.mark.parametrize("label", ["le", "__name__", "a-b", "1st", "", "http_route"])
def test_bad_labels_are_refused(label: str, registry: CollectorRegistry) -> None:
    """Those that Prometheus keeps for itself, that are no names, or that are there already."""
    with pytest.raises(ValueError, match=f"label '{label}' cannot be"):
        http_metrics(families_of(registry), labels=(label,))


def test_unknown_names_are_refused(registry: CollectorRegistry) -> None:
    """The message lists what there is."""
    with pytest.raises(ValueError, match=r"'vitals'.*otel, instrumentator, starlette_exporter"):
        http_metrics(families_of(registry), "vitals")


# --- registries ---------------------------------------------------------------------------------------------------


async def test_two_applications_share_a_registry(registry: CollectorRegistry) -> None:
    """No error about duplicates; the families are shared, both services are named."""
    apps = [
        tocsin.instrument(PlainTextResponse("ok"), service_name=name, registry=registry, logs=False) for name in "ab"
    ]
    for app in apps:
        await call(app)
    assert counted(registry) == {("GET", "", "200"): 2}
    page = generate_latest(registry).decode()
    assert page.count("\ntarget_info{") == 2


async def test_two_applications_have_two_registries() -> None:
    """Each counts its own, and serves its own page."""
    registries = [fresh_registry(), fresh_registry()]
    apps = [tocsin.instrument(PlainTextResponse("ok"), registry=registry, logs=False) for registry in registries]
    await call(apps[0])
    assert [sum(counted(registry).values()) for registry in registries] == [1, 0]
    assert b"seconds_count{http" in (await call(apps[0], "/metrics")).body
    assert b"seconds_count{http" not in (await call(apps[1], "/metrics")).body


def test_other_buckets_for_a_shared_registry_are_refused(registry: CollectorRegistry) -> None:
    """One family has one set of buckets; the message says what to do."""
    tocsin.instrument(PlainTextResponse("ok"), registry=registry, logs=False, buckets=(0.1, 1))
    tocsin.instrument(PlainTextResponse("ok"), registry=registry, logs=False)
    with pytest.raises(ValueError, match="its own registry"):
        tocsin.instrument(PlainTextResponse("ok"), registry=registry, logs=False, buckets=(0.2, 1))


@pytest.mark.parametrize("buckets", [(), (1, 1), (2, 1), (float("inf"),)])
def test_bad_buckets_are_refused(buckets: Any, registry: CollectorRegistry) -> None:
    """Bounds rise, and there is one at least."""
    with pytest.raises(ValueError, match="rising"):
        tocsin.instrument(PlainTextResponse("ok"), registry=registry, logs=False, buckets=buckets)


def test_a_registry_with_target_info_of_its_own_keeps_it(registry: CollectorRegistry) -> None:
    """Two `target_info` families on one page would be refused by a scraper."""
    registry.set_target_info({"service_name": "mine"})
    tocsin.instrument(PlainTextResponse("ok"), service_name="ours", registry=registry, logs=False)
    page = generate_latest(registry).decode()
    assert page.count("# TYPE target_info") == 1
    assert 'service_name="mine"' in page


async def test_the_applications_own_metrics_are_on_the_page(registry: CollectorRegistry) -> None:
    """One page for both."""
    Counter("orders", "Orders placed.", registry=registry).inc()
    app = tocsin.instrument(PlainTextResponse("ok"), registry=registry, logs=False)
    assert "orders_total 1.0" in (await call(app, "/metrics")).body.decode()


# --- one-call counters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reason", "label"), [("expired", "expired"), ("token=abc", "_OTHER")])
def test_auth_failures_have_known_reasons(reason: str, label: str, registry: CollectorRegistry) -> None:
    """A reason that is not in the contract is `_OTHER`: a label is no place for a message."""
    tocsin.auth_failed(reason, registry=registry)
    assert registry.get_sample_value(names.AUTH_FAILURES.name, {"reason": label}) == 1


async def test_events_inside_a_request_count_where_the_request_does(registry: CollectorRegistry) -> None:
    """No registry to pass around, in threads neither."""
    app = FastAPI()

    @app.get("/")
    def handler() -> None:
        tocsin.auth_failed("missing")
        tocsin.rate_limited("/", "per-user")

    await call(tocsin.instrument(app, registry=registry, logs=False))
    assert registry.get_sample_value(names.AUTH_FAILURES.name, {"reason": "missing"}) == 1
    assert registry.get_sample_value(names.RATELIMIT_REJECTED.name, {"http_route": "/", "policy": "per-user"}) == 1
