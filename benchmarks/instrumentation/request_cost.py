"""CPU that an instrumentation adds to a request, in process: each variant in a process of its own, taking turns.

A round of a variant answers some requests with the bare application and some with the instrumented one, and waits
until all spans and lines have left; the time is that of the process, so threads that export count. There is no server
and no network but the loopback to the collector. Every second request carries a traceparent, its own one, sampled as
the variant samples.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import gc
import json
import pstats
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import sink
import variants

_TEMPLATES = 1_000
_WARM_UP = 300
_MARK = "measured: "
"""Begins a worker's answers; whatever else it says is for a person."""


class WorkerError(Exception):
    """A variant's process ended; with the last thing it said."""


@dataclass(slots=True)
class Cost:
    """What one variant took, in microseconds of CPU per request, round by round."""

    bare: list[float] = field(default_factory=list)
    instrumented: list[float] = field(default_factory=list)
    requests: int = 0
    spans: int = 0
    """Spans that the collector has received."""
    failure: str = ""
    """Why the variant could not be measured."""

    def add(self, requests: int, bare: float, instrumented: float, spans: int) -> None:
        """Add one round."""
        self.bare.append(bare)
        self.instrumented.append(instrumented)
        self.requests += requests
        self.spans += spans

    @property
    def added(self) -> float:
        """The best round over the best round of the bare application: what the code costs when nothing disturbs."""
        return min(self.instrumented) - min(self.bare)

    @property
    def median(self) -> float:
        """The median of what a round cost more than the bare one beside it."""
        return statistics.median(i - b for i, b in zip(self.instrumented, self.bare, strict=True))


def scopes(sampled: float) -> list[dict[str, Any]]:
    """Return requests: every second one with a traceparent of its own, which says sampled for this share of them."""
    dice = random.Random(7)  # noqa: S311 - the same ids in every process
    found = []
    for index in range(_TEMPLATES):
        headers = [
            (b"host", b"localhost:8000"),
            (b"user-agent", b"bench"),
            (b"accept", b"*/*"),
            (b"accept-encoding", b"gzip"),
        ]
        if index % 2:
            ids = dice.getrandbits(128), dice.getrandbits(64), dice.random() < sampled
            headers.append((b"traceparent", b"00-%032x-%016x-%02x" % ids))
        found.append(
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": "1.1",
                "method": "GET",
                "scheme": "http",
                "path": "/items/42",
                "raw_path": b"/items/42",
                "query_string": b"",
                "root_path": "",
                "headers": headers,
                "client": ("127.0.0.1", 50000),
                "server": ("127.0.0.1", 8000),
            }
        )
    return found


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: dict[str, Any]) -> None:
    """Take a message of the answer as a server does, and do nothing with it."""


async def drive(app: variants.App, scopes: list[dict[str, Any]], requests: int) -> None:
    """Answer this many requests, one after the other."""
    while requests > 0:
        for scope in islice(scopes, requests):
            await app(dict(scope), receive, send)
        requests -= len(scopes)


def worker(name: str, url: str) -> None:
    """Measure one variant: a number of requests on a line of stdin, the seconds of a request on a line of stdout."""
    variant = variants.VARIANTS[name]
    bare = variants.application(telemetry=not variant.provider)
    app, flush = variant.make(url)
    templates = scopes(variant.sampled)
    with asyncio.Runner() as runner:

        def measure(app: variants.App, flush: variants.Flush, requests: int) -> float:
            began = time.process_time()
            runner.run(drive(app, templates, requests))
            flush()
            return (time.process_time() - began) / requests * 1e6

        def both(requests: int) -> tuple[float, float]:
            return measure(bare, variants.nothing, requests), measure(app, flush, requests)

        both(_WARM_UP)
        gc.collect()
        gc.freeze()
        print(f"{_MARK}true", flush=True)
        for line in sys.stdin:
            print(_MARK + json.dumps(both(int(line))), flush=True)


def measure(names: Iterable[str], rounds: int, requests: int) -> dict[str, Cost]:
    """Return the cost of each variant, measured in turns so that a busy machine slows all of them."""
    costs = {name: Cost() for name in names}
    with sink.running() as url, contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(_started(name, url)) for name in costs}
        for name in list(workers):
            try:
                _answer(workers[name])
            except WorkerError as error:
                costs[name].failure = str(error)
                del workers[name]
        sink.received(url)
        for _ in range(rounds):
            for name, process in workers.items():
                assert process.stdin is not None
                print(requests, file=process.stdin, flush=True)
                bare, instrumented = _answer(process)
                costs[name].add(requests, bare, instrumented, sink.received(url))
    return costs


@contextlib.contextmanager
def _started(name: str, url: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, name, url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()  # the worker ends at the end of its input
        process.wait(60)


def _answer(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    said = "nothing said"
    for line in process.stdout:
        if line.startswith(_MARK):
            return json.loads(line.removeprefix(_MARK))
        said = line.strip() or said
    raise WorkerError(said)


def profile(name: str, requests: int = 20_000) -> None:
    """Print where the time of one variant goes, the bare application's included."""
    with sink.running() as url, asyncio.Runner() as runner:
        app, flush = variants.VARIANTS[name].make(url)
        templates = scopes(variants.VARIANTS[name].sampled)
        runner.run(drive(app, templates, _WARM_UP))
        profiler = cProfile.Profile()
        profiler.enable()
        for _ in range(0, requests, _TEMPLATES):
            runner.run(drive(app, templates, _TEMPLATES))
            flush()
        profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    worker(*sys.argv[1:])
