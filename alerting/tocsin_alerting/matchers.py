"""Label matchers, `name op value`: what they match, how they are printed and read. Pure.

Expressions are RE2 (linear time whatever the input) and match whole values. A missing label equals the empty string.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

import re2

from tocsin_alerting import grammars
from tocsin_alerting.grammars import MatcherError, quote, unquote

_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_PLAIN: Final = re.compile(r"[^\\.+*?()|\[\]{}^$]*")
_REMEMBERED: Final = 1024
"""Values per expression whose verdict is kept: labels have few values, and an expression costs microseconds."""


class Expression(Protocol):
    """A compiled RE2 expression."""

    def fullmatch(self, text: str) -> object | None:
        """Match the whole of `text`."""


class Op(StrEnum):
    """How a matcher compares. Their order here is the order they are printed in."""

    EQUAL = "="
    NOT_EQUAL = "!="
    REGEX = "=~"
    NOT_REGEX = "!~"


class Mode(StrEnum):
    """Which notation is read; the names are Alertmanager's features."""

    FALLBACK = "fallback"
    """Both are tried; where they disagree the classic one wins, so that old files keep their meaning."""
    UTF8 = "utf8-strict-mode"
    CLASSIC = "classic-mode"

    @classmethod
    def of(cls, features: Iterable[str]) -> Mode:
        """Return the mode that `--enable-feature` asks for.

        Raises:
            ValueError: both modes at once.
        """
        asked = {str(feature) for feature in features} & {cls.UTF8, cls.CLASSIC}
        if len(asked) > 1:
            raise ValueError(f"--enable-feature: {cls.UTF8} and {cls.CLASSIC} exclude one another; keep one of them")
        return cls(asked.pop()) if asked else cls.FALLBACK


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on one label.

    Attributes:
        matches: returns whether a label set satisfies it; made once, since every alert asks many matchers.

    Raises:
        MatcherError: the value of `=~` or `!~` is not an RE2 expression.
    """

    name: str
    op: Op
    value: str
    matches: Callable[[Mapping[str, str]], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "matches", _condition(self.name, self.op, self.value))

    def __str__(self) -> str:
        if not grammars.bare(self.name):
            return f"{quote(self.name)}{self.op}{quote(self.value)}"
        escaped = self.value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        return f'{self.name}{self.op}"{escaped}"'

    @property
    def matches_absence(self) -> bool:
        """Whether it is satisfied by a label that is missing, which is an empty one."""
        return self.matches({})


def _condition(name: str, op: Op, value: str) -> Callable[[Mapping[str, str]], bool]:
    match op:
        case Op.EQUAL:
            return lambda labels: labels.get(name, "") == value
        case Op.NOT_EQUAL:
            return lambda labels: labels.get(name, "") != value
        case Op.REGEX:
            accepts = _accepts(value)
            return lambda labels: accepts(labels.get(name, ""))
        case Op.NOT_REGEX:
            refuses = _accepts(value)
            return lambda labels: not refuses(labels.get(name, ""))


def _accepts(pattern: str) -> Callable[[str], bool]:
    """Return whether a text matches `pattern` as a whole, as a function."""
    alternatives = literals(pattern)
    if alternatives is not None:
        return alternatives.__contains__
    compiled(pattern)  # raises with words
    fullmatch = _compile(pattern.encode()).fullmatch
    known: dict[str, bool] = {}

    def accepts(text: str) -> bool:
        found = known.get(text)
        if found is None:
            if len(known) >= _REMEMBERED:
                known.clear()
            found = known[text] = fullmatch(text.encode()) is not None
        return found

    return accepts


def literals(pattern: str) -> frozenset[str] | None:
    """Return the values that `a|b|c` matches, or None for an expression that is more than that."""
    for prefix in ("^(?:", "(?:"):
        # What `match_re` is turned into.
        if pattern.startswith(prefix) and pattern.endswith(suffix := ")$" if prefix[0] == "^" else ")"):
            pattern = pattern[len(prefix) : -len(suffix)]
            break
    parts = pattern.split("|")
    return frozenset(parts) if all(_PLAIN.fullmatch(part) for part in parts) else None


@functools.lru_cache(maxsize=4096)
def compiled(pattern: str) -> Expression:
    """Return an RE2 expression; match with `fullmatch`.

    Raises:
        MatcherError: it is not one.
    """
    try:
        expression: Expression = _compile(pattern)
    except re2.error as error:
        detail = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise MatcherError(f'"{pattern}" is not a regular expression (RE2): {detail}') from error
    except UnicodeEncodeError as error:
        raise MatcherError("an expression holds half a character (a lone surrogate)") from error
    return expression


def _compile(pattern: str | bytes) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    return re2.compile(pattern, options)


def match_all(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Return whether `labels` satisfy every one of `matchers`."""
    for matcher in matchers:  # noqa: SIM110 a generator costs more than the comparison
        if not matcher.matches(labels):
            return False
    return True


