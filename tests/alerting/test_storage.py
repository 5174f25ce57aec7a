"""The contract of the storage: one text, obeyed on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from tocsin_alerting.dedup import Lane, Leave, Note, Send, Told
from tocsin_alerting.grouping import GroupId
from tocsin_alerting.model import Alert, Notification, Reason
from tocsin_alerting.outbox import Change, Decision, DeposedError, Event, Ticked
from tocsin_alerting.storage import Storage
from tocsin_alerting.tables import LaneKey, Outcome, Row, State
from tocsin_alerting.testing import NOW, alert, entry, notification

_LANE = LaneKey("{}:{}", "team", "webhook", 0)
_ALERT = alert("Down", summary="it is down — ünïcode")


class _Leading(Storage):
    """A storage whose user leads."""

    epoch = 0

    async def begin(self) -> None:
        await self.open()
        found = await self.lead("test", seconds=3600, now=NOW)
        assert found is not None
        self.epoch = found

    async def decide(self, decide: _Decide, *, now: float = NOW, keys: tuple[str, ...] = ("{}:{}",)) -> Ticked:
        return await self.tick(keys, decide, now=now, epoch=self.epoch)

    async def claim(self, lane: LaneKey) -> Row | None:
        return (await self.work([lane], [], epoch=self.epoch)).get(lane)

    async def note(self, outcome: Outcome) -> None:
        await self.work([], [outcome], epoch=self.epoch)

    async def delivered(self, row: Row, *, now: float) -> None:
        await self.note(Outcome(row, State.DELIVERED, now))

    async def failed(self, row: Row, error: str, *, now: float) -> None:
        await self.note(Outcome(row, State.FAILED, now, error))

    async def again(self, row: Row, error: str, *, refused: bool = False) -> None:
        await self.note(Outcome(row, State.PENDING, NOW, error, refused))


@pytest.fixture
async def storage(any_database_url: str) -> AsyncIterator[_Leading]:
    opened = _Leading(any_database_url)
    await opened.begin()
    yield opened
    await opened.close()


def _told(*alerts: Alert, at: float = NOW) -> Told:
    names = frozenset(item.fingerprint for item in alerts)
    return Told(names, frozenset(), at, names)


class _Decide:
    """Decides the same for each lane, and keeps what it was shown."""

    def __init__(self, plan: Send | Note | Leave, *lanes: LaneKey) -> None:
        self.plan = plan
        self.lanes = lanes or (_LANE,)
        self.seen: dict[LaneKey, Lane] = {}

    def __call__(self, lanes: Mapping[LaneKey, Lane]) -> Decision:
        self.seen = dict(lanes)
        return Decision([Change(lane, self.plan, NOW, {"service": "shop"}, self._write) for lane in self.lanes])

    def _write(self, key: str, plan: Send) -> Notification:
        return notification(_ALERT, key=key, reason=plan.reason)


async def _send(storage: _Leading, told: Told, *lanes: LaneKey, now: float = NOW) -> None:
    await storage.decide(_Decide(Send(Reason.FIRST, told), *lanes), now=now)


async def _seen(storage: _Leading) -> Lane:
    look = _Decide(Leave())
    await storage.decide(look)
    return look.seen.get(_LANE, Lane())


async def test_a_message_and_the_state_it_tells_are_written_together(storage: _Leading) -> None:
    """The row holds the whole message, so that it can be sent when nothing else is known."""
    told = _told(_ALERT)
    await _send(storage, told)
    assert await _seen(storage) == Lane(told, None, int(NOW), 0, pending=True, exposed=False)
    row = await storage.claim(_LANE)
    assert row is not None
    assert (row.told, row.attempts, row.state) == (told, 1, State.PENDING)
    assert row.notification == notification(_ALERT, key=_LANE.idempotency_key(int(NOW)))


async def test_if_the_decision_fails_nothing_is_written(storage: _Leading) -> None:
    """State and message, or neither."""

    def broken(_: Mapping[LaneKey, Lane]) -> Decision:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await storage.tick([_LANE.group_key], broken, now=NOW, epoch=storage.epoch)
    assert await _seen(storage) == Lane()
    assert await storage.recent(10) == []


async def test_an_attempt_is_counted_before_it_is_made(storage: _Leading) -> None:
    """After a crash we know that the message may have arrived."""
    await _send(storage, _told(_ALERT))
    await storage.claim(_LANE)
    assert (await _seen(storage)).exposed


async def test_a_refused_attempt_has_not_arrived(storage: _Leading) -> None:
    """Unless an attempt before it may have."""
    await _send(storage, _told(_ALERT))
    for refused, exposed in ((True, False), (False, True), (True, True)):
        row = await storage.claim(_LANE)
        assert row is not None
        await storage.again(row, "no", refused=refused)
        assert (await _seen(storage)).exposed is exposed


async def test_a_delivered_message_is_what_was_told(storage: _Leading) -> None:
    """Nothing waits any more."""
    told = _told(_ALERT)
    await _send(storage, told)
    row = await storage.claim(_LANE)
    assert row is not None
    await storage.delivered(row, now=NOW + 1)
    assert await storage.claim(_LANE) is None
    assert await _seen(storage) == Lane(told, told, int(NOW), int(NOW), pending=False, exposed=False)
    assert [(item.state, item.attempts) for item in await storage.recent(10)] == [(State.DELIVERED, 1)]


async def test_a_failed_message_leaves_what_was_told_before(storage: _Leading) -> None:
    """So that the next tick writes another."""
    await _send(storage, _told(_ALERT))
    row = await storage.claim(_LANE)
    assert row is not None
    await storage.failed(row, "answered 400", now=NOW + 1)
    lane = await _seen(storage)
    assert (lane.intended, lane.told, lane.pending) == (None, None, False)
    (found,) = await storage.recent(10)
    assert (found.state, found.error) == (State.FAILED, "answered 400")


async def test_a_newer_message_supersedes_the_waiting_one(storage: _Leading) -> None:
    """Never a firing after its resolution; numbers go up and keys differ."""
    await _send(storage, _told(_ALERT))
    await _send(storage, _told())
    row = await storage.claim(_LANE)
    assert row is not None
    assert row.sequence == int(NOW) + 1
    newer, older = await storage.recent(10)
    assert (newer.state, older.state) == (State.PENDING, State.SUPERSEDED)
    assert newer.notification.key != older.notification.key


async def test_a_message_superseded_under_way_still_counts_when_it_arrives(storage: _Leading) -> None:
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


async def test_a_message_superseded_under_way_that_fails_changes_nothing(storage: _Leading) -> None:
    """The newer one stands."""
    await _send(storage, _told(_ALERT))
    under_way = await storage.claim(_LANE)
    await _send(storage, _told())
    assert under_way is not None
    await storage.failed(under_way, "no", now=NOW)
    assert (await _seen(storage)).intended == _told()
    assert [row.state for row in await storage.recent(10)] == [State.PENDING, State.SUPERSEDED]


async def test_a_note_counts_as_told_without_a_message(storage: _Leading) -> None:
    """And withdraws the message that waits."""
    await _send(storage, _told(_ALERT))
    await storage.decide(_Decide(Note(None)))
    lane = await _seen(storage)
    assert (lane.intended, lane.told, lane.pending) == (None, None, False)
    assert await storage.claim(_LANE) is None


async def test_an_error_is_kept_while_the_message_waits(storage: _Leading) -> None:
    """People see why."""
    await _send(storage, _told(_ALERT))
    row = await storage.claim(_LANE)
    assert row is not None
    await storage.again(row, "answered 503")
    again = await storage.claim(_LANE)
    assert again is not None
    assert (again.attempts, again.error, again.state) == (2, "answered 503", State.PENDING)


async def test_lanes_do_not_mix(storage: _Leading) -> None:
    """Another position of the same kind is another lane."""
    other = _LANE._replace(position=1)
    await _send(storage, _told(_ALERT), _LANE, other)
    row = await storage.claim(other)
    assert row is not None
    await storage.delivered(row, now=NOW)
    assert await storage.claim(other) is None
    assert await storage.claim(_LANE) is not None


async def test_a_new_leader_finds_everything(storage: _Leading) -> None:
    """Alerts with the end last heard of, what receivers were told, the rhythm of groups, and what waits."""
    await storage.keep([entry(_ALERT, received=NOW + 5), entry(alert("Other"))], now=NOW)
    await storage.keep([entry(alert("Down", end=NOW + 7200, updated=NOW + 60), received=NOW + 5)], now=NOW)
    await _send(storage, _told(_ALERT))
    await storage.tick((), lambda _: Decision((), anchors={_LANE.group: NOW + 1}), now=NOW, epoch=storage.epoch)
    found = await storage.recall()
    ends = {item.labels["alertname"]: (item.ends_at - NOW, received - NOW) for item, received in found.alerts}
    assert ends == {"Down": (7200, 5), "Other": (3600, 0)}
    assert found.lanes[_LANE].owed == {_ALERT.fingerprint}
    assert found.labels == {_LANE.group: {"service": "shop"}}
    assert (found.anchors, found.pending) == ({_LANE.group: NOW + 1}, {_LANE: NOW})


async def test_a_group_that_has_ended_has_no_rhythm_any_more(storage: _Leading) -> None:
    """When it comes again it waits for more alerts again."""
    begun = Decision((), anchors={_LANE.group: NOW, GroupId("other", "team"): NOW})
    await storage.tick((), lambda _: begun, now=NOW, epoch=storage.epoch)
    await storage.tick((), lambda _: Decision((), gone=[_LANE.group]), now=NOW, epoch=storage.epoch)
    assert (await storage.recall()).anchors == {GroupId("other", "team"): NOW}


async def test_an_alert_heard_of_later_by_another_replica_stays(storage: _Leading) -> None:
    """Whoever writes last need not have heard last."""
    await storage.keep([entry(alert("Down", end=NOW + 7200, updated=NOW + 60))], now=NOW)
    await storage.keep([entry(alert("Down", end=NOW + 10, updated=NOW + 50))], now=NOW)
    ((found, _),) = (await storage.recall()).alerts
    assert found.ends_at == NOW + 7200


async def test_a_replica_hears_what_others_wrote_and_not_itself(storage: _Leading, any_database_url: str) -> None:
    """Once, as far as clocks and commits allow."""
    other = Storage(any_database_url)
    await other.open()
    await other.keep([entry(_ALERT, received=NOW)], now=NOW)
    await storage.keep([entry(alert("Mine"))], now=NOW)
    heard, mark = await storage.heard_since(0.0)
    assert [item.labels["alertname"] for item, _ in heard] == ["Down"]
    heard, _ = await storage.heard_since(mark + 11)
    assert heard == []
    await other.close()


async def test_the_history_of_a_lane_tells_each_attempt_and_answer(storage: _Leading) -> None:
    """For whoever asks why he was not told."""
    await _send(storage, _told(_ALERT))
    row = await storage.claim(_LANE)
    assert row is not None
    await storage.again(row, "answered 503")
    row = await storage.claim(_LANE)
    assert row is not None
    await storage.delivered(row, now=NOW + 9)
    event = Decision((), events=[Event(NOW + 10, _LANE, "muted by time interval night")])
    await storage.tick((), lambda _: event, now=NOW, epoch=storage.epoch)
    state, (message,), decided = await storage.history(_LANE, limit=10)
    assert state.told == _told(_ALERT)
    assert [(outcome, detail) for _, outcome, detail in message.attempts] == [
        ("not taken", "answered 503"),
        ("taken", ""),
    ]
    assert decided == [(NOW + 10, "muted by time interval night")]


async def test_what_a_receiver_gives_back_comes_with_the_next_message(storage: _Leading) -> None:
    """Until a first notification begins anew."""
    await _send(storage, _told(_ALERT))
    row = await storage.claim(_LANE)
    assert row is not None
    await storage.note(Outcome(row, State.DELIVERED, NOW, handle={"ts": "1.2"}))
    for reason, handle in ((Reason.REPEAT, {"ts": "1.2"}), (Reason.FIRST, {})):
        await storage.decide(_Decide(Send(reason, _told(_ALERT))))
        row = await storage.claim(_LANE)
        assert row is not None
        assert row.notification.handle == handle


async def test_a_message_may_be_handed_over_as_it_is_written(storage: _Leading) -> None:
    """With its first attempt counted: one transaction less before it leaves."""
    decide = _Decide(Send(Reason.FIRST, _told(_ALERT)))
    ticked = await storage.tick(["{}:{}"], decide, now=NOW, epoch=storage.epoch, at_once=[_LANE])
    row = ticked.handed[_LANE]
    assert (row.attempts, row.exposed) == (1, False)
    assert (await _seen(storage)).exposed
    again = await storage.claim(_LANE)
    assert again is not None
    assert (again.id, again.attempts, again.exposed, again.notification) == (row.id, 2, True, row.notification)
    await storage.delivered(row, now=NOW)
    assert (await _seen(storage)).told == _told(_ALERT)


async def test_only_one_leads(storage: _Leading, any_database_url: str) -> None:
    """Of those that share a database; a file has one user, and whoever starts last is meant."""
    other = Storage(any_database_url)
    await other.open()
    taken = await other.lead("other", seconds=3600, now=NOW)
    assert taken == (None if storage.shared else storage.epoch + 1)
    assert await storage.renew(storage.epoch, seconds=0.05, now=NOW) is storage.shared
    if storage.shared:
        await storage.renew(storage.epoch, seconds=0.05, now=NOW)
        while taken is None:  # the lease ends
            taken = await other.lead("other", seconds=3600, now=NOW)
            await asyncio.sleep(0.01)
    await _deposed(storage)
    await other.close()


async def _deposed(storage: _Leading) -> None:
    with pytest.raises(DeposedError):
        await _send(storage, _told(_ALERT))
    with pytest.raises(DeposedError):
        await storage.claim(_LANE)


async def test_a_delivery_counts_whoever_leads_by_now(storage: _Leading, any_database_url: str) -> None:
    """It is a fact; that it failed is only the former leader's opinion."""
    second = _LANE._replace(position=1)
    await _send(storage, _told(_ALERT), _LANE, second)
    rows = await storage.work([_LANE, second], [], epoch=storage.epoch)
    await storage.resign(storage.epoch)
    other = _Leading(any_database_url)
    await other.begin()
    outcomes = [Outcome(rows[_LANE], State.DELIVERED, NOW), Outcome(rows[second], State.FAILED, NOW, "no")]
    with pytest.raises(DeposedError):
        await storage.work([], outcomes, epoch=storage.epoch)
    assert await other.claim(_LANE) is None
    assert await other.claim(second) is not None
    await other.close()


