"""What text does to a place in an HTML document: opens a tag, ends an attribute, begins a comment, ..."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from tocsin_alerting.templates import scripts, styles
from tocsin_alerting.templates.contexts import (
    COMMENTS,
    SCRIPT_LITERALS,
    VALUES,
    Content,
    Context,
    Delimiter,
    State,
    content_of,
    in_url,
)
from tocsin_alerting.templates.errors import Fault

_INSIDE: Final = {"script": State.JS, "style": State.CSS, "textarea": State.TITLE, "title": State.TITLE}
_SCRIPT_TYPES: Final = frozenset(
    {
        *("application/ecmascript", "application/javascript", "application/json", "application/ld+json"),
        *("application/x-ecmascript", "application/x-javascript", "module", "text/ecmascript", "text/javascript"),
        *("text/javascript1.0", "text/javascript1.1", "text/javascript1.2", "text/javascript1.3"),
        *("text/javascript1.4", "text/javascript1.5", "text/jscript", "text/livescript", "text/x-ecmascript"),
        "text/x-javascript",
    }
)
_TAG: Final = re.compile(r"[a-zA-Z](?:[a-zA-Z0-9]|[:-](?=[a-zA-Z0-9]))*")
_NAME_END: Final = re.compile(r"[ \t\n\f\r=>]")
_UNQUOTED: Final = re.compile("[\"'<=`]")
_LINE_END: Final = re.compile("[\n\r\u2028\u2029]")


def after_text(context: Context, text: str) -> tuple[Context, int]:
    """Return where a place is after some of `text`, and how many characters that is.

    Raises:
        Fault: browsers would not agree on what it is.
    """
    if context.delimiter is Delimiter.NONE:
        ends = _element_end(context, text)
        if ends == 0:
            return Context(), 0
        return _MOVES[context.state](context, text[: len(text) if ends is None else ends])
    return _in_attribute(context, text)


def _in_attribute(context: Context, text: str) -> tuple[Context, int]:
    ends = next((index for index, char in enumerate(text) if char in context.delimiter.value), len(text))
    if context.delimiter is Delimiter.SPACE and (found := _UNQUOTED.search(text, 0, ends)):
        raise Fault(f"{found.group()} in an attribute without quotation marks, expected them around its value")
    if ends == len(text):
        # Entities are resolved, as a browser does before it looks at the value.
        left = html.unescape(text)
        while left:
            context, read = _MOVES[context.state](context, left)
            left = left[read:]
        return context, len(text)
    element = context.element
    if context.content is Content.SCRIPT_TYPE and not _is_script(text[:ends]):
        element = ""
    quoted = context.delimiter is not Delimiter.SPACE
    return Context(State.TAG, element=element), ends + quoted


def _is_script(kind: str) -> bool:
    return kind.partition(";")[0].strip().lower() in _SCRIPT_TYPES


def _element_end(context: Context, text: str) -> int | None:
    """Return where the special element that a place is in ends, or None."""
    if not context.element:
        return None
    if context.element == "script" and (context.state in SCRIPT_LITERALS or context.state in COMMENTS):
        return None
    found = re.search(rf"</{context.element}(?=[> \t\n\f/])", text, re.IGNORECASE)
    return found.start() if found and context.state is not State.TAG else None


# ---- HTML


def _text(context: Context, text: str) -> tuple[Context, int]:
    at = 0
    while True:
        at = text.find("<", at)
        if at < 0 or at + 1 == len(text):
            return context, len(text)
        if text.startswith("<!--", at):
            return Context(State.COMMENT), at + 4
        at += 1
        closing = text[at] == "/"
        at += closing
        if found := _TAG.match(text, at):
            name = found.group().lower()
            return Context(State.TAG, element=name if name in _INSIDE and not closing else ""), found.end()
        if at >= len(text):
            return context, len(text)


def _name_end(text: str, at: int) -> int:
    found = _NAME_END.search(text, at)
    end = found.start() if found else len(text)
    if odd := re.search("['\"<]", text[at:end]):
        raise Fault(f"{odd.group()} in the name of an attribute: {text[at : min(end, at + 32)]}")
    return end


def _skip(text: str) -> int:
    return len(text) - len(text.lstrip(Delimiter.SPACE.value[:-1]))


def _tag(context: Context, text: str) -> tuple[Context, int]:
    start = _skip(text)
    if start == len(text):
        return context, start
    if text[start] == ">":
        return Context(_INSIDE.get(context.element, State.TEXT), element=context.element), start + 1
    end = _name_end(text, start)
    if end == start:
        raise Fault(f"{text[start]} in a tag, expected a blank, the name of an attribute or the end of the tag")
    name = text[start:end].lower()
    content = content_of(name)
    if context.element == "script" and name == "type":
        content = Content.SCRIPT_TYPE
    state = State.NAME if end == len(text) else State.AFTER_NAME
    return Context(state, content=content, element=context.element), end


def _name(context: Context, text: str) -> tuple[Context, int]:
    end = _name_end(text, 0)
    return (context if end == len(text) else replace(context, state=State.AFTER_NAME)), end


def _after_name(context: Context, text: str) -> tuple[Context, int]:
    start = _skip(text)
    if start == len(text):
        return context, start
    if text[start] != "=":
        return replace(context, state=State.TAG), start
    return replace(context, state=State.BEFORE_VALUE), start + 1


def _before_value(context: Context, text: str) -> tuple[Context, int]:
    start = _skip(text)
    if start == len(text):
        return context, start
    delimiter = {'"': Delimiter.DOUBLE, "'": Delimiter.SINGLE}.get(text[start], Delimiter.SPACE)
    content = context.content if context.content is Content.SCRIPT_TYPE else Content.PLAIN
    state = VALUES.get(context.content, State.ATTRIBUTE)
    return (
        replace(context, state=state, delimiter=delimiter, content=content),
        start + (delimiter is not Delimiter.SPACE),
    )


def _comment(context: Context, text: str) -> tuple[Context, int]:
    end = text.find("-->")
    return (Context(), end + 3) if end >= 0 else (context, len(text))


def _stay(context: Context, text: str) -> tuple[Context, int]:
    return context, len(text)


def _block_comment(context: Context, text: str) -> tuple[Context, int]:
    end = text.find("*/")
    if end < 0:
        return context, len(text)
    back = State.JS if context.state is State.JS_BLOCK_COMMENT else State.CSS
    return replace(context, state=back), end + 2


def _line_comment(context: Context, text: str) -> tuple[Context, int]:
    css = context.state is State.CSS_LINE_COMMENT
    found = re.search("[\n\f\r]", text) if css else _LINE_END.search(text)
    if found is None:
        return context, len(text)
    return replace(context, state=State.CSS if css else State.JS), found.start()


_MOVES: Final[Mapping[State, Callable[[Context, str], tuple[Context, int]]]] = {
    State.TEXT: _text,
    State.TAG: _tag,
    State.NAME: _name,
    State.AFTER_NAME: _after_name,
    State.BEFORE_VALUE: _before_value,
    State.COMMENT: _comment,
    State.TITLE: _stay,
    State.ATTRIBUTE: _stay,
    State.URL: in_url,
    State.SRCSET: _stay,
    State.JS: scripts.in_script,
    State.JS_DOUBLE: scripts.in_literal,
    State.JS_SINGLE: scripts.in_literal,
    State.JS_TEMPLATE: scripts.in_literal,
    State.JS_REGEX: scripts.in_literal,
    State.JS_BLOCK_COMMENT: _block_comment,
    State.JS_LINE_COMMENT: _line_comment,
    State.JS_HTML_OPEN: _line_comment,
    State.JS_HTML_CLOSE: _line_comment,
    State.CSS: styles.in_sheet,
    State.CSS_DOUBLE: styles.in_string,
    State.CSS_SINGLE: styles.in_string,
    State.CSS_DOUBLE_URL: styles.in_string,
    State.CSS_SINGLE_URL: styles.in_string,
    State.CSS_URL: styles.in_string,
    State.CSS_BLOCK_COMMENT: _block_comment,
    State.CSS_LINE_COMMENT: _line_comment,
    State.DEAD: _stay,
}
