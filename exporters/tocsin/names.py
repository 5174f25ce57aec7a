"""Every metric and log field that tocsin writes, as data: the contract between code, dashboards and rules.

Dashboards and rules take names from here, so that a renamed metric fails a test instead of emptying a panel.
HTTP names are the OpenTelemetry stable HTTP semantic conventions in Prometheus form; alert router names are
Alertmanager's, so that existing dashboards and alerts keep working.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric family: its full name as scraped (counters with `_total`), kind, help text and label names."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds in the metric's unit, without +Inf; histograms only."""


# --- the library: one HTTP request ------------------------------------------------------------------------------

HTTP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bucket bounds the OpenTelemetry HTTP conventions advise, in seconds."""

HTTP_SERVER_REQUEST_DURATION = Metric(
    "http_server_request_duration_seconds",
    "histogram",
    "Seconds from the first byte of the request to the last byte of the answer.",
    ("http_request_method", "http_route", "http_response_status_code"),
    HTTP_SECONDS,
)
HTTP_SERVER_ACTIVE_REQUESTS = Metric(
    "http_server_active_requests", "gauge", "Requests being answered now.", ("http_request_method",)
)
TARGET_INFO = Metric(
    "target_info", "info", "The service behind this page.", ("service_name", "service_version", "telemetry_sdk_name")
)
TOCSIN_DROPPED = Metric(
    "tocsin_dropped_total",
    "counter",
    "Telemetry the library could not record or write, by signal and reason.",
    ("signal", "reason"),
)
AUTH_FAILURES = Metric(
    "tocsin_auth_failures_total",
    "counter",
    "Requests refused for their credentials, by reason (missing, expired, bad_signature, bad_audience, unknown_kid).",
    ("reason",),
)
RATELIMIT_REJECTED = Metric(
    "tocsin_ratelimit_rejected_total",
    "counter",
    "Requests refused by a rate limit, by route and policy.",
    ("http_route", "policy"),
)

# --- the prober -------------------------------------------------------------------------------------------------

PROBE_SUCCESS = Metric("tocsin_probe_success", "gauge", "1 if the last probe succeeded.", ("service", "check"))
PROBE_DURATION = Metric(
    "tocsin_probe_duration_seconds", "gauge", "Seconds the last probe spent, by phase.", ("service", "check", "phase")
)
PROBE_RESULTS = Metric(
    "tocsin_probe_results_total", "counter", "Probes done, by outcome reason.", ("service", "check", "reason")
)
PROBE_STATE = Metric(
    "tocsin_probe_state",
    "gauge",
    "1 for the state a check is in (up, degraded, down, unknown), 0 for the others.",
    ("service", "check", "state"),
)
PROBE_LATENESS = Metric(
    "tocsin_probe_lateness_seconds", "gauge", "Seconds the last probe started after its planned instant.", ()
)
PROBE_ALERTS = Metric(
    "tocsin_uptime_alert_posts_total", "counter", "Posts of alerts to the alert router, by outcome.", ("outcome",)
)
PROBE_HISTORY_ERRORS = Metric(
    "tocsin_uptime_history_errors_total", "counter", "Writes of probe results to the database that failed.", ()
)

# --- the alert router -------------------------------------------------------------------------------------------

ALERTS = Metric("alertmanager_alerts", "gauge", "Alerts known, by state.", ("state",))
ALERTS_RECEIVED = Metric(
    "alertmanager_alerts_received_total", "counter", "Alerts received, by status.", ("status", "version")
)
ALERTS_INVALID = Metric("alertmanager_alerts_invalid_total", "counter", "Alerts refused as invalid.", ("version",))
NOTIFICATIONS = Metric("alertmanager_notifications_total", "counter", "Notifications attempted.", ("integration",))
NOTIFICATIONS_FAILED = Metric(
    "alertmanager_notifications_failed_total",
    "counter",
    "Notifications that failed for good, by reason.",
    ("integration", "reason"),
)
NOTIFICATION_REQUESTS = Metric(
    "alertmanager_notification_requests_total", "counter", "Requests made to receivers.", ("integration",)
)
NOTIFICATION_REQUESTS_FAILED = Metric(
    "alertmanager_notification_requests_failed_total", "counter", "Requests to receivers that failed.", ("integration",)
)
GROUPS = Metric("alertmanager_dispatcher_aggregation_groups", "gauge", "Groups of alerts that are open.", ())
OUTBOX_PENDING = Metric("tocsin_alerting_outbox_pending", "gauge", "Notifications written and not yet delivered.", ())
OUTBOX_OLDEST = Metric(
    "tocsin_alerting_outbox_oldest_seconds", "gauge", "Age of the oldest notification not yet delivered.", ()
)
NOTIFICATION_LATENCY = Metric(
    "tocsin_alerting_notification_latency_seconds",
    "histogram",
    "Seconds from the instant a group was due to its acceptance by the receiver.",
    ("integration",),
    (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)

# --- the log shipper --------------------------------------------------------------------------------------------

SHIP_READ = Metric("tocsin_ship_read_total", "counter", "Log lines read.", ("input",))
SHIP_ACKED = Metric("tocsin_ship_acked_total", "counter", "Log lines a sink has taken for good.", ("output",))
SHIP_RETRIED = Metric("tocsin_ship_retried_total", "counter", "Log lines sent again.", ("output", "reason"))
SHIP_DEAD = Metric(
    "tocsin_ship_dead_total",
    "counter",
    "Log lines a sink refused for good, kept as dead letters.",
    ("output", "reason"),
)
SHIP_LAG_BYTES = Metric(
    "tocsin_ship_lag_bytes", "gauge", "Bytes written and not yet acknowledged.", ("input", "output")
)
SHIP_LAG_SECONDS = Metric(
    "tocsin_ship_lag_seconds", "gauge", "Seconds since everything read was acknowledged.", ("input", "output")
)

# --- every service ----------------------------------------------------------------------------------------------

BUILD_INFO = Metric("tocsin_build_info", "gauge", "1, with the version that runs.", ("part", "version"))
CONFIG_RELOAD_OK = Metric(
    "tocsin_config_last_reload_successful", "gauge", "1 if the last reload of the configuration was taken.", ("part",)
)
PART_UP = Metric("tocsin_part_up", "gauge", "1 if a part of this process is up.", ("part",))
ENGINE_RESTARTS = Metric(
    "tocsin_engine_restarts_total", "counter", "Times the supervised Prometheus ended and was started again.", ()
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of the above, in the order they stand here."""


class Field:
    """Names of the fields of a log event (Elastic Common Schema, dotted; `trace_id` also flat for Grafana links)."""

    TIMESTAMP = "@timestamp"
    LEVEL = "log.level"
    MESSAGE = "message"
    LOGGER = "log.logger"
    ECS_VERSION = "ecs.version"
    SERVICE_NAME = "service.name"
    SERVICE_VERSION = "service.version"
    SERVICE_ENVIRONMENT = "service.environment"
    DATASET = "event.dataset"
    DURATION_NS = "event.duration"
    TRACE_ID = "trace.id"
    SPAN_ID = "span.id"
    TRACE_ID_FLAT = "trace_id"
    METHOD = "http.request.method"
    STATUS = "http.response.status_code"
    ROUTE = "http.route"
    PATH = "url.path"
    CLIENT_IP = "client.ip"
    ERROR_TYPE = "error.type"
    ERROR_MESSAGE = "error.message"
    ERROR_STACK = "error.stack_trace"
