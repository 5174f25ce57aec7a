"""What is counted of deliveries, replicas and maintenance, under the names that dashboards know."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tocsin_alerting.dedup import Told
from tocsin_alerting.muting import Cause
from tocsin_alerting.tables import LaneKey, Row, State
from tocsin_alerting.telemetry import Telemetry
from tocsin_alerting.testing import NOW, alert, config, notification
from tocsin_service.http import Failure

_LANE = LaneKey("{}:{}", "team", "webhook", 0)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def telemetry(registry: CollectorRegistry) -> Telemetry:
    return Telemetry(registry, ["webhook", "slack"])


def _row(attempts: int = 1) -> Row:
    told = Told(at=NOW, firing=frozenset(), resolved=frozenset())
    return Row(7, _LANE, 1, State.PENDING, NOW, attempts, None, told, notification(alert()))


def _value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_a_notification_is_counted_once_and_each_attempt_as_a_request(
    telemetry: Telemetry, registry: CollectorRegistry
) -> None:
    """Whatever the retries."""
    for attempts in (1, 2, 3):
        telemetry.attempt(_row(attempts))
        if attempts < 3:
            telemetry.refused(_row(attempts), "busy", 1.0)
    telemetry.delivered(_row(3), NOW + 2)
    kind = {"integration": "webhook"}
    assert _value(registry, "alertmanager_notifications_total", **kind) == 1
    assert _value(registry, "alertmanager_notification_requests_total", **kind) == 3
    assert _value(registry, "alertmanager_notification_requests_failed_total", **kind) == 2
    assert _value(registry, "alertmanager_notification_latency_seconds_count", **kind) == 3
    assert _value(registry, "tocsin_alerting_notification_latency_seconds_sum", **kind) == 2


def test_a_message_that_is_given_up_is_counted_with_its_reason(
    telemetry: Telemetry, registry: CollectorRegistry
) -> None:
    """The other reasons and kinds stand at zero."""
    telemetry.attempt(_row())
    telemetry.failed(_row(), "no", Failure.AUTH_ERROR)
    name = "alertmanager_notifications_failed_total"
    assert _value(registry, name, integration="webhook", reason="authError") == 1
    assert _value(registry, name, integration="webhook", reason="serverError") == 0
    assert _value(registry, name, integration="slack", reason="rateLimited") == 0


def test_receivers_are_named_where_that_was_asked_for(registry: CollectorRegistry) -> None:
    """All that are configured, from the start."""
    telemetry = Telemetry(registry, ["webhook"], features=frozenset({"receiver-name-in-metrics"}))
    text = 'route: {receiver: team}\nreceivers: [{name: team, webhook_configs: [{url: "http://127.0.0.1:1/"}]}]'
    telemetry.configured(config(text), NOW)
    labels: dict[str, Any] = {"integration": "webhook", "receiver_name": "team"}
    assert _value(registry, "alertmanager_notifications_total", **labels) == 0
    telemetry.attempt(_row())
    telemetry.failed(_row(), "no", Failure.OTHER)
    assert _value(registry, "alertmanager_notifications_failed_total", **labels, reason="other") == 1


def test_the_configuration_in_use_is_shown(telemetry: Telemetry, registry: CollectorRegistry) -> None:
    """And that a newer one was not taken."""
    text = 'route: {receiver: a}\nreceivers: [{name: a, webhook_configs: [{url: "http://127.0.0.1:1/"}]}, {name: b}]'
    loaded = config(text)
    telemetry.configured(loaded, NOW)
    telemetry.reload_refused()
    assert _value(registry, "alertmanager_receivers") == 2
    assert _value(registry, "alertmanager_integrations") == 1
    assert _value(registry, "alertmanager_config_hash") == loaded.hash
    assert _value(registry, "alertmanager_config_last_reload_successful") == 0
    assert _value(registry, "alertmanager_config_last_reload_success_timestamp_seconds") == NOW


def test_a_change_of_lead_is_counted(telemetry: Telemetry, registry: CollectorRegistry) -> None:
    """Not that it stays."""
    for leads in (True, True, False):
        telemetry.leading(leads=leads, epoch=3)
    assert _value(registry, "tocsin_alerting_lease_changes_total") == 2
    assert _value(registry, "tocsin_alerting_leader") == 0


def test_waits_mutes_and_maintenance_are_counted(telemetry: Telemetry, registry: CollectorRegistry) -> None:
    """Each under its own name."""
    telemetry.limited("slack", 1.5)
    telemetry.coalesced(2)
    telemetry.suppressed({Cause.SILENCE: 3})
    telemetry.not_durable()
    telemetry.processed(0.25)
    telemetry.maintained("silences", 0.5)
    telemetry.maintained("nflog", None)
    assert _value(registry, "tocsin_alerting_rate_limit_wait_seconds_total", integration="slack") == 1.5
    assert _value(registry, "tocsin_alerting_coalesced_total") == 2
    assert _value(registry, "alertmanager_notifications_suppressed_total", reason="silence") == 3
    assert _value(registry, "tocsin_alerting_not_durable_total") == 1
    assert _value(registry, "alertmanager_dispatcher_alert_processing_duration_seconds_sum") == 0.25
    assert _value(registry, "alertmanager_silences_gc_duration_seconds_sum") == 0.5
    assert _value(registry, "alertmanager_nflog_maintenance_errors_total") == 1
