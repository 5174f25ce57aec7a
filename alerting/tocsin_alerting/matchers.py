"""Label matchers, `name op value`, in both of Alertmanager's notations. Pure.

Expressions are RE2 (linear time whatever the input) and match whole values. A missing label equals the empty string.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import re2

_CLASSIC: Final = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(=~|!~|!=|=)\s*(.*?)\s*", re.DOTALL)
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_RESERVED: Final = frozenset("{}!=~,\\\"'`")
_CLASSIC_ESCAPES: Final = {'\\"': '"', "\\n": "\n", "\\\\": "\\"}
_ESCAPES: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}


class MatcherError(ValueError):
    """A matcher that cannot be read; the message quotes it and says what was expected."""


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


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on one label.

    Raises:
        MatcherError: the value of `=~` or `!~` is not an RE2 expression.
    """

    name: str
    op: Op
    value: str

    def __post_init__(self) -> None:
        if self.op in {Op.REGEX, Op.NOT_REGEX}:
            compiled(self.value)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether a label set satisfies it."""
        found = labels.get(self.name, "")
        match self.op:
            case Op.EQUAL:
                return found == self.value
            case Op.NOT_EQUAL:
                return found != self.value
            case Op.REGEX:
                return compiled(self.value).fullmatch(found) is not None
            case Op.NOT_REGEX:
                return compiled(self.value).fullmatch(found) is None

    def __str__(self) -> str:
        if any(c.isspace() or c in _RESERVED for c in self.name):
            return f"{quote(self.name)}{self.op}{quote(self.value)}"
        escaped = self.value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        return f'{self.name}{self.op}"{escaped}"'


@functools.lru_cache(maxsize=4096)
def compiled(pattern: str) -> Expression:
    """Return an RE2 expression; match with `fullmatch`.

    Raises:
        MatcherError: it is not one.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        expression: Expression = re2.compile(pattern, options)
    except re2.error as error:
        detail = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise MatcherError(f'"{pattern}" is not a regular expression (RE2): {detail}') from error
    return expression


