"""Alerts as JSON, joined from bytes: what clients posted is shown as they wrote it, what many share is made once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

import msgspec
import orjson

from tocsin_alerting.alerts import Entry
from tocsin_alerting.muting import HEARD, Verdict
from tocsin_alerting.query import AlertQuery
from tocsin_alerting.routing import Route
from tocsin_service.clock import rfc3339

AT_ONCE: Final = 2000
"""Alerts looked at before other tasks have their turn: a few milliseconds."""

_K = TypeVar("_K")
_T = TypeVar("_T")


class Listing:
    """Makes the answer to one request.

    Args:
        verdict: who mutes an alert now.
        now: the instant of the request; alerts that have ended by then are not shown.
        by_name: receivers are shown sorted by name, not in the order of the route tree.
    """

    def __init__(
        self, query: AlertQuery, verdict: Callable[[Entry, float], Verdict], now: float, *, by_name: bool = False
    ) -> None:
        self._query = query
        self._verdict = verdict
        self._now = now
        self._by_name = by_name
        self._texts: dict[float, str] = {}
        self._times: dict[tuple[float, float, float], bytes] = {}
        self._urls: dict[str, bytes] = {"": b',"labels":'}
        self._ways: dict[int, bytes] = {}
        self._states: dict[tuple[Verdict, tuple[str, ...]], bytes] = {}

    def alerts(self, entries: Sequence[Entry]) -> Iterator[bytes]:
        """Yield the pieces of a list of those alerts that are asked for, in the order of `entries`."""
        receivers = self._query.receivers
        opening = b"["
        for start in range(0, len(entries), AT_ONCE):
            chunk: Iterable[Entry] = entries[start : start + AT_ONCE]
            if not receivers.open:
                chunk = [entry for entry in chunk if receivers.takes_any(route.receiver for route in entry.routes)]
            piece = self.members(chunk)
            yield opening + piece if piece else b""
            opening = b"," if piece else opening
        yield b"[]" if opening == b"[" else b"]"

    def members(self, entries: Iterable[Entry], muted_by: tuple[str, ...] = ()) -> bytes:
        """Return those alerts that are asked for as JSON objects with commas between them.

        Args:
            muted_by: the time intervals that mute them all.
        """
        # The body of this loop runs for every alert of every answer: no calls where a look into a dict will do.
        parts: list[bytes | msgspec.Raw] = []
        now, verdict_of, shows = self._now, self._verdict, self._query.shows
        times, ways, states, urls = self._times, self._ways, self._states, self._urls
        heard = self._status(HEARD, muted_by) if shows(HEARD) else None
        for entry in entries:
            alert = entry.alert
            if alert.ends_at <= now:
                continue
            verdict = verdict_of(entry, now)
            if verdict is HEARD:
                status = heard
            elif shows(verdict):
                status = states.get((verdict, muted_by)) or self._status(verdict, muted_by)
            else:
                continue
            if status is None:
                continue
            key = (alert.starts_at, alert.ends_at, alert.updated_at)
            parts += (
                b',{"annotations":',
                entry.annotations_json,
                times.get(key) or self._between(key),
                alert.fingerprint.encode(),
                ways.get(id(entry.routes)) or self._receivers(entry.routes),
                status,
                urls.get(alert.generator_url) or self._url(alert.generator_url),
                entry.labels_json,
                b"}",
            )
        if parts:
            parts[0] = b'{"annotations":'
        return b"".join(parts)

    def _between(self, key: tuple[float, float, float]) -> bytes:
        starts, ends, updated = (_kept(self._texts, moment, rfc3339) for moment in key)
        text = f',"endsAt":"{ends}","startsAt":"{starts}","updatedAt":"{updated}","fingerprint":"'
        self._times[key] = made = text.encode()
        return made

    def _receivers(self, routes: tuple[Route, ...]) -> bytes:
        names = [route.receiver for route in routes]
        shown = orjson.dumps([{"name": name} for name in (sorted(names) if self._by_name else names)])
        # Alerts that go the same way share the tuple, and the book keeps it.
        self._ways[id(routes)] = made = b'","receivers":' + shown
        return made

    def _status(self, verdict: Verdict, muted_by: tuple[str, ...]) -> bytes:
        return _kept(self._states, (verdict, muted_by), _status)

    def _url(self, url: str) -> bytes:
        return _kept(self._urls, url, lambda url: b',"generatorURL":' + orjson.dumps(url) + b',"labels":')


def _kept(cache: dict[_K, _T], key: _K, make: Callable[[_K], _T]) -> _T:
    found = cache.get(key)
    if found is None:
        found = cache[key] = make(key)
    return found


def _status(key: tuple[Verdict, tuple[str, ...]]) -> bytes:
    verdict, muted_by = key
    status = {
        "state": "suppressed" if verdict or muted_by else "active",
        "silencedBy": verdict.silenced_by,
        "inhibitedBy": verdict.inhibited_by,
        "mutedBy": muted_by,
    }
    return b',"status":' + orjson.dumps(status)
