"""Structured logs: one schema for structlog, the standard library and the access line, correlated and redacted.

Every line has Elastic Common Schema names (`tocsin.names.Field`), the ids of the trace it belongs to, and no secrets.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal, cast

import structlog
from prometheus_client import CollectorRegistry
from structlog.typing import FilteringBoundLogger

from tocsin import settings
from tocsin.logs.lines import ENCODERS
from tocsin.logs.pipeline import Pipeline
from tocsin.logs.writer import FileWriter, StreamWriter, Writer
from tocsin.metrics.families import Families, families_of
from tocsin.redact import text_of
from tocsin.request import CURRENT

Format = Literal["json", "logfmt", "console"]

_METHOD_LEVELS = {"warn": "warning", "exception": "error", "fatal": "critical", "msg": "info"}

# --- the pipeline of the process --------------------------------------------------------------------------------


class _Process:
    """What is configured for the whole process; per request, the pipeline of the request's application wins."""

    pipeline: Pipeline | None = None
    explicit = False
    by_application = False
    """Whether `instrument` configured it."""


def process_pipeline() -> Pipeline:
    """Return the process's pipeline; if nothing was configured yet: JSON to stdout, named by the environment."""
    if _Process.pipeline is None:
        name = settings.service_name(None, os.environ)
        _Process.pipeline = _pipeline(
            service_name=name,
            service_version=None,
            stream=None,
            file=None,
            level="info",
            format="json",
            families=families_of(),
        )
    return _Process.pipeline


def _current_pipeline() -> Pipeline:
    current = CURRENT.get()
    if current is not None and current.pipeline is not None:
        return current.pipeline
    return process_pipeline()


def _pipeline(
    *,
    service_name: str,
    service_version: str | None,
    stream: IO[Any] | None,
    file: str | os.PathLike[str] | None,
    level: str,
    format: str,  # noqa: A002 - the field's own word
    families: Families,
) -> Pipeline:
    if stream is not None and file is not None:
        raise ValueError("log lines can go to a stream or to a file, not to both: give one of them")
    encode = ENCODERS.get(format)
    if encode is None:
        raise ValueError(f"log format is {format!r}, expected one of {', '.join(ENCODERS)}")
    number = settings.level_number(level)
    writer: Writer = StreamWriter(stream) if file is None else FileWriter(Path(file))
    return Pipeline(
        service_name=service_name,
        service_version=service_version,
        level=number,
        encode=encode,
        writer=writer,
        families=families,
    )


def configure_logs(
    *,
    service_name: str,
    service_version: str | None = None,
    stream: IO[Any] | None = None,
    file: str | os.PathLike[str] | None = None,
    level: str = "info",
    format: Format = "json",  # noqa: A002 - the field's own word
    registry: CollectorRegistry | None = None,
) -> None:
    """Configure the logs of this process: structlog, `tocsin.get_logger` and the standard library write one schema.

    Args:
        service_name: goes into every line as `service.name`.
        service_version: goes into every line as `service.version`.
        stream: where to write, text or binary; default: what `sys.stdout` is at that moment.
        file: a path to append to instead; followed when it is renamed away (log rotation).
        level: the lowest level written: debug, info, warning, error, critical.
        format: json (for machines), logfmt, or console (for a person at a terminal).
        registry: where lines that could not be written are counted; default: prometheus_client's REGISTRY.

    The standard library's root logger gets a handler, unless it already has one that is not ours: then the
    application has its own plans; add `tocsin.stdlib_handler()` where it fits.

    Raises:
        ValueError: an unknown level or format, or both a stream and a file.
        OSError: the file cannot be opened.
    """
    pipeline = _pipeline(
        service_name=service_name,
        service_version=service_version,
        stream=stream,
        file=file,
        level=level,
        format=format,
        families=families_of(registry),
    )
    _Process.pipeline, _Process.explicit = pipeline, True
    _configure_structlog(pipeline.level)
    _install_on_root(pipeline.level)


