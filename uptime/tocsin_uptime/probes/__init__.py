"""The kinds of probes, one file each. A new kind is one module and one line here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from tocsin_uptime.check import Check
from tocsin_uptime.probes import http, tcp
from tocsin_uptime.result import Observation

Probe = Callable[[Check], Awaitable[Observation]]
"""Looks at a check's target once, within its timeout; raises nothing for a target that is broken."""

PROBES: Mapping[str, Probe] = {"http": http.probe, "tcp": tcp.probe}
"""Kind of a check -> how it is probed."""

__all__ = ["PROBES", "Probe"]
