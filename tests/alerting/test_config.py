from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tocsin_alerting.config import load
from tocsin_alerting.matchers import Mode, render
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
  http_config: {follow_redirects: false}
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
_ROUTE = "route: {receiver: a}\n"
_A = "receivers: [{name: a}]\n"


def _problems(text: str, *, folder: Path = Path(), mode: Mode = Mode.FALLBACK) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(Document.parse(text, file="am.yml", folder=folder), mode=mode)
    return [str(problem) for problem in caught.value.problems]


def _warnings(text: str) -> list[str]:
    return [str(warning) for warning in load(Document.parse(text, file="am.yml")).warnings]


# --- what is read ------------------------------------------------------------------------------------------------


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
    assert webhook.settings.http_config is not None
    assert webhook.settings.http_config.follow_redirects is False
    assert isinstance(pagerduty.settings, PagerDutySettings)
    assert pagerduty.settings.url == "https://events.pagerduty.example/v2/enqueue"


def test_json_is_yaml() -> None:
    """As for Alertmanager."""
    assert config('{"route": {"receiver": "a"}, "receivers": [{"name": "a"}]}').root.receiver == "a"


def test_text_is_what_was_written_and_a_key_without_value_is_absent() -> None:
    """`007` and `yes` are the text they look like, as Alertmanager reads them; charts leave keys empty."""
    found = config("""
global:
inhibit_rules:
route:
  receiver: 007
  group_wait:
  routes: [{match: {code: 0123, beta: yes, empty: }, receiver: }]
receivers:
  - name: 007
    slack_configs:
    pagerduty_configs: [{routing_key: 1e10, description: }]
""")
    assert found.root.receiver == "007"
    assert found.root.group_wait == 30
    assert render(found.root.routes[0].matchers) == '{beta="yes",code="0123",empty=""}'
    (pagerduty,) = found.receivers["007"].integrations
    assert isinstance(pagerduty.settings, PagerDutySettings)
    assert pagerduty.settings.routing_key is not None
    assert pagerduty.settings.routing_key.get_secret_value() == "1e10"
    assert "pagerduty.default.description" in pagerduty.settings.description


def test_inhibition_rules_are_read_in_both_notations() -> None:
    """All matchers of a side must hold, whichever way they are written."""
    (rule,) = config(f"""
{_ROUTE}{_A}
inhibit_rules:
  - name: pages
    source_matchers: [severity="page"]
    source_match: {{team: web}}
    target_match_re: {{severity: warn.*}}
    equal: [service, 'a b', service]
""").inhibit_rules
    assert (rule.name, rule.equal) == ("pages", ("service", "a b"))
    assert render(rule.source_matchers) == '{severity="page",team="web"}'
    assert render(rule.target_matchers) == '{severity=~"^(?:warn.*)$"}'


def test_time_intervals_of_both_keys_share_their_names() -> None:
    """The old key has the same entries."""
    found = config(f"""
route:
  receiver: a
  routes: [{{active_time_intervals: [office], mute_time_intervals: [night]}}]
{_A}
time_intervals: [{{name: office, time_intervals: [{{weekdays: ['monday:friday']}}]}}]
mute_time_intervals: [{{name: night, time_intervals: [{{times: [{{start_time: 00:00, end_time: 06:00}}]}}]}}]
""")
    assert list(found.intervals) == ["office", "night"]
    (route,) = found.root.routes
    assert (route.active_time_intervals, route.mute_time_intervals) == (("office",), ("night",))


def test_labels_of_receivers_hold_their_name() -> None:
    """`receiver_matchers` of the API choose by them."""
    found = config(f"{_ROUTE}receivers: [{{name: a, labels: {{team: web}}}}]")
    assert found.receivers["a"].labels == {"name": "a", "team": "web"}


def test_tracing_and_the_event_recorder_are_read_and_do_nothing() -> None:
    """A warning says so."""
    tracing, recorder = _warnings(f"{_ROUTE}{_A}tracing: {{endpoint: 'x:1'}}\nevent_recorder: {{}}")
    assert tracing.startswith("am.yml:3:1: tracing is read, but has no effect here")
    assert recorder.startswith("am.yml:4:1: event_recorder is read, but has no effect here")


def test_a_section_of_a_larger_file_is_read_with_its_own_positions() -> None:
    """`tocsin.yml` holds the same keys under `alerting`, beside some that are not ours."""
    text = "alerting:\n  listen_address: x\n  route: {receiver: a}\n  receivers: [{name: b}]\n"
    with pytest.raises(SettingsError) as caught:
        load(Document.parse(text, file="tocsin.yml"), "alerting", without=frozenset({"listen_address"}))
    assert str(caught.value) == 'tocsin.yml:3:11: undefined receiver "a" used in route; expected one of b'