def application_pipeline(
    *,
    service_name: str | None,
    service_version: str | None,
    stream: IO[Any] | None,
    file: str | os.PathLike[str] | None,
    level: str | None,
    families: Families,
) -> Pipeline:
    """Return the pipeline of an instrumented application.

    What `configure_logs` set up is used where no stream, file or level is given here. The first application's
    pipeline becomes the process's, if nothing else was configured.
    """
    configured = _Process.pipeline if _Process.explicit else None
    fallback = configured.service_name if configured is not None else "unknown_service"
    name = settings.service_name(service_name, os.environ, fallback)
    if configured is not None and stream is None and file is None and level is None:
        return configured.for_service(name, service_version or configured.service_version, families)
    pipeline = _pipeline(
        service_name=name,
        service_version=service_version,
        stream=stream,
        file=file,
        level=level or "info",
        format="json",
        families=families,
    )
    if configured is None and not _Process.by_application:
        _Process.pipeline, _Process.by_application = pipeline, True
        if not structlog.is_configured() or _structlog_is_ours():
            _configure_structlog(pipeline.level)
        _install_on_root(pipeline.level)
    return pipeline


# --- structlog --------------------------------------------------------------------------------------------------


class _Output:
    """What structlog calls with a finished event: writes it to the pipeline of the moment."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def write(self, level: str, event: Mapping[str, object]) -> None:
        fields = dict(event)
        message = fields.pop("event", "")
        error = _error_of(fields.pop("exc_info", None))
        _current_pipeline().event(level, text_of(message), fields, logger=self.name, error=error)

    def __getattr__(self, method: str) -> Callable[..., None]:
        if method.startswith("_"):
            raise AttributeError(method)
        return self.write


def _hand_over(
    _logger: object, method: str, event: Mapping[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Be the last structlog processor: pass level and event to `_Output.write`."""
    return (_METHOD_LEVELS.get(method, method), event), {}


def _error_of(info: object) -> BaseException | None:
    if isinstance(info, BaseException):
        return info
    if isinstance(info, tuple):
        return info[1] if len(info) == 3 and isinstance(info[1], BaseException) else None
    return sys.exc_info()[1] if info else None


def _bound(logger: object, processors: object, context: object) -> FilteringBoundLogger:
    """Make the bound logger when first used, with the level of that moment: loggers are made before configuration."""
    wrapper = structlog.make_filtering_bound_logger(_current_pipeline().level)
    return wrapper(logger, processors=processors, context=context)  # type: ignore[call-arg]  # structlog types it as a Protocol


def get_logger(name: str | None = None) -> FilteringBoundLogger:
    """Return a structlog logger that writes tocsin's schema, whatever structlog itself is configured to.

    May be called at import, before anything is configured: `log = tocsin.get_logger(__name__)`, then
    `log.info("order placed", order=42)`.

    Args:
        name: goes into every line as `log.logger`.
    """
    wrapper = cast("type[FilteringBoundLogger]", _bound)
    return cast(
        "FilteringBoundLogger", structlog.wrap_logger(_Output(name), processors=[_hand_over], wrapper_class=wrapper)
    )


def _configure_structlog(level: int) -> None:
    structlog.configure(
        processors=[_hand_over],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Output,
        cache_logger_on_first_use=False,
    )


def _structlog_is_ours() -> bool:
    return structlog.get_config()["logger_factory"] is _Output


# --- the standard library ---------------------------------------------------------------------------------------

_RECORD_FIELDS = frozenset(
    (*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "color_message"),
)


class StdlibHandler(logging.Handler):
    """Writes records of the standard library's logging in tocsin's schema, `extra` as fields."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; never raises."""
        pipeline = _current_pipeline()
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit the text
            message = f"{text_of(record.msg)} {text_of(record.args)}"
        level = next((name for name, at in reversed(settings.LEVELS.items()) if record.levelno >= at), "debug")
        fields = {name: value for name, value in record.__dict__.items() if name not in _RECORD_FIELDS}
        pipeline.event(
            level,
            message.rstrip(),
            fields,
            logger=record.name,
            error=_error_of(record.exc_info),
        )


def stdlib_handler() -> logging.Handler:
    """Return a handler that writes the standard library's records in tocsin's schema, to where logs go by then."""
    return StdlibHandler()


def _install_on_root(level: int) -> None:
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(StdlibHandler())
    if all(isinstance(handler, StdlibHandler) for handler in root.handlers):
        root.setLevel(level)


def reset_logs() -> None:
    """Undo `configure_logs` and what `instrument` configured: structlog's defaults, no handler of ours at the root."""
    _Process.pipeline, _Process.explicit, _Process.by_application = None, False, False
    if _structlog_is_ours():
        structlog.reset_defaults()
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, StdlibHandler)]:
        root.removeHandler(handler)
        root.setLevel(logging.WARNING)
