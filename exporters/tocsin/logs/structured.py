"""structlog's bound logger, writing tocsin's schema. The one module that imports structlog: loaded when first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from tocsin import settings
from tocsin.logs.process import current_pipeline
from tocsin.logs.stdlib import error_of
from tocsin.names import Field
from tocsin.redact import text_of

_METHOD_LEVELS = {
    **{level: level for level in settings.LEVELS},
    "warn": "warning",
    "exception": "error",
    "fatal": "critical",
    "msg": "info",
    "notset": "debug",
}


_stack = structlog.processors.StackInfoRenderer(additional_ignores=["tocsin."])


def _add_stack(fields: dict[str, Any]) -> None:
    """Have `stack_info=True` mean what it does with structlog and the standard library: where this was called."""
    if fields.pop("stack_info"):
        fields[Field.ERROR_STACK] = _stack(None, "", {"stack_info": True})["stack"]


class Output:
    """What structlog calls with a finished event: writes it to the pipeline of the moment."""

    __slots__ = ("name",)

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def write(self, level: str, event: Mapping[str, object]) -> None:
        """Write an event: its `event` is the message, its `exc_info` the error, the rest are fields."""
        fields = dict(event)
        message = fields.pop("event", "")
        error = error_of(fields.pop("exc_info", None))
        if "stack_info" in fields:
            _add_stack(fields)
        text = message if type(message) is str else text_of(message)
        current_pipeline().event(level, text, fields, logger=self.name, error=error)

    def __getattr__(self, method: str) -> Callable[..., None]:
        if method.startswith("_"):
            raise AttributeError(method)
        return self.write


def hand_over(
    _logger: object, method: str, event: Mapping[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Be the last structlog processor: pass level and event to `Output.write`."""
    return (_METHOD_LEVELS.get(method, method), event), {}


# The level is the pipeline's, at the moment of each event: loggers are made before anything is configured.
_EveryLevel: Any = structlog.make_filtering_bound_logger(0)


class Logger(_EveryLevel):  # type: ignore[misc]  # structlog types what it makes as a Protocol
    """structlog's filtering bound logger; with the short way to the pipeline where no other processor is set."""

    def _proxy_to_logger(self, method_name: str, event: Any = None, **event_kw: Any) -> Any:
        processors = self._processors
        if len(processors) != 1 or processors[0] is not hand_over or type(self._logger) is not Output:
            return super()._proxy_to_logger(method_name, event, **event_kw)
        fields = {**self._context, **event_kw} if self._context else event_kw
        error = error_of(fields.pop("exc_info")) if "exc_info" in fields else None
        if "stack_info" in fields:
            fields = dict(fields)
            _add_stack(fields)
        if type(event) is not str:
            event = "" if event is None else text_of(event)
        level = _METHOD_LEVELS.get(method_name, method_name)
        current_pipeline().event(level, event, fields, logger=self._logger.name, error=error)
        return None

    def is_enabled_for(self, level: int) -> bool:
        """Return whether an event of this level would be written now."""
        return level >= current_pipeline().level

    def get_effective_level(self) -> int:
        """Return the lowest level that is written now."""
        return current_pipeline().level


def logger(name: str | None) -> Logger:
    """Return a bound logger that writes tocsin's schema, whatever structlog itself is configured to."""
    return Logger(Output(name), processors=[hand_over], context={})


def configure_structlog() -> None:
    """Have `structlog.get_logger()` write tocsin's schema."""
    structlog.configure(
        processors=[hand_over],
        wrapper_class=Logger,
        context_class=dict,
        logger_factory=Output,
        cache_logger_on_first_use=False,
    )


def configure_structlog_unless_done() -> None:
    """Do so unless the application configured structlog itself."""
    if not structlog.is_configured() or structlog_is_ours():
        configure_structlog()


def structlog_is_ours() -> bool:
    """Return whether structlog is configured by us."""
    return structlog.get_config()["logger_factory"] is Output
