"""How values are printed: Go's `%v` for every kind of value, and all the verbs of its `printf`.

Source: https://pkg.go.dev/fmt.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tocsin_alerting.templates.times import Time
from tocsin_alerting.templates.values import NIL, Byte, Stringer, Struct, Value, kind, to_bytes, type_name

_LARGEST: Final = 1_000_000
"""The most a width or precision may be."""
_EXPONENT_FROM: Final = 6
"""The power of ten from which on a number in its shortest form has an exponent."""
_SPECIFIED: Final = re.compile(r"%([#0+\- ]*)")
_DIGITS: Final = re.compile(r"[0-9]+")
_INDEX: Final = re.compile(r"\[([^\]]*)\]")
_USUAL: Final = frozenset("sdvqtf%")
_TEXT_VERBS: Final = frozenset("vsxXq")
_BASES: Final[Mapping[str, Callable[[int], str]]] = {
    "d": str,
    "v": str,
    "b": lambda value: f"{value:b}",
    "o": lambda value: f"{value:o}",
    "O": lambda value: f"{value:o}",
    "x": lambda value: f"{value:x}",
    "X": lambda value: f"{value:X}",
}
_ESCAPES: Final = {
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
    "\\": r"\\",
}


@dataclass(frozen=True, slots=True)
class _Form:
    """The flags of one `%` specification."""

    minus: bool = False
    plus: bool = False
    sharp: bool = False
    space: bool = False
    zero: bool = False
    width: int | None = None
    precision: int | None = None
    # %+v names the fields of structs, %#v shows Go source code.
    named: bool = False
    source: bool = False
    # Within a complaint about a verb, values do not say themselves how they are printed.
    complaining: bool = False


_PLAIN: Final = _Form()


def show(value: Value) -> str:
    """Return `value` as `{{ value }}` prints it, but nil as `<nil>`."""
    if type(value) is str:
        return value
    return _value(value, "v", _PLAIN, depth=0)


def sprint(values: Sequence[Value]) -> str:
    """Return the values one after the other, with a blank between two that are both no strings."""
    parts: list[str] = []
    before_text = True
    for index, value in enumerate(values):
        text = isinstance(value, str)
        if index and not text and not before_text:
            parts.append(" ")
        parts.append(show(value))
        before_text = text
    return "".join(parts)


def sprintln(values: Sequence[Value]) -> str:
    """Return the values with a blank between each two, and a newline."""
    return " ".join(map(show, values)) + "\n"


def sprintf(pattern: str, values: Sequence[Value]) -> str:
    """Return `pattern` with each `%` specification replaced by a value, or by a note on what is wrong with it."""
    return _Format(pattern, values).run()


class _Format:
    """One run through a format, with the argument that comes next."""

    def __init__(self, pattern: str, values: Sequence[Value]) -> None:
        self._pattern = pattern
        self._values = values
        self._at = 0
        self._next = 0
        self._reordered = False
        self._good = True

    def run(self) -> str:
        parts: list[str] = []
        while True:
            found = _SPECIFIED.search(self._pattern, self._at)
            if found is None:
                parts.append(self._pattern[self._at :])
                break
            parts.append(self._pattern[self._at : found.start()])
            self._at = found.end()
            parts.append(self._specification(found[1]))
        if not self._reordered and self._next < len(self._values):
            extra = ", ".join(
                "<nil>" if value is None else f"{type_name(value)}={show(value)}"
                for value in self._values[self._next :]
            )
            parts.append(f"%!(EXTRA {extra})")
        return "".join(parts)

    def _specification(self, flags: str) -> str:
        self._good, notes = True, ""
        if not flags and self._pattern[self._at : self._at + 1] in _USUAL:
            self._at += 1
            return self._verb(self._pattern[self._at - 1], _PLAIN)
        chosen = self._index()
        minus, zero = "-" in flags, "0" in flags
        width, note = self._number(chosen=chosen)
        notes += "%!(BADWIDTH)" if note else ""
        if width is not None and width < 0:
            width, minus, zero = -width, True, False
        precision = None
        chosen = chosen and width is None
        if self._pattern.startswith(".", self._at):
            self._at += 1
            if chosen:
                self._good = False
            chosen = self._index()
            precision, note = self._number(chosen=chosen)
            star = self._pattern[self._at - 1 : self._at] == "*"
            if precision is not None and precision < 0:
                precision, note = None, True
            elif precision is None and not star and not note:
                precision = 0
            notes += "%!(BADPREC)" if note else ""
            chosen = chosen and not star
        if not chosen:
            self._index()
        if self._at >= len(self._pattern):
            return notes + "%!(NOVERB)"
        verb = self._pattern[self._at]
        self._at += 1
        form = _Form(minus, "+" in flags, "#" in flags, " " in flags, zero, width, precision)
        return notes + self._verb(verb, form)

    def _verb(self, verb: str, form: _Form) -> str:
        if verb == "%":
            return "%"
        if not self._good:
            return f"%!{verb}(BADINDEX)"
        if self._next >= len(self._values):
            return f"%!{verb}(MISSING)"
        value = self._values[self._next]
        self._next += 1
        if verb == "v" and form is not _PLAIN:
            form = dataclasses.replace(form, sharp=False, source=form.sharp, plus=False, named=form.plus)
            if form.source:
                form = dataclasses.replace(form, named=False)
        return _argument(value, verb, form)

    def _index(self) -> bool:
        """Take `[n]`, which says which argument is next; return whether there was one."""
        if not self._pattern.startswith("[", self._at):
            return False
        self._reordered = True
        found = _INDEX.match(self._pattern, self._at)
        if found is None:
            self._good = False
            self._at += 1
            return True
        self._at = found.end()
        number = int(found[1]) if found[1].isascii() and found[1].isdigit() and len(found[1]) < 8 else 0
        if 1 <= number <= len(self._values):
            self._next = number - 1
        else:
            self._good = False
        return True

    def _number(self, *, chosen: bool) -> tuple[int | None, bool]:
        """Take a width or precision, or the argument that `*` stands for; return whether it was a bad one."""
        if self._pattern.startswith("*", self._at):
            self._at += 1
            value = self._values[self._next] if self._next < len(self._values) else None
            self._next += self._next < len(self._values)
            if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST:
                return int(value), False
            return None, True
        found = _DIGITS.match(self._pattern, self._at)
        if found is None:
            return None, False
        self._at = found.end()
        if chosen:
            # "%[3]2d" is an index in the wrong place.
            self._good = False
        if len(found[0]) < 8 and int(found[0]) <= _LARGEST:
            return int(found[0]), False
        # A number that large ends the format.
        self._at = len(self._pattern)
        return None, False


def _argument(value: Value, verb: str, form: _Form) -> str:
    if verb == "T":
        return _pad(type_name(value), form)
    if value is None or value is NIL:
        return _pad("<nil>", form) if verb == "v" else f"%!{verb}(<nil>)"
    return _value(value, verb, form, depth=0)


def _value(value: Value, verb: str, form: _Form, *, depth: int) -> str:
    if (said := _said(value, verb, form)) is not None:
        return said
    if shape := kind(value):
        result = _SHAPES[shape](value, verb, form)
        return _complaint(value, verb, form) if result is None else result
    if isinstance(value, dict):
        return _map(value, verb, form, depth)
    if isinstance(value, list):
        return _list(value, verb, form, depth)
    if isinstance(value, Struct):
        return _struct(value, verb, form, depth)
    return "interface {}(nil)" if form.source and depth else "<nil>"


def _said(value: Value, verb: str, form: _Form) -> str | None:
    """Return how the value itself says that it is printed, or None."""
    if form.complaining:
        return None
    if form.source:
        return value.source() if isinstance(value, Time) else None
    return _text(value.go_string(), verb, form) if verb in _TEXT_VERBS and isinstance(value, Stringer) else None


def _complaint(value: Value, verb: str, form: _Form) -> str:
    """Return the note that `verb` does not suit `value`."""
    plain = dataclasses.replace(form, complaining=True)
    return f"%!{verb}({type_name(value)}={_value(value, 'v', plain, depth=0)})"


def _map(value: Mapping[str, Value], verb: str, form: _Form, depth: int) -> str:
    pairs = [
        f"{_value(key, verb, form, depth=depth + 1)}:{_value(value[key], verb, form, depth=depth + 1)}"
        for key in sorted(value)
    ]
    return f"{type_name(value)}{{{', '.join(pairs)}}}" if form.source else f"map[{' '.join(pairs)}]"


def _list(value: Sequence[Value], verb: str, form: _Form, depth: int) -> str:
    shown = [_value(item, verb, form, depth=depth + 1) for item in value]
    return f"{type_name(value)}{{{', '.join(shown)}}}" if form.source else f"[{' '.join(shown)}]"


def _struct(value: Struct, verb: str, form: _Form, depth: int) -> str:
    fields = [
        (f"{name}:" if form.named or form.source else "") + _value(field, verb, form, depth=depth + 1)
        for name, field in value.shown_fields()
    ]
    return f"{type_name(value)}{{{', '.join(fields)}}}" if form.source else f"{{{' '.join(fields)}}}"


# ---- single values


def _pad(text: str, form: _Form) -> str:
    if form.width is None or len(text) >= form.width:
        return text
    if form.minus:
        return text.ljust(form.width)
    return text.rjust(form.width, "0" if form.zero else " ")


def _bool(value: Value, verb: str, form: _Form) -> str | None:
    return _pad("true" if value else "false", form) if verb in "tv" else None


def _string(value: Value, verb: str, form: _Form) -> str | None:
    return _text(str(value), verb, form) if verb in _TEXT_VERBS else None


def _text(text: str, verb: str, form: _Form) -> str:
    if verb in "xX":
        return _hex(to_bytes(text), verb, form)
    if form.precision is not None:
        text = text[: form.precision]
    if verb == "q" or form.source:
        return _pad(_quoted(text, form), form)
    return _pad(text, form)


def _hex(data: bytes, verb: str, form: _Form) -> str:
    if form.precision is not None:
        data = data[: form.precision]
    prefix = "0x" if form.sharp else ""
    shown = prefix + data.hex() if data else ""
    if form.space:
        shown = " ".join(prefix + f"{byte:02x}" for byte in data)
    return _pad(shown.upper() if verb == "X" else shown, form)


def _quoted(text: str, form: _Form) -> str:
    if form.sharp and all((char >= " " or char == "\t") and char not in "`\x7f\ufeff" for char in text):
        return f"`{text}`"
    return quote(text, ascii_only=form.plus)


def quote(text: str, mark: str = '"', *, ascii_only: bool = False) -> str:
    """Return `text` as a constant of Go."""
    return mark + "".join(_quoted_char(char, mark, ascii_only=ascii_only) for char in text) + mark


def _quoted_char(char: str, mark: str, *, ascii_only: bool) -> str:
    number = ord(char)
    if char == mark:
        return "\\" + char
    if char in _ESCAPES:
        return _ESCAPES[char]
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    if char.isprintable() and (number < 0x80 or not ascii_only):
        return char
    if number < 0x20 or number == 0x7F:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _integer(value: int, verb: str, form: _Form) -> str | None:
    number = int(value)
    if verb in _BASES:
        if form.source and isinstance(value, Byte):
            return _whole(number, "x", dataclasses.replace(form, sharp=True))
        return _whole(number, verb, form)
    if verb in "cqU":
        return _rune(number, verb, form)
    return None


def _whole(number: int, verb: str, form: _Form) -> str:
    sign = "-" if number < 0 else "+" if form.plus else " " if form.space else ""
    digits = _BASES[verb](abs(number))
    least = 0
    if form.precision is not None:
        least = form.precision
        if not least and not number:
            return " " * (form.width or 0)
    elif form.zero and not form.minus and form.width is not None:
        least = form.width - len(sign)
    digits = digits.rjust(least, "0")
    prefix = ""
    if form.sharp:
        prefix = {"b": "0b", "x": "0x", "X": "0X"}.get(verb, "")
        if verb == "o" and not digits.startswith("0"):
            prefix = "0"
    if verb == "O":
        prefix = "0o"
    return _pad(sign + prefix + digits, dataclasses.replace(form, zero=False))


def _rune(number: int, verb: str, form: _Form) -> str:
    char = chr(number) if 0 <= number <= 0x10FFFF and not 0xD800 <= number < 0xE000 else "\ufffd"
    if verb == "c":
        return _pad(char, form)
    if verb == "q":
        return _pad(quote(char, "'", ascii_only=form.plus), form)
    shown = f"U+{number & 0xFFFFFFFFFFFFFFFF:0{max(4, form.precision or 0)}X}"
    if form.sharp and char.isprintable():
        shown += f" '{char}'"
    return _pad(shown, dataclasses.replace(form, zero=False))


def _float(value: float, verb: str, form: _Form) -> str | None:
    if verb not in "veEfFgGbxX":
        return None
    precision = form.precision if form.precision is not None else 6 if verb in "eEfF" else -1
    shown = format_float(value, "g" if verb == "v" else verb, precision)
    if form.sharp and verb in "gG" and math.isfinite(value):
        shown = _with_zeros(shown, form.precision)
    if shown[0] not in "+-":
        shown = "+" + shown
    if form.space and shown[0] == "+" and not form.plus:
        shown = " " + shown[1:]
    if not math.isfinite(value):
        form = dataclasses.replace(form, zero=False)
        if math.isnan(value) and not form.space and not form.plus:
            shown = shown[1:]
    signed = form.plus or shown[0] != "+"
    if signed and form.zero and not form.minus and form.width is not None and form.width > len(shown):
        return shown[0] + shown[1:].rjust(form.width - 1, "0")
    return _pad(shown if signed else shown[1:], form)


def _with_zeros(shown: str, precision: int | None) -> str:
    """Return `%#g`: the point and the zeros that `%g` leaves out."""
    mantissa, mark, exponent = shown.partition("e")
    wanted = 6 if precision is None else max(precision, 1)
    digits = len(mantissa.lstrip("-").replace(".", "").lstrip("0") or "0")
    mantissa += "" if "." in mantissa else "."
    return mantissa + "0" * max(0, wanted - digits) + mark + exponent


def format_float(value: float, verb: str, precision: int) -> str:
    """Return a float as Go's `strconv.FormatFloat` does; precision -1 is as many digits as it takes."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    lower = verb.lower()
    if lower == "g":
        shown = _shortest(value) if precision < 0 else format(value, f".{max(precision, 1)}g")
    elif lower in "xb":
        shown = _binary(value, lower, precision)
    else:
        shown = format(value, f".{precision}{lower}")
    return shown.upper() if verb in "EGX" else shown