def test_a_section_may_hold_our_own_settings() -> None:
    """Under `tocsin`, where a file of Alertmanager's has a second file; messages are worded by us there."""
    text = f"alerting:\n  tocsin: {{resolve_muted: at_once}}\n  {_ROUTE}  {_A}"
    extras = load(Document.parse(text), "alerting").extras
    assert (extras.messages, extras.resolve_muted) == ("tocsin", "at_once")
    assert config(_ROUTE + _A).extras.messages == "alertmanager"
    wrong = text.replace("at_once", "never").replace("receiver: a", "receiver: b")
    with pytest.raises(SettingsError) as caught:
        load(Document.parse(wrong, file="tocsin.yml"), "alerting")
    assert [problem.line for problem in caught.value.problems] == [2, 3]


def test_our_own_settings_do_not_stand_in_alertmanagers_file() -> None:
    """Alertmanager and amtool would refuse it."""
    assert _problems(f"{_ROUTE}{_A}tocsin: {{messages: tocsin}}") == [
        'am.yml:3:1: "tocsin" cannot stand in an alertmanager.yml; '
        "fix: put what it holds into a file of its own and name that with --tocsin.config"
    ]


def test_the_hash_changes_with_the_configuration_and_fits_into_a_metric() -> None:
    """Also with what no page shows: a secret, a template file."""
    first = config(_GOOD).hash
    assert 0 < first < 2**48
    assert config(_GOOD).hash == first
    assert config(_GOOD.replace("hidden-key", "another")).hash != first


# --- what is shown -----------------------------------------------------------------------------------------------


def test_what_is_shown_of_a_configuration_holds_no_secret_and_reads_back() -> None:
    """Defaults are filled in; the terminal, which amtool does not know, is left out."""
    original = config(_GOOD).original
    assert "hidden" not in original
    data = yaml.safe_load(original)
    assert data["route"]["group_interval"] == "5m"
    assert data["global"]["smtp_require_tls"] is True
    assert data["receivers"][1]["pagerduty_configs"][0]["routing_key"] == "<secret>"
    assert data["receivers"][0]["slack_configs"][0]["api_url"] == "<secret>"
    assert "console_configs" not in data["receivers"][1]
    assert "hidden" not in repr(config(_GOOD))


# --- templates ---------------------------------------------------------------------------------------------------


def test_template_files_are_found_beside_the_configuration(tmp_path: Path) -> None:
    """Patterns start at its folder, whatever the working directory is; no match is fine."""
    (tmp_path / "slack.tmpl").write_text('{{ define "hello" }}hello{{ end }}')
    found = config(f"{_ROUTE}{_A}templates: ['*.tmpl', 'none/*.tmpl']", folder=tmp_path)
    assert found.templates.undefined('{{ template "hello" . }}') == []
    assert found.hash != config(f"{_ROUTE}{_A}templates: ['*.tmpl', 'none/*.tmpl']", folder=Path("/nowhere")).hash


def test_mistakes_in_template_files_are_placed_in_those_files(tmp_path: Path) -> None:
    """All at once; a file that cannot be read is placed where it is named."""
    (tmp_path / "one.tmpl").write_text('{{ define "x" }}\n  {{ .Status | nope }}\n{{ end }}')
    (tmp_path / "two.tmpl").write_text("{{ if }}")
    (tmp_path / "three.tmpl").write_bytes(b"\xff\xfe")
    problems = _problems(f"{_ROUTE}{_A}templates: ['*.tmpl']", folder=tmp_path)
    assert problems[0].startswith(f"{tmp_path}/one.tmpl:2:")
    assert problems[1].startswith(f"{tmp_path}/two.tmpl:1:")
    assert problems[2] == f"am.yml:3:13: cannot read the template file {tmp_path}/three.tmpl: it is not UTF-8 text"


def test_mistakes_in_templates_of_the_file_are_found_when_it_is_loaded() -> None:
    """In a literal block (`|`) by the line of the file, elsewhere by the line of the text."""
    problems = _problems(f"""\
{_ROUTE}receivers:
  - name: a
    slack_configs:
      - api_url: http://x/
        title: '{{{{ .Status'
        text: |
          first
          second {{{{ nope }}}}
""")
    assert len(problems) == 2
    assert problems[0].startswith("am.yml:6:9: receivers[0].slack_configs[0].title: broken template: line 1, ")
    assert problems[1].startswith("am.yml:9:")
    assert "receivers[0].slack_configs[0].text: broken template: " in problems[1]


# --- what is refused ---------------------------------------------------------------------------------------------


def _child(text: str) -> str:
    return f"route:\n  receiver: a\n  routes:\n    - {text}\n{_A}"


def _entry(kind: str, text: str) -> str:
    return f"{_ROUTE}receivers:\n- name: a\n  {kind}_configs: [{{{text}}}]"


