"""The access line from the facts of a request: filled into a template that was escaped once. Pure.

What it gives is byte for byte what encoding the event of `access_event` gives, in a tenth of the time.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from tocsin.logs.lines import Event, json_line, timestamp
from tocsin.names import Field
from tocsin.redact import Redactor
from tocsin.request import Facts
from tocsin.tracing.context import Trace

_TEMPLATES_LIMIT = 4096
_CLIENTS_LIMIT = 4096
_MARK, _ESCAPED = "\x00\x00", "\\u0000\\u0000"
_BOUND = Facts._fields.index("bound")
_THOUSAND = [f"{number:03d}Z" for number in range(1000)]
_NEEDS_CARE = re.compile(r"[^\w/.,~!$&*+;-]", re.ASCII)
"""What a path may hold that has to be escaped, or may be part of a secret."""


class Record(NamedTuple):
    """The first eight facts of a request: what a line shows."""

    method: str
    route: str
    path: str
    status: int
    seconds: float
    ended: float
    client: str | None
    trace: Trace | None


def access_event(facts: Record, constants: Event, redactor: Redactor) -> Event:
    """Return the event of a request that is over.

    Args:
        facts: the request.
        constants: the fields that all access lines of the service have.
        redactor: what takes secrets out of the path: `%3Ftoken=` is part of it.
    """
    method, route, path, status, seconds, ended, client, trace = facts
    path = redactor.text(path)
    event: Event = {
        Field.TIMESTAMP: timestamp(ended),
        Field.LEVEL: level_of(status),
        Field.MESSAGE: f"{method} {path} {status}",
        **constants,
        Field.METHOD: method,
        Field.ROUTE: route,
        Field.PATH: path,
        Field.STATUS: status,
        Field.DURATION_NS: int(seconds * 1e9),
    }
    if trace is not None:
        event[Field.TRACE_ID] = event[Field.TRACE_ID_FLAT] = trace.trace_id
        event[Field.SPAN_ID] = trace.span_id
    address = address_of(client) if client else None
    if address is not None:
        event[Field.CLIENT_IP] = address
    return event


def level_of(status: int) -> str:
    """Return the level of a request's line: an answer of 500 and above is an error of the service."""
    return "error" if status >= 500 else "info"


@lru_cache(maxsize=_CLIENTS_LIMIT)
def address_of(client: str) -> str | None:
    """Return the client as Elasticsearch takes it for an `ip`, or None: another text would get the line refused.

    Unix sockets and test clients have names; link-local addresses have a zone, which is left out.
    """
    address = client.partition("%")[0]
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address)
        except (OSError, ValueError, UnicodeError):
            continue
        return address
    return None


class AccessLines:
    """Makes JSON access lines of one service."""

    __slots__ = ("_clients", "_constants", "_encode", "_redactor", "_second", "_templates")

    def __init__(self, constants: Event, redactor: Redactor, encode: Callable[[Facts], bytes]) -> None:
        """Make lines of this service.

        Args:
            constants: the fields that all access lines of the service have.
            redactor: what takes secrets out of paths.
            encode: makes the line of a request that has more to it: what the application had bound.
        """
        self._encode = encode
        self._constants = constants
        self._redactor = redactor
        self._templates: dict[tuple[str, str, int, bool], tuple[str, ...]] = {}
        """What stands between the values of a line, in order."""
        self._clients: dict[str | None, str] = {None: "}\n"}
        self._second = (0, _head(0))

    def lines(self, ended: Sequence[Facts]) -> bytes:
        """Return the lines of requests, in their order.

        Raises:
            ValueError, TypeError, OverflowError: numbers that are none.
        """
        found: list[str] = []
        known, ends, needs_care = self._templates.get, self._clients.get, _NEEDS_CARE.search
        second, head = self._second
        careful = needs_care("".join([facts[2] for facts in ended])) is not None
        for facts in ended:
            if facts[_BOUND]:
                found.append(self._encode(facts).decode())
                continue
            method, route, path, status, seconds, at, client, trace = facts[:8]
            milliseconds = int(at * 1000)
            if milliseconds // 1000 != second:
                second = milliseconds // 1000
                head = _head(second)
                self._second = (second, head)
            template = known((method, route, status, trace is None))
            if template is None:
                template = self._template(method, route, status, traced=trace is not None)
            if careful and needs_care(path):
                path = json_text(self._redactor.text(path))
            end = ends(client)
            if end is None:
                end = self._end(client)
            fraction = _THOUSAND[milliseconds - second * 1000]
            # Formatted by hand: `%` and `str.join` with all the values take twice and thrice as long.
            if trace is None:
                a, b, c, d = template
                found.append(f"{head}{fraction}{a}{path}{b}{path}{c}{int(seconds * 1e9)}{d}{end}")
            else:
                a, b, c, d, e, f = template
                trace_id = trace.trace_id
                found.append(
                    f"{head}{fraction}{a}{path}{b}{path}{c}{int(seconds * 1e9)}"
                    f'{d}{trace_id}{e}{trace_id}{f}{trace.span_id}"{end}'
                )
        return "".join(found).encode()

    def _template(self, method: str, route: str, status: int, *, traced: bool) -> tuple[str, ...]:
        """Encode a line with marks for what changes, and cut it at the marks."""
        trace = Trace(_MARK, _MARK, True) if traced else None
        event = access_event(
            Record(method, route, _MARK, status, 0.0, 0.0, None, trace), self._constants, self._redactor
        )
        event[Field.TIMESTAMP], event[Field.DURATION_NS] = _MARK, _MARK
        line = (
            json_line(event)
            .decode()
            .replace(f'"{Field.DURATION_NS}":"{_ESCAPED}"', f'"{Field.DURATION_NS}":{_ESCAPED}')
        )
        _, *between = line.removesuffix("}\n").split(_ESCAPED)
        if traced:
            between.pop()  # the quote after the last id
        if len(self._templates) >= _TEMPLATES_LIMIT:
            self._templates.clear()
        template = self._templates[method, route, status, not traced] = tuple(between)
        return template

    def _end(self, client: str | None) -> str:
        address = address_of(client) if client else None
        end = "}\n" if address is None else f',"{Field.CLIENT_IP}":"{address}"}}\n'
        if len(self._clients) >= _CLIENTS_LIMIT:
            self._clients.clear()
        self._clients[client] = end
        return end


def json_text(text: str) -> str:
    """Return the text as it stands between the quotes of a JSON string."""
    return json_line({"": text}).decode()[5:-3]


def _head(second: int) -> str:
    return f'{{"{Field.TIMESTAMP}":"{timestamp(second)[:-4]}'
