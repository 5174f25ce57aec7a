"""Objectives: what they accept and what rules they become."""

from __future__ import annotations

from typing import Any

import promql_parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_dashboards import Links, Slo, burn, lint, rules, slo


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": ""}, "the name is empty"),
        ({"objective": 100}, "percent between 0 and 100"),
        ({"objective": 0}, "percent between 0 and 100"),
        ({"objective": float("nan")}, "percent between 0 and 100"),
        ({"window": 10}, "at least 60 s"),
        ({"min_bad_events": 0}, "write 1 or more"),
    ],
)
def test_an_objective_out_of_bounds_is_refused_in_words(values: dict[str, Any], words: str) -> None:
    """What could not be watched is refused at once, with what to write instead."""
    with pytest.raises(ValueError, match=words):
        Slo(**{"name": "availability", "service": "shop", "objective": 99.9, **values})


def test_the_budget_is_the_share_that_may_fail() -> None:
    """99.9 percent leaves exactly 0.001, without the dust of floating point."""
    assert str(Slo("a", "shop", 99.9).budget) == "0.001"
    assert str(Slo("a", "shop", 99.95).budget) == "0.0005"


def expressions(document: rules.Document) -> list[str]:
    return [str(rule["expr"]) for _, rule in lint.each_rule(document)]


def test_windows_beyond_six_hours_add_up_recorded_rates() -> None:
    """The raw metric is read for at most six hours; longer windows walk over one recorded sample a minute."""
    quick, slow = slo.groups(Slo("availability", None, 99.9), scrape_interval=15, evaluation_interval=15, links=Links())
    assert (quick["interval"], slow["interval"]) == ("15s", "1m")
    by_name = {rule.get("record"): str(rule["expr"]) for _, rule in lint.each_rule({"groups": [quick, slow]})}
    assert "increase(http_server_request_duration_seconds_count[6h])" in by_name["slo:total:increase6h"]
    assert by_name["slo:total:increase1d"] == 'sum_over_time(slo:total:rate5m{slo="availability"}[1d]) * 60'


@pytest.mark.parametrize("service", ["shop", None])
def test_two_objectives_that_would_write_the_same_series_are_refused(service: str | None) -> None:
    """A name may serve two services, never the same one twice."""
    first = Slo("availability", "shop", 99.9)
    with pytest.raises(ValueError, match="cover service shop"):
        rules.build([first, Slo("availability", service, 99)], scrape_interval=15)
    assert rules.build([first, Slo("availability", "cart", 99)], scrape_interval=15)["groups"]


def test_an_interval_of_nothing_is_refused() -> None:
    """Without a positive interval no window can be chosen."""
    with pytest.raises(ValueError, match="the scrape interval is 0 s"):
        rules.build([], scrape_interval=0)


def test_dropped_alerts_are_told() -> None:
    """The owner of a low objective reads which alert is missing and why."""
    (sentence,) = rules.warnings([Slo("loose", "shop", 90)], scrape_interval=15)
    assert sentence.startswith("slo loose: SloBudgetBurnFast left out: ")


@given(
    objective=st.floats(min_value=1, max_value=99.9999),
    window=st.floats(min_value=60, max_value=400 * burn.DAY),
    scrape=st.floats(min_value=0.1, max_value=120),
    service=st.none() | st.text(min_size=1, max_size=8),
    route=st.none() | st.text(min_size=1, max_size=8),
)
def test_any_objective_gives_rules_that_parse_and_refer_to_something(
    objective: float, window: float, scrape: float, service: str | None, route: str | None
) -> None:
    """Whatever the numbers, names and routes: valid PromQL, which reads only what exists or is recorded beside it."""
    document = rules.build([Slo("a", service, objective, window, route)], scrape_interval=scrape)
    assert lint.rules(document) == []
    for expr in expressions(document):
        promql_parser.parse(expr)
    assert rules.render(document) == rules.render(document)
