"""Tells of results: as metrics, and as alerts when a check went down or recovered."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry

from tocsin import names
from tocsin_service import telemetry
from tocsin_uptime import alerts
from tocsin_uptime.check import Check
from tocsin_uptime.posts import OUTCOMES, Posts
from tocsin_uptime.result import REASONS, Phase, Result, State
from tocsin_uptime.state import Change, Event
from tocsin_uptime.watch import Watched


class Metrics:
    """The prober's metric families. Counters and states start at zero with their check, so that no first step is lost.

    `tocsin_probe_success` and the durations come with the first result: a zero before it would be a false alarm.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.posts = telemetry.counter(names.PROBE_ALERTS, registry)
        self.history_errors = telemetry.counter(names.PROBE_HISTORY_ERRORS, registry)
        self.lateness = telemetry.gauge(names.PROBE_LATENESS, registry)
        self._success = telemetry.gauge(names.PROBE_SUCCESS, registry)
        self._duration = telemetry.gauge(names.PROBE_DURATION, registry)
        self._results = telemetry.counter(names.PROBE_RESULTS, registry)
        self._state = telemetry.gauge(names.PROBE_STATE, registry)
        for outcome in OUTCOMES:
            self.posts.labels(outcome)

    def begin(self, watched: Watched) -> None:
        """Make the series of a check."""
        check = watched.check
        for reason in REASONS[check.kind]:
            self._results.labels(check.service, check.name, reason.value)
        self.state(watched)

    def end(self, check: Check) -> None:
        """Remove the series of a check."""
        who = (check.service, check.name)
        self._success.remove(*who)
        for phase in Phase:
            self._duration.remove(*who, phase.value)
        for reason in REASONS[check.kind]:
            self._results.remove(*who, reason.value)
        for state in State:
            self._state.remove(*who, state.value)

    def result(self, check: Check, result: Result) -> None:
        """Show a result; an unknown one says nothing about the target and leaves the gauges as they are."""
        self._results.labels(check.service, check.name, result.reason.value).inc()
        if result.verdict is State.UNKNOWN:
            return
        self._success.labels(check.service, check.name).set(result.success)
        for phase in Phase:
            if phase in result.phases:
                self._duration.labels(check.service, check.name, phase.value).set(result.phases[phase])
            elif not result.success:
                # A phase that was not reached keeps no old number.
                self._duration.remove(check.service, check.name, phase.value)

    def state(self, watched: Watched) -> None:
        """Show the state a check is in."""
        for state in State:
            value = state is watched.standing.state
            self._state.labels(watched.check.service, watched.check.name, state.value).set(value)


class Report:
    """Metrics and alerts of all checks.

    Args:
        external_url: where people reach the prober; alerts link to it.
    """

    def __init__(self, metrics: Metrics, posts: Posts, *, external_url: str) -> None:
        self._metrics = metrics
        self._posts = posts
        self._external_url = external_url
        self._checks: dict[str, Check] = {}
        self._log = telemetry.logger("tocsin.uptime.report")

    def replace(self, watched: Iterable[Watched], now: float) -> None:
        """Report on exactly these checks; alerts of those that are gone, or have other labels now, are resolved."""
        current = {item.check.name: item for item in watched}
        for name, before in list(self._checks.items()):
            after = current.get(name)
            if after is None or (after.check.service, after.check.kind) != (before.service, before.kind):
                self._metrics.end(before)
                del self._checks[name]
            if after is None or alerts.key(after.check) != alerts.key(before):
                self._withdraw(before, now)
                if after is not None and after.standing.state is State.DOWN:
                    self._fire(after.check, after.history.last, after.standing.since)
        for name, item in current.items():
            if name not in self._checks:
                self._metrics.begin(item)
            self._checks[name] = item.check

    def result(self, watched: Watched, result: Result, event: Event | None) -> None:
        """Tell of one result and the event it caused."""
        check = watched.check
        self._metrics.result(check, result)
        self._metrics.state(watched)
        if event is not None:
            tell = self._log.warning if event.change is Change.WENT_DOWN else self._log.info
            tell(f"{check.name} {event.change}", check=check.name, reason=result.reason, why=result.sentence)
        if event is not None and event.change is Change.RECOVERED:
            self._recovered(watched, event, result)
        elif result.verdict is State.DOWN and watched.standing.state is State.DOWN:
            # Not only on the event: after a restart the first failure takes up the alert again, and what it says
            # stays as new as the last probe.
            self._fire(check, result, watched.standing.since)

    def _fire(self, check: Check, result: Result | None, since: float) -> None:
        self._posts.put_up(alerts.firing(check, result, since, self._external_url))

    def _recovered(self, watched: Watched, event: Event, result: Result) -> None:
        check = watched.check
        known = self._posts.board.alerts.get(alerts.key(check))
        if known is None or known.ends_at is not None:
            # The prober was started anew during the outage; the router may still hold the alert open.
            failure = next((item for item in reversed(watched.history.recent) if item.verdict is State.DOWN), None)
            known = alerts.firing(check, failure, event.since, self._external_url)
        self._posts.put_up(alerts.resolved(known, check, result.at if event.until is None else event.until))

    def _withdraw(self, check: Check, now: float) -> None:
        """Resolve the alert of a check that is no longer watched."""
        known = self._posts.board.alerts.get(alerts.key(check))
        if known is not None and known.ends_at is None:
            self._posts.put_up(alerts.resolved(known, check, now))
