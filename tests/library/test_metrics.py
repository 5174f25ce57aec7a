"""The metric families: their names, their bounds, and sharing registries."""

from __future__ import annotations

import gzip
import logging
import threading
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.responses import PlainTextResponse

import tocsin
from tocsin import names
from tocsin.metrics import families as metrics
from tocsin.metrics.exposition import accepts_gzip
from tocsin.metrics.families import Families, families_of
from tocsin.request import Facts
from tocsin.testing import Capture, active, call, counted, dropped, fresh_registry
from tocsin.tracing.context import Trace

LIBRARY = (
    names.HTTP_SERVER_REQUEST_DURATION,
    names.HTTP_SERVER_ACTIVE_REQUESTS,
    names.TARGET_INFO,
    names.TOCSIN_DROPPED,
    names.AUTH_FAILURES,
    names.RATELIMIT_REJECTED,
)


def facts(route: str = "/", status: int = 200, seconds: float = 0.01, trace: Trace | None = None) -> Facts:
    return Facts("GET", route, route, status, seconds, None, trace)


def observe(families: Families, *finished: Facts) -> None:
    for one in finished:
        families.started(one.method)
        families.ended(one)


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
    families = families_of(registry, (0.1, 1.0))
    observe(families, *(facts(seconds=seconds) for seconds in (0.05, 0.1, 0.5, 1.0, 7.0)))
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
    assert b"_count{" in (await call(apps[0], "/metrics")).body
    assert b"_count{" not in (await call(apps[1], "/metrics")).body


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


# --- the page -----------------------------------------------------------------------------------------------------

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5"


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
    assert gzip.decompress(packed.body) == text.body


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
    ],
)
def test_gzip_is_for_who_takes_it(accept: str, taken: bool) -> None:
    """A weight of zero is a refusal."""
    assert accepts_gzip(accept) is taken


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
