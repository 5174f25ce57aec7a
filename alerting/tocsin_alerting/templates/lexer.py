"""From the text of a template to tokens: plain text, and between `{{` and `}}` words, numbers, strings and signs.

The grammar is that of Go's text/template: https://pkg.go.dev/text/template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final, NamedTuple

from tocsin_alerting.templates.errors import Source

LEFT: Final = "{{"
RIGHT: Final = "}}"
SPACES: Final = " \t\r\n"
KEYWORDS: Final = frozenset(
    {"block", "break", "continue", "define", "else", "end", "if", "nil", "range", "template", "with"}
)


class Kind(Enum):
    """What a token is."""

    TEXT = auto()
    OPEN = auto()
    CLOSE = auto()
    SPACE = auto()
    KEYWORD = auto()
    IDENTIFIER = auto()
    BOOL = auto()
    DOT = auto()
    FIELD = auto()
    VARIABLE = auto()
    NUMBER = auto()
    CHAR = auto()
    STRING = auto()
    RAW_STRING = auto()
    DECLARE = auto()
    ASSIGN = auto()
    PIPE = auto()
    LEFT_PAREN = auto()
    RIGHT_PAREN = auto()
    SIGN = auto()
    END = auto()


class Token(NamedTuple):
    """A piece of a template and where it begins."""

    kind: Kind
    at: int
    text: str


_WORDS: Final = (
    (Kind.SPACE, r"[ \t\r\n]+"),
    (Kind.DECLARE, r":="),
    (Kind.ASSIGN, r"="),
    (Kind.PIPE, r"\|"),
    (Kind.LEFT_PAREN, r"\("),
    (Kind.RIGHT_PAREN, r"\)"),
    (Kind.STRING, r'"(?:[^"\\\n]|\\[^\n])*"'),
    (Kind.RAW_STRING, r"`[^`]*`"),
    (Kind.CHAR, r"'(?:[^'\\\n]|\\[^\n])*'"),
    (
        Kind.NUMBER,
        r"[+-]?(?:0[xX][0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?(?:[pP][+-]?[0-9_]*)?|0[oO][0-7_]*|0[bB][01_]*"
        r"|(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9_]*)?)i?",
    ),
    (Kind.FIELD, r"\.\w+"),
    (Kind.DOT, r"\."),
    (Kind.VARIABLE, r"\$\w*"),
    (Kind.IDENTIFIER, r"\w+"),
    (Kind.SIGN, r"[!-~]"),
)
_WORD: Final = re.compile("|".join(f"(?P<{kind.name}>{pattern})" for kind, pattern in _WORDS))
_UNTERMINATED: Final = {
    '"': "a string that does not end on its line, expected a closing quotation mark",
    "`": "a raw string that does not end, expected a closing backquote",
    "'": "a character that does not end on its line, expected a closing apostrophe",
}
# A word ends where one of these follows (or the action ends).
_TERMINATORS: Final = frozenset(" \t\r\n.,|:)(")
_ENDING: Final = frozenset({Kind.FIELD, Kind.DOT, Kind.VARIABLE, Kind.IDENTIFIER})
_NUMBERS: Final = frozenset({Kind.NUMBER, Kind.CHAR})


def tokens(source: Source) -> Iterator[Token]:
    """Yield the tokens of `source`, the last one being `END`.

    Raises:
        TemplateError: the text of an action is not made of tokens.
    """
    text, at, trim = source.text, 0, False
    while True:
        opens = text.find(LEFT, at)
        plain = text[at:] if opens < 0 else text[at:opens]
        start = at
        if trim:
            start += len(plain) - len(plain.lstrip(SPACES))
            plain = plain.lstrip(SPACES)
        if opens < 0:
            if plain:
                yield Token(Kind.TEXT, start, plain)
            yield Token(Kind.END, len(text), "")
            return
        inside = opens + len(LEFT)
        if text.startswith("-", inside) and text[inside + 1 : inside + 2] in {*SPACES}:
            plain = plain.rstrip(SPACES)
            inside += 2
        if plain:
            yield Token(Kind.TEXT, start, plain)
        if text.startswith("/*", inside):
            at, trim = _comment(source, opens, inside)
            continue
        yield Token(Kind.OPEN, opens, LEFT)
        at = inside
        while (closed := _close(text, at)) is None:
            token = _word(source, opens, at)
            at = token.at + len(token.text)
            yield token
        yield Token(Kind.CLOSE, at, RIGHT)
        at, trim = closed


def _close(text: str, at: int) -> tuple[int, bool] | None:
    """Return where the action that ends at `at` is over and whether white space after it goes, or None."""
    if text.startswith(RIGHT, at):
        return at + len(RIGHT), False
    if text[at : at + 1] in {*SPACES} and text.startswith("-" + RIGHT, at + 1):
        return at + 2 + len(RIGHT), True
    return None


def _comment(source: Source, opens: int, inside: int) -> tuple[int, bool]:
    ends = source.text.find("*/", inside)
    if ends < 0:
        raise source.error(opens, "a comment that does not end, expected */}}")
    closed = _close(source.text, ends + 2)
    if closed is None:
        raise source.error(ends + 2, "a comment that does not fill its action, expected }} after */")
    return closed


def _word(source: Source, opens: int, at: int) -> Token:
    text = source.text
    found = _WORD.match(text, at)
    if found is None:
        if at >= len(text):
            raise source.error(opens, "an action that does not end, expected }}")
        raise source.error(at, f"a character that has no meaning in an action: {text[at]!r}")
    kind, word = Kind[found.lastgroup or ""], found.group()
    if kind is Kind.SIGN and word in _UNTERMINATED:
        raise source.error(at, _UNTERMINATED[word])
    after = text[found.end() : found.end() + 1]
    if kind is Kind.SPACE:
        # The last blank may belong to a closing " -}}".
        if len(word) > 1 and _close(text, found.end() - 1) is not None and after == "-":
            word = word[:-1]
    elif kind in _NUMBERS:
        if kind is Kind.NUMBER and (after.isalnum() or after == "_"):
            raise source.error(at, f"{word + after!r}, expected a number")
    elif kind in _ENDING:
        ended = not after or after in _TERMINATORS or text.startswith(RIGHT, found.end())
        # A sign that is no word by itself is told by the parser; after a name it has no business.
        if not ended:
            raise source.error(found.end(), f"{after!r} right after {word}, expected a blank")
        kind = _kind(kind, word)
    return Token(kind, at, word)


def _kind(kind: Kind, word: str) -> Kind:
    if kind is Kind.IDENTIFIER:
        if word in KEYWORDS:
            return Kind.KEYWORD
        if word in {"true", "false"}:
            return Kind.BOOL
    return kind
