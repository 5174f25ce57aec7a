"""The correctness table under uvicorn, with both of its HTTP parsers. The table is in rows.toml."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

SERVED = [
    (framework, server) for framework in ("fastapi", "starlette", "litestar", "bare") for server in ("h11", "httptools")
]


def test_a_request_leaves_what_the_table_says(served: Any, row: Any) -> None:
    """Answer, count, duration, exceptions, open requests, one line and one span."""
    served.check(row)


def test_what_one_request_does_not_show(served: Any, promise: Callable[..., None], tmp_path: Path) -> None:
    """Streams, connections that end early, WebSockets, concurrent clients, and the sums over all."""
    promise(served, *([tmp_path] if "tmp_path" in inspect.signature(promise).parameters else []))
