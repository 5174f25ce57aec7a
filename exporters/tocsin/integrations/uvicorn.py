"""uvicorn's own logs: its access line is replaced by ours, and its other lines take our schema.

Works on the standard library's loggers alone; uvicorn is not imported. uvicorn configures its loggers after a script
called `instrument`, so this is done again when the application starts.
"""

from __future__ import annotations

import logging

from tocsin.logs.configure import StdlibHandler
from tocsin.logs.pipeline import told

_ACCESS = "uvicorn.access"
_ERRORS = "uvicorn.error"
_SERVER = "uvicorn"


def _drop(_record: logging.LogRecord) -> bool:
    return False


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for an exception that our access line has told, with its trace id."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not told(error)


def quiet_access_log() -> None:
    """Silence what uvicorn says of a request: there is one line for each, with its exception, and it is ours."""
    logging.getLogger(_ERRORS).addFilter(_is_news)
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
    """Let uvicorn write of requests again."""
    logging.getLogger(_ERRORS).removeFilter(_is_news)
    access = logging.getLogger(_ACCESS)
    access.removeFilter(_drop)
    access.disabled = False
