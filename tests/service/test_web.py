import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tocsin_service import ops, web
from tocsin_service.testing import serving


async def _echo(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def _hang(_: Request) -> Response:
    await asyncio.Event().wait()
    raise AssertionError


def _app() -> web.Hardened:
    routes = [Route("/", _echo, methods=["GET", "POST"]), Route("/hang", _hang)]
    return web.Hardened(Starlette(routes=routes), body_limit=1000, timeout=0.2)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9095", web.Address("127.0.0.1", 9095)),
        ("[::1]:80", web.Address("::1", 80)),
        (":9093", web.Address("0.0.0.0", 9093)),
    ],
)
def test_addresses_are_read_as_prometheus_reads_them(text: str, address: web.Address) -> None:
    """`:port` is all interfaces; IPv6 stands in brackets."""
    assert web.Address.parse(text) == address


@pytest.mark.parametrize("text", ["", "localhost", "1.2.3.4:x", "host:70000"])
def test_a_bad_address_says_what_to_write(text: str) -> None:
    """The message holds an example."""
    with pytest.raises(web.AddressError, match=r"write host:port, for example 127\.0\.0\.1:9095"):
        web.Address.parse(text)


def test_a_taken_port_is_an_error_or_another_port() -> None:
    """An address somebody asked for is an error when taken; a default moves to a free port."""
    with contextlib.closing(web.bind(web.Address("127.0.0.1", 0))) as first:
        taken = web.bound(first)
        with pytest.raises(web.AddressError, match="in use by another program"):
            web.bind(taken)
        with contextlib.closing(web.bind(taken, or_any_port=True)) as second:
            assert web.bound(second).port != taken.port


async def test_pages_carry_headers_that_keep_browsers_honest() -> None:
    """No framing, no sniffing, nothing from elsewhere."""
    async with serving(_app()) as url, httpx.AsyncClient() as client:
        headers = (await client.get(url)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]


async def test_large_bodies_are_refused_with_and_without_a_length() -> None:
    """A declared length is refused at once, a chunked body when it passes the limit."""

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 500

    async with serving(_app()) as url, httpx.AsyncClient() as client:
        assert (await client.post(url, content=b"x" * 1000)).text == "1000"
        assert (await client.post(url, content=b"x" * 1001)).status_code == 413
        assert (await client.post(url, content=stream())).status_code == 413


async def test_an_answer_that_does_not_start_is_ended() -> None:
    """A handler that hangs costs one request, not a connection for ever."""
    async with serving(_app()) as url, httpx.AsyncClient() as client:
        answer = await client.get(url + "/hang")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_foreign_pages_cannot_post() -> None:
    """A browser names the page a request comes from; only our own may change something."""
    async with serving(_app()) as url, httpx.AsyncClient() as client:
        assert (await client.post(url, headers={"Origin": "https://evil.example"})).status_code == 403
        assert (await client.post(url, headers={"Origin": "http://["})).status_code == 403
        assert (await client.post(url, headers={"Origin": url})).status_code == 200
        assert (await client.get(url, headers={"Origin": "https://evil.example"})).status_code == 200


async def test_operators_find_the_usual_endpoints() -> None:
    """healthy, ready with a reason, and a reload that keeps the old configuration on error."""
    reasons = ["still reading the history"]
    reloads: list[int] = []

    async def reload() -> None:
        reloads.append(1)
        if len(reloads) > 1:
            raise ValueError("w.yml:1:1: no")

    app = Starlette(routes=ops.routes(ready=lambda: reasons[0] if reasons else None, reload=reload))
    async with serving(app) as url, httpx.AsyncClient() as client:
        assert (await client.get(url + "/-/healthy")).text == "OK"
        answer = await client.get(url + "/-/ready")
        assert (answer.status_code, answer.text) == (503, "still reading the history\n")
        reasons.clear()
        assert (await client.get(url + "/-/ready")).status_code == 200
        assert (await client.post(url + "/-/reload")).status_code == 200
        assert (await client.get(url + "/-/reload")).status_code == 405
        refused = await client.post(url + "/-/reload")
        assert (refused.status_code, refused.text) == (500, "failed to reload config: w.yml:1:1: no\n")
