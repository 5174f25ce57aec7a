import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

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