MISTAKES = [
    ("receivers: [{name: a}]", 'am.yml:1:1: "route" is missing in the file; fix: add it'),
    ("route: {group_wait: 1s}", "am.yml:1:1: the root route has no receiver; expected receiver: NAME"),
    (f"rout: 1\n{_ROUTE}{_A}", 'am.yml:1:1: unknown key "rout"'),
    (f"{_ROUTE}{_ROUTE}{_A}", 'am.yml:2:1: the key "route" stands here twice'),
    (f"{_ROUTE}receivers: [{{name: a}}, {{name: a}}]", 'am.yml:2:25: the receiver "a" stands here twice'),
    (f"{_ROUTE}receivers: [{{name: a}}, {{name: ''}}]", "am.yml:2:25: a receiver has no name"),
    (f"{_ROUTE}receivers: [{{name: a}}, {{}}]", "am.yml:2:24: a receiver has no name"),
    (f"{_ROUTE}receivers: [{{name: a, labels: {{name: b}}}}]", 'am.yml:2:32: the label "name" of the receiver "a"'),
    (f"route: {{receiver: a, matchers: [x=y]}}\n{_A}", "am.yml:1:22: the root route has matchers"),
    (f"route: {{receiver: a, match: {{x: y}}}}\n{_A}", "am.yml:1:22: the root route has match"),
    (f"route: {{receiver: a, match_re: {{x: y}}}}\n{_A}", "am.yml:1:22: the root route has match_re"),
    (f"route: {{receiver: a, continue: true}}\n{_A}", "am.yml:1:22: the root route cannot continue"),
    (f"route: {{receiver: a, mute_time_intervals: [x]}}\n{_A}", "am.yml:1:22: the root route has mute_time_intervals"),
    (f"route: {{receiver: a, active_time_intervals: [x]}}\n{_A}", "am.yml:1:22: the root route has active_time_inter"),
    (f"route: {{receiver: a, group_interval: 0s}}\n{_A}", "am.yml:1:22: group_interval is zero"),
    (f"route: {{receiver: a, repeat_interval: 0}}\n{_A}", "am.yml:1:22: repeat_interval is zero"),
    (f"route: {{receiver: a, group_by: [x, x]}}\n{_A}", 'am.yml:1:36: the label "x" stands in group_by twice'),
    (f"route: {{receiver: a, group_by: ['']}}\n{_A}", "am.yml:1:33: a label name is empty"),
    (f"route: {{receiver: a, group_by: [x, '...']}}\n{_A}", 'am.yml:1:22: "..." stands for all labels'),
    (f"route: {{receiver: a, group_wait: 5}}\n{_A}", "am.yml:1:22: route.group_wait: 5 has no unit"),
    (f"route: {{receiver: a, group_wait: 1.5h}}\n{_A}", 'am.yml:1:22: route.group_wait: "1.5h" is not a duration'),
    (f"route: {{receiver: a, group_by: x}}\n{_A}", "am.yml:1:22: route.group_by: found text"),
    (f"route: {{receiver: a, labels: {{'': x}}}}\n{_A}", "am.yml:1:31: a label name is empty"),
    (_child("receiver: b"), 'am.yml:4:7: undefined receiver "b" used in route; expected one of a'),
    (_child("mute_time_intervals: [x]"), 'am.yml:4:29: undefined time interval "x" used in route'),
    (_child("active_time_intervals: [x]"), 'am.yml:4:31: undefined time interval "x" used in route'),
    (_child("matchers: ['a=~(']"), 'am.yml:4:18: "(" is not a regular expression (RE2): missing ): ('),
    (_child("matchers: ['a']"), 'am.yml:4:18: "a" is not a matcher'),
    (_child("match: {a-b: x}"), 'am.yml:4:15: "a-b" is not a label name'),
    (_child("match_re: {a: '['}"), 'am.yml:4:18: "^(?:[)$" is not a regular expression'),
    (_child("# nothing"), "am.yml:4:6: a route is empty and would take every alert"),
    (f"{_ROUTE}{_A}inhibit_rules: [{{equal: ['']}}]", "am.yml:3:26: a label name is empty"),
    (f"{_ROUTE}{_A}inhibit_rules: [{{source_matchers: ['=']}}]", 'am.yml:3:36: "=" is not a matcher'),
    (f"{_ROUTE}{_A}inhibit_rules: [{{target_match: {{a-b: c}}}}]", 'am.yml:3:33: "a-b" is not a label name'),
    (f"{_ROUTE}{_A}inhibit_rules: [{{source: x}}]", 'am.yml:3:18: unknown key "source"'),
    (f"{_ROUTE}{_A}time_intervals: [{{time_intervals: []}}]", 'am.yml:3:18: "name" is missing'),
    (f"{_ROUTE}{_A}time_intervals: [{{name: x}}, {{name: x}}]", 'am.yml:3:30: the time interval "x" stands here twice'),
    (
        f"{_ROUTE}{_A}time_intervals: [{{name: x, time_intervals: [{{weekdays: [funday]}}]}}]",
        'am.yml:3:57: time_intervals[0].time_intervals[0].weekdays[0]: "funday" is not a day of the week',
    ),
    (f"{_ROUTE}{_A}templates: ['[']", 'am.yml:3:13: "[" is not a pattern of paths'),
    (f"{_ROUTE}{_A}tracing: {{}}", 'am.yml:3:1: "endpoint" is missing in tracing'),
    (f"{_ROUTE}{_A}event_recorder: []", "am.yml:3:1: event_recorder is not a mapping"),
    (_entry("webhook", ""), "am.yml:4:21: receivers[0].webhook_configs[0]: url or url_file is missing"),
    (_entry("webhook", "url: 'ftp://x', url_file: y"), "am.yml:4:22: receivers[0].webhook_configs[0].url: this is not"),
    (_entry("webhook", "url: 'http://x', timeout: [1s]"), "am.yml:4:39: receivers[0].webhook_configs[0].timeout: this"),
    (_entry("webhook", "url: 'http://x', uri: 1"), 'am.yml:4:39: unknown key "uri"'),
    (_entry("slack", "channel: '#x'"), "am.yml:4:19: "),
    (_entry("pagerduty", "routing_key: x, routing_key_file: y"), "am.yml:4:23: receivers[0].pagerduty_configs[0]: "),
    (f"global: {{smtp_smarthost: mail}}\n{_ROUTE}{_A}", "am.yml:1:10: global.smtp_smarthost: this is not an address"),
    (
        f"global: {{slack_api_url: 'http://x/', slack_api_url_file: y}}\n{_ROUTE}{_A}",
        "am.yml:1:1: global: slack_api_url and slack_api_url_file stand side by side",
    ),
]


