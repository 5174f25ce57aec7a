"""What uvicorn and gunicorn log themselves: their access line is replaced by ours, their other lines take our schema.

Works on the standard library's loggers alone; neither server is imported. uvicorn configures its loggers after a script
called `instrument`, so this is done again when the application starts.
"""

from __future__ import annotations

import logging

from tocsin import lifecycle
from tocsin.logs.pipeline import told
from tocsin.logs.stdlib import StdlibHandler

_ACCESS = ("uvicorn.access", "gunicorn.access")
_ERRORS = ("uvicorn.error", "gunicorn.error")
_FAREWELL = "Finished server process"
_FAREWELL_SECONDS = 3.0


def _drop(_record: logging.LogRecord) -> bool:
    return False


def _flush_farewell(record: logging.LogRecord) -> None:
    """Flush at uvicorn's last line: it ends itself with the signal that it was stopped by, so `atexit` does not run."""
    if isinstance(record.msg, str) and record.msg.startswith(_FAREWELL):
        lifecycle.force_flush(_FAREWELL_SECONDS)


class _ServerHandler(StdlibHandler):
    """Our handler at a server's logger."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, and flush if it is the last one."""
        super().emit(record)
        _flush_farewell(record)


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for an exception that our access line has told, with its trace id."""
    _flush_farewell(record)  # whoever else handles it
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not told(error)


def quiet_access_log() -> None:
    """Silence what the server says of a request: there is one line for each, with its exception, and it is ours."""
    for name in _ERRORS:
        logging.getLogger(name).addFilter(_is_news)
    for name in _ACCESS:
        access = logging.getLogger(name)
        access.addFilter(_drop)  # outlives uvicorn's dictConfig, and does nothing if added twice
        access.disabled = True  # cheaper: no record is made; undone by dictConfig


def adopt_server_log() -> None:
    """Give the server's own log our schema, if the server's own handler for the terminal is all it has."""
    uvicorn = logging.getLogger("uvicorn")
    if uvicorn.handlers and all(type(h.formatter).__module__ == "uvicorn.logging" for h in uvicorn.handlers):
        uvicorn.handlers[:] = [_ServerHandler()]
    # gunicorn marks what it made. A file it was told to write (`--error-logfile`) stays as it is. In place: its
    # worker for uvicorn hands the same list on to uvicorn's logger.
    gunicorn = logging.getLogger("gunicorn.error")
    if gunicorn.handlers and all(
        type(h) is logging.StreamHandler and getattr(h, "_gunicorn", False) for h in gunicorn.handlers
    ):
        gunicorn.handlers[:] = [_ServerHandler()]


def restore_access_log() -> None:
    """Let the server write of requests again."""
    for name in _ERRORS:
        logging.getLogger(name).removeFilter(_is_news)
    for name in _ACCESS:
        access = logging.getLogger(name)
        access.removeFilter(_drop)
        access.disabled = False
