"""The committed dashboard is one Grafana can load anywhere, and the checks on it see what they should."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tocsin_dashboards import build, lint, rules, service
from tocsin_dashboards.panels import Panel, Query, dashboard

Json = dict[str, Any]


def known() -> frozenset[str]:
    return lint.series_of_metrics() | lint.recorded(rules.build(build.DEFAULT_SLOS, scrape_interval=15))


def test_the_service_dashboard_passes_every_check() -> None:
    """Unique ids, no overlap, units, descriptions, datasource variables, and only metrics that something writes."""
    assert lint.dashboard(service.build(), known=known()) == []


def test_the_service_dashboard_is_what_links_point_to() -> None:
    """Alerts and pages link to it by its uid, which must not change."""
    board = service.build()
    assert board["uid"] == "tocsin-service"
    assert board["schemaVersion"] >= 39
    assert [variable["name"] for variable in board["templating"]["list"]] == [
        "datasource",
        "service",
        "instance",
        "http_route",
    ]


def test_latency_panels_show_exemplars() -> None:
    """From a slow dot a reader gets to its trace."""
    queries = {panel["title"]: panel["targets"] for panel in service.build()["panels"]}
    assert all(target["exemplar"] for target in queries["Duration"])
    assert [target["legendFormat"] for target in queries["Duration"]] == ["p50", "p95", "p99"]


def test_a_row_that_is_too_wide_is_refused() -> None:
    """A panel beyond column 24 would be moved by Grafana to a place nobody chose."""
    wide = Panel("Wide", "stat", "s", "Too wide.", (Query("up"),), width=13, height=4)
    with pytest.raises(ValueError, match='panel "Wide" ends at column 26; a row has 24'):
        dashboard(uid="x", title="X", description="X.", variables=[], rows=[[wide, wide]])


def _same_id(board: Json) -> None:
    board["panels"][1]["id"] = board["panels"][0]["id"]


def _same_ref(board: Json) -> None:
    for panel in board["panels"]:
        for target in panel["targets"]:
            target["refId"] = "A"


def _overlap(board: Json) -> None:
    board["panels"][1]["gridPos"] = dict(board["panels"][0]["gridPos"])


def _too_wide(board: Json) -> None:
    board["panels"][-1]["gridPos"]["w"] = 20


def _no_unit(board: Json) -> None:
    board["panels"][0]["fieldConfig"]["defaults"]["unit"] = ""


def _no_description(board: Json) -> None:
    board["panels"][0]["description"] = ""


def _no_query(board: Json) -> None:
    board["panels"][0]["targets"] = []


def _fixed_datasource(board: Json) -> None:
    board["panels"][0]["targets"][0]["datasource"] = {"type": "prometheus", "uid": "prometheus"}


def _datasource_by_name(board: Json) -> None:
    board["panels"][0]["datasource"] = "Prometheus"


def _renamed_metric(board: Json) -> None:
    board["panels"][0]["targets"][0]["expr"] = "sum(rate(http_requests_total[$__rate_interval]))"


def _bucketless(board: Json) -> None:
    board["panels"][0]["targets"][0]["expr"] = "http_server_request_duration_seconds"


def _not_promql(board: Json) -> None:
    board["panels"][0]["targets"][0]["expr"] = "sum(rate(up[5m])"


def _unknown_variable(board: Json) -> None:
    board["panels"][0]["targets"][0]["expr"] = 'up{env="${environment}"}'


def _dead_annotation(board: Json) -> None:
    board["annotations"]["list"][0]["expr"] = "deployments"


def _dead_variable(board: Json) -> None:
    board["templating"]["list"][1]["definition"] = "label_values(http_requests_total, service)"


def _too_many(board: Json) -> None:
    board["panels"] += [
        dict(board["panels"][0], id=100 + n, gridPos={"x": 0, "y": 99 + n, "w": 1, "h": 1}) for n in (0, 1)
    ]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_same_id, "panel id 1 stands 2 times"),
        (_same_ref, "refId A stands 3 times"),
        (_overlap, "lie on top of each other"),
        (_too_wide, "does not fit into 24 columns"),
        (_no_unit, "no unit"),
        (_no_description, "no description"),
        (_no_query, "no query"),
        (_fixed_datasource, "write a variable"),
        (_datasource_by_name, "write a variable"),
        (_renamed_metric, "nothing writes the series http_requests_total"),
        (_bucketless, "nothing writes the series http_server_request_duration_seconds:"),
        (_not_promql, "not PromQL"),
        (_unknown_variable, "the variable $environment is not defined"),
        (_dead_annotation, 'annotation "Alerts": nothing writes the series deployments'),
        (_dead_variable, "variable $service: nothing writes the series http_requests_total"),
        (_too_many, "at most 16"),
    ],
)
def test_each_check_sees_its_mistake(spoil: Callable[[Json], None], words: str) -> None:
    """A dashboard with one mistake gets a sentence that names it."""
    board = copy.deepcopy(service.build())
    spoil(board)
    assert any(words in problem for problem in lint.dashboard(board, known=known()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expr": "absent(jenkins_up)"}, "nothing writes the series jenkins_up"),
        ({"expr": '{job="x"}'}, "nothing writes the series (without a name)"),
        ({"expr": "1 +"}, "not PromQL"),
        ({"labels": {"severity": "critical"}}, "severity is critical"),
        ({"labels": {}}, "severity is None"),
        ({"annotations": {"summary": "x", "description": "y"}}, "no annotation runbook_url"),
    ],
)
def test_a_mute_or_wordless_alert_is_seen(change: dict[str, Any], words: str) -> None:
    """A rules file with one mistake gets a sentence that names it."""
    document = rules.build([], scrape_interval=15)
    (watchdog,) = (rule for _, rule in lint.each_rule(document) if rule.get("alert") == "Watchdog")
    spoiled: Json = {"name": "own", "interval": "15s", "rules": [{**watchdog, **change}]}
    problems = lint.rules({"groups": [*document["groups"], spoiled]})
    assert [problem for problem in problems if problem.startswith("own/Watchdog") and words in problem]
