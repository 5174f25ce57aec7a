"""Spans as OTLP protobuf, the body of a post to `/v1/traces`. Pure; checked against the classes made from the `.proto`.

What is the same for all requests with one method, route and status is encoded once; so are the texts that come again
and again: hosts, user agents, clients, short paths. A request's span then is a few pieces put side by side.
Source: opentelemetry/proto/trace/v1/trace.proto and collector/trace/v1/trace_service.proto of OTLP 1.x
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from struct import Struct
from typing import TypeVar

from tocsin.redact import DEFAULT, Redactor
from tocsin.request import Facts
from tocsin.tracing import http, protobuf
from tocsin.tracing.protobuf import attributes, delimited, key_value, text, varint
from tocsin.tracing.recording import ERROR, KINDS, OURS, Details, Scope, SpanEvent, SpanLink
from tocsin.tracing.settings import TraceSettings
from tocsin.tracing.spans import Span

Item = Facts | Span

_log = logging.getLogger("tocsin")

_SPANS = b"\x12"
_TRACE_ID = b"\n\x10"
_SPAN_ID = b"\x12\x08"
_STATE = b"\x1a"
_NAME = b"*"
_ATTRIBUTE = b"J"
_EVENT = b"Z"
_LINK = b"j"
_STATUS = b"z"
_HERE = b"\x85\x01\x01\x01\x00\x009"
"""`flags` (sampled, and it is known that the parent is not remote) and the tag of the time that comes after them."""
_REMOTE = b"\x85\x01\x01\x03\x00\x009"
_times = Struct("<7sQcQ").pack
_instant = Struct("<cQ").pack
_link_flags = Struct("<cI").pack
_NOT_REMOTE, _IS_REMOTE = 0x100, 0x300
"""`flags`: it is known whether the span is another process's, and whether it is."""
_hex = bytes.fromhex
_NANO = 1_000_000_000
_CACHED_TEXTS = 1024
_CACHED_SERIES = 4096
_SHORT_TEXT = 256

Key = TypeVar("Key", bound=int | str | bytes | tuple[bytes, str] | None)


class _Cache(dict[Key, bytes]):
    """Encoded pieces by what they are made of; begins anew when full, so that made-up values cost no memory."""

    def __init__(self, encode: Callable[[Key], bytes]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, key: Key) -> bytes:
        made = self._encode(key)
        if len(made) <= _SHORT_TEXT:
            if len(self) >= _CACHED_TEXTS:
                self.clear()
            self[key] = made
        return made


class Encoder:
    """Encodes batches of spans for one resource."""

    def __init__(self, settings: TraceSettings, redact: Redactor = DEFAULT) -> None:
        self._redact = redact
        self._resource = delimited(b"\n", attributes(b"\n", settings.resource))
        self._series: dict[tuple[str, str, int, str, str], bytes] = {}
        self._paths = _Cache[str](lambda path: key_value(_ATTRIBUTE, "url.path", http.path_of(path, redact)))
        self._agents = _Cache[bytes](
            lambda agent: key_value(_ATTRIBUTE, "user_agent.original", http.agent_of(agent, redact)) if agent else b""
        )
        self._clients = _Cache[str | None](
            lambda client: key_value(_ATTRIBUTE, "client.address", client) if client else b""
        )
        self._heads = _Cache[int](lambda size: _SPANS + varint(size))
        self._hosts = _Cache[tuple[bytes, str]](lambda key: attributes(_ATTRIBUTE, http.server_of(*key)))

    def request(self, items: Iterable[Item]) -> tuple[bytes, int, int]:
        """Return the body of a post, how many spans it has, and how many could not be encoded."""
        ours: list[bytes] = []
        by_scope: dict[Scope, list[bytes]] = {OURS: ours}
        failures = 0
        server_span, heads = self.server_span, self._heads
        for item in items:
            try:
                if type(item) is Facts:
                    encoded = server_span(item)
                    ours.append(heads[len(encoded)] + encoded)
                else:
                    encoded = delimited(_SPANS, span(item))  # type: ignore[arg-type]  # no Facts, so a Span
                    by_scope.setdefault(_scope_of(item), []).append(encoded)  # type: ignore[arg-type]
            except Exception as error:  # the application's own values are in there
                failures += 1
                _log.debug("span not encoded: %r", error)
        scopes = b"".join(
            [delimited(b"\x12", _scope(scope) + b"".join(spans)) for scope, spans in by_scope.items() if spans]
        )
        return delimited(b"\n", self._resource + scopes), sum(map(len, by_scope.values())), failures

    def server_span(self, facts: Facts) -> bytes:
        """Return the span of a request; its trace is a span of ours."""
        trace, wire = facts.trace, facts.wire
        if not isinstance(trace, Span):
            raise TypeError(f"a request without a span of ours: {trace!r}")
        end = int(facts.ended * _NANO)
        identity = _identity(trace, end - int(facts.seconds * _NANO), end)
        if trace.details is not None or wire is None:
            return identity + _told_server_span(facts, trace.details, self._redact)
        scheme, query, version, headers = wire
        key = (facts.method, facts.route, facts.status, scheme, version)
        constants = self._series.get(key)
        if constants is None:
            constants = self._constants(key)
        host, agent = http.names_in(headers)
        asked = key_value(_ATTRIBUTE, "url.query", http.query_of(query, self._redact)) if query else b""
        said = (identity, constants, self._paths[facts.path], self._clients[facts.client], self._hosts[host, scheme])
        return b"".join((*said, self._agents[agent], asked))

    def _constants(self, key: tuple[str, str, int, str, str]) -> bytes:
        method, route, status, scheme, version = key
        found = http.series_attributes(method, route, status)
        found["url.scheme"] = scheme
        if version:
            found["network.protocol.version"] = version
        made = b"".join(
            (
                delimited(_NAME, text(http.name_of(method, route))),
                b"0\x02",
                attributes(_ATTRIBUTE, found),
                _status(ERROR, "") if http.failed(status) else b"",
            )
        )
        if len(self._series) >= _CACHED_SERIES:
            self._series.clear()
        self._series[key] = made
        return made


