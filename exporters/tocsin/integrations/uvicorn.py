"""uvicorn's own logs: its access line is replaced by ours, and its other lines take our schema.

Works on the standard library's loggers alone; uvicorn is not imported. uvicorn configures its loggers after a script
called `instrument`, so this is done again when the application starts.
"""

from __future__ import annotations

import logging

from tocsin.logs import StdlibHandler

_ACCESS = "uvicorn.access"
_SERVER = "uvicorn"


def _drop(_record: logging.LogRecord) -> bool:
    return False


def quiet_access_log() -> None:
    """Silence `uvicorn.access`: there is exactly one access line for a request, and it is ours."""
    access = logging.getLogger(_ACCESS)
    access.addFilter(_drop)  # outlives uvicorn's dictConfig, and does nothing if added twice
    access.disabled = True  # cheaper: no record is made; undone by dictConfig


def adopt_server_log() -> None:
    """Give uvicorn's server log our schema, if uvicorn's own handler is all it has."""
    server = logging.getLogger(_SERVER)
    stock = [handler for handler in server.handlers if type(handler.formatter).__module__ == "uvicorn.logging"]
    if stock and len(stock) == len(server.handlers):
        server.handlers[:] = [StdlibHandler()]


def restore_access_log() -> None:
    """Let `uvicorn.access` write again."""
    access = logging.getLogger(_ACCESS)
    access.removeFilter(_drop)
    access.disabled = False
