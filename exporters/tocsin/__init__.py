"""Observability for a web application in one line: `tocsin.instrument(app)`.

Metrics for Prometheus, structured logs for Elasticsearch, and W3C trace ids that make them point at each other.
"""

from tocsin.events import auth_failed, rate_limited
from tocsin.install import instrument, uninstrument
from tocsin.logs.configure import configure_logs, get_logger, stdlib_handler
from tocsin.request import trace_headers
from tocsin.settings import installed_version as _installed_version

__all__ = [
    "__version__",
    "auth_failed",
    "configure_logs",
    "get_logger",
    "instrument",
    "rate_limited",
    "stdlib_handler",
    "trace_headers",
    "uninstrument",
]


def __getattr__(name: str) -> str:
    if name == "__version__":  # read when asked for: it costs a look at the disk
        return _installed_version()
    raise AttributeError(f"module 'tocsin' has no attribute {name!r}")
