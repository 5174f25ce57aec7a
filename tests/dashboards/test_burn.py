"""Windows and paces: the book's figures for 30 days, scaled for everything else."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tocsin_dashboards import burn

WINDOWS = st.floats(min_value=60, max_value=400 * burn.DAY)
SCRAPES = st.floats(min_value=0.1, max_value=300)
BUDGETS = st.floats(min_value=1e-6, max_value=0.999)


def test_thirty_days_have_the_windows_of_the_book() -> None:
    """Over 30 days the four alerts use 5m/1h, 30m/6h, 2h/1d and 6h/3d at 14.4, 6, 3 and 1 times the even pace."""
    kept, dropped = burn.plan(budget=0.001, window=burn.MONTH, scrape_interval=15)
    assert kept == burn.TIERS
    assert dropped == ()
    assert [(pair.short, pair.long, pair.factor, pair.severity) for pair in kept] == [
        (300, 3600, 14.4, "page"),
        (1800, 21_600, 6, "page"),
        (7200, 86_400, 3, "ticket"),
        (21_600, 259_200, 1, "ticket"),
    ]


def test_the_demo_window_gives_windows_of_seconds() -> None:
    """Over 12 hours scraped every 2 s, the fast alert looks at one minute, and at the shortest span worth measuring."""
    kept, dropped = burn.plan(budget=0.001, window=12 * burn.HOUR, scrape_interval=2)
    assert [(pair.short, pair.long) for pair in kept] == [(8, 60), (30, 360), (120, 1440), (360, 4320)]
    assert dropped == ()


def test_an_alert_that_could_never_fire_is_left_out_with_the_reason() -> None:
    """At 90 percent, 14.4 times the budget is more than all requests: the fast alert would be decoration."""
    kept, dropped = burn.plan(budget=0.1, window=burn.MONTH, scrape_interval=15)
    assert [pair.alert for pair in kept] == ["SloBudgetBurn", "SloBudgetBurnSlow", "SloBudgetBurnCreep"]
    assert [each.alert for each in dropped] == ["SloBudgetBurnFast"]
    assert "1.44 of all requests" in dropped[0].reason


def test_alerts_over_the_same_windows_are_left_out_with_the_reason() -> None:
    """When slow scrapes stretch two alerts to the same windows, the first one stays."""
    kept, dropped = burn.plan(budget=0.001, window=burn.HOUR, scrape_interval=15)
    assert [(pair.alert, pair.short, pair.long) for pair in kept] == [
        ("SloBudgetBurnFast", 60, 120),
        ("SloBudgetBurnCreep", 60, 360),
    ]
    assert [each.alert for each in dropped] == ["SloBudgetBurn", "SloBudgetBurnSlow"]
    assert all("SloBudgetBurnFast" in each.reason for each in dropped)


def test_a_window_longer_than_the_objective_is_left_out_with_the_reason() -> None:
    """One minute scraped every 15 s cannot hold even one pair of windows."""
    kept, dropped = burn.plan(budget=0.001, window=burn.MINUTE, scrape_interval=15)
    assert kept == ()
    assert len(dropped) == 4
    assert "scrape more often" in dropped[0].reason


@given(window=WINDOWS, scrape=SCRAPES, budget=BUDGETS)
@example(window=burn.MONTH, scrape=15.0, budget=0.001)
def test_windows_are_ordered_measurable_and_distinct(window: float, scrape: float, budget: float) -> None:
    """Whatever the objective: short < long <= window, enough scrapes in each, and no two alerts over the same."""
    kept, dropped = burn.plan(budget=budget, window=window, scrape_interval=scrape)
    assert {pair.alert for pair in kept} | {each.alert for each in dropped} == {tier.alert for tier in burn.TIERS}
    assert len(kept) + len(dropped) == len(burn.TIERS)
    for pair in kept:
        assert pair.short >= burn.SAMPLES * scrape
        assert 2 * pair.short <= pair.long <= window
        assert pair.factor * budget < 1
        assert pair.short == math.floor(pair.short)
        assert pair.long == math.floor(pair.long)
    for faster, slower in itertools.pairwise(kept):
        assert faster.factor > slower.factor
        assert (faster.short, faster.long) < (slower.short, slower.long)
        assert faster.long <= slower.long


@given(window=st.floats(min_value=10 * burn.DAY, max_value=400 * burn.DAY), tier=st.sampled_from(burn.TIERS))
def test_long_objectives_scale_in_proportion(window: float, tier: burn.Pair) -> None:
    """Where nothing has to be stretched, each window keeps its share of the objective's window, to half a second."""
    pair = burn.scale(tier, window=window, scrape_interval=15)
    assert pair.short == pytest.approx(tier.short * window / burn.MONTH, abs=0.5)
    assert pair.long == pytest.approx(tier.long * window / burn.MONTH, abs=0.5)
    assert (pair.alert, pair.factor, pair.severity) == (tier.alert, tier.factor, tier.severity)
