"""The configuration file: what it may hold, its defaults, and mistakes with their places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tocsin_service.settings import Document, SettingsError
from tocsin_uptime import config
from tocsin_uptime.config import Alertmanager, Config
from tocsin_uptime.state import Confirm

Load = Callable[[str], Config]


def test_a_name_and_a_url_are_enough(load: Load) -> None:
    """Everything else has a default."""
    check = load("endpoints: [{name: shop, url: 'https://shop.example/health?key=1'}]").checks[0]
    assert (check.name, check.service, check.kind, check.severity) == ("shop", "shop", "http", "page")
    assert (check.interval, check.timeout, check.confirm) == (30.0, 5.0, Confirm(3, 5.0, 2))
    assert [str(one) for one in check.conditions] == ["[STATUS] >= 200", "[STATUS] < 300"]
    assert (check.target.host, check.target.port, check.target.shown) == (
        "shop.example",
        443,
        "https://shop.example/health",
    )
    assert check.target.request.startswith(b"GET /health?key=1 HTTP/1.1\r\nHost: shop.example\r\n")


def test_an_endpoint_goes_over_the_defaults_key_by_key(load: Load) -> None:
    """A part of `confirm` leaves the rest of the defaults in force."""
    loaded = load(
        """
        defaults: {interval: 10s, timeout: 2s, confirm: {failures: 5, every: 1s}}
        alertmanagers: [{url: "http://router:9093/", resend: 30s}, {url: "http://other:9093"}]
        endpoints:
          - {name: a, url: "tcp://10.0.0.1:5432", confirm: {failures: 2}, interval: 1m, severity: ticket}
          - name: b
            url: http://b.example:8080
            service: shop
            group: web
            timeout: 10s
            conditions: ["[RESPONSE_TIME] < 800ms"]
            degraded: ["[RESPONSE_TIME] < 300ms"]
            labels: {team: web}
            runbook: https://wiki/b
        """
    )
    a, b = loaded.checks
    assert (a.kind, a.interval, a.timeout, a.confirm, a.severity) == ("tcp", 60.0, 2.0, Confirm(2, 1.0, 2), "ticket")
    assert (b.service, b.group, b.timeout, b.labels, b.runbook) == (
        "shop",
        "web",
        10.0,
        {"team": "web"},
        "https://wiki/b",
    )
    assert [str(one) for one in b.conditions] == ["[STATUS] >= 200", "[STATUS] < 300", "[RESPONSE_TIME] < 800ms"]
    assert loaded.alertmanagers == (Alertmanager("http://router:9093", 30.0), Alertmanager("http://other:9093", 60.0))


def test_a_condition_on_the_status_replaces_the_default(load: Load) -> None:
    """Who says which status is fine is taken at their word."""
    check = load("endpoints: [{name: a, url: 'http://a', conditions: ['[STATUS] == 401']}]").checks[0]
    assert [str(one) for one in check.conditions] == ["[STATUS] == 401"]


def test_a_request_is_made_of_method_headers_and_body(load: Load) -> None:
    """What is configured is what is sent; Host and User-Agent can be replaced."""
    check = load(
        """
        endpoints:
          - name: api
            url: http://127.0.0.1:8000/orders
            method: post
            headers: {Host: shop.example, Authorization: Bearer abcdefghij, user-agent: me}
            body: '{"x": 1}'
        """
    ).checks[0]
    assert check.target.request == (
        b"POST /orders HTTP/1.1\r\nHost: shop.example\r\nAuthorization: Bearer abcdefghij\r\nuser-agent: me\r\n"
        b"Accept: */*\r\nContent-Length: 8\r\nConnection: close\r\n\r\n"
        b'{"x": 1}'
    )
    assert "abcdefghij" in check.target.secrets
    assert "abcdefghij" not in repr(check)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("http://shop.example", "shop.example", 80),
        ("http://[::1]:8080/x", "::1", 8080),
        ("https://bücher.example/", "xn--bcher-kva.example", 443),
        ("tcp://[2001:db8::1]:22", "2001:db8::1", 22),
        ("tcp://db.internal:5432", "db.internal", 5432),
    ],
)
def test_a_url_is_taken_apart(load: Load, text: str, host: str, port: int) -> None:
    """Ports have their defaults, IPv6 its brackets, and names the form DNS knows."""
    target = load(f"endpoints: [{{name: a, url: '{text}'}}]").checks[0].target
    assert (target.host, target.port) == (host, port)


def test_a_timeout_that_nobody_chose_gives_way_to_a_short_interval(load: Load) -> None:
    """`interval: 2s` alone is fine; a timeout somebody wrote is not changed behind their back."""
    assert load("endpoints: [{name: a, url: 'http://a', interval: 2s}]").checks[0].timeout == 2.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("endpoints: [{name: a}]", '1:13: "url" is missing in endpoints[0]'),
        ("endpoints: [{name: a, url: ftp://a}]", "1:23: this is not a URL that can be probed; expected http://"),
        ("endpoints: [{name: a, url: 'http://'}]", "1:23: this is not a URL that can be probed"),
        ("endpoints: [{name: a, url: shop.example}]", "1:23: this is not a URL that can be probed"),
        ("endpoints: [{name: a, url: 'http://['}]", "1:23: this is not a URL that can be probed"),
        ("endpoints: [{name: a, url: 'http://xn--/'}]", "1:23: this is not a URL that can be probed"),
        ("endpoints: [{name: a, url: 'http://sh op/'}]", "1:23: this is not a URL that can be probed"),
        ("endpoints: [{name: a, url: 'http://a:65536'}]", "1:23: this is not a URL that can be probed"),
        ("endpoints: [{name: a, url: 'tcp://a:0'}]", "1:23: this is not a URL that can be probed"),
        ("alertmanagers: [{url: 'http://['}]", "1:18: alertmanagers[0].url: this is not the URL of a router"),
        ("endpoints: [{name: a, url: 'tcp://a'}]", "1:23: a TCP check needs a host and a port"),
        ("endpoints: [{name: a, url: 'tcp://a:1/x'}]", "1:23: a TCP check needs a host and a port"),
        ("endpoints: [{name: a, url: 'http://u:p@a'}]", "1:23: the URL holds a user and password; fix: put them"),
        ("endpoints: [{name: a, url: 'tcp://a:1', method: GET}]", '1:41: "method" belongs to HTTP checks'),
        ("endpoints: [{name: a, url: 'http://a', method: BREW}]", '1:40: endpoints[0].method: "BREW" is no method'),
        ("endpoints: [{name: a, url: 'http://a', interval: 10}]", "1:40: endpoints[0].interval: 10 has no unit"),
        ("endpoints: [{name: a, url: 'http://a', interval: 0}]", "1:40: endpoints[0].interval: the interval is too"),
        ("endpoints: [{name: a, url: 'http://a', timeout: 1m}]", "1:40: the timeout of 1m is longer than the interval"),
        (
            "defaults: {timeout: 9s}\nendpoints: [{name: a, url: 'http://a', interval: 2s}]",
            "2:40: the timeout of 9s is longer than the interval of 2s; expected timeout <= interval",
        ),
        (
            "endpoints: [{name: a, url: 'http://a'},\n {name: a, url: 'http://b'}]",
            '2:3: there are two endpoints named "a"; fix: give one another name',
        ),
        ("endpoints: [{name: a/b, url: 'http://a'}]", "1:14: endpoints[0].name: this cannot be a name"),
        (
            "endpoints:\n- name: a\n  url: http://a\n  conditions:\n  - '[STATUS] == 200'\n  - '[STATUS] == has(x)'",
            "6:5: there is no function has(); expected a plain value for [STATUS]",
        ),
        (
            "endpoints: [{name: a, url: 'tcp://a:1', conditions: ['[STATUS] == 200']}]",
            "1:54: a TCP check has no [STATUS]; expected [CONNECTED] or [RESPONSE_TIME]",
        ),
        (
            "endpoints: [{name: a, url: 'TCP://a:1', conditions: ['[STATUS] == 200']}]",
            "1:54: a TCP check has no [STATUS]; expected [CONNECTED] or [RESPONSE_TIME]",
        ),
        (
            "endpoints: [{name: a, url: 'http://a', labels: {severity: page}}]",
            '1:40: endpoints[0].labels: the label "severity" is set by the prober',
        ),
        (
            "endpoints: [{name: a, url: 'http://a', labels: {a-b: x}}]",
            '1:40: endpoints[0].labels: "a-b" cannot be a label',
        ),
        (
            "endpoints: [{name: a, url: 'http://a', headers: {X: \"a\\r\\nEvil: 1\"}}]",
            "1:40: endpoints[0].headers: the value of the header X has a line break",
        ),
        (
            "endpoints: [{name: a, url: 'http://a', headers: {Content-Length: '1'}}]",
            "1:40: endpoints[0].headers: the header Content-Length is set by the prober",
        ),
        (
            "endpoints: [{name: a, url: 'https://a', tls_config: {ca_file: nowhere.pem}}]",
            "1:54: cannot use nowhere.pem: No such file or directory; expected a file of certificates",
        ),
        ("alertmanagers: [{url: router:9093}]", "1:18: alertmanagers[0].url: this is not the URL of a router"),
        ("endpoints: [{name: a, ulr: 'http://a'}]", '1:23: unknown key "ulr"'),
        ("endpoints: [{name: a, url: 'http://a', confirm: {failures: 0}}]", "1:50: endpoints[0].confirm.failures"),
    ],
)
def test_a_mistake_is_found_at_load_with_its_place(load: Load, text: str, problem: str) -> None:
    """Line and column lead to it, and the words say what to do."""
    with pytest.raises(SettingsError) as caught:
        load(text)
    assert any(str(found).startswith(f"uptime.yml:{problem}") for found in caught.value.problems), str(caught.value)


def test_all_mistakes_are_reported_at_once(load: Load) -> None:
    """Nobody has to run it again to see the next one."""
    with pytest.raises(SettingsError) as caught:
        load(
            """
            endpoints:
              - {name: a, url: "gopher://a"}
              - {name: a, url: "tcp://b", timeout: 1m}
              - {name: c, url: "http://c", conditions: ["[A] == 1", "[B] == 2"]}
            """
        )
    assert len(caught.value.problems) == 6


def test_no_problem_shows_a_header(load: Load) -> None:
    """Secrets do not get into messages."""
    with pytest.raises(SettingsError) as caught:
        load("endpoints: [{name: a, url: 'http://a', headers: {Authorization: \"s3cret\\x01\"}}]")
    assert "s3cret" not in str(caught.value)


def test_a_section_of_a_larger_file_is_read_in_place() -> None:
    """`tocsin.yml` holds the prober's settings under `uptime`, beside keys of others."""
    text = "uptime:\n  listen_address: 127.0.0.1:9115\n  endpoints:\n    - {name: a, url: nowhere}\n"
    with pytest.raises(SettingsError, match=r"tocsin\.yml:4:17: this is not a URL"):
        config.load(Document.parse(text, file="tocsin.yml"), "uptime", without=frozenset({"listen_address"}))


def test_a_file_that_is_no_certificate_is_refused(load: Load, tmp_path: Path) -> None:
    """An empty or broken CA file is found at load, not at 3 a.m."""
    file = tmp_path / "ca.pem"
    file.write_text("hello")
    with pytest.raises(SettingsError, match="it holds no certificate"):
        load(f"endpoints: [{{name: a, url: 'https://a', tls_config: {{ca_file: '{file}'}}}}]")


def test_checks_with_one_tls_configuration_share_one_context(load: Load) -> None:
    """Loading the system's certificates is slow, so it is done once."""
    a, b = load("endpoints: [{name: a, url: 'https://a'}, {name: b, url: 'https://b'}]").checks
    assert a.target.tls is not None
    assert a.target.tls is b.target.tls


def test_an_empty_file_watches_nothing(load: Load) -> None:
    """Nothing to do is not an error."""
    assert load("") == Config()
