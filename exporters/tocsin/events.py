"""Counters for what an application decides itself: one call each."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from tocsin import names
from tocsin.metrics.families import Families, families_of
from tocsin.request import CURRENT, OTHER

AUTH_FAILURE_REASONS = frozenset(("missing", "malformed", "expired", "bad_signature", "bad_audience", "unknown_kid"))
"""Why credentials are refused. Anything else is counted under `_OTHER`."""


def _families(registry: CollectorRegistry | None) -> Families:
    current = CURRENT.get()
    return current.families if registry is None and current is not None else families_of(registry)


def auth_failed(reason: str, *, registry: CollectorRegistry | None = None) -> None:
    """Count a request refused for its credentials in `tocsin_auth_failures_total`.

    Args:
        reason: one of missing, malformed, expired, bad_signature, bad_audience, unknown_kid; else counted under
            `_OTHER`.
        registry: where to count; default: where the current request is counted, else prometheus_client's REGISTRY.
    """
    _families(registry).add(names.AUTH_FAILURES, reason if reason in AUTH_FAILURE_REASONS else OTHER)


def rate_limited(route: str, policy: str, *, registry: CollectorRegistry | None = None) -> None:
    """Count a request refused by a rate limit in `tocsin_ratelimit_rejected_total`.

    Args:
        route: the route template, not the path: paths have no bound. Above 2,000 series `_OTHER` is counted.
        policy: the limit's name, for example `per-user`.
        registry: where to count; default: where the current request is counted, else prometheus_client's REGISTRY.
    """
    _families(registry).add(names.RATELIMIT_REJECTED, route, policy)
