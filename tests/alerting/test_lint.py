from __future__ import annotations

import json
from pathlib import Path

import pytest

from tocsin_alerting.config import load
from tocsin_alerting.lint import Finding, Severity, lint
from tocsin_service.settings import Document

NOW = 1_763_856_000.0
"""2025-11-23 00:00:00 UTC, a Sunday."""

_HOOK = "webhook_configs: [{url: 'http://127.0.0.1:5001/'}]"


def _lint(text: str, *, folder: Path = Path(), environ: dict[str, str] | None = None) -> list[Finding]:
    document = Document.parse(text, file="am.yml", folder=folder, environ=environ)
    return lint(load(document), document, now=NOW)


def _route(text: str, *, root: str = "", more: str = "") -> str:
    """Return a file with children of the root route; `b` is a second receiver."""
    lines = "".join(f"    - {line.strip()}\n" for line in text.strip().splitlines())
    return f"""\
route:
  receiver: a{root}
  routes:
    - {{receiver: b, matchers: [for="b"]}}
{lines}receivers:
  - {{name: a, {_HOOK}}}
  - {{name: b, {_HOOK}}}
{more}"""


def _receiver(text: str, *, shared: str = "{}", root: str = "") -> str:
    return f"global: {shared}\nroute: {{receiver: a{root}}}\nreceivers:\n  - name: a\n    {text}\n"


def _rule(text: str) -> str:
    return f"route: {{receiver: a}}\nreceivers: [{{name: a, {_HOOK}}}]\ninhibit_rules:\n  - {{{text}}}\n"


def _interval(text: str, *, uses: str = "mute_time_intervals: [t]") -> str:
    return _route(f"{{matchers: [x=y], {uses}}}", more=f"time_intervals:\n  - {{name: t, time_intervals: [{text}]}}\n")


