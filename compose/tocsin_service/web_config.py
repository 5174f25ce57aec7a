"""`--web.config.file`: TLS, passwords and headers of a listener, in the format that all of Prometheus' tools share.

Source: the web configuration of prometheus/exporter-toolkit. The file is looked at on every request and handshake,
so that passwords and certificates are rotated without a restart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Self

import pydantic

from tocsin_service import telemetry
from tocsin_service.settings import ConfigPath, Document, Duration, Settings, SettingsError, flaw

HEADERS: Final[dict[str, tuple[str, ...]]] = {
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
    "Content-Security-Policy": (),
}
"""The headers that may be set, and the values they may have where these are few."""

CIPHERS: Final[dict[str, str]] = {
    "TLS_AES_128_GCM_SHA256": "",
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
}
"""Go's names -> OpenSSL's. Those of TLS 1.3 have none: both always offer all of them."""


_BCRYPT: Final = re.compile(r"\$2[abxy]?\$(?:0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")


class ClientAuth(StrEnum):
    """What is asked of a client's certificate; the names are those of Go's crypto/tls."""

    NONE = "NoClientCert"
    REQUEST = "RequestClientCert"
    REQUIRE_ANY = "RequireAnyClientCert"
    REQUIRE_ANY_OLD = "RequireClientCert"
    VERIFY_IF_GIVEN = "VerifyClientCertIfGiven"
    VERIFY = "RequireAndVerifyClientCert"

    @property
    def required(self) -> bool:
        """Whether a client without a certificate is turned away."""
        return self in {self.REQUIRE_ANY, self.REQUIRE_ANY_OLD, self.VERIFY}


class TlsVersion(StrEnum):
    """A version of TLS, oldest first."""

    TLS10 = "TLS10"
    TLS11 = "TLS11"
    TLS12 = "TLS12"
    TLS13 = "TLS13"


class Curve(StrEnum):
    """A curve. Taken for compatibility: OpenSSL chooses among all of them, in its own order."""

    P256 = "CurveP256"
    P384 = "CurveP384"
    P521 = "CurveP521"
    X25519 = "X25519"
    X25519_MLKEM768 = "X25519MLKEM768"


def _cipher(name: str) -> str:
    if name not in CIPHERS:
        raise flaw(f'"{name}" is not a cipher suite', expected=f"Go's name of one, such as {next(reversed(CIPHERS))}")
    return name


class TlsServer(Settings):
    """`tls_server_config`: a certificate with its key, and what is asked of clients."""

    cert: str | None = None
    cert_file: ConfigPath | None = None
    key: pydantic.SecretStr | None = None
    key_file: ConfigPath | None = None
    client_ca: str | None = None
    client_ca_file: ConfigPath | None = None
    client_auth_type: ClientAuth = ClientAuth.NONE
    client_allowed_sans: tuple[str, ...] | None = None
    min_version: TlsVersion = TlsVersion.TLS12
    max_version: TlsVersion = TlsVersion.TLS13
    cipher_suites: tuple[Annotated[str, pydantic.AfterValidator(_cipher)], ...] = ()
    curve_preferences: tuple[Curve, ...] = ()
    prefer_server_cipher_suites: bool = True

    @pydantic.field_validator("client_auth_type", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or ClientAuth.NONE

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("cert", "key"):
            _one_of(self, name, f"{name}_file")
        if self.client_ca is not None and self.client_ca_file is not None:
            raise flaw("client_ca and client_ca_file stand side by side", expected="one of them")
        self._check_clients()
        versions = list(TlsVersion)
        if versions.index(self.min_version) > versions.index(self.max_version):
            raise flaw("min_version is newer than max_version", fix="swap them, or leave both out")
        return self

    def _check_clients(self) -> None:
        auth, has_ca = self.client_auth_type, self.client_ca is not None or self.client_ca_file is not None
        if has_ca and auth is ClientAuth.NONE:
            what = "client_ca_file without client_auth_type: nobody would be asked for a certificate"
            raise flaw(what, fix=f"add client_auth_type: {ClientAuth.VERIFY}")
        if self.client_allowed_sans is not None and not auth.required:
            what = "client_allowed_sans needs a client_auth_type that requires a certificate"
            raise flaw(what, expected=ClientAuth.VERIFY)
        if not has_ca and auth not in {ClientAuth.NONE, ClientAuth.REQUEST}:
            # OpenSSL as Python offers it cannot take a certificate that nobody vouches for.
            what = f"{auth} without client_ca_file: certificates that nobody vouches for cannot be told apart"
            raise flaw(what, fix="add client_ca_file")

    def files(self) -> Iterator[Path]:
        """Yield the files whose change makes another context."""
        for path in (self.cert_file, self.key_file, self.client_ca_file):
            if path is not None:
                yield path


def _one_of(settings: TlsServer, inline: str, file: str) -> None:
    found = [name for name in (inline, file) if getattr(settings, name) is not None]
    if not found:
        raise flaw(f"{file} is missing", expected=f"{file} or {inline}", fix="add it")
    if len(found) > 1:
        raise flaw(f"{inline} and {file} stand side by side", expected="one of them")


class HttpServer(Settings):
    """`http_server_config`. `http2` is taken for compatibility: HTTP/1.1 is spoken, which every client can."""

    http2: bool = True
    headers: dict[str, str] = pydantic.Field(default_factory=dict)

    @pydantic.field_validator("headers")
    @classmethod
    def _known(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if name not in HEADERS:
                raise flaw(f'the header "{name}" cannot be set here', expected="one of " + ", ".join(HEADERS))
            if HEADERS[name] and value not in HEADERS[name]:
                raise flaw(f"{name} has a value it cannot have", expected=" or ".join(HEADERS[name]))
            if not value.isprintable() or not value.isascii():
                raise flaw(f"the value of {name} holds characters that no header may hold")
        return headers


class RateLimit(Settings):
    """`rate_limit`: one request per `interval`, up to `burst` at once; 0 is no limit."""

    interval: Duration = 0.0
    burst: Annotated[int, pydantic.Field(ge=0)] = 0


def _hash(value: pydantic.SecretStr) -> pydantic.SecretStr:
    if not _BCRYPT.fullmatch(value.get_secret_value()):
        # Not shown: it may be the password itself.
        raise flaw("this is not a bcrypt hash", expected="$2y$10$...", fix="make one with: htpasswd -nBC 10 NAME")
    return value


class WebSettings(Settings):
    """The whole file. Without `tls_server_config` it is HTTP, without `basic_auth_users` anybody may come."""

    tls_server_config: TlsServer | None = None
    http_server_config: HttpServer = HttpServer()
    basic_auth_users: dict[str, Annotated[pydantic.SecretStr, pydantic.AfterValidator(_hash)]] = pydantic.Field(
        default_factory=dict
    )
    rate_limit: RateLimit = RateLimit()

    @pydantic.field_validator("tls_server_config", mode="before")
    @classmethod
    def _empty_is_absent(cls, value: object) -> object:
        return value or None

    @pydantic.field_validator("basic_auth_users", mode="before")
    @classmethod
    def _nobody(cls, value: object) -> object:
        return value or {}


Stamp = tuple[tuple[int, int, int] | None, ...]
"""What changes when files do."""


def stamp(*paths: Path) -> Stamp:
    """Return the state of files by their metadata; None for one that cannot be looked at."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 half the cost of Path.stat, on every request
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class WebFile:
    """The file as it is now; one that has become wrong is said once and changes nothing.

    Raises:
        SettingsError: it cannot be read at the start.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = stamp(path)
        self._settings = Document.open(path).read(WebSettings)

    def settings(self) -> WebSettings:
        """Return what the file says."""
        seen = stamp(self.path)
        if seen != self._stamp:
            self._stamp = seen
            try:
                self._settings = Document.open(self.path).read(WebSettings)
            except SettingsError as error:
                log = telemetry.logger("tocsin.web")
                log.error("the web configuration is wrong, the old one stays", reason=str(error))
        return self._settings
