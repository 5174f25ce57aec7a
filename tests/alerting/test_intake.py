"""What clients post: which requests are refused as a whole, and how the texts in them are read."""

from __future__ import annotations

import json

import msgspec
import pytest

from tocsin_alerting import intake
from tocsin_alerting.model import Alert, Incoming, fingerprint, merge
from tocsin_alerting.testing import NOW, alert


def read_time(text: str) -> float | None:
    return intake.Times().read(text, 0, "startsAt")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, "cbf29ce484222325"),
        ({"alertname": "a"}, "d258efc389808447"),
        ({"i": "1"}, "dd4371c841a4d2bd"),
        ({"team": "dup", "alertname": "B"}, "7c860c33010413b0"),
        ({"severity": "page", "alertname": "A", "team": "web", "service": "shop"}, "684850c0fd406129"),
    ],
)
def test_the_fingerprint_is_prometheus_own(labels: dict[str, str], expected: str) -> None:
    """64-bit FNV-1a over sorted names and values, as Alertmanager 0.33.1 answered."""
    assert fingerprint(labels) == expected


def test_members_that_are_not_known_are_ignored() -> None:
    """And those that are may be absent or null."""
    (posted,) = intake.decode(b'[{"labels": {"a": "b"}, "annotations": null, "endsAt": null, "colour": [1, {}]}]')
    assert (posted.starts_at, posted.ends_at) == (None, None)
    assert intake.read_annotations(posted.annotations, 0) == {}


def test_null_is_a_request_without_alerts() -> None:
    """As Go reads it."""
    assert intake.decode(b"null") == []


def test_empty_labels_are_dropped_and_empty_annotations_kept() -> None:
    """As Alertmanager does; null is empty."""
    assert intake.read_labels(b'{"b": "2", "c": "", "d": null, "a": "1"}', 0) == {"a": "1", "b": "2"}
    assert intake.read_annotations(msgspec.Raw(b'{"x": "", "y": null}'), 0) == {"x": "", "y": ""}
    assert intake.bare(Incoming({"b": "2", "c": ""}, {"x": ""})) == ({"b": "2"}, {"x": ""})


@pytest.mark.parametrize("text", ["2025-11-23", "2025-11-23T00:00:00", "2025-11-23T01:00:00.123456789+01:00"])
def test_times_may_lack_a_zone_or_have_nanoseconds(text: str) -> None:
    """All of these are the same second."""
    found = read_time(text)
    assert found is not None
    assert int(found) == int(NOW)


@pytest.mark.parametrize("text", ["", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"])
def test_an_empty_time_and_gos_zero_are_unset(text: str) -> None:
    """amtool sends the zero."""
    assert read_time(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "2025-11-23 00:00:00Z",
        "2025-13-23T00:00:00Z",
        "tomorrow",
        # These would stop every answer and message that shows them.
        "9999-12-31T23:59:59-12:00",
        "9999-12-31T23:59:59.9999Z",
        "0001-01-01T00:00:00+12:00",
    ],
)
def test_other_times_are_refused(text: str) -> None:
    """The message names the member and quotes it."""
    with pytest.raises(intake.RefusedError, match=r"0\.startsAt: .* is not an RFC 3339 time") as caught:
        read_time(text)
    assert (caught.value.status, caught.value.code) == (400, 400)


def test_times_are_remembered_and_forgotten() -> None:
    """Those of the last requests; a client that invents times does not fill the memory."""
    times = intake.Times()
    for second in range(10_000):
        assert times.read(f"2025-11-23T00:00:00.{second:04}Z", 0, "endsAt") == pytest.approx(NOW + second / 10_000)
    assert len(times._known) <= 4096 + 2
    assert times.read("", 0, "endsAt") is None


@pytest.mark.parametrize(
    ("starts_at", "ends_at", "expected"),
    [
        (None, None, intake.Span(NOW, NOW + 300, timeout=True, ended=False)),
        (None, NOW - 5, intake.Span(NOW - 5, NOW - 5, timeout=False, ended=True)),
        (NOW - 9, NOW + 1, intake.Span(NOW - 9, NOW + 1, timeout=False, ended=False)),
        (NOW - 9, NOW, intake.Span(NOW - 9, NOW, timeout=False, ended=True)),
    ],
)
def test_times_that_are_unset_are_filled_in(
    starts_at: float | None, ends_at: float | None, expected: intake.Span
) -> None:
    """A start from the end or the clock, an end from resolve_timeout; an alert that ends now has ended."""
    assert intake.span(starts_at, ends_at, NOW, 300) == expected


@pytest.mark.parametrize(
    ("end", "labels", "annotations", "reason"),
    [
        (NOW, {}, {}, "at least one label pair required"),
        (NOW, {"": "x", "a": "b"}, {}, 'invalid label set: invalid name ""'),
        (NOW, {"a": "b"}, {"": "x"}, 'invalid annotations: invalid name ""'),
        (NOW - 1, {"a": "b"}, {}, "start time must be before end time"),
        (NOW - 1, {}, {"": "x"}, "start time must be before end time"),  # the first in Alertmanager's order
        (NOW, {"a": "b"}, {"x": ""}, None),
    ],
)
def test_an_invalid_alert_has_alertmanagers_reason(
    end: float, labels: dict[str, str], annotations: dict[str, str], reason: str | None
) -> None:
    """The words are those that clients know."""
    span = intake.span(NOW, end, NOW, 300)
    assert intake.problem(span, labels, annotations) == reason


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, 602),
        (b"nonsense", 400, 400),
        (b"{}", 400, 400),
        (b"[null]", 400, 400),
        (b'[{"labels":{"a":"b"},"startsAt":1}]', 400, 400),
        (b'[{"labels":{"a":"b"}}] [', 400, 400),
        (b'[{"labels":{"a":"b"},"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}]", 400, 400),
    ],
)
def test_an_ill_formed_request_is_refused_as_a_whole(body: bytes, status: int, code: int) -> None:
    """400 for what cannot be decoded, 422 for nothing at all."""
    with pytest.raises(intake.RefusedError) as caught:
        intake.decode(body)
    assert (caught.value.status, caught.value.code) == (status, code)


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"null", 422, 602),
        (b'{"a":1}', 400, 400),
        (b'["a"]', 400, 400),
        (b'{"a":"\xff"}', 400, 400),
        (b'{"a":"\\ud800"}', 400, 400),
    ],
)
def test_labels_that_are_no_object_of_texts_refuse_the_request(raw: bytes, status: int, code: int) -> None:
    """The message says which alert of the request it is."""
    with pytest.raises(intake.RefusedError, match=r"3\.labels") as caught:
        intake.read_labels(raw, 3)
    assert (caught.value.status, caught.value.code) == (status, code)


