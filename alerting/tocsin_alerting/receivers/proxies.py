"""Which proxy a request goes through, decided as Go's clients decide. Pure.

Source: golang.org/x/net/http/httpproxy, which Alertmanager uses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from tocsin_alerting.receivers.http_config import ProxyOptions

_PORTS = {"http": 80, "https": 443}


def proxy_for(url: str, options: ProxyOptions, environ: Mapping[str, str]) -> str | None:
    """Return the proxy for `url`, or None for the direct way.

    The environment counts only where the configuration says `proxy_from_environment`. A `proxy_url` alone takes
    everything, loopback too; with `no_proxy`, or from the environment, this machine's loopback is called directly.
    """
    if options.proxy_from_environment:
        scheme = urlsplit(url).scheme
        # HTTP_PROXY of a CGI process is a header of whoever calls it.
        cgi = scheme == "http" and "REQUEST_METHOD" in environ
        proxy = "" if cgi else _variable(environ, f"{scheme}_proxy")
        return _with_scheme(proxy) if proxy and wanted(url, _variable(environ, "no_proxy")) else None
    if options.proxy_url is None:
        return None
    proxy = options.proxy_url.get_secret_value()
    return proxy if not options.no_proxy or wanted(url, options.no_proxy) else None


def wanted(url: str, no_proxy: str) -> bool:
    """Return whether a proxy may be used for `url`: it is neither on loopback nor excepted by `no_proxy`."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".").lower()
    port = parts.port or _PORTS.get(parts.scheme, 0)
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return False
    return not any(_excepts(entry.strip().lower(), host, port, address) for entry in no_proxy.split(","))


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _excepts(entry: str, host: str, port: int, address: _Address | None) -> bool:
    if entry in {"", "*"}:
        return entry == "*"
    if "/" in entry:
        return address is not None and _within(address, entry)
    name, named_port = _split_port(entry)
    if named_port is not None and named_port != port:
        return False
    if (literal := _address(name)) is not None:
        return literal == address
    # `.example` and `*.example` stand for what is below it, `example` for itself too.
    below = name.removeprefix("*")
    return host == below or host.endswith(below if below.startswith(".") else f".{below}")


def _within(address: _Address, network: str) -> bool:
    try:
        return address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _split_port(entry: str) -> tuple[str, int | None]:
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, int(rest[1:]) if rest[1:].isdigit() else None
    name, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and ":" not in name:
        return name, int(port)
    return entry, None


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name.upper(), "") or environ.get(name, "")


def _with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"
