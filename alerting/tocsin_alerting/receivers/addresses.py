"""Addresses made from a base URL of the settings. Pure."""

from __future__ import annotations

from urllib.parse import quote, urlencode, urlsplit, urlunsplit

# What may stand in a path as it is; everything else is escaped. Source: RFC 3986 section 3.3, and the slash.
_PLAIN = "/:@$&+,;=~"


def below(base: str, path: str, **query: str) -> str:
    """Return the address of `path` below `base`, with one slash between; a query that `base` has is kept.

    `https://api.example/?a=b`, `v2/alerts` -> `https://api.example/v2/alerts?a=b`
    """
    parts = urlsplit(base)
    asked = "&".join(part for part in (parts.query, urlencode(query)) if part)
    return urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/{quote(path, safe=_PLAIN)}", asked, ""))
