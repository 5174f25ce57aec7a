"""The book of alerts: every alert known, by fingerprint and by the bytes its labels are posted as.

Prometheus posts the same alerts again every minute, with the same label bytes: those are found by their bytes and
only their times are touched. Parsing, fingerprints and routes are for what was never seen before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from tocsin_alerting import intake
from tocsin_alerting.model import Alert, Incoming, fingerprint, merge
from tocsin_alerting.routing import Route, match

FORMS: Final = 4
"""Forms of label bytes kept for one alert: several Prometheus servers may write the same labels differently."""
_WORDS: Final = 8192
_NEVER_POSTED: Final = msgspec.Raw(b"")
"""Equal to nothing that can be posted."""


class Entry:
    """One alert as it is now. Groups, inhibition and answers all hold this one cell, so that a re-post is one write.

    Attributes:
        alert: what was last heard; replaced as a whole, never changed.
        received_at: Unix seconds at which this occurrence was first heard of; group_wait counts from here.
        routes: the nodes that handle it, in tree order.
        kept_ends_at: the end that the database knows, so that it is written again only where it matters.
        raw: the forms of label bytes under which `Book` finds it, oldest first.
        posted: its annotations as they were last posted.
    """

    __slots__ = ("_annotations_json", "_labels_json", "alert", "kept_ends_at", "posted", "raw", "received_at", "routes")

    def __init__(self, alert: Alert, *, received_at: float, routes: tuple[Route, ...] = ()) -> None:
        self.alert = alert
        self.received_at = received_at
        self.routes = routes
        self.kept_ends_at = 0.0
        self.raw: tuple[bytes, ...] = ()
        self.posted = _NEVER_POSTED
        self._labels_json: bytes | None = None
        self._annotations_json: bytes | msgspec.Raw | None = None

    @property
    def labels_json(self) -> bytes:
        """The labels as JSON: mostly the very bytes they are posted as, so that there is one copy of them."""
        if self._labels_json is None:
            made = msgspec.json.encode(self.alert.labels)
            self._labels_json = next((raw for raw in self.raw if raw == made), made)
        return self._labels_json

    @property
    def annotations_json(self) -> bytes | msgspec.Raw:
        """The annotations as JSON, in the same way."""
        if self._annotations_json is None:
            made = msgspec.json.encode(self.alert.annotations)
            self._annotations_json = self.posted if self.posted == msgspec.Raw(made) else made
        return self._annotations_json

    def reword(self, posted: msgspec.Raw) -> None:
        """Note that the annotations have come as other bytes."""
        self.posted = posted.copy()  # or it would keep the whole request alive
        self._annotations_json = None


@dataclass(slots=True)
class Taken:
    """What a request changed.

    Args:
        news: entries that are new, began or ended, or have another start: what may not be forgotten.
        reworded: entries whose annotations or URL changed and nothing else; with a value in an annotation that is
            every re-post.
        problems: why alerts were refused, in their order.
        firing, resolved: alerts received, refused ones too.
        limited: alerts refused because too many have their `alertname`, by name.
    """

    news: list[Entry] = field(default_factory=list)
    reworded: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    firing: int = 0
    resolved: int = 0
    limited: dict[str, int] = field(default_factory=dict)


class _Wording(NamedTuple):
    """What of a posted alert was not known by its bytes."""

    labels: dict[str, str]
    annotations: dict[str, str]
    generator_url: str
    raw: bytes = b""
    posted: msgspec.Raw = _NEVER_POSTED


_Read = tuple[Entry | None, intake.Span, _Wording | None, intake.Posted | None]
"""A posted alert: where it is known from, when it fires, its words unless they are those that are known, itself."""


class Book:
    """All alerts. Nothing in it waits, so that a request is applied as a whole.

    Args:
        root: the route tree that new alerts are matched with.
        per_alertname_limit: firing alerts of one `alertname` that are taken; 0 is no limit.
    """

    def __init__(self, root: Route, *, per_alertname_limit: int = 0) -> None:
        self.entries: dict[str, Entry] = {}
        """By fingerprint."""
        self.version = 0
        """Another one whenever an alert has come or gone."""
        self._root = root
        self._limit = per_alertname_limit
        self._known: dict[bytes, Entry] = {}
        self._named: dict[str, set[Entry]] = {}
        self._ordered: list[Entry] = []
        self._in_order = True
        self._times = intake.Times()
        self._words: dict[str, str] = {}
        self._ways: dict[tuple[str, ...], tuple[Route, ...]] = {}

    # --- in -----------------------------------------------------------------------------------------------------

    def take(self, body: bytes, now: float, resolve_timeout: float) -> Taken:
        """Take in the alerts of a request.

        Raises:
            tocsin_alerting.intake.RefusedError: nothing was taken.
        """
        known = self._known
        spans: dict[tuple[str | None, str | None], intake.Span] = {}
        read: list[_Read] = []
        for where, posted in enumerate(intake.decode(body)):
            times = (posted.starts_at, posted.ends_at)
            span = spans.get(times)
            if span is None:
                span = spans[times] = self._span(posted, where, now, resolve_timeout)
            raw = bytes(posted.labels)
            entry = known.get(raw)
            if (
                entry is not None
                and entry.posted == posted.annotations
                and entry.alert.generator_url == posted.generator_url
            ):
                read.append((entry, span, None, posted))
            else:
                read.append((entry, span, self._wording(entry, posted, raw, where), posted))
        return self._apply(read, now)

    def take_values(self, incoming: Sequence[Incoming], now: float, resolve_timeout: float) -> Taken:
        """Take in alerts from our own sources, by the same rules."""
        read: list[_Read] = []
        for item in incoming:
            span = intake.span(item.starts_at, item.ends_at, now, resolve_timeout)
            read.append((None, span, _Wording(*intake.bare(item), item.generator_url), None))
        return self._apply(read, now)

    def _span(self, posted: intake.Posted, where: int, now: float, resolve_timeout: float) -> intake.Span:
        starts_at = self._times.read(posted.starts_at, where, "startsAt")
        ends_at = self._times.read(posted.ends_at, where, "endsAt")
        return intake.span(starts_at, ends_at, now, resolve_timeout)

    def _wording(self, entry: Entry | None, posted: intake.Posted, raw: bytes, where: int) -> _Wording:
        url = posted.generator_url or ""
        if url:
            intake.check_url(url, where)
        if entry is None:
            labels = intake.read_labels(raw, where)
        else:
            labels, raw = entry.alert.labels, b""
        return _Wording(labels, intake.read_annotations(posted.annotations, where), url, raw, posted.annotations)

    def _apply(self, read: Iterable[_Read], now: float) -> Taken:
        taken = Taken()
        touched: set[Entry] = set()
        firing = resolved = 0
        for entry, span, wording, posted in read:
            starts_at, ends_at, timeout, ended = span
            if ended:
                resolved += 1
            else:
                firing += 1
            if entry is None or wording is not None or ends_at < starts_at or (touched and entry in touched):
                # Without words of its own it was known by them, at least before an earlier alert of the request.
                words = self._wording(entry, posted, b"", 0) if wording is None and posted is not None else wording
                if words is not None and (taken_at := self._take_slowly(entry, span, words, now, taken)):
                    touched.add(taken_at)
                continue
            old = entry.alert
            if starts_at != old.starts_at or ends_at < old.ends_at:
                self._replace(entry, _heard(old, span, now), now, taken)
                continue
            # The road nearly every alert takes: the same occurrence, which ends later. It replaces what is stored
            # (see `model.merge`: none of its times lies inside).
            entry.alert = Alert(
                old.labels, old.annotations, starts_at, ends_at, now, old.fingerprint, old.generator_url, timeout
            )
            if (old.ends_at <= now) is not ended:
                entry.received_at = now
                taken.news.append(entry)
        taken.firing, taken.resolved = firing, resolved
        return taken

    def _take_slowly(
        self, entry: Entry | None, span: intake.Span, wording: _Wording, now: float, taken: Taken
    ) -> Entry | None:
        """Take one alert whose words are new, and return where it is kept; None if it is refused."""
        if problem := intake.problem(span, wording.labels, wording.annotations):
            taken.problems.append(problem)
            return None
        name = entry.alert.fingerprint if entry is not None else fingerprint(wording.labels)
        entry = entry or self.entries.get(name)
        if entry is not None:
            self._replace(entry, _reworded(entry.alert, span, wording, now), now, taken)
        elif alert := self._new(name, span, wording, now, taken):
            entry = self._add(alert, now)
            taken.news.append(entry)
        if entry is not None:
            self._learn(entry, wording)
        return entry

    def _new(self, name: str, span: intake.Span, wording: _Wording, now: float, taken: Taken) -> Alert | None:
        alertname = wording.labels.get("alertname", "")
        others = self._named.get(alertname, ())
        if self._limit and sum(not entry.alert.resolved(now) for entry in others) >= self._limit:
            taken.limited[alertname] = taken.limited.get(alertname, 0) + 1
            return None
        labels = self._shared(wording.labels)
        annotations = self._shared(wording.annotations)
        url = self._words.setdefault(wording.generator_url, wording.generator_url)
        return Alert(labels, annotations, span.starts_at, span.ends_at, now, name, url, span.timeout)

    def _replace(self, entry: Entry, posted: Alert, now: float, taken: Taken) -> None:
        old = entry.alert
        new = entry.alert = merge(old, posted, now)
        if old.resolved(now) is not new.resolved(now):
            entry.received_at = now
            taken.news.append(entry)
        elif new.starts_at != old.starts_at:
            taken.news.append(entry)
        elif new.annotations != old.annotations or new.generator_url != old.generator_url:
            taken.reworded.append(entry)

    def _learn(self, entry: Entry, wording: _Wording) -> None:
        """Find the alert by these bytes from now on."""
        if wording.posted != entry.posted:
            entry.reword(wording.posted)
        if not wording.raw or wording.raw in entry.raw:
            return
        if len(entry.raw) >= FORMS:
            del self._known[entry.raw[0]]
        entry.raw = (*entry.raw[1 - FORMS :], wording.raw)
        self._known[wording.raw] = entry

    def _shared(self, pairs: dict[str, str]) -> dict[str, str]:
        # Most values stand in many alerts; one string of each is enough. What is too much is forgotten, not kept.
        if len(self._words) >= _WORDS:
            self._words.clear()
        share = self._words.setdefault
        return {name: share(value, value) for name, value in pairs.items()}

    # --- what is known ------------------------------------------------------------------------------------------

    def restore(self, alert: Alert, received_at: float) -> Entry:
        """Take an alert as the database has it, unless what is known here is as new or newer."""
        entry = self.entries.get(alert.fingerprint)
        if entry is None:
            entry = self._add(alert, received_at)
        elif alert.updated_at > entry.alert.updated_at:
            if alert.annotations != entry.alert.annotations:
                entry.reword(_NEVER_POSTED)
            entry.alert, entry.received_at = alert, received_at
        else:
            return entry
        entry.kept_ends_at = alert.ends_at
        return entry

    def _add(self, alert: Alert, received_at: float) -> Entry:
        entry = Entry(alert, received_at=received_at, routes=self._match(alert))
        self.entries[alert.fingerprint] = entry
        self.version += 1
        self._ordered.append(entry)
        self._in_order = False
        if self._limit:
            self._named.setdefault(alert.labels.get("alertname", ""), set()).add(entry)
        return entry

    def _match(self, alert: Alert) -> tuple[Route, ...]:
        found = tuple(match(self._root, alert.labels))
        return self._ways.setdefault(tuple(route.node for route in found), found)

    def forget(self, entry: Entry) -> None:
        """Drop an alert with all that it was found by."""
        self.entries.pop(entry.alert.fingerprint, None)
        self.version += 1
        for raw in entry.raw:
            self._known.pop(raw, None)
        entry.raw = ()
        named = entry.alert.labels.get("alertname", "")
        if (others := self._named.get(named)) is not None:
            others.discard(entry)
            if not others:
                del self._named[named]
        self._ordered = []

    def firing(self, now: float) -> Iterator[Entry]:
        """Yield the alerts that fire."""
        return (entry for entry in self.entries.values() if entry.alert.ends_at > now)

    def ordered(self) -> list[Entry]:
        """Return all alerts, sorted by fingerprint; a list to look at only."""
        if len(self._ordered) != len(self.entries):
            self._ordered, self._in_order = list(self.entries.values()), False
        if not self._in_order:
            self._ordered.sort(key=_fingerprint)  # mostly sorted already, which it makes use of
            self._in_order = True
        return self._ordered

    def reroute(self, root: Route) -> None:
        """Match all alerts with another route tree."""
        self._root = root
        self._ways.clear()
        for entry in self.entries.values():
            entry.routes = self._match(entry.alert)


def _fingerprint(entry: Entry) -> str:
    return entry.alert.fingerprint


def _heard(known: Alert, span: intake.Span, now: float) -> Alert:
    return Alert(
        known.labels,
        known.annotations,
        span.starts_at,
        span.ends_at,
        now,
        known.fingerprint,
        known.generator_url,
        span.timeout,
    )


def _reworded(known: Alert, span: intake.Span, wording: _Wording, now: float) -> Alert:
    heard = _heard(known, span, now)
    if wording.annotations == known.annotations and wording.generator_url == known.generator_url:
        return heard  # with the strings that are shared
    return msgspec.structs.replace(heard, annotations=wording.annotations, generator_url=wording.generator_url)
