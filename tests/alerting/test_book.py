"""The book of alerts: what a request changes, what counts as news, and what is kept for how long."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_alerting.alerts import FORMS, Book, Taken
from tocsin_alerting.intake import RefusedError
from tocsin_alerting.matchers import parse_one
from tocsin_alerting.model import Incoming, fingerprint, merge
from tocsin_alerting.routing import Route
from tocsin_alerting.testing import NOW, alert
from tocsin_service.clock import rfc3339

ROOT = Route("0", "{}", "all", frozenset(), 30, 300, 14_400)
PAGED = dataclasses.replace(
    ROOT, routes=(dataclasses.replace(ROOT, node="0.0", receiver="page", matchers=(parse_one("severity=page"),)),)
)
DOWN = {"alertname": "Down"}
NAME = fingerprint(DOWN)


@pytest.fixture
def book() -> Book:
    return Book(ROOT)


def posted(labels: dict[str, Any], *, start: float | None = NOW, end: float | None = NOW + 240, **more: Any) -> Any:
    times = {"startsAt": start, "endsAt": end}
    return {"labels": labels, **{name: rfc3339(at) for name, at in times.items() if at is not None}, **more}


def take(book: Book, *alerts: Any, now: float = NOW) -> Taken:
    return book.take(json.dumps(alerts).encode(), now, 300)


def test_a_new_alert_is_news_and_has_its_routes() -> None:
    """With everything that was said of it."""
    book = Book(PAGED)
    labels = {"severity": "page", "alertname": "Down", "empty": ""}
    taken = take(book, posted(labels, annotations={"b": "2", "a": ""}, generatorURL="http://p/graph"))
    (entry,) = taken.news
    assert entry.alert.labels == {"alertname": "Down", "severity": "page"}
    assert entry.alert.annotations == {"a": "", "b": "2"}
    assert entry.alert.generator_url == "http://p/graph"
    assert entry.alert.fingerprint == fingerprint(entry.alert.labels)
    assert [route.receiver for route in entry.routes] == ["page"]
    assert (entry.received_at, entry.alert.updated_at) == (NOW, NOW)
    assert book.entries == {entry.alert.fingerprint: entry}
    assert (taken.firing, taken.resolved, taken.problems) == (1, 0, [])


def test_a_re_post_is_no_news_and_moves_the_end(book: Book) -> None:
    """Everybody who holds the entry sees it."""
    (entry,) = take(book, posted(DOWN)).news
    known = entry.alert
    taken = take(book, posted(DOWN, end=NOW + 300), now=NOW + 60)
    assert (taken.news, taken.reworded) == ([], [])
    assert entry.alert == msgspec.structs.replace(known, ends_at=NOW + 300, updated_at=NOW + 60)
    assert entry.alert.labels is known.labels
    assert entry.received_at == NOW


def test_an_end_is_news_once(book: Book) -> None:
    """Prometheus repeats it for a quarter of an hour."""
    take(book, posted(DOWN))
    assert len(take(book, posted(DOWN, end=NOW + 60), now=NOW + 60).news) == 1
    assert take(book, posted(DOWN, end=NOW + 60), now=NOW + 120).news == []


def test_an_occurrence_that_begins_anew_is_received_anew(book: Book) -> None:
    """Whether its end was said or has passed: `group_wait` counts from here."""
    (entry,) = take(book, posted(DOWN)).news
    taken = take(book, posted(DOWN, end=NOW + 900), now=NOW + 240)  # the same start; Prometheus was cut off
    assert taken.news == [entry]
    assert (entry.received_at, entry.alert.starts_at) == (NOW + 240, NOW)
    taken = take(book, posted(DOWN, start=NOW + 950, end=NOW + 1900), now=NOW + 1000)
    assert taken.news == [entry]
    assert (entry.received_at, entry.alert.starts_at) == (NOW + 1000, NOW + 950)


def test_another_start_is_news(book: Book) -> None:
    """It is part of what messages say."""
    take(book, posted(DOWN))
    (entry,) = take(book, posted(DOWN, start=NOW - 10), now=NOW + 1).news
    assert entry.alert.starts_at == NOW - 10
    assert take(book, posted(DOWN, start=None, end=None), now=NOW + 2).news == []
    assert entry.alert.starts_at == NOW - 10


@pytest.mark.parametrize("change", [{"annotations": {"value": "93"}}, {"generatorURL": "http://other/graph"}])
def test_other_words_alone_are_told_apart_from_news(book: Book, change: dict[str, Any]) -> None:
    """An annotation with a value in it is different in every re-post."""
    take(book, posted(DOWN, annotations={"value": "92"}, generatorURL="http://p/graph"))
    again = {"annotations": {"value": "92"}, "generatorURL": "http://p/graph"} | change
    taken = take(book, posted(DOWN, **again), now=NOW + 60)
    assert taken.news == []
    (entry,) = taken.reworded
    assert entry.alert.annotations == again["annotations"]
    assert entry.alert.generator_url == again["generatorURL"]
    assert take(book, posted(DOWN, **again), now=NOW + 120).reworded == []


def test_annotations_written_otherwise_are_the_same(book: Book) -> None:
    """Only what they say counts; their bytes are what is shown."""
    take(book, posted(DOWN, annotations={"a": "1", "b": "2"}))
    taken = take(book, posted(DOWN, annotations={"b": "2", "a": "1"}), now=NOW + 60)
    assert (taken.news, taken.reworded) == ([], [])
    assert json.loads(bytes(book.entries[NAME].annotations_json)) == {"a": "1", "b": "2"}


def test_two_ways_to_write_the_same_labels_are_one_alert(book: Book) -> None:
    """Order, white space and labels without a value do not matter."""
    bodies = [
        b'[{"labels":{"a":"1","b":"2"}}]',
        b'[{"labels":{"b":"2","a":"1"}}]',
        b'[{"labels":{ "a": "1", "b": "2", "c": "" }}]',
        b'[{"labels":{"a":"\\u0031","b":"2"}}]',
    ]
    for body in [*bodies, *bodies]:
        book.take(body, NOW, 300)
    (entry,) = book.entries.values()
    assert len(entry.raw) == len(book._known) == len(bodies)
    assert entry.labels_json == b'{"a":"1","b":"2"}'


def test_forms_of_labels_are_kept_within_bounds_and_go_with_the_alert(book: Book) -> None:
    """A client that writes them differently each time does not fill the memory."""
    for spaces in range(3 * FORMS):
        book.take(b'[{"labels":{' + b" " * spaces + b'"a":"1"}}]', NOW + spaces, 300)
    (entry,) = book.entries.values()
    assert len(entry.raw) == len(book._known) == FORMS
    assert entry.alert.updated_at == NOW + 3 * FORMS - 1
    book.forget(entry)
    assert (book.entries, book._known, book.ordered()) == ({}, {}, [])
    assert len(book.take(b'[{"labels":{"a":"1"}}]', NOW, 300).news) == 1


def test_the_later_of_the_same_alert_in_one_request_wins(book: Book) -> None:
    """New or known, and also where it only says again what was known before."""
    one, two = posted(DOWN, annotations={"n": "1"}), posted(DOWN, annotations={"n": "2"})
    for moment in (NOW, NOW + 1):
        take(book, one, two, now=moment)
        assert book.entries[NAME].alert.annotations == {"n": "2"}
    written_otherwise = b'[{"labels":{"alertname":  "Down"},"annotations":{"n":"3"}},' + json.dumps(two).encode() + b"]"
    book.take(written_otherwise, NOW + 2, 300)
    assert book.entries[NAME].alert.annotations == {"n": "2"}


def test_valid_alerts_are_taken_and_others_named_in_order(book: Book) -> None:
    """The counts are of all."""
    taken = take(
        book,
        posted({}),
        posted({"": "x", "a": "b"}),
        posted({"a": "b"}),
        posted({"c": "d"}, start=NOW, end=NOW - 1),
        posted({"e": "f"}, annotations={"": "x"}),
    )
    assert taken.problems == [
        "at least one label pair required",
        'invalid label set: invalid name ""',
        "start time must be before end time",
        'invalid annotations: invalid name ""',
    ]
    assert [entry.alert.labels for entry in taken.news] == [{"a": "b"}]
    assert (taken.firing, taken.resolved) == (4, 1)


def test_a_known_alert_that_ends_before_it_begins_is_refused(book: Book) -> None:
    """What is known of it stays."""
    take(book, posted(DOWN))
    known = book.entries[NAME].alert
    taken = take(book, posted(DOWN, start=NOW, end=NOW - 1), now=NOW + 1)
    assert taken.problems == ["start time must be before end time"]
    assert book.entries[NAME].alert is known


@pytest.mark.parametrize(
    "bad",
    [
        {"labels": {"a": 1}},
        {"labels": DOWN, "annotations": {"a": 1}},
        {"labels": DOWN, "endsAt": "soon"},
        {"labels": DOWN, "generatorURL": "nowhere"},
        {"annotations": {}},
    ],
)
def test_of_a_refused_request_nothing_is_taken(book: Book, bad: dict[str, Any]) -> None:
    """Not even the alerts before the one that is wrong."""
    take(book, posted(DOWN))
    known = book.entries[NAME].alert
    with pytest.raises(RefusedError):
        take(book, posted(DOWN, end=NOW + 999), posted({"a": "new"}), bad, now=NOW + 1)
    assert book.entries.keys() == {NAME}
    assert book.entries[NAME].alert is known


def test_our_own_sources_follow_the_same_rules(book: Book) -> None:
    """And find the alerts that were posted."""
    take(book, posted(DOWN))
    taken = book.take_values(
        [Incoming(DOWN, ends_at=NOW + 60), Incoming({}), Incoming({"x": "y", "z": ""}, {"s": ""})], NOW + 60, 300
    )
    assert taken.problems == ["at least one label pair required"]
    assert [entry.alert.labels for entry in taken.news] == [DOWN, {"x": "y"}]
    assert (taken.firing, taken.resolved) == (2, 1)
    assert taken.news[1].alert.timeout
    assert json.loads(bytes(taken.news[1].annotations_json)) == {"s": ""}
    again = take(book, posted({"x": "y"}, start=NOW + 60), now=NOW + 60)
    assert (again.news, again.reworded) == ([], [taken.news[1]])
    assert taken.news[1].alert.annotations == {}


def test_alerts_of_one_name_are_limited_while_they_fire() -> None:
    """Known ones go on; an alert without a name has the empty one."""
    book = Book(ROOT, per_alertname_limit=2)
    taken = take(book, *(posted(DOWN | {"i": str(i)}) for i in range(4)), *(posted({"i": str(i)}) for i in range(3)))
    assert taken.limited == {"Down": 2, "": 1}
    assert (len(book.entries), taken.problems) == (4, [])
    assert take(book, posted(DOWN | {"i": "0"}, end=NOW + 10), now=NOW + 10).limited == {}
    taken = take(book, posted(DOWN | {"i": "9"}, end=NOW + 500), now=NOW + 10)
    assert len(taken.news) == 1
    for entry in list(book.entries.values()):
        book.forget(entry)
    assert book._named == {}


def test_firing_alerts_and_all_alerts_in_order(book: Book) -> None:
    """By fingerprint, also after some were forgotten and others came."""
    take(book, *(posted({"i": str(i)}) for i in range(20)), posted({"i": "over"}, end=NOW))
    assert len(list(book.firing(NOW))) == 20
    assert list(book.firing(NOW + 240)) == []
    book.forget(book.entries[fingerprint({"i": "7"})])
    take(book, *(posted({"j": str(i)}) for i in range(20)))
    names = [entry.alert.fingerprint for entry in book.ordered()]
    assert names == sorted(book.entries)


def test_another_route_tree_is_asked_for_all_alerts(book: Book) -> None:
    """What is the same way is one tuple."""
    take(book, posted({"severity": "page"}), posted({"a": "b"}), posted({"c": "d"}))
    book.reroute(PAGED)
    ways = {name: entry.routes for name, entry in book.entries.items()}
    assert [route.node for route in ways[fingerprint({"severity": "page"})]] == ["0.0"]
    assert ways[fingerprint({"a": "b"})] is ways[fingerprint({"c": "d"})]


def test_an_alert_of_the_database_is_put_back_and_found_again(book: Book) -> None:
    """Without the bytes it was posted as, which come with the next post."""
    stored = alert("Down", end=NOW + 240, summary="down")
    entry = book.restore(stored, NOW - 30)
    assert (entry.alert, entry.received_at, entry.kept_ends_at) == (stored, NOW - 30, NOW + 240)
    assert [route.receiver for route in entry.routes] == ["all"]
    assert json.loads(entry.labels_json) == DOWN
    taken = take(book, posted(DOWN, end=NOW + 300, annotations={"summary": "down"}), now=NOW + 60)
    assert (taken.news, taken.reworded, book.entries) == ([], [], {NAME: entry})


def test_of_what_is_stored_and_what_is_known_the_newer_stays(book: Book) -> None:
    """A replica hears from the database what another one was posted."""
    take(book, posted(DOWN, annotations={"n": "1"}), now=NOW)
    entry = book.entries[NAME]
    older = alert("Down", end=NOW + 900, updated=NOW - 1)
    assert book.restore(older, NOW - 9) is entry
    assert (entry.alert.ends_at, entry.kept_ends_at) == (NOW + 240, 0)
    newer = alert("Down", end=NOW + 900, updated=NOW + 1, summary="other words")
    assert book.restore(newer, NOW - 9) is entry
    assert (entry.alert, entry.received_at, entry.kept_ends_at) == (newer, NOW - 9, NOW + 900)
    assert json.loads(bytes(entry.annotations_json)) == {"summary": "other words"}
    taken = take(book, posted(DOWN, end=NOW + 960, annotations={"n": "1"}), now=NOW + 60)
    assert taken.reworded == [entry]
    assert entry.alert.annotations == {"n": "1"}


_SECONDS = st.integers(-300, 900)


@given(
    st.lists(
        st.tuples(st.none() | _SECONDS, st.none() | _SECONDS, st.sampled_from("ab"), st.integers(0, 200)),
        min_size=1,
        max_size=8,
    )
)
def test_the_short_way_and_the_long_way_agree(posts: list[tuple[int | None, int | None, str, int]]) -> None:
    """A re-post whose bytes are known ends in the same alert as the merge of the values, whatever the times are."""
    book = Book(ROOT)
    model = None
    now = NOW
    for start, end, word, pause in posts:
        now += pause
        starts, ends = (None if at is None else NOW + at for at in (start, end))
        taken = take(book, posted(DOWN, start=starts, end=ends, annotations={"w": word}), now=now)
        if taken.problems:
            continue
        starts = (now if ends is None else ends) if starts is None else starts
        until = now + 300 if ends is None else ends
        new = alert("Down", start=starts, end=until, updated=now)
        new = msgspec.structs.replace(new, annotations={"w": word}, timeout=ends is None)
        before = model
        model = new if model is None else merge(model, new, now)
        entry = book.entries[NAME]
        assert entry.alert == model
        begun_or_ended = before is None or before.resolved(now) is not model.resolved(now)
        assert bool(taken.news) is (begun_or_ended or before.starts_at != model.starts_at)
