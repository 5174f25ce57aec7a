"""Grafana dashboards, Prometheus rules and service level objectives, as code."""

from tocsin_dashboards.burn import Dropped, Pair
from tocsin_dashboards.rule import Links
from tocsin_dashboards.slo import Slo

__all__ = ["Dropped", "Links", "Pair", "Slo"]
