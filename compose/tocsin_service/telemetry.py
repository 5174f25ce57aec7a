"""Our own telemetry: metrics made from `tocsin.names`, and one log format for all services."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import tocsin
from tocsin import names

_LIBRARIES = ("alembic", "apscheduler", "asyncio", "httpcore", "httpx", "slack_sdk", "sqlalchemy", "uvicorn")

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


def configure(service: str, *, level: str = "info", format: Format = "json", stream: TextIO | None = None) -> None:  # noqa: A002
    """Send the logs of this process to `stream` (stderr by default), those of libraries from `warning` on.

    Below that, libraries say what they do, not what is wrong; httpx for one writes whole URLs, and the URL of a
    webhook is its password.
    """
    tocsin.configure_logs(service_name=service, level=level, format=format, stream=stream or sys.stderr)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of a module."""
    return tocsin.get_logger(name)
