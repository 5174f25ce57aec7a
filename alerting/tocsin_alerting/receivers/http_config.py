"""`http_config` and what is inside it: how a receiver's server is reached, and who we say we are. No I/O here.

Read as Alertmanager reads it (Prometheus' common HTTP options): a value and its `_file` twin exclude each other, and
so do the three ways to authenticate. Files are taken from the folder of the configuration and read when they are
needed (`clients`, `tls`), so that credentials and certificates can be rotated without a reload.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

import pydantic

from tocsin_alerting.receivers.fields import ProxyUrl, Url, at_most_one
from tocsin_service.settings import ConfigPath, Settings, flaw

TlsVersion = Literal["TLS10", "TLS11", "TLS12", "TLS13"]

# Headers that the client itself is answerable for. Source: Prometheus' common HTTP options refuse the same.
_RESERVED: Final = frozenset(
    {
        *("authorization", "host", "content-encoding", "content-length", "content-type", "user-agent", "connection"),
        *("keep-alive", "proxy-authenticate", "proxy-authorization", "www-authenticate", "accept-encoding"),
        *("x-prometheus-remote-write-version", "x-prometheus-remote-read-version"),
        *("x-prometheus-scrape-timeout-seconds", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"),
    }
)


class _Options(Settings):
    """Settings in which an empty text is as good as none, as charts that fill in `""` expect."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _without_empty(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value != ""} if isinstance(data, dict) else data


class BasicAuth(_Options):
    """`basic_auth`."""

    username: str | None = None
    username_file: ConfigPath | None = None
    password: pydantic.SecretStr | None = None
    password_file: ConfigPath | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        at_most_one(self, "username", "username_file")
        at_most_one(self, "password", "password_file")
        return self


def _auth_type(value: str) -> str:
    if value.strip().lower() == "basic":
        raise flaw("basic is not a type of authorization", expected="Bearer, or another scheme", fix="use basic_auth")
    return value.strip() or "Bearer"


class Authorization(_Options):
    """`authorization`: the header `Authorization: <type> <credentials>`."""

    type: Annotated[str, pydantic.AfterValidator(_auth_type)] = "Bearer"
    credentials: pydantic.SecretStr | None = None
    credentials_file: ConfigPath | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        at_most_one(self, "credentials", "credentials_file")
        return self


class TlsConfig(_Options):
    """`tls_config`: whom we trust and who we are; without `ca` or `ca_file` the system's authorities are trusted."""

    ca: str | None = None
    ca_file: ConfigPath | None = None
    cert: str | None = None
    cert_file: ConfigPath | None = None
    key: pydantic.SecretStr | None = None
    key_file: ConfigPath | None = None
    server_name: str | None = None
    insecure_skip_verify: bool = False
    min_version: TlsVersion | None = None
    max_version: TlsVersion | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("ca", "cert", "key"):
            at_most_one(self, name, f"{name}_file")
        has_cert = self.cert is not None or self.cert_file is not None
        has_key = self.key is not None or self.key_file is not None
        if has_cert != has_key:
            given, missing = ("certificate", "key") if has_cert else ("key", "cert")
            raise flaw(
                f"a client {given} stands alone", expected=f"{missing} or {missing}_file beside it", fix="add it"
            )
        if self.min_version and self.max_version and self.min_version > self.max_version:
            raise flaw("min_version is above max_version", expected="max_version to be the same or newer")
        return self


class ProxyOptions(_Options):
    """The proxy options that stand directly in `http_config` and in `oauth2`."""

    proxy_url: ProxyUrl | None = None
    no_proxy: str = ""
    proxy_from_environment: bool = False
    proxy_connect_header: dict[str, tuple[pydantic.SecretStr, ...]] = pydantic.Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _check_proxy(self) -> Self:
        if self.proxy_from_environment and (self.proxy_url is not None or self.no_proxy):
            what = "proxy_from_environment stands beside proxy_url or no_proxy"
            raise flaw(what, expected="one of the two: the environment has its own NO_PROXY")
        if self.no_proxy and self.proxy_url is None:
            raise flaw("no_proxy stands without proxy_url", fix="add proxy_url, or remove it")
        if self.proxy_connect_header and self.proxy_url is None and not self.proxy_from_environment:
            raise flaw("proxy_connect_header stands without a proxy", fix="add proxy_url, or remove it")
        return self


class OAuth2(ProxyOptions):
    """`oauth2`: a token of the client credentials grant (RFC 6749 section 4.4), fetched when one is needed."""

    client_id: str
    client_secret: pydantic.SecretStr | None = None
    client_secret_file: ConfigPath | None = None
    scopes: tuple[str, ...] = ()
    token_url: Url
    endpoint_params: dict[str, str] = pydantic.Field(default_factory=dict)
    tls_config: TlsConfig = TlsConfig()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        at_most_one(self, "client_secret", "client_secret_file")
        return self


class Header(_Options):
    """One entry of `http_headers`: the header is sent once for each value, secret and file."""

    values: tuple[str, ...] = ()
    secrets: tuple[pydantic.SecretStr, ...] = ()
    files: tuple[ConfigPath, ...] = ()


def _header_name(name: str) -> str:
    if name.lower() in _RESERVED:
        raise flaw(f"the header {name} cannot be set", expected="a header that the client does not set itself")
    return name


HeaderName = Annotated[str, pydantic.AfterValidator(_header_name)]


class HttpConfig(ProxyOptions):
    """`http_config`."""

    basic_auth: BasicAuth | None = None
    authorization: Authorization | None = None
    oauth2: OAuth2 | None = None
    bearer_token: pydantic.SecretStr | None = None
    bearer_token_file: ConfigPath | None = None
    tls_config: TlsConfig = TlsConfig()
    follow_redirects: bool = True
    enable_http2: bool = True
    http_headers: dict[HeaderName, Header] = pydantic.Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        # The last two are the old spelling of `authorization`.
        at_most_one(self, "basic_auth", "authorization", "oauth2", "bearer_token", "bearer_token_file")
        return self

    @property
    def credentials(self) -> Authorization | None:
        """`authorization`, also where it is written as `bearer_token`."""
        if self.bearer_token is not None or self.bearer_token_file is not None:
            return Authorization(credentials=self.bearer_token, credentials_file=self.bearer_token_file)
        return self.authorization
