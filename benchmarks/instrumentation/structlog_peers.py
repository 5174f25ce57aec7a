"""One access line per request with structlog, from a hand-written ASGI layer: the cheapest way there is to log one.

Without route, trace ids and redaction, which tocsin has in its line.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

import orjson
import structlog
from variants import App, Made, application, nothing


def documented(_: str) -> Made:
    return access_line(application(), documented_logger()), nothing


def lean(_: str) -> Made:
    return access_line(application(), _lean_logger(), request_id=False), nothing


def documented_logger() -> Any:
    """Return a logger configured as structlog's documentation does for production: JSON, each line printed at once."""
    output = Path(os.devnull).open("w")  # noqa: SIM115 - open as long as the process lives
    structlog.configure(
        cache_logger_on_first_use=True,
        wrapper_class=structlog.make_filtering_bound_logger(20),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(output),
    )
    return structlog.get_logger()


def orjson_processors() -> list[Any]:
    """Return structlog's usual chain with orjson at its end."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event)),
    ]


def _lean_logger() -> Any:
    """Return the fastest logger that structlog's parts make: orjson, one os.write, bound once."""
    descriptor = os.open(os.devnull, os.O_WRONLY | os.O_APPEND)

    class Output:
        def info(self, line: bytes) -> None:
            os.write(descriptor, line + b"\n")

    return structlog.wrap_logger(
        Output(), processors=orjson_processors(), wrapper_class=structlog.make_filtering_bound_logger(20)
    ).bind()


def access_line(app: App, log: Any, *, request_id: bool = True) -> App:
    """Return the application under a layer that logs a line per request; with an id of its own bound, or without."""

    async def layer(scope: Any, receive: Any, send: Any) -> None:
        structlog.contextvars.clear_contextvars()
        if request_id:
            structlog.contextvars.bind_contextvars(request_id=str(uuid.uuid4()))
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
