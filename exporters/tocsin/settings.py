"""How one application is instrumented: arguments first, then the standard environment variables, then defaults."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

from tocsin.names import HTTP_SERVER_REQUEST_DURATION

_LABEL = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")
_TAKEN = ("le", "quantile", *HTTP_SERVER_REQUEST_DURATION.labels)

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
"""Log levels by name, numbered as the standard library numbers them."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Which request paths are none of the application's business, read from `exclude` and `metrics_path`."""

    metrics: str | None
    exact: frozenset[str]
    """Excluded paths, and the one that metrics are served under."""
    prefixes: tuple[str, ...]
    """Beginnings of excluded paths."""


def service_name(argument: str | None, environ: Mapping[str, str], fallback: str = "unknown_service") -> str:
    """Return the service's name.

    The argument, else `OTEL_SERVICE_NAME`, else `service.name` of `OTEL_RESOURCE_ATTRIBUTES`, else the fallback.
    """
    said = environ.get("OTEL_SERVICE_NAME", "").strip()
    return argument or said or resource_attribute("service.name", environ) or fallback


def service_version(argument: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the service's version: the argument, else `service.version` of `OTEL_RESOURCE_ATTRIBUTES`, or None."""
    return argument or resource_attribute("service.version", environ) or None


def resource_attribute(name: str, environ: Mapping[str, str]) -> str:
    """Return one of `OTEL_RESOURCE_ATTRIBUTES` (`name=value,name=value`, percent-encoded), or ""."""
    for part in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, _, value = part.partition("=")
        if key.strip() == name:
            return unquote(value.strip())
    return ""


def level_number(level: str) -> int:
    """Return the number of a level name.

    Raises:
        ValueError: the name is not one of debug, info, warning, error, critical.
    """
    number = LEVELS.get(level.lower())
    if number is None:
        raise ValueError(f"log level is {level!r}, expected one of {', '.join(LEVELS)}")
    return number


def paths(exclude: Iterable[str], metrics_path: str | None) -> Paths:
    """Return which paths to leave alone: exact ones, and with a trailing `*` all that begin like this.

    Raises:
        ValueError: a path does not begin with a slash.
    """
    if isinstance(exclude, str):
        raise ValueError(f'exclude is the text {exclude!r}, expected several paths: exclude=("{exclude}",)')
    listed = tuple(exclude)
    for path in (*listed, *([metrics_path] if metrics_path is not None else ())):
        if not path.startswith("/"):
            raise ValueError(f"path {path!r} in exclude or metrics_path must begin with '/'")
    return Paths(
        metrics=metrics_path,
        exact=frozenset(path for path in listed if not path.endswith("*"))
        | ({metrics_path} if metrics_path else set()),
        prefixes=tuple(path[:-1] for path in listed if path.endswith("*")),
    )


def buckets(bounds: Iterable[float] | None) -> tuple[float, ...] | None:
    """Return histogram bounds in seconds as a tuple without +Inf, or None for the default.

    Raises:
        ValueError: no bound is given, or they do not rise.
    """
    if bounds is None:
        return None
    found = tuple(float(bound) for bound in bounds if bound != float("inf"))
    if not found or not all(low < high for low, high in pairwise((float("-inf"), *found))):
        raise ValueError(f"buckets are {found}, expected one or more rising numbers of seconds")
    return found


def installed_version() -> str:
    """Return the version of the installed distribution, or `0` if it runs from a bare checkout."""
    try:
        return metadata.version("tocsin")
    except metadata.PackageNotFoundError:
        return "0"


def labels(added: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the labels to add to a request's metrics: name -> constant, or function of scope or environ.

    Raises:
        ValueError: a name Prometheus does not take, or one that is taken.
    """
    found = dict(added or {})
    for name, value in found.items():
        if not _LABEL.fullmatch(name) or name.startswith("__") or name in _TAKEN:
            raise ValueError(f"label {name!r} cannot be added: expected letters, digits and _, and not {_TAKEN}")
        if not isinstance(value, str) and not callable(value):
            raise ValueError(f"label {name!r} is {value!r}, expected a text or a function of the scope")
        if inspect.iscoroutinefunction(value):
            raise ValueError(f"label {name!r} is the coroutine function {value!r}, expected a plain function")
    return found
