"""The functions a template can call: Go's own, and Alertmanager's.

Sources: https://pkg.go.dev/text/template#hdr-Functions and the function list of Alertmanager's notification reference.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote_plus, unquote_to_bytes

import re2

from tocsin_alerting.templates import constants, encoding, printing, times, titles
from tocsin_alerting.templates.data import Data
from tocsin_alerting.templates.errors import Fault
from tocsin_alerting.templates.values import (
    ANY,
    ANYS,
    NIL,
    STRING,
    STRINGS,
    AnyMap,
    Anys,
    Byte,
    Function,
    Html,
    Strings,
    Url,
    Value,
    equal,
    from_bytes,
    known,
    less,
    to_bytes,
    truth,
    type_name,
)

REGEX_MEMORY: Final = 64 << 20
"""Bytes one regular expression may take."""
_HTML: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;", "\0": "\ufffd"}
_HTML_SPECIAL: Final = re.compile("[&<>\"'\0]")
_JS_SPECIAL: Final = re.compile(r"[\\'\"<>&=\x00-\x1f\x7f-\U0010ffff]")
_JS: Final = {"\\": "\\\\", "'": "\\'", '"': '\\"'}
_TEMPLATE_DOLLAR: Final = re.compile(r"\$(?:(\$)|\{(\w+)\}|(\w+))")
_SPACES: Final = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_PREFIXES: Final = ("m", "u", "n", "p", "f", "a", "z", "y")


# ---- Go's own


def escape_html(text: str) -> str:
    """Return `text` with the characters that HTML gives a meaning escaped."""
    return _HTML_SPECIAL.sub(lambda found: _HTML[found.group()], text)


def _text_of(values: tuple[Value, ...]) -> str:
    if len(values) == 1 and isinstance(values[0], str):
        return values[0]
    return printing.sprint(["<no value>" if value is None else value for value in values])


def escape_js(text: str) -> str:
    """Return `text` for a string within JavaScript."""

    def escaped(found: re.Match[str]) -> str:
        char = found.group()
        if char in _JS:
            return _JS[char]
        if char > "\x7f" and char.isprintable():
            return char
        number = 0xFFFD if 0xD800 <= ord(char) < 0xE000 else ord(char)
        return f"\\u{number:04X}"

    return _JS_SPECIAL.sub(escaped, text)


def _length(value: Value) -> int:
    if isinstance(value, str):
        return len(to_bytes(value))
    if isinstance(value, list | dict):
        return len(value)
    raise Fault(f"the length of {type_name(value)}, expected a string, a list or a map")


def _place(index: Value, size: int) -> int:
    if not isinstance(index, int) or isinstance(index, bool):
        raise Fault(f"{type_name(index)} as an index, expected a whole number")
    if not 0 <= index < size:
        raise Fault(f"index {index} of {size} items, expected one from 0 to below {size}")
    return int(index)


def _index(value: Value, *indexes: Value) -> Value:
    for index in map(known, indexes):
        value = known(value)
        if isinstance(value, dict):
            if not isinstance(index, str) or isinstance(index, Html | Url):
                raise Fault(f"{type_name(index)} as the key of a map, expected a string")
            value = value.get(index, NIL if isinstance(value, AnyMap) else "")
        elif isinstance(value, list):
            value = value[_place(index, len(value))]
        elif isinstance(value, str):
            raw = to_bytes(value)
            value = Byte(raw[_place(index, len(raw))])
        else:
            raise Fault(f"an index of {type_name(value)}, expected a list, a map or a string")
    return value


def _slice(value: Value, *indexes: Value) -> Value:
    value = known(value)
    if len(indexes) > 3 or not isinstance(value, str | list):
        raise Fault(f"a slice of {type_name(value)} by {len(indexes)} indexes, expected a list or string and at most 3")
    if isinstance(value, str) and len(indexes) == 3:
        raise Fault("three indexes for a slice of a string, expected at most two")
    items: bytes | list[Value] = to_bytes(value) if isinstance(value, str) else value
    # A list may be sliced up to its capacity; ours is its length.
    places = [_place(known(index), len(items) + 1) for index in indexes]
    if places != sorted(places):
        raise Fault("the indexes of a slice, expected them in order")
    start, end = places[0] if places else 0, places[1] if len(places) > 1 else len(items)
    if isinstance(items, bytes):
        return from_bytes(items[start:end])
    return type(items)(items[start:end])


def _call(function: Value, *_: Value) -> Value:
    raise Fault(f"a call of {type_name(known(function))}, expected a function")


def _greater(first: Value, other: Value) -> bool:
    return not (less(first, other) or equal(first, other))


_ANYTHING: Final = (ANY,)
_TWO: Final = (ANY, ANY)
GO: Final[Mapping[str, Function]] = {
    function.name: function
    for function in (
        # Both stop at the first value that decides; the evaluation sees to that.
        Function("and", lambda *values: values[-1], _TWO, variadic=True),
        Function("or", lambda *values: values[-1], _TWO, variadic=True),
        Function("not", lambda value: not truth(value), _ANYTHING),
        Function("eq", equal, _TWO, variadic=True),
        Function("ne", lambda first, other: not equal(first, other), _TWO),
        Function("lt", less, _TWO),
        Function("le", lambda first, other: less(first, other) or equal(first, other), _TWO),
        Function("gt", _greater, _TWO),
        Function("ge", lambda first, other: not less(first, other), _TWO),
        Function("len", lambda value: _length(known(value)), _ANYTHING),
        Function("index", _index, _TWO, variadic=True),
        Function("slice", _slice, _TWO, variadic=True),
        Function("print", lambda *values: printing.sprint(values), _ANYTHING, variadic=True),
        Function("printf", lambda text, *values: printing.sprintf(text, values), (STRING, ANY), variadic=True),
        Function("println", lambda *values: printing.sprintln(values), _ANYTHING, variadic=True),
        Function("html", lambda *values: escape_html(_text_of(values)), _ANYTHING, variadic=True),
        Function("js", lambda *values: escape_js(_text_of(values)), _ANYTHING, variadic=True),
        Function("urlquery", lambda *values: quote_plus(to_bytes(_text_of(values))), _ANYTHING, variadic=True),
        Function("call", _call, _TWO, variadic=True),
    )
}


# ---- Alertmanager's


def _upper(char: str) -> str:
    """Return the one character that is `char` in upper case; what would become several stays."""
    return changed if len(changed := char.upper()) == 1 else char


def _lower(char: str) -> str:
    return char.lower()[0]


def _regex(pattern: str) -> re2.Pattern:
    options = re2.Options()
    options.max_mem = REGEX_MEMORY
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise Fault(f"the regular expression {pattern!r}: {_said(error)}") from None


def _said(error: Exception) -> str:
    said = error.args[0] if error.args else "cannot be read"
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


def _clean(text: str) -> str:
    """Return `text` with bytes that are no UTF-8 replaced: RE2 takes none."""
    return to_bytes(text).decode(errors="replace")


def _match(pattern: str, text: str) -> bool:
    return _regex(_clean(pattern)).search(_clean(text)) is not None


def _replace_all(pattern: str, template: str, text: str) -> str:
    compiled = _regex(_clean(pattern))
    text, names = _clean(text), compiled.groupindex
    parts: list[str] = []
    at, last = 0, -1
    for found in compiled.finditer(text):
        if found.start() == found.end() == last:
            # Nothing is found again right where the last match ended.
            continue
        parts += (text[at : found.start()], _expand(template, found, names, compiled.groups))
        at = last = found.end()
    parts.append(text[at:])
    return "".join(parts)


def _expand(template: str, found: re2.Match, names: Mapping[str, int], groups: int) -> str:
    def group(dollar: re.Match[str]) -> str:
        if dollar[1]:
            return "$"
        name = dollar[2] or dollar[3]
        number = int(name) if name.isascii() and name.isdigit() and len(name) < 6 else names.get(name, groups + 1)
        return (found.group(number) or "") if number <= groups else ""

    return _TEMPLATE_DOLLAR.sub(group, template)


def _unescape_url(text: str) -> str:
    wrong = re.search(r"%(?![0-9a-fA-F]{2}).{0,2}", text, re.DOTALL)
    if wrong:
        raise Fault(f"{wrong.group()!r} in a URL, expected % and two hexadecimal digits")
    return from_bytes(unquote_to_bytes(to_bytes(text.replace("+", " "))))


def _number(value: Value) -> float:
    value = known(value)
    if isinstance(value, times.Duration):
        return int(value) / times.SECOND
    if isinstance(value, str):
        lowered = value.lower().lstrip("+-")
        if lowered in {"inf", "infinity"}:
            return -math.inf if value.startswith("-") else math.inf
        found = math.nan if value.lower() == "nan" else constants.parse_float(value)
        if found is None:
            raise Fault(f"{value!r}, expected a number")
        return found
    if isinstance(value, int | float) and not isinstance(value, bool | Byte):
        return float(value)
    raise Fault(f"{type_name(value)}, expected a number or a string that holds one")


def humanize_duration(value: Value) -> str:
    """Return seconds as people say them: `1d 1h 1m 1s`, `45.3s`, `500ms`.

    Raises:
        Fault: it is no number.
    """
    seconds = _number(value)
    if not math.isfinite(seconds):
        return printing.format_float(seconds, "g", 4)
    size = abs(seconds)
    if size >= 1:
        return _long_duration(seconds)
    prefix = ""
    for smaller in _PREFIXES if size else ():
        if size >= 1:
            break
        prefix, size, seconds = smaller, size * 1000, seconds * 1000
    return f"{printing.format_float(seconds, 'g', 4)}{prefix}s"


def _long_duration(seconds: float) -> str:
    sign, size = ("-" if seconds < 0 else ""), abs(seconds)
    whole = int(size)
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{sign}{days}d {hours}h {minutes}m {whole % 60}s"
    if hours:
        return f"{sign}{hours}h {minutes}m {whole % 60}s"
    if minutes:
        return f"{sign}{minutes}m {whole % 60}s"
    return f"{sign}{printing.format_float(size, 'g', 4)}s"


def _dict(*values: Value) -> AnyMap:
    if len(values) % 2:
        raise Fault(f"{len(values)} arguments, expected names and values in pairs")
    made = AnyMap()
    for name, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(name, str) or isinstance(name, Html | Url):
            raise Fault(f"{type_name(name)} as a name, expected a string")
        made[name] = value
    return made


def _to_date(layout: str, text: str) -> times.Time:
    try:
        return times.parse(layout, text)
    except Fault:
        return times.ZERO


def _decode_base64(text: str) -> str:
    try:
        return from_bytes(base64.b64decode(to_bytes(text), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        raise Fault(f"{text!r}, expected URL-safe base64") from None


def _join(separator: str, texts: Strings) -> str:
    return separator.join(texts)


def alertmanager(clock: Callable[[], float]) -> dict[str, Function]:
    """Return Alertmanager's functions.

    Args:
        clock: returns Unix seconds; what `now` and `since` go by.
    """

    def now() -> times.Time:
        return times.from_unix(clock())

    def since(moment: times.Time) -> times.Duration:
        return times.Duration(max(min(now().nanoseconds - moment.nanoseconds, 2**63 - 1), -(2**63)))

    def route_label(data: Value, name: str) -> str:
        return data.route_labels.get(name, "") if isinstance(data, Data) else ""

    one, two = (STRING,), (STRING, STRING)
    made = (
        Function("toUpper", lambda text: "".join(map(_upper, text)), one),
        Function("toLower", lambda text: "".join(map(_lower, text)), one),
        Function("title", titles.title, one),
        Function("trimSpace", lambda text: text.strip(_SPACES), one),
        Function("join", _join, (STRING, STRINGS)),
        Function("match", _match, two),
        Function("reReplaceAll", _replace_all, (STRING, STRING, STRING)),
        Function("safeHtml", Html, one),
        Function("safeUrl", Url, one),
        Function("stringSlice", lambda *texts: Strings(texts), one, variadic=True),
        Function("date", lambda layout, moment: moment.format(layout), (STRING, times.TIME)),
        Function(
            "tz",
            lambda zone, moment: times.Time(moment.nanoseconds, times.load_zone(zone)),
            (STRING, times.TIME),
        ),
        Function("since", since, (times.TIME,)),
        Function("now", now),
        Function("toDate", _to_date, two),
        Function("mustToDate", times.parse, two),
        Function("humanizeDuration", humanize_duration, _ANYTHING),
        Function("toJson", encoding.encode, _ANYTHING),
        Function("urlUnescape", _unescape_url, one),
        Function("dict", _dict, _ANYTHING, variadic=True),
        Function("list", lambda *values: Anys(values), _ANYTHING, variadic=True),
        Function("append", lambda items, *values: Anys([*items, *values]), (ANYS, ANY), variadic=True),
        Function("routeLabels", route_label, one, wants_data=True),
        Function("base64encode", lambda text: base64.urlsafe_b64encode(to_bytes(text)).decode(), one),
        Function("base64decode", _decode_base64, one),
    )
    return {function.name: function for function in made}