def _scope_of(item: Span) -> Scope:
    return OURS if item.details is None else item.details.scope


def _scope(scope: Scope) -> bytes:
    version = delimited(b"\x12", text(scope.version)) if scope.version else b""
    return delimited(b"\n", delimited(b"\n", text(scope.name)) + version)


def _identity(trace: Span, start: int, end: int) -> bytes:
    """Return ids, flags and times."""
    parent = trace.parent_id
    # One conversion of all the digits is faster than one of each id.
    digits = (
        f"0a10{trace.trace_id}1208{trace.span_id}2208{parent}" if parent else f"0a10{trace.trace_id}1208{trace.span_id}"
    )
    parts = _hex(digits) + _times(_REMOTE if trace.remote else _HERE, start, b"A", end)
    return parts + delimited(_STATE, text(trace.state)) if trace.state else parts


def _told_server_span(facts: Facts, said: Details | None, redact: Redactor) -> bytes:
    """Return a server span about which the application said something: its word goes over ours."""
    details = said or Details("", 2, OURS, 0)
    return b"".join(
        (
            delimited(_NAME, text(details.name or http.name_of(facts.method, facts.route))),
            b"0\x02",
            _details({**http.attributes_of(facts, redact), **details.attributes}, details),
            _status(details.code or (ERROR if http.failed(facts.status) else 0), details.message),
        )
    )


def span(item: Span) -> bytes:
    """Return a span that is over and none of a request.

    Raises:
        ValueError: it was never begun.
    """
    details = item.details
    if details is None or details.kind not in KINDS.values():
        raise ValueError(f"span {item.span_id} was never begun")
    return b"".join(
        (
            _identity(item, details.start, details.end),
            delimited(_NAME, text(details.name)),
            b"0" + varint(details.kind),
            _details(details.attributes, details),
            _status(details.code, details.message),
        )
    )


def _details(shown: dict[str, object], details: Details) -> bytes:
    return b"".join(
        (
            attributes(_ATTRIBUTE, shown),
            b"P" + varint(details.dropped_attributes) if details.dropped_attributes else b"",
            b"".join([delimited(_EVENT, _event(event)) for event in details.events]),
            b"`" + varint(details.dropped_events) if details.dropped_events else b"",
            b"".join([delimited(_LINK, _link(link)) for link in details.links]),
            b"p" + varint(details.dropped_links) if details.dropped_links else b"",
        )
    )


def _event(event: SpanEvent) -> bytes:
    return b"".join(
        (
            _instant(b"\t", event.at),
            delimited(b"\x12", text(event.name)),
            attributes(b"\x1a", event.attributes),
            b"\x20" + varint(event.dropped) if event.dropped else b"",
        )
    )


def _link(link: SpanLink) -> bytes:
    return b"".join(
        (
            _TRACE_ID + _hex(link.trace_id) + _SPAN_ID + _hex(link.span_id),
            delimited(_STATE, text(link.state)) if link.state else b"",
            attributes(b'"', link.attributes),
            b"(" + varint(link.dropped) if link.dropped else b"",
            _link_flags(b"5", link.sampled | (_IS_REMOTE if link.remote else _NOT_REMOTE)),
        )
    )


def _status(code: int, message: str) -> bytes:
    if not code:
        return b""
    said = delimited(b"\x12", text(message)) if message else b""
    return delimited(_STATUS, said + b"\x18" + varint(code))


def rejected(answer: bytes) -> tuple[int, str]:
    """Return how many spans a collector did not take, and what it said, of the body of its answer.

    An answer that is no ExportTraceServiceResponse counts as one that took everything.
    """
    count, message = 0, ""
    try:
        for number, value in protobuf.fields(answer):
            if number == 1 and isinstance(value, bytes):
                for inner, said in protobuf.fields(value):
                    if inner == 1 and isinstance(said, int):
                        count = said
                    elif inner == 2 and isinstance(said, bytes):
                        message = said.decode("utf-8", "replace")
    except ValueError:
        return 0, ""
    return count, message
