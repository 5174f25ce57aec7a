"""Which alerts are heartbeats, and when they were last received: read from the book, once a second.

Nothing is done when an alert comes in, so that re-posts cost nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

from tocsin_alerting.alerts import Entry
from tocsin_alerting.matchers import Matcher, match_all
from tocsin_alerting.model import Alert

ALERT: Final = "HeartbeatMissing"
"""The name of the alert about a heartbeat that does not come."""


class Book(Protocol):
    """The alerts known; the newest stand last."""

    @property
    def entries(self) -> dict[str, Entry]:
        """By fingerprint."""


class Listening:
    """Knows which alerts are beats, looking at each alert once.

    Args:
        heartbeats: names, and what the alerts that are beats match.
    """

    def __init__(self, heartbeats: Iterable[tuple[str, Sequence[Matcher]]] = ()) -> None:
        self._matchers = list(heartbeats)
        self._watched: dict[str, tuple[str, ...]] = {}
        self._latest: Entry | None = None

    def beats(self, book: Book) -> Iterator[tuple[str, float]]:
        """Yield names of heartbeats and when an alert that is one of their beats was last received."""
        entries = book.entries
        self._discover(entries)
        for fingerprint in [name for name in self._watched if name not in entries]:
            del self._watched[fingerprint]
        for fingerprint, names in self._watched.items():
            alert = entries[fingerprint].alert
            if _fired(alert):
                for name in names:
                    yield name, alert.updated_at

    def _discover(self, entries: dict[str, Entry]) -> None:
        latest = None
        # New alerts stand at the end of the book: go back to the last one seen. If that has been forgotten, all are
        # looked at again.
        for fingerprint, entry in reversed(entries.items()):
            latest = latest or entry
            if entry is self._latest:
                break
            if names := self._beats_of(entry.alert):
                self._watched[fingerprint] = names
        self._latest = latest

    def _beats_of(self, alert: Alert) -> tuple[str, ...]:
        # Our own alarm is no sign of life, however widely the matchers are cast.
        if alert.labels.get("alertname") == ALERT:
            return ()
        return tuple(name for name, matchers in self._matchers if match_all(matchers, alert.labels))


def _fired(alert: Alert) -> bool:
    # Prometheus repeats for a while what has ended, and a resolved Watchdog is none.
    return alert.ends_at > alert.updated_at
