"""One part run alone, as `tocsin alerting`, `uptime` and `ship` do: their common flags, and their running."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from socket import socket
from typing import Annotated, Generic, Protocol, TypeVar

import typer
from prometheus_client import CollectorRegistry

import tocsin
from tocsin import names
from tocsin_service import ops, run, telemetry, web
from tocsin_service.settings import Document
from tocsin_service.web_config import WebFile


class Level(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a log line looks."""

    JSON = "json"
    LOGFMT = "logfmt"
    CONSOLE = "console"


ConfigFile = Annotated[Path, typer.Option("--config.file", help="The configuration.")]
DataFolder = Annotated[Path, typer.Option("--storage.path", help="Where state is kept.")]
StorageUrl = Annotated[
    str | None, typer.Option("--storage.url", help="postgresql://... instead of SQLite.", show_default=False)
]
Listen = Annotated[str, typer.Option("--web.listen-address", help="host:port")]
WebConfig = Annotated[
    Path | None, typer.Option("--web.config.file", help="TLS and passwords, as Prometheus' tools take them.")
]
LogLevel = Annotated[Level, typer.Option("--log.level")]
LogForm = Annotated[LogFormat, typer.Option("--log.format")]
ExternalUrl = Annotated[
    str | None, typer.Option("--web.external-url", help="How people reach it, for links.", show_default=False)
]

_C = TypeVar("_C")
_C_contra = TypeVar("_C_contra", contravariant=True)


class Part(Protocol[_C_contra]):
    """What the router, the prober and the shipper have in common."""

    def service(self, listener: socket | None) -> run.Service:
        """Return what is started and stopped."""

    async def reload(self, config: _C_contra) -> None:
        """Take another configuration into use."""


@dataclass(frozen=True, slots=True)
class Source(Generic[_C]):
    """A configuration file and how it is read, so that it can be read again."""

    file: Path
    load: Callable[[Document], _C]
    environ: Mapping[str, str] | None

    def read(self) -> _C:
        """Return what the file says now.

        Raises:
            SettingsError: it cannot be used.
        """
        return self.load(Document.open(self.file, environ=self.environ))


@dataclass(frozen=True, slots=True)
class Place:
    """What a part is given beside its configuration: where it is reached, where it counts, how it is read again."""

    url: str
    registry: CollectorRegistry
    reread: ops.Reload


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags that every part has: its sockets (at least one), the web configuration, the log."""

    listeners: Callable[[], Sequence[socket]]
    web_config: Path | None
    level: Level
    form: LogFormat


def run_part(name: str, source: Source[_C], build: Callable[[_C, Place], Part[_C]], flags: Flags) -> int:
    """Run a part until SIGTERM and return the exit code.

    Raises:
        SettingsError, AddressError: it cannot start; the message says why.
    """
    telemetry.configure(f"tocsin-{name}", level=flags.level, format=flags.form.value)
    config = source.read()
    file = None if flags.web_config is None else WebFile(flags.web_config)
    first, *more = flags.listeners()

    async def take() -> None:
        await part.reload(source.read())

    registry = CollectorRegistry()
    reload = ops.watched(take, telemetry.gauge(names.CONFIG_RELOAD_OK, registry).labels(name))
    telemetry.gauge(names.BUILD_INFO, registry).labels(name, tocsin.__version__).set(1)
    url = web.bound(first).url
    if file is not None and file.settings().tls_server_config is not None:
        url = url.replace("http://", "https://", 1)
    part = build(config, Place(url, registry, reload))
    service = dataclasses.replace(part.service(first), listeners=more, web=file)
    return asyncio.run(run.serve([service], reload=reload))


def one_listener(listen: str) -> Callable[[], Sequence[socket]]:
    """Return what binds a single address, once the configuration is known to be good."""
    return lambda: [web.bind(web.Address.parse(listen))]
