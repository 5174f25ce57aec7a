"""The sections of one configuration, read one by one: what is wrong with each is noted, and reading goes on."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from tocsin_alerting.reading import fitted
from tocsin_service.settings import Document, Loc, Problem, Settings, SettingsError

_BROKEN_TEMPLATE: Final = re.compile(r"broken template: line (\d+), column (\d+) of the text: ", re.DOTALL)

_M = TypeVar("_M", bound=Settings)


@dataclass(frozen=True, slots=True)
class Caution(Problem):
    """Something that is legal and hardly meant; `code` names its kind, for `lint`."""

    code: str = ""


class Sections:
    """What stands at one place of a document; places are counted from there.

    Attributes:
        problems: what makes the configuration unusable.
        warnings: what is legal and hardly meant.
    """

    def __init__(self, document: Document, at: Loc) -> None:
        # Sections are put in order in place, once read; the caller's document stays as it is.
        self._document = document.replaced(copy.deepcopy(document.data))
        self._at = at
        self.problems: list[Problem] = []
        self.warnings: list[Caution] = []

    def said(self, *loc: str | int) -> Any:
        """Return what stands at `loc`, in Alertmanager's reading once `read` was there."""
        return self._document.section(*self._at, *loc)

    def entries(self, *loc: str | int) -> list[Loc]:
        """Return the places of the entries of a list; none where there is no list."""
        found = self.said(*loc)
        return [(*loc, index) for index in range(len(found))] if isinstance(found, list) else []

    def read(self, model: type[_M], *loc: str | int, without: frozenset[str] = frozenset()) -> _M | None:
        """Return the section at `loc`, or None where something is wrong with it."""
        place = (*self._at, *loc)
        value = fitted(self._document, place, (model,))
        if place:
            around = self._document.section(*place[:-1])
            if isinstance(around, dict | list) and value is not None:
                around[place[-1]] = value  # type: ignore[index] # a key of a mapping or an index of a list
        else:
            self._document = self._document.replaced(value)
        try:
            return self._document.read(model, *place, without=without)
        except SettingsError as error:
            self.problems += [self._in_file(problem, place) for problem in error.problems]
            return None

    def wrong(self, loc: Loc, what: str, *, expected: str = "", fix: str = "") -> None:
        """Note a problem at `loc`."""
        self.problems.append(self._document.problem((*self._at, *loc), what, expected=expected, fix=fix))

    def warn(self, code: str, loc: Loc, what: str, *, fix: str = "") -> None:
        """Note a warning at `loc`."""
        spot = self._document.problem((*self._at, *loc), what)
        self.warnings.append(Caution(spot.file, spot.line, spot.column, what, fix=fix, code=code))

    def _in_file(self, problem: Problem, place: Loc) -> Problem:
        """Return the problem of a template that stands in a literal block with the line and column of the file."""
        match = _BROKEN_TEMPLATE.search(problem.what)
        if match is None:
            return problem
        for loc in _texts(self._document.section(*place), place):
            spot = self._document.problem(loc, "")
            inside = self._document.inside(loc, int(match[1]), int(match[2]))
            if inside and (spot.line, spot.column) == (problem.line, problem.column):
                what = f"{problem.what[: match.start()]}broken template: {problem.what[match.end() :]}"
                return replace(problem, what=what, line=inside[0], column=inside[1])
        return problem


def _texts(value: object, loc: Loc) -> Iterator[Loc]:
    """Yield the places of all texts at and below `loc`."""
    if isinstance(value, str):
        yield loc
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*loc, key))
    elif isinstance(value, Sequence):
        for index, item in enumerate(value):
            yield from _texts(item, (*loc, index))