@pytest.mark.parametrize("url", ["not absolute", "/graph", "http://a b"])
def test_a_generator_url_must_be_absolute(url: str) -> None:
    """422 with the code of a wrong format."""
    with pytest.raises(intake.RefusedError, match=r"0\.generatorURL in body must be of type uri") as caught:
        intake.check_url(url, 0)
    assert (caught.value.status, caught.value.code) == (422, 601)


def test_deep_nesting_is_refused_wherever_it_stands() -> None:
    """Also inside of members that are looked at later."""
    deep = "[" * 100_000 + "]" * 100_000
    for member in ("labels", "annotations"):
        with pytest.raises(intake.RefusedError):
            intake.decode(f'[{{"{member}": {{"a": {deep}}}}}]'.encode())


@pytest.mark.parametrize(
    ("first_end", "second_end", "second_made_up", "first_made_up", "expected"),
    [
        (900, 300, False, False, 900),  # explicit, then an earlier explicit one
        (900, 300, True, False, 900),  # explicit, then made up
        (300, 100, False, True, 100),  # made up, then explicit
        (300, 900, False, False, 900),  # a later end always counts
    ],
)
def test_merging_keeps_the_later_end_of_a_firing_alert_unless_it_was_made_up(
    first_end: float, second_end: float, second_made_up: bool, first_made_up: bool, expected: float
) -> None:
    """The rules of the specification, table by table."""
    labels = {"a": "b"}
    first = Alert(labels, {}, NOW, NOW + first_end, NOW, "f", timeout=first_made_up)
    second = Alert(labels, {"new": "1"}, NOW + 1, NOW + second_end, NOW + 1, "f", timeout=second_made_up)
    merged = merge(first, second, NOW + 1)
    assert (merged.starts_at, merged.ends_at, merged.annotations) == (NOW, NOW + expected, {"new": "1"})


def test_a_resolution_takes_its_own_end_and_keeps_the_start() -> None:
    """What Prometheus sends when a rule stops firing."""
    merged = merge(alert(end=NOW + 240), alert(start=NOW, end=NOW + 60, updated=NOW + 60), NOW + 60)
    assert (merged.starts_at, merged.ends_at) == (NOW, NOW + 60)


def test_a_later_occurrence_replaces_the_one_that_ended() -> None:
    """Times that do not overlap are two alerts."""
    old, new = alert(start=NOW - 100, end=NOW - 50), alert(start=NOW, end=NOW + 100)
    assert merge(old, new, NOW) == new


def test_a_request_of_prometheus_is_read() -> None:
    """The members it sends, in its order."""
    body = json.dumps(
        [
            {
                "annotations": {"summary": "s"},
                "endsAt": "2025-11-23T00:04:00Z",
                "startsAt": "2025-11-23T00:00:00Z",
                "generatorURL": "http://prometheus:9090/graph?g0.expr=up",
                "labels": {"alertname": "Down"},
            }
        ]
    )
    (posted,) = intake.decode(body.encode())
    assert bytes(posted.labels) == b'{"alertname": "Down"}'
    assert posted.ends_at == "2025-11-23T00:04:00Z"
