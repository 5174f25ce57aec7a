"""What the server span of a request says: the OpenTelemetry stable HTTP conventions. Pure.

Source: https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server-span
"""

from __future__ import annotations

from collections.abc import Iterable

from tocsin.redact import Redactor
from tocsin.request import OTHER, SERVER_ERROR, Facts, Wire

_TEXT_LIMIT = 2048
_HOST_LIMIT = 255
_PORTS = {"http": 80, "https": 443}


def name_of(method: str, route: str) -> str:
    """Return a span name of low cardinality: `GET /items/{item}`, without a route `GET`."""
    method = "HTTP" if method == OTHER else method
    return f"{method} {route}" if route else method


def failed(status: int) -> bool:
    """Whether this status is the server's fault."""
    return status >= SERVER_ERROR


def attributes_of(facts: Facts, redact: Redactor) -> dict[str, object]:
    """Return all attributes of a request's server span; secrets in path and query are redacted."""
    found = series_attributes(facts.method, facts.route, facts.status)
    found["url.path"] = path_of(facts.path, redact)
    if facts.client:
        found["client.address"] = facts.client
    if facts.wire is not None:
        found.update(wire_attributes(facts.wire, redact))
    return found


def series_attributes(method: str, route: str, status: int) -> dict[str, object]:
    """Return what is the same for all requests that are counted together."""
    found: dict[str, object] = {"http.request.method": method, "http.response.status_code": status}
    if route:
        found["http.route"] = route
    if failed(status):
        found["error.type"] = str(status)
    return found


def wire_attributes(wire: Wire, redact: Redactor) -> dict[str, object]:
    """Return what a request's headers and connection say."""
    found: dict[str, object] = {"url.scheme": wire.scheme}
    if wire.version:
        found["network.protocol.version"] = wire.version
    if wire.query:
        found["url.query"] = query_of(wire.query, redact)
    host, agent = names_in(wire.headers)
    found.update(server_of(host, wire.scheme))
    if agent:
        found["user_agent.original"] = agent_of(agent, redact)
    return found


def names_in(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """Return the `Host` and the `User-Agent` header as sent, empty where there is none."""
    host = agent = b""
    for name, value in headers:
        if name == b"host":
            host = value
            if agent:
                break
        elif name == b"user-agent":
            agent = value
            if host:
                break
    return host, agent


def path_of(path: str, redact: Redactor) -> str:
    """Return a path to be shown."""
    return redact.text(path[:_TEXT_LIMIT])


def query_of(query: bytes, redact: Redactor) -> str:
    """Return a query to be shown."""
    # The question mark says that this is a query: there even `code=` is a secret.
    return redact.text("?" + query[:_TEXT_LIMIT].decode("latin-1"))[1:]


def agent_of(agent: bytes, redact: Redactor) -> str:
    """Return a user agent to be shown."""
    return redact.text(agent[:_TEXT_LIMIT].decode("latin-1"))


def server_of(host: bytes, scheme: str) -> dict[str, object]:
    """Return `server.address` and `server.port` of a `Host` header; empty if it is none."""
    text = host[: _HOST_LIMIT + 1].decode("latin-1")
    if len(text) > _HOST_LIMIT:
        return {}
    if text.startswith("["):
        address, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            return {}
        port = rest[1:]
    else:
        address, _, port = text.partition(":")
    if not address or not address.isprintable() or any(char in address for char in "/@?# "):
        return {}
    if port:
        if not (port.isascii() and port.isdigit() and int(port) < 65_536):
            return {}
        return {"server.address": address, "server.port": int(port)}
    default = _PORTS.get(scheme)
    return {"server.address": address} if default is None else {"server.address": address, "server.port": default}
