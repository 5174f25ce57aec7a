"""Who may post: a bearer token, a user with a password, or a signature over the body. Compared in constant time."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, Self

import pydantic

from tocsin_alerting.receivers.fields import SecretPath, exactly_one
from tocsin_alerting.sources.settings import BaseSource
from tocsin_service.settings import SecretError, Settings, flaw, secret


class Check(Protocol):
    """Decides whether a request comes from its source. Names of headers are in lower case."""

    challenge: ClassVar[str]
    """What a 401 names in `WWW-Authenticate`; empty for none."""
    reads_body: ClassVar[bool]
    """Whether the body is needed; where it is not, nobody unknown gets us to read one."""

    def passes(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Return whether the request is genuine."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """`Authorization: Bearer TOKEN`."""

    token: str = field(repr=False)
    challenge: ClassVar[str] = "Bearer"
    reads_body: ClassVar[bool] = False

    def passes(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Compare the token; `body` does not matter."""
        given = _credentials(headers, "bearer")
        return given is not None and hmac.compare_digest(given, self.token.encode())


@dataclass(frozen=True, slots=True)
class Basic:
    """`Authorization: Basic BASE64(user:password)`."""

    username: str
    password: str = field(repr=False)
    challenge: ClassVar[str] = 'Basic realm="tocsin"'
    reads_body: ClassVar[bool] = False

    def passes(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Compare user and password as one; `body` does not matter."""
        given = _credentials(headers, "basic")
        try:
            decoded = base64.b64decode(given or b"", validate=True)
        except binascii.Error:
            return False
        return hmac.compare_digest(decoded, f"{self.username}:{self.password}".encode())


@dataclass(frozen=True, slots=True)
class Signature:
    """HMAC-SHA256 of the body in hex, after `prefix`, in a header."""

    header: str
    prefix: str
    key: str = field(repr=False)
    challenge: ClassVar[str] = ""
    reads_body: ClassVar[bool] = True

    def passes(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Compare with what the body should be signed with."""
        expected = self.prefix + hmac.new(self.key.encode(), body, hashlib.sha256).hexdigest()
        given = headers.get(self.header.lower(), "").strip()
        return hmac.compare_digest(given.encode("latin-1", "replace"), expected.encode())


def _credentials(headers: Mapping[str, str], scheme: str) -> bytes | None:
    found, _, given = headers.get("authorization", "").partition(" ")
    # Headers are read as Latin-1; these are the bytes that were sent.
    return given.strip().encode("latin-1", "replace") if found.lower() == scheme else None


# --- settings ---------------------------------------------------------------------------------------------------


class BasicAuth(Settings):
    """`basic_auth`: a user, and a password or its file."""

    username: str
    password: pydantic.SecretStr | None = None
    password_file: SecretPath | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "password", "password_file")
        filled(self.password)
        return self


class SignatureSettings(Settings):
    """`signature`: how the sender signs; the defaults are GitHub's way, which many have taken over."""

    header: str = "X-Hub-Signature-256"
    prefix: str = "sha256="
    secret: pydantic.SecretStr | None = None
    secret_file: SecretPath | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "secret", "secret_file")
        filled(self.secret)
        return self


class TokenOrPassword(BaseSource):
    """Settings of sources that come with a token or a password."""

    token: pydantic.SecretStr | None = None
    token_file: SecretPath | None = None
    basic_auth: BasicAuth | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, *self.ways())
        filled(self.token)
        return self

    @classmethod
    def ways(cls) -> tuple[str, ...]:
        """Return the fields of which one must be set; kinds with more ways extend it."""
        return ("token", "token_file", "basic_auth")

    def check(self) -> Check:
        """Return who may post, with secrets read now.

        Raises:
            SecretError: a secret cannot be had.
        """
        if self.basic_auth is not None:
            password = opened(self.basic_auth.password, self.basic_auth.password_file)
            return Basic(self.basic_auth.username, password)
        return Bearer(opened(self.token, self.token_file))


def filled(value: pydantic.SecretStr | None) -> None:
    """Raise a flaw if a secret is there and empty: then everybody would have it."""
    if value is not None and not value.get_secret_value().strip():
        raise flaw("this secret is empty", expected="a long random text", fix="openssl rand -hex 32")


def opened(value: pydantic.SecretStr | None, file: Path | None) -> str:
    """Return a secret, read now.

    Raises:
        SecretError: its file cannot be read or is empty.
    """
    found = secret(value, file)
    if not found:
        raise SecretError(f"the secret file {file} is empty")
    return found
