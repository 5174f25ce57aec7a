"""Sources are read with the rest of the second file, and what is wrong is said with its line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tocsin_alerting.sources.report import Times, moment
from tocsin_service.settings import SettingsError

_MAPPING = "mapping: {labels: {alertname: $.title}}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("name: a, kind: grafana", "token or token_file or basic_auth is missing"),
        ("name: a, kind: grafana, token: x, basic_auth: {username: u, password: p}", "stand side by side"),
        ("name: a, kind: grafana, token: ''", "this secret is empty"),
        ("name: a, kind: grafana, basic_auth: {username: u}", "password or password_file is missing"),
        ("name: a, kind: sentry, token: x", 'unknown key "token"'),
        ("name: a, kind: sentry", "client_secret or client_secret_file is missing"),
        ("name: a, kind: grafna, token: x", "no such kind of source; expected kind: grafana, alertmanager, sentry"),
        ("name: a/b, kind: grafana, token: x", '"a/b" cannot be a name'),
        ("name: a, kind: grafana, token: x, resolve_after: 0s", "0 would end every alert at once"),
        ("name: a, kind: json, token: x", '"mapping" is missing'),
        ("name: a, kind: json, token: x, mapping: {labels: {host: $.host}}", "nothing says what an alert is called"),
        ("name: a, kind: json, token: x, mapping: {labels: {alertname: '$.a['}}", "is not a path"),
        ("name: a, kind: json, token: x, mapping: {labels: {alertname: '$.shout(a)'}}", "shout"),
        (f"name: a, kind: json, token: x, {_MAPPING[:-1]}, alerts: events}}", "fix: write $.events"),
        (f"name: a, kind: json, token: x, {_MAPPING[:-1]}, status: {{path: $.s}}}}", "no state is named"),
        (
            f"name: a, kind: json, token: x, {_MAPPING[:-1]}, status: {{path: $.s, firing: [a], resolved: [a]}}}}",
            '"a" stands in both lists',
        ),
        (f"name: a, kind: json, {_MAPPING}", "token or token_file or basic_auth or signature is missing"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(source: Callable[[str], Any], line: str, message: str) -> None:
    """Each entry needs exactly one way to know its sender."""
    with pytest.raises(SettingsError) as error:
        source(line)
    assert message in str(error.value)
    assert str(error.value).startswith("tocsin.yml:1:")


def test_names_are_addresses(configured: Callable[[str], Any]) -> None:
    """So no two sources share one."""
    with pytest.raises(SettingsError, match='two sources are called "a"'):
        configured("sources:\n- {name: a, kind: grafana, token: x}\n- {name: a, kind: alertmanager, token: y}")


def test_secrets_are_not_shown(source: Callable[[str], Any]) -> None:
    """Neither by the settings nor by what checks them."""
    settings = source("name: a, kind: grafana, basic_auth: {username: u, password: hush}")
    assert "hush" not in repr(settings) + repr(settings.check())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2025-11-23T00:00:00Z", 1_763_856_000.0),
        ("2025-11-23T02:00:00.123456789+02:00", 1_763_856_000.123456),
        ("1763856000", 1_763_856_000.0),
        (1_763_856_000, 1_763_856_000.0),
        (1_763_856_000_500, 1_763_856_000.5),
        ("1763856000500", 1_763_856_000.5),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        (None, None),
    ],
)
def test_times_come_in_three_notations(value: object, expected: float | None) -> None:
    """RFC 3339, Unix seconds, Unix milliseconds; Go's zero time is none."""
    assert moment(value) == expected


@pytest.mark.parametrize("value", ["yesterday", True, [1], "1e400", 1e300, "0001-01-01T00:00:00+05:00", "-", "."])
def test_anything_else_is_no_time(value: object) -> None:
    """And is said to be none."""
    with pytest.raises(ValueError, match="not a time"):
        moment(value)


def test_what_fires_ends_in_the_future() -> None:
    """At the latest after `resolve_after`, as many senders say only once a day that it still fires."""
    assert Times(50, None).settled(firing=True, now=100, resolve_after=10) == Times(50, 110)
    assert Times(50, 105).settled(firing=True, now=100, resolve_after=10) == Times(50, 105)
    assert Times(50, 90).settled(firing=True, now=100, resolve_after=10) == Times(50, 110)


def test_what_has_ended_ended_by_now() -> None:
    """Whatever the clock of the sender says."""
    assert Times(50, 90).settled(firing=False, now=100, resolve_after=10) == Times(50, 90)
    assert Times(105, 110).settled(firing=False, now=100, resolve_after=10) == Times(100, 100)
    assert Times(None, None).settled(firing=False, now=100, resolve_after=10) == Times(None, 100)
