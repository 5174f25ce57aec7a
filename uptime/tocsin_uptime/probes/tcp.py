"""The TCP probe: resolve, connect, hang up."""

from __future__ import annotations

from tocsin_uptime.check import Check
from tocsin_uptime.probes.connect import Stopwatch, attempt, connect
from tocsin_uptime.result import Observation


async def probe(check: Check) -> Observation:
    """Connect once and close; see `probes.Probe`."""
    stopwatch = Stopwatch()

    async def once() -> None:
        (await connect(check, stopwatch)).close()

    failure = await attempt(check, stopwatch, once())
    duration = stopwatch.stop()
    return Observation(duration=duration, phases=stopwatch.phases, failure=failure)
