"""Cutting texts down to what a service takes: in characters where it counts characters, in bytes where it counts those.

Pure.
"""

from __future__ import annotations

from typing import Final

_MARK: Final = "…"


def characters(text: str, limit: int) -> str:
    """Return at most `limit` characters of `text`; what was cut ends with `…`, which counts too."""
    return text if len(text) <= limit else text[: limit - 1] + _MARK


def octets(text: str, limit: int, *, mark: str = _MARK) -> str:
    """Return at most `limit` bytes of `text` as UTF-8, never half a character; what was cut ends with `mark`."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    return encoded[: limit - len(mark.encode())].decode(errors="ignore") + mark
