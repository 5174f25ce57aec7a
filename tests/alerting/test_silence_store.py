"""The contract of stored silences: one text, obeyed on SQLite and on PostgreSQL, by one process and by several."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from tocsin_alerting.matchers import Op, parse
from tocsin_alerting.revisions import REVISION
from tocsin_alerting.silence_store import GRACE, SILENCE, Silences
from tocsin_alerting.silences import EXPIRE_WHEN_RESOLVED, Draft, SilenceError, State
from tocsin_alerting.testing import NOW
from tocsin_service.db import Database, Migrations
from tocsin_service.testing import FakeClock

_MIGRATIONS = Migrations("alerting", "tocsin_alerting.migrations")
_LABELS = {"alertname": "Down", "team": "web"}


@dataclass
class _Replicas:
    """Processes that share a database, each with its own connections and its own memory; the first two are open."""

    url: str
    clock: FakeClock
    databases: list[Database]

    async def silences(self, **limits: int) -> Silences:
        """Return the silences of another process, which has read nothing yet."""
        database = await Database.open(self.url, [_MIGRATIONS])
        self.databases.append(database)
        return Silences(lambda: database, self.clock, retention=600.0, **limits)


@pytest.fixture
async def replicas(any_database_url: str) -> AsyncIterator[_Replicas]:
    opened = _Replicas(any_database_url, FakeClock(NOW), [])
    yield opened
    for database in opened.databases:
        await database.close()


@pytest.fixture
async def silences(replicas: _Replicas) -> Silences:
    opened = await replicas.silences()
    await opened.refresh()
    return opened


def _draft(
    text: str = 'team="web"',
    *,
    start: float | None = None,
    end: float = NOW + 3600,
    name: str = "",
    comment: str = "ünïcode 'quoted'",
    annotations: dict[str, str] | None = None,
) -> Draft:
    matchers = tuple((matcher.name, matcher.op, matcher.value) for matcher in parse(text))
    return Draft(matchers, start, end, "me", comment, annotations or {}, name)


async def _rows(replicas: _Replicas) -> int:
    async with replicas.databases[0].read() as connection:
        return int((await connection.execute(sa.select(sa.func.count()).select_from(SILENCE))).scalar_one())


# --- one process -------------------------------------------------------------------------------------------------


async def test_a_silence_is_stored_before_its_id_is_known(replicas: _Replicas, silences: Silences) -> None:
    """Whole, as a process finds it that starts after this one was killed."""
    name = await silences.post(_draft(r'team="web",b!="x",c=~"d|\\.e",f!~".+"', annotations={"k": "v"}))
    after = await replicas.silences()
    assert await after.refresh()
    assert after.get(name) == silences.get(name)
    found = after.get(name)
    assert found is not None
    assert (found.created_by, found.comment, found.annotations) == ("me", "ünïcode 'quoted'", {"k": "v"})
    assert [matcher.op for matcher in found.matchers] == list(Op)
    assert after.silenced_by({"team": "web", "c": "d"}, NOW) == (name,)


async def test_what_is_not_taken_changes_nothing(replicas: _Replicas, silences: Silences) -> None:
    """Not the silence it was to replace either."""
    name = await silences.post(_draft())
    version = silences.version
    for draft in (_draft('a=""', name=name), _draft(name="00000000-0000-0000-0000-000000000000"), _draft(end=NOW)):
        with pytest.raises(SilenceError):
            await silences.post(draft)
    assert silences.version == version
    assert [silence.id for silence in silences.list()] == [name]
    assert await _rows(replicas) == 1
    assert not await silences.refresh()


async def test_a_change_in_place_keeps_the_id(replicas: _Replicas, silences: Silences) -> None:
    """And is stored as a whole."""
    name = await silences.post(_draft())
    await replicas.clock.advance(60)
    assert await silences.post(_draft(start=NOW, end=NOW + 90, name=name, comment="shorter")) == name
    (found,) = silences.list()
    assert (found.ends_at, found.comment, found.updated_at) == (NOW + 90, "shorter", NOW + 60)
    other = await replicas.silences()
    await other.refresh()
    assert other.list() == [found]


async def test_a_change_that_rewrites_history_replaces(replicas: _Replicas, silences: Silences) -> None:
    """Both silences are stored in one step."""
    name = await silences.post(_draft())
    await replicas.clock.advance(60)
    new = await silences.post(_draft('team="db"', start=NOW, name=name))
    assert new != name
    assert silences.silenced_by(_LABELS, NOW + 60) == ()
    assert silences.silenced_by({"team": "db"}, NOW + 60) == (new,)
    other = await replicas.silences()
    await other.refresh()
    assert [(silence.id, silence.state(NOW + 60)) for silence in other.list()] == [
        (new, State.ACTIVE),
        (name, State.EXPIRED),
    ]


async def test_a_silence_can_be_ended(replicas: _Replicas, silences: Silences) -> None:
    """At once, once, and only if there is one."""
    name = await silences.post(_draft())
    await silences.expire(name)
    assert silences.silenced_by(_LABELS, replicas.clock.now()) == ()
    await replicas.clock.advance(60)
    await silences.expire(name)
    (found,) = silences.list()
    assert found.ends_at == NOW
    with pytest.raises(SilenceError, match="silence not found") as caught:
        await silences.expire("00000000-0000-0000-0000-000000000000")
    assert caught.value.status == 404


async def test_lists_are_filtered_by_definition_and_state(replicas: _Replicas, silences: Silences) -> None:
    """In the order of section 10."""
    ended = await silences.post(_draft(end=NOW + 10))
    await replicas.clock.advance(20)
    active = await silences.post(_draft('team="web",x="y"'))
    pending = await silences.post(_draft(start=NOW + 60))
    assert [silence.id for silence in silences.list()] == [active, pending, ended]
    assert [silence.id for silence in silences.list(parse('x="y"'))] == [active]
    assert [silence.id for silence in silences.list(states=[State.EXPIRED])] == [ended]
    assert silences.counts(NOW + 20) == {State.ACTIVE: 1, State.PENDING: 1, State.EXPIRED: 1}


async def test_limits_hold(replicas: _Replicas) -> None:
    """Ended silences count until they are deleted."""
    silences = await replicas.silences(max_silences=2, max_silence_size=200)
    first = await silences.post(_draft(comment=""))
    await silences.expire(first)
    await silences.post(_draft(comment=""))
    with pytest.raises(SilenceError, match=r"exceeded maximum number of silences: 2 \(limit: 2\)"):
        await silences.post(_draft(comment=""))
    with pytest.raises(SilenceError, match="silence exceeded maximum size"):
        await silences.post(_draft(comment="x" * 200))


async def test_ended_silences_are_deleted_after_the_retention(replicas: _Replicas, silences: Silences) -> None:
    """Here and in the database; others forget them by themselves, by the same rule."""
    old, young = await silences.post(_draft(end=NOW + 10)), await silences.post(_draft(end=NOW + 20))
    other = await replicas.silences()
    await other.refresh()
    await replicas.clock.advance(10 + 600.5)
    assert await silences.sweep(replicas.clock.now()) == 1
    assert (silences.get(old), await _rows(replicas)) == (None, 1)
    assert silences.get(young) is not None
    assert not await other.refresh()
    assert other.get(old) is None
    with pytest.raises(SilenceError, match="not found"):
        await silences.expire(old)


async def test_changes_are_logged_where_that_is_asked_for(
    replicas: _Replicas, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who silenced what, until when."""
    database = await Database.open(replicas.url, [_MIGRATIONS])
    replicas.databases.append(database)
    silences = Silences(lambda: database, replicas.clock, log_changes=True)
    name = await silences.post(_draft())
    await silences.post(_draft(start=NOW, name=name, comment="more"))
    await silences.post(_draft('team="db"', start=NOW, name=name))
    (active, _) = silences.list()
    await silences.expire(active.id)
    text = "".join(capsys.readouterr())
    assert re.findall("silence [a-z]+d", text) == [
        *("silence created", "silence updated", "silence replaced", "silence created", "silence expired")
    ]
    for words in (name, "2025-11-23T01:00:00.000Z", "ünïcode"):
        assert words in text


