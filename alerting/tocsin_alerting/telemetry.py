"""The router's own metrics and log lines: one call per event, which both counts and logs."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, Summary
from prometheus_client.core import GaugeMetricFamily

from tocsin import names
from tocsin_alerting.config import Config
from tocsin_alerting.muting import Cause
from tocsin_alerting.tables import Row
from tocsin_service import telemetry
from tocsin_service.http import Failure

SPOKEN_VERSION: Final = "0.33.1"
"""The Alertmanager whose API this is: clients such as Karma decide by it what they may ask for."""
STATES: Final = ("active", "suppressed", "unprocessed")

# Values of --enable-feature that add labels.
_BY_RECEIVER: Final = "receiver-name-in-metrics"
_BY_GROUP: Final = "group-key-in-metrics"
_BY_NAME: Final = "alert-names-in-metrics"
_BEGUN_KEPT: Final = 10_000

States = Callable[[], Iterable[tuple[str, Mapping[str, int]]]]
"""Returns how many alerts are in which state: per group key with group-key-in-metrics, else once, under no key."""


class Telemetry:
    """Metrics under Alertmanager's names; every counter of every kind of receiver is there from the start.

    Args:
        kinds: the kinds of receivers.
        features: of `--enable-feature`; three of them add labels, as they do in Alertmanager.
        per_alertname_limit: as in `Options`, to show it.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        kinds: Iterable[str],
        *,
        features: frozenset[str] = frozenset(),
        per_alertname_limit: int = 0,
    ) -> None:
        self._registry = registry
        self._kinds = tuple(kinds)
        self._features = features
        self._log = telemetry.logger("tocsin.alerting")
        self._begun: dict[int, float] = {}
        self._leads = False
        self._intake = _Intake(registry)
        self._configuration = _Configuration(registry)
        self._maintenance = _Maintenance(registry)
        self._notifications = telemetry.counter(self._per_receiver(names.NOTIFICATIONS), registry)
        self._failed = telemetry.counter(self._per_receiver(names.NOTIFICATIONS_FAILED), registry)
        self._suppressed = telemetry.counter(names.NOTIFICATIONS_SUPPRESSED, registry)
        self._requests = telemetry.counter(self._per_receiver(names.NOTIFICATION_REQUESTS), registry)
        self._requests_failed = telemetry.counter(self._per_receiver(names.NOTIFICATION_REQUESTS_FAILED), registry)
        self._seconds = telemetry.histogram(self._per_receiver(names.NOTIFICATION_SECONDS), registry)
        self._latency = telemetry.histogram(self._per_receiver(names.NOTIFICATION_LATENCY), registry)
        self._coalesced = telemetry.counter(names.COALESCED, registry)
        self._rate_limit_wait = telemetry.counter(names.RATE_LIMIT_WAIT, registry)
        self._database_errors = telemetry.counter(names.DATABASE_ERRORS, registry)
        self._leader = telemetry.gauge(names.LEADER, registry)
        self._lease_changes = telemetry.counter(names.LEASE_CHANGES, registry)
        telemetry.gauge(names.ALERTS_LIMIT, registry).set(per_alertname_limit)
        # rate() needs a first value to rise from.
        for cause in Cause:
            self._suppressed.labels(cause)
        for kind in self._kinds:
            self._rate_limit_wait.labels(kind)
            if _BY_RECEIVER not in features:
                self._integration_at_zero(kind)

    def _per_receiver(self, metric: names.Metric) -> names.Metric:
        if _BY_RECEIVER not in self._features:
            return metric
        return dataclasses.replace(metric, labels=(*metric.labels, "receiver_name"))

    def _integration_at_zero(self, *labels: str) -> None:
        kind, *receiver = labels
        for metric in (self._notifications, self._requests, self._requests_failed, self._seconds, self._latency):
            metric.labels(*labels)
        for reason in Failure:
            self._failed.labels(kind, reason, *receiver)

    # --- state, asked for whenever the page is ------------------------------------------------------------------

    def watch(
        self,
        *,
        states: States,
        groups: Callable[[], float],
        pending: Callable[[], float],
        oldest: Callable[[], float],
        silences: Callable[[], Mapping[str, int]],
    ) -> None:
        """Read gauges from these functions whenever the page is asked for.

        Args:
            silences: how many there are, by state.
        """
        self._registry.register(_States(states, by_group=self.by_group))
        telemetry.gauge(names.GROUPS, self._registry).set_function(groups)
        telemetry.gauge(names.OUTBOX_PENDING, self._registry).set_function(pending)
        telemetry.gauge(names.OUTBOX_OLDEST, self._registry).set_function(oldest)
        gauge = telemetry.gauge(names.SILENCES, self._registry)
        for state in ("active", "expired", "pending"):
            gauge.labels(state).set_function(functools.partial(_count, silences, state))

    @property
    def by_group(self) -> bool:
        """Whether alerts are counted per group."""
        return _BY_GROUP in self._features

    # --- configuration ------------------------------------------------------------------------------------------

    def configured(self, config: Config, now: float) -> None:
        """Note a configuration that is taken into use, at the start and after a reload."""
        self._configuration.taken(config, now)
        if _BY_RECEIVER in self._features:
            for receiver in config.receivers.values():
                for integration in receiver.integrations:
                    self._integration_at_zero(integration.kind, receiver.name)

    def reload_refused(self) -> None:
        """Note a configuration that was not taken."""
        self._configuration.refused()

    # --- alerts -------------------------------------------------------------------------------------------------

    def received(
        self, *, firing: int, resolved: int, invalid: int, limited: Mapping[str, int] | None = None, limit: int = 0
    ) -> None:
        """Count the alerts of a request.

        Args:
            limited: how many were refused because `limit` of their alertname fire already, by alertname.
        """
        self._intake.received(firing, resolved, invalid)
        for name, count in (limited or {}).items():
            self._intake.limited.labels(name if _BY_NAME in self._features else "").inc(count)
            self._log.warning(
                "alerts refused, too many of one name fire; raise --alerts.per-alertname-limit",
                alertname=name,
                refused=count,
                limit=limit,
            )

    def processed(self, seconds: float) -> None:
        """Note how long a request for alerts took."""
        self._intake.processing.observe(seconds)

    def not_durable(self) -> None:
        """Count a request whose alerts could not be written down."""
        self._intake.not_durable.inc()

    def suppressed(self, by_cause: Mapping[Cause, int]) -> None:
        """Count alerts that a look at their group found muted."""
        for cause, count in by_cause.items():
            self._suppressed.labels(cause).inc(count)

    # --- delivery -----------------------------------------------------------------------------------------------

    def _labels(self, row: Row) -> tuple[str, ...]:
        lane = row.lane
        return (lane.integration, lane.receiver) if _BY_RECEIVER in self._features else (lane.integration,)

    def attempt(self, row: Row) -> None:
        """Count an attempt to deliver."""
        if len(self._begun) >= _BEGUN_KEPT:  # attempts that were cut short leave theirs behind
            self._begun.clear()
        self._begun[row.id] = time.monotonic()
        self._requests.labels(*self._labels(row)).inc()
        if row.attempts == 1:
            self._notifications.labels(*self._labels(row)).inc()

    def _ended(self, row: Row) -> None:
        if (begun := self._begun.pop(row.id, None)) is not None:
            self._seconds.labels(*self._labels(row)).observe(time.monotonic() - begun)

    def delivered(self, row: Row, now: float) -> None:
        """Count and log a message that a receiver has taken."""
        self._ended(row)
        self._latency.labels(*self._labels(row)).observe(max(0.0, now - row.created_at))
        self._log.info("notification delivered", **_facts(row))

    def refused(self, row: Row, error: str, wait: float) -> None:
        """Count and log a failed attempt that another one follows."""
        self._ended(row)
        self._requests_failed.labels(*self._labels(row)).inc()
        self._log.warning(
            "notification not taken, trying again", error=error, wait_seconds=round(wait, 1), **_facts(row)
        )

    def failed(self, row: Row, error: str, reason: Failure) -> None:
        """Count and log a message that is given up."""
        self._ended(row)
        kind, *receiver = self._labels(row)
        self._requests_failed.labels(kind, *receiver).inc()
        self._failed.labels(kind, reason, *receiver).inc()
        self._log.error("notification failed for good", error=error, reason=str(reason), **_facts(row))

    def coalesced(self, count: int = 1) -> None:
        """Count messages that were replaced by a newer one before they were sent."""
        self._coalesced.inc(count)

    def limited(self, integration: str, seconds: float) -> None:
        """Count the time a message waits for its destination's rate."""
        self._rate_limit_wait.labels(integration).inc(seconds)

    def bug(self, row: Row) -> None:
        """Log an error of ours with its trace."""
        self._log.exception("a message could not be made", **_facts(row))

    # --- database and replicas ----------------------------------------------------------------------------------

    def database_failed(self, error: BaseException) -> None:
        """Count and log that the database could not be used; the work is tried again."""
        self._database_errors.inc()
        what = str(error).partition("\n")[0] or f"no answer in time ({type(error).__name__})"
        self._log.error("the database cannot be used, trying again", error=what)

    def leading(self, *, leads: bool, epoch: int) -> None:
        """Note that this replica tells receivers from now on, or does not any more."""
        self._leader.set(leads)
        if leads is not self._leads:
            self._leads = leads
            self._lease_changes.inc()
        said = "this replica tells receivers" if leads else "this replica tells nobody any more, another one does"
        self._log.info(said, epoch=epoch)

    def maintained(self, what: str, seconds: float | None) -> None:
        """Note that what is old was deleted.

        Args:
            what: `silences` or `nflog` (what was told).
            seconds: how long it took; None if it failed.
        """
        self._maintenance.done(what, seconds)


