"""AWS Signature Version 4: how a request says who sends it. Pure.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials; those of a role end at `until` (Unix seconds) and have a session token."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    until: float = float("inf")


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    content: bytes,
    *,
    keys: Keys,
    region: str,
    service: str,
    now: float,
) -> dict[str, str]:
    """Return `headers` with `X-Amz-Date`, `Authorization` and, for a role, `X-Amz-Security-Token`.

    Args:
        headers: what is sent anyway; each is signed, and so is `Host`, which the client adds from `url`.
        now: Unix seconds; AWS takes a signature for some minutes.
    """
    stamp = f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}"
    added = {"X-Amz-Date": stamp}
    if keys.session_token:
        added["X-Amz-Security-Token"] = keys.session_token
    signed = {"Host": urlsplit(url).netloc.rpartition("@")[2], **headers, **added}
    request, names = canonical(method, url, signed, content)
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{keys.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"Credential={keys.access_key}/{scope}"
    authorization = f"{_ALGORITHM} {credential}, SignedHeaders={names}, Signature={signature}"
    return {**headers, **added, "Authorization": authorization}


def canonical(method: str, url: str, headers: Mapping[str, str], content: bytes) -> tuple[str, str]:
    """Return the request in the form that is hashed, and the names of its headers."""
    parts = urlsplit(url)
    found = sorted((name.lower(), " ".join(value.split())) for name, value in headers.items())
    names = ";".join(name for name, _ in found)
    asked = sorted((quote(n, safe="~"), quote(v, safe="~")) for n, v in parse_qsl(parts.query, keep_blank_values=True))
    lines = [
        method,
        quote(parts.path or "/", safe="/~"),  # a path that is escaped already is escaped once more
        "&".join(f"{name}={value}" for name, value in asked),
        *(f"{name}:{value}" for name, value in found),
        "",
        names,
        hashlib.sha256(content).hexdigest(),
    ]
    return "\n".join(lines), names
