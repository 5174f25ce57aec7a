"""Observability for a web application in one line: `tocsin.instrument(app)`.

Metrics for Prometheus, spans for OpenTelemetry, and structured logs for Elasticsearch, which point at each other.
"""

from tocsin.events import auth_failed, rate_limited
from tocsin.install import instrument, uninstrument
from tocsin.lifecycle import force_flush, shutdown
from tocsin.logs.configure import configure_logs, get_logger, stdlib_handler
from tocsin.metrics.server import metrics_app, metrics_wsgi, serve
from tocsin.observe import observe
from tocsin.request import trace_headers
from tocsin.settings import installed_version as _installed_version

__all__ = [
    "__version__",
    "auth_failed",
    "configure_logs",
    "force_flush",
    "get_logger",
    "instrument",
    "metrics_app",
    "metrics_wsgi",
    "observe",
    "rate_limited",
    "serve",
    "shutdown",
    "stdlib_handler",
    "trace_headers",
    "uninstrument",
]


def __getattr__(name: str) -> str:
    if name == "__version__":  # read when asked for: it costs a look at the disk
        return _installed_version()
    raise AttributeError(f"module 'tocsin' has no attribute {name!r}")
