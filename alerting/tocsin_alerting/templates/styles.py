"""Style sheets within HTML: escapes, and where strings, links and comments begin and end.

Source: https://www.w3.org/TR/css-syntax-3/#consume-escaped-code-point.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from tocsin_alerting.templates.contexts import Context, State, in_url
from tocsin_alerting.templates.errors import Fault

_ESCAPED: Final = re.compile(r"\\(?:([0-9a-fA-F]{1,6})(?:\r\n|[ \t\n\f\r])?|(.))", re.DOTALL)
_SPECIAL: Final = re.compile("[\0\t\n\f\r\"&'()+/:;<>\\\\{}]")
_UNSAFE_VALUE: Final = re.compile("[\0\"'()/;@\\[\\\\\\]`{}<>]|--")
_CSS_SPECIAL: Final = re.compile("[(\"'/]")
_CSS_SPACES: Final = "\t\n\f\r "
_CSS_MARKS: Final = {
    "//": State.CSS_LINE_COMMENT,
    "/*": State.CSS_BLOCK_COMMENT,
    '"': State.CSS_DOUBLE,
    "'": State.CSS_SINGLE,
}
_CSS_ENDS: Final = {
    State.CSS_DOUBLE: re.compile(r'\\|"'),
    State.CSS_DOUBLE_URL: re.compile(r'\\|"'),
    State.CSS_SINGLE: re.compile(r"\\|'"),
    State.CSS_SINGLE_URL: re.compile(r"\\|'"),
    State.CSS_URL: re.compile(r"\\|[\t\n\f\r )]"),
}


def decode(text: str) -> str:
    """Return `text` with its escapes resolved."""

    def resolved(found: re.Match[str]) -> str:
        if not found[1]:
            return found[2]
        number = int(found[1], 16)
        return chr(number) if number <= 0x10FFFF and not 0xD800 <= number < 0xE000 else "\ufffd"

    return _ESCAPED.sub(resolved, text)


def escape(text: str) -> str:
    """Return `text` for a string within a style sheet."""

    def escaped(found: re.Match[str]) -> str:
        if found.group() == "\\":
            return "\\\\"
        after = text[found.end() : found.end() + 1]
        # A blank ends the number where what follows would belong to it.
        ends = " " if not after or after in "0123456789abcdefABCDEF\t\n\f\r " else ""
        return f"\\{ord(found.group()):x}{ends}"

    return _SPECIAL.sub(escaped, text)


def safe_value(text: str) -> str | None:
    """Return `text` as the value of a property, or None if it could be more than that."""
    text = decode(text)
    if _UNSAFE_VALUE.search(text):
        return None
    name = re.sub("[^a-zA-Z0-9_-]", "", text).lower()
    return None if "expression" in name or "mozbinding" in name else text


def in_sheet(context: Context, text: str) -> tuple[Context, int]:
    """Return where a place is after the next piece of a style sheet, and how many characters that is."""
    for found in _CSS_SPECIAL.finditer(text):
        at = found.start()
        if found.group() == "(":
            if re.search(r"(?<![\w-])url\Z", text[:at].rstrip(_CSS_SPACES), re.IGNORECASE):
                return _begin_url(context, text, at + 1)
            continue
        for mark, state in _CSS_MARKS.items():
            if text.startswith(mark, at):
                return replace(context, state=state), at + len(mark)
    return context, len(text)


def _begin_url(context: Context, text: str, at: int) -> tuple[Context, int]:
    at += len(text[at:]) - len(text[at:].lstrip(_CSS_SPACES))
    state = {'"': State.CSS_DOUBLE_URL, "'": State.CSS_SINGLE_URL}.get(text[at : at + 1], State.CSS_URL)
    return replace(context, state=state), at + (state is not State.CSS_URL)


def in_string(context: Context, text: str) -> tuple[Context, int]:
    """Return where a place is after more of a string or URL within a style sheet.

    Raises:
        Fault: it is cut off in the middle of an escape.
    """
    at = 0
    while found := _CSS_ENDS[context.state].search(text, at):
        if found.group() != "\\":
            return replace(context, state=State.CSS), found.end()
        at = found.end() + 1
        if at > len(text):
            raise Fault("a backslash at the end of a string in a style sheet, expected what it escapes")
        context, _ = in_url(context, decode(text[:at]))
    context, _ = in_url(context, decode(text[at:]))
    return context, len(text)
