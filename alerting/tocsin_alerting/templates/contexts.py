"""Where in an HTML document a place can be: in text, in the value of a link, in a script's string, ...

What the states are and what moves from one to another is the model of Go's html/template:
https://pkg.go.dev/html/template.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final


class State(Enum):
    """What a place is in."""

    TEXT = auto()
    TAG = auto()
    NAME = auto()
    AFTER_NAME = auto()
    BEFORE_VALUE = auto()
    COMMENT = auto()
    TITLE = auto()
    ATTRIBUTE = auto()
    URL = auto()
    SRCSET = auto()
    JS = auto()
    JS_DOUBLE = auto()
    JS_SINGLE = auto()
    JS_TEMPLATE = auto()
    JS_REGEX = auto()
    JS_BLOCK_COMMENT = auto()
    JS_LINE_COMMENT = auto()
    JS_HTML_OPEN = auto()
    JS_HTML_CLOSE = auto()
    CSS = auto()
    CSS_DOUBLE = auto()
    CSS_SINGLE = auto()
    CSS_DOUBLE_URL = auto()
    CSS_SINGLE_URL = auto()
    CSS_URL = auto()
    CSS_BLOCK_COMMENT = auto()
    CSS_LINE_COMMENT = auto()
    # After a break or continue: nothing that follows is reached.
    DEAD = auto()


class Delimiter(Enum):
    """What ends the value of an attribute."""

    NONE = ""
    DOUBLE = '"'
    SINGLE = "'"
    SPACE = " \t\n\f\r>"


class UrlPart(Enum):
    """How far into a URL a place is."""

    NONE = auto()
    BEFORE_QUERY = auto()
    QUERY = auto()
    UNKNOWN = auto()


class Slash(Enum):
    """What a slash would begin in a script."""

    REGEX = auto()
    DIVISION = auto()
    UNKNOWN = auto()


class Content(Enum):
    """What the value of an attribute is."""

    PLAIN = auto()
    URL = auto()
    CSS = auto()
    JS = auto()
    SRCSET = auto()
    # Plain, but not to be made by a template.
    UNSAFE = auto()
    SCRIPT_TYPE = auto()


@dataclass(frozen=True, slots=True)
class Context:
    """A place in a document.

    Args:
        element: the special element it is in: script, style, textarea, title; or none.
        content: in a tag, what the attribute whose name was read holds.
        braces: open braces of each template literal that a script has open.
    """

    state: State = State.TEXT
    delimiter: Delimiter = Delimiter.NONE
    url: UrlPart = UrlPart.NONE
    slash: Slash = Slash.REGEX
    content: Content = Content.PLAIN
    element: str = ""
    braces: tuple[int, ...] = ()


COMMENTS: Final = frozenset(
    {
        *(State.COMMENT, State.JS_BLOCK_COMMENT, State.JS_LINE_COMMENT, State.JS_HTML_OPEN, State.JS_HTML_CLOSE),
        *(State.CSS_BLOCK_COMMENT, State.CSS_LINE_COMMENT),
    }
)
SCRIPT_LITERALS: Final = frozenset({State.JS_DOUBLE, State.JS_SINGLE, State.JS_TEMPLATE, State.JS_REGEX})
VALUES: Final = {
    Content.URL: State.URL,
    Content.CSS: State.CSS,
    Content.JS: State.JS,
    Content.SRCSET: State.SRCSET,
}
"""What the value of an attribute is in, where it is not plain."""
_URL_ATTRIBUTES: Final = frozenset(
    {
        *("action", "archive", "background", "cite", "classid", "codebase", "data", "formaction", "href", "icon"),
        *("longdesc", "manifest", "poster", "profile", "src", "usemap", "xmlns"),
    }
)
_UNSAFE_ATTRIBUTES: Final = frozenset(
    {
        *("accept-charset", "async", "challenge", "charset", "content", "crossorigin", "defer", "enctype", "form"),
        *("formenctype", "formmethod", "formnovalidate", "http-equiv", "keytype", "language", "method", "novalidate"),
        *("pattern", "rel", "sandbox", "srcdoc", "type", "value"),
    }
)


def content_of(name: str) -> Content:
    """Return what the value of the attribute `name` (in lower case) is."""
    if name.startswith("data-"):
        name = name[5:]
    elif ":" in name:
        prefix, _, name = name.partition(":")
        if prefix == "xmlns":
            return Content.URL
    if name in _URL_ATTRIBUTES:
        return Content.URL
    if name in _UNSAFE_ATTRIBUTES:
        return Content.UNSAFE
    if name in {"style", "srcset"}:
        return Content.CSS if name == "style" else Content.SRCSET
    if name.startswith("on"):
        return Content.JS
    return Content.URL if any(part in name for part in ("src", "uri", "url")) else Content.PLAIN


def settle(context: Context) -> Context:
    """Return where a value that comes now stands: it begins an attribute's name or value."""
    if context.state is State.TAG:
        return replace(context, state=State.NAME)
    if context.state is State.BEFORE_VALUE:
        state = VALUES.get(context.content, State.ATTRIBUTE)
        return replace(context, state=state, delimiter=Delimiter.SPACE, content=Content.PLAIN)
    if context.state is State.AFTER_NAME:
        return replace(context, state=State.NAME, content=Content.PLAIN)
    return context


def in_url(context: Context, text: str) -> tuple[Context, int]:
    """Return where a place is after more of a URL, and how many characters that is: all of them."""
    if "#" in text or "?" in text:
        return replace(context, url=UrlPart.QUERY), len(text)
    if text.strip(" \t\n\f\r") and context.url is UrlPart.NONE:
        return replace(context, url=UrlPart.BEFORE_QUERY), len(text)
    return context, len(text)
