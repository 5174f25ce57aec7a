import asyncio
import contextlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tocsin_service import http
from tocsin_service.testing import sink


@pytest.mark.parametrize(
    ("status", "reason", "permanent"),
    [
        (400, http.Failure.CLIENT_ERROR, True),
        (401, http.Failure.AUTH_ERROR, True),
        (408, http.Failure.CLIENT_ERROR, False),
        (429, http.Failure.RATE_LIMITED, False),
        (503, http.Failure.SERVER_ERROR, False),
    ],
)
async def test_each_refusal_has_a_reason(status: int, reason: http.Failure, permanent: bool) -> None:
    """The reason decides the retry and is the metric's label; Retry-After is passed on."""
    headers = {"Retry-After": "7"}
    async with sink(lambda _: Response("slow down", status, headers=headers)) as server:
        client = http.Outbound(user_agent="test")
        with pytest.raises(http.RequestError) as caught:
            await client.post(server.url + "/secret/path", content=b"{}", headers={})
        await client.close()
    assert (caught.value.reason, caught.value.permanent) == (reason, permanent)
    assert caught.value.retry_after == (7 if status in {429, 503} else None)
    assert "secret" not in str(caught.value)
    assert "slow down" in str(caught.value)


async def test_a_refused_connection_may_be_tried_again() -> None:
    """Nobody listening is not for ever, and the message hides the path."""
    async with sink() as server:
        url = server.url
    client = http.Outbound(user_agent="test")
    with pytest.raises(http.RequestError) as caught:
        await client.get(url + "/secret")
    await client.close()
    assert not caught.value.permanent
    assert "secret" not in str(caught.value)


async def test_a_whole_attempt_is_bounded() -> None:
    """An answer that drips, or an app of this process that hangs, ends after the timeout all the same."""

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)

    async def hang(_: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    inside = httpx.ASGITransport(app=Starlette(routes=[Route("/", hang)]))
    for client, url in (
        (http.Outbound(user_agent="test"), f"http://{host}:{port}/"),
        (http.Outbound(user_agent="test", transport=inside), "http://inside/"),
    ):
        async with asyncio.timeout(5):
            with pytest.raises(http.RequestError, match="did not answer in time") as caught:
                await client.get(url, timeout=0.3)
        assert caught.value.reason is http.Failure.TIMEOUT
        await client.close()
    server.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_this_machine_is_reached_without_a_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment cannot see our loopback: our own parts and Prometheus are asked directly."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with sink() as server:
        client = http.Outbound(user_agent="test")
        assert (await client.get(server.url.replace("127.0.0.1", host))).text == "ok"
        with pytest.raises(http.RequestError):
            await client.get(f"http://somewhere.invalid:{server.url.rpartition(':')[2]}/")
        await client.close()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hooks.slack.com/services/T0/B0/x", "https://hooks.slack.com/..."),
        ("http://user:pass@[::1]:9093/api?key=1", "http://[::1]:9093/..."),
        ("https://example.org", "https://example.org"),
        ("no url", "<url>"),
        ("http://host:99999999/x", "<url>"),
    ],
)
def test_urls_are_shown_without_their_secrets(url: str, shown: str) -> None:
    """The path of a webhook is its password."""
    assert http.redact_url(url) == shown


def test_retry_after_may_be_a_date() -> None:
    """RFC 9110 allows a date; it is measured against the answer's own clock."""
    headers = {"Date": "Mon, 23 Nov 2026 00:00:00 GMT", "retry-after": "Mon, 23 Nov 2026 00:01:30 GMT"}
    assert http.retry_after(headers) == 90
    assert http.retry_after({"Retry-After": "soon"}) is None


@given(st.integers(min_value=0, max_value=10**6), st.floats(min_value=0, max_value=1))
def test_waits_grow_to_a_limit(attempt: int, spread: float) -> None:
    """However often it failed, the wait is bounded and never negative."""
    wait = http.Backoff().delay(attempt, uniform=lambda low, high: low + (high - low) * spread)
    assert 0.25 <= wait <= 90
