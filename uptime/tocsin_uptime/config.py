"""The prober's configuration file: `endpoints`, their `defaults`, and the `alertmanagers` that are told.

`load` turns the file's keys (see `schema`) into `Check`s with everything decided, so that nothing is looked up or
parsed while probing.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import httpx

from tocsin_service import durations
from tocsin_service.settings import Document, Loc, Problem, SettingsError
from tocsin_uptime import conditions
from tocsin_uptime.check import Check, Kind, Target
from tocsin_uptime.conditions import Condition, ConditionError, Place
from tocsin_uptime.probes import http
from tocsin_uptime.schema import PORTS, Endpoint, File, parse_url
from tocsin_uptime.state import Confirm

DEFAULT_HTTP = (conditions.parse("[STATUS] >= 200"), conditions.parse("[STATUS] < 300"))
"""What an HTTP check expects when none of its conditions looks at [STATUS]."""

_SECRET_LENGTH = 8
"""Shorter words of headers are no secrets worth masking, and masking them would make excerpts unreadable."""


@dataclass(frozen=True, slots=True)
class Alertmanager:
    """A router that is told of outages: its base URL without a slash at the end, and seconds between repetitions."""

    url: str
    resend: float = 60.0


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the prober runs from."""

    checks: tuple[Check, ...] = ()
    alertmanagers: tuple[Alertmanager, ...] = ()


def load(document: Document, *at: str | int, without: frozenset[str] = frozenset()) -> Config:
    """Read the prober's part of `document`.

    Args:
        at: where it stands; nothing means that the whole document is the prober's.
        without: keys there that belong to somebody else.

    Raises:
        SettingsError: all that is wrong, each with its place.
    """
    file = document.read(File, *at, without=without)
    reader = _Reader(document, at, file)
    checks = tuple(reader.check(index, endpoint) for index, endpoint in enumerate(file.endpoints))
    if reader.problems:
        raise SettingsError(reader.problems)
    routers = tuple(Alertmanager(item.url, item.resend) for item in file.alertmanagers)
    return Config(tuple(check for check in checks if check is not None), routers)


