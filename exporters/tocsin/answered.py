"""Exceptions that a framework answers itself: they never leave the application, and are told all the same.

Flask, Django and Litestar turn an exception of a view into an answer of 500 before anything outside can see it. Their
integrations note it beside the request (WSGI environ or ASGI scope), where the layer around the application finds it.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from tocsin.logs.pipeline import mark_told, told
from tocsin.request import CURRENT, SERVER_ERROR

_ERROR = "tocsin.error"
_DJANGO = "django.request"
_FLASK = "log_exception"
"""The function of Flask that logs an exception; its logger is the application's own, and has other records too."""


def note(carrier: MutableMapping[str, Any], error: BaseException) -> None:
    """Remember the exception that a framework is about to answer; `carrier` is the request's environ or scope."""
    carrier[_ERROR] = error
    current = CURRENT.get()
    if current is not None and current.pipeline is not None:
        mark_told(error)


def noted(carrier: MutableMapping[str, Any], status: int) -> BaseException | None:
    """Return the exception behind an answer; None where the answer is no server error, for then it was meant.

    It is taken out: its frames hold the carrier, and would keep it for the garbage collector to find.
    """
    error: BaseException | None = carrier.pop(_ERROR, None)
    return error if status >= SERVER_ERROR else None


def is_repetition(record: logging.LogRecord) -> bool:
    """Return whether this is a framework's own record of an exception that the access line tells, with its route."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None or not told(error):
        return False
    return record.name == _DJANGO or record.funcName == _FLASK
