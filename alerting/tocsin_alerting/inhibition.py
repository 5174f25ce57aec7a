"""Inhibition: an alert that fires keeps others quiet. Pure.

A target is muted while a source of the same rule fires and has the same values under the labels of `equal`. Whether
the source itself is muted or told does not matter. An alert on both sides of a rule is muted by those only that are
on the source's side alone, so that no alert mutes itself and no two mute one another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tocsin_alerting.alerts import Entry
from tocsin_alerting.index import Index
from tocsin_alerting.matchers import Matcher, match_all, render

NAMED: Final = 3
"""Sources an answer names at most."""
_MANY: Final = 32
"""Sources beyond which "none of them fires" is remembered for the instant it was found at."""


@dataclass(frozen=True, slots=True)
class InhibitRule:
    """One rule; no matchers match everything.

    Args:
        equal: labels that source and target must have in common; one that both lack is in common.
    """

    name: str = ""
    source_matchers: tuple[Matcher, ...] = ()
    target_matchers: tuple[Matcher, ...] = ()
    equal: tuple[str, ...] = ()

    def key(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        """Return what a source and a target must share."""
        return tuple([labels.get(name, "") for name in self.equal])

    def __str__(self) -> str:
        """Return the rule in words, for one that has no name."""
        equal = f" with equal {', '.join(self.equal)}" if self.equal else ""
        return f"{render(self.source_matchers)} inhibits {render(self.target_matchers)}{equal}"


class Sources:
    """Alerts on the source's side of one rule, alike under its `equal`.

    All are kept, not only the one that ends last: which of them still fires is seen when somebody asks, and a re-post
    that makes one fire again or longer has nothing to update here.
    """

    __slots__ = ("_first", "_quiet_at", "entries")

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._first: Entry | None = None
        self._quiet_at: float | None = None

    def add(self, entry: Entry) -> None:
        """Put in an alert, or note that one has changed."""
        self.entries[entry.alert.fingerprint] = entry
        self._first = self._quiet_at = None

    def discard(self, fingerprint: str) -> None:
        """Take out an alert."""
        del self.entries[fingerprint]
        self._first = None

    def firing(self, now: float) -> Entry | None:
        """Return one that fires."""
        first = self._first
        if first is not None and first.alert.ends_at > now:
            return first
        if self._quiet_at == now:
            return None
        for entry in self.entries.values():
            if entry.alert.ends_at > now:
                self._first = entry
                return entry
        # So that an answer about thousands of targets does not go through thousands of ended sources for each.
        self._quiet_at = now if len(self.entries) > _MANY else None
        return None


class _Bucket:
    """The sources of one rule with one `key`: those on its source's side only, and those on both sides."""

    __slots__ = ("both", "one_sided")

    def __init__(self) -> None:
        self.one_sided = Sources()
        self.both = Sources()

    def __bool__(self) -> bool:
        return bool(self.one_sided.entries or self.both.entries)


class Inhibitor:
    """All rules, and the alerts that are sources of one.

    Attributes:
        version: changes whenever a source comes or goes. Whether one fires is a matter of time besides.
        shape: changes whenever `candidates` may answer with other objects for some labels.
    """

    def __init__(self, rules: Iterable[InhibitRule] = ()) -> None:
        self.rules = tuple(rules)
        self.version = 0
        self.shape = 0
        self._as_source = Index[int]()
        self._as_target = Index[int]()
        for number, rule in enumerate(self.rules):
            self._as_source.add(number, rule.source_matchers)
            self._as_target.add(number, rule.target_matchers)
        self._buckets: list[dict[tuple[str, ...], _Bucket]] = [{} for _ in self.rules]
        self._held: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Take in an alert: one that is new, has begun or ended; nothing has to be said about mere re-posts."""
        for number, key, both in self._places(entry.alert.labels):
            bucket = self._buckets[number].get(key)
            if bucket is None:
                bucket = self._buckets[number][key] = _Bucket()
                self.shape += 1
            (bucket.both if both else bucket.one_sided).add(entry)
            self._held[entry.alert.fingerprint] = entry
            self.version += 1

    def discard(self, fingerprint: str) -> None:
        """Forget an alert."""
        entry = self._held.pop(fingerprint, None)
        if entry is None:
            return
        for number, key, both in self._places(entry.alert.labels):
            bucket = self._buckets[number][key]
            (bucket.both if both else bucket.one_sided).discard(fingerprint)
            self.version += 1
            if not bucket:
                del self._buckets[number][key]
                self.shape += 1

    def candidates(self, labels: Mapping[str, str]) -> tuple[Sources, ...]:
        """Return the sources any of which mutes an alert with these labels while it fires.

        They stay right until `shape` changes.
        """
        return tuple(sources for _, sources in self._against(labels))

    def inhibited_by(self, labels: Mapping[str, str], now: float) -> tuple[str, ...]:
        """Return fingerprints of alerts that mute one with these labels: one for each rule that does, up to a few."""
        return firing(self.candidates(labels), now)

    def rule_for(self, labels: Mapping[str, str], source: str, now: float) -> InhibitRule | None:
        """Return the rule by which the alert with the fingerprint `source` mutes one with these labels."""
        entry = self._held.get(source)
        if entry is None or entry.alert.resolved(now):
            return None
        return next((rule for rule, sources in self._against(labels) if source in sources.entries), None)

    def source(self, fingerprint: str) -> Entry | None:
        """Return an alert that is a source of some rule."""
        return self._held.get(fingerprint)

    def _places(self, labels: Mapping[str, str]) -> Iterator[tuple[int, tuple[str, ...], bool]]:
        """Yield where a source belongs: the rule, the bucket, and whether it is on both sides."""
        for number in self._as_source.matching(labels):
            rule = self.rules[number]
            yield number, rule.key(labels), match_all(rule.target_matchers, labels)

    def _against(self, labels: Mapping[str, str]) -> Iterator[tuple[InhibitRule, Sources]]:
        for number in sorted(self._as_target.matching(labels)):
            rule = self.rules[number]
            bucket = self._buckets[number].get(rule.key(labels)) if self._buckets[number] else None
            if bucket is None:
                continue
            yield rule, bucket.one_sided
            if not match_all(rule.source_matchers, labels):
                yield rule, bucket.both


def firing(candidates: Iterable[Sources], now: float) -> tuple[str, ...]:
    """Return the fingerprints of those that mute: one from each of `candidates`, up to a few."""
    found: dict[str, None] = {}
    for sources in candidates:
        entry = sources.firing(now)
        if entry is not None:
            found[entry.alert.fingerprint] = None
            if len(found) == NAMED:
                break
    return tuple(found)
