"""Keys that are deprecated or without effect, and patterns that match no file."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from typing import Final

from tocsin_alerting.checks.finding import Finding, Subject, place
from tocsin_alerting.routing import walk
from tocsin_service.settings import Loc

_PRESENT: Final = {
    "match": "matchers",
    "match_re": "matchers",
    "source_match": "source_matchers",
    "source_match_re": "source_matchers",
    "target_match": "target_matchers",
    "target_match_re": "target_matchers",
}


def check(subject: Subject) -> Iterator[Finding]:
    """Yield findings on keys, wherever they stand."""
    for warning in subject.config.warnings:
        yield subject.of(warning)
    places = [place(route) for route in walk(subject.config.root)] + subject.entries("inhibit_rules")
    for loc in places:
        yield from _deprecated(subject, loc)
    if subject.said("mute_time_intervals"):
        what = "mute_time_intervals at the top of the file is deprecated"
        fix = "move its entries to time_intervals"
        yield subject.warning("deprecated-key", ("mute_time_intervals",), what, why="it may go", fix=fix)
    for loc in subject.entries("templates"):
        pattern = str(subject.said(*loc))
        # A pattern may be absolute, which Path.glob does not take.
        if not glob.glob(str(subject.document.folder / pattern)):  # noqa: PTH207
            what = f'no template file matches "{pattern}"'
            why = "what it should define is missing"
            yield subject.warning("templates-match-nothing", loc, what, why=why, fix="correct the path, or remove it")


def _deprecated(subject: Subject, loc: Loc) -> Iterator[Finding]:
    said = subject.said(*loc)
    if not isinstance(said, Mapping):
        return
    for old, new in _PRESENT.items():
        pairs = said.get(old)
        if not isinstance(pairs, Mapping) or not pairs:
            continue
        op = "=~" if old.endswith("_re") else "="
        texts = ((name, subject.written(*loc, old, name)) for name in pairs)
        written = ", ".join(f"'{name}{op}\"{text}\"'" for name, text in texts)
        yield subject.warning(
            "deprecated-key", (*loc, old), f"{old} is deprecated", why="it may go", fix=f"{new}: [{written}]"
        )
