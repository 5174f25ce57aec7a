"""What instrumentation adds to a request: CPU time per request above the bare application, in this process.

    python benchmarks/instrumentation/bench.py

One FastAPI route with a path parameter, an async handler, no server, no network. Variants take turns, so that a busy
machine slows all of them; the best round and the median are shown. Compare ratios, not microseconds: machines differ.
Log lines go to a file that is /dev/null.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import orjson
import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator import Instrumentator

import tocsin

TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def application() -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.get("/items/{item}")
    async def item(item: int) -> dict[str, int]:
        return {"item": item}

    return app


def bare() -> Any:
    return application()


def with_tocsin(**options: Any) -> Callable[[], Any]:
    def make() -> Any:
        return tocsin.instrument(
            application(), registry=CollectorRegistry(), log_file=os.devnull if options["logs"] else None, **options
        )

    return make


def instrumentator() -> Any:
    app = application()
    Instrumentator(registry=CollectorRegistry()).instrument(app)
    return app


def structlog_line() -> Any:
    """A hand-written ASGI access line with structlog, lean: contextvars, orjson, one os.write."""
    app = application()
    descriptor = os.open(os.devnull, os.O_WRONLY | os.O_APPEND)

    class Output:
        def info(self, line: bytes) -> None:
            os.write(descriptor, line + b"\n")

    log = structlog.wrap_logger(
        Output(),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
    ).bind()

    async def layer(scope: Any, receive: Any, send: Any) -> None:
        structlog.contextvars.clear_contextvars()
        began = time.perf_counter()
        status = 500

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, watched)
        finally:
            log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                duration=time.perf_counter() - began,
                client=scope["client"][0],
            )

    return layer


VARIANTS: dict[str, Callable[[], Any]] = {
    "bare": bare,
    "tocsin metrics": with_tocsin(metrics=True, logs=False, traces=False),
    "tocsin logs": with_tocsin(metrics=False, logs=True, traces=False),
    "tocsin all": with_tocsin(metrics=True, logs=True, traces=True),
    "instrumentator (metrics)": instrumentator,
    "structlog ASGI line (logs)": structlog_line,
}


async def drive(app: Any, requests: int) -> float:
    """Return CPU seconds per request."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        pass

    template = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/items/42",
        "raw_path": b"/items/42",
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"localhost:8000"),
            (b"user-agent", b"bench"),
            (b"accept", b"*/*"),
            (b"accept-encoding", b"gzip"),
            (b"traceparent", TRACEPARENT),
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }
    began = time.process_time()
    for _ in range(requests):
        await app(dict(template), receive, send)
    return (time.process_time() - began) / requests


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--requests", type=int, default=700, help="requests per round and variant")
    options = parser.parse_args()

    apps = {name: make() for name, make in VARIANTS.items()}
    times: dict[str, list[float]] = {name: [] for name in apps}
    for app in apps.values():
        asyncio.run(drive(app, 200))
    gc.collect()
    gc.freeze()
    for _ in range(options.rounds):
        for name, app in apps.items():
            times[name].append(asyncio.run(drive(app, options.requests)) * 1e6)

    # The best round of each: what the code costs when nothing else takes the processor or its caches away.
    added = {name: min(times[name]) - min(times["bare"]) for name in apps}
    print(
        f"bare: {min(times['bare']):.1f} us of CPU per request; Python {sys.version.split()[0]}, "
        f"best of {options.rounds} rounds of {options.requests} requests"
    )
    print(f"{'variant':<28}{'added us':>10}{'median':>9}{'/ instrumentator':>18}{'/ structlog line':>18}")
    for name in apps:
        if name != "bare":
            median = statistics.median(t - b for t, b in zip(times[name], times["bare"], strict=True))
            print(
                f"{name:<28}{added[name]:>10.1f}{median:>9.1f}"
                f"{added[name] / added['instrumentator (metrics)']:>18.2f}"
                f"{added[name] / added['structlog ASGI line (logs)']:>18.2f}"
            )


if __name__ == "__main__":
    main()
