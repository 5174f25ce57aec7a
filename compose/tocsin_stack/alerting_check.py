"""What is wrong with an alertmanager.yml, beyond its syntax: for `tocsin alerting check-config` and `tocsin check`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import tocsin_alerting.config
from tocsin_alerting import extras
from tocsin_alerting.config import Config
from tocsin_alerting.lint import Finding, Severity, lint
from tocsin_alerting.matchers import Mode
from tocsin_service.settings import Document, Problem, SettingsError, environment


class Format(StrEnum):
    """How findings are printed."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


INVALID: Final = "invalid"
"""The code of what makes a file unusable."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that is said about one file; `found` counts what it holds and is empty if it cannot be used."""

    file: str
    findings: tuple[Finding, ...]
    found: Mapping[str, int]

    def failed(self, *, strict: bool = False) -> bool:
        """Return whether it must not be used; `strict` minds warnings."""
        return any(strict or finding.severity is Severity.ERROR for finding in self.findings)


def loader(second: Path | None, features: Iterable[str] = ()) -> Callable[[Document], Config]:
    """Return what reads a configuration, with tocsin's own file beside it, in the notation that `features` ask for."""
    mode = Mode.of(features)

    def load(document: Document) -> Config:
        # In our own file variables are replaced, as in all that are ours alone.
        own = None if second is None else extras.load(Document.open(second, environ=environment()))
        return tocsin_alerting.config.load(document, extras=own, mode=mode)

    return load


def check(file: Path, second: Path | None = None) -> Report:
    """Load a file and look for what is probably not meant."""
    try:
        document = Document.open(file)
        config = loader(second)(document)
    except SettingsError as error:
        return Report(str(file), tuple(map(_unusable, error.problems)), {})
    return report(file, document, config)


def report(file: Path, document: Document, config: Config) -> Report:
    """Return what there is to say about a file that can be used."""
    globs = document.section("templates")
    found = {
        "inhibit rules": len(config.inhibit_rules),
        "receivers": len(config.receivers),
        "templates": len(globs) if isinstance(globs, list) else 0,
    }
    return Report(str(file), tuple(lint(config, document)), found)


def _unusable(problem: Problem) -> Finding:
    why = f"expected {problem.expected}" if problem.expected else ""
    spot = (problem.file, problem.line, problem.column)
    return Finding(INVALID, Severity.ERROR, *spot, problem.what, why, problem.fix)


def line(finding: Finding) -> str:
    """Return a finding as a line that editors can jump from."""
    place = f"{finding.file}:{finding.line}:{finding.column}"
    return f"{place}: {finding.severity}[{finding.code}]: {_message(finding)}"


def _message(finding: Finding) -> str:
    fix = f"fix: {finding.fix}" if finding.fix else ""
    return "; ".join(part for part in (finding.what, finding.why, fix) if part)


def render(reports: Sequence[Report], form: Format) -> str:
    """Return the findings of all files as text."""
    match form:
        case Format.JSON:
            return json.dumps({"files": [_plain(each) for each in reports]}, indent=2)
        case Format.GITHUB:
            return "\n".join(_annotation(finding) for each in reports for finding in each.findings)
        case Format.TEXT:
            return "\n\n".join("\n".join(_lines(each)) for each in reports)


def _lines(report: Report) -> Iterable[str]:
    yield from map(line, report.findings)
    if not report.found:
        yield f"{report.file}: FAILED"
        return
    verdict = "FAILED" if report.failed() else "SUCCESS"
    yield f"{report.file}: {verdict}"
    yield "Found:"
    for what, count in report.found.items():
        yield f" - {count} {what}"


def _plain(report: Report) -> dict[str, Any]:
    return {
        "file": report.file,
        "ok": not report.failed(),
        "findings": [finding.plain() for finding in report.findings],
        "found": dict(report.found),
    }


def _annotation(finding: Finding) -> str:
    """Return a line that GitHub's runners turn into a mark beside the line of the file."""
    where = f"file={_property(finding.file)},line={finding.line},col={finding.column},title={_property(finding.code)}"
    return f"::{finding.severity} {where}::{_data(_message(finding))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