# --- several processes -------------------------------------------------------------------------------------------


async def test_what_one_replica_changes_the_others_see_at_their_next_refresh(replicas: _Replicas) -> None:
    """Made, changed and ended; and a refresh without news is one question."""
    one, two = await replicas.silences(), await replicas.silences()
    await one.refresh()
    await two.refresh()
    name = await one.post(_draft())
    assert not await one.refresh()
    assert two.silenced_by(_LABELS, NOW) == ()
    assert await two.refresh()
    assert two.silenced_by(_LABELS, NOW) == (name,)
    assert not await two.refresh()
    await two.post(_draft(start=NOW, end=NOW + 60, name=name))
    await two.expire(name)
    assert await one.refresh()
    assert one.silenced_by(_LABELS, NOW) == ()
    assert one.list() == two.list()


async def test_changes_of_others_are_not_missed_beside_ones_own(replicas: _Replicas) -> None:
    """Whoever was first."""
    one, two = await replicas.silences(), await replicas.silences()
    names = [await one.post(_draft()), await two.post(_draft()), await one.post(_draft()), await two.post(_draft())]
    await one.refresh()
    await two.refresh()
    assert one.silenced_by(_LABELS, NOW) == two.silenced_by(_LABELS, NOW) == tuple(sorted(names))


