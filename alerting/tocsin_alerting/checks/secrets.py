"""Secrets that stand in the file itself, where backups, tickets and colleagues see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import pydantic

from tocsin_alerting.checks.finding import Finding, Subject
from tocsin_alerting.reading import Kinds, below, fields, is_settings
from tocsin_alerting.receivers import KINDS
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_service.settings import Loc

_PERHAPS: Final = frozenset({"url", "proxy_url"})
_LONG: Final = 16
"""Characters from which on a part of a URL is taken for a token."""


def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each."""
    yield from _below(subject, ("global",), (GlobalSettings,))
    for loc in subject.entries("receivers"):
        for kind, known in KINDS.items():
            for entry in subject.entries(*loc, f"{kind}_configs"):
                yield from _below(subject, entry, (known.settings,))


def pieces(value: object, loc: Loc) -> Iterator[tuple[Loc, object]]:
    """Yield what stands at and below `loc`, lists and mappings aside."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from pieces(item, (*loc, key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            yield from pieces(item, (*loc, index))
    elif value is not None:
        yield loc, value


def _below(subject: Subject, start: Loc, allowed: Kinds) -> Iterator[Finding]:
    for loc, value in pieces(subject.said(*start), start):
        around: Kinds = allowed
        kinds = allowed
        for key in loc[len(start) :]:
            around, kinds = kinds, below(kinds, key)
        text = str(value)
        if not text or "${" in subject.written(*loc):
            continue
        if pydantic.SecretStr in kinds:
            # Fields of kinds that have secrets only sometimes: the URL of a webhook, of a proxy.
            if loc[-1] in _PERHAPS and not _telling(text):
                continue
            what = f'a secret stands here in plain text: "{_key(loc)}"'
        elif isinstance(value, str) and _password(value):
            what = f'a password stands in the URL of "{_key(loc)}"'
        else:
            continue
        why = "whoever reads this file, its backups or its history can use it"
        yield subject.warning("secret-in-plain-text", loc, what, why=why, fix=_fix(loc, around))


def _key(loc: Loc) -> str:
    return next(str(part) for part in reversed(loc) if isinstance(part, str))


def _fix(loc: Loc, around: Kinds) -> str:
    key = _key(loc)
    twins = {name for kind in around if is_settings(kind) for name in fields(kind)}
    if f"{key}_file" in twins:
        return f"put it into a file of its own and name that with {key}_file"
    if key == "secrets":
        return "put it into a file of its own and name that under files"
    return "let only the router's user read this file (chmod 600), and keep it out of version control"


def _password(text: str) -> bool:
    return "://" in text and "{{" not in text and bool(_split(text).password)


def _telling(text: str) -> bool:
    """Return whether a URL holds more than an address: a password, a query, or a segment as long as a token."""
    parts = _split(text)
    return bool(parts.password or parts.query) or any(len(part) >= _LONG for part in parts.path.split("/"))


def _split(text: str) -> Any:
    try:
        return urlsplit(text)
    except ValueError:
        return urlsplit("")
