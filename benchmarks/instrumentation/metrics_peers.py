"""Libraries that count requests for Prometheus, installed as their documentation says."""

from __future__ import annotations

from prometheus_fastapi_instrumentator import Instrumentator
from starlette_exporter import PrometheusMiddleware, handle_metrics
from variants import Made, application, nothing


def instrumentator(_: str) -> Made:
    app = application()
    Instrumentator().instrument(app).expose(app)
    return app, nothing


def starlette_exporter(_: str) -> Made:
    app = application()
    app.add_middleware(PrometheusMiddleware)
    app.add_route("/metrics", handle_metrics)
    return app, nothing
