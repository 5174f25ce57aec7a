"""From an event or a finished request to a written line: names, ids, redaction, encoding. Emitting never raises."""

from __future__ import annotations

import contextlib
import ipaddress
import time
import traceback
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from structlog.contextvars import get_contextvars

from tocsin import settings
from tocsin.logs.lines import Encoder, Event, timestamp
from tocsin.logs.writer import Writer
from tocsin.metrics.families import Families
from tocsin.names import Field
from tocsin.redact import clean_fields, redact_text, text_of
from tocsin.request import Facts, current_trace

ECS_VERSION = "8.11.0"
_STACK_LIMIT = 32_768

# The names of the access line as globals: looked up on every request, where an attribute costs twice as much.
_TIMESTAMP, _LEVEL, _MESSAGE = Field.TIMESTAMP, Field.LEVEL, Field.MESSAGE
_TRACE_ID, _TRACE_ID_FLAT, _SPAN_ID = Field.TRACE_ID, Field.TRACE_ID_FLAT, Field.SPAN_ID
_METHOD, _ROUTE, _PATH, _STATUS = Field.METHOD, Field.ROUTE, Field.PATH, Field.STATUS
_DURATION, _CLIENT_IP = Field.DURATION_NS, Field.CLIENT_IP

# Elasticsearch maps these as objects, because fields of ours lie under them: a plain value of the same name
# (`error="timeout"`) would get the whole line refused.
_OBJECT_NAMES = frozenset(
    value.partition(".")[0] for name, value in vars(Field).items() if name.isupper() and "." in value
)


class Pipeline:
    """Where the lines of one service go and how they look. Emitting never raises."""

    __slots__ = ("_access", "_constants", "_encode", "families", "level", "service_name", "service_version", "writer")

    def __init__(
        self,
        *,
        service_name: str,
        service_version: str | None,
        level: int,
        encode: Encoder,
        writer: Writer,
        families: Families,
    ) -> None:
        self.service_name = service_name
        self.service_version = service_version
        self.level = level
        self.writer = writer
        self.families = families
        self._encode = encode
        self._constants: Event = {Field.ECS_VERSION: ECS_VERSION, Field.SERVICE_NAME: service_name}
        if service_version:
            self._constants[Field.SERVICE_VERSION] = service_version
        self._access: Event = {**self._constants, Field.DATASET: f"{service_name}.access"}

    def for_service(self, service_name: str, service_version: str | None, families: Families) -> Pipeline:
        """Return a pipeline with the same destination, level and format for another service."""
        return Pipeline(
            service_name=service_name,
            service_version=service_version,
            level=self.level,
            encode=self._encode,
            writer=self.writer,
            families=families,
        )

    def event(
        self,
        level: str,
        message: str,
        fields: Mapping[Any, object],
        *,
        logger: str | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Write one event of the application: its context variables, its fields, its exception."""
        if settings.LEVELS.get(level, self.level) < self.level:
            return
        try:
            event: Event = {
                _TIMESTAMP: timestamp(time.time()),
                _LEVEL: level,
                _MESSAGE: redact_text(message),
                **self._constants,
            }
            trace = current_trace()
            if trace is not None:
                event[_TRACE_ID] = event[_TRACE_ID_FLAT] = trace.trace_id
                event[_SPAN_ID] = trace.span_id
            if logger is not None:
                event[Field.LOGGER] = logger
            if error is not None:
                _add_error(event, error)
            _add_fields(event, clean_fields({**_bound(), **fields}))
            line = self._encode(event)
        except Exception:  # a guard: whatever the values do, the application goes on
            self.families.dropped("logs", "encode")
            return
        self._write(line)

    def access(self, facts: Facts, error: BaseException | None) -> None:
        """Write the one line of a request that is over."""
        level = "error" if facts.status >= 500 else "info"
        if settings.LEVELS[level] < self.level:
            return
        method, route, path, status, seconds, client, trace = facts
        path = redact_text(path)  # `%3Ftoken=` is part of the path
        event: Event = {
            _TIMESTAMP: timestamp(time.time()),
            _LEVEL: level,
            _MESSAGE: f"{method} {path} {status}",
            **self._access,
            _METHOD: method,
            _ROUTE: route,
            _PATH: path,
            _STATUS: status,
            _DURATION: int(seconds * 1e9),
        }
        if trace is not None:
            event[_TRACE_ID] = event[_TRACE_ID_FLAT] = trace.trace_id
            event[_SPAN_ID] = trace.span_id
        if client and _is_address(client):
            event[_CLIENT_IP] = client
        if error is not None:
            _add_error(event, error)
        bound = _bound()
        if bound:
            _add_fields(event, clean_fields(bound))
        if self._write(self._encode(event)) and error is not None:
            with contextlib.suppress(Exception):  # an exception with slots cannot be marked; it is then told twice
                error.__tocsin_told__ = True  # type: ignore[attr-defined]  # our mark on a foreign object

    def _write(self, line: bytes) -> bool:
        """Return whether the line was written; count it if not."""
        try:
            self.writer.write(line)
        except ValueError:
            self.families.dropped("logs", "closed")
        except OSError:
            self.families.dropped("logs", "write")
        except Exception:  # a stream of the application's own making
            self.families.dropped("logs", "write")
        else:
            return True
        return False


def told(error: BaseException) -> bool:
    """Return whether an access line has told this exception."""
    return getattr(error, "__tocsin_told__", False)


@lru_cache(maxsize=4096)
def _is_address(client: str) -> bool:
    """Whether Elasticsearch takes this as an `ip` (a Unix socket's or test client's name would refuse the line)."""
    try:
        ipaddress.ip_address(client)
    except ValueError:
        return False
    return True


def _bound() -> dict[str, Any]:
    """Return what the application bound with structlog's context variables."""
    return get_contextvars()


def _add_fields(event: Event, fields: Mapping[str, object]) -> None:
    for name, value in fields.items():
        taken = name in event or (name in _OBJECT_NAMES and not isinstance(value, dict))
        event[f"labels.{name}" if taken else name] = value


def _add_error(event: Event, error: BaseException) -> None:
    kind = type(error)
    event[Field.ERROR_TYPE] = (
        kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    )
    event[Field.ERROR_MESSAGE] = text_of(error)
    # The end of a trace names the place; the beginning of a long one is the framework. Cut after redaction: a cut
    # through `password=...` would hide that it is one.
    event[Field.ERROR_STACK] = redact_text("".join(traceback.format_exception(error)))[-_STACK_LIMIT:]
