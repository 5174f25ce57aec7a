"""Where lines go: one module a kind, found by its settings' class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from tocsin_ship import config
from tocsin_ship.delivery import Delivery
from tocsin_ship.lines import Block
from tocsin_ship.outputs.elasticsearch import ElasticsearchOutput
from tocsin_ship.outputs.logstash_tcp import LogstashTcpOutput
from tocsin_ship.outputs.store import StoreOutput

STORE_FILE = "logs.db"


class Output(Protocol):
    """A sink. Attempts, waits and dead letters go through its `Delivery`; it never gives a line up by itself."""

    kind: str
    read_size: int
    """Bytes of lines that are read at a time."""

    @property
    def acked(self) -> int:
        """How many blocks, of all sent and in their order, the sink has."""

    @property
    def settled(self) -> int:
        """How many of those will never be sent again, whatever happens to the sink."""

    async def open(self) -> None:
        """Open what is needed; a sink that is away is no error."""

    async def send(self, blocks: Sequence[Block]) -> None:
        """Hand over lines; return when the next may come."""

    async def rest(self) -> None:
        """Do what is due while no lines come; called a few times a second."""

    async def close(self) -> None:
        """Leave; at most a second may be spent on goodbyes."""


def _logstash_tcp(settings: config.LogstashTcp, delivery: Delivery, _: Path) -> Output:
    return LogstashTcpOutput(settings, delivery)


def _elasticsearch(settings: config.Elasticsearch, delivery: Delivery, _: Path) -> Output:
    return ElasticsearchOutput(settings, delivery)


def _store(settings: config.Store, delivery: Delivery, folder: Path) -> Output:
    return StoreOutput(settings, delivery, path=folder / STORE_FILE)


OUTPUTS: Mapping[str, Callable[[Any, Delivery, Path], Output]] = MappingProxyType(
    {"logstash_tcp": _logstash_tcp, "elasticsearch": _elasticsearch, "store": _store}
)
"""`kind` -> how to make one from its settings, its delivery and the data folder."""
