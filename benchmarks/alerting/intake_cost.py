"""Taking alerts in and giving them out: CPU of posts and re-posts, seconds of answers, memory.

No group is looked at meanwhile: `group_wait` is an hour, and the alerts began when they were posted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import alerts
import client
import servers
from servers import Peer, Server

CONFIG = """
route:
  receiver: default
  group_by: [alertname, cluster]
  group_wait: 1h
  group_interval: 1h
  repeat_interval: 4h
  routes:
  - {matchers: ['severity="page"'], receiver: pager, continue: true}
  - {matchers: ['team=~"team-1|team-2|team-3"'], receiver: shop}
  - {matchers: ['team="team-4"', 'severity!="page"'], receiver: blog}
  - {matchers: ['job=~"node-[0-3]"'], receiver: nodes}
receivers:
- {name: default, webhook_configs: [{url: "http://127.0.0.1:1/"}]}
- {name: pager, webhook_configs: [{url: "http://127.0.0.1:1/"}]}
- {name: shop, webhook_configs: [{url: "http://127.0.0.1:1/"}]}
- {name: blog, webhook_configs: [{url: "http://127.0.0.1:1/"}]}
- {name: nodes, webhook_configs: [{url: "http://127.0.0.1:1/"}]}
inhibit_rules:
- {source_matchers: ['alertname="ClusterDown"'], target_matchers: ['severity="warning"'], equal: [cluster]}
"""
FILTER = "filter=alertname%3DAlert007"
PATHS = {
    "all": "/api/v2/alerts",
    "filtered": f"/api/v2/alerts?{FILTER}",
    "filtered, regular expression": "/api/v2/alerts?filter=instance%3D~%22host-001.*%22",
    "groups": "/api/v2/alerts/groups",
}


@dataclass(slots=True)
class Cost:
    """What a server needed for one number of alerts; CPU and answers are the best of several."""

    idle: float
    first: float
    again: float
    rss: float
    peak: float = 0.0
    answers: dict[str, float] = field(default_factory=dict)
    size: int = 0


def measure(name: str, peer: Peer, count: int, *, rounds: int, asks: int) -> Cost:
    """Measure one server with `count` alerts.

    Args:
        rounds: re-posts of all alerts.
        asks: times that each path is asked for; 0 asks for none.
    """
    with servers.running(name, peer, CONFIG) as server:
        time.sleep(0.5)
        idle = server.rss()
        now = time.time()
        bodies = [alerts.requests(count, starts_at=now, ends_at=now + 3600 + 60 * turn) for turn in range(rounds + 1)]
        with client.Poster(server.port) as poster:
            first, *again = [_cpu(server, poster, requests) for requests in bodies]
        cost = Cost(idle, first, min(again), server.rss())
        for what, path in PATHS.items() if asks else ():
            answers = [client.get(server.port, path) for _ in range(asks)]
            cost.answers[what] = min(seconds for seconds, _ in answers)
            if what == "all":
                cost.size = answers[0][1]
        cost.peak = server.peak()
        return cost


def keep_up(name: str, peer: Peer, count: int, *, rounds: int = 6, every: float = 5.0) -> float:
    """Return the CPU seconds per re-post of a server that is posted `count` alerts again and again.

    Twelve times as fast as Prometheus: all alerts every five seconds, with an end four times that far off. What a
    server does beside its answers so that it knows of its alerts after a crash is in it.
    """
    with servers.running(name, peer, CONFIG) as server, client.Poster(server.port) as poster:
        begun = time.time()
        bodies = [
            alerts.requests(count, starts_at=begun, ends_at=begun + every * (turn + 4)) for turn in range(rounds + 2)
        ]
        begun = time.time()
        poster.post(bodies[0])
        server.settled_cpu()
        before = server.cpu()
        for turn, requests in enumerate(bodies[1:-1], start=1):
            time.sleep(max(0.0, begun + turn * every - time.time()))
            poster.post(requests)
        time.sleep(every)
        return (server.settled_cpu() - before) / rounds


def _cpu(server: Server, poster: client.Poster, requests: list[bytes]) -> float:
    before = server.settled_cpu()
    poster.post(requests)
    return server.settled_cpu() - before
