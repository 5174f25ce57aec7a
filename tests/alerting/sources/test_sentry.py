"""Webhooks of Sentry's integration platform."""

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
    def reader(resource: str, body: bytes, extra: str = "") -> Report:
        settings = source(f"name: a, kind: sentry, client_secret: x{extra}")
        return KINDS["sentry"](body, {"sentry-hook-resource": resource}, settings, NOW)

    return reader


def _changed(body: bytes, **fields: object) -> bytes:
    return json.dumps(json.loads(body) | fields).encode()


def test_an_issue_alert_fires(read: Callable[..., Report], payload: Callable[[str], bytes]) -> None:
    """The project's name is in the address of the event, which else gives a number."""
    report = read("event_alert", payload("sentry_event_alert"))
    web = "https://sentry.io/organizations/shop-gmbh/issues/1117540176/events/9b3d8a3b2a5f4b1c8e6d0a1f2c3b4a5e/"
    assert report.alerts == (
        Incoming(
            labels={"alertname": "SentryIssue", "project": "checkout", "issue": "1117540176", "level": "error"},
            annotations={
                "summary": "PaymentDeclinedError: gateway answered 502",
                "description": "shop.checkout.pay",
                "link": web,
                "rule": "Checkout breaks",
                "environment": "production",
                "release": "shop@2.14.0",
            },
            starts_at=parse_rfc3339("2025-11-22T23:58:41.310Z"),
            ends_at=NOW + _DAY,
            generator_url=web,
        ),
    )
    assert report.over == {"alertname": "SentryIssue", "project": "checkout", "issue": "1117540176"}


def test_a_resolved_issue_ends_all_that_fires_for_it(
    read: Callable[..., Report], payload: Callable[[str], bytes]
) -> None:
    """Its level may have changed since: what is over is said by project and issue."""
    fired = read("event_alert", payload("sentry_event_alert"))
    report = read("issue", payload("sentry_issue_resolved"))
    assert report.over == fired.over
    assert [(alert.labels["level"], alert.ends_at) for alert in report.alerts] == [("fatal", NOW)]


@pytest.mark.parametrize("action", ["archived", "ignored"])
def test_an_archived_issue_is_over(read: Callable[..., Report], payload: Callable[[str], bytes], action: str) -> None:
    """`ignored` is what older versions say."""
    assert read("issue", _changed(payload("sentry_issue_resolved"), action=action)).alerts[0].ends_at == NOW


@pytest.mark.parametrize(
    ("action", "start"), [("created", parse_rfc3339("2025-11-20T08:12:00.12Z")), ("unresolved", None)]
)
def test_an_issue_that_begins_fires(
    read: Callable[..., Report], payload: Callable[[str], bytes], action: str, start: float | None
) -> None:
    """One that comes back begins now, not when it was first seen."""
    body = _changed(payload("sentry_issue_resolved"), action=action)
    (alert,) = read("issue", body).alerts
    assert (alert.starts_at, alert.ends_at) == (start, NOW + _DAY)
    assert alert.annotations["short_id"] == "CHECKOUT-4K"
    quiet = read("issue", body, ", new_issues: false")
    assert (quiet.alerts, quiet.problems) == ((), ())
    assert "new_issues: false" in quiet.note


def test_a_metric_alert_fires_and_ends(read: Callable[..., Report], payload: Callable[[str], bytes]) -> None:
    """One rule is one alert, at the level it is at."""
    report = read("metric_alert", payload("sentry_metric_alert"))
    (alert,) = report.alerts
    assert alert.labels == {
        "alertname": "SentryMetricAlert",
        "project": "checkout",
        "alert_rule": "7",
        "level": "critical",
    }
    assert alert.annotations["summary"] == "Critical: Too many errors"
    assert alert.annotations["description"].startswith("1204 events in the last 10 minutes")
    assert alert.starts_at == parse_rfc3339("2025-11-22T23:50:00Z")
    resolved = read("metric_alert", _changed(payload("sentry_metric_alert"), action="resolved"))
    assert resolved.over == report.over
    assert report.over == {"alertname": "SentryMetricAlert", "project": "checkout", "alert_rule": "7"}
    assert resolved.alerts[0].ends_at == NOW


def test_two_sentries_do_not_end_each_others_alerts(
    read: Callable[..., Report], payload: Callable[[str], bytes]
) -> None:
    """Ids are small numbers on a server of one's own; the labels of the source tell them apart."""
    report = read("event_alert", payload("sentry_event_alert"), ", labels: {sentry: staging, level: none}")
    assert report.over["sentry"] == "staging"
    assert "level" not in report.over


@pytest.mark.parametrize(
    ("resource", "action"), [("issue", "assigned"), ("comment", "created"), ("installation", "created")]
)
def test_what_is_no_alert_is_passed_over(
    read: Callable[..., Report], payload: Callable[[str], bytes], resource: str, action: str
) -> None:
    """Without an error: Sentry switches off webhooks that fail."""
    report = read(resource, _changed(payload("sentry_issue_resolved"), action=action))
    assert (report.alerts, report.problems) == ((), ())
    assert "passed over" in report.note


@pytest.mark.parametrize(
    ("resource", "body", "reason"),
    [
        ("", b"{}", "Sentry-Hook-Resource is missing"),
        ("event_alert", b"{}", "required field `action`"),
        ("event_alert", b"nonsense", "not a webhook of Sentry"),
        ("event_alert", b'{"action": "triggered", "data": {"event": {"title": "x"}}}', "`issue_id`"),
        (
            "event_alert",
            b'{"action": "triggered", "data": {"event": {"issue_id": 1, "datetime": "noon"}}}',
            '"noon" is not a time',
        ),
    ],
)
def test_what_is_no_webhook_is_refused(read: Callable[..., Report], resource: str, body: bytes, reason: str) -> None:
    """With a reason."""
    with pytest.raises(UnreadableError, match=reason):
        read(resource, body)
