"""Inhibition: who keeps whom quiet, and for how long."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin_alerting.alerts import Entry
from tocsin_alerting.inhibition import NAMED, Inhibitor, InhibitRule
from tocsin_alerting.matchers import Matcher, Op, match_all, parse
from tocsin_alerting.testing import NOW, alert


def _rule(source: str, target: str, *equal: str, name: str = "") -> InhibitRule:
    return InhibitRule(name, parse(source) if source else (), parse(target) if target else (), equal)


def _entry(name: str = "Down", *, end: float = NOW + 3600, **labels: str) -> Entry:
    return Entry(alert(name, end=end, **labels), received_at=NOW)


def _inhibitor(*rules: InhibitRule, entries: tuple[Entry, ...] = ()) -> Inhibitor:
    inhibitor = Inhibitor(rules)
    for entry in entries:
        inhibitor.add(entry)
    return inhibitor


def _repost(entry: Entry, ends_at: float) -> None:
    """Hear of an alert again, as intake does: nobody is told but the cell."""
    entry.alert = msgspec.structs.replace(entry.alert, ends_at=ends_at)


_CRITICAL = _rule("severity=critical", "severity=warning", "cluster")


def test_a_source_keeps_targets_quiet() -> None:
    """Those that the rule's targets match, and that have the same values under the labels of `equal`."""
    source = _entry("Down", severity="critical", cluster="eu")
    inhibitor = _inhibitor(_CRITICAL, entries=(source,))
    answer = inhibitor.inhibited_by({"severity": "warning", "cluster": "eu"}, NOW)
    assert answer == (source.alert.fingerprint,)
    assert inhibitor.inhibited_by({"severity": "warning", "cluster": "us"}, NOW) == ()
    assert inhibitor.inhibited_by({"severity": "info", "cluster": "eu"}, NOW) == ()
    assert inhibitor.inhibited_by(source.alert.labels, NOW) == ()


def test_labels_that_both_lack_are_equal() -> None:
    """One that only one side lacks is not."""
    inhibitor = _inhibitor(_CRITICAL, entries=(_entry(severity="critical"),))
    assert inhibitor.inhibited_by({"severity": "warning"}, NOW)
    assert not inhibitor.inhibited_by({"severity": "warning", "cluster": "eu"}, NOW)


def test_no_matchers_match_everything() -> None:
    """On either side."""
    source = _entry("Down", cluster="eu")
    assert _inhibitor(_rule("", "severity=warning", "cluster"), entries=(source,)).inhibited_by(
        {"severity": "warning", "cluster": "eu"}, NOW
    )
    # Everything is a target, the source itself too: it is on both sides, and does not count for others there.
    inhibitor = _inhibitor(_rule("alertname=Down", ""), entries=(source,))
    assert inhibitor.inhibited_by({"alertname": "Slow"}, NOW)
    assert not inhibitor.inhibited_by(source.alert.labels, NOW)


def test_only_a_source_that_fires_counts() -> None:
    """Its end is read when somebody asks: re-posts are not announced."""
    source = _entry(severity="critical", end=NOW + 60)
    inhibitor = _inhibitor(_CRITICAL, entries=(source,))
    target = {"severity": "warning"}
    assert inhibitor.inhibited_by(target, NOW + 59)
    assert not inhibitor.inhibited_by(target, NOW + 60)
    _repost(source, NOW + 120)
    assert inhibitor.inhibited_by(target, NOW + 60)
    _repost(source, NOW + 50)
    assert not inhibitor.inhibited_by(target, NOW + 60)


def test_another_source_takes_over() -> None:
    """As long as any fires, and whichever was named before."""
    first, second = _entry("A", severity="critical", end=NOW + 60), _entry("B", severity="critical")
    inhibitor = _inhibitor(_CRITICAL, entries=(first, second))
    target = {"severity": "warning"}
    assert inhibitor.inhibited_by(target, NOW) == (first.alert.fingerprint,)
    assert inhibitor.inhibited_by(target, NOW + 60) == (second.alert.fingerprint,)
    inhibitor.discard(second.alert.fingerprint)
    assert not inhibitor.inhibited_by(target, NOW + 60)
    inhibitor.discard("never seen")


