"""The real amtool beside us: what it accepts, what it refuses, and what it reads of what we show."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tocsin_alerting.config import load
from tocsin_alerting.receivers import KINDS
from tocsin_alerting.testing import config
from tocsin_service.settings import Document, SettingsError
from tocsin_service.testing import serving
from tocsin_stack import debian

BOTH = "both accept"
NEITHER = "both refuse"
NEWER = "accepted, also by newer versions of Alertmanager"
OURS = "accepted by us alone"
THEIRS = "refused by us alone"

_A = "receivers: [{name: a}]\n"
_ROUTE = "route: {receiver: a}\n"


def _child(text: str) -> str:
    return f"route: {{receiver: a, routes: [{{{text}}}]}}\n{_A}"


def _root(text: str) -> str:
    return f"route: {{receiver: a, {text}}}\n{_A}"


def _top(text: str) -> str:
    return f"{text}\n{_ROUTE}{_A}"


def _entry(kind: str, text: str, shared: str = "") -> str:
    top = f"global: {{{shared}}}\n" if shared else ""
    return f"{top}{_ROUTE}receivers: [{{name: a, {kind}_configs: [{{{text}}}]}}]\n"


CASES: Mapping[str, tuple[str, str]] = {
    # --- the whole
    "the least": (_top(""), BOTH),
    "JSON with tabs": ('{\n\t"route": {"receiver": "a"},\n\t"receivers": [{"name": "a"}]\n}\n', BOTH),
    "anchors": (f"{_ROUTE}receivers: [{{name: a, webhook_configs: [&x {{url: 'http://x/'}}, {{<<: *x}}]}}]", BOTH),
    "a second document": (f"{_ROUTE}{_A}---\nroute: {{}}\n", THEIRS),
    "JSON": ('{"route": {"receiver": "a"}, "receivers": [{"name": "a"}]}', BOTH),
    "an empty file": ("", NEITHER),
    "no route": (_A, NEITHER),
    "a route of nothing": (f"route:\n{_A}", NEITHER),
    "an unknown key": (_top("rout: 1"), NEITHER),
    "a duplicate key": (f"{_ROUTE}{_ROUTE}{_A}", NEITHER),
    "empty sections": (_top("inhibit_rules:\ntemplates:\ntime_intervals:\nglobal:\n"), BOTH),
    "our own key": (_top("tocsin: {messages: tocsin}"), NEITHER),
    # --- global
    "a resolve_timeout": (_top("global: {resolve_timeout: 1d12h}"), BOTH),
    "units out of order": (_top("global: {resolve_timeout: 1m1h}"), NEITHER),
    "a fraction": (_top("global: {resolve_timeout: 1.5h}"), NEITHER),
    "a negative duration": (_top("global: {resolve_timeout: -1m}"), NEITHER),
    "no unit": (_top("global: {resolve_timeout: 5}"), NEITHER),
    "zero": (_top("global: {resolve_timeout: 0}"), BOTH),
    "a smarthost without port": (_top("global: {smtp_smarthost: mail}"), NEITHER),
    "a URL without scheme": (_top("global: {pagerduty_url: example.com}"), NEITHER),
    "a URL of ftp": (_top("global: {opsgenie_api_url: 'ftp://example.com/'}"), NEITHER),
    "a value and its file": (_top("global: {slack_api_url: 'http://x/', slack_api_url_file: y}"), NEITHER),
    "two ways to authenticate": (
        _top("global: {http_config: {basic_auth: {username: x}, authorization: {credentials: y}}}"),
        NEITHER,
    ),
    # --- routes
    "a root without receiver": (f"route: {{group_by: [x]}}\n{_A}", NEITHER),
    "a root with matchers": (_root("matchers: [x=y]"), NEITHER),
    "a root with match": (_root("match: {x: y}"), NEITHER),
    "a root with match_re": (_root("match_re: {x: y}"), NEITHER),
    "a root that continues": (_root("continue: true"), NEITHER),
    "a root that is muted": (_root("mute_time_intervals: [x]"), NEITHER),
    "a root that is active sometimes": (_root("active_time_intervals: [x]"), NEITHER),
    "an undefined receiver": (_child("receiver: b"), NEITHER),
    "an undefined receiver at the root": ("route: {receiver: b}\n" + _A, NEITHER),
    "all labels": (_root("group_by: ['...']"), BOTH),
    "all labels and others": (_root("group_by: ['...', x]"), NEITHER),
    "a label twice": (_root("group_by: [x, x]"), NEITHER),
    "an empty label": (_root("group_by: ['']"), NEITHER),
    "a label with a blank": (_root("group_by: [a b]"), NEWER),
    "one label that is no list": (_root("group_by: x"), NEITHER),
    "no labels": (_child("group_by: []"), BOTH),
    "no group_wait": (_root("group_wait: 0s"), BOTH),
    "no group_interval": (_root("group_interval: 0s"), NEITHER),
    "no repeat_interval": (_root("repeat_interval: 0s"), NEITHER),
    "a repeat shorter than a look": (_root("repeat_interval: 1s"), BOTH),
    "labels of a route": (_child("labels: {x: y}"), NEWER + ", 0.34"),
    "an empty route": (f"route: {{receiver: a, routes: [null]}}\n{_A}", NEITHER),
    # --- matchers
    "matchers": (_child("""matchers: ['a="b"', 'c=~"d|e"', f!=g, 'h!~i']"""), BOTH),
    "several in one": (_child("""matchers: ['{a="b", c="d"}']"""), BOTH),
    "UTF-8": (_child("""matchers: ['"a b"="c"']"""), NEWER),
    "an empty matcher": (_child("matchers: ['']"), BOTH),
    "no matcher": (_child("matchers: [a]"), NEITHER),
    "an expression that is not closed": (_child("matchers: ['a=~(']"), NEITHER),
    "an expression that closes ours": (_child("matchers: ['a=~x)|(y']"), THEIRS),
    "a label without a name": (_child("""matchers: ['""=x']"""), THEIRS + ", 0.27"),
    "text for a list": (_child("matchers: a=b"), NEITHER),
    "a number to match": (_child("match: {a: 5}"), BOTH),
    "nothing to match": (_child("match: {a: }"), BOTH),
    "a name that is none": (_child("match: {a-b: c}"), NEITHER),
    "an expression in match_re": (_child("match_re: {a: 'x|y'}"), BOTH),
    "a broken expression in match_re": (_child("match_re: {a: '['}"), NEITHER),
    # --- receivers
    "no receivers": (_ROUTE, NEITHER),
    "a receiver twice": (f"{_ROUTE}receivers: [{{name: a}}, {{name: a}}]", NEITHER),
    "a receiver without name": (f"{_ROUTE}receivers: [{{name: a}}, {{webhook_configs: []}}]", NEITHER),
    "a number for a name": ("route: {receiver: 5}\nreceivers: [{name: 5}]", BOTH),
    "labels of a receiver": (f"{_ROUTE}receivers: [{{name: a, labels: {{x: y}}}}]", NEWER),
    "another name among its labels": (f"{_ROUTE}receivers: [{{name: a, labels: {{name: b}}}}]", NEITHER),
    "an unknown kind": (f"{_ROUTE}receivers: [{{name: a, pager_configs: []}}]", NEITHER),
    "our terminal": (_entry("console", ""), OURS),
    "a webhook": (_entry("webhook", "url: 'http://x/'"), BOTH),
    "a webhook without URL": (_entry("webhook", ""), NEITHER),
    "an unknown key of a webhook": (_entry("webhook", "url: 'http://x/', uri: y"), NEITHER),
    "Slack without an address": (_entry("slack", "channel: x"), NEITHER),
    "Slack's address from global": (_entry("slack", "channel: x", "slack_api_url: 'http://x/'"), BOTH),
    "a broken template in a field": (_entry("slack", "api_url: 'http://x/', text: '{{ .Status'"), THEIRS),
    "PagerDuty without a key": (_entry("pagerduty", ""), NEITHER),
    "a number for a key": (_entry("pagerduty", "routing_key: 0123"), BOTH),
    "e-mail without a server": (_entry("email", "to: x@y"), NEITHER),
    "e-mail": (_entry("email", "to: x@y", "smtp_from: a@b, smtp_smarthost: 'c:25'"), BOTH),
    "Opsgenie without a key": (_entry("opsgenie", ""), NEITHER),
    "Telegram without a chat": (_entry("telegram", "bot_token: x"), NEITHER),
    "Discord": (_entry("discord", "webhook_url: 'http://x/'"), BOTH),
    # --- inhibition, time, templates, the rest
    "a rule": (_top("inhibit_rules: [{source_matchers: [a=b], target_matchers: [a=c], equal: [d]}]"), BOTH),
    "an old rule": (_top("inhibit_rules: [{source_match: {a: b}, target_match_re: {a: c.*}}]"), BOTH),
    "a rule of nothing": (_top("inhibit_rules: [{}]"), BOTH),
    "a rule with a name": (_top("inhibit_rules: [{name: x}, {name: x}]"), NEWER),
    "a rule with a broken matcher": (_top("inhibit_rules: [{source_matchers: ['a=~(']}]"), NEITHER),
    "a rule with a name that is none": (_top("inhibit_rules: [{source_match: {a-b: c}}]"), NEITHER),
    "a blank in equal": (_top("inhibit_rules: [{equal: [a b]}]"), NEWER),
    "an empty name in equal": (_top("inhibit_rules: [{equal: ['']}]"), NEITHER),
    "a time interval": (
        _top("time_intervals: [{name: x, time_intervals: [{weekdays: ['monday:friday'], location: Europe/Berlin}]}]"),
        BOTH,
    ),
    "a time interval without name": (_top("time_intervals: [{time_intervals: []}]"), NEITHER),
    "two of a name": (_top("time_intervals: [{name: x}]\nmute_time_intervals: [{name: x}]"), NEITHER),
    "an undefined interval": (_child("mute_time_intervals: [x]"), NEITHER),
    "an undefined active interval": (_child("active_time_intervals: [x]"), NEITHER),
    "an unknown zone": (_top("time_intervals: [{name: x, time_intervals: [{location: Nowhere/X}]}]"), NEITHER),
    "a day that is none": (_top("time_intervals: [{name: x, time_intervals: [{weekdays: [funday]}]}]"), NEITHER),
    "templates that are not there": (_top("templates: ['nowhere/*.tmpl']"), BOTH),
    "a pattern that is none": (_top("templates: ['[']"), NEITHER),
    "text for templates": (_top("templates: x"), NEITHER),
    "tracing": (_top("tracing: {endpoint: 'x:4317', insecure: true}"), NEWER),
    "tracing without endpoint": (_top("tracing: {}"), NEITHER),
    "an unknown key of tracing": (_top("tracing: {endpoint: x, nope: 1}"), NEITHER),
    "an event recorder": (_top("event_recorder: {}"), NEWER),
    "a list for an event recorder": (_top("event_recorder: []"), NEITHER),
}


@pytest.fixture(scope="module", params=[None, "sid"], ids=["stable", "sid"])
def amtool(request: pytest.FixtureRequest) -> Path:
    """That of this Debian, 0.25 or later, and that of its newest suite, 0.33 or later."""
    found = debian.find("amtool", suite=request.param)
    if found is None:
        try:
            found = debian.fetch("prometheus-alertmanager", suite=request.param) / "usr/bin/amtool"
        except debian.FetchError as error:
            if request.param is None:
                raise
            pytest.skip(f"no amtool of Debian sid: {error}")
    assert found.exists(), "no amtool: install prometheus-alertmanager, or put amtool on PATH"
    return found


@pytest.fixture(scope="module")
def version(amtool: Path) -> tuple[int, int]:
    done = subprocess.run([amtool, "--version"], capture_output=True, text=True, check=True)
    major, minor = (done.stdout + done.stderr).split("version ")[1].split(".")[:2]
    return int(major), int(minor)


@pytest.mark.parametrize("name", CASES)
def test_we_judge_a_file_as_alertmanager_does(
    name: str, amtool: Path, version: tuple[int, int], tmp_path: Path
) -> None:
    """Accepted or refused by both; the differences stand in the table."""
    text, expected = CASES[name]
    file = tmp_path / "alertmanager.yml"
    file.write_text(text, encoding="utf-8")
    try:
        load(Document.open(file))
        ours = True
    except SettingsError:
        ours = False
    assert ours is expected.startswith((BOTH, NEWER, OURS))
    since = expected.partition(", 0.")[2]
    if expected.startswith(NEWER) and version < (0, int(since or 33)):
        return
    if expected.startswith(THEIRS) and since and version < (0, int(since)):
        return
    done = subprocess.run([amtool, "check-config", file], capture_output=True, check=False)
    assert (done.returncode == 0) is expected.startswith((BOTH, NEWER, THEIRS)), done.stdout + done.stderr


_EVERY = """
global:
  smtp_smarthost: mail.example:587
  smtp_from: a@b
  smtp_auth_username: robot
  smtp_auth_password: hidden-1
  slack_app_token: hidden-2
  http_config:
    proxy_url: http://user:hidden-3@proxy:3128
    http_headers: {X-Key: {secrets: [hidden-4]}}
  jira_api_url: https://jira.example/
  rocketchat_token: hidden-5
  rocketchat_token_id: hidden-6
  telegram_bot_token: hidden-7
  opsgenie_api_key: hidden-8
  victorops_api_key: hidden-9
