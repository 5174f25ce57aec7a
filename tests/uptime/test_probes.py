"""Probes against real targets: each way to behave, and to break, has its reason, its phases and its words."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tocsin_service.testing import eventually, settle
from tocsin_uptime import expect
from tocsin_uptime.check import Check
from tocsin_uptime.config import Config
from tocsin_uptime.probes import PROBES
from tocsin_uptime.probes.http import BODY_LIMIT
from tocsin_uptime.result import Observation, Phase, Reason, Result, State

Load = Callable[[str], Config]


def _check(load: Load, url: str, **settings: Any) -> Check:
    endpoint = {"name": "target", "url": url, "timeout": "5s", **settings}
    return load(json.dumps({"endpoints": [endpoint]})).checks[0]


async def _probe(check: Check) -> tuple[Observation, Result]:
    seen = await PROBES[check.kind](check)
    return seen, expect.judge(check, seen, 1.0)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/ok", 200),
        ("/created", 201),
        ("/empty", 204),
        ("/until-close", 200),
        ("/hints", 200),
        ("/trickled", 200),
        ("/two-answers", 200),
    ],
)
async def test_a_good_answer_is_a_success_with_all_phases(load: Load, zoo: Any, path: str, status: int) -> None:
    """However the answer is framed: by length, by nothing, by the end of the connection, in pieces of one byte."""
    seen, result = await _probe(_check(load, zoo.url + path))
    assert (result.verdict, result.status) == (State.UP, status)
    assert list(seen.phases) == [Phase.CONNECT, Phase.PROCESSING, Phase.TRANSFER]
    assert sum(seen.phases.values()) <= seen.duration


async def test_a_name_is_resolved_and_timed(load: Load, zoo: Any) -> None:
    """A host name has a phase of its own; an address has none."""
    seen, result = await _probe(_check(load, f"http://localhost:{zoo.port}/ok"))
    assert result.success
    assert list(seen.phases) == [Phase.RESOLVE, Phase.CONNECT, Phase.PROCESSING, Phase.TRANSFER]


@pytest.mark.parametrize(
    ("path", "reason", "words"),
    [
        ("/500", Reason.STATUS, "the answer was HTTP 500 instead of 200 to 299"),
        ("/moved", Reason.STATUS, "a redirect to https://shop.example/..., and redirects are not followed"),
        ("/early-close", Reason.RESET, "the connection was closed in the middle of the answer"),
        ("/nothing", Reason.RESET, "the connection was closed without an answer"),
        ("/reset", Reason.RESET, "the connection was reset without an answer"),
        ("/garbage", Reason.PROTOCOL, "the answer is not HTTP"),
        ("/endless-headers", Reason.PROTOCOL, "the headers are longer than 64 KiB"),
        ("/endless-trailers", Reason.PROTOCOL, "the trailers are longer than 64 KiB"),
    ],
)
async def test_a_broken_answer_names_its_layer(load: Load, zoo: Any, path: str, reason: Reason, words: str) -> None:
    """Each way to break has a reason of its own, and the sentence says it in plain words."""
    _, result = await _probe(_check(load, zoo.url + path))
    assert (result.verdict, result.reason) == (State.DOWN, reason)
    assert result.sentence.startswith("connected in ")
    assert words in result.sentence
    assert "secret" not in result.sentence


@pytest.mark.parametrize(
    ("path", "reason", "phase"),
    [
        ("/silent", Reason.TIMEOUT_HEADERS, Phase.PROCESSING),
        ("/slow-headers", Reason.TIMEOUT_HEADERS, Phase.TRANSFER),
        ("/slow-body", Reason.TIMEOUT_BODY, Phase.TRANSFER),
    ],
)
async def test_the_deadline_is_for_the_whole_probe(
    load: Load, zoo: Any, path: str, reason: Reason, phase: Phase
) -> None:
    """A target that stalls is left at the timeout, wherever it stalls, and the phase shows where the time went."""
    seen, result = await _probe(_check(load, zoo.url + path, timeout="200ms"))
    assert result.reason is reason
    assert 0.19 <= seen.duration < 2.0
    assert max(seen.phases, key=lambda name: seen.phases[name]) is phase


async def test_a_body_is_checked(load: Load, zoo: Any) -> None:
    """pat() looks into the answer."""
    fine = _check(load, zoo.url + "/ok", conditions=["[BODY] == pat(*health*)"])
    broken = _check(load, zoo.url + "/ok", conditions=["[BODY] == pat(*sick*)"])
    assert (await _probe(fine))[1].success
    assert (await _probe(broken))[1].reason is Reason.BODY


async def test_what_the_answer_began_with_is_kept_for_the_alert(load: Load, zoo: Any) -> None:
    """One line, control characters replaced."""
    _, result = await _probe(_check(load, zoo.url + "/500"))
    assert result.excerpt == "no database \N{REPLACEMENT CHARACTER}[31mred!"


async def test_a_huge_body_is_read_to_the_limit_only(load: Load, zoo: Any) -> None:
    """Its status counts; a condition on a body that was cut off cannot hold."""
    seen, result = await _probe(_check(load, zoo.url + "/huge"))
    assert (result.success, len(seen.body), seen.truncated) == (True, BODY_LIMIT, True)
    _, result = await _probe(_check(load, zoo.url + "/huge", conditions=["[BODY] == pat(*x*)"]))
    assert result.reason is Reason.BODY_LIMIT


async def test_method_headers_and_body_are_sent_and_not_shown(load: Load, zoo: Any) -> None:
    """The target gets them as configured; an echo of them is masked in the excerpt."""
    settings = {
        "method": "POST",
        "headers": {"Authorization": "Bearer abcdefghij"},
        "body": "hello",
        "conditions": ["[BODY] == pat(POST /echo?q=1 *Authorization: Bearer abcdefghij*hello)"],
    }
    assert (await _probe(_check(load, zoo.url + "/echo?q=1", **settings)))[1].success
    settings["conditions"] = ["[STATUS] == 404"]
    _, result = await _probe(_check(load, zoo.url + "/echo?q=1", **settings))
    assert "<secret>" in result.excerpt
    assert "abcdefghij" not in result.excerpt


async def test_a_secret_of_the_query_is_masked_as_it_was_written(load: Load, zoo: Any) -> None:
    """A server that shows the address it was asked for shows the value still escaped."""
    check = _check(load, zoo.url + "/echo?token=s3cret%2Ftoken%2Fvalue", conditions=["[STATUS] == 500"])
    _, result = await _probe(check)
    assert "/echo?token=<secret>" in result.excerpt


async def test_names_that_work_do_not_wait_behind_a_dead_resolver(
    load: Load, zoo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lookups that hang hold no one up, and a name that is probed again meanwhile takes no second thread."""
    alive, real = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> Any:
        if host.endswith(".example"):
            alive.wait(30)
        return real("127.0.0.1" if host.endswith(".example") else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    dead = [_check(load, f"http://shop{number}.example/", timeout="50ms") for number in range(40)]
    try:
        for _turn in range(2):
            seen = await asyncio.gather(*(_probe(check) for check in dead))
            assert {result.reason for _, result in seen} == {Reason.DNS}
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("dns shop")]
        assert len(threads) == len(dead)
        assert all(thread.daemon for thread in threads), "a process that is told to end would wait for them"
        _, result = await _probe(_check(load, f"http://localhost:{zoo.port}/ok", timeout="2s"))
        assert result.success
    finally:
        alive.set()
    await eventually(lambda: not any(thread.name.startswith("dns shop") for thread in threading.enumerate()))


