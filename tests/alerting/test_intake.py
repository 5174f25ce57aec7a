from __future__ import annotations

import json

import pytest

from tocsin_alerting import intake
from tocsin_alerting.model import Alert, fingerprint, merge
from tocsin_alerting.testing import NOW, alert
from tocsin_service.clock import rfc3339


def _read(**members: object) -> Alert:
    (timed,) = intake.decode(json.dumps([members]).encode())
    return intake.read(timed, {}, now=NOW, resolve_timeout=300)


def test_the_fingerprint_is_prometheus_own() -> None:
    """64-bit FNV-1a over sorted names and values."""
    assert fingerprint({"alertname": "a"}) == "d258efc389808447"


def test_an_alert_without_times_starts_now_and_ends_after_resolve_timeout() -> None:
    """Empty strings and Go's zero time count as unset."""
    found = _read(labels={"a": "b"}, startsAt="0001-01-01T00:00:00.000Z", endsAt="")
    assert (found.starts_at, found.ends_at, found.timeout) == (NOW, NOW + 300, True)


def test_an_alert_with_only_an_end_starts_there() -> None:
    """Nothing is invented before it."""
    found = _read(labels={"a": "b"}, endsAt=rfc3339(NOW - 5))
    assert (found.starts_at, found.ends_at, found.timeout) == (NOW - 5, NOW - 5, False)


def test_empty_labels_are_dropped_and_empty_annotations_kept() -> None:
    """As Alertmanager does."""
    found = _read(labels={"a": "b", "c": ""}, annotations={"x": ""})
    assert (found.labels, found.annotations) == ({"a": "b"}, {"x": ""})


@pytest.mark.parametrize("text", ["2025-11-23", "2025-11-23T00:00:00", "2025-11-23T01:00:00.123456789+01:00"])
def test_times_may_lack_a_zone_or_have_nanoseconds(text: str) -> None:
    """All of these are the same second."""
    assert int(_read(labels={"a": "b"}, startsAt=text, endsAt="2030-01-01T00:00:00Z").starts_at) == int(NOW)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"labels": {}}, "at least one label pair required"),
        ({"labels": {"a": ""}}, "at least one label pair required"),
        ({"labels": {"": "x", "a": "b"}}, 'invalid label set: invalid name ""'),
        ({"labels": {"a": "b"}, "annotations": {"": "x"}}, 'invalid annotations: invalid name ""'),
        (
            {"labels": {"a": "b"}, "startsAt": rfc3339(NOW), "endsAt": rfc3339(NOW - 1)},
            "start time must be before end time",
        ),
    ],
)
def test_an_invalid_alert_is_refused_with_alertmanagers_reason(members: dict[str, object], reason: str) -> None:
    """The words are those that clients know."""
    with pytest.raises(intake.InvalidAlertError) as caught:
        _read(**members)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"nonsense", 400, 400),
        (b"{}", 422, 601),
        (b'[{"annotations":{}}]', 422, 602),
        (b'[{"labels":{"a":1}}]', 422, 601),
        (b'[{"labels":{"a":"b"},"startsAt":"2025-11-23 00:00:00Z"}]', 400, 400),
        (b'[{"labels":{"a":"b"},"startsAt":1}]', 400, 400),
        (b'[{"labels":{"a":"b"},"startsAt":"2025-13-23T00:00:00Z"}]', 400, 400),
        (b'[{"labels":{"a":"b"},"generatorURL":"not absolute"}]', 422, 601),
        (b'[{"labels":{"a":"\xff"}}]', 400, 400),
        (b'[{"labels":{"a":"b"},"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}]", 400, 400),
        # These would stop every answer and message that shows them.
        (b'[{"labels":{"a":"b"},"endsAt":"9999-12-31T23:59:59-12:00"}]', 400, 400),
        (b'[{"labels":{"a":"b"},"endsAt":"9999-12-31T23:59:59.9999Z"}]', 400, 400),
        (b'[{"labels":{"a":"b"},"startsAt":"0001-01-01T00:00:00+12:00"}]', 400, 400),
    ],
)
def test_an_ill_formed_request_is_refused_as_a_whole(body: bytes, status: int, code: int) -> None:
    """400 for what cannot be decoded, 422 for a member that is missing or of the wrong form."""
    with pytest.raises(intake.RefusedError) as caught:
        intake.decode(body)
    assert (caught.value.status, caught.value.code) == (status, code)


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
