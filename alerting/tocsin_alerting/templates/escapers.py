"""What a value becomes where it stands in HTML: the functions that html/template puts behind each action."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from tocsin_alerting.templates import contexts, encoding, printing, styles
from tocsin_alerting.templates.errors import Fault
from tocsin_alerting.templates.times import Time
from tocsin_alerting.templates.values import (
    ANY,
    Function,
    Html,
    Stringer,
    Url,
    Value,
    to_bytes,
)

REFUSED: Final = "ZgotmplZ"
"""What html/template shows instead of a value that would not be safe."""

_HTML: Final = {
    "\0": "\ufffd",
    '"': "&#34;",
    "&": "&amp;",
    "'": "&#39;",
    "+": "&#43;",
    "<": "&lt;",
    ">": "&gt;",
}
_UNQUOTED: Final = {
    **_HTML,
    "\0": "&#xfffd;",
    **{char: f"&#{ord(char)};" for char in "\t\n\v\f\r =`"},
}
_NONCHARACTERS: Final = "\ufdd0-\ufdef\ufff0-\uffff"
_TAGS: Final = re.compile(r"<!--.*?(?:-->|\Z)|</?[a-zA-Z](?:[^>\"']|\"[^\"]*\"|'[^']*')*(?:>|\Z)", re.DOTALL)
_BLANKS: Final = "\t\n\f\r "
_RESERVED: Final = frozenset(b"!#$&*+,/:;=?@[]")
_UNRESERVED: Final = frozenset(b"-._~ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_JS: Final = {
    **{char: f"\\u{ord(char):04x}" for char in "\0\v\"`&'+<>\u2028\u2029"},
    "\t": "\\t",
    "\n": "\\n",
    "\f": "\\f",
    "\r": "\\r",
    "/": "\\/",
    "\\": "\\\\",
}
_JS_TEMPLATE: Final = {**_JS, "$": "\\u0024", "{": "\\u007b", "}": "\\u007d"}
_JS_REGEX: Final = {
    **{char: shown for char, shown in _JS.items() if char != "`"},
    **{char: f"\\{char}" for char in "$()*-.?[]^{|}"},
}


def _shown(value: Value) -> str:
    return "" if value is None else printing.show(value)


def _replacer(table: Mapping[str, str], *, nonchars: bool = False) -> Callable[[str], str]:
    special = re.compile("[" + re.escape("".join(table)) + (_NONCHARACTERS if nonchars else "") + "]")
    return lambda text: special.sub(lambda found: table.get(found.group()) or f"&#x{ord(found.group()):x};", text)


def _without(table: Mapping[str, str], char: str) -> dict[str, str]:
    return {key: value for key, value in table.items() if key != char}


_escape_text = _replacer(_HTML)
_escape_attribute = _replacer(_HTML, nonchars=True)
_escape_unquoted = _replacer(_UNQUOTED, nonchars=True)
# What is HTML already keeps its entities.
_normal_text = _replacer(_without(_HTML, "&"))
_normal_attribute = _replacer(_without(_HTML, "&"), nonchars=True)
_normal_unquoted = _replacer(_without(_UNQUOTED, "&"), nonchars=True)


def _text(value: Value) -> str:
    return str(value) if isinstance(value, Html) else _escape_text(_shown(value))


def _title(value: Value) -> str:
    return _normal_text(value) if isinstance(value, Html) else _escape_text(_shown(value))


def _attribute(value: Value) -> str:
    return _normal_attribute(_TAGS.sub("", value)) if isinstance(value, Html) else _escape_attribute(_shown(value))


def _unquoted(value: Value) -> str:
    if not (text := _shown(value)):
        # Nothing at all would make the next word the value.
        return REFUSED
    return _normal_unquoted(_TAGS.sub("", text)) if isinstance(value, Html) else _escape_unquoted(text)


def _name(value: Value) -> str:
    name = _shown(value).lower()
    if not re.fullmatch("[a-z0-9]+", name) or contexts.content_of(name) is not contexts.Content.PLAIN:
        return REFUSED
    return name


def _safe_url(text: str) -> bool:
    scheme, colon, _ = text.partition(":")
    return not colon or "/" in scheme or scheme.lower() in {"http", "https", "mailto"}


def _filter_url(value: Value) -> str:
    if isinstance(value, Url):
        return value
    text = _shown(value)
    return text if _safe_url(text) else f"#{REFUSED}"


def _encode_url(text: str, *, keep: bool) -> str:
    """Return `text` percent-encoded; with `keep`, what has a meaning in a URL stays."""
    data, parts = to_bytes(text), []
    for index, byte in enumerate(data):
        escape = keep and byte == 0x25 and len(data) > index + 2 and {*data[index + 1 : index + 3]} <= _HEX
        plain = byte in _UNRESERVED or (keep and byte in _RESERVED) or escape
        parts.append(chr(byte) if plain else f"%{byte:02x}")
    return "".join(parts)


def _normal_url(value: Value) -> str:
    return _encode_url(_shown(value), keep=True)


def _url_part(value: Value) -> str:
    return _encode_url(_shown(value), keep=isinstance(value, Url))


def _srcset(value: Value) -> str:
    if isinstance(value, Url):
        # Commas would begin another image.
        return _encode_url(value, keep=True).replace(",", "%2c")
    return ",".join(map(_srcset_image, _shown(value).split(",")))


def _srcset_image(image: str) -> str:
    before = image[: len(image) - len(image.lstrip(_BLANKS))]
    url, *_ = re.split(f"[{_BLANKS}]", image[len(before) :], maxsplit=1)
    rest = image[len(before) + len(url) :]
    if not _safe_url(url) or not re.fullmatch(r"[\t\n\f\r a-zA-Z0-9]*", rest):
        return f"#{REFUSED}"
    return before + _encode_url(url, keep=True) + rest


def _js_value(value: Value) -> str:
    if isinstance(value, Stringer) and not isinstance(value, Time):
        value = value.go_string()
    try:
        text = encoding.encode(value)
    except Fault as fault:
        said = str(fault).replace("*/", "* /").replace("</", "< /")
        return f" /* {said} */null "
    edges = {text[0], text[-1]}
    # A word must not run into the one before it.
    return f" {text} " if any(char.isalnum() or char in "$_" for char in edges) else text


_js_string = _replacer(_JS)
_js_template = _replacer(_JS_TEMPLATE)
_js_pattern = _replacer(_JS_REGEX)


def _css_value(value: Value) -> str:
    found = styles.safe_value(_shown(value))
    return REFUSED if found is None else found


_ANYTHING: Final = (ANY,)
ESCAPERS: Final[Mapping[str, Function]] = {
    f"_{name}": Function(name, call, _ANYTHING)
    for name, call in {
        "text": _text,
        "title": _title,
        "attribute": _attribute,
        "unquoted": _unquoted,
        "name": _name,
        "comment": lambda _: "",
        "filter_url": _filter_url,
        "normal_url": _normal_url,
        "url_part": _url_part,
        "srcset": _srcset,
        "js_value": _js_value,
        "js_string": lambda value: _js_string(_shown(value)),
        "js_template": lambda value: _js_template(_shown(value)),
        "js_regex": lambda value: _js_pattern(_shown(value)) or "(?:)",
        "css_string": lambda value: styles.escape(_shown(value)),
        "css_value": _css_value,
    }.items()
}
