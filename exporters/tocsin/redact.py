"""Takes secrets out of log fields and texts. Pure; on by default; cheap where there is nothing to take out."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

REDACTED = "[redacted]"

SECRET_WORDS = frozenset(
    (
        *("apikey", "authorization", "bearer", "cookie", "cookies", "credential", "credentials", "csrf", "jwt"),
        *("passphrase", "passwd", "password", "pwd", "secret", "secrets", "session", "sessionid", "signature"),
        *("token", "xsrf"),
    )
)
"""A name with one of these words in it is secret: `X-Auth-Token`, `userPassword`, `client_secret`."""

SECRET_NAMES = frozenset(("auth", "code", "otp", "pin", "sid", "sig"))
"""Names that are secret only when they stand alone: `code`, but not `status_code`."""

SECRET_PHRASES = ("_api_key_", "_access_key_", "_private_key_", "_session_id_")

_DEPTH_LIMIT = 8
_INTEGER_LIMIT = 2**63
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")
_PAIR = re.compile(r"""(?<![\w.%-])([\w.%-]{1,64})=("[^"]*"|'[^']*'|[^&\s#;,"']+)""")
_USERINFO = re.compile(r"(://[^/\s:@]{0,256}:)[^/\s@]{1,256}@")
_CREDENTIALS = re.compile(r"\b(bearer|basic) +[\w.~+/=-]{8,}", re.IGNORECASE)


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether a field or query key of this name holds a secret. Case, dashes and camelCase do not matter."""
    words = [word.lower() for word in _WORD.findall(name[:128])]
    joined = f"_{'_'.join(words)}_"
    return (
        joined[1:-1] in SECRET_NAMES
        or not SECRET_WORDS.isdisjoint(words)
        or any(phrase in joined for phrase in SECRET_PHRASES)
    )


def _pair(match: re.Match[str]) -> str:
    name, start = unquote(match[1]), match.start()
    in_query = start > 0 and match.string[start - 1] in "?&"
    # `code=403` in a sentence is no secret, `?code=...` in a URL is.
    if is_secret(name) and (in_query or name.lower() not in SECRET_NAMES):
        return f"{match[1]}={REDACTED}"
    return match[0]


def redact_text(text: str) -> str:
    """Return the text without the values of secret `name=value` pairs, passwords in URLs, and HTTP credentials."""
    if "=" in text:
        text = _PAIR.sub(_pair, text)
    if "@" in text and "://" in text:
        text = _USERINFO.sub(rf"\1{REDACTED}@", text)
    if "earer " in text or "asic " in text or "EARER " in text or "ASIC " in text:
        text = _CREDENTIALS.sub(rf"\1 {REDACTED}", text)
    return text


def text_of(value: object) -> str:
    """Return the object as redacted text, whatever its `__str__` does."""
    try:
        return redact_text(str(value))
    except Exception:  # the object's own code ran
        return f"<unprintable {type(value).__name__}>"


def clean_fields(fields: Mapping[Any, object], depth: int = 0) -> dict[str, object]:
    """Return the fields with text keys, secrets redacted, and values that are made of JSON's types only.

    What JSON has no type for becomes text. Nesting deeper than 8 is cut, so that cycles end.
    """
    found: dict[str, object] = {}
    for key, value in fields.items():
        name = key if isinstance(key, str) else text_of(key)
        found[name] = REDACTED if value is not None and is_secret(name) else clean(value, depth)
    return found


def clean(value: object, depth: int = 0) -> object:
    """Return one value as `clean_fields` does."""
    if type(value) is str:
        return redact_text(value)
    if value is None or type(value) is float or type(value) is bool:
        return value
    if type(value) is int:
        # Elasticsearch's long has 64 bits: a bigger number would get the whole line refused.
        return value if -_INTEGER_LIMIT <= value < _INTEGER_LIMIT else _digits(value)
    if depth >= _DEPTH_LIMIT:
        return f"<{type(value).__name__} nested too deep>"
    return _clean_object(value, depth + 1)


def _digits(value: int) -> str:
    """Return a big integer as text; beyond 4,300 digits Python refuses decimal, so hexadecimal."""
    try:
        return str(value)
    except ValueError:
        return hex(value)


def _clean_object(value: object, depth: int) -> object:
    result: object
    if isinstance(value, Mapping):
        result = clean_fields(value, depth)
    elif isinstance(value, list | tuple | set | frozenset):
        result = [clean(item, depth) for item in value]
    elif isinstance(value, bytes | bytearray | memoryview):
        result = redact_text(bytes(value).decode("utf-8", "backslashreplace"))
    elif isinstance(value, enum.Enum):
        result = clean(value.value, depth)
    elif isinstance(value, datetime.date | datetime.time):
        result = value.isoformat()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Not its repr: that would show a password by any name.
        result = clean_fields(
            {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}, depth
        )
    elif isinstance(value, BaseException):
        result = f"{type(value).__qualname__}: {text_of(value)}"
    else:
        result = text_of(value)
    return result
