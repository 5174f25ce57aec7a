"""Who may post."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tocsin_alerting.sources.auth import Basic, Bearer, Signature
from tocsin_service.settings import SecretError

_MAPPING = "mapping: {labels: {alertname: $.title}}"


def _basic(text: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({"authorization": "Bearer sesame"}, True),
        ({"authorization": "bearer sesame "}, True),
        ({"authorization": "Bearer sesam"}, False),
        ({"authorization": "Basic sesame"}, False),
        ({"authorization": "Bearer"}, False),
        ({"authorization": "Bearer sésame"}, False),
        ({}, False),
    ],
)
def test_a_token_is_compared_as_a_whole(headers: dict[str, str], passes: bool) -> None:
    """In the Authorization header, as a bearer token."""
    assert Bearer("sesame").passes(headers, b"") is passes


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        (_basic("am:sesame"), True),
        (_basic("am:sesame2"), False),
        (_basic("ma:sesame"), False),
        (_basic("am"), False),
        ({"authorization": "Basic !!!"}, False),
        ({"authorization": "Bearer sesame"}, False),
        ({}, False),
    ],
)
def test_a_user_comes_with_a_password(headers: dict[str, str], passes: bool) -> None:
    """Both must be right."""
    assert Basic("am", "sesame").passes(headers, b"") is passes


def test_a_signature_is_over_the_bytes_of_the_body() -> None:
    """With the prefix that the sender puts before it."""
    check = Signature("X-Hub-Signature-256", "sha256=", "key")
    signed = "sha256=" + hmac.new(b"key", b'{"a": 1}', hashlib.sha256).hexdigest()
    assert check.passes({"x-hub-signature-256": signed}, b'{"a": 1}')
    assert not check.passes({"x-hub-signature-256": signed}, b'{"a":1}')
    assert not check.passes({"x-hub-signature-256": signed.removeprefix("sha256=")}, b'{"a": 1}')
    assert not check.passes({}, b'{"a": 1}')


def test_the_secret_of_a_file_can_be_rotated(source: Callable[[str], Any], tmp_path: Path) -> None:
    """It is read at each request."""
    file = tmp_path / "token"
    file.touch()
    settings = source("name: a, kind: grafana, token_file: token")
    for token in ("one", "two"):
        file.write_text(f"{token}\n")
        assert settings.check() == Bearer(token)


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_without_a_secret_nobody_passes(source: Callable[[str], Any], tmp_path: Path, content: str | None) -> None:
    """An empty file is no password."""
    if content is not None:
        (tmp_path / "token").write_text(content)
    with pytest.raises(SecretError, match="token"):
        source("name: a, kind: alertmanager, token_file: token").check()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("name: a, kind: sentry, client_secret: key", Signature("Sentry-Hook-Signature", "", "key")),
        ("name: a, kind: alertmanager, basic_auth: {username: am, password: p}", Basic("am", "p")),
        (f"name: a, kind: json, token: t, {_MAPPING}", Bearer("t")),
        (
            f"name: a, kind: json, signature: {{secret: key}}, {_MAPPING}",
            Signature("X-Hub-Signature-256", "sha256=", "key"),
        ),
    ],
)
def test_each_kind_has_its_ways(source: Callable[[str], Any], line: str, expected: object) -> None:
    """Sentry signs, a JSON sender may, the others bring a token or a password."""
    assert source(line).check() == expected
