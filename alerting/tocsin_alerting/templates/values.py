"""The values of Go in a template: what they are called, whether they count as true, how they compare.

Strings, truth values, `int` and `float64` are Python's own. What Go keeps apart from these has a class here: a name
in `go_type`, and in `members` the fields and methods that a template can reach. A string may hold bytes that are no
UTF-8 (Go cuts strings anywhere); they are lone surrogates, as `surrogateescape` makes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, TypeAlias, runtime_checkable

from tocsin_alerting.templates.errors import Fault

Value: TypeAlias = object
_LONE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a function takes at one place.

    Args:
        name: of the type, in Go.
        accepts: whether a value is of it.
        constant: the kind of constant it takes: `string`, `int`, `float`, `bool`, `any`, or nothing.
        zero: what `nil` makes, where it may be nil.
        nullable: whether it may be.
    """

    name: str
    accepts: Callable[[Value], bool]
    constant: str = ""
    nullable: bool = False
    zero: Callable[[], Value] = lambda: None


@dataclass(frozen=True, slots=True)
class Function:
    """A function or method that a template can call.

    Args:
        call: takes the arguments in order (of a method, the value first); raises `Fault`.
        parameters: what it takes, the last one any number of times if `variadic`.
        wants_data: it is handed what `.` was at the top, first of all.
        results: how many values it returns; Go's templates can only use one.
    """

    name: str
    call: Callable[..., Value]
    parameters: tuple[Parameter, ...] = ()
    variadic: bool = False
    wants_data: bool = False
    results: int = 1


@runtime_checkable
class Stringer(Protocol):
    """A value that says itself how it is printed, as Go's `fmt.Stringer`."""

    def go_string(self) -> str:
        """Return how it is printed."""


class Struct:
    """A value with fields.

    `fields` maps their names, in order, to attributes; `members` has the same and the methods.
    """

    __slots__ = ()
    go_type: ClassVar[str] = ""
    fields: ClassVar[Mapping[str, str]] = {}
    members: ClassVar[Mapping[str, Function | str]] = {}

    def shown_fields(self) -> list[tuple[str, Value]]:
        """Return the fields as they are printed."""
        return [(name, getattr(self, attribute)) for name, attribute in self.fields.items()]


class NilInterface:
    """What a map of anything has where it has nothing: it prints as no value, and its fields are an error."""

    go_type: ClassVar[str] = "interface {}"


NIL: Final = NilInterface()


class Html(str):
    """HTML that is to be shown as it is."""

    __slots__ = ()
    go_type: ClassVar[str] = "template.HTML"


class Url(str):
    """A link that is to be followed whatever its scheme."""

    __slots__ = ()
    go_type: ClassVar[str] = "template.URL"


class Int64(int):
    """A whole number of 64 bits, which Go keeps apart from `int`."""

    __slots__ = ()
    go_type: ClassVar[str] = "int64"


class Byte(int):
    """A byte of a string."""

    __slots__ = ()
    go_type: ClassVar[str] = "uint8"


class Strings(list[str]):
    """Texts in order."""

    __slots__ = ()
    go_type: ClassVar[str] = "[]string"


class Anys(list[Value]):
    """Anything in order."""

    __slots__ = ()
    go_type: ClassVar[str] = "[]interface {}"


class AnyMap(dict[str, Value]):
    """Anything by name."""

    __slots__ = ()
    go_type: ClassVar[str] = "map[string]interface {}"


_NAMES: Final[dict[type, str]] = {str: "string", bool: "bool", int: "int", float: "float64", type(None): "<nil>"}


def type_name(value: Value) -> str:
    """Return the name of its type in Go."""
    found = _NAMES.get(type(value))
    return found if found is not None else str(getattr(value, "go_type", type(value).__name__))


def truth(value: Value) -> bool:
    """Return whether it counts as true: empty, zero, false and nil do not; a struct always does."""
    return False if value is NIL else isinstance(value, Struct) or bool(value)


def known(value: Value) -> Value:
    """Return `value`, or None for the nil that a map of anything gives."""
    return None if value is NIL else value


def kind(value: Value) -> str:
    """Return how it compares: `bool`, `int`, `uint`, `float` or `string`; nothing for all else."""
    if isinstance(value, str):
        return "string"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "uint" if isinstance(value, Byte) else "int"
    return "float" if isinstance(value, float) else ""


_WHOLE: Final = frozenset({"int", "uint"})


def equal(first: Value, *others: Value) -> bool:
    """Return whether `first` is one of `others`.

    Raises:
        Fault: their types do not compare.
    """
    if not others:
        raise Fault("nothing to compare with, expected at least two values")
    return any(_same(known(first), known(other)) for other in others)


def less(first: Value, other: Value) -> bool:
    """Return whether `first` comes before `other`.

    Raises:
        Fault: their types have no order, or are not of one kind.
    """
    mine, theirs = kind(known(first)), kind(known(other))
    if not mine or not theirs or mine == "bool" == theirs:
        odd = first if not mine or mine == "bool" else other
        raise Fault(f"{type_name(known(odd))} has no order, expected numbers or strings")
    if mine != theirs and not {mine, theirs} <= _WHOLE:
        raise Fault(f"{type_name(first)} and {type_name(other)}, expected two values of one kind to compare")
    if isinstance(first, str) and isinstance(other, str):
        return to_bytes(first) < to_bytes(other)
    return bool(first < other)  # type: ignore[operator]  # two numbers, by their kinds


def _same(first: Value, other: Value) -> bool:
    mine, theirs = kind(first), kind(other)
    if first is None or other is None:
        return first is other
    if mine != theirs:
        if {mine, theirs} <= _WHOLE:
            return bool(first == other)
        raise Fault(f"{type_name(first)} and {type_name(other)}, expected two values of one kind to compare")
    if not mine:
        for value in (first, other):
            if isinstance(value, list | dict) or not getattr(value, "comparable", True):
                raise Fault(f"{type_name(value)} does not compare, expected single values")
        return type(first) is type(other) and first == other
    return bool(first == other)


def to_bytes(text: str) -> bytes:
    """Return the bytes that Go has for `text`."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # A surrogate that stands for no byte comes from JSON that is no Unicode.
        return re.sub("[\ud800-\udc7f\udd00-\udfff]", "\ufffd", text).encode("utf-8", "surrogateescape")


def from_bytes(data: bytes) -> str:
    """Return the text for bytes, whether they are UTF-8 or not."""
    return data.decode("utf-8", "surrogateescape")


def settled(text: str) -> str:
    """Return `text` as UTF-8 can hold it: bytes that are none are replaced, each by U+FFFD."""
    if _LONE.search(text) is None:
        return text
    return _LONE.sub("\ufffd", from_bytes(to_bytes(text)))


# ---- parameter types


def _plain_string(value: Value) -> bool:
    return isinstance(value, str) and not isinstance(value, Html | Url)


ANY: Final = Parameter("interface {}", lambda value: True, "any", nullable=True)
STRING: Final = Parameter("string", _plain_string, "string")
INT: Final = Parameter("int", lambda value: type(value) is int, "int")
FLOAT: Final = Parameter("float64", lambda value: type(value) is float, "float")
BOOL: Final = Parameter("bool", lambda value: isinstance(value, bool), "bool")
STRINGS: Final = Parameter("[]string", lambda value: isinstance(value, Strings), nullable=True, zero=Strings)
ANYS: Final = Parameter("[]interface {}", lambda value: isinstance(value, Anys), nullable=True, zero=Anys)
