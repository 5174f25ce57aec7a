"""One verdict from silences, inhibition and time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
import pytest

from tocsin_alerting.acks import Acks
from tocsin_alerting.alerts import Entry
from tocsin_alerting.inhibition import Inhibitor, InhibitRule
from tocsin_alerting.matchers import parse
from tocsin_alerting.muting import HEARD, Cause, Muter, Verdict
from tocsin_alerting.routing import Route
from tocsin_alerting.silence_store import Silences
from tocsin_alerting.silences import Draft, Silence, State
from tocsin_alerting.testing import NOW, alert
from tocsin_alerting.timeintervals import Period, Range, TimeInterval
from tocsin_service.clock import rfc3339
from tocsin_service.db import Database, Migrations
from tocsin_service.testing import FakeClock

_RULE = InhibitRule("page", parse("severity=critical"), parse("severity=warning"), ("cluster",))
_NIGHT = TimeInterval("night", (Period(times=(Range(0, 6 * 60),)),))
_EVENING = TimeInterval("evening", (Period(times=(Range(20 * 60, 24 * 60),)),))
_WORK = TimeInterval("work", (Period(times=(Range(9 * 60, 17 * 60),), weekdays=(Range(1, 5),)),))
_NEVER = TimeInterval("never", ())
_ALWAYS = TimeInterval("always", (Period(),))
_INTERVALS = {interval.name: interval for interval in (_NIGHT, _EVENING, _WORK, _NEVER, _ALWAYS)}
_HOUR = 3600.0
# NOW is a Sunday, 00:00 UTC.


@dataclass
class _Muting:
    """A muter with all that it asks."""

    muter: Muter
    silences: Silences
    acks: Acks
    inhibitor: Inhibitor
    clock: FakeClock

    async def silence(self, text: str, *, start: float = NOW, end: float = NOW + _HOUR) -> str:
        matchers = tuple((matcher.name, matcher.op, matcher.value) for matcher in parse(text))
        return await self.silences.post(Draft(matchers, start, end, "ann", "work"))

    def verdicts(self, entry: Entry, *seconds: float) -> list[Verdict]:
        return [self.muter.verdict(entry, NOW + second) for second in seconds]


@pytest.fixture
async def muting(database_url: str) -> AsyncIterator[_Muting]:
    database = await Database.open(database_url, [Migrations("alerting", "tocsin_alerting.migrations")])
    clock, inhibitor = FakeClock(NOW), Inhibitor([_RULE])
    silences, acks = Silences(lambda: database, clock), Acks(lambda: database, clock)
    yield _Muting(Muter(silences, acks, inhibitor, _INTERVALS), silences, acks, inhibitor, clock)
    await database.close()


def _entry(name: str = "Down", *, end: float = NOW + _HOUR, **labels: str) -> Entry:
    return Entry(alert(name, end=end, **labels), received_at=NOW)


def _route(*, mute: tuple[str, ...] = (), active: tuple[str, ...] = ()) -> Route:
    return Route("0", "{}", "team", frozenset(), 30.0, 300.0, 14400.0, (), False, (), mute, active)


# --- one alert ---------------------------------------------------------------------------------------------------


async def test_an_alert_that_nobody_mutes_is_heard(muting: _Muting) -> None:
    """Whatever else is silenced or inhibited."""
    await muting.silence('team="db"')
    muting.inhibitor.add(_entry(severity="critical", cluster="eu"))
    assert muting.verdicts(_entry(team="web"), 0, 1) == [HEARD, HEARD]
    assert not HEARD


async def test_silences_mute_while_they_are_active(muting: _Muting) -> None:
    """Their beginning and end need no change of theirs; all that silence are named."""
    entry = _entry(team="web")
    assert muting.verdicts(entry, 0) == [HEARD]
    first = await muting.silence('team="web"', end=NOW + 60)
    later = await muting.silence('alertname=~"Do.*"', start=NOW + 30, end=NOW + 90)
    both = tuple(sorted((first, later)))
    found = [verdict.silenced_by for verdict in muting.verdicts(entry, 0, 29, 30, 59, 60, 89, 90)]
    assert found == [(first,), (first,), both, both, (later,), (later,), ()]


async def test_a_changed_silence_is_seen_at_once(muting: _Muting) -> None:
    """Made, replaced, ended; by this process or by another."""
    entry, other = _entry(team="web"), _entry(team="db")
    name = await muting.silence('team="web"')
    assert muting.verdicts(entry, 0) == [Verdict((name,))]
    await muting.silences.post(Draft((("team", parse("a=b")[0].op, "db"),), NOW, NOW + 60, "ann", "", id=name))
    assert muting.verdicts(entry, 0) == [HEARD]
    (replaced,) = muting.muter.verdict(other, NOW).silenced_by
    await muting.silences.expire(replaced)
    assert muting.verdicts(other, 0) == [HEARD]


async def test_many_changes_at_once_are_seen_too(muting: _Muting) -> None:
    """More than are remembered one by one."""
    entry = _entry(team="web")
    muting.silences.book.put(Silence("old", parse('team="web"'), NOW, NOW + 60, NOW, "", ""), NOW)
    assert muting.verdicts(entry, 0) == [Verdict(("old",))]
    muting.silences.book.discard("old")
    for number in range(500):
        text = 'team="web"' if number == 250 else f'team="{number}"'
        muting.silences.book.put(Silence(f"n{number}", parse(text), NOW, NOW + 60, NOW, "", ""), NOW)
    assert muting.verdicts(entry, 0) == [Verdict(("n250",))]


async def test_sources_mute_while_they_fire(muting: _Muting) -> None:
    """Also one that ends early, or fires again, without anybody being told."""
    entry, source = _entry(severity="warning"), _entry("Worse", severity="critical", end=NOW + 60)
    assert muting.verdicts(entry, 0) == [HEARD]
    muting.inhibitor.add(source)
    muted = Verdict(inhibited_by=(source.alert.fingerprint,))
    assert muting.verdicts(entry, 0, 59, 60) == [muted, muted, HEARD]
    source.alert = msgspec.structs.replace(source.alert, ends_at=NOW + 10)
    assert muting.verdicts(entry, 9, 10) == [muted, HEARD]
    source.alert = msgspec.structs.replace(source.alert, ends_at=NOW + 90)
    assert muting.verdicts(entry, 10) == [muted]
    muting.inhibitor.discard(source.alert.fingerprint)
    assert muting.verdicts(entry, 10) == [HEARD]


async def test_silences_and_inhibition_stand_side_by_side(muting: _Muting) -> None:
    """And for labels without an alert: what would be."""
    entry, source = _entry(severity="warning"), _entry("Worse", severity="critical")
    muting.inhibitor.add(source)
    name = await muting.silence('alertname="Down"')
    expected = Verdict((name,), (source.alert.fingerprint,))
    assert muting.verdicts(entry, 0) == [expected]
    assert muting.muter.judge(entry.alert.labels, NOW) == expected
    assert muting.muter.judge({"alertname": "Other"}, NOW) is HEARD
    muting.muter.forget(entry.alert.fingerprint)
    assert muting.verdicts(entry, 0) == [expected]


async def test_acknowledgements_are_asked_here_too(muting: _Muting) -> None:
    """They mute nothing: they stop repeats."""
    entry = _entry(team="web")
    ack = await muting.acks.post(matchers=parse('team="web"'), created_by="ann", ends_at=NOW + 60)
    assert muting.muter.acknowledged(entry.alert.labels, NOW) is ack
    assert muting.verdicts(entry, 0) == [HEARD]


# --- whole routes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "hour", "cause", "names", "until"),
    [
        (_route(), 0, None, (), None),
        (_route(mute=("night",)), 1, Cause.MUTE_TIME, ("night",), 6),
        (_route(mute=("night",)), 6, None, (), None),
        (_route(active=("night",)), 1, None, (), None),
        # Sunday: work begins on Monday at nine.
        (_route(active=("work",)), 1, Cause.ACTIVE_TIME, ("work",), 24 + 9),
        (_route(active=("work", "evening")), 1, Cause.ACTIVE_TIME, ("work", "evening"), 20),
        (_route(mute=("night", "evening")), 21, Cause.MUTE_TIME, ("evening",), 24 + 6),
        (_route(mute=("never", "always", "night")), 1, Cause.MUTE_TIME, ("always", "night"), None),
        (_route(active=("never",)), 1, Cause.ACTIVE_TIME, ("never",), None),
        # It must be active and not muted; being inactive is asked first.
        (_route(active=("night",), mute=("night",)), 1, Cause.MUTE_TIME, ("night",), None),
        (_route(active=("work",), mute=("night",)), 1, Cause.ACTIVE_TIME, ("work",), 24 + 9),
        (_route(active=("night", "work"), mute=("night",)), 1, Cause.MUTE_TIME, ("night",), 24 + 9),
    ],
)
async def test_time_mutes_routes(
    muting: _Muting, route: Route, hour: int, cause: Cause | None, names: tuple[str, ...], until: int | None
) -> None:
    """Why, by which intervals, and until when; asked again it is the same."""
    expected = (cause, names, None if until is None else NOW + until * _HOUR)
    for second in (0, 0, 1, 1800, 0):
        assert muting.muter.timing(route, NOW + hour * _HOUR + second) == expected


async def test_timing_follows_the_clock(muting: _Muting) -> None:
    """Through a day, hour by hour."""
    route = _route(mute=("night", "evening"))
    muted = [hour for hour in range(48) if muting.muter.timing(route, NOW + hour * _HOUR)[0]]
    assert muted == [*range(6), *range(20, 30), *range(44, 48)]


# --- in words ----------------------------------------------------------------------------------------------------


async def test_until_when_somebody_is_muted(muting: _Muting) -> None:
    """By the last of the silences; nobody knows how long a source will fire."""
    await muting.silence('team="web"', end=NOW + 60)
    await muting.silence('alertname="Down"', end=NOW + 90)
    verdict = muting.muter.verdict(_entry(team="web"), NOW)
    until = muting.muter.until
    assert until(verdict, NOW) == NOW + 90
    assert until(HEARD, NOW) is None
    assert until(Verdict(inhibited_by=("f",)), NOW) is None
    assert until(Verdict(muted_by=("night",)), NOW) == NOW + 6 * _HOUR
    assert until(Verdict(muted_by=("work", "evening")), NOW) == NOW + 20 * _HOUR
    assert until(Verdict(muted_by=("always",)), NOW) is None
    assert until(Verdict(muted_by=("never",)), NOW) is None
    assert until(Verdict(verdict.silenced_by, muted_by=("night",)), NOW) == NOW + 6 * _HOUR


async def test_silences_and_sources_are_described(muting: _Muting) -> None:
    """For a person who asks why nothing came."""
    name = await muting.silence('team="web"')
    assert muting.muter.silences_named((name, "gone")) == [
        {
            "id": name,
            "matchers": ['team="web"'],
            "createdBy": "ann",
            "comment": "work",
            "endsAt": rfc3339(NOW + _HOUR),
        }
    ]
    source = _entry("Worse", severity="critical")
    muting.inhibitor.add(source)
    found = muting.muter.sources_named({"severity": "warning"}, (source.alert.fingerprint, "gone"), NOW)
    assert found == [
        {"fingerprint": source.alert.fingerprint, "labels": source.alert.labels, "rule": "page"},
    ]


# --- speed -------------------------------------------------------------------------------------------------------


async def test_asking_for_many_alerts_is_cheap(muting: _Muting) -> None:
    """With a thousand silences of others and sources that fire: what was found out once is asked no more."""
    for number in range(1000):
        text = f'alertname="Other{number}"' if number % 10 else f'alertname="Other{number}",x!="y"'
        silence = Silence(f"n{number}", parse(text), NOW, NOW + 60, NOW, "", "")
        muting.silences.book.put(silence, NOW)
    for number in range(100):
        muting.inhibitor.add(_entry("Worse", severity="critical", cluster=str(number)))
    entries = [_entry("Down", severity="warning", instance=str(number)) for number in range(10_000)]

    def ask() -> float:
        begun = time.process_time()
        for entry in entries:
            assert muting.muter.verdict(entry, NOW) is HEARD
        return time.process_time() - begun

    assert ask() < 1.0
    assert min(ask() for _ in range(5)) < 0.02
    # One change is one thing to look at for each.
    muting.silences.book.put(Silence("new", parse('alertname=~"N.*"'), NOW, NOW + 60, NOW, "", ""), NOW)
    assert ask() < 0.2
    assert muting.silences.counts(NOW)[State.ACTIVE] == 1001
