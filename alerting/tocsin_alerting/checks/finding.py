"""What a check is given and what it finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from tocsin_alerting.routing import Route
from tocsin_service.settings import Document, Loc

if TYPE_CHECKING:
    from tocsin_alerting.config import Config
    from tocsin_alerting.sections import Caution


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """Something that is written there can never work."""
    WARNING = "warning"
    """It works, and is hardly what was meant."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is legal and wrong.

    Args:
        code: names the kind of finding; stable, so that scripts can choose by it.
        why: why it matters.
        fix: what to do.
    """

    code: str
    severity: Severity
    file: str
    line: int
    column: int
    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}:{self.column}: {self.severity}: {self.what}"
        why = f"; {self.why}" if self.why else ""
        fix = f"; fix: {self.fix}" if self.fix else ""
        return f"{text}{why}{fix} [{self.code}]"

    def plain(self) -> dict[str, object]:
        """Return it as it is written to JSON."""
        return {**asdict(self), "severity": str(self.severity)}


@dataclass(frozen=True, slots=True)
class Subject:
    """The configuration, as values and as it is written.

    Args:
        at: where in the document it stands.
        retention: seconds that what was told is remembered.
        now: Unix seconds.
    """

    config: Config
    document: Document
    at: Loc
    retention: float
    now: float

    def said(self, *loc: str | int) -> object:
        """Return what the file says at `loc`."""
        return self.document.section(*self.at, *loc)

    def written(self, *loc: str | int) -> str:
        """Return the characters of the scalar at `loc`."""
        written = self.document.written(*self.at, *loc)
        return str(self.said(*loc)) if written is None else written

    def entries(self, *loc: str | int) -> list[Loc]:
        """Return the places of the entries of a list."""
        found = self.said(*loc)
        return [(*loc, index) for index in range(len(found))] if isinstance(found, list) else []

    def error(self, code: str, loc: Loc, what: str, *, why: str, fix: str) -> Finding:
        """Return a finding of something that cannot work."""
        return self._finding(code, Severity.ERROR, loc, what, why, fix)

    def warning(self, code: str, loc: Loc, what: str, *, why: str, fix: str) -> Finding:
        """Return a finding of something that is hardly meant."""
        return self._finding(code, Severity.WARNING, loc, what, why, fix)

    def of(self, caution: Caution) -> Finding:
        """Return the finding of something that was noted when the configuration was read."""
        spot = (caution.file, caution.line, caution.column)
        return Finding(caution.code, Severity.WARNING, *spot, caution.what, caution.expected, caution.fix)

    def _finding(self, code: str, severity: Severity, loc: Loc, what: str, why: str, fix: str) -> Finding:
        spot = self.document.problem((*self.at, *loc), what)
        return Finding(code, severity, spot.file, spot.line, spot.column, what, why, fix)


def place(route: Route) -> Loc:
    """Return where a node of the tree stands: `0.2.1` is the second child of the third child of the root."""
    loc: Loc = ("route",)
    for index in route.node.split(".")[1:]:
        loc = (*loc, "routes", int(index))
    return loc
