"""Conditions in Gatus' notation, parsed once: `[STATUS] == 200`, `[RESPONSE_TIME] < 800ms`, `[BODY] == pat(*ok*)`.

    condition = place operator value
    place     = [STATUS] | [RESPONSE_TIME] | [CONNECTED] | [BODY]
    operator  = == | != | < | <= | > | >=

A bare number after `[RESPONSE_TIME]` is milliseconds, as Gatus reads it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tocsin_service import durations


class Place(StrEnum):
    """What a condition looks at."""

    STATUS = "[STATUS]"
    RESPONSE_TIME = "[RESPONSE_TIME]"
    CONNECTED = "[CONNECTED]"
    BODY = "[BODY]"


OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_EQUALITY = ("==", "!=")
_SYNTAX = re.compile(r"\s*(\[[^\]]*\]|\S+?)\s*(==|!=|<=|>=|<|>)\s*(.*?)\s*", re.DOTALL)
_CALL = re.compile(r"([a-z_]+)\((.*)\)", re.DOTALL)


class ConditionError(ValueError):
    """Text that is not a condition: what was found, what was expected, what to do."""

    def __init__(self, what: str, *, expected: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Pattern:
    """Text in which `*` stands for anything, also for nothing."""

    text: str

    def matches(self, text: str) -> bool:
        """Return whether all of `text` fits; the time taken grows with its length only."""
        first, *rest = self.text.split("*")
        if not rest:
            return text == first
        *middle, last = rest
        end = len(text) - len(last)
        if not text.startswith(first) or not text.endswith(last) or end < len(first):
            return False
        at = len(first)
        for piece in middle:
            found = text.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return True

    def __str__(self) -> str:
        return f"pat({self.text})"


@dataclass(frozen=True, slots=True)
class Condition:
    """`place operator value`. `value` is an HTTP status, seconds, a bool, or text to compare the body with."""

    place: Place
    operator: str
    value: int | float | bool | str | Pattern

    def holds(self, found: int | float | bool | str | None) -> bool:
        """Return whether `found`, what the probe saw at `place`, is as it should be; None never is."""
        if found is None:
            return False
        if isinstance(self.value, Pattern):
            return self.value.matches(str(found)) is (self.operator == "==")
        return OPERATORS[self.operator](found, self.value)

    def __str__(self) -> str:
        return f"{self.place} {self.operator} {self.shown}"

    @property
    def shown(self) -> str:
        """The value as it is written in a file."""
        if isinstance(self.value, bool):
            return str(self.value).lower()
        if self.place is Place.RESPONSE_TIME and isinstance(self.value, float):
            return durations.render(self.value)
        return str(self.value)


def parse(text: str) -> Condition:
    """Read a condition.

    Raises:
        ConditionError: it is none; the error says where it breaks.
    """
    match = _SYNTAX.fullmatch(text)
    if match is None:
        raise ConditionError(f'"{text}" is not a condition', expected="place operator value, like [STATUS] == 200")
    name, symbol, value = match.groups()
    place = _place(name)
    if not value:
        raise ConditionError(f'"{text}" compares with nothing', expected=f"a value after {symbol}")
    if place in {Place.BODY, Place.CONNECTED} and symbol not in _EQUALITY:
        raise ConditionError(f"{place} cannot be compared with {symbol}", expected="== or !=")
    return Condition(place, symbol, _VALUES[place](value))


def _place(name: str) -> Place:
    try:
        return Place(name)
    except ValueError:
        known = ", ".join(Place)
        if name.startswith("["):
            raise ConditionError(f"there is no place {name}", expected=f"one of {known}") from None
        fix = "write the place first and the value last" if "[" not in name else ""
        raise ConditionError(f'a condition cannot begin with "{name}"', expected=f"one of {known}", fix=fix) from None


def _status(text: str) -> int:
    _no_call(text, Place.STATUS)
    if not re.fullmatch(r"[1-5]\d\d", text):
        fix = 'write two conditions, "[STATUS] >= 200" and "[STATUS] < 300"' if "x" in text.lower() else ""
        raise ConditionError(f'"{text}" is not an HTTP status', expected="a number from 100 to 599", fix=fix)
    return int(text)


def _response_time(text: str) -> float:
    _no_call(text, Place.RESPONSE_TIME)
    try:
        return durations.parse(text if not text.isdecimal() else f"{text}ms")
    except ValueError:
        raise ConditionError(f'"{text}" is not a duration', expected="whole numbers with s or ms, like 800ms") from None


def _connected(text: str) -> bool:
    _no_call(text, Place.CONNECTED)
    if text not in {"true", "false"}:
        raise ConditionError(f'"{text}" is neither true nor false', expected="true or false")
    return text == "true"


def _body(text: str) -> str | Pattern:
    call = _CALL.fullmatch(text)
    if call is None:
        return text
    if call[1] != "pat":
        raise ConditionError(f"there is no function {call[1]}()", expected="pat(), like pat(*healthy*)")
    return Pattern(call[2])


def _no_call(text: str, place: Place) -> None:
    call = _CALL.fullmatch(text)
    if call is not None:
        known = "pat() belongs to [BODY]" if call[1] == "pat" else f"there is no function {call[1]}()"
        raise ConditionError(f"{known}", expected=f"a plain value for {place}")


_VALUES: Mapping[Place, Callable[[str], int | float | bool | str | Pattern]] = {
    Place.STATUS: _status,
    Place.RESPONSE_TIME: _response_time,
    Place.CONNECTED: _connected,
    Place.BODY: _body,
}
