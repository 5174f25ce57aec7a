"""Growth of memory over many requests to paths that are all different: half match a route, half match none."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import request_cost
import sink
import variants

_PAGE = os.sysconf("SC_PAGE_SIZE")
_WARM_UP = 20_000
_PORTIONS = 5
TRACED = 20_000
"""Requests counted by tracemalloc, which slows them several times."""


@dataclass(frozen=True, slots=True)
class Growth:
    """What stayed after all requests: KiB of resident memory, blocks and KiB of Python objects."""

    requests: int
    resident_kib: float
    blocks: int
    traced_kib: float


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


async def _unique(app: Any, first: int, requests: int) -> None:
    template = request_cost.scopes(1.0)[1]
    for number in range(first, first + requests):
        path = f"/items/{number}" if number % 2 else f"/nowhere/{number}"
        scope = {**template, "path": path, "raw_path": path.encode()}
        await app(scope, request_cost.receive, request_cost.send)


def worker(name: str, url: str, requests: str) -> None:
    """Print the growth of one variant as JSON; `bare` is one too."""
    bare: variants.Made = (variants.application(), variants.nothing)
    app, flush = bare if name == variants.BARE else variants.VARIANTS[name].make(url)
    count = int(requests)
    with asyncio.Runner() as runner:

        def run(first: int, requests: int) -> None:
            # In portions: a server gives the exporter time, a loop that never pauses would only fill its queue.
            for start in range(first, first + requests, 2_000):
                runner.run(_unique(app, start, 2_000))
                flush()
            gc.collect()

        run(0, _WARM_UP)
        blocks = sys.getallocatedblocks()
        # Resident memory goes up and down by a MiB with what the threads have queued: a trend shows in the lowest
        # of several looks, early and late.
        looks = [_resident()]
        for portion in range(_PORTIONS):
            run(_WARM_UP + portion * count // _PORTIONS, count // _PORTIONS)
            looks.append(_resident())
        half = len(looks) // 2
        resident, blocks = min(looks[half:]) - min(looks[:half]), sys.getallocatedblocks() - blocks
        tracemalloc.start()
        run(_WARM_UP + count, 2_000)
        before = tracemalloc.get_traced_memory()[0]
        run(_WARM_UP + count + 2_000, TRACED)
        traced = tracemalloc.get_traced_memory()[0] - before
    print(json.dumps([count, resident / 1024, blocks, traced / 1024]))


def measure(names: list[str], requests: int = 200_000) -> dict[str, Growth]:
    """Return how much each variant's process grew, and the bare application's."""
    found = {}
    with sink.running() as url:
        for name in [variants.BARE, *names]:
            command = [sys.executable, __file__, name, url, str(requests)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=600, check=True)
            found[name] = Growth(*json.loads(done.stdout))
    return found


if __name__ == "__main__":
    worker(*sys.argv[1:])
