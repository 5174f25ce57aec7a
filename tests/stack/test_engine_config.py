"""The section `prometheus` of tocsin.yml becomes a prometheus.yml, or a list of what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tocsin_service import web
from tocsin_service.settings import Document, SettingsError
from tocsin_stack import engine_config

LISTEN = web.Address("127.0.0.1", 9090)


def read(text: str) -> engine_config.EngineConfig:
    return engine_config.load(Document.parse(text, file="tocsin.yml", folder=Path("/etc/tocsin")), "prometheus")


def written(text: str, **options: Any) -> Any:
    given: dict[str, Any] = {"listen": LISTEN, "router": None, "parts": {}, "rules": None, **options}
    return yaml.safe_load(engine_config.prometheus_yml(read(text), **given))


def test_an_empty_section_has_defaults() -> None:
    """Nothing needs to be said: five seconds, fifteen days, and Prometheus scrapes itself."""
    config = read("")
    assert (config.scrape_interval, config.evaluation_interval, config.retention) == (5.0, 5.0, 15 * 86_400.0)
    assert written("") == {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": [],
        "scrape_configs": [
            {
                "job_name": "prometheus",
                "static_configs": [{"targets": ["127.0.0.1:9090"], "labels": {"service": "prometheus"}}],
            }
        ],
    }


def test_a_scrape_carries_service_and_job_as_labels() -> None:
    """Dashboards ask by `service`; two scrapes of one service do not clash."""
    found = written(
        """
        prometheus:
          scrape:
            - {service: shop, targets: ["127.0.0.1:8000", "[::1]:8001"], interval: 2s, labels: {env: live}}
            - {service: shop, job: edge, targets: [edge.internal:9113], metrics_path: /nginx}
        """
    )
    assert found["scrape_configs"][:2] == [
        {
            "job_name": "1-shop",
            "metrics_path": "/metrics",
            "scrape_interval": "2s",
            "static_configs": [
                {
                    "targets": ["127.0.0.1:8000", "[::1]:8001"],
                    "labels": {"env": "live", "service": "shop", "job": "shop"},
                }
            ],
        },
        {
            "job_name": "2-shop",
            "metrics_path": "/nginx",
            "static_configs": [{"targets": ["edge.internal:9113"], "labels": {"service": "shop", "job": "edge"}}],
        },
    ]


def test_alerts_go_to_the_router_and_all_parts_are_scraped() -> None:
    """An address on all interfaces is reached over loopback."""
    found = written(
        "prometheus: {rule_files: [own/*.yml]}",
        router=web.Address("0.0.0.0", 9093),
        parts={"alerting": web.Address("127.0.0.1", 9093)},
        rules=Path("/data/rules.yml"),
    )
    assert found["alerting"] == {
        "alertmanagers": [{"api_version": "v2", "static_configs": [{"targets": ["127.0.0.1:9093"]}]}]
    }
    assert found["rule_files"] == ["/data/rules.yml", "/etc/tocsin/own/*.yml"]
    assert found["scrape_configs"][-1] == {
        "job_name": "tocsin-alerting",
        "static_configs": [{"targets": ["127.0.0.1:9093"], "labels": {"service": "tocsin-alerting"}}],
    }


def test_a_promise_has_a_month_and_ten_failures_by_default() -> None:
    """The least one says is name, service and objective."""
    (slo,) = read("prometheus: {slos: [{name: availability, service: shop, objective: 99.9}]}").slos
    assert (slo.window, slo.route, slo.min_bad_events) == (30 * 86_400.0, None, 10)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "prometheus: {scrape: [{service: shop, targets: ['http://127.0.0.1:8000/metrics']}]}",
            "is a URL; expected host:port; fix: leave the scheme and the path out",
        ),
        ("prometheus: {scrape: [{service: shop, targets: [shop]}]}", '"shop" is not a target; expected host:port'),
        ("prometheus: {scrape: [{service: shop, targets: []}]}", "prometheus.scrape[0].targets: there is no target"),
        ("prometheus: {scrape: [{targets: ['a:1']}]}", '"service" is missing in prometheus.scrape[0]'),
        (
            "prometheus: {scrape: [{service: a, targets: ['a:1'], labels: {job: x}}]}",
            'the label "job" is set by tocsin',
        ),
        ("prometheus: {scrape: [{service: a, targets: ['a:1'], labels: {a-b: x}}]}", '"a-b" is not a label name'),
        ("prometheus: {scrape_interval: 0}", "prometheus.scrape_interval: the duration is zero"),
        ("prometheus: {slos: [{name: a, service: s, objective: 100}]}", "prometheus.slos[0].objective: found a number"),
        (
            "prometheus: {slos: [{name: a, service: s, objective: 99}, {name: a, service: s, objective: 98}]}",
            'two slos of "s" are called "a"',
        ),
        ("prometheus: {retension: 3d}", 'unknown key "retension"'),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, problem: str) -> None:
    """Each mistake is found before Prometheus sees it."""
    with pytest.raises(SettingsError) as caught:
        read(text)
    (found,) = caught.value.problems
    assert str(found).startswith("tocsin.yml:1:")
    assert problem in str(found)
