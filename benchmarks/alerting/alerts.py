"""Alerts as Prometheus posts them, made before anything is measured: whole HTTP requests of 64 alerts each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime

BATCH = 64
"""Alerts in one request of Prometheus, at most."""
NAMES = 100
"""Different alert names; each is one group."""


def text(moment: float) -> str:
    """Return a time as Prometheus writes it."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def alert(number: int, *, starts_at: float, ends_at: float, names: int = NAMES, **labels: str) -> dict[str, object]:
    """Return alert number `number`: eight labels and three annotations, as in the rules people write."""
    name = f"Alert{number % names:03}"
    instance = f"host-{number:05}.example:9100"
    every = {
        "alertname": name,
        "cluster": f"eu-{number % 3}",
        "instance": instance,
        "job": f"node-{number % 7}",
        "namespace": f"team-{number % 11}",
        "pod": f"shop-{number:05}",
        "severity": "page" if number % 10 == 0 else "warning",
        "team": f"team-{number % 11}",
    }
    return {
        "annotations": {
            "description": f"{instance} has been in this state for more than five minutes; see the runbook.",
            "runbook_url": f"https://runbooks.example/{name}",
            "summary": f"{name} on {instance}",
        },
        "endsAt": text(ends_at),
        "startsAt": text(starts_at),
        "generatorURL": f"http://prometheus.example:9090/graph?g0.expr=up%7Bjob%3D%22node%22%7D+%3D%3D+{number % names}"
        "&g0.tab=1",
        "labels": dict(sorted((every | labels).items())),
    }


def request(body: bytes) -> bytes:
    """Return a POST of alerts with its head."""
    head = (
        "POST /api/v2/alerts HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Prometheus/3.0.0\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def requests(count: int, *, starts_at: float, ends_at: float | None = None) -> list[bytes]:
    """Return the requests in which Prometheus posts `count` alerts; each round has another end."""
    ends_at = time.time() + 3600.0 if ends_at is None else ends_at
    every = [alert(number, starts_at=starts_at, ends_at=ends_at) for number in range(count)]
    return [request(_json(batch)) for batch in batches(every)]


def batches(every: list[dict[str, object]]) -> Iterator[list[dict[str, object]]]:
    """Yield alerts in the portions they are posted in."""
    for start in range(0, len(every), BATCH):
        yield every[start : start + BATCH]


def post(every: list[dict[str, object]]) -> list[bytes]:
    """Return the requests for these alerts."""
    return [request(_json(batch)) for batch in batches(every)]


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
