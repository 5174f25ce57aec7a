"""Which windows an error budget is watched over, and how fast it may burn in each. Pure.

Method: multi-window, multi-burn-rate alerts (Google, The Site Reliability Workbook, chapter 5). The long window says
that enough of the budget is gone to matter, the short one that it is still going. The book's windows belong to an
objective over 30 days; here they scale with the objective's own window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tocsin_dashboards.rule import Severity

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
MONTH = 30 * DAY
"""The window that the figures of TIERS belong to."""

SAMPLES = 4
"""Scrapes that the shortest window must hold: with fewer, one lost scrape makes a rate out of nothing."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One alert on one budget: it fires while both windows burn faster than `factor`.

    Attributes:
        short: seconds of the window that makes the alert end soon after the trouble.
        long: seconds of the window that makes it worth somebody's time.
        factor: pace; 1 spends exactly the whole budget within the objective's window.
    """

    alert: str
    severity: Severity
    short: float
    long: float
    factor: float


TIERS = (
    Pair("SloBudgetBurnFast", "page", 5 * MINUTE, HOUR, 14.4),
    Pair("SloBudgetBurn", "page", 30 * MINUTE, 6 * HOUR, 6),
    Pair("SloBudgetBurnSlow", "ticket", 2 * HOUR, DAY, 3),
    Pair("SloBudgetBurnCreep", "ticket", 6 * HOUR, 3 * DAY, 1),
)
"""The four alerts for an objective over 30 days, the fastest first."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """An alert that an objective cannot have, and why, in a sentence for its owner."""

    alert: str
    reason: str


def plan(*, budget: float, window: float, scrape_interval: float) -> tuple[tuple[Pair, ...], tuple[Dropped, ...]]:
    """Return the alerts that make sense for a budget, the fastest first, and those left out with the reason.

    Arguments:
        budget: share of requests that may fail, in (0, 1).
        window: seconds the objective looks back.
        scrape_interval: seconds between two samples of the metric.
    """
    kept: list[Pair] = []
    dropped: list[Dropped] = []
    for tier in TIERS:
        pair = scale(tier, window=window, scrape_interval=scrape_interval)
        reason = _objection(pair, kept, budget=budget, window=window)
        if reason is None:
            kept.append(pair)
        else:
            dropped.append(Dropped(pair.alert, reason))
    return tuple(kept), tuple(dropped)


def scale(tier: Pair, *, window: float, scrape_interval: float) -> Pair:
    """Return `tier` for an objective over `window` seconds, in whole seconds, each window long enough to measure in."""
    ratio = window / MONTH
    short = max(round(tier.short * ratio), math.ceil(SAMPLES * scrape_interval), 1)
    long = max(round(tier.long * ratio), 2 * short)
    return Pair(tier.alert, tier.severity, float(short), float(long), tier.factor)


def _objection(pair: Pair, kept: list[Pair], *, budget: float, window: float) -> str | None:
    if pair.factor * budget >= 1:
        # A share of failures cannot exceed 1, so the comparison could never hold.
        return (
            f"it needs {pair.factor:g} x {budget:.4g} = {pair.factor * budget:.4g} of all requests to fail, "
            f"more than there are; the slower alerts remain"
        )
    if pair.long > window:
        return f"its {pair.long:g} s window would be longer than the objective's own {window:g} s; scrape more often"
    for other in kept:
        if (other.short, other.long) == (pair.short, pair.long):
            return (
                f"at this scrape interval its windows ({pair.short:g} s and {pair.long:g} s) are those of {other.alert}"
            )
    return None
