"""Strings, characters and numbers as Go writes them in source code."""

from __future__ import annotations

import re
from typing import Final

from tocsin_alerting.templates.errors import Fault
from tocsin_alerting.templates.nodes import Number

_ESCAPE: Final = re.compile(r"\\(?:([abfnrtv\\'\"])|([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|)")
_SIMPLE: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_INTEGER: Final = re.compile(
    r"([+-]?)(?:0[xX]((?:_?[0-9a-fA-F])+)|0[bB]((?:_?[01])+)|0[oO]?((?:_?[0-7])+)|(0|[1-9](?:_?[0-9])*))"
)
_FLOAT: Final = re.compile(
    r"[+-]?(?:(?:[0-9](?:_?[0-9])*\.?(?:[0-9](?:_?[0-9])*)?|\.[0-9](?:_?[0-9])*)(?:[eE][+-]?[0-9]+)?)"
)
_HEX_FLOAT: Final = re.compile(r"[+-]?0[xX](?:[0-9a-fA-F_]+\.?[0-9a-fA-F_]*|\.[0-9a-fA-F_]+)[pP][+-]?[0-9]+")
_BASES: Final = (16, 2, 8, 10)
_LONGEST: Final = 400
"""Characters of a number: Python takes long to read more, and no number of 64 bits needs them."""
_LARGEST: Final = 2**63


def unquote(text: str, quote: str = '"') -> str:
    """Return what stands between the quotation marks of `text`; bytes that are no UTF-8 become surrogates.

    Raises:
        Fault: an escape that Go does not know.
    """

    def replace(found: re.Match[str]) -> bytes:
        simple, octal, byte, short, long = found.groups()
        if simple:
            if simple in "'\"" and simple != quote:
                raise Fault(f"\\{simple} between {quote}{quote}, expected {simple} as it is")
            return _SIMPLE.get(simple, simple).encode()
        number = int(octal, 8) if octal else int(byte or short or long or "-1", 16)
        if octal or byte:
            if number > 255:
                raise Fault(f"\\{octal}, expected at most \\377")
            return bytes([number])
        if not 0 <= number <= 0x10FFFF or 0xD800 <= number < 0xE000:
            rest = text[found.start() : found.start() + 2]
            raise Fault(f"an escape that is none: {found.group() if number >= 0 else rest}")
        return chr(number).encode()

    inner, done, at = text[1:-1], b"", 0
    for found in _ESCAPE.finditer(text, 1, len(text) - 1):
        done += inner[at : found.start() - 1].encode("utf-8", "surrogateescape") + replace(found)
        at = found.end() - 1
    return (done + inner[at:].encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def character(at: int, text: str) -> Number:
    """Return the number that a character constant is.

    Raises:
        Fault: it is not one character.
    """
    value = unquote(text, "'")
    if len(value) != 1:
        raise Fault(f"{text}, expected one character between the apostrophes")
    # A lone byte comes back as a surrogate; it is the number of the byte that counts.
    number = ord(value) - 0xDC00 if 0xDC80 <= ord(value) <= 0xDCFF else ord(value)
    return Number(at, text, number, float(number), number)


def number(at: int, text: str) -> Number:
    """Return the number that `text` is.

    Raises:
        Fault: it is none, or one that does not fit 64 bits.
    """
    if len(text) > _LONGEST:
        raise Fault(f"{text[:16]}..., expected a number of at most {_LONGEST} characters")
    if text.endswith("i") and "x" not in text.lower():
        raise Fault(f"the imaginary number {text}, expected a real one")
    if found := _INTEGER.fullmatch(text):
        digits, base = next((group, base) for group, base in zip(found.groups()[1:], _BASES, strict=True) if group)
        whole = int(digits, base) * (-1 if found[1] == "-" else 1)
        if not -_LARGEST <= whole < 2 * _LARGEST:
            raise Fault(f"{text}, expected a number that fits 64 bits")
        fits = whole < _LARGEST
        return Number(at, text, whole if fits else None, float(whole), whole if fits else None)
    value = parse_float(text)
    if value is None:
        raise Fault(f"{text}, expected a number")
    if not set(".eEpP") & set(text):
        raise Fault(f"{text}, expected a number that fits 64 bits")
    whole_too = value.is_integer() and -_LARGEST <= value < _LARGEST
    return Number(at, text, int(value) if whole_too else None, value, value)


def parse_float(text: str) -> float | None:
    """Return the finite number that `text` is by Go's rules, or None."""
    if _HEX_FLOAT.fullmatch(text):
        return float.fromhex(text.replace("_", ""))
    if not _FLOAT.fullmatch(text):
        return None
    value = float(text.replace("_", ""))
    return None if value in {float("inf"), float("-inf")} else value
