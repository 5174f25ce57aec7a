from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_alerting.matchers import Matcher, MatcherError, Op, match_all, parse, parse_one, render

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", [("a", "=", "b")]),
        ('a="b"', [("a", "=", "b")]),
        (" a != b ", [("a", "!=", "b")]),
        ("{a=b,c=~d}", [("a", "=", "b"), ("c", "=~", "d")]),
        ('{a="b,c",}', [("a", "=", "b,c")]),
        ('a!~"x|y", b=""', [("a", "!~", "x|y"), ("b", "=", "")]),
        ("a=", [("a", "=", "")]),
        ("a=b c", [("a", "=", "b c")]),
        ("{a=b", [("a", "=", "b")]),  # the classic notation drops braces, matched or not
        ("a==~b", [("a", "=", "=~b")]),
        (r'a="\"\\\n"', [("a", "=", '"\\\n')]),
        (r'a=~"\d+\.x"', [("a", "=~", r"\d+\.x")]),
        ("köln=ö", [("köln", "=", "ö")]),
        ('"with space" = "x"', [("with space", "=", "x")]),
        (r'"a"="\u00e9\t\x41"', [("a", "=", "é\tA")]),
    ],
)
def test_both_notations_are_read(text: str, expected: list[tuple[str, str, str]]) -> None:
    """Classic and UTF-8 matchers are understood, alone and in lists."""
    assert [(m.name, str(m.op), m.value) for m in parse(text)] == expected


@pytest.mark.parametrize("text", ["a", "=b", 'a="b', "a=~(", '"a"="\\q"', 'a="b"c"', '"\\xff"=a', "a b=c", '"a"=b}'])
def test_what_neither_notation_can_read_is_refused(text: str) -> None:
    """The message quotes the matcher."""
    with pytest.raises(MatcherError) as caught:
        parse(text)
    assert text.partition("=~")[2] in str(caught.value)


@pytest.mark.parametrize("text", ["{a=b}", "a=b}", "a=b,c=d", ""])
def test_a_filter_is_exactly_one_matcher(text: str) -> None:
    """Braces and lists are refused where one matcher is expected."""
    with pytest.raises(MatcherError):
        parse_one(text)


@pytest.mark.parametrize(
    ("matcher", "labels", "matches"),
    [
        ('a=""', {}, True),
        ('a!="x"', {}, True),
        ('a=~".*"', {}, True),
        ('a=~".+"', {}, False),
        ("a=~b", {"a": "abc"}, False),
        ("a=~b|c", {"a": "c"}, True),
        ("a!~b.*", {"a": "bcd"}, False),
        ('a=~"x.y"', {"a": "x\ny"}, False),
        ('a=~"ä+"', {"a": "ää"}, True),
    ],
)
def test_expressions_match_whole_values_and_missing_labels_are_empty(
    matcher: str, labels: dict[str, str], matches: bool
) -> None:
    """RE2, anchored on both sides, dot does not match a newline."""
    assert match_all(parse(matcher), labels) is matches


@given(name=_TEXT.filter(bool), op=st.sampled_from([Op.EQUAL, Op.NOT_EQUAL]), value=_TEXT)
def test_a_printed_matcher_reads_back_as_itself(name: str, op: Op, value: str) -> None:
    """Whatever the label name and value hold, printing and parsing are a round trip."""
    matcher = Matcher(name, op, value)
    assert parse(str(matcher)) == (matcher,)


@given(st.text(max_size=30))
def test_no_text_breaks_the_parser(text: str) -> None:
    """Any text is a list of matchers or a MatcherError."""
    try:
        found = parse(text)
    except MatcherError:
        return
    assert all(isinstance(matcher, Matcher) for matcher in found)


def test_lists_print_sorted_because_group_keys_hold_them() -> None:
    """By name, then value, then operator in the order = != =~ !~."""
    assert render(parse('svc=~"a|b", dc!="eu", dc="eu"')) == '{dc="eu",dc!="eu",svc=~"a|b"}'
