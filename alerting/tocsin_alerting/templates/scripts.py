"""Scripts within HTML: where strings, comments and regular expressions begin and end."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from tocsin_alerting.templates.contexts import Context, Slash, State
from tocsin_alerting.templates.errors import Fault

_JS_SPECIAL: Final = re.compile("[\"`'/{}<#-]")
_JS_SPACES: Final = " \t\n\v\f\r\u2028\u2029\u00a0\ufeff"
_WORDS_BEFORE_REGEX: Final = frozenset(
    {
        *("break", "case", "continue", "delete", "do", "else", "finally", "in", "instanceof", "return", "throw"),
        *("try", "typeof", "void"),
    }
)
_LAST_WORD: Final = re.compile(r"[\w$]+\Z")


def _slash_after(text: str, before: Slash) -> Slash:
    """Return what a slash after `text` begins."""
    text = text.rstrip(_JS_SPACES)
    if not text:
        return before
    last = text[-1]
    if last in "+-":
        # x++ / y divides, x + /y/ does not.
        return Slash.REGEX if (len(text) - len(text.rstrip(last))) % 2 else Slash.DIVISION
    if last == ".":
        return Slash.DIVISION if text[-2:-1].isdigit() else Slash.REGEX
    if last in ",<>=*%&|^?!~([:;{}":
        return Slash.REGEX
    word = _LAST_WORD.search(text)
    return Slash.REGEX if word and word.group() in _WORDS_BEFORE_REGEX else Slash.DIVISION


def in_script(context: Context, text: str) -> tuple[Context, int]:
    """Return where a place is after the next piece of a script, and how many characters that is.

    Raises:
        Fault: a slash that may be two things.
    """
    found = _JS_SPECIAL.search(text)
    if found is None:
        return replace(context, slash=_slash_after(text, context.slash)), len(text)
    at, char = found.start(), found.group()
    context = replace(context, slash=_slash_after(text[:at], context.slash))
    if char in _JS_QUOTES:
        return replace(context, state=_JS_QUOTES[char], slash=Slash.REGEX), at + 1
    for mark, state in _JS_COMMENTS.items():
        if text.startswith(mark, at):
            return replace(context, state=state), at + len(mark)
    if char == "/":
        return _slash(context), at + 1
    if char in "{}" and context.braces:
        return _brace(context, char), at + 1
    return replace(context, slash=_slash_after(char, context.slash)), at + 1


def _slash(context: Context) -> Context:
    if context.slash is Slash.UNKNOWN:
        raise Fault("a / that divides or begins a regular expression, expected a ; or parentheses before it")
    begins = context.slash is Slash.REGEX
    return replace(context, state=State.JS_REGEX if begins else State.JS, slash=Slash.REGEX)


def _brace(context: Context, char: str) -> Context:
    *outer, depth = context.braces
    if char == "}" and depth == 0:
        return replace(context, braces=tuple(outer), state=State.JS_TEMPLATE)
    return replace(context, braces=(*outer, depth + (1 if char == "{" else -1)), slash=Slash.REGEX)


_JS_QUOTES: Final = {'"': State.JS_DOUBLE, "'": State.JS_SINGLE, "`": State.JS_TEMPLATE}
_JS_COMMENTS: Final = {
    "//": State.JS_LINE_COMMENT,
    "/*": State.JS_BLOCK_COMMENT,
    "<!--": State.JS_HTML_OPEN,
    "-->": State.JS_HTML_CLOSE,
    "#!": State.JS_LINE_COMMENT,
}
_JS_ENDS: Final = {
    State.JS_DOUBLE: re.compile(r'\\|"'),
    State.JS_SINGLE: re.compile(r"\\|'"),
    State.JS_REGEX: re.compile(r"\\|/|\[|\]"),
    State.JS_TEMPLATE: re.compile(r"\\|`|\$\{"),
}


def in_literal(context: Context, text: str) -> tuple[Context, int]:
    """Return where a place is after more of a string, template or regular expression.

    Raises:
        Fault: it is cut off in the middle of an escape or of a set of characters.
    """
    at, charset = 0, False
    while found := _JS_ENDS[context.state].search(text, at):
        mark, at = found.group(), found.end()
        if mark == "\\":
            if at == len(text):
                raise Fault("a backslash at the end of a string in a script, expected what it escapes")
            at += 1
        elif mark in "[]":
            charset = mark == "["
        elif mark == "${":
            return replace(context, state=State.JS, slash=Slash.REGEX, braces=(*context.braces, 0)), at
        elif not charset:
            return replace(context, state=State.JS, slash=Slash.DIVISION), at
    if charset:
        raise Fault("an unfinished set of characters in a regular expression, expected ]")
    return context, len(text)