def render(matchers: Iterable[Matcher]) -> str:
    """Return `{m1,m2}`, sorted by name, value and operator: part of group keys, so that it must not change."""
    order = list(Op)
    ordered = sorted(matchers, key=lambda m: (m.name, m.value, order.index(m.op)))
    return "{" + ",".join(map(str, ordered)) + "}"


# --- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """Matchers as they were read, and what Alertmanager would warn of: `warning` says what to write instead."""

    matchers: tuple[Matcher, ...]
    warning: str = ""


def read(text: str, mode: Mode = Mode.FALLBACK) -> Reading:
    """Read one or more matchers, as Alertmanager does.

    Raises:
        MatcherError: the notations of `mode` cannot read it.
    """
    return _read(text, mode, grammars.classic, grammars.utf8)


def parse(text: str, mode: Mode = Mode.FALLBACK) -> tuple[Matcher, ...]:
    """Return the matchers of `read`; raises like it."""
    return read(text, mode).matchers


def parse_one(text: str, mode: Mode = Mode.FALLBACK) -> Matcher:
    """Read exactly one matcher, as the API's `filter` does.

    Raises:
        MatcherError: braces, none or several.
    """
    if mode is not Mode.CLASSIC and (text.startswith("{") or text.endswith("}")):
        raise MatcherError(f"unexpected open or close brace: {text}")
    found = _read(text, mode, lambda each: [grammars.classic_one(each)], grammars.utf8).matchers
    if len(found) != 1:
        raise MatcherError(f"expected 1 matcher, found {len(found)}: {text}")
    return found[0]


_Grammar = Callable[[str], list[grammars.Triple]]


def _read(text: str, mode: Mode, classic: _Grammar, utf8: _Grammar) -> Reading:
    if mode is not Mode.FALLBACK:
        return Reading(_built(classic if mode is Mode.CLASSIC else utf8, text))
    try:
        old = _built(classic, text)
    except MatcherError:
        return Reading(_built(utf8, text))
    try:
        new = _built(utf8, text)
    except MatcherError as error:
        return Reading(old, f"only Alertmanager's old notation of matchers can read this ({error})")
    if old != new:
        return Reading(old, "the old notation of matchers and the new one read this differently; the old one is used")
    return Reading(old)


def _built(grammar: _Grammar, text: str) -> tuple[Matcher, ...]:
    return tuple(Matcher(name, Op(op), value) for name, op, value in grammar(text))


def valid_label(name: str) -> bool:
    """Return whether `name` is a classic label name."""
    return _LABEL.fullmatch(name) is not None


__all__ = [
    "Expression",
    "Matcher",
    "MatcherError",
    "Mode",
    "Op",
    "Reading",
    "compiled",
    "literals",
    "match_all",
    "parse",
    "parse_one",
    "quote",
    "read",
    "render",
    "unquote",
    "valid_label",
]