class _Reader:
    """Turns endpoints into checks, keeping problems so that all are reported at once."""

    def __init__(self, document: Document, at: Loc, file: File) -> None:
        self.problems: list[Problem] = []
        self._document = document
        self._at = at
        self._defaults = file.defaults
        self._confirm = file.defaults.confirm.over(Confirm())
        self._names: set[str] = set()
        self._contexts: dict[Path | None, ssl.SSLContext | None] = {}

    def check(self, index: int, endpoint: Endpoint) -> Check | None:
        """Return the check an endpoint describes, or None with `problems`."""
        at = (*self._at, "endpoints", index)
        if endpoint.name in self._names:
            self._problem(
                (*at, "name"), f'there are two endpoints named "{endpoint.name}"', fix="give one another name"
            )
        self._names.add(endpoint.name)
        interval = self._defaults.interval if endpoint.interval is None else endpoint.interval
        timeout = self._timeout(at, endpoint, interval)
        found = self._target((*at, "url"), endpoint)
        expected = self._conditions((*at, "conditions"), endpoint.conditions, endpoint)
        degraded = self._conditions((*at, "degraded"), endpoint.degraded, endpoint)
        if found is None:
            return None
        kind, target = found
        if kind == "http" and not any(one.place is Place.STATUS for one in expected):
            expected = DEFAULT_HTTP + expected
        return Check(
            name=endpoint.name,
            service=endpoint.service or endpoint.name,
            kind=kind,
            target=target,
            group=endpoint.group,
            interval=interval,
            timeout=timeout,
            confirm=endpoint.confirm.over(self._confirm),
            conditions=expected,
            degraded=degraded,
            labels=endpoint.labels,
            severity=endpoint.severity,
            runbook=endpoint.runbook,
        )

    def _timeout(self, at: Loc, endpoint: Endpoint, interval: float) -> float:
        timeout = self._defaults.timeout if endpoint.timeout is None else endpoint.timeout
        if timeout <= interval:
            return timeout
        if endpoint.timeout is None and "timeout" not in self._defaults.model_fields_set:
            return interval  # a timeout that nobody chose gives way
        key = "interval" if endpoint.timeout is None and endpoint.interval is not None else "timeout"
        found = (
            f"the timeout of {durations.render(timeout)} is longer than the interval of {durations.render(interval)}"
        )
        self._problem((*at, key), found, expected="timeout <= interval", fix="probe less often or wait less long")
        return timeout

    def _target(self, at: Loc, endpoint: Endpoint) -> tuple[Kind, Target] | None:
        url = parse_url(endpoint.url)
        if url is None or url.scheme not in {"http", "https", "tcp"} or not url.host:
            expected = "http://host/path, https://host/path or tcp://host:port"
            self._problem(at, "this is not a URL that can be probed", expected=expected)
            return None
        if url.userinfo:
            self._problem(at, "the URL holds a user and password", fix="put them into a header Authorization")
        if url.scheme == "tcp":
            return self._tcp(at, url, endpoint)
        context = self._context((*at[:-1], "tls_config", "ca_file"), endpoint) if url.scheme == "https" else None
        return "http", _http_target(url, endpoint, context)

    def _tcp(self, at: Loc, url: httpx.URL, endpoint: Endpoint) -> tuple[Kind, Target] | None:
        if url.port is None or url.raw_path not in {b"", b"/"}:
            self._problem(at, "a TCP check needs a host and a port, and nothing else", expected="tcp://host:port")
            return None
        for key in ("method", "headers", "body", "tls_config"):
            if key in endpoint.model_fields_set:
                self._problem((*at[:-1], key), f'"{key}" belongs to HTTP checks', fix="remove it")
        host = url.raw_host.decode("ascii")
        return "tcp", Target(shown=f"tcp://{_authority(host, url.port)}", host=host, port=url.port)

    def _context(self, at: Loc, endpoint: Endpoint) -> ssl.SSLContext | None:
        file = endpoint.tls_config.ca_file
        if file not in self._contexts:
            self._contexts[file] = self._new_context(at, file)
        return self._contexts[file]

    def _new_context(self, at: Loc, file: Path | None) -> ssl.SSLContext | None:
        try:
            context = ssl.create_default_context(cafile=file)
        except (ssl.SSLError, OSError) as error:
            # ssl.SSLError is an OSError whose strerror is OpenSSL's.
            reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            self._problem(at, f"cannot use {file}: {reason}", expected="a file of certificates in PEM form")
            return None
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _conditions(self, at: Loc, texts: Sequence[str], endpoint: Endpoint) -> tuple[Condition, ...]:
        found = []
        for index, text in enumerate(texts):
            try:
                condition = conditions.parse(text)
            except ConditionError as error:
                self._problem((*at, index), error.what, expected=error.expected, fix=error.fix)
                continue
            if condition.place in {Place.STATUS, Place.BODY} and endpoint.url.lower().startswith("tcp:"):
                expected = f"{Place.CONNECTED} or {Place.RESPONSE_TIME}"
                self._problem((*at, index), f"a TCP check has no {condition.place}", expected=expected)
            found.append(condition)
        return tuple(found)

    def _problem(self, loc: Loc, what: str, *, expected: str = "", fix: str = "") -> None:
        self.problems.append(self._document.problem(loc, what, expected=expected, fix=fix))


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _http_target(url: httpx.URL, endpoint: Endpoint, context: ssl.SSLContext | None) -> Target:
    host = url.raw_host.decode("ascii")
    port = url.port or PORTS[url.scheme]
    request = http.encode(
        method=endpoint.method,
        path=url.raw_path,
        authority=url.netloc,
        headers=endpoint.headers,
        body=None if endpoint.body is None else endpoint.body.encode(),
    )
    return Target(
        shown=str(url.copy_with(query=None, fragment=None, userinfo=b"")),
        host=host,
        port=port,
        method=endpoint.method,
        request=request,
        tls=context,
        server_name=endpoint.tls_config.server_name or host,
        secrets=_secrets(url, endpoint),
    )


def _secrets(url: httpx.URL, endpoint: Endpoint) -> tuple[str, ...]:
    """Return the words that a server might send back and that nobody should read in an alert."""
    query = url.query.decode()
    # A server that shows the address it was asked for shows the values still escaped.
    escaped = [item.partition("=")[2] for item in query.split("&")]
    values = [*endpoint.headers.values(), *(value for _, value in parse_qsl(query)), *escaped, endpoint.body or ""]
    words = {word for value in values for word in [value, *value.split()] if len(word) >= _SECRET_LENGTH}
    return tuple(sorted(words))
