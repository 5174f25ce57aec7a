"""What is legal in a configuration and hardly meant: found before the night in which it matters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from tocsin_alerting.checks import keys, receivers, routes, rules, secrets, times
from tocsin_alerting.checks.finding import Finding, Severity, Subject
from tocsin_alerting.config import Config
from tocsin_service.settings import Document

CHECKS: Final[tuple[Callable[[Subject], Iterator[Finding]], ...]] = (
    keys.check,
    routes.check,
    receivers.check,
    times.check,
    rules.check,
    secrets.check,
)
RETENTION: Final = 432_000.0
"""`--data.retention` where nothing else is said."""


def lint(
    config: Config, document: Document, *at: str | int, retention: float = RETENTION, now: float | None = None
) -> list[Finding]:
    """Return all findings, in the order of the file.

    Args:
        config: what `document` was loaded as.
        at: where in the document the configuration stands.
        retention: seconds that what was told is remembered.
        now: Unix seconds, from which on time intervals are looked at; None is the present.
    """
    subject = Subject(config, document, at, retention, time.time() if now is None else now)
    found = {finding for check in CHECKS for finding in check(subject)}
    return sorted(found, key=lambda each: (each.file, each.line, each.column, each.code, each.what))


__all__ = ["Finding", "Severity", "lint"]