@pytest.mark.parametrize(("text", "problem"), MISTAKES)
def test_a_mistake_is_named_with_its_place(text: str, problem: str) -> None:
    """file:line:column, what was found, what to do."""
    text = text.replace("- # nothing", "-")
    assert any(line.startswith(problem) for line in _problems(text)), _problems(text)


def test_all_mistakes_are_named_at_once() -> None:
    """One in a receiver hides none in another, nor in a route or a rule."""
    lines = _problems("""\
global: {nope: 1}
route:
  receiver: b
  routes:
    - {matchers: [x], routes: [{receiver: c}]}
receivers:
  - name: a
    webhook_configs: [{}, {uri: x}]
    slack_configs: [{api_url: 'http://x', chanel: y}]
  - name: a
    pagerduty_configs: [{}]
inhibit_rules: [{equal: ['']}, {source_matchers: ['=~']}]
""")
    places = [line.split(": ")[0].removeprefix("am.yml:") for line in lines]
    assert {place.split(":")[0] for place in places} == {"1", "3", "5", "8", "9", "10", "11", "12"}
    assert sum(place.startswith("5:") for place in places) == 2
    assert any(line.endswith('fix: did you mean "channel"?') for line in lines)


def test_label_names_are_classic_in_classic_mode() -> None:
    """Elsewhere any text is one."""
    text = f"route: {{receiver: a, group_by: [a b]}}\n{_A}inhibit_rules: [{{equal: [c d]}}]"
    assert config(text).root.group_by == frozenset({"a b"})
    assert [line.split(": ")[1] for line in _problems(text, mode=Mode.CLASSIC)] == [
        '"a b" is not a label name; expected [a-zA-Z_][a-zA-Z0-9_]*',
        '"c d" is not a label name; expected [a-zA-Z_][a-zA-Z0-9_]*',
    ]


# --- what is warned of -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            f"route: {{receiver: a, repeat_interval: 1m}}\n{_A}",
            "am.yml:1:22: repeat_interval (1m) is shorter than group_interval (5m), at which it is checked; "
            "fix: repeat_interval: 5m, or a multiple of it",
        ),
        (_child("matchers: ['']"), "am.yml:4:18: a matcher is empty and matches every alert; fix: remove it"),
        (_child("matchers: [a=b c]"), """am.yml:4:18: matcher "a=b c": only Alertmanager's old notation of matchers"""),
        (_child("""matchers: ['a="\\t"']"""), r"""am.yml:4:18: matcher "a="\t"": the old notation of matchers and"""),
    ],
)
def test_what_is_hardly_meant_is_warned_of(text: str, warning: str) -> None:
    """The configuration is taken all the same."""
    (found,) = _warnings(text)
    assert found.startswith(warning)


def test_a_good_file_warns_of_nothing() -> None:
    """So that warnings are read."""
    assert config(_GOOD).warnings == ()
