"""What a silence is, and what may be done with it, in Alertmanager's words."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin_alerting.matchers import Matcher, Op, match_all, parse
from tocsin_alerting.silences import (
    EXPIRE_WHEN_RESOLVED,
    Draft,
    Limits,
    Posted,
    Silence,
    SilenceBook,
    SilenceError,
    State,
    checked,
    ended,
    in_order,
    milliseconds,
    posted,
    preview,
    says,
    size,
)
from tocsin_alerting.testing import NOW

_A = (("a", Op.EQUAL, "b"),)
_B = (("z", Op.EQUAL, "b"),)


def _draft(
    matchers: tuple[tuple[str, Op, str], ...] = _A,
    *,
    start: float | None = NOW,
    end: float | None = NOW + 3600,
    name: str = "",
    comment: str = "c",
    annotations: dict[str, str] | None = None,
) -> Draft:
    return Draft(matchers, start, end, "me", comment, annotations or {}, name)


def _post(
    draft: Draft, known: Silence | None = None, *, now: float = NOW, limits: Limits | None = None, count: int = 0
) -> Posted:
    asked = checked(draft, now)
    return posted(asked, known, now=now, new_id=lambda: "new", count=count, limits=limits or Limits())


def _silence(start: float = NOW, end: float = NOW + 3600, *, name: str = "old", text: str = 'a="b"') -> Silence:
    return Silence(name, parse(text), start, end, NOW, "me", "c")


def _refused(draft: Draft, known: Silence | None = None, **kwargs: object) -> tuple[int, str]:
    with pytest.raises(SilenceError) as caught:
        _post(draft, known, **kwargs)  # type: ignore[arg-type]  # handed on
    return caught.value.status, str(caught.value)


# --- new ones ----------------------------------------------------------------------------------------------------


def test_a_new_silence_gets_an_id_and_begins_now_at_the_earliest() -> None:
    """A start that is past or not given is now."""
    for start in (None, NOW - 100, NOW):
        silence = _post(_draft(start=start)).silence
        assert (silence.id, silence.starts_at, silence.ends_at, silence.updated_at) == ("new", NOW, NOW + 3600, NOW)
    assert _post(_draft(start=NOW + 60)).silence.starts_at == NOW + 60


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (NOW + 100, NOW + 50, "Failed to create silence: start time must be before end time"),
        (NOW + 100, NOW + 100, "Failed to create silence: start time must be before end time"),
        (NOW, None, "Failed to create silence: start time must be before end time"),
        (NOW - 100, NOW - 50, "Failed to create silence: end time can't be in the past"),
    ],
)
def test_times_that_cannot_be_are_refused(start: float, end: float | None, words: str) -> None:
    """An end before its start, no end, an end that is past."""
    assert _refused(_draft(start=start, end=end)) == (400, words)


@pytest.mark.parametrize(
    ("matchers", "words"),
    [
        ([("", Op.EQUAL, "b")], 'invalid label matcher 0 in set 0: invalid label name ""'),
        (
            [("a", Op.EQUAL, "b"), ("c", Op.REGEX, "(")],
            'invalid label matcher 1 in set 0: invalid regular expression "(": error parsing regexp: missing ): (',
        ),
        ([("a", Op.EQUAL, "")], "matcher set 0: at least one matcher must not match the empty string"),
        ([("a", Op.REGEX, ".*")], "matcher set 0: at least one matcher must not match the empty string"),
        ([], "matcher set 0: at least one matcher must not match the empty string"),
    ],
)
def test_matchers_that_cannot_be_are_refused(matchers: list[tuple[str, Op, str]], words: str) -> None:
    """The message says which and why."""
    assert _refused(_draft(tuple(matchers))) == (400, f"invalid silence: {words}")


@pytest.mark.parametrize("matcher", [("a", Op.NOT_EQUAL, "x"), ("a", Op.NOT_EQUAL, ""), ("a", Op.NOT_REGEX, ".+")])
def test_a_negative_matcher_is_enough(matcher: tuple[str, Op, str]) -> None:
    """Whatever it matches: Alertmanager never takes one to match the empty string."""
    assert _post(_draft((matcher,))).silence.matchers == (Matcher(*matcher),)


# --- changes -----------------------------------------------------------------------------------------------------


def test_what_does_not_rewrite_history_is_changed_in_place() -> None:
    """The end, the comment and the rest of an active silence; the start only to the second."""
    known = _silence(NOW - 100)
    done = _post(_draft(start=NOW - 100 + 0.5, end=NOW + 60, name="old", comment="longer"), known)
    assert done.replaced is None
    assert (done.silence.id, done.silence.ends_at, done.silence.comment) == ("old", NOW + 60, "longer")


def test_a_pending_silence_may_move() -> None:
    """As long as it does not begin in the past."""
    known = _silence(NOW + 100)
    done = _post(_draft(start=NOW + 50, name="old"), known)
    assert (done.replaced, done.silence.id, done.silence.starts_at) == (None, "old", NOW + 50)


@pytest.mark.parametrize(
    ("known", "draft"),
    [
        (_silence(NOW - 100), _draft(_B, start=NOW - 100, name="old")),
        (_silence(NOW - 100), _draft(start=NOW, name="old")),
        (_silence(NOW + 100), _draft(_B, start=NOW + 200, name="old")),
        (_silence(NOW + 100), _draft(start=NOW - 1, name="old")),
        (
            _silence(NOW - 100, text='a="b",z="b"'),
            _draft((*_B, *_A), start=NOW - 100, name="old"),
        ),
    ],
)
def test_what_rewrites_history_makes_another_silence(known: Silence, draft: Draft) -> None:
    """Other matchers, even in another order, or another start; the former silence ends."""
    done = _post(draft, known)
    assert done.replaced == ended(known, NOW)
    assert done.replaced is not None
    assert done.replaced.state(NOW) is State.EXPIRED
    assert (done.silence.id, done.silence.starts_at) == ("new", max(NOW, draft.starts_at or 0))


def test_an_expired_silence_is_always_replaced() -> None:
    """And stays as it was."""
    known = _silence(NOW - 100, NOW - 50)
    done = _post(_draft(start=NOW - 100, name="old"), known)
    assert done.replaced is known
    assert done.silence.id == "new"


def test_an_id_that_nobody_has_is_not_found() -> None:
    """After the rest was found to be right."""
    assert _refused(_draft(name="nope")) == (404, "silence not found")
    assert _refused(_draft((("a", Op.EQUAL, ""),), name="nope"))[0] == 400


def test_ending_a_silence() -> None:
    """An active one ends now, a pending one never was, an ended one stays."""
    active = ended(_silence(NOW - 100), NOW)
    assert (active.starts_at, active.ends_at, active.updated_at) == (NOW - 100, NOW, NOW)
    pending = ended(_silence(NOW + 100), NOW)
    assert (pending.starts_at, pending.ends_at) == (NOW, NOW)
    for silence in (active, pending):
        assert silence.state(NOW) is State.EXPIRED
        assert ended(silence, NOW + 1) is silence


@settings(deadline=None)  # machines are busy at times
@given(st.floats(0, 4e9))
def test_what_is_shown_and_sent_back_changes_nothing(moment: float) -> None:
    """Times are whole milliseconds from the start, and not rounded up by what a clock can tell."""
    once = milliseconds(moment)
    assert milliseconds(once) == once
    assert round(once * 1000) == pytest.approx(once * 1000, abs=1e-3)
    assert -2e-6 < moment - once < 0.001


# --- limits ------------------------------------------------------------------------------------------------------


def test_there_may_be_a_limit_to_their_number() -> None:
    """Changes in place are always possible, replacements are not."""
    limits = Limits(silences=3)
    words = "exceeded maximum number of silences: 3 (limit: 3)"
    assert _post(_draft(), limits=limits, count=2).silence.id == "new"
    assert _refused(_draft(), limits=limits, count=3) == (400, words)
    known = _silence(NOW - 100)
    assert _refused(_draft(_B, start=NOW - 100, name="old"), known, limits=limits, count=3) == (400, words)
    assert _post(_draft(start=NOW - 100, name="old"), known, limits=limits, count=3).silence.id == "old"


@pytest.mark.parametrize(
    ("draft", "bytes_"),
    [
        (_draft(comment="x" * 100), 213),
        (_draft(comment="x" * 150), 264),
        (_draft(comment="x" * 200), 314),
        (_draft((*_A, ("a", Op.REGEX, "b")), comment="x" * 200), 324),
        (_draft((*_A, ("a", Op.NOT_EQUAL, "b")), comment="x" * 200), 324),
        (_draft(comment="x" * 200, annotations={"kkk": "vvvv"}), 327),
        (_draft(comment="x" * 200, annotations={"kkk": ""}), 323),
    ],
)
def test_the_size_is_what_alertmanager_measures(draft: Draft, bytes_: int) -> None:
    """The numbers are those that 0.33.1 gave for the same requests."""
    silence = dataclasses.replace(checked(draft, NOW), id="5f47398a-11dc-4f87-8caa-85ead0236569")
    assert size(silence) == bytes_
    with pytest.raises(SilenceError, match=rf"silence exceeded maximum size: {bytes_} bytes \(limit: 200 bytes\)"):
        posted(silence, silence, now=NOW, new_id=lambda: "new", count=0, limits=Limits(size=200))


# --- lists and filters -------------------------------------------------------------------------------------------


def test_silences_are_listed_by_what_happens_next() -> None:
    """Active ones by their end, pending ones by their start, then the ended, the last one first."""
    names = {
        "active-1": _silence(NOW - 5, NOW + 10, name="active-1"),
        "active-2": _silence(NOW - 9, NOW + 20, name="active-2"),
        "pending-1": _silence(NOW + 5, NOW + 90, name="pending-1"),
        "pending-2": _silence(NOW + 6, NOW + 80, name="pending-2"),
        "ended-1": _silence(NOW - 9, NOW - 1, name="ended-1"),
        "ended-2": _silence(NOW - 3, NOW - 2, name="ended-2"),
    }
    for order in itertools.islice(itertools.permutations(names.values()), 0, 720, 37):
        assert [silence.id for silence in in_order(order, NOW)] == list(names)


def test_filters_compare_definitions() -> None:
    """Not what a silence would match."""
    silence = _silence(text='a="b",c=~"d|e"')
    assert says(silence, parse('a="b"'))
    assert says(silence, parse('c=~"d|e",a="b"'))
    assert says(silence, ())
    assert not says(silence, parse('c="d"'))
    assert not says(silence, parse('a=~"b"'))


def test_a_preview_counts_what_would_be_silenced() -> None:
    """Of the alerts there are."""
    alerts = [{"a": "b"}, {"a": "c"}, {"a": "b", "x": "y"}, {}]
    assert preview(parse('a="b"'), alerts) == 2
    assert preview(parse('a!="b"'), alerts) == 2


def test_an_annotation_makes_it_end_with_what_it_silences() -> None:
    """It has no place among the fields of Alertmanager."""
    silence = _silence()
    assert not silence.expires_when_resolved
    for text, expected in (("true", True), ("True", True), ("false", False), ("", False)):
        annotated = dataclasses.replace(silence, annotations={EXPIRE_WHEN_RESOLVED: text})
        assert annotated.expires_when_resolved is expected


# --- the book ----------------------------------------------------------------------------------------------------


def test_only_active_silences_silence() -> None:
    """From their start until just before their end."""
    book = SilenceBook()
    book.put(_silence(NOW + 10, NOW + 20), NOW)
    found = [bool(book.silenced_by({"a": "b"}, NOW + second)) for second in (9, 10, 19, 20)]
    assert found == [False, True, True, False]
    assert book.silenced_by({"a": "c"}, NOW + 15) == ()


def test_all_that_silence_are_named_in_order() -> None:
    """By their ids."""
    book = SilenceBook()
    for name in ("s2", "s1", "s3"):
        book.put(_silence(name=name, text='a="b"' if name != "s3" else 'a=~"c.*"'), NOW)
    assert book.silenced_by({"a": "b"}, NOW) == ("s1", "s2")


def test_what_has_changed_is_known() -> None:
    """So that who asked before has only that to look at; too long ago is said to be so."""
    book = SilenceBook()
    book.put(_silence(name="s1"), NOW)
    seen = book.version
    assert book.changed_since(seen) == frozenset()
    book.put(_silence(name="s2"), NOW)
    book.discard("s1")
    book.discard("s1")
    assert book.changed_since(seen) == {"s1", "s2"}
    for number in range(300):
        book.put(_silence(name=f"n{number}"), NOW)
    assert book.changed_since(seen) is None


def test_silences_are_counted_by_state() -> None:
    """Every state has a number."""
    book = SilenceBook()
    book.put(_silence(name="s1"), NOW)
    book.put(_silence(NOW + 5, name="s2"), NOW)
    book.put(_silence(NOW + 6, name="s3"), NOW)
    assert book.counts(NOW) == {State.ACTIVE: 1, State.PENDING: 2, State.EXPIRED: 0}
    assert book.counts(NOW + 3600) == {State.ACTIVE: 0, State.PENDING: 0, State.EXPIRED: 3}


def test_ended_silences_are_no_longer_searched() -> None:
    """They are still known, until they are forgotten."""
    book = SilenceBook()
    book.put(_silence(), NOW)
    book.prune(NOW + 3600)
    assert not book.fitting({"a": "b"})
    assert "old" in book.silences
    book.put(_silence(), NOW + 3600)
    assert not book.fitting({"a": "b"})


_NAMES = st.sampled_from("abc")
_MATCHERS = st.builds(Matcher, _NAMES, st.sampled_from(list(Op)), st.sampled_from(["1", "2", "1|2", ".+"]))


@settings(deadline=None)  # machines are busy at times
@given(st.lists(st.tuples(st.lists(_MATCHERS, max_size=3), st.integers(-2, 2), st.integers(1, 3))), st.integers(-3, 3))
def test_the_book_answers_as_each_silence_would(made: list[tuple[list[Matcher], int, int]], at: int) -> None:
    """Compared one by one."""
    book, now = SilenceBook(), NOW + at
    for number, (matchers, start, length) in enumerate(made):
        starts_at = NOW + start
        book.put(Silence(f"{number:03}", tuple(matchers), starts_at, starts_at + length, NOW, "", ""), NOW - 9)
    for labels in ({"a": "1"}, {"a": "2", "b": "1"}, {"c": "3"}):
        expected = [
            name
            for name, silence in book.silences.items()
            if silence.state(now) is State.ACTIVE and match_all(silence.matchers, labels)
        ]
        assert list(book.silenced_by(labels, now)) == expected
