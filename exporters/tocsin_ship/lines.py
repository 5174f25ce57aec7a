"""Log lines as bytes: whatever was written becomes one valid JSON object a line. Pure; no I/O, no clock.

The usual block, where every line is a JSON object already, is checked by one C call and passed through untouched;
only blocks with something odd in them are looked at line by line.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tocsin import names
from tocsin_service import clock

_T = TypeVar("_T")
MAX_LINE: Final = 1024 * 1024
"""Bytes of a line; what is longer is cut there and tagged `_truncated`."""


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines as they stand in a file.

    Args:
        key: identity of the file, stable over renames and restarts.
        path: where the file was last seen.
        input: the configured path that found it.
        service: `service.name` for lines that have none.
        start: offset of the first byte in the file.
        end: offset behind the last byte.
        data: lines, each ended by a newline.
        truncated: `data` is the first `MAX_LINE` bytes of one longer line.
        seam: the last bytes of the file before `end`, by which the place is recognised later.
    """

    key: str
    path: str
    input: str
    service: str | None
    start: int
    end: int
    data: bytes
    truncated: bool = False
    seam: bytes = b""


@dataclass(frozen=True, slots=True)
class Line:
    """One event.

    Args:
        key: identity of its file.
        path: where that was last seen.
        offset: where the line begins in it.
        check: CRC-32 of the line as it was written.
        data: the event, a JSON object without newline.
    """

    key: str
    path: str
    offset: int
    check: int
    data: bytes

    @property
    def id(self) -> str:
        """The same for the same line of the same file, whenever and however often it is read.

        Key and offset alone would do, were it not for files that begin with the same line: should one be taken for the
        other after a crash, its lines must still not look like those that are stored already.
        """
        return f"{self.key}-{self.offset:x}-{self.check:08x}"


@dataclass(frozen=True, slots=True)
class Text:
    """Lines ready to be sent as a stream: `count` JSON objects, each ended by a newline."""

    data: bytes
    count: int


class _Facts(msgspec.Struct, gc=False):
    """What has to be known about an event; decoding into it also proves that it is a JSON object."""

    timestamp: Raw | UnsetType = msgspec.field(default=UNSET, name=names.Field.TIMESTAMP)
    service_name: Raw | UnsetType = msgspec.field(default=UNSET, name=names.Field.SERVICE_NAME)
    host: Raw | UnsetType = UNSET
    service: Raw | UnsetType = UNSET
    user: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    process: Raw | UnsetType = UNSET


class _Object(msgspec.Struct, gc=False):
    """Any JSON object."""


_objects = msgspec.json.Decoder(_Object)
_facts = msgspec.json.Decoder(_Facts)
_fields = msgspec.json.Decoder(dict[str, Raw])

_SCALARS = {
    "host": "host.name",
    "service": names.Field.SERVICE_NAME,
    "user": "user.name",
    "error": names.Field.ERROR_MESSAGE,
    "process": "process.name",
}
"""Objects of ECS that other formatters (python-logstash: `host`) write as text, and where the text belongs."""
_NUMBERS = {"process": "process.pid"}
"""Likewise for numbers."""


def joined(block: Block, *, now: float) -> Text:
    """Return the events of `block` as a stream. `now` (Unix seconds) dates lines that carry no event."""
    if block.service is None and not block.truncated:
        objects = _all_objects(block.data, _objects)
        if objects is not None:
            return Text(block.data, len(objects))
    events = [line.data for line in separate(block, now=now)]
    return Text(b"".join(event + b"\n" for event in events), len(events))


def separate(block: Block, *, now: float) -> list[Line]:
    """Return the events of `block` one by one. `now` (Unix seconds) dates lines that carry no event."""
    return [Line(block.key, block.path, offset, check, data) for offset, check, data, _ in _events(block, now)]


def documents(blocks: Sequence[Block], *, now: float) -> list[Line]:
    """Return the events of `blocks` as Elasticsearch takes them: dated, and no text where ECS has an object."""
    return [
        Line(block.key, block.path, offset, check, _to_ecs(data, facts, now))
        for block in blocks
        for offset, check, data, facts in _events(block, now)
    ]


def to_ecs(event: bytes, *, now: float) -> bytes:
    """Return a JSON object with `@timestamp`, and with `"host": "x"` as `"host.name": "x"` (likewise service, user...).

    Values stay as they are, byte for byte.
    """
    return _to_ecs(event, _facts.decode(event), now)