class _Intake:
    """What is counted for every request; the children are looked up once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        received = telemetry.counter(names.ALERTS_RECEIVED, registry)
        self._firing, self._resolved = (received.labels(status, "v2") for status in ("firing", "resolved"))
        self._invalid = telemetry.counter(names.ALERTS_INVALID, registry).labels("v2")
        self.limited = telemetry.counter(names.ALERTS_LIMITED, registry)
        self.processing = _summary(names.ALERT_PROCESSING, registry)
        self.not_durable = telemetry.counter(names.NOT_DURABLE, registry)

    def received(self, firing: int, resolved: int, invalid: int) -> None:
        for counter, count in ((self._firing, firing), (self._resolved, resolved), (self._invalid, invalid)):
            if count:
                counter.inc(count)


class _Configuration:
    """What runs, and by which configuration."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._receivers = telemetry.gauge(names.RECEIVERS, registry)
        self._integrations = telemetry.gauge(names.INTEGRATIONS, registry)
        self._rules = telemetry.gauge(names.INHIBITION_RULES, registry)
        self._hash = telemetry.gauge(names.CONFIG_HASH, registry)
        self._ok = telemetry.gauge(names.CONFIG_LAST_RELOAD_OK, registry)
        self._at = telemetry.gauge(names.CONFIG_LAST_RELOAD, registry)
        telemetry.gauge(names.CLUSTER_ENABLED, registry).set(0)
        build = telemetry.gauge(names.ROUTER_BUILD_INFO, registry)
        build.labels("tocsin", "", f"tocsin {version('tocsin')}", SPOKEN_VERSION).set(1)

    def taken(self, config: Config, now: float) -> None:
        self._receivers.set(len(config.receivers))
        self._integrations.set(sum(len(receiver.integrations) for receiver in config.receivers.values()))
        self._rules.set(len(config.inhibit_rules))
        self._hash.set(config.hash)
        self._at.set(now)
        self._ok.set(1)

    def refused(self) -> None:
        self._ok.set(0)


