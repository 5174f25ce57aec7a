"""Every metric and log field that tocsin writes, as data: the contract between code, dashboards and rules.

Dashboards and rules take names from here, so that a renamed metric fails a test instead of emptying a panel.
HTTP names are the OpenTelemetry stable HTTP semantic conventions in Prometheus form; alert router names are
Alertmanager's, so that existing dashboards and alerts keep working.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "summary", "info"]
Merge = Literal["sum", "max", "min", "max_ever"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric family: its full name as scraped (counters with `_total`), kind, help text and label names."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds in the metric's unit, without +Inf; histograms only."""
    merge: Merge = "sum"
    """How the workers of one server become one number. Only for gauges: `sum`, `max`, `min` over living workers,
    `max_ever` over dead ones too. Everything else is always summed, over dead workers too."""
    query: str = ""
    """An example for a person: what to ask Prometheus about it. All metrics of the library have one."""


# --- the library: one HTTP request ------------------------------------------------------------------------------

HTTP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bucket bounds the OpenTelemetry HTTP conventions advise, in seconds."""

HTTP_SERVER_REQUEST_DURATION = Metric(
    "http_server_request_duration_seconds",
    "histogram",
    "Seconds from the first byte of the request to the last byte of the answer.",
    ("http_request_method", "http_route", "http_response_status_code"),
    HTTP_SECONDS,
    query=(
        "sum "
        'by (http_route) (rate(http_server_request_duration_seconds_count{http_response_status_code=~"5.."}[5m])) '
        "/ sum by (http_route) (rate(http_server_request_duration_seconds_count[5m]))"
    ),
)
HTTP_SERVER_ACTIVE_REQUESTS = Metric(
    "http_server_active_requests",
    "gauge",
    "Requests being answered now.",
    ("http_request_method",),
    query="sum(http_server_active_requests)",
)
HTTP_SERVER_EXCEPTIONS = Metric(
    "http_server_exceptions_total",
    "counter",
    "Exceptions that left the application, each counted once.",
    ("http_request_method", "http_route", "error_type"),
    query="topk(5, sum by (http_route, error_type) (increase(http_server_exceptions_total[1h])))",
)
WEBSOCKET_ACTIVE = Metric(
    "tocsin_websocket_active",
    "gauge",
    "WebSocket connections open now.",
    ("http_route",),
    query="sum by (http_route) (tocsin_websocket_active)",
)
WEBSOCKET_DURATION = Metric(
    "tocsin_websocket_duration_seconds",
    "histogram",
    "Seconds from the handshake of a WebSocket to its end, by the code it was closed with.",
    ("http_route", "close_code"),
    (0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0),
    query='sum by (http_route, close_code) (rate(tocsin_websocket_duration_seconds_count{close_code!="1000"}[5m]))',
)
WEBSOCKET_MESSAGES = Metric(
    "tocsin_websocket_messages_total",
    "counter",
    "WebSocket messages, by direction (received, sent).",
    ("http_route", "direction"),
    query="sum by (http_route, direction) (rate(tocsin_websocket_messages_total[5m]))",
)
TARGET_INFO = Metric(
    "target_info",
    "info",
    "The service behind this page.",
    ("service_name", "service_version", "telemetry_sdk_name"),
    query="count by (service_name, service_version) (target_info)",
)
TOCSIN_DROPPED = Metric(
    "tocsin_dropped_total",
    "counter",
    "Telemetry the library could not record, write or export, by signal and reason.",
    ("signal", "reason"),
    query="sum by (signal, reason) (increase(tocsin_dropped_total[1h])) > 0",
)
SPANS_EXPORTED = Metric(
    "tocsin_spans_exported_total",
    "counter",
    "Spans a collector has accepted.",
    (),
    query="sum(rate(tocsin_spans_exported_total[5m]))",
)
AUTH_FAILURES = Metric(
    "tocsin_auth_failures_total",
    "counter",
    "Requests refused for their credentials: missing, malformed, expired, bad_signature, bad_audience, unknown_kid.",
    ("reason",),
    query="sum by (reason) (rate(tocsin_auth_failures_total[5m]))",
)
RATELIMIT_REJECTED = Metric(
    "tocsin_ratelimit_rejected_total",
    "counter",
    "Requests refused by a rate limit, by route and policy.",
    ("http_route", "policy"),
    query="topk(5, sum by (http_route, policy) (rate(tocsin_ratelimit_rejected_total[5m])))",
)

# --- the library: what the application does -----------------------------------------------------------------------

OPERATION_DURATION = Metric(
    "tocsin_operation_duration_seconds",
    "histogram",
    "Seconds an operation marked with `observe` took, by outcome (ok, error, cancelled).",
    ("operation", "outcome"),
    HTTP_SECONDS,
    query="histogram_quantile(0.95, sum by (operation, le) (rate(tocsin_operation_duration_seconds_bucket[5m])))",
)
JOB_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
JOB_DURATION = Metric(
    "tocsin_job_duration_seconds",
    "histogram",
    "Seconds a background job took, by outcome (ok, error, retry, missed, cancelled).",
    ("job", "outcome"),
    JOB_SECONDS,
    query='sum by (job) (increase(tocsin_job_duration_seconds_count{outcome!="ok"}[1h])) > 0',
)
JOB_ACTIVE = Metric(
    "tocsin_job_active",
    "gauge",
    "Background jobs running now.",
    ("job",),
    query="sum by (job) (tocsin_job_active)",
)
JOB_LAST_SUCCESS = Metric(
    "tocsin_job_last_success_timestamp_seconds",
    "gauge",
    "When a background job last succeeded, in Unix seconds.",
    ("job",),
    merge="max_ever",
    query="time() - tocsin_job_last_success_timestamp_seconds > 86400",
)
HTTP_CLIENT_REQUEST_DURATION = Metric(
    "http_client_request_duration_seconds",
    "histogram",
    "Seconds an outgoing HTTP request took; `error_type` says why there was no answer.",
    ("http_request_method", "server_address", "http_response_status_code", "error_type"),
    HTTP_SECONDS,
    query='sum by (server_address, error_type) (rate(http_client_request_duration_seconds_count{error_type!=""}[5m]))',
)
DB_OPERATION_DURATION = Metric(
    "db_client_operation_duration_seconds",
    "histogram",
    "Seconds a database statement took, by operation (SELECT, INSERT, ...) and role (primary, replica).",
    ("db_system_name", "db_operation_name", "db_role", "error_type"),
    (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0),
    query=(
        "histogram_quantile(0.95, sum "
        "by (db_operation_name, db_role, le) (rate(db_client_operation_duration_seconds_bucket[5m])))"
    ),
)
DB_CONNECTIONS = Metric(
    "db_client_connection_count",
    "gauge",
    "Connections of a pool, by state (used, idle).",
    ("db_client_connection_pool_name", "db_role", "db_client_connection_state"),
    query=(
        "sum "
        'by (db_client_connection_pool_name) (db_client_connection_count{db_client_connection_state="used"}) '
        "/ sum by (db_client_connection_pool_name) (db_client_connection_max)"
    ),
)
DB_CONNECTIONS_MAX = Metric(
    "db_client_connection_max",
    "gauge",
    "Connections a pool may have, overflow included.",
    ("db_client_connection_pool_name", "db_role"),
    query="sum by (db_client_connection_pool_name, db_role) (db_client_connection_max)",
)
DB_WAITING = Metric(
    "db_client_connection_pending_requests",
    "gauge",
    "Callers waiting for a connection of a pool now.",
    ("db_client_connection_pool_name", "db_role"),
    query="max_over_time(db_client_connection_pending_requests[5m]) > 0",
)
DB_TIMEOUTS = Metric(
    "db_client_connection_timeouts_total",
    "counter",
    "Callers that gave up waiting for a connection of a pool.",
    ("db_client_connection_pool_name", "db_role"),
    query="sum by (db_client_connection_pool_name) (increase(db_client_connection_timeouts_total[5m])) > 0",
)
DB_WAIT = Metric(
    "db_client_connection_wait_time_seconds",
    "histogram",
    "Seconds callers waited for a connection of a pool.",
    ("db_client_connection_pool_name", "db_role"),
    (0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0),
    query=(
        "histogram_quantile(0.95, sum "
        "by (db_client_connection_pool_name, le) (rate(db_client_connection_wait_time_seconds_bucket[5m])))"
    ),
)

# --- the library: the process -------------------------------------------------------------------------------------

LOOP_LAG = Metric(
    "tocsin_event_loop_lag_seconds",
    "histogram",
    "Seconds the event loop was late for a timer: how long every request waits for code that blocks.",
    (),
    (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    query="histogram_quantile(0.99, sum by (le) (rate(tocsin_event_loop_lag_seconds_bucket[5m])))",
)
GC_PAUSE = Metric(
    "tocsin_gc_pause_seconds",
    "histogram",
    "Seconds the garbage collector stopped everything, by generation.",
    ("generation",),
    (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0),
    query="sum by (generation) (rate(tocsin_gc_pause_seconds_sum[5m]))",
)
PROCESS_THREADS = Metric(
    "process_threads",
    "gauge",
    "Threads of the process, over all workers.",
    (),
    query="process_threads",
)
MEMORY_USAGE = Metric(
    "tocsin_memory_usage_bytes",
    "gauge",
    "Memory charged to the container (cgroup), without page cache that can be dropped.",
    (),
    merge="max",
    query="tocsin_memory_usage_bytes / tocsin_memory_limit_bytes > 0.9",
)
MEMORY_LIMIT = Metric(
    "tocsin_memory_limit_bytes",
    "gauge",
    "Memory the container may use (cgroup); absent if there is no limit.",
    (),
    merge="max",
    query="tocsin_memory_limit_bytes",
)
WORKERS = Metric(
    "tocsin_workers",
    "gauge",
    "Worker processes alive.",
    (),
    query="tocsin_workers",
)
WORKER_STARTS = Metric(
    "tocsin_worker_starts_total",
    "counter",
    "Worker processes started since the server began.",
    (),
    query="increase(tocsin_worker_starts_total[1h]) > 0",
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

ALERTS = Metric("alertmanager_alerts", "gauge", "Alerts that fire, by state.", ("state",))
ALERTS_RECEIVED = Metric(
    "alertmanager_alerts_received_total", "counter", "Alerts received, by status.", ("status", "version")
)
ALERTS_INVALID = Metric("alertmanager_alerts_invalid_total", "counter", "Alerts refused as invalid.", ("version",))
ALERTS_LIMITED = Metric(
    "alertmanager_alerts_limited_total",
    "counter",
    "Alerts refused because too many of their alertname fire; the name is shown with alert-names-in-metrics only.",
    ("alertname",),
)
ALERTS_LIMIT = Metric(
    "alertmanager_alerts_per_alert_limit", "gauge", "Firing alerts of one alertname that are taken; 0 is no limit."
)
NOTIFICATIONS = Metric("alertmanager_notifications_total", "counter", "Notifications attempted.", ("integration",))
NOTIFICATIONS_FAILED = Metric(
    "alertmanager_notifications_failed_total",
    "counter",
    "Notifications that failed for good, by reason.",
    ("integration", "reason"),
)
NOTIFICATIONS_SUPPRESSED = Metric(
    "alertmanager_notifications_suppressed_total",
    "counter",
    "Alerts that were muted when their group was looked at, by what mutes them.",
    ("reason",),
)
NOTIFICATION_REQUESTS = Metric(
    "alertmanager_notification_requests_total", "counter", "Requests made to receivers.", ("integration",)
)
NOTIFICATION_REQUESTS_FAILED = Metric(
    "alertmanager_notification_requests_failed_total", "counter", "Requests to receivers that failed.", ("integration",)
)
NOTIFICATION_SECONDS = Metric(
    "alertmanager_notification_latency_seconds",
    "histogram",
    "Seconds an attempt to notify took.",
    ("integration",),
    (1.0, 5.0, 10.0, 15.0, 20.0),
)
SILENCES = Metric("alertmanager_silences", "gauge", "Silences, by state.", ("state",))
SILENCES_MAINTENANCE = Metric(
    "alertmanager_silences_maintenance_total", "counter", "Times that old silences were looked for, to delete them."
)
SILENCES_MAINTENANCE_ERRORS = Metric(
    "alertmanager_silences_maintenance_errors_total", "counter", "Times that failed, of the silences' maintenance."
)
SILENCES_GC = Metric("alertmanager_silences_gc_duration_seconds", "summary", "Seconds that deleting old silences took.")
NFLOG_MAINTENANCE = Metric(
    "alertmanager_nflog_maintenance_total", "counter", "Times that old notifications were looked for, to delete them."
)
NFLOG_MAINTENANCE_ERRORS = Metric(
    "alertmanager_nflog_maintenance_errors_total", "counter", "Times that failed, of the notifications' maintenance."
)
NFLOG_GC = Metric("alertmanager_nflog_gc_duration_seconds", "summary", "Seconds that deleting old notifications took.")
GROUPS = Metric("alertmanager_dispatcher_aggregation_groups", "gauge", "Groups of alerts that are open.", ())
ALERT_PROCESSING = Metric(
    "alertmanager_dispatcher_alert_processing_duration_seconds",
    "summary",
    "Seconds from the body of a request for alerts to its answer: what is new is written down by then.",
)
RECEIVERS = Metric("alertmanager_receivers", "gauge", "Receivers of the configuration.")
INTEGRATIONS = Metric("alertmanager_integrations", "gauge", "Integrations of all receivers together.")
INHIBITION_RULES = Metric("alertmanager_inhibition_rules", "gauge", "Inhibition rules of the configuration.")
CONFIG_HASH = Metric("alertmanager_config_hash", "gauge", "Changes with the configuration in use.")
CONFIG_LAST_RELOAD_OK = Metric(
    "alertmanager_config_last_reload_successful", "gauge", "1 if the last reload of the configuration was taken."
)
CONFIG_LAST_RELOAD = Metric(
    "alertmanager_config_last_reload_success_timestamp_seconds",
    "gauge",
    "When a configuration was last taken into use, in Unix seconds.",
)
CLUSTER_ENABLED = Metric(
    "alertmanager_cluster_enabled", "gauge", "0: replicas of tocsin share a database, they do not gossip."
)
ROUTER_BUILD_INFO = Metric(
    "alertmanager_build_info",
    "gauge",
    "1, with the Alertmanager whose API this is as version, and what runs as revision.",
    ("branch", "goversion", "revision", "version"),
)
ROUTER_HTTP_SECONDS = Metric(
    "alertmanager_http_request_duration_seconds",
    "histogram",
    "Seconds that requests took.",
    ("handler", "method", "code"),
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
ROUTER_HTTP_BYTES = Metric(
    "alertmanager_http_response_size_bytes",
    "histogram",
    "Bytes of answers' bodies.",
    ("handler", "method"),
    (100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8),
)
ROUTER_HTTP_IN_FLIGHT = Metric(
    "alertmanager_http_requests_in_flight", "gauge", "Requests being answered now.", ("method",)
)
ROUTER_HTTP_LIMITED = Metric(
    "alertmanager_http_concurrency_limit_exceeded_total",
    "counter",
    "Requests refused because too many were being answered.",
    ("method",),
)
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
COALESCED = Metric(
    "tocsin_alerting_coalesced_total", "counter", "Notifications that a newer one about the group replaced unsent."
)
RATE_LIMIT_WAIT = Metric(
    "tocsin_alerting_rate_limit_wait_seconds_total",
    "counter",
    "Seconds that notifications waited for their destination's rate, or because it asked for time.",
    ("integration",),
)
LEADER = Metric("tocsin_alerting_leader", "gauge", "1 if this replica tells receivers.")
LEASE_CHANGES = Metric(
    "tocsin_alerting_lease_changes_total", "counter", "Times this replica began or ceased to tell receivers."
)
NOT_DURABLE = Metric(
    "tocsin_alerting_not_durable_total",
    "counter",
    "Requests whose alerts were taken and could not be written down; they were answered with 500.",
)
DATABASE_ERRORS = Metric("tocsin_alerting_database_errors_total", "counter", "Times the database could not be used.")
SOURCE_REQUESTS = Metric(
    "tocsin_alerting_source_requests_total",
    "counter",
    "Requests of alert sources beside Prometheus, by the status they were answered with.",
    ("source", "code"),
)
HEARTBEAT_LAST_SEEN = Metric(
    "tocsin_alerting_heartbeat_last_seen_timestamp_seconds",
    "gauge",
    "When a heartbeat was last received by any replica, in Unix seconds; absent if never.",
    ("heartbeat",),
)
HEARTBEAT_PINGS = Metric(
    "tocsin_alerting_heartbeat_pings_total",
    "counter",
    "Pings to external watchers, by outcome (delivered, failed); withheld: times the router was not well.",
    ("ping", "outcome"),
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
