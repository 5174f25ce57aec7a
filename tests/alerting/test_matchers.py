from __future__ import annotations

import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_alerting.matchers import (
    Matcher,
    MatcherError,
    Mode,
    Op,
    literals,
    match_all,
    parse,
    parse_one,
    quote,
    read,
    render,
    unquote,
)

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def _triples(text: str, mode: Mode = Mode.FALLBACK) -> list[tuple[str, str, str]]:
    return [(m.name, str(m.op), m.value) for m in parse(text, mode)]


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
        ("a=b\\", [("a", "=", "b\\")]),
        ("a=b\u00a0", [("a", "=", "b")]),
        ("köln=ö", [("köln", "=", "ö")]),
        ('"with space" = "x"', [("with space", "=", "x")]),
        (r'"a"="\u00e9\t\x41"', [("a", "=", "é\tA")]),
        ("", []),
        ("{}", []),
    ],
)
def test_both_notations_are_read(text: str, expected: list[tuple[str, str, str]]) -> None:
    """Classic and UTF-8 matchers are understood, alone and in lists."""
    assert _triples(text) == expected


@pytest.mark.parametrize(
    "text", ["a", "=b", 'a="b', "a=~(", '"a"="\\q"', 'a="b"c"', '"\\xff"=a', "a b=c", '"a"=b}', '""=b', "a=b,,c=d"]
)
def test_what_neither_notation_can_read_is_refused(text: str) -> None:
    """The message quotes the matcher."""
    with pytest.raises(MatcherError) as caught:
        parse(text)
    assert text.partition("=~")[2] in str(caught.value)


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        ("a=b c", Mode.CLASSIC, [("a", "=", "b c")]),
        ("a=b c", Mode.UTF8, None),
        ('"a b"=c', Mode.CLASSIC, None),
        ('"a b"=c', Mode.UTF8, [("a b", "=", "c")]),
        (r'a="\u00e9"', Mode.CLASSIC, [("a", "=", r"\u00e9")]),
        (r'a="\u00e9"', Mode.FALLBACK, [("a", "=", r"\u00e9")]),
        (r'a="\u00e9"', Mode.UTF8, [("a", "=", "é")]),
        ("a=", Mode.UTF8, None),
        ("{a=b", Mode.UTF8, None),
    ],
)
def test_a_mode_chooses_the_notation(text: str, mode: Mode, expected: list[tuple[str, str, str]] | None) -> None:
    """`--enable-feature=utf8-strict-mode` and `classic-mode` use one; without them both are tried."""
    if expected is None:
        with pytest.raises(MatcherError):
            parse(text, mode)
    else:
        assert _triples(text, mode) == expected


def test_modes_are_asked_for_by_features() -> None:
    """Other features say nothing of matchers; both modes at once are refused."""
    assert Mode.of([]) is Mode.FALLBACK
    assert Mode.of(["auto-gomemlimit", "classic-mode"]) is Mode.CLASSIC
    assert Mode.of({"utf8-strict-mode"}) is Mode.UTF8
    with pytest.raises(ValueError, match="exclude one another"):
        Mode.of(["utf8-strict-mode", "classic-mode"])


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ('a="b"', ""),
        ("a=b", ""),
        ('"a b"=c', ""),
        ("a=b c", "only Alertmanager's old notation"),
        (r"a=b\d", "only Alertmanager's old notation"),
        ("{a=b", "only Alertmanager's old notation"),
        (r'a="\u00e9"', "read this differently"),
    ],
)
def test_what_alertmanager_would_warn_of_is_said(text: str, warning: str) -> None:
    """What only the old notation can read, and what the two read differently."""
    found = read(text).warning
    assert (warning in found) if warning else not found


def test_a_warning_goes_away_when_matchers_are_written_as_they_print() -> None:
    """That is the suggestion: both notations read it alike."""
    for text in ("a=b c", r'a="\u00e9"', r"a=~\d+", "{a=b", "a="):
        printed = ",".join(map(str, parse(text)))
        again = read(printed)
        assert (again.matchers, again.warning) == (parse(text), "")


@pytest.mark.parametrize("text", ["{a=b}", "a=b}", "{a=b", 'a="b",c="d"', '"a"=b,"c"=d', "", '""="x"'])
def test_a_filter_is_exactly_one_matcher(text: str) -> None:
    """Braces and lists are refused where one matcher is expected."""
    with pytest.raises(MatcherError):
        parse_one(text)


@pytest.mark.parametrize(("text", "value"), [("a=b,c=d", "b,c=d"), ("a=b,", "b,"), ('"a"="b"', "b"), ('a="b",', "b")])
def test_a_single_classic_matcher_may_hold_commas(text: str, value: str) -> None:
    """As amtool and Alertmanager's `filter` read it: the value is the rest of the text."""
    assert parse_one(text) == Matcher("a", Op.EQUAL, value)


