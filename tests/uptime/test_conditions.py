"""Conditions: what can be written, what it means, and what a mistake is answered with."""

import contextlib
import fnmatch
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_uptime.conditions import OPERATORS, Condition, ConditionError, Pattern, Place, parse


@pytest.mark.parametrize(
    ("text", "found", "holds"),
    [
        ("[STATUS] == 200", 200, True),
        ("[STATUS] == 200", 503, False),
        ("[STATUS] != 200", 503, True),
        ("[STATUS] < 300", 299, True),
        ("[STATUS] < 300", 300, False),
        ("[STATUS] <= 300", 300, True),
        ("[STATUS] > 300", 300, False),
        ("[STATUS] >= 300", 300, True),
        ("[STATUS]==200", 200, True),
        ("  [STATUS]   ==   200  ", 200, True),
        ("[RESPONSE_TIME] < 800ms", 0.7999, True),
        ("[RESPONSE_TIME] < 800ms", 0.8, False),
        ("[RESPONSE_TIME] < 1s500ms", 1.4, True),
        ("[RESPONSE_TIME] < 300", 0.299, True),
        ("[RESPONSE_TIME] < 300", 0.301, False),
        ("[CONNECTED] == true", True, True),
        ("[CONNECTED] == false", True, False),
        ("[BODY] == ok", "ok", True),
        ("[BODY] == ok", "not ok", False),
        ("[BODY] == a == b", "a == b", True),
        ("[BODY] == pat(*ok*)", "not ok today", True),
        ("[BODY] == pat(*ok*)", "NOT OK", False),
        ("[BODY] != pat(*error*)", "all fine", True),
        ("[BODY] != pat(*error*)", "an error", False),
        ("[BODY] == pat(*(1)*)", "x (1) y", True),
        ("[STATUS] == 200", None, False),
        ("[STATUS] != 200", None, False),
    ],
)
def test_a_condition_holds(text: str, found: int | float | bool | str | None, holds: bool) -> None:
    """Operators compare; a bare response time is milliseconds; pat() matches with stars; nothing found never holds."""
    assert parse(text).holds(found) is holds


@pytest.mark.parametrize(
    ("text", "what", "expected"),
    [
        ("", '"" is not a condition', "place operator value, like [STATUS] == 200"),
        ("[STATUS]", '"[STATUS]" is not a condition', "place operator value"),
        ("[STATUS] ==", "compares with nothing", "a value after =="),
        ("[STATUS] = 200", "is not a condition", "[STATUS] == 200"),
        ("[STATS] == 200", "there is no place [STATS]", "one of [STATUS], [RESPONSE_TIME], [CONNECTED], [BODY]"),
        ("[BODY].db.lag < 30", "there is no place [BODY].db.lag", "[BODY]"),
        ("200 == [STATUS]", 'cannot begin with "200"', "[STATUS]"),
        ("[STATUS] == any(200, 201)", "there is no function any()", "a plain value for [STATUS]"),
        ("[STATUS] == pat(2*)", "pat() belongs to [BODY]", "a plain value for [STATUS]"),
        ("[BODY] == has(x)", "there is no function has()", "pat(), like pat(*healthy*)"),
        ("[STATUS] == ok", '"ok" is not an HTTP status', "a number from 100 to 599"),
        ("[STATUS] == 2000", '"2000" is not an HTTP status', "a number from 100 to 599"),
        ("[RESPONSE_TIME] < fast", '"fast" is not a duration', "like 800ms"),
        ("[RESPONSE_TIME] < 0.5s", '"0.5s" is not a duration', "whole numbers"),
        ("[CONNECTED] == yes", '"yes" is neither true nor false', "true or false"),
        ("[CONNECTED] > true", "[CONNECTED] cannot be compared with >", "== or !="),
        ("[BODY] < pat(x)", "[BODY] cannot be compared with <", "== or !="),
    ],
)
def test_a_mistake_says_what_was_found_and_expected(text: str, what: str, expected: str) -> None:
    """What is no condition is refused with words that help."""
    with pytest.raises(ConditionError) as caught:
        parse(text)
    assert what in caught.value.what
    assert expected in caught.value.expected


def test_a_class_of_statuses_is_told_how_to_write_it() -> None:
    """2xx is what people try; the answer shows the two conditions."""
    with pytest.raises(ConditionError) as caught:
        parse("[STATUS] == 2xx")
    assert '"[STATUS] >= 200"' in caught.value.fix


_texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), min_size=1).filter(
    lambda text: not re.match(r"[a-z_]+\(|[=<>!]", text)
)
_conditions = st.one_of(
    st.builds(Condition, st.just(Place.STATUS), st.sampled_from([*OPERATORS]), st.integers(100, 599)),
    st.builds(
        Condition,
        st.just(Place.RESPONSE_TIME),
        st.sampled_from([*OPERATORS]),
        st.integers(1, 10_000_000).map(lambda ms: ms / 1000),
    ),
    st.builds(Condition, st.just(Place.CONNECTED), st.sampled_from(["==", "!="]), st.booleans()),
    st.builds(Condition, st.just(Place.BODY), st.sampled_from(["==", "!="]), _texts | _texts.map(Pattern)),
)


@given(_conditions)
def test_a_written_condition_reads_back_as_itself(condition: Condition) -> None:
    """str() and parse() are each other's inverse (durations to the millisecond)."""
    again = parse(str(condition))
    assert (again.place, again.operator) == (condition.place, condition.operator)
    if condition.place is Place.RESPONSE_TIME:
        assert again.value == pytest.approx(condition.value)
    else:
        assert again.value == condition.value


@given(st.text())
def test_any_text_is_a_condition_or_a_condition_error(text: str) -> None:
    """Nothing but `ConditionError` comes out of the parser, and what is taken can be written."""
    with contextlib.suppress(ConditionError):
        assert parse(str(parse(text))) == parse(text)


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_a_pattern_matches_like_a_shell_with_stars_only(pattern: str, text: str) -> None:
    """`*` stands for anything, also for nothing, as in fnmatch."""
    assert Pattern(pattern).matches(text) == fnmatch.fnmatchcase(text, pattern)


def test_a_hostile_pattern_takes_no_time() -> None:
    """Many stars over a long body stay linear; a backtracking matcher would not end."""
    began = time.perf_counter()
    assert not Pattern("*a" * 30 + "*b").matches("a" * 200_000)
    assert time.perf_counter() - began < 1
