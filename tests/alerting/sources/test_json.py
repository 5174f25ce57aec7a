"""JSON of any shape, read by a mapping."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_alerting.model import Incoming
from tocsin_alerting.sources import KINDS
from tocsin_alerting.sources.generic import JsonSettings
from tocsin_alerting.sources.report import Report, UnreadableError
from tocsin_service.clock import parse_rfc3339
from tocsin_service.settings import Document
from tocsin_service.testing import FakeClock

NOW = FakeClock().now()
_SOURCE = """
name: deploys
kind: json
token: x
labels: {severity: ticket}
mapping:
  alerts: $.events[*]
  labels:
    alertname: $.title
    service: shop
    cluster: ^.cluster
    host: $.host
    attempt: $.attempt
    canary: $.canary
    rack: $.rack
  annotations:
    summary: $.join(' on ', [title, host])
    description: $.message || 'no message'
  status: {path: $.state, firing: [open, down], resolved: [ok, closed]}
  starts_at: $.opened
  ends_at: $.closed
  generator_url: $.links[?rel=='log'] | [0].href
"""


def _settings(text: str = _SOURCE) -> JsonSettings:
    return Document.parse(text).read(JsonSettings)


def _read(body: object, settings: JsonSettings | None = None) -> Report:
    return KINDS["json"](json.dumps(body).encode(), {}, settings or _settings(), NOW)


def _mapped(mapping: str) -> JsonSettings:
    return _settings(f"{{name: a, kind: json, token: x, mapping: {mapping}}}")


def test_a_mapping_finds_the_parts_of_alerts(payload: Callable[[str], bytes]) -> None:
    """Constants stand as they are; `$.` begins at the alert, `^.` at the body; what is not there is left out."""
    report = KINDS["json"](payload("deploys"), {}, _settings(), NOW)
    assert report.problems == ()
    assert report.alerts == (
        Incoming(
            labels={
                "alertname": "DeployFailed",
                "service": "shop",
                "cluster": "eu-1",
                "host": "web-1",
                "attempt": "3",
                "canary": "true",
            },
            annotations={"summary": "DeployFailed on web-1", "description": "migration 0042 timed out"},
            starts_at=1_763_855_900.0,
            ends_at=NOW + 86_400,
            generator_url="https://ci.shop.example/runs/811",
        ),
        Incoming(
            labels={
                "alertname": "DeployFailed",
                "service": "shop",
                "cluster": "eu-1",
                "host": "web-2",
                "attempt": "1",
                "canary": "false",
            },
            annotations={"summary": "DeployFailed on web-2", "description": "image not found"},
            starts_at=1_763_855_000.0,
            ends_at=parse_rfc3339("2025-11-22T23:59:10Z"),
        ),
    )


def test_without_alerts_the_body_is_one_alert_or_a_list() -> None:
    """What a curl in a script sends."""
    settings = _mapped("{labels: {alertname: $.title}}")
    assert [a.labels for a in _read({"title": "A"}, settings).alerts] == [{"alertname": "A"}]
    assert [a.labels["alertname"] for a in _read([{"title": "A"}, {"title": "B"}], settings).alerts] == ["A", "B"]
    assert _read([], settings) == Report()


@pytest.mark.parametrize(
    ("status", "value", "fires"),
    [
        ("{path: $.s, firing: [down]}", "down", True),
        ("{path: $.s, firing: [down]}", "whatever", False),
        ("{path: $.s, resolved: [ok]}", "ok", False),
        ("{path: $.s, resolved: [ok]}", "whatever", True),
        ("{path: $.s, firing: [true], resolved: [false]}", True, True),
        ("{path: $.s, firing: [2, 3]}", 2, True),
        ("{path: '$.s == `0`', resolved: [true]}", 0, False),
    ],
)
def test_the_state_is_told_by_values(status: str, value: object, fires: bool) -> None:
    """A list that is left out holds everything else."""
    (alert,) = _read({"s": value}, _mapped(f"{{labels: {{alertname: A}}, status: {status}}}")).alerts
    assert (alert.ends_at == NOW + 86_400) is fires


def test_without_a_state_an_end_in_the_past_is_one() -> None:
    """And an end to come is kept."""
    settings = _mapped("{labels: {alertname: A}, ends_at: $.end}")
    assert _read({"end": NOW - 5}, settings).alerts[0].ends_at == NOW - 5
    assert _read({"end": NOW + 5}, settings).alerts[0].ends_at == NOW + 5


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"alarms": []}, "alerts: $.events[*] finds nothing in this body"),
        ("text", "alerts: $.events[*] finds nothing in this body"),
        ({"events": [{"state": "open"}]}, "alerts[0]: labels.alertname: $.title finds nothing"),
        ({"events": [{"title": "", "state": "open"}]}, "alerts[0]: labels.alertname: $.title finds nothing"),
        ({"events": [{"title": "A", "host": "h"}]}, "alerts[0]: status: $.state finds nothing"),
    ],
)
def test_a_mapping_that_finds_nothing_says_where_it_looked(body: object, problem: str) -> None:
    """422: the JSON is good, the mapping does not fit it."""
    body = json.loads(json.dumps(body).replace('"state"', '"host": "h", "state"'))
    report = _read(body)
    assert (report.problems, report.status) == ((problem,), 422)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"host": ["a", "b"]}, "alerts[0]: labels.host: $.host is a list; expected text or a number"),
        ({"attempt": {}}, "alerts[0]: labels.attempt: $.attempt is an object"),
        ({"state": "odd"}, 'alerts[0]: status: $.state is "odd"; expected one of open, down, ok, closed'),
        ({"opened": "noon"}, "alerts[0]: starts_at: $.opened is not a time"),
        ({"title": 5}, "alerts[0]: annotations.summary: $.join(' on ', [title, host]): In function join()"),
    ],
)
def test_a_value_that_does_not_fit_is_named(fields: dict[str, object], problem: str) -> None:
    """With its path and what was expected; the other alerts are taken."""
    event = {"title": "A", "state": "open", "host": "h"}
    report = _read({"events": [event | fields, event, "text"]})
    assert len(report.alerts) == 1
    assert report.problems[0].startswith(problem)
    assert report.problems[1] == "alerts[2]: not an object"
    assert report.status == 400


def test_what_is_not_json_is_refused() -> None:
    """With the place where it breaks."""
    with pytest.raises(UnreadableError, match="not JSON"):
        KINDS["json"](b'{"events": [', {}, _settings(), NOW)


def test_default_labels_can_name_an_alert(source: Callable[[str], Any]) -> None:
    """Where the body does not."""
    settings = source("name: a, kind: json, token: x, labels: {alertname: Script}, mapping: {labels: {host: $.h}}")
    assert _read({"h": "web-1"}, settings).alerts[0].labels == {"host": "web-1"}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["events", "title", "state", "host", "opened", "links", "rel"]), inner)
    ),
    max_leaves=20,
)


@given(_JSON)
def test_no_body_breaks_the_reader(body: object) -> None:
    """Whatever is posted is read or refused with reasons."""
    try:
        report = _read(body)
    except UnreadableError:
        return
    assert all(isinstance(value, str) for alert in report.alerts for value in alert.labels.values())


@pytest.mark.parametrize("depth", [200, 900, 100_000])
def test_deep_bodies_are_no_danger(depth: int) -> None:
    """Neither to the decoder nor to an expression that writes them as text."""
    body = b'{"title": "A", "deep": ' + b"[" * depth + b"]" * depth + b"}"
    settings = _mapped("{labels: {alertname: $.title}, annotations: {deep: $.to_string(deep)}}")
    try:
        report = KINDS["json"](body, {}, settings, NOW)
    except UnreadableError:
        return
    assert report.alerts or report.problems
