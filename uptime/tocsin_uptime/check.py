"""One check as the prober runs it: parsed, resolved against the defaults, ready to send. See `config` for the file."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tocsin_uptime.conditions import Condition
from tocsin_uptime.state import Confirm

Kind = Literal["http", "tcp"]


@dataclass(frozen=True, slots=True)
class Target:
    """What is probed.

    Attributes:
        shown: the target as pages, logs and alerts show it: without query and secrets.
        host: name or IP address, in the ASCII form that DNS and certificates use.
        request: the bytes of the HTTP request; empty for TCP.
        tls: context to verify the server with, or None for no TLS. Made once per TLS configuration: loading the
            certificates of the system takes 14 ms.
        server_name: the name the certificate must have.
        secrets: words of headers, query and body that an excerpt must not show.
    """

    shown: str
    host: str
    port: int
    method: str = "GET"
    request: bytes = field(default=b"", repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False, compare=False)
    server_name: str = ""
    secrets: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Check:
    """One endpoint. Intervals are seconds.

    Attributes:
        service: the service it belongs to, a label of its alerts and metrics.
        conditions: all must hold, or the probe failed.
        degraded: all must hold, or the target is up but not well.
        labels: the check's own labels, added to its alerts.
    """

    name: str
    service: str
    kind: Kind
    target: Target
    group: str = ""
    interval: float = 30.0
    timeout: float = 5.0
    confirm: Confirm = field(default_factory=Confirm)
    conditions: tuple[Condition, ...] = ()
    degraded: tuple[Condition, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    severity: str = "page"
    runbook: str = ""
