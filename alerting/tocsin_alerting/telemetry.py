"""The router's own metrics and log lines: one call per event, which both counts and logs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry

from tocsin import names
from tocsin_alerting.tables import Row
from tocsin_service import telemetry
from tocsin_service.http import Failure


class Telemetry:
    """Metrics under Alertmanager's names; every counter of every kind of receiver is there from the start.

    Args:
        kinds: the kinds of receivers.
    """

    def __init__(self, registry: CollectorRegistry, kinds: Iterable[str]) -> None:
        self.alerts = telemetry.gauge(names.ALERTS, registry)
        self._received = telemetry.counter(names.ALERTS_RECEIVED, registry)
        self._invalid = telemetry.counter(names.ALERTS_INVALID, registry)
        self._notifications = telemetry.counter(names.NOTIFICATIONS, registry)
        self._failed = telemetry.counter(names.NOTIFICATIONS_FAILED, registry)
        self._requests = telemetry.counter(names.NOTIFICATION_REQUESTS, registry)
        self._requests_failed = telemetry.counter(names.NOTIFICATION_REQUESTS_FAILED, registry)
        self._groups = telemetry.gauge(names.GROUPS, registry)
        self._outbox_pending = telemetry.gauge(names.OUTBOX_PENDING, registry)
        self._outbox_oldest = telemetry.gauge(names.OUTBOX_OLDEST, registry)
        self._latency = telemetry.histogram(names.NOTIFICATION_LATENCY, registry)
        self._log = telemetry.logger("tocsin.alerting")
        self._start_at_zero(kinds)

    def _start_at_zero(self, kinds: Iterable[str]) -> None:
        # rate() needs a first value to rise from.
        for status in ("firing", "resolved"):
            self._received.labels(status, "v2")
        self._invalid.labels("v2")
        for state in ("active", "suppressed", "unprocessed"):
            self.alerts.labels(state).set(0)
        for kind in kinds:
            for metric in (self._notifications, self._requests, self._requests_failed, self._latency):
                metric.labels(kind)
            for reason in Failure:
                self._failed.labels(kind, reason)

    def watch(
        self,
        *,
        active: Callable[[], float],
        groups: Callable[[], float],
        pending: Callable[[], float],
        oldest: Callable[[], float],
    ) -> None:
        """Read gauges from these functions whenever the page is asked for."""
        self.alerts.labels("active").set_function(active)
        self._groups.set_function(groups)
        self._outbox_pending.set_function(pending)
        self._outbox_oldest.set_function(oldest)

    def received(self, *, firing: int, resolved: int, invalid: int) -> None:
        """Count the alerts of a request."""
        self._received.labels("firing", "v2").inc(firing)
        self._received.labels("resolved", "v2").inc(resolved)
        self._invalid.labels("v2").inc(invalid)

    def attempt(self, row: Row) -> None:
        """Count an attempt to deliver."""
        self._requests.labels(row.lane.integration).inc()
        if row.attempts == 1:
            self._notifications.labels(row.lane.integration).inc()

    def delivered(self, row: Row, now: float) -> None:
        """Count and log a message that a receiver has taken."""
        self._latency.labels(row.lane.integration).observe(max(0.0, now - row.created_at))
        self._log.info("notification delivered", **_facts(row))

    def refused(self, row: Row, error: str, wait: float) -> None:
        """Count and log a failed attempt that another one follows."""
        self._requests_failed.labels(row.lane.integration).inc()
        self._log.warning(
            "notification not taken, trying again", error=error, wait_seconds=round(wait, 1), **_facts(row)
        )

    def failed(self, row: Row, error: str, reason: Failure) -> None:
        """Count and log a message that is given up."""
        self._requests_failed.labels(row.lane.integration).inc()
        self._failed.labels(row.lane.integration, reason).inc()
        self._log.error("notification failed for good", error=error, reason=str(reason), **_facts(row))

    def database_failed(self, error: BaseException) -> None:
        """Log that the database could not be used; the work is tried again."""
        self._log.error("the database cannot be used, trying again", error=str(error).partition("\n")[0])

    def bug(self, row: Row) -> None:
        """Log an error of ours with its trace."""
        self._log.exception("a message could not be made", **_facts(row))


def _facts(row: Row) -> dict[str, object]:
    return {
        "receiver": row.lane.receiver,
        "integration": row.lane.integration,
        "group": row.lane.group_key,
        "status": row.notification.status,
        "attempts": row.attempts,
    }
