"""Which proxy stands between this process and a collector: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy to post through."""

    host: str
    port: int
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """What lets us through. Credentials: never shown."""


def proxy_for(scheme: str, host: str, port: int, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy that the environment names for an address; None: there is none, or none is to be used.

    No proxy is used for this machine itself: another one could not reach it under that name.

    Raises:
        ValueError: what is named is no `http://host:port`; the message does not show it, for it may have a password.
    """
    names = [f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"]
    if "REQUEST_METHOD" in environ:  # a CGI process: there a client's `Proxy` header is HTTP_PROXY
        names = [name for name in names if name != "HTTP_PROXY"]
    name = next((name for name in names if environ.get(name, "").strip()), "")
    if not name or _is_here(host):
        return None
    # Slow to import, and few have a proxy. Documented nowhere, but what all of Python's clients go by.
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # noqa: PLC0415

    unproxied = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if proxy_bypass_environment(f"{host}:{port}", {"no": unproxied}):
        return None
    value = environ[name].strip()
    url = urlsplit(value if "://" in value else f"http://{value}")
    try:
        found = url.hostname, url.port or 80
    except ValueError:
        found = None, 0
    if url.scheme != "http" or not found[0]:
        raise ValueError(f"{name} has a value, expected a proxy such as http://proxy.internal:3128; it is not used")
    return Proxy(found[0], found[1], _headers(url.username, url.password))


def _headers(user: str | None, password: str | None) -> tuple[tuple[str, str], ...]:
    if user is None:
        return ()
    credentials = f"{unquote(user)}:{unquote(password or '')}".encode()
    return (("Proxy-Authorization", f"Basic {base64.b64encode(credentials).decode()}"),)


def _is_here(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
