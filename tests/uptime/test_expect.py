"""Judging: which verdict, which reason, and which words a person reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_uptime import conditions, expect
from tocsin_uptime.check import Check, Target
from tocsin_uptime.config import DEFAULT_HTTP
from tocsin_uptime.result import Failure, Observation, Phase, Reason, State

_PHASES = {
    Phase.RESOLVE: 0.001,
    Phase.CONNECT: 0.003,
    Phase.TLS: 0.012,
    Phase.PROCESSING: 0.02,
    Phase.TRANSFER: 0.001,
}


def _check(*texts: str, degraded: tuple[str, ...] = (), secrets: tuple[str, ...] = ()) -> Check:
    return Check(
        name="shop",
        service="shop",
        kind="http",
        target=Target(shown="https://shop.example/", host="shop.example", port=443, secrets=secrets),
        conditions=tuple(map(conditions.parse, texts)) or DEFAULT_HTTP,
        degraded=tuple(map(conditions.parse, degraded)),
    )


def _answer(status: int, body: bytes = b"", *, duration: float = 0.037, truncated: bool = False) -> Observation:
    return Observation(duration=duration, phases=_PHASES, status=status, body=body, truncated=truncated)


_SO_FAR = "DNS ok, connected in 3 ms, TLS ok in 12 ms, but "


@pytest.mark.parametrize(
    ("check", "seen", "reason", "sentence"),
    [
        (_check("[STATUS] == 200"), _answer(503), Reason.STATUS, "the answer was HTTP 503 instead of 200"),
        (_check(), _answer(503), Reason.STATUS, "the answer was HTTP 503 instead of 200 to 299"),
        (_check("[STATUS] != 503"), _answer(503), Reason.STATUS, "the answer was HTTP 503 instead of anything but 503"),
        (_check("[STATUS] < 400"), _answer(503), Reason.STATUS, "the answer was HTTP 503 instead of less than 400"),
        (
            _check("[RESPONSE_TIME] < 800ms"),
            _answer(200, duration=0.9),
            Reason.CONDITION,
            "it took 900 ms instead of less than 800ms",
        ),
        (
            _check("[BODY] == pat(*ok*)"),
            _answer(200, b"sorry"),
            Reason.BODY,
            "the body is not pat(*ok*)",
        ),
        (
            _check("[BODY] != pat(*sorry*)"),
            _answer(200, b"sorry"),
            Reason.BODY,
            "the body is pat(*sorry*)",
        ),
        (
            _check("[BODY] == pat(*ok*)"),
            _answer(200, b"ok" * 1024, truncated=True),
            Reason.BODY_LIMIT,
            "the answer is longer than 2 KiB, so [BODY] cannot be checked",
        ),
        (
            _check("[CONNECTED] == false"),
            _answer(200),
            Reason.CONDITION,
            "a connection was made where none should be",
        ),
    ],
)
def test_a_broken_condition_names_itself_in_plain_words(
    check: Check, seen: Observation, reason: Reason, sentence: str
) -> None:
    """The sentence says how far the probe came and what was found instead of what."""
    result = expect.judge(check, seen, 1.0)
    assert (result.verdict, result.reason, result.sentence) == (State.DOWN, reason, _SO_FAR + sentence)
    assert not result.success


def test_a_failure_below_http_keeps_its_reason_and_says_what_still_worked() -> None:
    """A phase that broke is not counted as done."""
    failure = Failure(Reason.TLS_EXPIRED, Phase.TLS, "the certificate of shop.example has expired")
    phases = {Phase.RESOLVE: 0.001, Phase.CONNECT: 0.003, Phase.TLS: 0.01}
    result = expect.judge(_check(), Observation(duration=0.014, phases=phases, failure=failure), 1.0)
    assert result.reason is Reason.TLS_EXPIRED
    assert result.sentence == "DNS ok, connected in 3 ms, but the certificate of shop.example has expired"


def test_a_redirect_says_where_to_without_the_path() -> None:
    """Who sees 302 instead of 200 learns what to change."""
    seen = Observation(duration=0.1, phases=_PHASES, status=302, location="https://www.shop.example/...")
    sentence = expect.judge(_check(), seen, 1.0).sentence
    assert sentence.endswith(
        "HTTP 302 instead of 200 to 299, a redirect to https://www.shop.example/..., and redirects are not followed"
    )


def test_a_good_answer_is_up_and_keeps_no_excerpt() -> None:
    """Nothing of a healthy body is kept."""
    result = expect.judge(_check("[BODY] == pat(*ok*)"), _answer(200, b"all ok"), 1.23456)
    assert (result.verdict, result.reason, result.sentence) == (State.UP, Reason.OK, "HTTP 200 in 37 ms")
    assert (result.excerpt, result.at) == ("", 1.235)


def test_a_slow_answer_is_degraded_but_a_success() -> None:
    """`degraded` conditions are looked at when all others hold."""
    result = expect.judge(_check(degraded=("[RESPONSE_TIME] < 30ms",)), _answer(200), 1.0)
    assert (result.verdict, result.reason, result.success) == (State.DEGRADED, Reason.DEGRADED, True)
    assert result.sentence == "HTTP 200 in 37 ms, but it took 37 ms instead of less than 30ms"


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [(Reason.CONNECT_REFUSED, State.UP), (Reason.CONNECT_TIMEOUT, State.UP), (Reason.DNS, State.DOWN)],
)
def test_a_port_that_should_be_closed_is_fine_when_it_is(reason: Reason, verdict: State) -> None:
    """`[CONNECTED] == false` watches a firewall; a name without address proves nothing about it."""
    phase = Phase.RESOLVE if reason is Reason.DNS else Phase.CONNECT
    seen = Observation(duration=0.1, phases={phase: 0.1}, failure=Failure(reason, phase, "it is closed"))
    check = Check(
        name="closed",
        service="closed",
        kind="tcp",
        target=Target(shown="tcp://db:5432", host="db", port=5432),
        conditions=(conditions.parse("[CONNECTED] == false"),),
    )
    assert expect.judge(check, seen, 1.0).verdict is verdict


def test_a_late_prober_blames_nobody_but_believes_good_news() -> None:
    """Only failures become unknown; the sentence keeps what was seen."""
    bad = expect.unjudged(expect.judge(_check(), _answer(503), 1.0), 2.4)
    assert (bad.verdict, bad.reason, bad.success) == (State.UNKNOWN, Reason.LATE, False)
    assert bad.sentence.startswith("not judged, the prober was 2 s late itself; it saw: DNS ok")
    good = expect.judge(_check(), _answer(200), 1.0)
    assert expect.unjudged(good, 2.4) == good


def test_an_excerpt_masks_secrets_even_where_it_is_cut() -> None:
    """A server that echoes our credentials does not make us spread them."""
    secret = "s3cret-token-of-forty-characters-or-more!"
    body = ("x" * 190 + secret + " and " + secret).encode()
    shown = expect.excerpt(body, ["s3cret-t", secret])
    assert shown == "x" * 190 + "<secret> a"
    for blanks in range(3150, 3200):
        assert expect.excerpt(b" " * blanks + secret.encode(), [secret]) in {"<secret>"[: 3200 - blanks], "<secret>"}


@given(st.binary(max_size=2000))
def test_an_excerpt_is_one_short_printable_line(body: bytes) -> None:
    """Whatever bytes come, what is shown cannot break a terminal, a log line or a chat message."""
    shown = expect.excerpt(body)
    assert len(shown) <= expect.EXCERPT
    assert shown.isprintable()