def match_all(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Return whether `labels` satisfy every one of `matchers`."""
    return all(matcher.matches(labels) for matcher in matchers)


def render(matchers: Iterable[Matcher]) -> str:
    """Return `{m1,m2}`, sorted by name, value and operator: part of group keys, so that it must not change."""
    order = list(Op)
    ordered = sorted(matchers, key=lambda m: (m.name, m.value, order.index(m.op)))
    return "{" + ",".join(map(str, ordered)) + "}"


def parse(text: str) -> tuple[Matcher, ...]:
    """Read one or more matchers, as Alertmanager does by default: both notations are tried.

    Where both can read it and disagree, the classic one wins, so that old files keep their meaning.

    Raises:
        MatcherError: neither notation can read it.
    """
    try:
        return _classic(text)
    except MatcherError:
        return tuple(_Utf8(text).matchers())


def parse_one(text: str) -> Matcher:
    """Read exactly one matcher, as the API's `filter` does.

    Raises:
        MatcherError: braces, none or several.
    """
    if text.strip().startswith("{") or text.strip().endswith("}"):
        raise MatcherError(f"unexpected open or close brace: {text}")
    found = parse(text)
    if len(found) != 1:
        raise MatcherError(f"expected 1 matcher, found {len(found)}: {text}")
    return found[0]


def valid_label(name: str) -> bool:
    """Return whether `name` is a classic label name."""
    return _LABEL.fullmatch(name) is not None


def quote(text: str) -> str:
    """Return `text` as Go's %q prints it: in double quotes, control characters escaped."""
    names = {value: f"\\{key}" for key, value in _ESCAPES.items()}
    return '"' + "".join(names.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + '"'


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# --- classic notation: name op rest-of-string, value optionally quoted -------------------------------------------


def _classic(text: str) -> tuple[Matcher, ...]:
    inner = text.strip().removeprefix("{").removesuffix("}")
    return tuple(_classic_one(item) for item in _split(inner))


def _split(text: str) -> Iterator[str]:
    """Cut at commas outside of quotes; one trailing comma is allowed."""
    item, quoted, escaped = "", False, False
    for char in text:
        if char == "," and not quoted:
            yield item
            item = ""
            continue
        if char == '"' and not escaped:
            quoted = not quoted
        escaped = char == "\\" and not escaped
        item += char
    if item.strip():
        yield item


def _classic_one(text: str) -> Matcher:
    match = _CLASSIC.fullmatch(text)
    if match is None:
        raise MatcherError(f'"{text.strip()}" is not a matcher; write name="value" with =, !=, =~ or !~')
    name, op, value = match.groups()
    if value.startswith('"'):
        if len(value) < 2 or not value.endswith('"'):
            raise MatcherError(f'"{text.strip()}" has a quote that is not closed')
        value = value[1:-1]
    return Matcher(name, Op(op), _classic_value(value, text))


def _classic_value(value: str, text: str) -> str:
    result, index = "", 0
    while index < len(value):
        pair = value[index : index + 2]
        if pair in _CLASSIC_ESCAPES:
            result += _CLASSIC_ESCAPES[pair]
            index += 2
            continue
        if value[index] == '"' or pair == "\\":
            raise MatcherError(f'"{text.strip()}" has a quote or backslash inside its value; write it as \\" or \\\\')
        result += value[index]
        index += 1
    return result


# --- UTF-8 notation: names and values are bare words or Go strings -----------------------------------------------


class _Utf8:
    """Reads `{name op value, ...}` from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def matchers(self) -> Iterator[Matcher]:
        braced = self._take("{")
        while not self._ended() and self._peek() != "}":
            yield self._matcher()
            if not self._take(","):
                break
        if braced != self._take("}"):
            raise self._error("a brace that is not closed or not opened")
        if not self._ended():
            raise self._error(f'unexpected "{self._text[self._at]}"')

    def _matcher(self) -> Matcher:
        name = self._word("a label name")
        self._skip()
        op = next((op for op in ("=~", "!~", "!=", "=") if self._text.startswith(op, self._at)), None)
        if op is None:
            raise self._error("expected =, !=, =~ or !~ after the label name")
        self._at += len(op)
        return Matcher(name, Op(op), self._word("a value"))

    def _word(self, what: str) -> str:
        if self._peek() == '"':
            return self._quoted()
        start = self._at
        while self._at < len(self._text) and not (self._text[self._at].isspace() or self._text[self._at] in _RESERVED):
            self._at += 1
        if start == self._at:
            raise self._error(f"expected {what}")
        return self._text[start : self._at]

    def _quoted(self) -> str:
        start = self._at
        self._at += 1
        while self._at < len(self._text) and self._text[self._at] != '"':
            self._at += 2 if self._text[self._at] == "\\" else 1
        if self._at >= len(self._text):
            self._at = start
            raise self._error("a quote that is not closed")
        self._at += 1
        try:
            return unquote(self._text[start : self._at])
        except ValueError as error:
            raise self._error(str(error)) from None

    def _skip(self) -> None:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1

    def _peek(self) -> str:
        self._skip()
        return self._text[self._at] if self._at < len(self._text) else ""

    def _take(self, char: str) -> bool:
        if self._peek() != char:
            return False
        self._at += 1
        return True

    def _ended(self) -> bool:
        self._skip()
        return self._at >= len(self._text)

    def _error(self, what: str) -> MatcherError:
        return MatcherError(f'"{self._text}" is not a matcher: {what} at character {self._at + 1}')


_GO_ESCAPE: Final = re.compile(
    r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-3][0-7]{2}|[abfnrtv\\\"])|(\\)|([^\\]+)"
)


def unquote(text: str) -> str:
    r"""Return the value of a double-quoted Go string literal.

    Raises:
        ValueError: an escape Go does not know, or bytes (`\xff`) that are not UTF-8.
    """
    result = b""
    for escape, bad, plain in _GO_ESCAPE.findall(text[1:-1]):
        if bad:
            raise ValueError("an unknown escape after a backslash")
        if plain:
            result += plain.encode()
        elif escape in _ESCAPES:
            result += _ESCAPES[escape].encode()
        elif escape[0] in "uU":
            result += _character(int(escape[1:], 16)).encode()
        else:
            result += bytes([int(escape[1:], 16) if escape[0] == "x" else int(escape, 8)])
    try:
        return result.decode()
    except UnicodeDecodeError as error:
        raise ValueError("bytes that are not UTF-8") from error


def _character(code: int) -> str:
    if 0xD800 <= code < 0xE000 or code > 0x10FFFF:
        raise ValueError("an escape that is no character")
    return chr(code)
