"""What each answer of Elasticsearch means for each event."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin_ship import bulk
from tocsin_ship.bulk import AnswerError, Fate, Step
from tocsin_ship.lines import Line


def answer(*items: dict[str, object]) -> bytes:
    return json.dumps({"errors": True, "items": [{"create": item} for item in items]}).encode()


sources = st.dictionaries(st.text(max_size=5), st.text(max_size=9) | st.integers(), max_size=4)


@given(st.lists(st.tuples(st.integers(0, 1 << 50), sources), max_size=20, unique_by=lambda pair: pair[0]))
def test_a_body_is_pairs_of_action_and_event(pairs: list[tuple[int, dict[str, object]]]) -> None:
    """Each event has its own create action with its id; each line, the last too, ends in a newline."""
    events = [Line("abc", "/x", offset, 0, json.dumps(event).encode()) for offset, event in pairs]
    body = bulk.encode(events)
    found = [json.loads(line) for line in body.splitlines()]
    assert body.count(b"\n") == 2 * len(events)
    assert found[::2] == [{"create": {"_id": line.id}} for line in events]
    assert found[1::2] == [event for _, event in pairs]
    assert len({line.id for line in events}) == len(events)


@pytest.mark.parametrize(
    ("status", "kind", "fate"),
    [
        (201, None, Fate.DELIVERED),
        (200, None, Fate.DELIVERED),
        (409, "version_conflict_engine_exception", Fate.DELIVERED),
        (429, "es_rejected_execution_exception", Fate.AGAIN),
        (429, "circuit_breaking_exception", Fate.AGAIN),
        (429, "cluster_block_exception", Fate.AGAIN),
        (503, "unavailable_shards_exception", Fate.AGAIN),
        (500, "exception", Fate.AGAIN),
        (403, "cluster_block_exception", Fate.WAIT),
        (403, "security_exception", Fate.WAIT),
        (404, "index_not_found_exception", Fate.MISSING),
        (400, "document_parsing_exception", Fate.REJECTED),
        (400, "mapper_parsing_exception", Fate.REJECTED),
        (400, "illegal_argument_exception", Fate.REJECTED),
        (400, "strict_dynamic_mapping_exception", Fate.REJECTED),
        (413, "content_too_long_exception", Fate.REJECTED),
    ],
)
def test_fate_of_an_event(status: int, kind: str | None, fate: Fate) -> None:
    """One event's status decides about that event alone."""
    item: dict[str, object] = {"status": status}
    if kind:
        item["error"] = {"type": kind, "reason": "because"}
    (found,) = bulk.outcomes(answer(item), 1)
    assert found.fate is fate
    assert found.status == status
    if kind:
        assert found.reason == kind
        assert found.error == f"{kind}: because"


@pytest.mark.parametrize(
    ("status", "step"),
    [
        (200, Step.ITEMS),
        (429, Step.AGAIN),
        (408, Step.AGAIN),
        (502, Step.AGAIN),
        (503, Step.AGAIN),
        (504, Step.AGAIN),
        (500, Step.SUSPECT),
        (413, Step.SPLIT),
        (400, Step.BISECT),
        (401, Step.DENIED),
        (403, Step.DENIED),
        (404, Step.DENIED),
        (302, Step.DENIED),
        (406, Step.DENIED),
    ],
)
def test_step_for_a_request(status: int, step: Step) -> None:
    """The HTTP status decides about the request as a whole."""
    assert bulk.step(status) is step


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"items":[]}', answer({"status": 201}, {"status": 201}), b'{"items":[{"create":{}}]}'],
)
def test_an_answer_that_does_not_fit_counts_for_nothing(body: bytes) -> None:
    """Fewer or more items than events, or no bulk answer at all: nothing is taken as delivered."""
    with pytest.raises(AnswerError):
        bulk.outcomes(body, 1)


def test_an_unknown_error_type_does_not_become_a_label() -> None:
    """Only a plain name does; anything else is named by its status."""
    (found,) = bulk.outcomes(answer({"status": 400, "error": {"type": "x" * 99, "reason": None}}), 1)
    assert found.reason == "status_400"
