from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tocsin_alerting.config import load
from tocsin_alerting.receivers.pagerduty import PagerDutySettings
from tocsin_alerting.receivers.slack import SlackSettings
from tocsin_alerting.receivers.webhook import WebhookSettings
from tocsin_alerting.testing import config
from tocsin_service.settings import Document, SettingsError

_GOOD = """\
global:
  resolve_timeout: 2m
  slack_api_url: https://hooks.slack.example/services/T0/B0/hidden-path
  pagerduty_url: https://events.pagerduty.example/v2/enqueue
route:
  receiver: default
  group_by: [alertname]
  routes:
    - matchers: ['severity="page"', team=~"a|b"]
      receiver: page
      group_wait: 0s
receivers:
  - name: default
    slack_configs: [{channel: "#alerts"}]
  - name: page
    pagerduty_configs: [{routing_key: hidden-key, class: web}]
    webhook_configs: [{url: "http://localhost:5001/hidden-hook", max_alerts: 3, timeout: 1.5s}, {url_file: hook}]
    console_configs: [{}]
"""


def _problems(text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(Document.parse(text, file="am.yml"))
    return [str(problem) for problem in caught.value.problems]


def test_an_alertmanager_file_is_read_as_it_is() -> None:
    """Globals fill in, and every kind keeps its own default of send_resolved."""
    found = config(_GOOD, folder=Path("/etc/am"))
    assert found.resolve_timeout == 120
    (slack,) = found.receivers["default"].integrations
    assert isinstance(slack.settings, SlackSettings)
    assert slack.settings.api_url is not None
    assert slack.settings.send_resolved is False
    webhook, webhook_file, pagerduty, console = found.receivers["page"].integrations
    assert [item.position for item in (webhook, webhook_file, pagerduty, console)] == [0, 1, 0, 0]
    assert isinstance(webhook.settings, WebhookSettings)
    assert (webhook.settings.timeout, webhook.settings.max_alerts, webhook.settings.send_resolved) == (1.5, 3, True)
    assert isinstance(webhook_file.settings, WebhookSettings)
    assert webhook_file.settings.url_file == Path("/etc/am/hook")
    assert isinstance(pagerduty.settings, PagerDutySettings)
    assert pagerduty.settings.url == "https://events.pagerduty.example/v2/enqueue"


def test_json_is_yaml() -> None:
    """As for Alertmanager."""
    assert config('{"route": {"receiver": "a"}, "receivers": [{"name": "a"}]}').root.receiver == "a"


def test_a_section_of_a_larger_file_is_read_with_its_own_positions() -> None:
    """`tocsin.yml` holds the same keys under `alerting`, beside some that are not ours."""
    text = "alerting:\n  listen_address: x\n  route: {receiver: a}\n  receivers: [{name: b}]\n"
    with pytest.raises(SettingsError) as caught:
        load(Document.parse(text, file="tocsin.yml"), "alerting", without=frozenset({"listen_address"}))
    assert str(caught.value) == 'tocsin.yml:3:11: undefined receiver "a" used in route; expected one of b'


def test_what_is_shown_of_a_configuration_holds_no_secret_and_reads_back() -> None:
    """Defaults are filled in; the terminal, which amtool does not know, is left out."""
    original = config(_GOOD).original
    assert "hidden" not in original
    data = yaml.safe_load(original)
    assert data["route"]["group_interval"] == "5m"
    assert data["receivers"][1]["webhook_configs"][0] == {"url": "<secret>", "max_alerts": 3, "timeout": "1s500ms"}
    assert "console_configs" not in data["receivers"][1]
    assert "hidden" not in repr(config(_GOOD))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("receivers: [{name: a}]", 'am.yml:1:1: "route" is missing in the file; fix: add it'),
        ("route: {group_wait: 1s}", "am.yml:1:1: the root route has no receiver"),
        ("route: {receiver: a}\nreceivers: [{name: a}, {name: a}]", 'am.yml:2:25: the receiver "a" stands here twice'),
        ("route: {receiver: a}\nreceivers: [{name: a}, {name: ''}]", "am.yml:2:25: a receiver has no name"),
        ("route: {receiver: a, matchers: [x=y]}\nreceivers: [{name: a}]", "am.yml:1:22: the root route has matchers"),
        ("route: {receiver: a, match: {x: y}}\nreceivers: [{name: a}]", "am.yml:1:22: the root route has match"),
        ("route: {receiver: a, continue: true}\nreceivers: [{name: a}]", "am.yml:1:22: the root route cannot continue"),
        ("route: {receiver: a, group_interval: 0s}\nreceivers: [{name: a}]", "am.yml:1:22: group_interval is zero"),
        ("route: {receiver: a, repeat_interval: 0}\nreceivers: [{name: a}]", "am.yml:1:22: repeat_interval is zero"),
        ("route: {receiver: a, group_by: [x, x]}\nreceivers: [{name: a}]", 'am.yml:1:36: the label "x" stands in'),
        ("route: {receiver: a, group_by: [x, '...']}\nreceivers: [{name: a}]", 'am.yml:1:22: "..." stands for all'),
        ("route: {receiver: a, group_wait: 5}\nreceivers: [{name: a}]", "am.yml:1:22: route.group_wait: 5 has no unit"),
        (
            "route:\n  receiver: a\n  routes:\n    - matchers: ['a=~(']\nreceivers: [{name: a}]",
            'am.yml:4:18: "(" is not a regular expression (RE2): missing ): (',
        ),
        (
            "route:\n  receiver: a\n  routes:\n    - match: {a-b: x}\nreceivers: [{name: a}]",
            'am.yml:4:15: "a-b" is not a label name',
        ),
        ("route: {receiver: a}\nreceivers:\n- name: a\n  webhook_configs: [{}]", "am.yml:4:21: receivers[0].webhook"),
        (
            "route: {receiver: a}\nreceivers:\n- name: a\n  webhook_configs: [{url: 'ftp://x', url_file: y}]",
            "am.yml:4:22: receivers[0].webhook_configs[0].url: this is not a URL",
        ),
        (
            "route: {receiver: a}\nreceivers:\n- name: a\n  webhook_configs: [{url: 'http://x', timeout: [1s]}]",
            "am.yml:4:39: receivers[0].webhook_configs[0].timeout: this is not a duration",
        ),
        (
            "route: {receiver: a}\nreceivers:\n- name: a\n  slack_configs: [{channel: '#x'}]",
            "am.yml:4:19: Slack has no address",
        ),
        (
            "route: {receiver: a}\nreceivers:\n- name: a\n  slack_configs: [{app_token: x}]",
            "am.yml:4:19: receivers[0].slack_configs[0]: app_token needs a channel",
        ),
        (
            "route: {receiver: a}\nreceivers:\n- name: a\n  pagerduty_configs: [{routing_key: x, routing_key_file: y}]",
            "am.yml:4:23: receivers[0].pagerduty_configs[0]: routing_key and routing_key_file stand side by side",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, problem: str) -> None:
    """file:line:column, what was found, what to do."""
    assert any(line.startswith(problem) for line in _problems(text)), _problems(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("inhibit_rules: [{equal: [a]}]", '1:1: "inhibit_rules" is not supported yet'),
        ("templates: ['*.tmpl']", '1:1: "templates" is not supported yet'),
        ("time_intervals: [{name: x}]", '1:1: "time_intervals" is not supported yet'),
        ("global: {smtp_from: a@b}", '1:10: "smtp_from" is not supported yet'),
        ("global: {http_config: {proxy_url: x}}", '1:10: "http_config" is not supported yet'),
    ],
)
def test_what_is_not_built_yet_is_refused_and_not_passed_over(text: str, problem: str) -> None:
    """An alert that is muted in Alertmanager must not ring here without a word."""
    assert _problems(text + "\nroute: {receiver: a}\nreceivers: [{name: a}]") == [
        f"am.yml:{problem}; fix: remove it, or stay with Alertmanager until it is"
    ]


def test_empty_sections_of_what_is_not_built_do_no_harm() -> None:
    """Charts write them."""
    found = config("inhibit_rules: []\ntemplates: []\nroute: {receiver: a}\nreceivers: [{name: a}]")
    assert found.root.receiver == "a"


def test_other_receivers_and_templates_are_refused_with_their_places() -> None:
    """All at once, together with ordinary mistakes elsewhere in the file."""
    text = """\
route: {receiver: b, mute_time_intervals: [night]}
receivers:
  - name: a
    email_configs: [{to: x@y}]
    slack_configs:
      - api_url: http://localhost/x
        text: '{{ template "x" . }}'
        channel: '#{{ .GroupLabels.team }}'
        http_config: {proxy_url: http://p}
        chanel: x
"""
    lines = _problems(text)
    places = [line.split(": ")[0] for line in lines]
    assert places == [f"am.yml:{place}" for place in ("1:9", "1:22", "4:5", "7:9", "8:9", "9:9", "10:9")]
    assert lines[4].startswith('am.yml:8:9: "channel" holds a Go template ({{ ... }}), which is not supported yet')
    assert lines[6].endswith('fix: did you mean "channel"?')
