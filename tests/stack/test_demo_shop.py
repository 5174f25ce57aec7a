"""The demo shop behaves like a shop, can be broken and mended, and its telemetry shows it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample

import tocsin
from tocsin_service.testing import eventually, serving
from tocsin_stack.demo import shop as demo
from tocsin_stack.demo import traffic
from tocsin_stack.demo.guards import AUDIENCE, Issuer, Limiter, RefusedError
from tocsin_stack.demo.traffic import Traffic, steps


@dataclass
class Counter:
    """The shop over HTTP, as a customer meets it."""

    client: httpx.AsyncClient
    shop: demo.Shop
    registry: CollectorRegistry
    log_file: Path
    headers: dict[str, str] = field(default_factory=dict)

    async def status(self, method: str, path: str, **options: Any) -> int:
        return (await self.client.request(method, path, headers=self.headers, **options)).status_code

    async def sign_in(self, user: str = "ann") -> None:
        answer = await self.client.post("/login", json={"user": user})
        self.headers["Authorization"] = f"Bearer {answer.json()['token']}"

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def opened(folder: Path, url_of: list[str] | None = None) -> AsyncIterator[Counter]:
    shop, registry, log_file = demo.Shop(pause=lambda least, _: least / 10), CollectorRegistry(), folder / "shop.log"
    app = demo.create_app(shop, log_file=log_file, registry=registry)
    try:
        async with serving(app) as url, httpx.AsyncClient(base_url=url) as client:
            if url_of is not None:
                url_of.append(url)
            yield Counter(client, shop, registry, log_file)
    finally:
        tocsin.uninstrument(app)


@pytest.fixture
async def counter(tmp_path: Path) -> AsyncIterator[Counter]:
    async with opened(tmp_path) as result:
        yield result


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/", None, 200),
        ("GET", "/products", None, 200),
        ("GET", "/products/1", None, 200),
        ("GET", "/products/404", None, 404),
        ("POST", "/cart", {"product": 1, "count": 2}, 201),
        ("POST", "/cart", {"product": 404}, 404),
        ("POST", "/cart", {"product": 1, "count": 0}, 422),
        ("GET", "/search?q=bell", None, 200),
        ("POST", "/checkout", None, 401),
        ("GET", "/account", None, 401),
        ("GET", "/healthz", None, 200),
        ("GET", "/healthz/checkout", None, 200),
        ("GET", "/healthz/kitchen", None, 404),
    ],
)
async def test_routes_answer_as_a_shop_does(
    counter: Counter, method: str, path: str, body: dict[str, object] | None, status: int
) -> None:
    """Every route, for somebody who has not signed in."""
    assert await counter.status(method, path, json=body) == status


async def test_who_signed_in_may_order(counter: Counter) -> None:
    """The token of /login opens /checkout and /account, and the order is in the log with the request's trace."""
    await counter.sign_in("ann")
    assert await counter.status("POST", "/checkout") == 201
    assert (await counter.client.get("/account", headers=counter.headers)).json() == {"user": "ann"}
    assert tocsin.force_flush()  # lines are written in batches
    lines = [json.loads(line) for line in counter.log_file.read_text(encoding="utf-8").splitlines()]
    (order,) = [line for line in lines if line["message"] == "order placed"]
    (access,) = [line for line in lines if line["message"] == "POST /checkout 201"]
    assert order["trace_id"] == access["trace_id"]


async def test_refused_credentials_are_counted_by_reason(counter: Counter) -> None:
    """Missing, expired, forged and misdirected tokens are told apart."""
    issuer = counter.shop.issuer
    tokens = {
        "missing": "",
        "expired": issuer.issue("ann", counter.shop.now() - 3600),
        "bad_signature": Issuer(b"another key of at least 32 bytes").issue("ann", counter.shop.now()),
        "bad_audience": jwt.encode({"sub": "ann", "aud": "till", "exp": 9_999_999_999}, issuer.key, "HS256"),
    }
    for reason, token in tokens.items():
        counter.headers = {"Authorization": f"Bearer {token}"} if token else {}
        assert await counter.status("GET", "/account") == 401
        assert counter.count("tocsin_auth_failures_total", reason=reason) == 1


