"""Many sets of matchers, asked at once which of them a label set satisfies. Pure.

Most sets ask for one value of some label (`alertname="Down"`, `team=~"web|db"`). They are found by it, so that an
answer costs what the sets about the same thing cost, not what all cost.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Final, Generic, TypeVar

from tocsin_alerting.matchers import Matcher, Op, literals, match_all

K = TypeVar("K", bound=Hashable)

_VALUES: Final = 256
"""Alternatives of an expression beyond which it is not worth an entry for each."""

_Held = dict[K, tuple[Matcher, ...]]


class Index(Generic[K]):
    """Sets of matchers under keys of the caller's."""

    def __init__(self) -> None:
        self._by_label: dict[str, dict[str, _Held[K]]] = {}
        self._rest: _Held[K] = {}
        """Those that no single value is needed for: looked at every time."""
        self._needs: dict[K, tuple[str, frozenset[str]] | None] = {}

    def __len__(self) -> int:
        return len(self._needs)

    def __contains__(self, key: object) -> bool:
        return key in self._needs

    def add(self, key: K, matchers: Iterable[Matcher]) -> None:
        """Put in a set; one that is under `key` already is replaced."""
        self.discard(key)
        held = tuple(matchers)
        need = min((need for matcher in held if (need := needed(matcher))), key=self._crowd, default=None)
        self._needs[key] = need
        if need is None:
            self._rest[key] = held
            return
        values = self._by_label.setdefault(need[0], {})
        for value in need[1]:
            values.setdefault(value, {})[key] = held

    def discard(self, key: K) -> None:
        """Take out a set, if it is there."""
        need = self._needs.pop(key, None)
        if need is None:
            self._rest.pop(key, None)
            return
        values = self._by_label[need[0]]
        for value in need[1]:
            del values[value][key]
            if not values[value]:
                del values[value]
        if not values:
            del self._by_label[need[0]]

    def matching(self, labels: Mapping[str, str]) -> list[K]:
        """Return the keys of the sets that `labels` satisfy, in no order."""
        found: list[K] = []
        for name, values in self._by_label.items():
            held = values.get(labels.get(name, ""))
            if held is not None:
                found += [key for key, matchers in held.items() if match_all(matchers, labels)]
        if self._rest:
            found += [key for key, matchers in self._rest.items() if match_all(matchers, labels)]
        return found

    def _crowd(self, need: tuple[str, frozenset[str]]) -> int:
        """Return how many sets would be looked at together with one that needs this."""
        values = self._by_label.get(need[0], {})
        return len(need[1]) + sum(len(values[value]) for value in need[1] if value in values)


def needed(matcher: Matcher) -> tuple[str, frozenset[str]] | None:
    """Return a label and the values of which it must have one; None if the matcher cannot be told by that."""
    if matcher.op is Op.EQUAL:
        values: frozenset[str] | None = frozenset({matcher.value})
    else:
        values = literals(matcher.value) if matcher.op is Op.REGEX else None
    # An absent label is an empty one, which a look by name does not find.
    return None if not values or "" in values or len(values) > _VALUES else (matcher.name, values)
