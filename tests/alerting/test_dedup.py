from __future__ import annotations

import pytest

from tocsin_alerting.dedup import Lane, Leave, Note, Quiet, Send, Tick, Told, plan, reason
from tocsin_alerting.model import Reason


def _told(firing: str = "", resolved: str = "", at: float = 0.0, *, owed: str | None = None) -> Told:
    return Told(frozenset(firing), frozenset(resolved), at, frozenset(firing if owed is None else owed))


def _tick(
    firing: str = "",
    resolved: str = "",
    *,
    muted: str = "",
    now: float = 10.0,
    send_resolved: bool = True,
    acknowledged: bool = False,
) -> Tick:
    return Tick(
        now,
        frozenset(firing),
        frozenset(resolved),
        send_resolved,
        repeat_interval=100.0,
        muted=frozenset(muted),
        acknowledged=acknowledged,
    )


@pytest.mark.parametrize(
    ("entry", "tick", "expected"),
    [
        (None, _tick("a"), Reason.FIRST),
        (None, _tick("", "a"), Quiet.NOTHING_FIRES),
        (_told("a"), _tick("ab"), Reason.NEW_ALERTS),
        (_told("", "a"), _tick("a"), Reason.FIRST),
        (_told("a"), _tick("", "a"), Reason.ALL_RESOLVED),
        (_told("", "a"), _tick("", "a"), Quiet.NOTHING_FIRES),
        (_told("ab"), _tick("a", "b"), Reason.SOME_RESOLVED),
        (_told("ab"), _tick("a", "b", send_resolved=False), Quiet.UNCHANGED),
        (_told("a", "b"), _tick("a", "b"), Quiet.UNCHANGED),
        (_told("a"), _tick("a", "c"), Quiet.UNCHANGED),  # nobody was told of c
        (_told("a"), _tick("a", now=99), Quiet.UNCHANGED),
        (_told("a"), _tick("a", now=100), Reason.REPEAT),
        (_told("a"), _tick("a", now=100, acknowledged=True), Quiet.ACKNOWLEDGED),
        (_told("a"), _tick("ab", acknowledged=True), Reason.NEW_ALERTS),
        (_told("a"), _tick("", muted="a"), Quiet.MUTED),
        (None, _tick("", muted="a"), Quiet.MUTED),
        (_told("b", owed="ab"), _tick("b", "a"), Reason.SOME_RESOLVED),  # told, muted, unmuted
        (_told("", owed="a"), _tick("", "a"), Reason.ALL_RESOLVED),
        (_told("", "b", owed="a"), _tick("", "b", muted="a"), Quiet.NOTHING_FIRES),
    ],
)
def test_the_reason_is_alertmanagers(entry: Told | None, tick: Tick, expected: Reason | Quiet) -> None:
    """What a receiver has been told decides whether it is told again."""
    assert reason(entry, tick) is expected


def test_the_reasons_are_the_words_of_notification_reason() -> None:
    """Receivers may compare them."""
    assert [str(each) for each in Reason] == [
        "first notification",
        "new alerts added",
        "all alerts resolved",
        "some alerts resolved",
        "repeat interval elapsed",
    ]


def test_nothing_is_done_while_the_waiting_message_says_it_all() -> None:
    """A receiver that is down does not gather a queue."""
    lane = Lane(intended=_told("a"), pending=True, sequence=1)
    assert plan(lane, _tick("a")) == Leave(Quiet.UNCHANGED)


def test_an_alert_that_ends_before_any_attempt_is_never_told() -> None:
    """Neither that it fired nor that it ended."""
    lane = Lane(intended=_told("a"), pending=True, sequence=1)
    assert plan(lane, _tick("", "a")) == Note(None)


def test_an_end_is_told_if_the_firing_may_have_arrived() -> None:
    """An attempt without an answer may have been taken."""
    lane = Lane(intended=_told("a"), pending=True, exposed=True, sequence=1)
    assert plan(lane, _tick("", "a")) == Send(Reason.ALL_RESOLVED, _told("", "a", 10))


def test_a_resolution_not_yet_tried_is_withdrawn_when_the_alert_fires_again() -> None:
    """The receiver still believes that it fires, and is right."""
    lane = Lane(intended=_told("", "a"), told=_told("a"), pending=True, sequence=2)
    assert plan(lane, _tick("a")) == Note(_told("a"))


def test_a_message_not_yet_tried_grows() -> None:
    """One message about both, in place of the one that waits."""
    lane = Lane(intended=_told("a"), pending=True, sequence=1)
    assert plan(lane, _tick("ab")) == Send(Reason.FIRST, _told("ab", "", 10))


def test_without_send_resolved_the_end_of_all_is_noted_not_sent() -> None:
    """So that the next alert is a first notification."""
    lane = Lane(intended=_told("a"), told=_told("a"), sequence=1)
    assert plan(lane, _tick("", "a", send_resolved=False)) == Note(_told("", "a", 10))


def test_after_a_message_that_failed_for_good_the_tick_tries_again() -> None:
    """Storage then has `intended` back at what was really told."""
    assert plan(Lane(sequence=3), _tick("a")) == Send(Reason.FIRST, _told("a", "", 10))


def test_what_is_muted_is_still_owed_its_end() -> None:
    """A message about others in the meantime changes nothing about that."""
    lane = Lane(intended=_told("ab"), told=_told("ab"), sequence=1)
    sent = plan(lane, _tick("bc", muted="a"))
    assert sent == Send(Reason.NEW_ALERTS, _told("bc", "", 10, owed="abc"))
    assert isinstance(sent, Send)
    later = Lane(intended=sent.told, told=sent.told, sequence=2)
    assert plan(later, _tick("bc", "a", now=20)) == Send(Reason.SOME_RESOLVED, _told("bc", "a", 20))


def test_what_was_never_told_is_owed_nothing() -> None:
    """Muted from the beginning until its end."""
    lane = Lane(intended=_told("b"), told=_told("b"), sequence=1)
    assert plan(lane, _tick("b", "a")) == Leave(Quiet.UNCHANGED)