def test_an_alert_on_both_sides_does_not_mute_itself_or_its_like() -> None:
    """Two of them never mute one another; one that is a source only mutes both, and they mute mere targets."""
    rule = _rule("tier=~a|b", "tier=~b|c")
    both, like = _entry("Both", tier="b"), _entry("Like", tier="b")
    inhibitor = _inhibitor(rule, entries=(both, like))
    assert not inhibitor.inhibited_by(both.alert.labels, NOW)
    assert inhibitor.inhibited_by({"tier": "c"}, NOW)
    source = _entry("Source", tier="a")
    inhibitor.add(source)
    assert inhibitor.inhibited_by(both.alert.labels, NOW) == (source.alert.fingerprint,)
    assert not inhibitor.inhibited_by(source.alert.labels, NOW)


def test_a_one_sided_source_is_not_overlooked_for_a_two_sided_one_that_ends_later() -> None:
    """Alertmanager from 0.30 on keeps one source per set of equal values, and it may be the wrong one."""
    rule = _rule("tier=~a|b", "tier=~b|c", "cluster")
    one_sided = _entry("One", tier="a", cluster="eu", end=NOW + 100)
    two_sided = _entry("Two", tier="b", cluster="eu", end=NOW + 1000)
    target = _entry("Target", tier="b", cluster="eu")
    for entries in ((one_sided, two_sided), (two_sided, one_sided)):
        inhibitor = _inhibitor(rule, entries=entries)
        assert inhibitor.inhibited_by(target.alert.labels, NOW) == (one_sided.alert.fingerprint,)


def test_the_rule_that_mutes_is_known() -> None:
    """By name where it has one, in words where it has none."""
    source = _entry("Down", severity="critical")
    named, unnamed = _rule("team=x", "severity=warning", name="other"), _CRITICAL
    inhibitor = _inhibitor(named, unnamed, entries=(source,))
    target = {"severity": "warning"}
    found = inhibitor.rule_for(target, source.alert.fingerprint, NOW)
    assert found is unnamed
    assert str(found) == '{severity="critical"} inhibits {severity="warning"} with equal cluster'
    assert inhibitor.rule_for(target, source.alert.fingerprint, NOW + 3600) is None
    assert inhibitor.rule_for({}, source.alert.fingerprint, NOW) is None
    assert inhibitor.rule_for(target, "never seen", NOW) is None
    assert inhibitor.source(source.alert.fingerprint) is source


def test_a_few_sources_are_named() -> None:
    """One for each rule, not all there are."""
    rules = [_rule(f"severity=critical,n=~{n}|", "severity=warning") for n in range(5)]
    entries = tuple(_entry(f"A{n}", severity="critical", n=str(n)) for n in range(5))
    inhibitor = _inhibitor(*rules, entries=entries)
    assert len(inhibitor.inhibited_by({"severity": "warning"}, NOW)) == NAMED


def test_the_version_says_that_answers_may_have_changed() -> None:
    """With sources that come and go, not with others; the shape when there is a new place to look at."""
    inhibitor = _inhibitor(_CRITICAL)
    seen = [(inhibitor.version, inhibitor.shape)]

    def moved() -> tuple[bool, bool]:
        seen.append((inhibitor.version, inhibitor.shape))
        return seen[-1][0] != seen[-2][0], seen[-1][1] != seen[-2][1]

    inhibitor.add(_entry(severity="warning"))
    assert moved() == (False, False)
    inhibitor.add(_entry("A", severity="critical", cluster="eu"))
    assert moved() == (True, True)
    inhibitor.add(second := _entry("B", severity="critical", cluster="eu"))
    assert moved() == (True, False)
    inhibitor.discard(second.alert.fingerprint)
    assert moved() == (True, False)
    inhibitor.discard(_entry("A", severity="critical", cluster="eu").alert.fingerprint)
    assert moved() == (True, True)