route:
  receiver: every
  group_by: ['...']
  routes:
    - matchers: [severity="page", team=~"web|app"]
      match_re: {region: eu-.*}
      receiver: few
      group_by: [alertname]
      active_time_intervals: [office]
      mute_time_intervals: [night]
      labels: {tier: one}
      continue: true
    - matchers: [severity="page"]
      receiver: none
receivers:
  - name: every
    labels: {team: web}
    webhook_configs:
      - url: https://hooks.example/hidden-10
      - {url_file: /run/secrets/hook, timeout: 1m30s}
      - {url: 'http://x/', payload: {text: '{{ .Status }}', list: [1, null, true]}, max_alerts: 5}
      - {url: 'http://x/', http_config: {basic_auth: {username: u, password: hidden-11}}}
      - {url: 'http://x/', http_config: {oauth2: {client_id: i, client_secret: hidden-12, token_url: 'http://x/'}}}
    slack_configs:
      - {channel: '#a'}
      - {api_url: 'https://hooks.slack.example/hidden-13', channel: '#a', fields: [{title: a, value: b}]}
    pagerduty_configs:
      - {routing_key: hidden-14, details: {a: '{{ .Status }}'}, severity: critical, images: [{src: 'http://x/'}]}
      - {service_key: hidden-15}
    email_configs:
      - {to: a@b, headers: {Subject: hello}, tls_config: {insecure_skip_verify: true}}
    opsgenie_configs:
      - {responders: [{name: a, type: team}], priority: P1, details: {a: b}}
    victorops_configs:
      - {routing_key: team, custom_fields: {a: b}}
    pushover_configs:
      - {user_key: hidden-16, token: hidden-17, retry: 30s, expire: 1h}
    telegram_configs:
      - {chat_id: -100123, parse_mode: HTML}
      - {chat_id: -100123, bot_token: hidden-18}
    discord_configs:
      - {webhook_url: 'https://discord.example/hidden-19'}
    msteams_configs:
      - {webhook_url: 'https://teams.example/hidden-20'}
    msteamsv2_configs:
      - {webhook_url: 'https://teams.example/hidden-21'}
    webex_configs:
      - {room_id: r, http_config: {authorization: {credentials: hidden-22}}}
    wechat_configs:
      - {api_secret: hidden-23, corp_id: c}
    sns_configs:
      - {topic_arn: 'arn:aws:sns:us-east-2:1:x', sigv4: {region: us-east-2, access_key: a, secret_key: hidden-24}}
    jira_configs:
      - project: P
        issue_type: Bug
        http_config: {basic_auth: {username: u, password: hidden-25}}
    rocketchat_configs:
      - {channel: '#a'}
    mattermost_configs:
      - {webhook_url: 'https://mm.example/hidden-26'}
    incidentio_configs:
      - {url: 'https://api.incident.example/', alert_source_token: hidden-27}
    console_configs: [{}]
  - name: few
    webhook_configs: [{url: 'http://x/'}]
  - name: none
