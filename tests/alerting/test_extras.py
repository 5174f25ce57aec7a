from __future__ import annotations

from pathlib import Path

import pytest

from tocsin_alerting.config import load
from tocsin_alerting.extras import Extras
from tocsin_alerting.extras import load as load_extras
from tocsin_alerting.limits import Rate
from tocsin_service.settings import Document, SettingsError

_MAIN = "route: {receiver: team}\nreceivers: [{name: team}, {name: oncall}]\n"


def _extras(text: str, environ: dict[str, str] | None = None) -> Extras:
    return load_extras(Document.parse(text, file="tocsin-alerting.yml", environ=environ))


def _problems(text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        _extras(text)
    return [str(problem) for problem in caught.value.problems]


def test_an_empty_file_is_all_defaults() -> None:
    """Alertmanager's words and behaviour, and the rates that Slack and Telegram bear."""
    extras = _extras("")
    assert extras == Extras()
    assert (extras.messages, extras.lease) == ("alertmanager", 3.0)
    assert not extras.resolves_at_once("team")
    assert extras.rate("team", "slack") == Rate(1.0, 3)
    assert extras.rate("team", "telegram") == Rate(1.0, 1)
    assert extras.rate("team", "webhook") is None


def test_a_receiver_may_differ_from_the_rest() -> None:
    """In when it is told of an end under a mute, and in how fast."""
    extras = _extras("""
resolve_muted: at_once
rate_limits: {slack: 30/m, telegram: off, webhook: {rate: 5/s, burst: 20}}
receivers:
  quiet: {resolve_muted: on_unmute}
  slow: {rate_limit: 6/h}
  burst: {burst: 5}
  free: {rate_limit: off}
""")
    assert extras.resolves_at_once("team")
    assert not extras.resolves_at_once("quiet")
    assert extras.resolves_at_once("slow")
    assert extras.rate("team", "slack") == Rate(0.5, 1)
    assert extras.rate("team", "telegram") is None
    assert extras.rate("team", "webhook") == Rate(5.0, 20)
    assert extras.rate("slow", "pagerduty") == Rate(6 / 3600, 1)
    assert extras.rate("burst", "slack") == Rate(0.5, 5)
    assert extras.rate("burst", "pagerduty") is None
    assert extras.rate("free", "slack") is None


def test_sources_heartbeats_and_pings_stand_here() -> None:
    """With secrets from files or the environment: unlike Alertmanager's file, this one replaces ${NAME}."""
    extras = _extras(
        """
replicas: {lease: 5s}
sources:
  - {name: grafana, kind: grafana, token: "${GRAFANA_TOKEN}"}
heartbeats:
  - {name: prometheus, matchers: ['alertname="Watchdog"'], every: 3m}
pings:
  - {name: outside, url: "https://hc.example/${GRAFANA_TOKEN}"}
""",
        {"GRAFANA_TOKEN": "a-long-enough-token"},
    )
    assert extras.lease == 5.0
    assert [source.name for source in extras.sources] == ["grafana"]
    assert [beat.every for beat in extras.heartbeats] == [180.0]
    assert [ping.name for ping in extras.pings] == ["outside"]
    assert "a-long-enough-token" not in repr(extras)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("message: tocsin", '1:1: unknown key "message"'),
        ("messages: mine", "1:1: messages: "),
        ("resolve_muted: never", "1:1: resolve_muted: "),
        ("rate_limits: {slack: fast}", "1:15: rate_limits.slack: this is not a rate; expected messages per time such"),
        ("rate_limits: {slack: 0/s}", "1:15: rate_limits.slack: this is not a rate"),
        ("rate_limits: {slack: {rate: 1/s, burst: 0}}", "1:15: rate_limits.slack: burst is no number of messages"),
        ("rate_limits: {slack: {rat: 1/s}}", '1:15: rate_limits.slack: unknown key "rat"; expected rate and burst'),
        ("rate_limits: {slak: 1/s}", '1:1: rate_limits: there is no kind of receiver "slak"'),
        ("replicas: {lease: 0s}", "1:12: replicas.lease: "),
        ("receivers: {team: {burst: 0}}", "1:20: receivers.team.burst: "),
        ("sources: [{kind: carrier-pigeon}]", "1:11: sources[0]: no such kind of source"),
        ("heartbeats: [{name: x, matchers: []}]", "1:24: heartbeats[0].matchers: nothing is matched"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, problem: str) -> None:
    """As everywhere."""
    assert any(line.startswith(f"tocsin-alerting.yml:{problem}") for line in _problems(text)), _problems(text)


def test_a_receiver_that_does_not_exist_is_a_mistake_of_this_file() -> None:
    """Found when both files are known."""
    extras = _extras("receivers:\n  oncall: {burst: 2}\n  onkall: {burst: 2}\n")
    with pytest.raises(SettingsError) as caught:
        load(Document.parse(_MAIN, file="alertmanager.yml", folder=Path()), extras=extras)
    assert str(caught.value) == (
        'tocsin-alerting.yml:3:3: undefined receiver "onkall"; expected a receiver of alertmanager.yml'
    )