async def test_head_waits_for_no_body(load: Load, zoo: Any) -> None:
    """An answer to HEAD names a length and has no body."""
    _, result = await _probe(_check(load, zoo.url + "/head", method="HEAD", timeout="2s"))
    assert result.success


@pytest.mark.parametrize("scheme", ["http", "tcp"])
async def test_a_port_where_nobody_listens_is_refused(load: Load, free_port: int, scheme: str) -> None:
    """Both kinds say who refused."""
    _, result = await _probe(_check(load, f"{scheme}://127.0.0.1:{free_port}"))
    assert result.reason is Reason.CONNECT_REFUSED
    assert result.sentence == f"127.0.0.1:{free_port} refused the connection"


@pytest.mark.parametrize("scheme", ["http", "tcp"])
async def test_a_name_without_address_is_a_failure_of_dns(load: Load, scheme: str) -> None:
    """`.invalid` never has an address (RFC 6761)."""
    seen, result = await _probe(_check(load, f"{scheme}://nothing.invalid:80"))
    assert result.reason is Reason.DNS
    assert "nothing.invalid" in result.sentence
    assert list(seen.phases) == [Phase.RESOLVE]


async def test_a_connection_that_nobody_takes_times_out(load: Load) -> None:
    """A listener with a full queue drops what comes, as a firewall does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(address)
            seen, result = await _probe(_check(load, f"tcp://127.0.0.1:{address[1]}", timeout="300ms"))
        finally:
            for one in waiting:
                one.close()
    assert result.reason is Reason.CONNECT_TIMEOUT
    assert result.sentence == f"127.0.0.1 port {address[1]} took no connection within 300 ms"
    assert seen.phases[Phase.CONNECT] == pytest.approx(seen.duration, rel=0.1)


async def test_a_tcp_probe_connects_and_hangs_up(load: Load, zoo: Any) -> None:
    """Nothing is sent; the phases are those of a connection."""
    seen, result = await _probe(_check(load, f"tcp://localhost:{zoo.port}"))
    assert result.success
    assert result.sentence.startswith("connected in ")
    assert list(seen.phases) == [Phase.RESOLVE, Phase.CONNECT]


@pytest.mark.parametrize("url", ["http://localhost:{}/silent", "http://127.0.0.1:{}/huge", "https://127.0.0.1:{}/ok"])
async def test_a_probe_cancelled_anywhere_leaves_nothing_open(load: Load, zoo: Any, url: str) -> None:
    """Cancellation comes through at once, and the warning about a socket left open would fail this test."""
    for turns in range(12):
        task = asyncio.create_task(_probe(_check(load, url.format(zoo.port))))
        await settle(turns)
        task.cancel()
        await asyncio.wait([task], timeout=1.0)
        assert task.done()


async def test_a_thousand_probes_leave_no_socket_behind(load: Load, zoo: Any) -> None:
    """What was opened was closed: the next free descriptor is the one that was free before."""
    check = _check(load, zoo.url + "/ok")
    broken = _check(load, zoo.url + "/early-close")
    with socket.socket() as before:
        lowest = before.fileno()
    for _ in range(25):
        results = await asyncio.gather(*(_probe(one) for one in (check, broken) for _ in range(20)))
        assert sum(result.success for _, result in results) == 20

    def closed() -> bool:
        with socket.socket() as after:
            return after.fileno() <= lowest

    await eventually(closed)
