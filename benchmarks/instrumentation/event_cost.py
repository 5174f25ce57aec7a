"""Time of one log event in a request, with the ids of its trace: tocsin beside structlog's usual chain with orjson."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import request_cost
import structlog
import structlog_peers
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

import tocsin

_EVENTS = 3_000
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass(frozen=True, slots=True)
class EventCost:
    """Microseconds of CPU for an event, written included; the best of all rounds."""

    tocsin: float
    structlog: float

    @property
    def ratio(self) -> float:
        return self.tocsin / self.structlog


def _usual_chain() -> Any:
    return structlog.wrap_logger(
        structlog.BytesLogger(Path(os.devnull).open("wb")),
        processors=structlog_peers.orjson_processors(),
        wrapper_class=structlog.make_filtering_bound_logger(20),
        cache_logger_on_first_use=True,
    )


def _application(log: Any, flush: Callable[[], object], times: list[float]) -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.get("/items/{item}")
    async def item(item: int) -> None:
        began = time.process_time()
        for _ in range(_EVENTS):
            log.info("item read", item=item, user="u")
        flush()
        times.append((time.process_time() - began) / _EVENTS * 1e6)

    return app


def _with_ids(app: FastAPI) -> Any:
    async def layer(scope: Any, receive: Any, send: Any) -> None:
        with structlog.contextvars.bound_contextvars(trace_id=TRACE_ID, span_id=SPAN_ID):
            await app(scope, receive, send)

    return layer


def measure(rounds: int = 15) -> EventCost:
    """Return what an event costs."""
    ours: list[float] = []
    theirs: list[float] = []
    instrumented = tocsin.instrument(
        _application(tocsin.get_logger(), tocsin.force_flush, ours),
        service_name="shop",
        registry=CollectorRegistry(),
        log_file=os.devnull,
    )
    plain = _with_ids(_application(_usual_chain(), lambda: None, theirs))
    scopes = request_cost.scopes(1.0)[1:2]  # one with a traceparent

    async def rounds_of_both() -> None:
        for _ in range(rounds):
            await request_cost.drive(instrumented, scopes, 1)
            await request_cost.drive(plain, scopes, 1)

    asyncio.run(rounds_of_both())
    return EventCost(min(ours), min(theirs))
