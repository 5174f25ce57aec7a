"""A registry, a log capture and a real uvicorn for every test that asks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
import uvicorn
from prometheus_client import CollectorRegistry

from tocsin import lifecycle
from tocsin.integrations.servers import restore_access_log
from tocsin.testing import Capture, fresh_registry, reset_logs
from tocsin.tracing.testing import reset_tracing

Serve = Callable[..., str]


@pytest.fixture
def registry() -> CollectorRegistry:
    return fresh_registry()


@pytest.fixture
def lines() -> Capture:
    return Capture()


@pytest.fixture(autouse=True)
def untouched_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logs are configured for the process: every test begins and ends without."""
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    reset_logs()
    yield
    reset_tracing()
    reset_logs()
    lifecycle.forget()
    restore_access_log()
    structlog.contextvars.clear_contextvars()
    for name in ("uvicorn", "uvicorn.access", "uvicorn.error", "asyncio"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve an application on a free loopback port; gives its base URL."""
    with contextlib.ExitStack() as stack:

        def start(app: Any, *, http: str = "h11", **options: Any) -> str:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            server = _Server(uvicorn.Config(app, http=http, **options))
            thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
            thread.start()

            def stop() -> None:
                server.should_exit = True
                thread.join(20)
                assert not thread.is_alive()

            stack.callback(stop)
            assert server.ready.wait(20)
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

        yield start
