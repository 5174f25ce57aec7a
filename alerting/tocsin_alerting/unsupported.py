"""What Alertmanager's file may say and this version cannot do yet: refused with its place, never passed over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pydantic

from tocsin_service.settings import Document, Loc, Problem, Settings


class Known(Settings):
    """Settings some of whose keys (`later`) are Alertmanager's and not ours yet: `refused` has the words for them."""

    later: ClassVar[frozenset[str]] = frozenset()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _leave_to_refused(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if key not in cls.later} if isinstance(data, dict) else data


def refused(document: Document, loc: Loc, later: Iterable[str]) -> Iterator[Problem]:
    """Yield a problem for each key of `later` that stands at `loc` and says something; empty ones do no harm."""
    found = document.section(*loc)
    if not isinstance(found, Mapping):
        return
    for key in later:
        if found.get(key):
            what = f'"{key}" is not supported yet'
            yield document.problem((*loc, key), what, fix="remove it, or stay with Alertmanager until it is")


def templated(document: Document, loc: Loc, later: frozenset[str]) -> Iterator[Problem]:
    """Yield a problem for each text at or below `loc` that holds a Go template, except under the keys of `later`."""
    value = document.section(*loc)
    if isinstance(value, Mapping):
        for key in value.keys() - later:
            yield from templated(document, (*loc, key), frozenset())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index in range(len(value)):
            yield from templated(document, (*loc, index), frozenset())
    elif isinstance(value, str) and "{{" in value:
        what = f'"{loc[-1]}" holds a Go template ({{{{ ... }}}}), which is not supported yet'
        fix = "remove it (tocsin writes the words of a message itself), or write plain text"
        yield document.problem(loc, what, fix=fix)
