"""TLS: what is trusted, and what is said about what is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from tocsin_uptime import expect
from tocsin_uptime.config import Config
from tocsin_uptime.probes import PROBES
from tocsin_uptime.result import Observation, Phase, Reason, Result

Load = Callable[[str], Config]


async def _probe(load: Load, url: str, **tls: str) -> tuple[Observation, Result]:
    endpoint = {"name": "target", "url": url + "/ok", "tls_config": tls}
    check = load(json.dumps({"endpoints": [endpoint]})).checks[0]
    seen = await PROBES["http"](check)
    return seen, expect.judge(check, seen, 1.0)


async def test_a_certificate_of_a_trusted_authority_is_fine(load: Load, certificates: Any, https_zoo: Any) -> None:
    """With `ca_file` an authority of one's own is trusted; the handshake is a phase."""
    async with https_zoo(certificates.issue("IP:127.0.0.1")) as zoo:
        seen, result = await _probe(load, zoo.url, ca_file=str(certificates.authority))
    assert result.success
    assert list(seen.phases) == [Phase.CONNECT, Phase.TLS, Phase.PROCESSING, Phase.TRANSFER]


async def test_the_name_to_verify_can_be_another_than_the_host(load: Load, certificates: Any, https_zoo: Any) -> None:
    """`server_name` asks a machine by its address for the certificate of a site."""
    async with https_zoo(certificates.issue("DNS:shop.example")) as zoo:
        _, result = await _probe(load, zoo.url, ca_file=str(certificates.authority), server_name="shop.example")
    assert result.success


@pytest.mark.parametrize(
    ("names", "days", "reason", "words"),
    [
        ("IP:127.0.0.1", -1, Reason.TLS_EXPIRED, "the certificate of 127.0.0.1 has expired"),
        ("DNS:other.example", 30, Reason.TLS_HOSTNAME, "the certificate is for another name than 127.0.0.1"),
    ],
)
async def test_a_certificate_that_is_wrong_says_how(
    load: Load, certificates: Any, https_zoo: Any, names: str, days: int, reason: Reason, words: str
) -> None:
    """Expired and mismatched are different mornings."""
    async with https_zoo(certificates.issue(names, days=days)) as zoo:
        _, result = await _probe(load, zoo.url, ca_file=str(certificates.authority))
    assert result.reason is reason
    assert result.sentence.endswith(words)
    assert result.sentence.startswith("connected in ")


async def test_a_certificate_nobody_vouches_for_is_not_trusted(load: Load, certificates: Any, https_zoo: Any) -> None:
    """Verification is on: self-signed is a failure, as browsers see it."""
    async with https_zoo(certificates.self_signed()) as zoo:
        _, result = await _probe(load, zoo.url)
    assert result.reason is Reason.TLS_UNTRUSTED
    assert "is not trusted (self-signed certificate)" in result.sentence


async def test_a_server_without_tls_is_told_from_a_bad_certificate(load: Load) -> None:
    """https:// on a plain port is a broken handshake: nothing was asked, so nothing was answered."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        seen, result = await _probe(load, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert result.reason is Reason.TLS
    assert "but the TLS handshake failed (wrong version number)" in result.sentence
    assert list(seen.phases) == [Phase.CONNECT, Phase.TLS]


async def test_a_handshake_that_is_broken_off_is_a_failure_of_tls(load: Load) -> None:
    """A server that hangs up in the middle of the handshake."""
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        _, result = await _probe(load, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert result.reason is Reason.TLS
    assert "TLS handshake" in result.sentence


async def test_a_handshake_that_stalls_ends_at_the_deadline(load: Load, silent_port: int) -> None:
    """A server that takes the connection and says nothing is a failure of TLS."""
    endpoint = {"name": "target", "url": f"https://127.0.0.1:{silent_port}/", "timeout": "200ms"}
    check = load(json.dumps({"endpoints": [endpoint]})).checks[0]
    seen = await PROBES["http"](check)
    result = expect.judge(check, seen, 1.0)
    assert result.reason is Reason.TLS
    assert "the TLS handshake was not done within 200 ms" in result.sentence
    assert seen.duration < 2.0
