"""Metrics and log lines of the sources: one call per event. No secret and no body gets here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry

from tocsin import names
from tocsin_service import telemetry

QUIET: Final = 60.0
"""Seconds in which failed logins of one source are logged once; all are counted."""
_SHOWN: Final = 5


class SourceTelemetry:
    """One per router."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = telemetry.counter(names.SOURCE_REQUESTS, registry)
        self._log = telemetry.logger("tocsin.alerting.sources")
        self._quiet_until: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def answered(self, source: str, code: int) -> None:
        """Count a request; `source` is empty if there is none of that name."""
        self._requests.labels(source, str(code)).inc()

    def strangers(self, source: str, now: float) -> None:
        """Log that somebody without the right credentials has posted."""
        self._unlogged[source] = self._unlogged.get(source, 0) + 1
        if now >= self._quiet_until.get(source, 0.0):
            self._quiet_until[source] = now + QUIET
            self._log.warning(
                "alerts refused: the credentials are missing or wrong",
                source=source,
                requests=self._unlogged.pop(source),
            )

    def no_secret(self, source: str, error: Exception) -> None:
        """Log that nobody can post because our own secret cannot be read."""
        self._log.error("alerts refused: a secret of this source cannot be read", source=source, error=str(error))

    def not_stored(self, source: str, error: BaseException) -> None:
        """Log that alerts were not taken because of the database."""
        self._log.error("alerts refused: the database cannot be used", source=source, error=type(error).__name__)

    def problems(self, source: str, problems: Sequence[str]) -> None:
        """Log what could not be read."""
        self._log.warning("alerts refused", source=source, problems=list(problems[:_SHOWN]), count=len(problems))

    def truncated(self, source: str, count: int) -> None:
        """Log that the sender has left alerts out."""
        self._log.warning(
            "the sender left alerts out of its message, nobody is told of them: raise max_alerts there",
            source=source,
            alerts=count,
        )
