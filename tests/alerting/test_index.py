"""Many sets of matchers, asked at once: the same answers as asking each."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin_alerting.index import Index, needed
from tocsin_alerting.matchers import Matcher, Op, match_all

_NAMES = st.sampled_from("abc")
_VALUES = st.sampled_from(["", "1", "2", "3", "1|2", "1|", "(?:2|3)", ".*", ".+", "[12]"])
_MATCHERS = st.builds(Matcher, _NAMES, st.sampled_from(list(Op)), _VALUES)
_SETS = st.lists(_MATCHERS, max_size=3).map(tuple)
_LABELS = st.dictionaries(_NAMES, st.sampled_from("123"))


@settings(deadline=None)  # machines are busy at times
@given(st.lists(_SETS, max_size=12), st.lists(_LABELS, max_size=6))
def test_it_answers_as_each_set_would(sets: list[tuple[Matcher, ...]], label_sets: list[dict[str, str]]) -> None:
    """Whatever the operators, also for labels that are missing."""
    index = Index[int]()
    for number, matchers in enumerate(sets):
        index.add(number, matchers)
    for labels in label_sets:
        expected = [number for number, matchers in enumerate(sets) if match_all(matchers, labels)]
        assert sorted(index.matching(labels)) == expected


@settings(deadline=None)  # machines are busy at times
@given(st.lists(st.tuples(st.integers(0, 4), st.none() | _SETS), max_size=30), st.lists(_LABELS, max_size=4))
def test_sets_come_and_go(
    steps: list[tuple[int, tuple[Matcher, ...] | None]], label_sets: list[dict[str, str]]
) -> None:
    """A set may be replaced and taken out, and leaves nothing behind."""
    index, held = Index[int](), dict[int, tuple[Matcher, ...]]()
    for key, matchers in steps:
        if matchers is None:
            index.discard(key)
            held.pop(key, None)
        else:
            index.add(key, matchers)
            held[key] = matchers
    assert len(index) == len(held)
    for labels in label_sets:
        assert set(index.matching(labels)) == {key for key, each in held.items() if match_all(each, labels)}
    for key in list(held):
        index.discard(key)
    assert (index._by_label, index._rest, index._needs) == ({}, {}, {})


@pytest.mark.parametrize(
    ("matcher", "need"),
    [
        (Matcher("a", Op.EQUAL, "1"), ("a", {"1"})),
        (Matcher("a", Op.REGEX, "1|2"), ("a", {"1", "2"})),
        (Matcher("a", Op.REGEX, "^(?:1|2)$"), ("a", {"1", "2"})),
        (Matcher("a", Op.EQUAL, ""), None),
        (Matcher("a", Op.REGEX, "1|"), None),
        (Matcher("a", Op.REGEX, "1.*"), None),
        (Matcher("a", Op.REGEX, "|".join(map(str, range(300)))), None),
        (Matcher("a", Op.NOT_EQUAL, "1"), None),
        (Matcher("a", Op.NOT_REGEX, "1|2"), None),
    ],
)
def test_a_matcher_needs_a_value_or_has_to_be_asked(matcher: Matcher, need: tuple[str, set[str]] | None) -> None:
    """What an absent label can satisfy cannot be found by its value."""
    assert needed(matcher) == need


def test_few_sets_are_looked_at() -> None:
    """Of the labels a set needs, it is found by the one that fewest others need."""
    index = Index[int]()
    for number in range(100):
        index.add(number, [Matcher("job", Op.EQUAL, "node"), Matcher("instance", Op.EQUAL, f"host-{number}")])
    assert len(index._by_label["instance"]) == 99  # the first could not know
    assert index.matching({"job": "node", "instance": "host-7"}) == [7]