def _shortest(value: float) -> str:
    sign = "-" if math.copysign(1, value) < 0 else ""
    if value == 0:
        return sign + "0"
    mantissa, _, power = f"{abs(value)!r}".partition("e")
    whole, _, rest = mantissa.partition(".")
    digits = (whole + rest).lstrip("0")
    exponent = int(power or 0) + (len(whole) - 1 if whole != "0" else -1 - (len(rest) - len(rest.lstrip("0"))))
    digits = digits.rstrip("0") or "0"
    if exponent < -4 or exponent >= _EXPONENT_FROM:
        shown = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
        return f"{sign}{shown}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    if len(digits) <= exponent + 1:
        return sign + digits.ljust(exponent + 1, "0")
    return f"{sign}{digits[: exponent + 1]}.{digits[exponent + 1 :]}"


def _binary(value: float, verb: str, precision: int) -> str:
    if verb == "b":
        share, exponent = math.frexp(value)
        return f"{int(share * 2**53)}p{exponent - 53:+d}"
    del precision
    shown = value.hex()
    sign = "-" if shown.startswith("-") else ""
    mantissa, _, power = shown.lstrip("-")[2:].partition("p")
    whole, _, rest = mantissa.partition(".")
    rest = rest.rstrip("0")
    return f"{sign}0x{whole}{'.' + rest if rest else ''}p{'-' if int(power) < 0 else '+'}{abs(int(power)):02d}"


_SHAPES: Final[Mapping[str, Callable[[Any, str, _Form], str | None]]] = {
    "bool": _bool,
    "string": _string,
    "int": _integer,
    "uint": _integer,
    "float": _float,
}
