"""Metrics and log lines of heartbeats, in both directions."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry

from tocsin import names
from tocsin_service import telemetry
from tocsin_service.clock import rfc3339


class HeartbeatTelemetry:
    """One per router."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._last_seen = telemetry.gauge(names.HEARTBEAT_LAST_SEEN, registry)
        self._pings = telemetry.counter(names.HEARTBEAT_PINGS, registry)
        self._log = telemetry.logger("tocsin.alerting.heartbeats")
        self._shown: set[str] = set()

    # --- in ---------------------------------------------------------------------------------------------------------

    def heard(self, name: str, at: float) -> None:
        """Show when a heartbeat was last received, by any replica; one never received has no value."""
        if at:
            self._shown.add(name)
            self._last_seen.labels(name).set(at)

    def forget(self, gone: Iterable[str]) -> None:
        """Show heartbeats no longer that the configuration has no more."""
        for name in self._shown.intersection(gone):
            self._shown.discard(name)
            self._last_seen.remove(name)

    def missing(self, name: str, last_heard: float) -> None:
        """Log that a heartbeat is missing."""
        self._log.error(
            "a heartbeat is missing", heartbeat=name, last_heard=rfc3339(last_heard) if last_heard else "never"
        )

    def back(self, name: str) -> None:
        """Log that it is heard again."""
        self._log.info("a heartbeat is heard again", heartbeat=name)

    # --- out --------------------------------------------------------------------------------------------------------

    def pinged(self, ping: str) -> None:
        """Count a ping that was taken."""
        self._pings.labels(ping, "delivered").inc()

    def ping_failed(self, ping: str, error: Exception) -> None:
        """Count and log a ping that was not taken."""
        self._pings.labels(ping, "failed").inc()
        self._log.warning("a ping was not taken", ping=ping, error=str(error))

    def withheld(self, ping: str, reason: str) -> None:
        """Count and log that from now on a ping is not sent, as the router is not well."""
        self._pings.labels(ping, "withheld").inc()
        self._log.error("pings are withheld: the router is not well", ping=ping, reason=reason)