async def test_hammering_on_the_login_is_refused_and_counted(counter: Counter) -> None:
    """The sixth login at once gets 429 with a Retry-After; another customer is not affected."""
    now = counter.shop.now()
    counter.shop.now = lambda: now  # "at once", however busy the machine is
    answers = [await counter.client.post("/login", json={"user": "impatient"}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert answers[-1].headers["Retry-After"] == "2"
    assert counter.count("tocsin_ratelimit_rejected_total", http_route="/login", policy="per-client") == 1
    await counter.sign_in("ann")


@pytest.mark.parametrize(
    ("part", "request_"),
    [
        ("products", ("GET", "/products")),
        ("cart", ("POST", "/cart")),
        ("checkout", ("POST", "/checkout")),
        ("search", ("GET", "/search")),
        ("account", ("GET", "/account")),
    ],
)
async def test_a_broken_part_fails_until_it_is_fixed(counter: Counter, part: str, request_: tuple[str, str]) -> None:
    """Customers get 500, both health pages name the part, the rest of the shop is not affected."""
    await counter.sign_in()
    body = {"product": 1} if part == "cart" else None
    assert (await counter.client.post(f"/demo/break/{part}")).json() == {"broken": [part]}
    assert await counter.status(*request_, json=body) == 500
    assert await counter.status("GET", "/") == 200
    assert await counter.status("GET", f"/healthz/{part}") == 503
    health = await counter.client.get("/healthz")
    assert (health.status_code, list(health.json()["broken"])) == (503, [part])
    assert (await counter.client.get("/demo/state")).json() == {"broken": [part]}
    assert (await counter.client.post(f"/demo/fix/{part}")).json() == {"broken": []}
    assert await counter.status(*request_, json=body) in {200, 201}
    assert await counter.status("GET", "/healthz") == 200


async def test_all_can_be_broken_and_fixed_at_once(counter: Counter) -> None:
    """`fix` without a name mends everything; an unknown name is refused with the list of known ones."""
    assert (await counter.client.post("/demo/break/all")).json() == {"broken": sorted(demo.PARTS)}
    assert (await counter.client.post("/demo/fix")).json() == {"broken": []}
    unknown = await counter.client.post("/demo/break/kitchen")
    assert unknown.status_code == 404
    assert "checkout" in unknown.json()["detail"]


async def test_a_failed_checkout_is_in_metrics_and_log(counter: Counter) -> None:
    """The error budget sees a 500 of the route, the log says why; health pages are counted nowhere."""
    await counter.sign_in()
    await counter.client.post("/demo/break/checkout")
    await counter.status("POST", "/checkout")
    await counter.status("GET", "/healthz/checkout")
    name = "http_server_request_duration_seconds_count"
    labels = {"http_request_method": "POST", "http_route": "/checkout", "http_response_status_code": "500"}
    assert counter.count(name, **labels) == 1
    routes = {sample.labels["http_route"] for sample in _samples(counter.registry, name)}
    assert routes == {"/login", "/checkout"}
    text = counter.log_file.read_text(encoding="utf-8")
    assert "payment provider: connection refused" in text
    assert counter.headers["Authorization"].split()[1] not in text, "a token is never logged"


async def test_traffic_is_a_mix_that_fills_every_panel(tmp_path: Path) -> None:
    """Good requests and mistakes: 2xx, 401, 404 and 429, each request with a trace of its own."""
    urls: list[str] = []
    async with opened(tmp_path, urls) as counter:
        name = "http_server_request_duration_seconds_count"
        wanted = {("/checkout", "201"), ("/checkout", "401"), ("/login", "429"), ("", "404"), ("/search", "200")}

        def seen() -> dict[tuple[str, str], float]:
            samples = _samples(counter.registry, name)
            return {(s.labels["http_route"], s.labels["http_response_status_code"]): s.value for s in samples}

        async with _running(Traffic(urls[0], rate=100).run()):
            await eventually(lambda: seen().keys() >= wanted)
        assert not [status for _, status in seen() if status.startswith("5")]
        lines = [json.loads(line) for line in counter.log_file.read_text(encoding="utf-8").splitlines()]
        traces = [line["trace_id"] for line in lines if line.get("event.dataset") == "shop.access"]
        assert len(set(traces)) >= 50


async def test_traffic_never_piles_up(tmp_path: Path) -> None:
    """A shop that hangs gets eight requests and no more."""
    urls: list[str] = []
    async with opened(tmp_path, urls) as counter:
        counter.shop.pause = lambda _least, _most: 60.0
        load = Traffic(urls[0], rate=500)
        async with _running(load.run()):
            await eventually(lambda: load.under_way == traffic.AT_ONCE)
            assert load.under_way == traffic.AT_ONCE


@asynccontextmanager
async def _running(loop: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(loop)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _samples(registry: CollectorRegistry, name: str) -> list[Sample]:
    return [sample for family in registry.collect() for sample in family.samples if sample.name == name]


def test_three_requests_in_ten_are_checkouts() -> None:
    """Enough that a broken checkout spends ten failures of its error budget within seconds."""
    sample = list(islice(steps(), 88))
    assert sum(step.path == "/checkout" and step.credentials == "good" for step in sample) == 24


def test_a_token_is_checked_before_it_is_believed() -> None:
    """Only an unexpired token with our signature and audience stands for somebody."""
    issuer = Issuer()
    assert issuer.user(f"Bearer {issuer.issue('ann', 9e9)}") == "ann"
    unsigned = jwt.encode({"sub": "ann", "aud": AUDIENCE, "exp": 9_999_999_999}, "", algorithm="none")
    for value in (None, "", "Bearer", "Basic YTpi", f"Bearer {unsigned}", "Bearer x.y.z"):
        with pytest.raises(RefusedError):
            issuer.user(value)
    assert "key" not in repr(issuer)


def test_a_limiter_gives_a_burst_then_its_rate() -> None:
    """Two at once, then one each second; a client that was away has no more than the burst."""
    limiter = Limiter(rate=1.0, burst=2)
    assert [limiter.wait("a", 0.0) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert limiter.wait("b", 0.0) == 0.0
    assert limiter.wait("a", 0.25) == 0.75
    assert limiter.wait("a", 1.0) == 0.0
    assert [limiter.wait("a", 100.0) for _ in range(3)] == [0.0, 0.0, 1.0]


def test_a_limiter_forgets_clients_it_has_not_seen_for_long() -> None:
    """Memory is bounded however many names somebody invents."""
    limiter = Limiter(rate=1.0, burst=1, clients=2)
    for name in ("a", "b", "c"):
        assert limiter.wait(name, 0.0) == 0.0
    assert limiter.wait("c", 0.0) > 0
    assert limiter.wait("a", 0.0) == 0.0
