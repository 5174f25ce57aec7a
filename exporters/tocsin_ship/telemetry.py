"""What the shipper counts, and the gauges of how far behind it is."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry

from tocsin import names
from tocsin_service import telemetry
from tocsin_ship.tail import View


class Telemetry:
    """The metrics of one shipper, in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._read = telemetry.counter(names.SHIP_READ, registry)
        self._acked = telemetry.counter(names.SHIP_ACKED, registry)
        self._retried = telemetry.counter(names.SHIP_RETRIED, registry)
        self._dead = telemetry.counter(names.SHIP_DEAD, registry)
        self._lag_bytes = telemetry.gauge(names.SHIP_LAG_BYTES, registry)
        self._lag_seconds = telemetry.gauge(names.SHIP_LAG_SECONDS, registry)
        self._read_by: dict[str, dict[str, int]] = {}
        self._labels: dict[str, set[tuple[str, str]]] = {}

    def start(self, output: str) -> None:
        """Show the counters of an output as 0, so that the first increase is seen as one."""
        self._acked.labels(output)

    def read(self, input: str, output: str, lines: int) -> None:  # noqa: A002 the label's name
        """Count lines that `output` took from `input`.

        Each output reads for itself; a line counts once, when the fastest has it.
        """
        counts = self._read_by.setdefault(input, {})
        before = max(counts.values(), default=0)
        counts[output] = counts.get(output, 0) + lines
        self._read.labels(input).inc(max(0, counts[output] - before))

    def acked(self, output: str, lines: int) -> None:
        """Count lines a sink has."""
        self._acked.labels(output).inc(lines)

    def retried(self, output: str, reason: str, lines: int) -> None:
        """Count lines that go again."""
        self._retried.labels(output, reason).inc(lines)

    def dead(self, output: str, reason: str, lines: int) -> None:
        """Count lines that were refused for good."""
        self._dead.labels(output, reason).inc(lines)

    def lag(self, output: str, views: Iterable[View], since: dict[str, float], now: float) -> None:
        """Set how far `output` is behind.

        Args:
            since: input -> when everything was acknowledged last; brought up to date here.
        """
        behind: dict[str, int] = dict.fromkeys(since, 0)
        for view in views:
            behind[view.input] = behind.get(view.input, 0) + max(0, view.size - view.position)
        for name, amount in behind.items():
            if not amount:
                since[name] = now
            self._lag_bytes.labels(name, output).set(amount)
            self._lag_seconds.labels(name, output).set(max(0.0, now - since.setdefault(name, now)))
            self._labels.setdefault(output, set()).add((name, output))

    def forget(self, output: str) -> None:
        """Take the gauges of an output away that was removed."""
        for labels in self._labels.pop(output, set()):
            self._lag_bytes.remove(*labels)
            self._lag_seconds.remove(*labels)
