"""The segments of a group as one: series by series, added up or whatever else their rule says.

Where each number of a series stands in each segment is worked out once and kept for as long as no process, series or
exemplar comes or goes. Reading all workers is then one pass over their cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from tocsin.metrics.described import Rule, rule_of
from tocsin.metrics.segment import CPU, LOST, OLDEST, STARTS, ZERO, Entry, Examples, Segment, View, in_memory

Key = tuple[str, tuple[str, ...]]
Wanted = Callable[[str], bool]
_Source = tuple[View, Entry]


@dataclass(slots=True)
class Example:
    """What is kept of one exemplar."""

    at: float
    """Unix seconds."""
    payload: bytes
    width: int
    """Bytes that there are for it."""


@dataclass(slots=True)
class Series:
    """One series over all workers, or that of one worker."""

    family: str
    """Description of the metric."""
    labels: tuple[str, ...]
    values: list[float]
    examples: dict[int, Example] = field(default_factory=dict)
    """By bucket."""
    pid: int = 0
    """The worker, where each has a series of its own."""


class _Columns:
    """Numbers that stand in several segments, one column for each."""

    def __init__(self) -> None:
        self.starts: dict[Key, tuple[int, int]] = {}
        """First column and how many there are."""
        self.width = 2  # always two, which stay 0: so that what gets them returns several
        self._places: list[tuple[int, int, int, int]] = []
        self._getters: list[tuple[View, Callable[[Sequence[float]], tuple[float, ...]]]] = []

    def add(self, key: Key, view: int, index: int, size: int) -> None:
        found = self.starts.get(key)
        if found is None:
            found = self.starts[key] = (self.width, size)
            self.width += size
        start, _ = found
        self._places.append((view, start, index, size))

    def seal(self, views: Sequence[View]) -> None:
        picks = [[ZERO] * self.width for _ in views]
        for view, start, index, size in self._places:
            picks[view][start : start + size] = range(index, index + size)
        self._getters = [(view, itemgetter(*pick)) for view, pick in zip(views, picks, strict=True)]

    def rows(self) -> list[tuple[float, ...]]:
        return [get(view.cells) for view, get in self._getters]


class _Layout:
    """Where everything stands, for segments as they are described now."""

    def __init__(self, views: Sequence[View], wanted: Wanted) -> None:
        self.views = views
        self.order: dict[Key, Rule] = {}
        self.added = _Columns()
        self.newest = _Columns()
        self.others: dict[Key, list[_Source]] = {}
        self.examples: dict[Key, dict[int, Examples]] = {}
        """Where the exemplars of a series are, by number of the segment."""
        rules: dict[str, Rule | None] = {}
        for number, view in enumerate(views):
            for entry in view:
                family = entry.family
                if family not in rules:
                    rules[family] = rule_of(family) if wanted(family) else None
                rule = rules[family]
                if rule is not None:
                    self._place(number, view, entry, rule)
        self.added.seal(views)
        self.newest.seal(views)

    def _place(self, number: int, view: View, entry: Entry, rule: Rule) -> None:
        key = entry[:2]  # family and labels
        self.order[key] = rule
        if not rule.adds:
            self.others.setdefault(key, []).append((view, entry))
            return
        self.added.add(key, number, entry.first, entry.size)
        examples = view.examples.get(entry.first)
        if examples is not None:
            self.newest.add(key, number, examples.index, examples.count)
            self.examples.setdefault(key, {})[number] = examples

    def read(self) -> Iterator[Series]:
        rows = self.added.rows()
        totals: list[float] = list(map(sum, zip(*rows, strict=True)))
        starts = self.added.starts
        examples = self._examples()
        nothing: dict[int, Example] = {}
        for key, rule in self.order.items():
            family, labels = key
            if rule.adds:
                start, size = starts[key]
                yield Series(family, labels, totals[start : start + size], examples.get(key, nothing))
            else:
                yield from _chosen(rule, key, self.others[key])

    def _examples(self) -> dict[Key, dict[int, Example]]:
        if not self.examples:
            return {}
        columns = list(zip(*self.newest.rows(), strict=True))
        newest = list(map(max, columns))
        found: dict[Key, dict[int, Example]] = {}
        for key, (start, count) in self.newest.starts.items():
            kept: dict[int, Example] = {}
            for slot, at in enumerate(newest[start : start + count]):
                if at:
                    number = columns[start + slot].index(at)
                    examples = self.examples[key][number]
                    payload = self.views[number].example(examples, slot)
                    if payload is not None:
                        kept[slot] = Example(at, payload, examples.width)
            found[key] = kept
        return found


class Merger:
    """Reads the segments of a group as one. Not thread-safe.

    Args:
        wanted: which metrics, by their description.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._layout: _Layout | None = None
        self._versions: list[tuple[int, int, int]] = []

    def read(self, views: Sequence[View]) -> Iterator[Series]:
        """Return all series of these segments, each once, in the order they were first seen."""
        versions = [view.version for view in views]
        if self._layout is None or versions != self._versions:
            self._layout, self._versions = _Layout(views, self._wanted), versions
        return self._layout.read()


def fold(views: Iterable[View], names: list[str]) -> bytes:
    """Return a base: what dead processes have counted and what stays of it.

    Args:
        views: the base until now, and segments of dead processes.
        names: of these segments; the base says that it holds them.
    """
    views = list(views)
    base = in_memory(identity=max(view.identity for view in views) + 1 & (1 << 63) - 1)
    for series in Merger(lambda family: rule_of(family).survives).read(views):
        copy(series, base)
    for cell in (CPU, STARTS, LOST):
        base.cells[cell] = sum(view.cells[cell] for view in views)
    base.cells[OLDEST] = min((view.cells[OLDEST] for view in views if view.cells[OLDEST]), default=0.0)
    base.folded(names)
    return bytes(base.data)


def copy(series: Series, segment: Segment) -> int:
    """Append a series with its values to a segment, and return the index of its first cell."""
    index = segment.add(series.family, series.labels, len(series.values))
    for offset, value in enumerate(series.values):
        segment.cells[index + offset] = value
    for slot, example in series.examples.items():
        segment.exemplify(index, slot, example.at, example.payload, example.width)
    return index


def _chosen(rule: Rule, key: Key, sources: list[_Source]) -> Iterator[Series]:
    family, labels = key
    values = [list(view.cells[entry.first : entry.first + entry.size]) for view, entry in sources]
    if rule is Rule.EACH_LIVING:
        for (view, _), value in zip(sources, values, strict=True):
            yield Series(family, labels, value, pid=view.pid)
    elif rule in (Rule.MAX, Rule.MAX_LIVING):
        yield Series(family, labels, max(values))
    elif rule in (Rule.MIN, Rule.MIN_LIVING):
        yield Series(family, labels, min(values))
    else:  # a value, and when it was set
        yield Series(family, labels, max(values, key=itemgetter(1)))
