"""Webhooks that list alerts: Grafana's and Alertmanager's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tocsin_alerting.model import Incoming
from tocsin_alerting.sources import KINDS
from tocsin_alerting.sources.report import Report, UnreadableError
from tocsin_service.clock import parse_rfc3339
from tocsin_service.testing import FakeClock

NOW = FakeClock().now()
_DAY = 86_400


@pytest.fixture
def read(source: Callable[[str], Any]) -> Callable[..., Report]:
    def reader(kind: str, body: bytes, extra: str = "") -> Report:
        return KINDS[kind](body, {}, source(f"name: a, kind: {kind}, token: x{extra}"), NOW)

    return reader


def _with(body: bytes, index: int, **fields: object) -> bytes:
    data = json.loads(body)
    data["alerts"][index] |= fields
    return json.dumps(data).encode()


def test_grafana_firing(read: Callable[..., Report], payload: Callable[[str], bytes]) -> None:
    """It has no end there, so it ends in a day unless Grafana repeats it; links and values are annotations."""
    report = read("grafana", payload("grafana"))
    assert report.problems == ()
    assert report.alerts[0] == Incoming(
        labels={
            "alertname": "CheckoutErrors",
            "grafana_folder": "Shop",
            "instance": "web-1:8000",
            "service": "shop",
            "severity": "page",
        },
        annotations={
            "summary": "More than 5 % of checkouts fail",
            "runbook_url": "https://runbooks.shop.example/checkout",
            "dashboard_url": "https://grafana.shop.example/d/shop?orgId=1",
            "panel_url": "https://grafana.shop.example/d/shop?orgId=1&viewPanel=3",
            "silence_url": (
                "https://grafana.shop.example/alerting/silence/new?alertmanager=grafana"
                "&matcher=alertname%3DCheckoutErrors&orgId=1"
            ),
            "values": "A=7.23809, C=1",
        },
        starts_at=parse_rfc3339("2025-11-22T21:51:03.157076Z"),
        ends_at=NOW + _DAY,
        generator_url="https://grafana.shop.example/alerting/grafana/fdrk2hjz9/view?orgId=1",
    )


def test_grafana_resolved(read: Callable[..., Report], payload: Callable[[str], bytes]) -> None:
    """It has ended when Grafana says; older versions give values as text."""
    resolved = read("grafana", payload("grafana")).alerts[1]
    assert resolved.ends_at == parse_rfc3339("2025-11-22T23:58:30Z")
    assert resolved.annotations["values"] == "[ var='A' labels={instance=web-2:8000} value=0.2 ]"
    assert "panel_url" not in resolved.annotations


def test_annotations_of_the_rule_win(read: Callable[..., Report], payload: Callable[[str], bytes]) -> None:
    """Over links that Grafana makes."""
    body = _with(payload("grafana"), 0, annotations={"panel_url": "https://mine.example"})
    assert read("grafana", body).alerts[0].annotations["panel_url"] == "https://mine.example"


def test_alertmanager(read: Callable[..., Report], payload: Callable[[str], bytes]) -> None:
    """The same labels, so the same fingerprints as upstream."""
    firing, resolved = read("alertmanager", payload("alertmanager")).alerts
    assert firing == Incoming(
        labels={"alertname": "NodeDown", "cluster": "eu-1", "instance": "node-7:9100", "severity": "critical"},
        annotations={
            "summary": "node-7 does not answer",
            "description": "No scrape has worked for 5 minutes.",
        },
        starts_at=parse_rfc3339("2025-11-22T23:54:00.025Z"),
        ends_at=NOW + _DAY,
        generator_url="http://prometheus.eu-1.example:9090/graph?g0.expr=up+%3D%3D+0&g0.tab=1",
    )
    assert resolved.ends_at == parse_rfc3339("2025-11-22T23:59:00.025Z")


def test_resolve_after_is_chosen(read: Callable[..., Report], payload: Callable[[str], bytes]) -> None:
    """It should be longer than the sender's repeat_interval."""
    assert read("alertmanager", payload("alertmanager"), ", resolve_after: 5h").alerts[0].ends_at == NOW + 5 * 3600


@pytest.mark.parametrize("kind", ["grafana", "alertmanager"])
@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"labels": {"a": 1}}, "alerts[0]: Expected `str`, got `int` - at `$.labels[...]`"),
        ({"status": "pending"}, "alerts[0]: Invalid enum value 'pending' - at `$.status`"),
        ({"startsAt": "today"}, "alerts[0]: startsAt: not a time"),
        ({"labels": {"a": ""}}, "alerts[0]: it has no labels"),
    ],
)
def test_one_bad_alert_does_not_stop_the_others(
    read: Callable[..., Report], payload: Callable[[str], bytes], kind: str, fields: dict[str, object], problem: str
) -> None:
    """It is named by its position."""
    report = read(kind, _with(payload(kind), 0, **fields))
    assert len(report.alerts) == 1
    assert report.problems[0].startswith(problem)
    assert report.status == 400


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"alerts": null}', b"{}", b'{"alerts": [\xff]}', b"[" * 100_000])
def test_what_is_no_webhook_is_refused(read: Callable[..., Report], body: bytes) -> None:
    """As a whole, with a reason."""
    with pytest.raises(UnreadableError, match="the body is not a webhook with alerts"):
        read("grafana", body)


def test_alerts_that_were_left_out_are_noticed(read: Callable[..., Report], payload: Callable[[str], bytes]) -> None:
    """`max_alerts` upstream cuts the list, and nobody is told of the rest."""
    body = json.dumps({**json.loads(payload("alertmanager")), "truncatedAlerts": 12}).encode()
    assert read("alertmanager", body).truncated == 12