async def test_edits_at_the_same_time_follow_one_another(replicas: _Replicas) -> None:
    """Of replacements of one silence, one replaces it and the others replace that which has ended: none is lost."""
    processes = [await replicas.silences() for _ in range(4)]
    name = await processes[0].post(_draft())
    drafts = [_draft(f'team="web",n="{number}"', start=NOW, name=name) for number in range(8)]
    made = await asyncio.gather(*(processes[n % 4].post(draft) for n, draft in enumerate(drafts)))
    assert len({*made, name}) == 9
    for process in processes:
        await process.refresh()
        active = process.list(states=[State.ACTIVE])
        assert {silence.id for silence in active} == set(made)
        assert process.list(states=[State.EXPIRED]) == [process.get(name)]


async def test_the_limit_holds_across_replicas(replicas: _Replicas) -> None:
    """However many ask at once."""
    processes = [await replicas.silences(max_silences=3) for _ in range(3)]
    posted = (process.post(_draft()) for process in processes for _ in range(4))
    done = await asyncio.gather(*posted, return_exceptions=True)
    assert sum(isinstance(answer, str) for answer in done) == 3
    assert sum(isinstance(answer, SilenceError) for answer in done) == 9
    assert await _rows(replicas) == 3


async def test_a_refresh_under_way_does_not_undo_what_is_made_meanwhile(
    replicas: _Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the first one, which reads everything, nor a later one."""
    one, two = await replicas.silences(), await replicas.silences()
    news = one._table.news
    step: Callable[[], object] = lambda: None  # noqa: E731 replaced below

    async def slow(since: int) -> object:
        found = await news(since)
        await step()  # type: ignore[misc]  # a coroutine function by then
        return found

    monkeypatch.setattr(one._table, "news", slow)
    made: list[str] = []

    async def post() -> None:
        made.append(await one.post(_draft()))

    step = post
    await two.post(_draft())
    assert await one.refresh()
    assert made[0] in one.silenced_by(_LABELS, NOW)

    async def expire() -> None:
        await one.expire(made[0])

    step = expire
    await two.post(_draft(start=NOW, end=NOW + 60, name=made[0]))
    await one.refresh()
    assert made[0] not in one.silenced_by(_LABELS, NOW)


async def test_a_database_put_back_to_an_earlier_state_is_believed(replicas: _Replicas, silences: Silences) -> None:
    """What is not there any more is not silenced by."""
    kept, lost = await silences.post(_draft()), await silences.post(_draft())
    await silences.refresh()
    async with replicas.databases[0].write() as connection:
        await connection.execute(SILENCE.delete().where(SILENCE.c.id == lost))
        await connection.execute(REVISION.update().where(REVISION.c.name == "silences").values(value=1))
    assert await silences.refresh()
    assert silences.silenced_by(_LABELS, NOW) == (kept,)
    other = await silences.post(_draft())
    assert silences.silenced_by(_LABELS, NOW) == tuple(sorted((kept, other)))


async def test_without_the_database_what_was_known_stays(replicas: _Replicas, silences: Silences) -> None:
    """A change raises, and is not believed."""
    name = await silences.post(_draft())
    async with replicas.databases[0].write() as connection:
        await connection.execute(sa.text("alter table alerting_silence rename to gone"))
    for attempt in (silences.post(_draft()), silences.expire(name), silences.sweep(NOW)):
        with pytest.raises(sa.exc.SQLAlchemyError):
            await attempt
    assert silences.silenced_by(_LABELS, NOW) == (name,)
    async with replicas.databases[0].write() as connection:
        await connection.execute(sa.text("alter table gone rename to alerting_silence"))
    assert not await silences.refresh()
    await silences.expire(name)
    assert silences.silenced_by(_LABELS, NOW) == ()


async def test_a_change_that_has_begun_is_finished(replicas: _Replicas, silences: Silences) -> None:
    """Also when the client went away; it is seen at the next refresh at the latest."""
    task = asyncio.ensure_future(silences.post(_draft()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await silences.close()
    assert await _rows(replicas) == 1
    assert await silences.refresh()
    assert len(silences.silenced_by(_LABELS, NOW)) == 1


# --- expire when resolved ----------------------------------------------------------------------------------------

_ENDS = {EXPIRE_WHEN_RESOLVED: "true"}


async def test_a_silence_can_end_with_what_it_silences(replicas: _Replicas, silences: Silences) -> None:
    """Some time after nothing of it fires any more, since alerts flap."""
    name = await silences.post(_draft(annotations=_ENDS))
    other = await silences.post(_draft())
    clock = replicas.clock
    assert await silences.settle([_LABELS, {"team": "db"}], clock.now()) == []
    await clock.advance(60)
    assert await silences.settle([{"team": "db"}], clock.now()) == []
    await clock.advance(GRACE - 61)
    assert await silences.settle([_LABELS], clock.now()) == []
    await clock.advance(GRACE - 1)
    assert await silences.settle([], clock.now()) == []
    await clock.advance(1)
    assert await silences.settle([], clock.now()) == [name]
    assert silences.silenced_by(_LABELS, clock.now()) == (other,)


async def test_a_silence_that_has_silenced_nothing_yet_stays(replicas: _Replicas, silences: Silences) -> None:
    """It may have been made for what is to come."""
    name = await silences.post(_draft(annotations=_ENDS))
    for _ in range(5):
        assert await silences.settle([], replicas.clock.now()) == []
        await replicas.clock.advance(GRACE)
    assert silences.silenced_by(_LABELS, replicas.clock.now()) == (name,)


async def test_that_it_has_silenced_something_is_known_after_a_restart(replicas: _Replicas, silences: Silences) -> None:
    """And by others; they wait until alerts have been sent again before they take them to be over."""
    name = await silences.post(_draft(annotations=_ENDS))
    await silences.settle([_LABELS], NOW)
    after = await replicas.silences()
    await after.refresh()
    await replicas.clock.advance(10 * GRACE)
    assert await after.settle([], replicas.clock.now()) == []
    await replicas.clock.advance(GRACE)
    assert await after.settle([], replicas.clock.now()) == [name]
    await silences.refresh()
    assert silences.silenced_by(_LABELS, replicas.clock.now()) == ()


async def test_a_change_in_place_does_not_forget_that_it_was_used(replicas: _Replicas, silences: Silences) -> None:
    """A longer end is no new start."""
    name = await silences.post(_draft(annotations=_ENDS))
    await silences.settle([_LABELS], NOW)
    await silences.post(_draft(start=NOW, end=NOW + 7200, name=name, annotations=_ENDS))
    await replicas.clock.advance(GRACE)
    assert await silences.settle([], replicas.clock.now()) == [name]