async def test_old_messages_and_silent_lanes_are_swept_away(storage: _Leading) -> None:
    """But no message that waits, and nobody's due; numbers of a forgotten lane are not used again."""
    other = _LANE._replace(group_key="{}:{other}")
    await storage.keep([entry(_ALERT), entry(alert("Other", end=NOW + 1))], now=NOW)
    for told, lane in ((_told(_ALERT), _LANE), (_told(), _LANE), (_told(_ALERT), other)):
        await _send(storage, told, lane)
        row = await storage.claim(lane)
        assert row is not None
        await storage.delivered(row, now=NOW)
    await _send(storage, _told(_ALERT), other, now=NOW + 1000)
    await storage.sweep(finished_before=NOW + 500, silent_since=NOW + 500, ended_before=NOW + 9999)
    assert [item.lane for item in await storage.recent(10)] == [other]
    assert await _seen(storage) == Lane()
    assert [item.labels["alertname"] for item, _ in (await storage.recall()).alerts] == ["Down"]
    await _send(storage, _told(_ALERT), now=NOW + 2000)
    assert (await _seen(storage)).sequence == int(NOW + 2000)


async def test_a_lane_is_remembered_longer_than_its_messages(storage: _Leading) -> None:
    """With a repeat_interval of a year it must be, but nobody reads messages that old."""
    await _send(storage, _told(_ALERT))
    row = await storage.claim(_LANE)
    assert row is not None
    await storage.delivered(row, now=NOW)
    await storage.sweep(finished_before=NOW + 500, silent_since=NOW - 500, ended_before=NOW)
    assert await storage.recent(10) == []
    assert (await _seen(storage)).told == _told(_ALERT)


async def test_many_groups_are_looked_up_at_once(storage: _Leading) -> None:
    """More than a database takes parameters in one query."""
    lanes = [_LANE._replace(group_key=f"{{}}:{{{number}}}") for number in range(1200)]
    keys = tuple(lane.group_key for lane in lanes)
    await storage.decide(_Decide(Send(Reason.FIRST, _told()), *lanes), keys=keys)
    look = _Decide(Leave())
    await storage.decide(look, keys=keys)
    assert len(look.seen) == 1200
    assert len(await storage.work(lanes, [], epoch=storage.epoch)) == 1200