inhibit_rules:
  - {name: r, source_matchers: [severity="page"], target_matchers: [severity="warning"], equal: [service]}
templates: ['*.tmpl']
time_intervals:
  - name: office
    time_intervals:
      - {times: [{start_time: 09:00, end_time: '24:00'}], weekdays: ['monday:friday'], location: Europe/Berlin}
mute_time_intervals:
  - {name: night, time_intervals: [{days_of_month: ['-3:-1'], months: [december], years: [2030]}]}
tracing: {endpoint: 'x:4317', headers: {Authorization: {secrets: [hidden-28]}}}
"""


def test_every_kind_is_in_the_sample() -> None:
    """A new kind has to be shown in a way that amtool reads."""
    shown = yaml.safe_load(_EVERY)["receivers"][0]
    assert {key.removesuffix("_configs") for key in shown if key.endswith("_configs")} == set(KINDS)


async def test_amtool_reads_what_we_show_whatever_it_holds(amtool: Path) -> None:
    """`config show` and `config routes test` work with every kind of receiver and every key."""
    original = config(_EVERY).original
    assert "hidden" not in original
    assert "console" not in original

    async def test(*labels: str) -> str:
        command = ("config", "routes", "test", *labels)
        return await _run(amtool, url, *command)

    async with serving(_status(original)) as url:
        assert "smtp_smarthost: mail.example:587" in await _run(amtool, url, "config", "show")
        assert await test("severity=page", "team=web", "region=eu-1") == "few,none"
        assert await test("severity=page") == "none"
        assert await test("severity=warning") == "every"


def test_amtool_accepts_what_we_show_as_a_file(amtool: Path, tmp_path: Path) -> None:
    """It is an alertmanager.yml in its own right."""
    file = tmp_path / "alertmanager.yml"
    file.write_text(config(_EVERY).original, encoding="utf-8")
    done = subprocess.run([amtool, "check-config", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_an_old_amtool_cannot_read_is_shown_to_people() -> None:
    """In comments at the end, as YAML."""
    live, _, comments = config(_EVERY).original.partition("# Not shown above")
    data = yaml.safe_load(live)
    assert "jira_configs" not in data["receivers"][0]
    newer = yaml.safe_load("\n".join(line.removeprefix("# ") for line in comments.splitlines()[1:]))
    (every,) = newer["receivers"]
    assert every["labels"] == {"team": "web"}
    assert every["jira_configs"][0]["project"] == "P"
    assert newer["routes"][0]["labels"] == {"tier": "one"}
    assert newer["inhibit_rules"][0]["name"] == "r"
    assert newer["global"]["slack_app_token"] == "<secret>"


_VERSION = ("version", "revision", "branch", "buildUser", "buildDate", "goVersion")


def _status(original: str) -> Starlette:
    """Return a server that answers `GET /api/v2/status` as a router with this configuration does."""
    body = {
        "cluster": {"status": "disabled", "peers": []},
        "config": {"original": original},
        "uptime": "2025-11-23T00:00:00.000Z",
        "versionInfo": dict.fromkeys(_VERSION, "0.28.1"),
    }

    async def status(request: Request) -> Response:
        return Response(json.dumps(body), media_type="application/json")

    return Starlette(routes=[Route("/api/v2/status", status)])


async def _run(amtool: Path, url: str, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        amtool, *arguments, "--alertmanager.url", url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, err.decode()
    return out.decode().strip()
