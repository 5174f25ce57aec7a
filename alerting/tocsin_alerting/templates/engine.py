"""The definitions of built-in and user's files, and the fields of a configuration rendered with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Mapping
from functools import lru_cache
from importlib import resources
from typing import Final, Literal

from tocsin_alerting.templates import escaping, functions, lint, nodes
from tocsin_alerting.templates.data import Data
from tocsin_alerting.templates.errors import Source
from tocsin_alerting.templates.evaluate import Program
from tocsin_alerting.templates.parser import parse
from tocsin_alerting.templates.values import settled

INLINE: Final = "template"
"""The name of a text that stands in a field and not in a file."""
KEPT: Final = 512
"""Parsed fields that are kept, the ones used last."""
_FILES: Final = {
    "alertmanager": ("alertmanager.tmpl", "email.tmpl"),
    "tocsin": ("alertmanager.tmpl", "email.tmpl", "tocsin.tmpl"),
}


class Templates:
    """Named templates, and texts that may call them.

    Args:
        files: names and texts of template files, in order; a later definition overrides an earlier one and those that
            are built in, unless it is empty.
        words: whose texts the built-in definitions are.
        clock: returns Unix seconds, for `now` and `since`.

    Raises:
        TemplateError: a file cannot be parsed; names file, line and column.
    """

    def __init__(
        self,
        files: Iterable[tuple[str, str]] = (),
        *,
        words: Literal["alertmanager", "tocsin"] = "alertmanager",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._functions = {**functions.GO, **functions.alertmanager(clock)}
        self._trees = dict(_built_in(words, frozenset(self._functions)))
        for name, text in files:
            _add(self._trees, Source(name, text), self._functions)
        # Of the fields of a configuration there are few; what is made from alerts must not fill memory.
        self._texts = lru_cache(KEPT)(self._text_program)
        self._pages = lru_cache(KEPT)(self._page_program)

    def text(self, source: str, data: Data) -> str:
        """Return what the template `source` makes of `data`.

        Raises:
            TemplateError: it cannot be parsed, or does what its data or functions do not allow.
        """
        if "{{" not in source:
            return source
        return settled(self._texts(source).render("", data))

    def html(self, source: str, data: Data) -> str:
        """Return what the template `source` makes of `data`, escaped for where each value stands in HTML.

        Raises:
            TemplateError: it cannot be parsed, cannot be told apart as HTML, or does what its data or functions do not
                allow.
        """
        if "{{" not in source and "<" not in source:
            return source
        return settled(self._pages(source).render("", data))

    def check(self, source: str, *, html: bool = False) -> None:
        """Parse `source`.

        Args:
            html: see also that its values can be escaped where they stand.

        Raises:
            TemplateError: it cannot be parsed.
        """
        if html:
            self._page_program(source)
        else:
            self._parse(source)

    def undefined(self, source: str) -> list[str]:
        """Return the names that `source`, or a template that it calls, calls and nobody defines."""
        trees = self._with(source)
        return sorted(lint.called(trees, "") - set(trees))

    def labels_read(self, source: str) -> set[tuple[str, str]]:
        """Return the labels and annotations that `source`, or a template that it calls, reads by name.

        Each is a pair of the field and the name: `("CommonLabels", "severity")`, `("Annotations", "summary")`.
        """
        return lint.labels_read(self._with(source), "")

    def _parse(self, source: str) -> dict[str, nodes.Tree]:
        return parse(Source(INLINE, source), self._functions)

    def _with(self, source: str) -> Mapping[str, nodes.Tree]:
        """Return all templates, those that `source` itself defines among them."""
        trees = dict(self._trees)
        _merge(trees, self._parse(source))
        return trees

    def _text_program(self, source: str) -> Program:
        return Program(self._with(source), self._functions)

    def _page_program(self, source: str) -> Program:
        trees, escapers = escaping.escape(self._with(source), "", self._functions)
        return Program(trees, {**self._functions, **escapers})


@lru_cache
def _built_in(words: str, functions: frozenset[str]) -> Mapping[str, nodes.Tree]:
    """Return the definitions that come with us; read when they are first needed, and then kept."""
    trees: dict[str, nodes.Tree] = {}
    folder = resources.files(__package__ or "")
    for name in _FILES[words]:
        _add(trees, Source(name, (folder / name).read_text("utf-8")), functions)
    return trees


def _add(trees: dict[str, nodes.Tree], source: Source, functions: Container[str]) -> None:
    found = parse(source, functions)
    del found[""]  # text around definitions is shown by nobody
    _merge(trees, found)


def _merge(trees: dict[str, nodes.Tree], more: Mapping[str, nodes.Tree]) -> None:
    for name, tree in more.items():
        if name not in trees or not tree.body.empty:
            trees[name] = tree
