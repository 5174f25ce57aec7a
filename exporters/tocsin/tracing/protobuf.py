"""The pieces of the protobuf wire format that OTLP needs. Pure.

Source: https://protobuf.dev/programming-guides/encoding/ and opentelemetry/proto/common/v1/common.proto
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from struct import Struct

_BYTES = tuple(bytes((n,)) for n in range(256))
_SHORT = 128
_SIXTY_FOUR = 2**64
_double = Struct("<d").pack
_LENGTH_DELIMITED = 2


def varint(number: int) -> bytes:
    """Return a whole number; a negative one as its 64-bit complement."""
    if 0 <= number < _SHORT:
        return _BYTES[number]
    if 0 <= number < _SHORT * _SHORT:
        return bytes((number & 0x7F | 0x80, number >> 7))
    number %= _SIXTY_FOUR
    parts = bytearray()
    while number >= _SHORT:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def delimited(tag: bytes, content: bytes) -> bytes:
    """Return a field of text, bytes or a message: tag, length, content."""
    size = len(content)
    if size < _SHORT:
        return tag + _BYTES[size] + content
    return tag + varint(size) + content


def text(value: str) -> bytes:
    """Return UTF-8; what UTF-8 has no form for (lone surrogates) is written out with backslashes."""
    return value.encode("utf-8", "backslashreplace")


def any_value(value: object) -> bytes:
    """Return the content of an `AnyValue`. Takes JSON's types and bytes; anything else becomes text."""
    if isinstance(value, str):
        return delimited(b"\n", text(value))
    if value is None:
        return b""
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + varint(value)
    if isinstance(value, float):
        return b"\x21" + _double(value)
    return _compound(value)


def _compound(value: object) -> bytes:
    if isinstance(value, bytes):
        return delimited(b"\x3a", value)
    if isinstance(value, Mapping):
        return delimited(b"\x32", b"".join(key_value(b"\n", str(key), item) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return delimited(b"\x2a", b"".join(delimited(b"\n", any_value(item)) for item in value))
    return delimited(b"\n", text(str(value)))


def key_value(tag: bytes, key: str, value: object) -> bytes:
    """Return a field that is a `KeyValue`: an attribute."""
    return delimited(tag, delimited(b"\n", text(key)) + delimited(b"\x12", any_value(value)))


def attributes(tag: bytes, pairs: Mapping[str, object] | Iterable[tuple[str, object]]) -> bytes:
    """Return a repeated field of `KeyValue`."""
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    return b"".join([key_value(tag, key, value) for key, value in items])


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the (number, value) of each field of a message: whole numbers as they are, everything else as bytes.

    Raises:
        ValueError: the message is cut short, or is none.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _read_varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _read_varint(message, at)
            yield number, value
            continue
        if kind == _LENGTH_DELIMITED:
            size, at = _read_varint(message, at)
        else:
            size = {1: 8, 5: 4}.get(kind, -1)
        if size < 0 or at + size > end:
            raise ValueError(f"no protobuf message: field {number} of kind {kind} at byte {at} of {end}")
        yield number, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(message) and shift <= 63:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < _SHORT:
            return number, at
        shift += 7
    raise ValueError(f"no protobuf message: a number does not end at byte {at} of {len(message)}")
