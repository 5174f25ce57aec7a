"""Our own telemetry: metrics made from `tocsin.names`, and one log format for all services."""

from __future__ import annotations

import sys
from typing import Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import tocsin
from tocsin import names

Format = Literal["json", "logfmt", "console"]


def counter(metric: names.Metric, registry: CollectorRegistry) -> Counter:
    """Make the counter that `metric` describes."""
    return Counter(metric.name.removesuffix("_total"), metric.help, metric.labels, registry=registry)


def gauge(metric: names.Metric, registry: CollectorRegistry) -> Gauge:
    """Make the gauge that `metric` describes."""
    return Gauge(metric.name, metric.help, metric.labels, registry=registry)


def histogram(metric: names.Metric, registry: CollectorRegistry) -> Histogram:
    """Make the histogram that `metric` describes."""
    return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)


def configure(service: str, *, level: str = "info", format: Format = "json") -> None:  # noqa: A002 the flag's name
    """Send the logs of this process to stderr, stdlib's included."""
    tocsin.configure_logs(service_name=service, level=level, format=format, stream=sys.stderr)


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of a module."""
    return tocsin.get_logger(name)
