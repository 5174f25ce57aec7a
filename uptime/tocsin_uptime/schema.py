"""The keys of the prober's configuration file, with what each may hold; `config.load` makes checks of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

import httpx
import pydantic

from tocsin_service.settings import ConfigPath, Duration, Settings, flaw
from tocsin_uptime.state import Confirm

PORTS = {"http": 80, "https": 443}
"""Schemes of HTTP and their ports."""

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_OWN_LABELS = ("alertname", "service", "check", "severity")
_OWN_HEADERS = ("connection", "content-length", "transfer-encoding")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _length(minimum: float, what: str) -> Callable[[float], float]:
    def check(value: float) -> float:
        if value < minimum:
            raise flaw(f"{what} is too short", expected=f"at least {minimum:g}s" if minimum >= 1 else "more than 0")
        return value

    return check


Interval = Annotated[Duration, pydantic.AfterValidator(_length(1.0, "the interval"))]
Timeout = Annotated[Duration, pydantic.AfterValidator(_length(0.001, "the timeout"))]
Every = Annotated[Duration, pydantic.AfterValidator(_length(0.001, "the wait before a re-check"))]
Count = Annotated[int, pydantic.Field(ge=1, le=100)]


class ConfirmSettings(Settings):
    """`confirm:`; what is left out comes from the defaults."""

    failures: Count | None = None
    every: Every | None = None
    recover: Count | None = None

    def over(self, default: Confirm) -> Confirm:
        """Return `default` with what is given here."""
        return Confirm(
            failures=default.failures if self.failures is None else self.failures,
            every=default.every if self.every is None else self.every,
            recover=default.recover if self.recover is None else self.recover,
        )


class Defaults(Settings):
    """`defaults:` for every endpoint."""

    interval: Interval = 30.0
    timeout: Timeout = 5.0
    confirm: ConfirmSettings = ConfirmSettings()


class TlsConfig(Settings):
    """`tls_config:`, a part of Prometheus' own: whom to trust, and which name the certificate must have."""

    ca_file: ConfigPath | None = None
    server_name: str = ""


class Endpoint(Settings):
    """One of `endpoints:`."""

    name: str
    url: str
    service: str | None = None
    group: str = ""
    interval: Interval | None = None
    timeout: Timeout | None = None
    method: str = "GET"
    headers: dict[str, str] = pydantic.Field(default_factory=dict)
    body: str | None = None
    conditions: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    confirm: ConfirmSettings = ConfirmSettings()
    labels: dict[str, str] = pydantic.Field(default_factory=dict)
    severity: str = "page"
    runbook: str = ""
    tls_config: TlsConfig = TlsConfig()

    @pydantic.field_validator("name", "service", "severity")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or not value.isprintable() or len(value) > 100 or "/" in value):
            raise flaw("this cannot be a name", expected="1 to 100 printable characters without /")
        return value

    @pydantic.field_validator("method")
    @classmethod
    def _method(cls, value: str) -> str:
        if value.upper() not in _METHODS:
            raise flaw(f'"{value}" is no method a probe can use', expected="one of " + ", ".join(_METHODS))
        return value.upper()

    @pydantic.field_validator("headers")
    @classmethod
    def _headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _TOKEN.fullmatch(name):
                raise flaw(f'"{name}" cannot be the name of a header', expected="letters, digits and -")
            if name.lower() in _OWN_HEADERS:
                raise flaw(f"the header {name} is set by the prober", fix="remove it")
            if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text):
                # The value is not shown: it may be a secret.
                raise flaw(f"the value of the header {name} has a line break or control character", fix="remove it")
        return value

    @pydantic.field_validator("labels")
    @classmethod
    def _labels(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name in _OWN_LABELS:
                raise flaw(f'the label "{name}" is set by the prober', fix="use another name, or the key of the check")
            if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name):
                raise flaw(f'"{name}" cannot be a label', expected="letters, digits and _, not a digit first")
        return value


class AlertmanagerSettings(Settings):
    """One of `alertmanagers:`."""

    url: str
    resend: Interval = 60.0

    @pydantic.field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        url = parse_url(value)
        if url is None or url.scheme not in PORTS or not url.host:
            raise flaw("this is not the URL of a router", expected="a URL like http://127.0.0.1:9093")
        return value.rstrip("/")


class File(Settings):
    """The whole file."""

    defaults: Defaults = Defaults()
    endpoints: tuple[Endpoint, ...] = ()
    alertmanagers: tuple[AlertmanagerSettings, ...] = ()


def parse_url(text: str) -> httpx.URL | None:
    """Return the parsed URL, or None for text that is none, or whose host or port cannot be."""
    try:
        url = httpx.URL(text)
        host = url.host  # decodes an international name
    except (httpx.InvalidURL, ValueError):
        return None
    # httpx takes any number for a port, and escapes what cannot stand in a name ("http://[" has the host "%5B").
    good_port = url.port is None or 1 <= url.port <= 65535
    return url if good_port and ("%" not in host or ":" in host) else None