def test_many_ended_sources_do_not_make_every_question_dear() -> None:
    """That none of them fires is remembered for the instant; one that is announced again is seen in that instant."""
    sources = [_entry(f"A{n}", severity="critical", end=NOW) for n in range(2000)]
    inhibitor = _inhibitor(_CRITICAL, entries=tuple(sources))
    target = {"severity": "warning"}
    begun = time.process_time()
    for _ in range(2000):
        assert not inhibitor.inhibited_by(target, NOW)
    assert time.process_time() - begun < 0.5
    _repost(sources[7], NOW + 60)
    inhibitor.add(sources[7])
    assert inhibitor.inhibited_by(target, NOW) == (sources[7].alert.fingerprint,)


_TIERS = st.sampled_from(["", "a", "b", "c"])
_ALERTS = st.lists(st.tuples(_TIERS, _TIERS, st.sampled_from([NOW - 1, NOW + 1])), max_size=8)
_SIDES = st.lists(st.builds(Matcher, st.sampled_from("xy"), st.sampled_from(list(Op)), _TIERS), max_size=2)
_RULES = st.lists(st.tuples(_SIDES, _SIDES, st.sampled_from([(), ("x",), ("y",), ("x", "y")])), max_size=3)


@settings(deadline=None)  # machines are busy at times
@given(_RULES, _ALERTS)
def test_answers_are_those_of_the_definition(
    rules: list[tuple[list[Matcher], list[Matcher], tuple[str, ...]]], alerts: list[tuple[str, str, float]]
) -> None:
    """Compared with every rule, source and target looked at one by one."""
    made = [InhibitRule("", tuple(source), tuple(target), equal) for source, target, equal in rules]
    entries = [
        _entry(f"A{n}", end=end, **{name: value for name, value in (("x", x), ("y", y)) if value})
        for n, (x, y, end) in enumerate(alerts)
    ]
    inhibitor = _inhibitor(*made, entries=tuple(entries))
    for target in entries:
        labels = target.alert.labels
        expected = {
            source.alert.fingerprint
            for rule in made
            for source in entries
            if match_all(rule.target_matchers, labels)
            and match_all(rule.source_matchers, source.alert.labels)
            and source.alert.ends_at > NOW
            and all(labels.get(name, "") == source.alert.labels.get(name, "") for name in rule.equal)
            and not (match_all(rule.source_matchers, labels) and match_all(rule.target_matchers, source.alert.labels))
        }
        found = inhibitor.inhibited_by(labels, NOW)
        assert bool(found) is bool(expected)
        assert set(found) <= expected
        for name in found:
            assert inhibitor.rule_for(labels, name, NOW) in made
    for entry in entries:
        inhibitor.discard(entry.alert.fingerprint)
    assert not any(inhibitor._buckets)


@pytest.mark.parametrize("sources", [0, 25_000])
def test_a_question_costs_microseconds(sources: int) -> None:
    """50,000 alerts, 20 rules, no target: the matchers are not even looked at."""
    rules = [_rule(f"severity=critical,team=t{n}", f'severity="warning",team="t{n}"', "cluster") for n in range(20)]
    entries = [
        _entry(f"A{n}", severity="critical" if n < sources else "info", team=f"t{n % 20}", cluster=f"c{n % 500}")
        for n in range(50_000)
    ]
    inhibitor = Inhibitor(rules)
    begun = time.process_time()
    for entry in entries:
        inhibitor.add(entry)
    assert time.process_time() - begun < 2.0
    labels = {"alertname": "Slow", "severity": "info", "team": "t3", "cluster": "c7", "instance": "host", "job": "node"}
    begun = time.process_time()
    for _ in range(10_000):
        inhibitor.inhibited_by(labels, NOW)
    assert (time.process_time() - begun) / 10_000 < 20e-6
