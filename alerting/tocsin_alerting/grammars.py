r"""The two notations of label matchers, and the one of Go's string literals that they share. Pure.

*Classic*: `name op rest-of-string`, the value optionally in double quotes, of which `\n`, `\"` and `\\` are the only
escapes. *UTF-8*: name and value are each a bare word or a double-quoted Go string. Both read lists with commas between.
What is read is `(name, operator, value)`; whether an expression compiles is not asked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

Triple = tuple[str, str, str]
"""Label name, operator, value."""

OPERATORS: Final = ("=~", "!~", "!=", "=")
"""The longest first, as they are tried."""
RESERVED: Final = frozenset("{}!=~,\\\"'`")
"""What a bare word of the UTF-8 notation cannot hold."""

# Go's notion of white space in text (unicode.IsSpace), which is not Python's, and in expressions (\s).
_SPACE: Final = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_BLANKS: Final = re.compile(f"[{_SPACE}]*")
_TRIM: Final = re.compile(f"^[{_SPACE}]+|[{_SPACE}]+\\Z")
_CLASSIC: Final = re.compile(
    r"[\t\n\f\r ]*([a-zA-Z_:][a-zA-Z0-9_:]*)[\t\n\f\r ]*(=~|=|!=|!~)[\t\n\f\r ]*(.*?)[\t\n\f\r ]*", re.DOTALL
)
_CLASSIC_ESCAPES: Final = {'"': '"', "n": "\n", "\\": "\\"}
_ESCAPES: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}
_NAMES: Final = {value: f"\\{key}" for key, value in _ESCAPES.items()}
_GO_ESCAPE: Final = re.compile(
    r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-3][0-7]{2}|[abfnrtv\\\"])|(\\)|([^\\]+)"
)


class MatcherError(ValueError):
    """A matcher that cannot be read; the message quotes it and says what was expected."""


def trim(text: str) -> str:
    """Return `text` without white space at its ends, as Go understands white space."""
    return _TRIM.sub("", text)


def bare(text: str) -> bool:
    """Return whether `text` can stand in the UTF-8 notation without quotes."""
    return bool(text) and not any(char in RESERVED or _BLANKS.fullmatch(char) for char in text)


def quote(text: str) -> str:
    """Return `text` as Go's %q prints it: in double quotes, control characters escaped."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'  # nearly all values; every new alert asks
    return '"' + "".join(_NAMES.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + '"'


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def unquote(text: str) -> str:
    r"""Return the value of a double-quoted Go string literal.

    Raises:
        ValueError: an escape Go does not know, a line break, or bytes (`\xff`) that are not UTF-8.
    """
    result = b""
    for escape, bad, plain in _GO_ESCAPE.findall(text[1:-1]):
        if bad:
            raise ValueError("an unknown escape after a backslash")
        if plain:
            if "\n" in plain:
                raise ValueError("a line break inside quotes; write it as \\n")
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


# --- classic -----------------------------------------------------------------------------------------------------


def classic(text: str) -> list[Triple]:
    """Read a list in the classic notation; one leading `{` and one trailing `}` are dropped, matched or not.

    Raises:
        MatcherError: it is not one.
    """
    inner = text.removeprefix("{").removesuffix("}")
    return [classic_one(trim(item)) for item in _split(inner)]


def classic_one(text: str) -> Triple:
    """Read exactly one matcher, whose value may hold commas.

    Raises:
        MatcherError: it is not one.
    """
    match = _CLASSIC.fullmatch(text)
    if match is None:
        raise MatcherError(f'"{trim(text)}" is not a matcher; write name="value" with =, !=, =~ or !~')
    name, op, value = match.groups()
    return name, op, _classic_value(value, text)


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
    if trim(item):
        yield item


def _classic_value(raw: str, text: str) -> str:
    quoted = raw.startswith('"')
    rest = raw[1:] if quoted else raw
    result, index, closed = "", 0, False
    while index < len(rest):
        char, last = rest[index], index == len(rest) - 1
        if char == "\\" and not last:
            following = rest[index + 1]
            result += _CLASSIC_ESCAPES.get(following, f"\\{following}")
            index += 2
            continue
        if char == '"':
            if not quoted or not last:
                raise MatcherError(f'"{trim(text)}" has a quote inside its value; write it as \\"')
            closed = True
        else:
            result += char
        index += 1
    if quoted and not closed:
        raise MatcherError(f'"{trim(text)}" has a quote that is not closed')
    return result


# --- UTF-8 -------------------------------------------------------------------------------------------------------


def utf8(text: str) -> list[Triple]:
    """Read a list in the UTF-8 notation, in one pair of braces or in none.

    Raises:
        MatcherError: it is not one.
    """
    return list(_Utf8(text).triples())


class _Utf8:
    """Reads `{name op value, ...}` from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def triples(self) -> Iterator[Triple]:
        braced = self._take("{")
        while not self._ended() and self._peek() != "}":
            yield self._triple()
            if not self._take(","):
                break
        if braced != self._take("}"):
            raise self._error("a brace that is not closed or not opened")
        if not self._ended():
            raise self._error(f'unexpected "{self._text[self._at]}"')

    def _triple(self) -> Triple:
        name = self._word("a label name")
        if not name:
            raise self._error("a label name that is empty")
        self._skip()
        op = next((op for op in OPERATORS if self._text.startswith(op, self._at)), None)
        if op is None:
            raise self._error("expected =, !=, =~ or !~ after the label name")
        self._at += len(op)
        return name, op, self._word("a value")

    def _word(self, what: str) -> str:
        if self._peek() == '"':
            return self._quoted()
        start = self._at
        while self._at < len(self._text) and bare(self._text[self._at]):
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
        blanks = _BLANKS.match(self._text, self._at)
        self._at = blanks.end() if blanks else self._at

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
