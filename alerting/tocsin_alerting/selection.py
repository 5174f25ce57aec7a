"""Which alerts a filter finds. An alert's labels never change, so that an answer holds until alerts come or go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from tocsin_alerting.alerts import Book, Entry
from tocsin_alerting.matchers import Matcher, Op

KEPT: Final = 16
"""Answers that are remembered: dashboards ask the same few questions every half minute."""


class Selections:
    """Finds alerts of a book, sorted by fingerprint."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._version = -1
        self._known: OrderedDict[tuple[Matcher, ...], list[Entry]] = OrderedDict()

    def find(self, matchers: tuple[Matcher, ...]) -> Sequence[Entry]:
        """Return all alerts that satisfy all of `matchers`, ended ones too; a list to look at only."""
        if not matchers:
            return self._book.ordered()
        if self._version != self._book.version:
            self._version = self._book.version
            self._known.clear()
        found = self._known.get(matchers)
        if found is None:
            found = self._known[matchers] = _search(self._book.ordered(), matchers)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(matchers)
        return found


def _search(entries: list[Entry], matchers: tuple[Matcher, ...]) -> list[Entry]:
    # Equality is the cheapest question, and mostly leaves few to ask the others.
    for matcher in sorted(matchers, key=lambda matcher: matcher.op is not Op.EQUAL):
        name, value, matches = matcher.name, matcher.value, matcher.matches
        if matcher.op is Op.EQUAL:
            entries = [entry for entry in entries if entry.alert.labels.get(name, "") == value]
        else:
            entries = [entry for entry in entries if matches(entry.alert.labels)]
    return entries
