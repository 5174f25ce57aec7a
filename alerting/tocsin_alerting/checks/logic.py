"""What matchers say about one another. Pure.

Labels that some matcher names exactly, or as one of a list, are known; of all others nothing is assumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tocsin_alerting.matchers import Matcher, Op, literals


class Facts:
    """What is known of labels where all of some matchers hold."""

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        self._matchers = frozenset(matchers)
        self._names = dict.fromkeys(matcher.name for matcher in matchers)
        self._values = {name: self._find(name, matchers) for name in self._names}

    def values(self, name: str) -> frozenset[str] | None:
        """Return the values that a label can have; None where that is no short list."""
        return self._values.get(name)

    def contradiction(self) -> str | None:
        """Return a label for which no value satisfies all matchers, if there is one."""
        for name in self._names:
            if self._values[name] == frozenset():
                return name
        opposed = (each for each in self._matchers if _opposite(each) in self._matchers)
        return next((each.name for each in opposed), None)

    def imply(self, needed: Iterable[Matcher]) -> bool:
        """Return whether all of `needed` hold too."""
        return all(self._implies(matcher) for matcher in needed)

    def _implies(self, needed: Matcher) -> bool:
        known = self._values.get(needed.name)
        if known is None:
            return needed in self._matchers
        return all(needed.matches({needed.name: value}) for value in known)

    def _find(self, name: str, matchers: Sequence[Matcher]) -> frozenset[str] | None:
        mine = [matcher for matcher in matchers if matcher.name == name]
        lists = [listed for matcher in mine if (listed := _listed(matcher)) is not None]
        if not lists:
            return None
        common = frozenset.intersection(*lists)
        return frozenset(value for value in common if all(matcher.matches({name: value}) for matcher in mine))


def _opposite(matcher: Matcher) -> Matcher:
    return Matcher(matcher.name, _OPPOSITE[matcher.op], matcher.value)


_OPPOSITE: Final = {Op.EQUAL: Op.NOT_EQUAL, Op.NOT_EQUAL: Op.EQUAL, Op.REGEX: Op.NOT_REGEX, Op.NOT_REGEX: Op.REGEX}


def _listed(matcher: Matcher) -> frozenset[str] | None:
    if matcher.op is Op.EQUAL:
        return frozenset({matcher.value})
    return literals(matcher.value) if matcher.op is Op.REGEX else None
