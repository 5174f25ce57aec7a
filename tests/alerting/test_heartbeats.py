"""Dead man's switch: heartbeats that must keep coming, on SQLite and on PostgreSQL, between replicas, over restarts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from tocsin_alerting.alerts import Book
from tocsin_alerting.heartbeat_store import HeartbeatStore, Known
from tocsin_alerting.heartbeat_telemetry import HeartbeatTelemetry
from tocsin_alerting.heartbeats import HeartbeatList, Heartbeats, HeartbeatSettings, Verdict, verdict
from tocsin_alerting.model import Incoming, fingerprint
from tocsin_alerting.routing import Route
from tocsin_service.clock import rfc3339
from tocsin_service.db import Database, Migrations
from tocsin_service.settings import Document, Settings, SettingsError
from tocsin_service.testing import FakeClock

NOW = FakeClock().now()
_MINUTE = 60.0
_WATCHDOG = {"alertname": "Watchdog", "prometheus": "main"}
_GAUGE = "tocsin_alerting_heartbeat_last_seen_timestamp_seconds"


class SecondFile(Settings):
    heartbeats: HeartbeatList = ()


def configured(text: str) -> tuple[HeartbeatSettings, ...]:
    """Return the heartbeats of a second file."""
    return Document.parse(f"heartbeats:\n{text}", file="tocsin.yml").read(SecondFile).heartbeats


_MAIN = configured("""- {name: main, matchers: ['alertname="Watchdog"', 'prometheus="main"']}""")


def post(book: Book, labels: dict[str, str], at: float, *, lasts: float = 240.0) -> None:
    """Post an alert that began before, as Prometheus does."""
    times = {"startsAt": rfc3339(NOW - 60), "endsAt": rfc3339(at + lasts)}
    book.take(json.dumps([{"labels": labels, **times}]).encode(), at, 300.0)


def forget(book: Book, labels: dict[str, str]) -> None:
    """Drop an alert, as the router does some time after its end."""
    book.forget(book.entries[fingerprint(labels)])


@dataclass
class Replica:
    """One router: its book, and what its heartbeats have raised."""

    heartbeats: Heartbeats
    registry: CollectorRegistry
    book: Book = field(default_factory=lambda: Book(Route("0", "{}", "team", frozenset(), 30.0, 300.0, 14_400.0)))
    leading: bool = True
    raised: list[tuple[float, Incoming]] = field(default_factory=list)

    async def step(self, now: float) -> list[Incoming]:
        alerts = await self.heartbeats.step(self.book, now, leading=self.leading)
        self.raised += [(now, alert) for alert in alerts]
        return alerts

    async def run(self, start: float, end: float, *, beat_every: float = 0.0, every: float = 1.0) -> None:
        """Let time pass; with `beat_every` the Watchdog comes that often."""
        now = start
        while now < end:
            if beat_every and (now - start) % beat_every == 0:
                post(self.book, _WATCHDOG, now)
            await self.step(now)
            now += every

    @property
    def last_seen(self) -> float | None:
        return self.registry.get_sample_value(_GAUGE, {"heartbeat": "main"})


@pytest.fixture
async def database(any_database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(any_database_url, [Migrations("alerting", "tocsin_alerting.migrations")])
    yield opened
    await opened.close()


@pytest.fixture
def store(database: Database) -> HeartbeatStore:
    return HeartbeatStore(lambda: database)


def _replica(
    store: HeartbeatStore,
    settings: tuple[HeartbeatSettings, ...] | list[HeartbeatSettings] = _MAIN,
    *,
    leading: bool = True,
) -> Replica:
    registry = CollectorRegistry()
    return Replica(Heartbeats(lambda: settings, store, HeartbeatTelemetry(registry)), registry, leading=leading)


# --- the decision -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "now", "expected"),
    [
        (Known(), NOW + 299, Verdict.WELL),
        (Known(), NOW + 300, Verdict.MISSING),
        (Known(NOW + 100), NOW + 399, Verdict.WELL),
        (Known(NOW + 100), NOW + 400, Verdict.MISSING),
        (Known(NOW - 5000), NOW + 299, Verdict.WELL),
        (Known(NOW - 5000), NOW + 300, Verdict.MISSING),
        (Known(NOW - 5000, missing_since=NOW - 4700), NOW + 1, Verdict.MISSING),
        (Known(NOW + 1, missing_since=NOW - 4700), NOW + 2, Verdict.BACK),
        (Known(0, missing_since=NOW - 4700), NOW + 2, Verdict.MISSING),
    ],
)
def test_a_heartbeat_is_judged_by_when_it_was_heard(known: Known, now: float, expected: Verdict) -> None:
    """Nothing is missed right after a start; but what was said to be missing stays missing until it is heard."""
    assert verdict(_MAIN[0], known, since=NOW, now=now) is expected


def test_the_grace_after_a_start_can_be_longer() -> None:
    """For a Prometheus that takes its time to start."""
    (slow,) = configured("- {name: main, matchers: [alertname=Watchdog], every: 2m, start_grace: 10m}")
    assert verdict(slow, Known(), since=NOW, now=NOW + 599) is Verdict.WELL
    assert verdict(slow, Known(), since=NOW, now=NOW + 600) is Verdict.MISSING


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {name: a, matchers: []}", "nothing is matched"),
        ("- {name: a, matchers: ['=']}", "heartbeats[0].matchers"),
        ("- {name: a, matchers: [a=b], every: 0s}", "0 would"),
        ("- {name: a, matchers: [a=b]}\n- {name: a, matchers: [a=c]}", 'two heartbeats are called "a"'),
    ],
)
def test_what_is_wrong_with_the_settings_is_said(text: str, message: str) -> None:
    """With its place in the file."""
    with pytest.raises(SettingsError) as error:
        configured(text)
    assert message in str(error.value)


# --- the store: one text, two databases ---------------------------------------------------------------------------


async def test_the_latest_of_all_replicas_counts(store: HeartbeatStore) -> None:
    """Whatever the order in which they tell."""
    assert await store.exchange({"main": NOW}) == {"main": Known(NOW)}
    assert await store.exchange({"main": NOW - 10, "other": NOW - 20}) == {
        "main": Known(NOW),
        "other": Known(NOW - 20),
    }
    assert (await store.exchange({"main": NOW + 5}))["main"] == Known(NOW + 5)
    assert (await store.exchange({}))["main"] == Known(NOW + 5)


async def test_being_missing_is_kept_beside(store: HeartbeatStore) -> None:
    """Of heartbeats heard before, and of those that never were."""
    await store.exchange({"main": NOW})
    await store.mark("main", NOW + 300)
    await store.mark("never", NOW + 1)
    assert await store.exchange({"main": NOW + 400}) == {
        "main": Known(NOW + 400, NOW + 300),
        "never": Known(0.0, NOW + 1),
    }
    await store.mark("main", None)
    assert (await store.exchange({}))["main"] == Known(NOW + 400, None)


async def test_heartbeats_of_the_past_are_forgotten(store: HeartbeatStore) -> None:
    """So that one that is configured again begins anew."""
    await store.exchange({"main": NOW, "old": NOW - 1e7})
    await store.forget(["main"])
    assert list(await store.exchange({})) == ["main"]
    await store.forget([])
    assert await store.exchange({}) == {}


# --- listening ----------------------------------------------------------------------------------------------------


async def test_a_heartbeat_that_keeps_coming_is_no_news(store: HeartbeatStore) -> None:
    """Prometheus sends what fires once a minute; the metric says when it was last here."""
    replica = _replica(store)
    await replica.run(NOW, NOW + 900, beat_every=_MINUTE)
    assert replica.raised == []
    assert replica.last_seen == NOW + 840


async def test_silence_is_an_alert(store: HeartbeatStore) -> None:
    """At the second it is due, then each minute, with an end that outlives the next minute."""
    replica = _replica(store)
    await replica.run(NOW, NOW + 130, beat_every=_MINUTE)  # heard at 0, 60, 120
    await replica.run(NOW + 130, NOW + 541)
    assert [at - NOW for at, _ in replica.raised] == [420, 480, 540]
    first = replica.raised[0][1]
    assert first.labels == {"alertname": "HeartbeatMissing", "heartbeat": "main", "severity": "page"}
    assert (first.starts_at, first.ends_at) == (NOW + 420, NOW + 720)
    assert {alert.starts_at for _, alert in replica.raised} == {NOW + 420}
    assert first.annotations["summary"] == "The heartbeat main is missing"
    for words in ('{alertname="Watchdog",prometheus="main"}', "every 5m", "2025-11-23T00:02:00.000Z", "Check first"):
        assert words in first.annotations["description"]


async def test_heard_again_it_is_over(store: HeartbeatStore) -> None:
    """Once."""
    replica = _replica(store)
    await replica.run(NOW, NOW + 301)
    assert len(replica.raised) == 1
    assert "never received" in replica.raised[0][1].annotations["description"]
    await replica.run(NOW + 301, NOW + 500, beat_every=_MINUTE)
    (_, missing), (at, back) = replica.raised
    assert back.labels == missing.labels
    assert (at, back.starts_at, back.ends_at) == (NOW + 301, NOW + 300, NOW + 301)
    assert "heard again" in back.annotations["summary"]


async def test_labels_and_annotations_are_chosen(store: HeartbeatStore) -> None:
    """What the settings say goes before what we would say."""
    settings = configured(
        "- {name: main, matchers: [alertname=Watchdog], labels: {team: infra}, annotations: {summary: wake up}}"
    )
    replica = _replica(store, settings)
    await replica.run(NOW, NOW + 301)
    alert = replica.raised[0][1]
    assert alert.labels == {"alertname": "HeartbeatMissing", "heartbeat": "main", "team": "infra"}
    assert alert.annotations["summary"] == "wake up"
    assert "description" in alert.annotations


async def test_a_watchdog_that_is_resolved_is_no_heartbeat(store: HeartbeatStore) -> None:
    """Prometheus goes on sending what has ended for 15 minutes."""
    replica = _replica(store)
    post(replica.book, _WATCHDOG, NOW)
    for minute in range(6):
        at = NOW + minute * _MINUTE
        if minute:
            post(replica.book, _WATCHDOG, at, lasts=0.0)
        await replica.run(at, at + _MINUTE)
    assert [at for at, _ in replica.raised] == [NOW + 300]


async def test_our_own_alarm_is_no_heartbeat(store: HeartbeatStore) -> None:
    """However widely the matchers are cast."""
    replica = _replica(store, configured("- {name: main, matchers: ['severity=~\".+\"']}"))
    await replica.run(NOW, NOW + 301)
    post(replica.book, replica.raised[0][1].labels, NOW + 301)
    await replica.run(NOW + 301, NOW + 330)
    assert len(replica.raised) == 1


async def test_any_of_several_alerts_is_a_beat_and_one_alert_beats_for_several(store: HeartbeatStore) -> None:
    """As the matchers say."""
    settings = configured(
        """