class _Maintenance:
    """Deleting what is old."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._times = {
            "silences": telemetry.counter(names.SILENCES_MAINTENANCE, registry),
            "nflog": telemetry.counter(names.NFLOG_MAINTENANCE, registry),
        }
        self._errors = {
            "silences": telemetry.counter(names.SILENCES_MAINTENANCE_ERRORS, registry),
            "nflog": telemetry.counter(names.NFLOG_MAINTENANCE_ERRORS, registry),
        }
        self._seconds = {
            "silences": _summary(names.SILENCES_GC, registry),
            "nflog": _summary(names.NFLOG_GC, registry),
        }

    def done(self, what: str, seconds: float | None) -> None:
        self._times[what].inc()
        if seconds is None:
            self._errors[what].inc()
        else:
            self._seconds[what].observe(seconds)


class _States:
    """`alertmanager_alerts`: counted when somebody asks."""

    def __init__(self, states: States, *, by_group: bool) -> None:
        self._states = states
        self._labels = ["group_key", *names.ALERTS.labels] if by_group else [*names.ALERTS.labels]

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Return the family without asking anybody, for the check of the registry."""
        yield GaugeMetricFamily(names.ALERTS.name, names.ALERTS.help, labels=self._labels)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return the family."""
        (family,) = self.describe()
        for key, counts in self._states():
            for state in STATES:
                family.add_metric([key, state][-len(self._labels) :], counts.get(state, 0))
        yield family


def _summary(metric: names.Metric, registry: CollectorRegistry) -> Summary:
    return Summary(metric.name, metric.help, metric.labels, registry=registry)


def _facts(row: Row) -> dict[str, object]:
    return {
        "receiver": row.lane.receiver,
        "integration": row.lane.integration,
        "group": row.lane.group_key,
        "status": row.notification.status,
        "attempts": row.attempts,
    }


def _count(counts: Callable[[], Mapping[str, int]], state: str) -> float:
    return counts().get(state, 0)
