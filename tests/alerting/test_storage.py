"""The contract of the storage: one text, obeyed on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from tocsin_alerting.dedup import Lane, Leave, Note, Send, Told
from tocsin_alerting.model import Alert, Notification, Reason
from tocsin_alerting.storage import Change, Storage
from tocsin_alerting.tables import LaneKey, State
from tocsin_alerting.testing import NOW, alert, notification

_LANE = LaneKey("{}:{}", "team", "webhook", 0)
_ALERT = alert("Down", summary="it is down — ünïcode")


@pytest.fixture
async def storage(any_database_url: str) -> AsyncIterator[Storage]:
    opened = Storage(any_database_url)
    await opened.open()
    yield opened
    await opened.close()


def _told(*alerts: Alert, at: float = NOW) -> Told:
    return Told(frozenset(item.fingerprint for item in alerts), frozenset(), at)


class _Decide:
    """Decides the same for each lane, and keeps what it was shown."""

    def __init__(self, plan: Send | Note | Leave, *lanes: LaneKey) -> None:
        self.plan = plan
        self.lanes = lanes or (_LANE,)
        self.seen: dict[LaneKey, Lane] = {}

    def __call__(self, lanes: Mapping[LaneKey, Lane]) -> Sequence[Change]:
        self.seen = dict(lanes)
        return [Change(lane, self.plan, NOW, self._write) for lane in self.lanes]

    def _write(self, key: str, plan: Send) -> Notification:
        return notification(_ALERT, key=key, reason=plan.reason)


async def _send(storage: Storage, told: Told, *lanes: LaneKey, now: float = NOW) -> None:
    await storage.tick([_LANE.group_key], _Decide(Send(Reason.FIRST, told), *lanes), now=now)


async def _seen(storage: Storage) -> Lane:
    look = _Decide(Leave())
    await storage.tick([_LANE.group_key], look, now=NOW)
    return look.seen.get(_LANE, Lane())


async def test_a_message_and_the_state_it_tells_are_written_together(storage: Storage) -> None:
    """The row holds the whole message, so that it can be sent when nothing else is known."""
    told = _told(_ALERT)
    await _send(storage, told)
    assert await _seen(storage) == Lane(told, None, int(NOW), 0, pending=True, exposed=False)
    row = await storage.claim(_LANE)
    assert row is not None
    assert (row.told, row.attempts, row.state) == (told, 1, State.PENDING)
    assert row.notification == notification(_ALERT, key=_LANE.idempotency_key(int(NOW)))


async def test_if_the_decision_fails_nothing_is_written(storage: Storage) -> None:
    """State and message, or neither."""

    def broken(_: Mapping[LaneKey, Lane]) -> Sequence[Change]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await storage.tick([_LANE.group_key], broken, now=NOW)
    assert await _seen(storage) == Lane()
    assert await storage.recent(10) == []


async def test_an_attempt_is_counted_before_it_is_made(storage: Storage) -> None:
    """After a crash we know that the message may have arrived."""
    await _send(storage, _told(_ALERT))
    await storage.claim(_LANE)
    assert (await _seen(storage)).exposed


async def test_a_refused_attempt_has_not_arrived(storage: Storage) -> None:
    """Unless an attempt before it may have."""
    await _send(storage, _told(_ALERT))
    for refused, exposed in ((True, False), (False, True), (True, True)):
        row = await storage.claim(_LANE)
        assert row is not None
        await storage.again(row, "no", refused=refused)
        assert (await _seen(storage)).exposed is exposed


async def test_a_delivered_message_is_what_was_told(storage: Storage) -> None:
    """Nothing waits any more."""
    told = _told(_ALERT)
    await _send(storage, told)
    row = await storage.claim(_LANE)
    assert row is not None
    await storage.delivered(row, now=NOW + 1)
    assert await storage.claim(_LANE) is None
    assert await _seen(storage) == Lane(told, told, int(NOW), int(NOW), pending=False, exposed=False)
    assert [(item.state, item.attempts) for item in await storage.recent(10)] == [(State.DELIVERED, 1)]


async def test_a_failed_message_leaves_what_was_told_before(storage: Storage) -> None:
    """So that the next tick writes another."""
    await _send(storage, _told(_ALERT))
    row = await storage.claim(_LANE)
    assert row is not None
    await storage.failed(row, "answered 400", now=NOW + 1)
    lane = await _seen(storage)
    assert (lane.intended, lane.told, lane.pending) == (None, None, False)
    (found,) = await storage.recent(10)
    assert (found.state, found.error) == (State.FAILED, "answered 400")


async def test_a_newer_message_supersedes_the_waiting_one(storage: Storage) -> None:
    """Never a firing after its resolution; numbers go up and keys differ."""
    await _send(storage, _told(_ALERT))
    await _send(storage, _told())
    row = await storage.claim(_LANE)
    assert row is not None
    assert row.sequence == int(NOW) + 1
    newer, older = await storage.recent(10)
    assert (newer.state, older.state) == (State.PENDING, State.SUPERSEDED)
    assert newer.notification.key != older.notification.key


async def test_a_message_superseded_under_way_still_counts_when_it_arrives(storage: Storage) -> None:
    """And a later failure falls back to it, not to nothing."""
    first, second = _told(_ALERT), _told()
    await _send(storage, first)
    under_way = await storage.claim(_LANE)
    await _send(storage, second)
    assert under_way is not None
    await storage.delivered(under_way, now=NOW)
    lane = await _seen(storage)
    assert (lane.intended, lane.told, lane.pending) == (second, first, True)
    newer = await storage.claim(_LANE)
    assert newer is not None
    await storage.failed(newer, "no", now=NOW)
    assert (await _seen(storage)).intended == first


async def test_a_message_superseded_under_way_that_fails_changes_nothing(storage: Storage) -> None:
    """The newer one stands."""
    await _send(storage, _told(_ALERT))
    under_way = await storage.claim(_LANE)
    await _send(storage, _told())
    assert under_way is not None
    await storage.failed(under_way, "no", now=NOW)
    assert (await _seen(storage)).intended == _told()
    assert [row.state for row in await storage.recent(10)] == [State.PENDING, State.SUPERSEDED]


async def test_a_note_counts_as_told_without_a_message(storage: Storage) -> None:
    """And withdraws the message that waits."""
    await _send(storage, _told(_ALERT))
    await storage.tick([_LANE.group_key], _Decide(Note(None)), now=NOW)
    lane = await _seen(storage)
    assert (lane.intended, lane.told, lane.pending) == (None, None, False)
    assert await storage.claim(_LANE) is None


async def test_an_error_is_kept_while_the_message_waits(storage: Storage) -> None:
    """People see why."""
    await _send(storage, _told(_ALERT))
    row = await storage.claim(_LANE)
    assert row is not None
    await storage.again(row, "answered 503")
    again = await storage.claim(_LANE)
    assert again is not None
    assert (again.attempts, again.error, again.state) == (2, "answered 503", State.PENDING)


async def test_lanes_do_not_mix(storage: Storage) -> None:
    """Another position of the same kind is another lane."""
    other = _LANE._replace(position=1)
    await _send(storage, _told(_ALERT), _LANE, other)
    row = await storage.claim(other)
    assert row is not None
    await storage.delivered(row, now=NOW)
    assert await storage.claim(other) is None
    assert await storage.claim(_LANE) is not None


async def test_a_start_finds_alerts_that_somebody_was_told_of_and_waiting_messages(storage: Storage) -> None:
    """With the end last heard of."""
    await _send(storage, _told(_ALERT))
    heard = alert("Down", end=NOW + 7200, updated=NOW + 60)
    await storage.remember([heard, alert("Unknown")])
    found = await storage.recall()
    (back,) = found.alerts
    assert (back.fingerprint, back.ends_at, back.updated_at) == (_ALERT.fingerprint, NOW + 7200, NOW + 60)
    assert back.annotations == _ALERT.annotations
    assert (found.last, found.pending) == ({_LANE.group_key: NOW}, {_LANE: NOW})


async def test_what_is_resolved_is_not_brought_back(storage: Storage) -> None:
    """Once everybody knows that it ended."""
    for told in (_told(_ALERT), _told()):
        await _send(storage, told)
        row = await storage.claim(_LANE)
        assert row is not None
        await storage.delivered(row, now=NOW)
    found = await storage.recall()
    assert (found.alerts, found.last, found.pending) == ((), {}, {})


async def test_old_messages_and_silent_lanes_are_swept_away(storage: Storage) -> None:
    """But no message that waits; numbers of a forgotten lane are not used again."""
    other = _LANE._replace(group_key="{}:{other}")
    await _send(storage, _told(_ALERT))
    row = await storage.claim(_LANE)
    assert row is not None
    await storage.delivered(row, now=NOW)
    await _send(storage, _told(_ALERT), other, now=NOW + 1000)
    still_told = await storage.sweep(finished_before=NOW + 500, silent_since=NOW + 500)
    assert still_told == {_ALERT.fingerprint}
    assert [item.lane for item in await storage.recent(10)] == [other]
    assert await _seen(storage) == Lane()
    await _send(storage, _told(_ALERT), now=NOW + 2000)
    assert (await _seen(storage)).sequence == int(NOW + 2000)


async def test_a_lane_is_remembered_longer_than_its_messages(storage: Storage) -> None:
    """With a repeat_interval of a year it must be, but nobody reads messages that old."""
    await _send(storage, _told(_ALERT))
    row = await storage.claim(_LANE)
    assert row is not None
    await storage.delivered(row, now=NOW)
    await storage.sweep(finished_before=NOW + 500, silent_since=NOW - 500)
    assert await storage.recent(10) == []
    assert (await _seen(storage)).told == _told(_ALERT)


async def test_many_groups_are_looked_up_at_once(storage: Storage) -> None:
    """More than a database takes parameters in one query."""
    lanes = [_LANE._replace(group_key=f"{{}}:{{{number}}}") for number in range(1200)]
    await storage.tick([lane.group_key for lane in lanes], _Decide(Send(Reason.FIRST, _told()), *lanes), now=NOW)
    look = _Decide(Leave())
    await storage.tick([lane.group_key for lane in lanes], look, now=NOW)
    assert len(look.seen) == 1200