- {name: any, matchers: [alertname=Watchdog]}
- {name: main, matchers: [alertname=Watchdog, prometheus=main]}
- {name: spare, matchers: [alertname=Watchdog, prometheus=spare]}
"""
    )
    replica = _replica(store, settings)
    for minute in range(6):
        post(replica.book, {"alertname": "Watchdog", "prometheus": "main"}, NOW + minute * _MINUTE)
        await replica.run(NOW + minute * _MINUTE, NOW + (minute + 1) * _MINUTE)
    assert {alert.labels["heartbeat"] for _, alert in replica.raised} == {"spare"}


async def test_each_alert_is_looked_at_once(store: HeartbeatStore) -> None:
    """In whatever order they come and go: those forgotten and come back are found again."""
    replica = _replica(store)
    for number in range(100):
        post(replica.book, {"alertname": "Noise", "n": str(number)}, NOW)
    await replica.step(NOW)
    post(replica.book, _WATCHDOG, NOW + 1)
    for number in range(100):
        forget(replica.book, {"alertname": "Noise", "n": str(number)})
    post(replica.book, {"alertname": "Noise", "n": "0"}, NOW + 2)
    await replica.step(NOW + 5)
    assert replica.last_seen == NOW + 1
    forget(replica.book, _WATCHDOG)
    forget(replica.book, {"alertname": "Noise", "n": "0"})
    await replica.step(NOW + 10)
    post(replica.book, _WATCHDOG, NOW + 11)
    await replica.step(NOW + 15)
    assert replica.last_seen == NOW + 11


# --- replicas, restarts, reloads ----------------------------------------------------------------------------------


async def test_only_the_leader_speaks(store: HeartbeatStore) -> None:
    """The others listen."""
    leader, other = _replica(store), _replica(store, leading=False)
    await leader.run(NOW, NOW + 310)
    await other.run(NOW, NOW + 310)
    assert (len(leader.raised), other.raised) == (1, [])


async def test_a_heartbeat_that_any_replica_hears_counts(store: HeartbeatStore) -> None:
    """Also one that reaches none but a replica that does not lead."""
    leader, other = _replica(store), _replica(store, leading=False)
    now = NOW
    while now < NOW + 900:
        if (now - NOW) % _MINUTE == 0:
            post(other.book, _WATCHDOG, now)
        await other.step(now)
        await leader.step(now)
        now += 1
    assert leader.raised == []
    assert leader.last_seen is not None
    assert leader.last_seen >= NOW + 780


async def test_what_is_missing_stays_so_over_a_restart(store: HeartbeatStore) -> None:
    """The next leader raises the same alert at once, with its start, and ends it when the time has come."""
    await _replica(store).run(NOW, NOW + 310)
    second = _replica(store)
    await second.step(NOW + 320)
    (raised,) = (alert for _, alert in second.raised)
    assert (raised.starts_at, raised.ends_at) == (NOW + 300, NOW + 620)
    post(second.book, _WATCHDOG, NOW + 330)
    (back,) = await second.step(NOW + 331)
    assert (back.labels, back.ends_at) == (raised.labels, NOW + 331)


async def test_a_restart_is_no_silence(store: HeartbeatStore) -> None:
    """While we were away nobody could be heard."""
    await _replica(store).run(NOW, NOW + 100, beat_every=_MINUTE)
    back = _replica(store)
    await back.run(NOW + 3600, NOW + 3899)
    assert back.raised == []
    await back.run(NOW + 3899, NOW + 3901)
    assert len(back.raised) == 1
    assert "2025-11-23T00:01:00.000Z" in back.raised[0][1].annotations["description"]


async def test_a_replica_that_takes_over_goes_on(store: HeartbeatStore) -> None:
    """It asks what is known before it says anything."""
    first, second = _replica(store), _replica(store, leading=False)
    await first.run(NOW, NOW + 301)
    await second.run(NOW, NOW + 301)
    second.leading = True
    (again,) = await second.step(NOW + 302)
    assert again.starts_at == NOW + 300


async def test_a_reload_takes_effect(store: HeartbeatStore) -> None:
    """A new heartbeat has its grace; one that is gone is no longer shown, and begins anew if it comes back."""
    settings = list(_MAIN)
    replica = _replica(store, settings)
    await replica.run(NOW, NOW + 302)
    assert len(replica.raised) == 1
    settings[:] = configured("- {name: spare, matchers: [alertname=Watchdog]}")
    await replica.run(NOW + 302, NOW + 601, beat_every=0.0)
    assert len(replica.raised) == 1
    assert replica.last_seen is None
    settings[:] = _MAIN
    assert await replica.step(NOW + 601) == []
    assert await store.exchange({}) == {}


async def test_without_heartbeats_nothing_is_asked(database: Database) -> None:
    """The database is left alone."""
    await database.close()
    replica = _replica(HeartbeatStore(lambda: pytest.fail("it was asked")), ())
    await replica.run(NOW, NOW + 10)
    assert replica.raised == []


async def test_trouble_with_the_database_loses_nothing(store: HeartbeatStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is noted as raised is raised, and the rest as soon as it can be noted."""
    settings = configured("- {name: a, matchers: [alertname=A]}\n- {name: b, matchers: [alertname=B]}")
    replica = _replica(store, settings)
    await replica.step(NOW)
    mark = store.mark

    async def broken(name: str, missing_since: float | None) -> None:
        if name == "b":
            raise OSError("disk full")
        await mark(name, missing_since)

    monkeypatch.setattr(store, "mark", broken)
    assert [alert.labels["heartbeat"] for alert in await replica.step(NOW + 300)] == ["a"]
    with pytest.raises(OSError, match="disk full"):
        await replica.step(NOW + 301)
    monkeypatch.undo()
    assert [alert.labels["heartbeat"] for alert in await replica.step(NOW + 302)] == ["b"]