CASES: dict[str, tuple[str, list[str]]] = {
    # --- routes
    "a route after one that takes everything": (
        _route("{receiver: b}\n{receiver: a, matchers: [x=y]}"),
        ["6:unreachable-route"],
    ),
    "a route after one that takes more": (
        _route("""{matchers: ['team=~"web|app"']}\n{matchers: [team=web, severity=page], receiver: b}"""),
        ["6:unreachable-route"],
    ),
    "after one that continues it is reached": (
        _route("{matchers: [team=web], continue: true}\n{matchers: [team=web, severity=page]}"),
        [],
    ),
    "the narrower first is fine": (_route("{matchers: [team=web, severity=page]}\n{matchers: [team=web]}"), []),
    "another value is reached": (_route("""{matchers: ['team!="web"']}\n{matchers: [team=web]}"""), []),
    "a negation that takes all others": (
        _route("""{matchers: ['team!="web"']}\n{matchers: [team=app]}"""),
        ["6:unreachable-route"],
    ),
    "matchers of the parent count": (
        _route("{matchers: [team=web], routes: [{matchers: [team=~web|app]}, {matchers: [x=y]}]}"),
        ["5:unreachable-route"],
    ),
    "two values of one label": (
        _route("{matchers: [team=web], routes: [{matchers: [team=app], receiver: b}]}"),
        ["5:contradictory-matchers"],
    ),
    "a value that an expression excludes": (
        _route("{matchers: [team=web, team=~a.*]}"),
        ["5:contradictory-matchers"],
    ),
    "a matcher and its opposite": (_route("{matchers: [team=~a.+, team!~a.+]}"), ["5:contradictory-matchers"]),
    "a page for nobody": (
        _route("{matchers: [severity=page], receiver: c}", more="  - {name: c}\n"),
        ["5:page-swallowed"],
    ),
    "a watchdog for nobody is fine": (
        _route("{matchers: [alertname=Watchdog], receiver: c}", more="  - {name: c}\n"),
        [],
    ),
    "grouped by what is fixed": (
        _route("{matchers: [team=web], group_by: [team, alertname]}"),
        ["5:group-by-fixed-label"],
    ),
    "a repeat that is no multiple": (_route("", root="\n  repeat_interval: 7m"), ["3:repeat-not-multiple"]),
    "a repeat below the interval": (_route("", root="\n  repeat_interval: 1m"), ["3:repeat-below-group-interval"]),
    "a repeat that outlives what is kept": (_route("", root="\n  repeat_interval: 1w"), ["3:repeat-above-retention"]),
    "a wait above the interval": (_route("", root="\n  group_wait: 10m"), ["3:group-wait-above-interval"]),
    "inherited timers are said once": (
        _route("{matchers: [x=y]}", root="\n  group_wait: 10m"),
        ["3:group-wait-above-interval"],
    ),
    # --- receivers
    "a receiver that nothing uses": (_route("", more="  - {name: c}\n"), ["8:unused-receiver"]),
    "Opsgenie": (_receiver("opsgenie_configs: [{api_key_file: /k}]"), ["5:opsgenie-end-of-life"]),
    "a certificate that is not checked": (
        _receiver("webhook_configs: [{url: 'https://x/', http_config: {tls_config: {insecure_skip_verify: true}}}]"),
        ["5:insecure-skip-verify"],
    ),
    "a mail server's certificate that is not checked": (
        _receiver("email_configs: [{to: a@b, from: c@d, smarthost: 'e:25', tls_config: {insecure_skip_verify: true}}]"),
        ["5:insecure-skip-verify"],
    ),
    "a password over plain http": (
        _receiver(
            "webhook_configs: [{url: 'http://x.example/', http_config: {basic_auth: {username: u, password_file: /p}}}]"
        ),
        ["5:plain-http-credentials"],
    ),
    "over loopback it stays in the machine": (
        _receiver(
            "webhook_configs: [{url: 'http://127.0.0.1/', http_config: {basic_auth: {username: u, password_file: /p}}}]"
        ),
        [],
    ),
    # --- secrets
    "a secret": (_receiver("pagerduty_configs: [{routing_key: 0123}]"), ["5:secret-in-plain-text"]),
    "a secret in a file of its own": (_receiver("pagerduty_configs: [{routing_key_file: /k}]"), []),
    "a URL that is a secret": (
        _receiver("slack_configs: [{channel: x}]", shared="{slack_api_url: 'http://x/'}"),
        ["1:secret-in-plain-text"],
    ),
    "a webhook with a token": (
        _receiver("webhook_configs: [{url: 'https://x.example/hook/0123456789abcdef'}]"),
        ["5:secret-in-plain-text"],
    ),
    "a webhook with a password": (
        _receiver("webhook_configs: [{url: 'https://u:p@x.example/'}]"),
        ["5:secret-in-plain-text"],
    ),
    "a password inside http_config": (
        _receiver(f"{_HOOK}", shared="{http_config: {basic_auth: {username: u, password: p}}}"),
        ["1:secret-in-plain-text"],
    ),
    # --- templates
    "a template that is not defined": (
        _receiver("""slack_configs: [{api_url_file: /u, text: '{{ template "nope" . }}'}]"""),
        ["5:undefined-template"],
    ),
    "a label that no group has": (
        _receiver("slack_configs: [{api_url_file: /u, text: '{{ .GroupLabels.team }}'}]", root=", group_by: [service]"),
        ["5:label-not-grouped"],
    ),
    "a label that a group has": (
        _receiver("slack_configs: [{api_url_file: /u, text: '{{ .GroupLabels.team }}'}]", root=", group_by: [team]"),
        [],
    ),
    "with all labels any may be there": (
        _receiver("slack_configs: [{api_url_file: /u, text: '{{ .GroupLabels.team }}'}]", root=", group_by: ['...']"),
        [],
    ),
    "templates that are not there": (
        f"route: {{receiver: a}}\nreceivers: [{{name: a, {_HOOK}}}]\ntemplates:\n  - nowhere/*.tmpl\n",
        ["4:templates-match-nothing"],
    ),
    # --- time
    "an interval that nothing uses": (_interval("{}", uses="receiver: b"), ["10:unused-interval"]),
    "a day that the month lacks": (
        _interval("{days_of_month: ['31'], months: [february]}"),
        ["10:interval-never-matches"],
    ),
    "a year that is over": (_interval("{years: ['2020:2024']}"), ["10:interval-never-matches"]),
    "an interval of nothing": (_interval(""), ["10:interval-never-matches"]),
    "the next leap day comes": (_interval("{days_of_month: ['29'], months: [february]}"), []),
    "active in what never comes": (
        _interval("{years: ['2020']}", uses="active_time_intervals: [t]"),
        ["5:route-never-active", "10:interval-never-matches"],
    ),
    "muted at all times": (_interval("{}"), ["5:route-never-active"]),
    "active only while muted": (
        _route(
            "{matchers: [x=y], active_time_intervals: [t], mute_time_intervals: [u]}",
            more="time_intervals:\n"
            "  - {name: t, time_intervals: [{weekdays: [monday]}]}\n"
            "  - {name: u, time_intervals: [{weekdays: ['monday:friday']}]}\n",
        ),
        ["5:route-never-active"],
    ),
    "muted at night": (_interval("{times: [{start_time: 00:00, end_time: 06:00}]}"), []),
    # --- inhibition
    "a rule whose sides are the same": (
        _rule("source_matchers: [severity=page], target_matchers: [severity=page], equal: [service]"),
        ["4:inhibit-itself"],
    ),
    "a rule of nothing": (_rule("equal: [service]"), ["4:inhibit-itself"]),
    "a rule without a source": (_rule("target_matchers: [severity=warning]"), ["4:inhibit-any-source"]),
    "a source that cannot be": (
        _rule("source_matchers: [a=b, a=c], target_matchers: [severity=warning]"),
        ["4:inhibit-never"],
    ),
    "equal where they differ": (
        _rule("source_matchers: [severity=page], target_matchers: [severity=warning], equal: [severity]"),
        ["4:inhibit-never"],
    ),
    "equal where neither has it": (
        _rule("""source_matchers: [a=b, 'c=""'], target_matchers: [a=d, 'c=""'], equal: [c]"""),
        ["4:inhibit-equal-absent"],
    ),
    "page mutes warning": (
        _rule("source_matchers: [severity=page], target_matchers: [severity=~warning|info], equal: [service]"),
        [],
    ),
    "a source that is also a target": (
        _rule("source_matchers: [severity=page], target_matchers: [severity=~page|warning], equal: [service]"),
        [],
    ),
    # --- keys
    "the old notation": (_route("{match: {x: 007}}\n{match_re: {x: y.*}}"), ["5:deprecated-key", "6:deprecated-key"]),
    "the old notation of rules": (
        _rule("source_match: {severity: page}, target_match: {severity: warning}"),
        ["4:deprecated-key", "4:deprecated-key"],
    ),
    "the old key of intervals": (
        _route(
            "{matchers: [x=y], mute_time_intervals: [t]}",
            more="mute_time_intervals: [{name: t, time_intervals: [{weekdays: [sunday]}]}]\n",
        ),
        ["9:deprecated-key"],
    ),
    "what the old notation alone can read": (_route("{matchers: [x=y z]}"), ["5:matcher-notation"]),
    "an empty matcher": (_route("{matchers: ['']}"), ["5:empty-matcher"]),
    "tracing": (
        f"route: {{receiver: a}}\nreceivers: [{{name: a, {_HOOK}}}]\ntracing: {{endpoint: 'x:1'}}",
        ["3:without-effect"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_legal_and_hardly_meant_is_found(name: str) -> None:
    """Each finding has a line and a code that stays."""
    text, expected = CASES[name]
    assert [f"{finding.line}:{finding.code}" for finding in _lint(text)] == expected


_GOOD = """
global:
  resolve_timeout: 5m
  smtp_smarthost: mail.example:587
  smtp_from: alerts@example.com
  smtp_auth_username: alerts
  smtp_auth_password_file: /run/secrets/smtp
  slack_api_url_file: /run/secrets/slack
inhibit_rules:
  - source_matchers: [severity = critical]
    target_matchers: [severity =~ warning|info]
    equal: [namespace, alertname]
  - source_matchers: [severity = warning]
    target_matchers: [severity = info]
    equal: [namespace, alertname]
  - source_matchers: [alertname = InfoInhibitor]
    target_matchers: [severity = info]
    equal: [namespace]
receivers:
  - name: default
    slack_configs:
      - channel: '#alerts'
        title: '{{ .GroupLabels.namespace }}: {{ .CommonLabels.alertname }}'
        text: '{{ range .Alerts }}{{ .Annotations.description }}{{ end }}'
  - name: watchdog
    webhook_configs: [{url_file: /run/secrets/deadmanssnitch}]
  - name: critical
    pagerduty_configs: [{routing_key_file: /run/secrets/pagerduty}]
  - name: office
    email_configs: [{to: team@example.com}]
  - name: 'null'
route:
  group_by: [namespace]
  group_interval: 5m
  group_wait: 30s
  receiver: default
  repeat_interval: 12h
  routes:
    - {matchers: [alertname = Watchdog], receiver: watchdog}
    - {matchers: [alertname = InfoInhibitor], receiver: 'null'}
    - {matchers: [severity = critical], receiver: critical, continue: true}
    - matchers: [severity = critical]
      receiver: default
    - matchers: [severity = info]
      receiver: office
      active_time_intervals: [office]
time_intervals:
  - name: office
    time_intervals:
      - weekdays: ['monday:friday']
        times: [{start_time: 09:00, end_time: '17:00'}]
        location: Europe/Berlin
"""


def test_nothing_is_found_in_a_good_file() -> None:
    """One like kube-prometheus writes; or nobody would read what is found."""
    assert [str(finding) for finding in _lint(_GOOD)] == []


def test_a_finding_says_what_why_and_what_to_do() -> None:
    """In one line for people, and as JSON for programs."""
    (finding,) = _lint(_receiver("pagerduty_configs: [{routing_key: hidden}]"))
    assert str(finding) == (
        'am.yml:5:26: warning: a secret stands here in plain text: "routing_key"; '
        "whoever reads this file, its backups or its history can use it; "
        "fix: put it into a file of its own and name that with routing_key_file [secret-in-plain-text]"
    )
    plain = json.loads(json.dumps(finding.plain()))
    assert (plain["code"], plain["severity"], plain["line"]) == ("secret-in-plain-text", "warning", 5)


def test_what_cannot_work_is_an_error() -> None:
    """So that a build can fail on it, and not on taste."""
    errors = {code for text, _ in CASES.values() for code, severity in _codes(text) if severity is Severity.ERROR}
    assert errors == {
        "contradictory-matchers",
        "inhibit-itself",
        "inhibit-never",
        "interval-never-matches",
        "route-never-active",
        "undefined-template",
        "unreachable-route",
    }


def _codes(text: str) -> list[tuple[str, Severity]]:
    return [(finding.code, finding.severity) for finding in _lint(text)]


def test_a_variable_is_no_secret_in_plain_text() -> None:
    """In tocsin.yml `${NAME}` is replaced; what stands in the file is a name."""
    text = _receiver("pagerduty_configs: [{routing_key: '${KEY}'}]")
    assert _lint(text, environ={"KEY": "hidden"}) == []


def test_a_section_of_tocsin_yml_is_looked_at_in_its_place() -> None:
    """Lines are those of the whole file."""
    text = "alerting:\n  route: {receiver: a}\n  receivers: [{name: a}, {name: b}]\n"
    document = Document.parse(text, file="tocsin.yml")
    (finding,) = lint(load(document, "alerting"), document, "alerting", now=NOW)
    assert str(finding).startswith('tocsin.yml:3:26: warning: no route uses the receiver "b"')
