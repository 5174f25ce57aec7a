"""What Alertmanager takes as flags: how the router runs, beside what its configuration says. Durations are seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """One value per flag; the defaults are Alertmanager's.

    Args:
        external_url: where people reach the router, for links in messages; without a slash at its end.
        route_prefix: prefix of every endpoint: empty, or `/prefix`.
        retention: `--data.retention`, of ended silences and what was told.
        gc_interval: `--alerts.gc-interval`.
        per_alertname_limit: alerts of one `alertname` that are kept; 0 is no limit.
        start_delay: `--dispatch.start-delay`, before the first group is looked at.
        get_concurrency: GETs answered at once; more get 503. 0 is the greater of 8 and the number of CPUs.
        web_timeout: limit of a request; 0 is none.
        log_silences: log each change of a silence.
        max_silences, max_silence_size: limits; 0 is none.
        features: names given to `--enable-feature`.
    """

    external_url: str = "http://127.0.0.1:9093"
    route_prefix: str = ""
    retention: float = 432_000.0
    gc_interval: float = 1800.0
    per_alertname_limit: int = 0
    start_delay: float = 0.0
    get_concurrency: int = 0
    web_timeout: float = 0.0
    log_silences: bool = False
    max_silences: int = 0
    max_silence_size: int = 0
    features: frozenset[str] = frozenset()
