"""The console's pages over HTTP, asked of stand-ins that speak the parts' APIs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tocsin_service import web
from tocsin_service.http import Outbound
from tocsin_service.testing import FakeClock, Received, Sink, serving, sink
from tocsin_stack.console.app import create_app, read_runbook
from tocsin_stack.console.sources import Peer, Sources
from tocsin_stack.screen import Row


class Browser(Protocol):
    """The fixture of tests/conftest.py."""

    def visit(self, url: str, name: str) -> Any: ...


AT = "2025-11-23T00:00:00.000Z"
ALERT = {
    "labels": {"alertname": "ProbeDown", "service": "<b>shop</b>", "severity": "page"},
    "annotations": {"summary": "<script>alert(1)</script>", "runbook_url": "javascript:alert(1)"},
    "startsAt": AT,
    "endsAt": AT,
    "fingerprint": "f",
    "status": {"state": "active", "silencedBy": [], "inhibitedBy": []},
}
LINE = {
    "at": AT,
    "level": "error",
    "service": "shop",
    "message": "<i>boom</i>",
    "trace_id": "a" * 32,
    "line": {"error.message": "refused"},
}


@pytest.fixture
async def parts() -> AsyncIterator[Sink]:
    """A router, prober, shipper and Prometheus in one."""
    answers: dict[str, Any] = {
        "/api/v2/alerts": [ALERT],
        "/api/v1/notifications": [],
        "/api/v1/checks": [],
        "/api/v1/logs": [LINE],
        "/api/v1/query": {"data": {"result": [{"metric": {"service": "shop"}, "value": [0, "1"]}]}},
    }

    def answer(request: Received) -> Response:
        return JSONResponse(answers[request.path])

    async with sink(answer) as server:
        yield server


@pytest.fixture
async def console(parts: Sink) -> AsyncIterator[httpx.AsyncClient]:
    outbound = Outbound(user_agent="test", timeout=1.0)
    peers = {name: Peer(name, parts.url, outbound) for name in ("alerting", "uptime", "ship", "prometheus")}
    app = create_app(
        Sources(**peers, has_prometheus=lambda: True),
        parts=lambda: [Row("console", "up", "http://127.0.0.1:9095", "this page")],
        clock=FakeClock(),
    )
    async with serving(app) as url, httpx.AsyncClient(base_url=url) as client:
        yield client
    await outbound.close()


async def test_the_page_shows_what_the_parts_say_and_runs_nothing_of_it(console: httpx.AsyncClient) -> None:
    """Texts of alerts are texts: they cannot become markup or script."""
    answer = await console.get("/")
    assert answer.status_code == 200
    assert "1 alert is firing" in answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text
    assert "<script" not in answer.text
    assert "javascript:" not in answer.text
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "broken",
    [
        lambda _: PlainTextResponse("no", 500),
        lambda _: PlainTextResponse("no JSON"),
        lambda _: JSONResponse({}),
        lambda _: JSONResponse({"data": {"result": [{"metric": {}, "value": "?"}]}}),
    ],
)
async def test_a_part_that_fails_is_a_sentence_on_the_page(
    console: httpx.AsyncClient, parts: Sink, broken: Callable[[Received], Response]
) -> None:
    """Whatever a part answers, the page comes and says what it could not ask."""
    parts.answer = broken
    answer = await console.get("/")
    assert answer.status_code == 200
    assert "Not all parts can be asked" in answer.text
    assert "alerting" in answer.text


async def _hangs(_: Request) -> Response:
    await asyncio.Event().wait()
    raise AssertionError


async def _raises(_: Request) -> Response:
    raise ValueError("the disk is full")


@pytest.mark.parametrize("endpoint", [_hangs, _raises])
async def test_a_part_of_this_process_that_hangs_or_raises_is_a_sentence(
    endpoint: Callable[[Request], Any], parts: Sink
) -> None:
    """Inside `tocsin up` the parts are asked without a network: no socket bounds the wait or hides an exception."""
    inside = httpx.ASGITransport(app=Starlette(routes=[Route("/{path:path}", endpoint)]))
    outbound, ill = Outbound(user_agent="test"), Outbound(user_agent="test", transport=inside)
    peers = {name: Peer(name, parts.url, outbound) for name in ("uptime", "ship", "prometheus")}
    sources = Sources(**peers, alerting=Peer("The alert router", "http://router", ill), has_prometheus=lambda: True)
    app = create_app(sources, parts=list, clock=FakeClock())
    async with serving(app) as url, httpx.AsyncClient(base_url=url, timeout=4.0) as client:
        answer = await client.get("/")
    assert answer.status_code == 200
    assert "Not all parts can be asked" in answer.text
    assert "The alert router" in answer.text
    for each in (outbound, ill):
        await each.close()


async def test_logs_are_searched_and_shown_as_text(console: httpx.AsyncClient, parts: Sink) -> None:
    """Filters reach the store as they are, and lines link to the rest of their trace."""
    answer = await console.get("/logs", params={"q": 'a"&b', "level": "error"})
    assert "&lt;i&gt;boom&lt;/i&gt;" in answer.text
    assert "refused" in answer.text
    assert f"/logs?trace={'a' * 32}" in answer.text
    assert 'value="a&#34;&amp;b"' in answer.text


async def test_runbooks_are_read_where_the_alert_points(console: httpx.AsyncClient) -> None:
    """The link in an alert needs no internet; a name that is none finds nothing."""
    page = await console.get("/runbooks/ProbeDown")
    assert "First five minutes" in page.text
    assert (await console.get("/runbooks/ProbeDown.md")).text == page.text
    assert (await console.get("/runbooks/Nothing")).status_code == 404
    assert read_runbook("../../../etc/passwd") is None
    assert read_runbook("..%2f") is None


async def test_it_has_the_endpoints_of_a_service(console: httpx.AsyncClient) -> None:
    """Health, readiness and metrics, like every other part."""
    assert (await console.get("/-/ready")).text == "OK"
    await console.get("/")
    assert 'http_route="/"' in (await console.get("/metrics")).text
    assert (await console.get("/static/console.css")).headers["content-type"].startswith("text/css")


async def test_a_browser_shows_the_page_without_complaint(console: httpx.AsyncClient, browser: Browser) -> None:
    """Style, icon and picture load under our own content security policy; a page that breaks it would be noticed."""
    for name, path in {"home": "/", "logs": "/logs", "runbook": "/runbooks/ProbeDown"}.items():
        visit = await asyncio.to_thread(browser.visit, str(console.base_url.join(path)), name)
        assert visit.complaints == []
        assert visit.picture.stat().st_size > 10_000
    app = web.Hardened(Starlette(routes=[Route("/", lambda _: HTMLResponse("<p style='color:red'>x</p>"))]))
    async with serving(app) as url:
        visit = await asyncio.to_thread(browser.visit, url, "broken")
    assert any("Content Security Policy" in complaint for complaint in visit.complaints)