def raw(text: bytes, *, now: float, service: str | None = None, tags: Sequence[str] = ("_raw",)) -> bytes:
    """Return the event that stands for a line which is not a JSON object."""
    event: dict[str, object] = {names.Field.TIMESTAMP: clock.rfc3339(now)}
    if service is not None:
        event[names.Field.SERVICE_NAME] = service
    event |= {names.Field.MESSAGE: text.decode("utf-8", "replace"), "tags": list(tags)}
    return msgspec.json.encode(event)


def _events(block: Block, now: float) -> Iterator[tuple[int, int, bytes, _Facts]]:
    """Yield offset, checksum, event and facts of every line that is not blank."""
    if block.truncated:
        text = raw(block.data.rstrip(b"\n"), now=now, service=block.service, tags=("_raw", "_truncated"))
        yield block.start, zlib.crc32(block.data), text, _facts.decode(text)
        return
    found = _all_objects(block.data, _facts)
    offset = block.start
    for index, line in enumerate(block.data.split(b"\n")):
        if found is not None and index < len(found):
            yield offset, zlib.crc32(line), *_named(line, found[index], block.service)
        elif stripped := line.strip(b"\0 \t\r\f\v"):  # NULs are what a crash leaves in a file
            yield offset, zlib.crc32(line), *_event(stripped, block.service, now)
        offset += len(line) + 1


def _all_objects(data: bytes, decoder: msgspec.json.Decoder[_T]) -> list[_T] | None:
    """Return what `decoder` makes of each line if all are JSON objects in valid UTF-8 and no more, or None."""
    count = data.count(b"\n")
    # The decoder takes any white space between values. In JSON no `}` is followed by `{`, so with these around each
    # newline none is inside a value, and as many values as lines means one on each.
    if not data.startswith(b"{") or not data.endswith(b"}\n") or data.count(b"}\n{") != count - 1:
        return None
    try:
        if not data.isascii():
            data.decode()  # the decoder does not look into strings it skips
        found: list[_T] = decoder.decode_lines(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if len(found) == count else None


def _event(line: bytes, service: str | None, now: float) -> tuple[bytes, _Facts]:
    for mend in (_as_it_is, _mended):
        try:
            event = mend(line)
            return _named(event, _facts.decode(event), service)
        except (ValueError, RecursionError):  # all decoding errors are ValueErrors
            continue
    event = raw(line, now=now, service=service)
    return event, _facts.decode(event)


def _as_it_is(line: bytes) -> bytes:
    return line if line.isascii() else line.decode("utf-8", "replace").encode()


def _mended(line: bytes) -> bytes:
    """Read what Python's json module writes and JSON does not know: NaN, Infinity, half surrogates."""
    value = json.loads(line.decode("utf-8", "replace"))
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return json.dumps(_mend(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _mend(value: object) -> object:
    match value:
        case str():
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {_mend(key): _mend(item) for key, item in value.items()}
        case list():
            return [_mend(item) for item in value]
        case _:
            return value


def _named(event: bytes, facts: _Facts, service: str | None) -> tuple[bytes, _Facts]:
    if service is None or facts.service_name is not UNSET or facts.service is not UNSET:
        return event, facts
    fields = _fields.decode(event)
    event = msgspec.json.encode({**fields, names.Field.SERVICE_NAME: service})
    return event, _facts.decode(event)


def _to_ecs(event: bytes, facts: _Facts, now: float) -> bytes:
    scalars = [name for name in _SCALARS if _is_scalar(getattr(facts, name))]
    if not scalars and facts.timestamp is not UNSET:
        return event
    fields: dict[str, Raw] = _fields.decode(event)
    for name in scalars:
        # A field under the right name wins; the other is kept beside it, where nothing collides.
        value = fields.pop(name)
        target = _NUMBERS.get(name, _SCALARS[name]) if bytes(value)[:1].isdigit() else _SCALARS[name]
        fields[target if target not in fields else f"labels.{name}"] = value
    return msgspec.json.encode({names.Field.TIMESTAMP: clock.rfc3339(now), **fields})


def _is_scalar(value: Raw | UnsetType) -> bool:
    return value is not UNSET and bytes(value)[:1] not in {b"{", b"n"}  # null collides with nothing
