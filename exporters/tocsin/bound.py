"""What the application bound with structlog's context variables, read without the cost of structlog's own way.

`structlog.contextvars.get_contextvars` walks a copy of the whole context: more than a microsecond, on every request,
also where nobody ever bound anything. structlog is not imported: where it is not loaded, nothing is bound.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

_MODULE = "structlog.contextvars"
_PREFIX = len("structlog_")


class Found:
    """structlog's own list of its context variables, once it was seen; it only grows."""

    variables: Mapping[str, ContextVar[Any]] | None = None


def bound() -> dict[str, Any]:
    """Return the names and values bound in this context."""
    variables = Found.variables
    if variables is None:
        module = sys.modules.get(_MODULE)
        if module is None:
            return {}
        variables = getattr(module, "_CONTEXT_VARS", None)
        if not isinstance(variables, dict):  # a structlog that keeps them elsewhere
            values: dict[str, Any] = module.get_contextvars()
            return values
        Found.variables = variables
    if not variables:
        return {}
    found = {}
    for key, variable in tuple(variables.items()):
        value = variable.get(...)
        if value is not ...:  # structlog's mark of a variable that was unbound
            found[key[_PREFIX:]] = value
    return found


def restore(before: Mapping[str, Any]) -> None:
    """Make what is bound in this context what it was before."""
    if bound() != before:
        contextvars = sys.modules[_MODULE]
        contextvars.clear_contextvars()
        contextvars.bind_contextvars(**before)
