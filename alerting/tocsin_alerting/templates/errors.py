"""What is wrong with a template, and where.

    ValueError
    ├── TemplateError
    └── Fault

A `Fault` does not leave this package: it says what is wrong before anybody knows where.
"""

from __future__ import annotations

from dataclasses import dataclass


class TemplateError(ValueError):
    """A template that cannot be parsed or rendered.

    Args:
        name: the file it stands in, or `template` for the text of a field.
        line: counted from 1.
        column: counted from 1, in characters.
        what: what was found and what was expected.
    """

    def __init__(self, name: str, line: int, column: int, what: str) -> None:
        super().__init__(f"{name}:{line}:{column}: {what}")
        self.name = name
        self.line = line
        self.column = column
        self.what = what


class Fault(ValueError):  # noqa: N818 -- half an error: it becomes one where the place is known
    """Something that a template did and that its data or functions do not allow."""


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a template, which turns offsets into lines and columns."""

    name: str
    text: str

    def error(self, offset: int, what: str) -> TemplateError:
        """Return the error that `what` is at `offset`."""
        line = self.text.count("\n", 0, offset) + 1
        column = offset - (self.text.rfind("\n", 0, offset) + 1) + 1
        return TemplateError(self.name, line, column, what)
