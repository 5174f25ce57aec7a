"""From an event or a finished request to a line: names, ids, redaction, encoding. Never raises, and never waits."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tocsin import settings
from tocsin.bound import bound
from tocsin.logs.access import AccessLines, Record, access_event, level_of
from tocsin.logs.lines import Encoder, Event, json_line, timestamp
from tocsin.logs.parcel import Item
from tocsin.logs.writer import Writer
from tocsin.metrics.families import Families
from tocsin.names import TOCSIN_DROPPED, Field
from tocsin.redact import DEFAULT, Redactor
from tocsin.request import Facts, current_trace, error_name

ECS_VERSION = "8.11.0"
_STACK_LIMIT = 32_768

_URGENT = frozenset(("error", "critical"))

# Names of fields as globals: looked up for every line, where an attribute costs twice as much.
_TIMESTAMP, _LEVEL, _MESSAGE, _LOGGER = Field.TIMESTAMP, Field.LEVEL, Field.MESSAGE, Field.LOGGER
_TRACE_ID, _TRACE_ID_FLAT, _SPAN_ID = Field.TRACE_ID, Field.TRACE_ID_FLAT, Field.SPAN_ID

# Elasticsearch maps these as objects, because fields of ours lie under them: a plain value of the same name
# (`error="timeout"`) would get the whole line refused.
_OBJECT_NAMES = frozenset(
    value.partition(".")[0] for name, value in vars(Field).items() if name.isupper() and "." in value
)
_OURS = frozenset(value for name, value in vars(Field).items() if name.isupper()) | _OBJECT_NAMES
"""Names that a field of the application may have to make room for."""


class Pipeline:
    """Where the lines of one service go and how they look. Emitting never raises, and never waits for a reader."""

    __slots__ = (
        "_access",
        "_constants",
        "_encode",
        "_lines",
        "_on_close",
        "_put",
        "before_event",
        "families",
        "level",
        "redactor",
        "refused",
        "service_name",
        "service_version",
        "writer",
    )

    def __init__(
        self,
        *,
        service_name: str,
        service_version: str | None,
        level: int,
        encode: Encoder,
        writer: Writer,
        families: Families,
        redactor: Redactor = DEFAULT,
    ) -> None:
        """Use the writer, until `close`."""
        self.service_name = service_name
        self.service_version = service_version
        self.level = level
        self.writer = writer
        self.families = families
        self.redactor = redactor
        self.refused = 0
        """Lines that found the queue full and were not counted yet."""
        self._encode = encode
        self._constants: Event = {Field.ECS_VERSION: ECS_VERSION, Field.SERVICE_NAME: service_name}
        if service_version:
            self._constants[Field.SERVICE_VERSION] = service_version
        self._access: Event = {**self._constants, Field.DATASET: f"{service_name}.access"}
        self._lines: Callable[[Sequence[Facts]], bytes] = (
            AccessLines(self._access, redactor, self._told).lines if encode is json_line else self._encoded
        )
        self.before_event: Callable[[], object] = _nothing
        """Called before each line of the application: lines of requests that are over come first."""
        self._on_close: list[Callable[[Pipeline], None]] = []
        self._put = writer.put
        writer.attach(self)

    def for_service(
        self, service_name: str, service_version: str | None, families: Families, redactor: Redactor | None = None
    ) -> Pipeline:
        """Return a pipeline with the same destination, level and format for another service."""
        return Pipeline(
            service_name=service_name,
            service_version=service_version,
            level=self.level,
            encode=self._encode,
            writer=self.writer,
            families=families,
            redactor=self.redactor if redactor is None else redactor,
        )

    @property
    def synchronous(self) -> bool:
        """Whether a line is written by the time it was emitted: to a stream in memory, or a terminal."""
        return self.writer.synchronous

    def close(self) -> None:
        """Let go of the writer: it writes what is queued, and closes the file it opened if this was its last user.

        Lines that come later are counted as dropped. A second call does nothing.
        """
        if self._put == self._refuse:
            return
        self._put = self._refuse
        self.writer.detach(self)
        for callback in self._on_close:
            callback(self)

    def on_close(self, callback: Callable[[Pipeline], None]) -> None:
        """Have this called after `close`."""
        self._on_close.append(callback)

    def _refuse(self, item: Item, urgent: bool = False) -> bool:
        self.lost("closed", item[2])
        return False

    # --- emitting -------------------------------------------------------------------------------------------------

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
            self.before_event()
            redactor = self.redactor
            event: Event = {
                _TIMESTAMP: timestamp(time.time()),
                _LEVEL: level,
                _MESSAGE: redactor.text(message),
                **self._constants,
            }
            trace = current_trace()
            if trace is not None:
                event[_TRACE_ID] = event[_TRACE_ID_FLAT] = trace.trace_id
                event[_SPAN_ID] = trace.span_id
            if logger is not None:
                event[_LOGGER] = logger
            if error is not None:
                _add_error(event, error, redactor)
            variables = bound()
            if variables:
                fields = {**variables, **fields}
            if fields:
                _add_fields(event, redactor.fields(fields))
            line = self._encode(event)
        except Exception:  # a guard: whatever the values do, the application goes on
            self.lost("encode", 1)
            return
        self._put((self, line, 1), level in _URGENT)

    def access(self, facts: Facts, error: BaseException | None) -> None:
        """Write the one line of a request that is over; from any context, for what was bound is in the facts."""
        level = level_of(facts.status)
        if settings.LEVELS[level] < self.level:
            return
        try:
            line = self._lines((facts,)) if error is None else self._told(facts, error)
        except Exception:  # a guard, as above; numbers that are none
            self.lost("encode", 1)
            return
        if self._put((self, line, 1), level in _URGENT) and error is not None:
            mark_told(error)

    def access_all(self, ended: Sequence[Facts]) -> None:
        """Write the lines of requests that are over and raised nothing, in their order, without waiting for more."""
        if self.level <= settings.LEVELS["info"]:
            with contextlib.suppress(Exception):  # one of them makes no line
                self._put((self, self._lines(ended), len(ended)), True)
                return
        for facts in ended:
            self.access(facts, None)

    def _told(self, facts: Facts, error: BaseException | None = None) -> bytes:
        """Return the line of a request with its exception, and with what the application had bound."""
        event = access_event(Record(*facts[:8]), self._access, self.redactor)
        if error is not None:
            _add_error(event, error, self.redactor)
        if facts.bound:
            _add_fields(event, self.redactor.fields(facts.bound))
        return self._encode(event)

    def _encoded(self, ended: Sequence[Facts]) -> bytes:
        return b"".join([self._told(facts) for facts in ended])

    # --- for the writer -------------------------------------------------------------------------------------------

    def lost(self, reason: str, lines: int) -> None:
        """Count lines that will not be written."""
        self.families.add(TOCSIN_DROPPED, "logs", reason, amount=lines)


def _nothing() -> None:
    """Do it."""


def mark_told(error: BaseException) -> None:
    """Note that an access line has told this exception, or what it meant: the server need not."""
    with contextlib.suppress(Exception):  # one with slots cannot be marked; it is then told twice
        error.__tocsin_told__ = True  # type: ignore[attr-defined]  # our mark on a foreign object


def told(error: BaseException) -> bool:
    """Return whether an access line has told this exception."""
    return getattr(error, "__tocsin_told__", False)


def _add_fields(event: Event, fields: Mapping[str, object]) -> None:
    for name, value in fields.items():
        if name in _OURS and (name in event or (name in _OBJECT_NAMES and not isinstance(value, dict))):
            event[f"labels.{name}"] = value
        else:
            event[name] = value


def _add_error(event: Event, error: BaseException, redactor: Redactor) -> None:
    event[Field.ERROR_TYPE] = error_name(error)
    event[Field.ERROR_MESSAGE] = redactor.text_of(error)
    # The end of a trace names the place; the beginning of a long one is the framework. Cut after redaction: a cut
    # through `password=...` would hide that it is one.
    event[Field.ERROR_STACK] = redactor.text("".join(traceback.format_exception(error)))[-_STACK_LIMIT:]
