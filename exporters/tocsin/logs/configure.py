"""Structured logs: one schema for structlog, the standard library and the access line, correlated and redacted.

Every line has Elastic Common Schema names (`tocsin.names.Field`), the ids of the trace it belongs to, and no secrets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from prometheus_client import CollectorRegistry

from tocsin import settings
from tocsin.logs import process
from tocsin.logs.arrival import forget, when_imported
from tocsin.logs.lines import ENCODERS
from tocsin.logs.pipeline import Pipeline
from tocsin.logs.stdlib import install_on_root, remove_from_root, stdlib_handler
from tocsin.logs.writer import open_file, open_stdout, open_stream
from tocsin.metrics.families import Families, families_of
from tocsin.redact import Redactor, redactor

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

__all__ = ["application_pipeline", "configure_logs", "get_logger", "reset_logs", "stdlib_handler"]

Format = Literal["json", "logfmt", "console"]

_STRUCTURED = "tocsin.logs.structured"


def _pipeline(
    *,
    service_name: str,
    service_version: str | None,
    stream: IO[Any] | None,
    file: str | os.PathLike[str] | None,
    level: str,
    format: str,  # noqa: A002 - the field's own word
    families: Families,
    redact: Redactor,
) -> Pipeline:
    if stream is not None and file is not None:
        raise ValueError("log lines can go to a stream or to a file, not to both: give one of them")
    encode = ENCODERS.get(format)
    if encode is None:
        raise ValueError(f"log format is {format!r}, expected one of {', '.join(ENCODERS)}")
    number = settings.level_number(level)
    if file is not None:
        writer: Any = open_file(file)
    else:
        writer = open_stdout() if stream is None else open_stream(stream)
    return Pipeline(
        service_name=service_name,
        service_version=service_version,
        level=number,
        encode=encode,
        writer=writer,
        families=families,
        redactor=redact,
    )


def configure_logs(
    *,
    service_name: str,
    service_version: str | None = None,
    stream: IO[Any] | None = None,
    file: str | os.PathLike[str] | None = None,
    level: str = "info",
    format: Format = "json",  # noqa: A002 - the field's own word
    redact: bool | Iterable[str] = True,
    registry: CollectorRegistry | None = None,
) -> None:
    """Configure the logs of this process: structlog, `tocsin.get_logger` and the standard library write one schema.

    Lines are written by a thread, in batches of up to 64 or 200 ms, and at once from level error; a stream that takes
    nothing holds up nobody. `tocsin.force_flush()` writes what is queued. Terminals and streams in memory are written
    at once.

    Args:
        service_name: goes into every line as `service.name`.
        service_version: goes into every line as `service.version`.
        stream: where to write, text or binary; default: what `sys.stdout` is at that moment.
        file: a path to append to instead; followed when it is renamed away (log rotation).
        level: the lowest level written: debug, info, warning, error, critical.
        format: json (for machines), logfmt, or console (for a person at a terminal).
        redact: further names whose values are never shown, beside the built-in ones; False shows everything.
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
        redact=redactor(redact),
    )
    process.configure(pipeline)
    when_imported("structlog", lambda: import_module(_STRUCTURED).configure_structlog())
    install_on_root(pipeline.level)


def service_of(service_name: str | None, service_version: str | None) -> tuple[str, str | None]:
    """Return name and version of an application: as given, as the environment says, as `configure_logs` was told."""
    configured = process.configured()
    name, version = (
        ("unknown_service", None)
        if configured is None
        else (
            configured.service_name,
            configured.service_version,
        )
    )
    return (
        settings.service_name(service_name, os.environ, name),
        settings.service_version(service_version, os.environ) or version,
    )


def application_pipeline(
    *,
    service_name: str | None,
    service_version: str | None,
    stream: IO[Any] | None,
    file: str | os.PathLike[str] | None,
    level: str | None,
    families: Families,
    redact: bool | Iterable[str] | Redactor = True,
) -> Pipeline:
    """Return the pipeline of an instrumented application; `close` it when the application is uninstrumented.

    What `configure_logs` set up is used where no stream, file or level is given here. If nothing was configured, the
    first application's pipeline is the process's, until it is closed.
    """
    configured = process.configured()
    name, version = service_of(service_name, service_version)
    if configured is not None and stream is None and file is None and level is None:
        # True is the default: then what was configured holds.
        hidden = None if redact is True or redact is redactor(True) else redactor(redact)
        return configured.for_service(name, version, families, hidden)
    pipeline = _pipeline(
        service_name=name,
        service_version=version,
        stream=stream,
        file=file,
        level=level or "info",
        format="json",
        families=families,
        redact=redactor(redact),
    )
    pipeline.on_close(_application_gone)
    if process.add_application(pipeline):
        when_imported("structlog", lambda: import_module(_STRUCTURED).configure_structlog_unless_done())
        install_on_root(pipeline.level)
    return pipeline


def _application_gone(pipeline: Pipeline) -> None:
    if process.remove_application(pipeline):
        _release()


def reset_logs() -> None:
    """Undo `configure_logs` and what `instrument` configured: structlog's defaults, no handler of ours at the root."""
    process.reset()
    _release()


def _release() -> None:
    forget("structlog")
    structured = sys.modules.get(_STRUCTURED)
    if structured is not None and structured.structlog_is_ours():
        structured.structlog.reset_defaults()
    remove_from_root()


class _Lazy:
    """A logger that imports structlog when it is first used, and is structlog's bound logger from then on."""

    def __init__(self, name: str | None) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # while being copied or unpickled
            raise AttributeError(attribute)
        logger = self.__dict__.get("_bound")
        if logger is None:
            import_module("structlog")  # first: we may be waiting for it, to configure it
            logger = self.__dict__["_bound"] = import_module(_STRUCTURED).logger(self._name)
        value = getattr(logger, attribute)
        if callable(value):
            self.__dict__[attribute] = value  # without this detour the next time
        return value

    def __repr__(self) -> str:
        return f"<tocsin logger {self._name or ''}>"


def get_logger(name: str | None = None) -> FilteringBoundLogger:
    """Return a structlog logger that writes tocsin's schema, whatever structlog itself is configured to.

    May be called at import, before anything is configured: `log = tocsin.get_logger(__name__)`, then
    `log.info("order placed", order=42)`.

    Args:
        name: goes into every line as `log.logger`.
    """
    return cast("FilteringBoundLogger", _Lazy(name))
