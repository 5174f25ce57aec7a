"""Secrets on their way out: read when they are needed, and taken out of what is told of a failure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pydantic

from tocsin_service.http import Failure, RequestError
from tocsin_service.settings import SecretError, secret

_LONG: Final = 16
"""Characters from which on a part of a URL is taken for a token."""
_TELLING: Final = 4
"""Characters from which on the beginning of a secret says something of it."""


def concealed(error: RequestError, *secrets: str) -> RequestError:
    """Return `error` without secrets that the receiver's answer has quoted: many 404 pages name the path asked for.

    Args:
        secrets: keys, or URLs, of which path, query and long segments are hidden.
    """
    text = without(str(error), {piece for each in secrets for piece in _pieces(each)})
    return RequestError(text, reason=error.reason, permanent=error.permanent, retry_after=error.retry_after)


def without(text: str, secrets: Iterable[str]) -> str:
    """Return `text` without any of `secrets`, whole or begun: an excerpt of an answer may end within one."""
    pieces = sorted(filter(None, secrets), key=len, reverse=True)  # the longest first: others are parts of it
    for piece in pieces:
        text = text.replace(piece, "<secret>")
    for piece in pieces:
        if "://" in piece:
            continue  # it begins with what is no secret; its path is another piece
        for size in range(len(piece) - 1, _TELLING - 1, -1):
            if text.endswith(piece[:size]):
                return f"{text[:-size]}<secret>"
    return text


def _pieces(hidden: str) -> list[str]:
    if "://" not in hidden:
        return [hidden] if hidden else []
    rest = hidden.partition("://")[2].partition("/")[2]
    if not rest:
        return []  # scheme and host are no secret
    path, _, query = rest.partition("?")
    tokens = [part for part in re.split(r"[/?&=]", rest) if len(part) >= _LONG]
    return [piece for piece in (hidden, f"/{rest}", f"/{path}", query, *tokens) if len(piece) > 1]


def reveal(value: pydantic.SecretStr | None, file: Path | None) -> str:
    """Return a secret, read now.

    Raises:
        RequestError: its file cannot be read; somebody may yet put it there.
    """
    try:
        return secret(value, file)
    except SecretError as error:
        raise RequestError(str(error), reason=Failure.OTHER) from error
