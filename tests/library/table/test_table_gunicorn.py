"""The correctness table under Gunicorn with two workers: uvicorn's, its own for ASGI, and the one for WSGI."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

SERVED = [
    *((framework, "uvicorn_worker") for framework in ("fastapi", "starlette", "litestar", "bare")),
    ("fastapi", "gunicorn_asgi"),
    *((framework, "sync") for framework in ("flask", "django", "wsgi")),
]


def test_a_request_leaves_what_the_table_says(served: Any, row: Any) -> None:
    """Answer, count, duration, exceptions, open requests, one line and one span."""
    served.check(row)


def test_what_one_request_does_not_show(served: Any, promise: Callable[..., None], tmp_path: Path) -> None:
    """Streams, connections that end early, WebSockets, concurrent clients, and the sums over all."""
    promise(served, *([tmp_path] if "tmp_path" in inspect.signature(promise).parameters else []))
