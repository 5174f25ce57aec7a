"""From an alert to its notification: how long beyond group_wait, and what becomes of a storm."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import alerts
import client
import servers
import sink
from servers import Peer
from sink import Arrival, Sink

GROUP_WAIT = 1.0
CONFIG = """
route: {{receiver: sink, group_by: [g], group_wait: 1s, group_interval: 5m, repeat_interval: 4h}}
receivers: [{{name: sink, webhook_configs: [{{url: "{url}"}}]}}]
"""


@dataclass(frozen=True, slots=True)
class Lateness:
    """Seconds beyond group_wait, sorted, from the moment the alert was sent."""

    every: list[float]

    def quantile(self, q: float) -> float:
        """Return a quantile, as the smallest value that so many are not above."""
        return self.every[min(len(self.every) - 1, int(q * len(self.every)))]


def lateness(name: str, peer: Peer, groups: int) -> Lateness:
    """Post one alert of each of `groups` groups, a little apart, and see when each is told."""
    with sink.running() as receiver, servers.running(name, peer, CONFIG.format(url=receiver.url)) as server:
        sent: dict[str, float] = {}
        with client.Poster(server.port) as poster:
            poster.post(_alerts(0, 1, "warm"))
            _wait(receiver, bool)
            for number in range(groups):
                (request,) = _alerts(number, 1, f"g{number}")
                sent[f"g{number}"] = time.time()
                poster.post([request])
                time.sleep(0.031)
        arrivals = _wait(receiver, lambda arrivals: len(arrivals) >= groups)
        late = [arrival.at - sent[arrival.body["groupLabels"]["g"]] - GROUP_WAIT for arrival in arrivals]
        return Lateness(sorted(late))


@dataclass(frozen=True, slots=True)
class Storm:
    """Seconds beyond group_wait until the last notification came: from the first request, and from its own group's."""

    whole: float
    group: float


def storm(name: str, peer: Peer, count: int, groups: int) -> Storm:
    """Post `count` alerts of `groups` groups at once, those of a group together, as from one rule.

    Both results are infinite if not all alerts are told within twenty seconds.
    """
    with sink.running() as receiver, servers.running(name, peer, CONFIG.format(url=receiver.url)) as server:
        # An alert that is older than group_wait when it comes would be told at once: these begin later.
        now = time.time() + 60.0
        group = [f"g{number * groups // count}" for number in range(count)]
        every = [alerts.alert(number, starts_at=now, ends_at=now + 600, g=group[number]) for number in range(count)]
        requests = alerts.post(every)
        sent: dict[str, float] = {}
        told: set[str] = set()

        def all_told(arrivals: list[Arrival]) -> bool:
            for arrival in arrivals:
                told.update(alert["fingerprint"] for alert in arrival.body["alerts"])
            return len(told) >= count

        with client.Poster(server.port) as poster:
            begun = time.time()
            for number, request in enumerate(requests):
                for first in group[number * alerts.BATCH : (number + 1) * alerts.BATCH]:
                    sent.setdefault(first, time.time())
                poster.post([request])
            try:
                arrivals = _wait(receiver, all_told)
            except TimeoutError:
                return Storm(math.inf, math.inf)
        return Storm(
            max(arrival.at for arrival in arrivals) - begun - GROUP_WAIT,
            max(arrival.at - sent[arrival.body["groupLabels"]["g"]] for arrival in arrivals) - GROUP_WAIT,
        )


def _alerts(number: int, count: int, group: str) -> list[bytes]:
    now = time.time()
    return alerts.post([alerts.alert(number + n, starts_at=now, ends_at=now + 600, g=group) for n in range(count)])


def _wait(receiver: Sink, enough: Callable[[list[Arrival]], bool], *, seconds: float = 20.0) -> list[Arrival]:
    found: list[Arrival] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found += receiver.arrivals()
        if enough(found):
            return found
        time.sleep(0.05)
    raise TimeoutError(f"only {len(found)} notifications came within {seconds:g} s")
