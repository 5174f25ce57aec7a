"""Dead man's switch: an alert that always fires must keep coming, and its silence is an alert of our own.

Nothing is done when an alert comes in: each second `Heartbeats.step` looks at when the alerts it watches were last
updated. What it knows is in the database, shared between replicas: a heartbeat that reaches any of them has been heard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Final

import pydantic
from sqlalchemy.exc import SQLAlchemyError

from tocsin_alerting.heartbeat_listening import ALERT, Book, Listening
from tocsin_alerting.heartbeat_store import HeartbeatStore, Known
from tocsin_alerting.heartbeat_telemetry import HeartbeatTelemetry
from tocsin_alerting.matchers import Matcher, MatcherError, parse, render
from tocsin_alerting.model import Incoming
from tocsin_alerting.sources.settings import Name, Positive
from tocsin_service import durations
from tocsin_service.clock import rfc3339
from tocsin_service.settings import Duration, Settings, flaw

EXCHANGE_EVERY: Final = 5.0
"""Seconds between two looks at what other replicas have heard."""
REMIND_EVERY: Final = 60.0
"""Seconds after which the alert is raised again, as Prometheus does with what fires."""
LASTS: Final = 300.0
"""Seconds the alert lasts when nobody raises it again: whoever leads next has time to."""


def _matchers(values: list[str]) -> list[str]:
    for value in values:
        try:
            parse(value)
        except MatcherError as error:
            raise flaw(str(error)) from error
    if not values:
        raise flaw("nothing is matched", expected="""matchers such as ['alertname="Watchdog"']""")
    return values


class HeartbeatSettings(Settings):
    """An entry of `heartbeats`.

    Args:
        matchers: which alerts are its beats; all must match.
        every: seconds within which one must be received again.
        labels: of the alert about its absence, beside `alertname` and `heartbeat`.
        annotations: replace ours of the same name.
        start_grace: seconds after a start of the router in which it is not missed, if more than `every`.
    """

    name: Name
    matchers: Annotated[list[str], pydantic.AfterValidator(_matchers)]
    every: Positive = 300.0
    labels: dict[str, str] = pydantic.Field(default={"severity": "page"})
    annotations: dict[str, str] = pydantic.Field(default={})
    start_grace: Duration = 0.0


def _distinct(found: Sequence[HeartbeatSettings]) -> Sequence[HeartbeatSettings]:
    names = [item.name for item in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise flaw(f'two heartbeats are called "{twice}"', expected="names that differ")
    return found


HeartbeatList = Annotated[tuple[HeartbeatSettings, ...], pydantic.AfterValidator(_distinct)]
"""The field `heartbeats` of the second configuration file; by default `()`."""


class Verdict(StrEnum):
    """What is to be said about a heartbeat."""

    WELL = "well"
    MISSING = "missing"
    BACK = "back"


def verdict(settings: HeartbeatSettings, known: Known, *, since: float, now: float) -> Verdict:
    """Decide on one heartbeat. Pure.

    Args:
        since: when this process began to listen for it; what was sent before may have gone unheard.
    """
    fresh = known.last_heard + settings.every > now
    if known.missing_since is not None:
        return Verdict.BACK if fresh else Verdict.MISSING
    if fresh or now < since + max(settings.start_grace, settings.every):
        return Verdict.WELL
    return Verdict.MISSING


class Heartbeats:
    """Listens and judges; one per router.

    Args:
        settings: asked at each step, so that a reload takes effect.
    """

    def __init__(
        self,
        settings: Callable[[], Sequence[HeartbeatSettings]],
        store: HeartbeatStore,
        telemetry: HeartbeatTelemetry,
    ) -> None:
        self._settings = settings
        self._store = store
        self._telemetry = telemetry
        self._listening = Listening()
        self._configured: tuple[HeartbeatSettings, ...] = ()
        self._since: dict[str, float] = {}
        self._known: dict[str, Known] = {}
        self._heard: dict[str, float] = {}
        self._told: dict[str, float] = {}
        self._exchange_at = 0.0
        self._remind_at: dict[str, float] = {}
        self._leading = False

    async def step(self, book: Book, now: float, *, leading: bool) -> list[Incoming]:
        """Listen, and return what is to be accepted as alerts now. To be called every second.

        Args:
            leading: this replica speaks for all; others listen only and return nothing.

        Raises:
            sqlalchemy.exc.SQLAlchemyError, OSError: the database cannot be used; what was heard is kept for later.
        """
        self._configure(now)
        if not self._configured:
            self._leading = False
            return []
        for name, at in self._listening.beats(book):
            self._heard[name] = max(at, self._heard.get(name, 0.0))
        took_over = leading and not self._leading
        # Before anything is raised or ended, ask what the others have heard.
        if now >= self._exchange_at or took_over or (leading and self._changes(now)):
            await self._exchange(now)
        if took_over:
            await self._store.forget([item.name for item in self._configured])
            self._remind_at.clear()
        self._leading = leading
        return await self._said(now) if leading else []

    async def _said(self, now: float) -> list[Incoming]:
        found: list[Incoming] = []
        for item in self._configured:
            try:
                found += await self._judge(item, now)
            except (SQLAlchemyError, OSError):
                # What is noted as said must be said; the next step meets the trouble again.
                if not found:
                    raise
                break
        return found

    def _configure(self, now: float) -> None:
        found = tuple(self._settings())
        if found == self._configured:
            return
        self._configured = found
        self._listening = Listening((item.name, every_matcher(item)) for item in found)
        names = {item.name for item in found}
        self._telemetry.forget(self._since.keys() - names)
        self._since = {name: self._since.get(name, now) for name in names}
        for kept in (self._known, self._heard, self._told, self._remind_at):
            for name in kept.keys() - names:
                del kept[name]
        self._leading = False  # the leader cleans up after a reload as after a change of leaders

    def _changes(self, now: float) -> bool:
        verdicts = ((item, self._verdict(item, now)) for item in self._configured)
        return any(
            found is Verdict.BACK or (found is Verdict.MISSING and self._of(item.name).missing_since is None)
            for item, found in verdicts
        )

    def _of(self, name: str) -> Known:
        known = self._known.get(name, Known())
        return Known(max(known.last_heard, self._heard.get(name, 0.0)), known.missing_since)

    def _verdict(self, item: HeartbeatSettings, now: float) -> Verdict:
        return verdict(item, self._of(item.name), since=self._since[item.name], now=now)

    async def _exchange(self, now: float) -> None:
        news = {name: at for name, at in self._heard.items() if at > self._told.get(name, 0.0)}
        found = await self._store.exchange(news)
        self._told |= news
        self._known = {name: known for name, known in found.items() if name in self._since}
        self._exchange_at = now + EXCHANGE_EVERY
        for name, known in self._known.items():
            self._telemetry.heard(name, known.last_heard)

    async def _judge(self, item: HeartbeatSettings, now: float) -> list[Incoming]:
        known = self._of(item.name)
        match self._verdict(item, now):
            case Verdict.WELL:
                return []
            case Verdict.BACK:
                await self._mark(item.name, None)
                self._remind_at.pop(item.name, None)
                self._telemetry.back(item.name)
                return [ended(item, known, now)]
            case Verdict.MISSING:
                if known.missing_since is None:
                    await self._mark(item.name, now)
                    self._telemetry.missing(item.name, known.last_heard)
                if now < self._remind_at.get(item.name, 0.0):
                    return []
                self._remind_at[item.name] = now + REMIND_EVERY
                return [raised(item, self._of(item.name), now)]

    async def _mark(self, name: str, missing_since: float | None) -> None:
        await self._store.mark(name, missing_since)
        self._known[name] = Known(self._of(name).last_heard, missing_since)


def every_matcher(settings: HeartbeatSettings) -> tuple[Matcher, ...]:
    """Return the matchers of a heartbeat."""
    return tuple(matcher for text in settings.matchers for matcher in parse(text))


def raised(settings: HeartbeatSettings, known: Known, now: float) -> Incoming:
    """Return the alert that says that a heartbeat is missing."""
    last = f"It was last received at {rfc3339(known.last_heard)}." if known.last_heard else "It was never received."
    annotations = {
        "summary": f"The heartbeat {settings.name} is missing",
        "description": (
            f"An alert that matches {render(every_matcher(settings))} should come at least every "
            f"{durations.render(settings.every)}. {last} While it is missing, nobody may be told of other alerts "
            "from where it comes. Check first that its Prometheus runs, that the rule fires on its page /alerts, "
            "and that it reaches this router: prometheus_notifications_errors_total must not rise."
        ),
    }
    start = now if known.missing_since is None else known.missing_since
    return Incoming(_labels(settings), annotations | settings.annotations, start, now + LASTS)


def ended(settings: HeartbeatSettings, known: Known, now: float) -> Incoming:
    """Return the end of that alert."""
    start = now if known.missing_since is None else min(known.missing_since, now)
    annotations = {
        "summary": f"The heartbeat {settings.name} is heard again",
        "description": f"It was missed from {rfc3339(start)} until {rfc3339(now)}.",
    }
    return Incoming(_labels(settings), annotations | settings.annotations, start, now)


def _labels(settings: HeartbeatSettings) -> dict[str, str]:
    return settings.labels | {"alertname": ALERT, "heartbeat": settings.name}
