"""Inhibition rules that can never mute anything, or mute by anything."""

from __future__ import annotations

from collections.abc import Iterator

from tocsin_alerting.checks.finding import Finding, Subject
from tocsin_alerting.checks.logic import Facts
from tocsin_alerting.inhibition import InhibitRule
from tocsin_service.settings import Loc


def check(subject: Subject) -> Iterator[Finding]:
    """Yield findings on every rule."""
    for index, rule in enumerate(subject.config.inhibit_rules):
        loc = ("inhibit_rules", index)
        yield from _sides(subject, rule, loc)


def _sides(subject: Subject, rule: InhibitRule, loc: Loc) -> Iterator[Finding]:
    name = f'the inhibition rule "{rule.name}"' if rule.name else "this inhibition rule"
    source, target = Facts(rule.source_matchers), Facts(rule.target_matchers)
    for side, facts in (("source", source), ("target", target)):
        if label := facts.contradiction():
            what = f'{name} never mutes: its {side} matchers contradict one another at "{label}"'
            yield subject.error("inhibit-never", loc, what, why="no alert matches them", fix="correct the matchers")
            return
    for index, label in enumerate(rule.equal):
        ours, theirs = source.values(label), target.values(label)
        if ours is not None and theirs is not None and not ours & theirs:
            what = f'{name} never mutes: source and target must have the same "{label}", and cannot'
            why = f"sources have {_list(ours)}, targets {_list(theirs)}"
            fix = f'remove "{label}" from equal, or correct the matchers'
            yield subject.error("inhibit-never", (*loc, "equal", index), what, why=why, fix=fix)
        elif ours == theirs == frozenset({""}):
            what = f'{name} compares "{label}", which neither side has'
            yield subject.warning(
                "inhibit-equal-absent", (*loc, "equal", index), what, why="it says nothing", fix="remove it"
            )
    if target.imply(rule.source_matchers) and source.imply(rule.target_matchers):
        what = f"{name} never mutes: whatever is a source is a target, and the other way round"
        why = "alerts on both sides would mute themselves, so they mute nothing"
        fix = "give the source a matcher that its targets do not have, such as a higher severity"
        yield subject.error("inhibit-itself", loc, what, why=why, fix=fix)
    elif not rule.source_matchers:
        what = f"{name} has no source matchers: every alert that fires mutes its targets"
        why = "one alert about anything keeps them quiet"
        yield subject.warning("inhibit-any-source", loc, what, why=why, fix="add source_matchers")


def _list(found: frozenset[str]) -> str:
    return " or ".join(f'"{value}"' for value in sorted(found))
