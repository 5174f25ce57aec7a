"""The standard library's logging in tocsin's schema."""

from __future__ import annotations

import logging
import sys
from functools import lru_cache

from tocsin import settings
from tocsin.logs.process import current_pipeline
from tocsin.names import Field
from tocsin.redact import text_of

_RECORD_FIELDS = frozenset(
    (*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "color_message"),
)


class StdlibHandler(logging.Handler):
    """Writes records of the standard library's logging in tocsin's schema, `extra` as fields."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit a record that passes the filters; without the lock, for a finalizer that logs must not wait."""
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; never raises."""
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit the text
            message = f"{text_of(record.msg)} {text_of(record.args)}"
        fields = {name: value for name, value in record.__dict__.items() if name not in _RECORD_FIELDS}
        # `stack_info=True`; and what a record from another process has instead of its exception.
        stack = record.stack_info or (None if record.exc_info else record.exc_text)
        if stack:
            fields[Field.ERROR_STACK] = stack
        current_pipeline().event(
            level_name(record.levelno),
            message.rstrip(),
            fields,
            logger=record.name,
            error=error_of(record.exc_info),
        )


@lru_cache(maxsize=128)
def level_name(number: int | None) -> str:
    """Return the name of the highest level that is not above this number; debug below all, and where there is none."""
    if number is None:  # a record that was made by hand
        return "debug"
    return next((name for name, at in reversed(settings.LEVELS.items()) if number >= at), "debug")


def error_of(info: object) -> BaseException | None:
    """Return the exception that an `exc_info` argument means: one, a triple, or True for the one being handled."""
    if isinstance(info, BaseException):
        return info
    if isinstance(info, tuple):
        return info[1] if len(info) == 3 and isinstance(info[1], BaseException) else None
    return sys.exc_info()[1] if info else None


def stdlib_handler() -> logging.Handler:
    """Return a handler that writes the standard library's records in tocsin's schema, to where logs go by then."""
    return StdlibHandler()


def install_on_root(level: int) -> None:
    """Give the root logger a handler, unless it has one that is not ours, and this level."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(StdlibHandler())
    if all(isinstance(handler, StdlibHandler) for handler in root.handlers):
        root.setLevel(level)


def remove_from_root() -> None:
    """Undo `install_on_root`."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, StdlibHandler)]:
        root.removeHandler(handler)
        root.setLevel(logging.WARNING)