@pytest.mark.parametrize(
    ("matcher", "labels", "matches"),
    [
        ('a=""', {}, True),
        ('a=""', {"a": "x"}, False),
        ('a!="x"', {}, True),
        ('a!=""', {}, False),
        ('a=~".*"', {}, True),
        ('a=~".+"', {}, False),
        ('a=~"|b"', {}, True),
        ('a!~"|b"', {}, False),
        ("a=~b", {"a": "abc"}, False),
        ("a=~b|c", {"a": "c"}, True),
        ("a=~b|c", {"a": "bc"}, False),
        ("a=~b.|c", {"a": "c"}, True),
        ("a=~b.|c", {"a": "bxc"}, False),
        ("a!~b.*", {"a": "bcd"}, False),
        ('a=~"x.y"', {"a": "x\ny"}, False),
        ('a=~"(?s)x.y"', {"a": "x\ny"}, True),
        ('a=~".*"', {"a": "x\ny"}, False),
        ('a=~"(?i)ab|cd"', {"a": "CD"}, True),
        ('a=~"(?i:a)b"', {"a": "AB"}, False),
        ('a=~"ä+"', {"a": "ää"}, True),
        ('a=~"^b$"', {"a": "b"}, True),
        ('a=~"^(?:b|c)$"', {"a": "c"}, True),
        ('a=~"b$"', {"a": "b\n"}, False),
    ],
)
def test_expressions_match_whole_values_and_missing_labels_are_empty(
    matcher: str, labels: dict[str, str], matches: bool
) -> None:
    """RE2, anchored on both sides, dot does not match a newline; asked twice, because verdicts are remembered."""
    found = parse(matcher)
    assert [match_all(found, labels), match_all(found, labels)] == [matches, matches]


def test_more_values_than_are_remembered_are_matched_all_the_same() -> None:
    """What an expression said of earlier values is forgotten now and then."""
    (matcher,) = parse('pod=~"web-[0-9]+"')
    assert all(matcher.matches({"pod": f"web-{number}"}) for number in range(3000))
    assert not matcher.matches({"pod": "db-1"})


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a|b", {"a", "b"}),
        ("^(?:a|b)$", {"a", "b"}),
        ("(?:a)", {"a"}),
        ("", {""}),
        ("a.b", None),
        ("a)|(?:b", None),
        ("^(?:a)|(?:b)$", None),
    ],
)
def test_lists_of_words_are_known_as_such(pattern: str, expected: set[str] | None) -> None:
    """They need no expression, and `lint` can reason about them."""
    assert literals(pattern) == expected


def test_half_a_character_is_no_expression() -> None:
    """YAML can spell a lone surrogate; it is refused in words, not by a crash."""
    with pytest.raises(MatcherError, match="half a character"):
        Matcher("a", Op.REGEX, "\ud800.")


def test_no_expression_takes_exponential_time() -> None:
    """What hangs a backtracking engine for years is answered at once."""
    (matcher,) = parse('a=~"(x+x+)+y"')
    assert timeit.timeit(lambda: matcher.matches({"a": "x" * 10_000}), number=1) < 1


_NAMES = _TEXT.filter(bool)


@given(name=_NAMES, op=st.sampled_from([Op.EQUAL, Op.NOT_EQUAL]), value=_TEXT)
def test_a_printed_matcher_reads_back_as_itself(name: str, op: Op, value: str) -> None:
    """Whatever the label name and value hold, printing and parsing are a round trip, and warn of nothing."""
    matcher = Matcher(name, op, value)
    assert read(str(matcher)).matchers == (matcher,)
    assert parse(str(matcher), Mode.UTF8) == (matcher,)
    assert parse_one(str(matcher)) == matcher


@given(st.lists(st.tuples(_NAMES, st.sampled_from(list(Op)), st.text('ab|.é\\\n",', max_size=6)), max_size=4))
def test_a_printed_list_reads_back_as_itself(items: list[tuple[str, Op, str]]) -> None:
    """Sorted, in both modes that read UTF-8."""
    try:
        matchers = [Matcher(*item) for item in items]
    except MatcherError:  # no expression
        return
    printed = render(matchers)
    assert render(parse(printed)) == printed
    assert sorted(map(str, parse(printed, Mode.UTF8))) == sorted(map(str, matchers))


@given(_TEXT)
def test_a_quoted_text_is_unquoted_to_itself(text: str) -> None:
    """Go's %q and back."""
    assert unquote(quote(text)) == text


@given(st.text(max_size=30), st.sampled_from(Mode))
def test_no_text_breaks_the_parser(text: str, mode: Mode) -> None:
    """Any text is a list of matchers or a MatcherError."""
    try:
        found = parse(text, mode)
    except MatcherError:
        return
    assert all(isinstance(matcher, Matcher) for matcher in found)


def test_lists_print_sorted_because_group_keys_hold_them() -> None:
    """By name, then value, then operator in the order = != =~ !~."""
    assert render(parse('svc=~"a|b", dc!="eu", dc="eu"')) == '{dc="eu",dc!="eu",svc=~"a|b"}'


def test_names_with_blanks_or_signs_print_in_quotes_on_both_sides() -> None:
    """As Alertmanager prints them; others keep their old look."""
    assert str(Matcher("a b", Op.EQUAL, "\té")) == '"a b"="\\té"'
    assert str(Matcher("a,b", Op.EQUAL, "x")) == '"a,b"="x"'
    assert str(Matcher("a.b", Op.EQUAL, 'x"\n\\')) == 'a.b="x\\"\\n\\\\"'
