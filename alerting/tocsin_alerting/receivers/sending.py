"""What all receivers share: how their settings are read, how a request is sent, and how its failure is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import orjson
import pydantic

from tocsin_alerting.unsupported import Known
from tocsin_service.http import Failure, Outbound, RequestError
from tocsin_service.settings import SecretError, Settings, flaw, secret

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds for one attempt."""
_LONG: Final = 16
"""Characters from which on a part of a URL is taken for a token."""

_GO_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


class ReceiverSettings(Known):
    """Settings every integration has."""

    send_resolved: bool = True


@dataclass(frozen=True, slots=True)
class Sending:
    """The ways out of the process: HTTP, and the terminal if there is one."""

    http: Outbound
    terminal: Callable[[str], None] | None = None

    async def post_json(
        self, url: str, body: object, *, headers: dict[str, str], timeout: float, secret: str = ""
    ) -> None:
        """POST `body` as JSON with a newline at its end, as Alertmanager does.

        Args:
            secret: something in `body` that no error may show; the URL never is.

        Raises:
            RequestError: it was not taken.
        """
        content = orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE)
        headers = {"Content-Type": "application/json", **headers}
        try:
            await self.http.post(url, content=content, headers=headers, timeout=timeout or DEFAULT_TIMEOUT)
        except RequestError as error:
            raise concealed(error, url, secret) from None


def concealed(error: RequestError, *secrets: str) -> RequestError:
    """Return `error` without secrets that the receiver's answer has quoted: many 404 pages name the path asked for.

    Args:
        secrets: keys, or URLs, of which path, query and long segments are hidden.
    """
    text = str(error)
    # The longest first: others are parts of it.
    for piece in sorted({piece for each in secrets for piece in _pieces(each)}, key=len, reverse=True):
        text = text.replace(piece, "<secret>")
    return RequestError(text, reason=error.reason, permanent=error.permanent, retry_after=error.retry_after)


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


def at_most_one(settings: Settings, *names: str) -> None:
    """Raise a flaw if more than one of the fields `names` is set."""
    found = [name for name in names if getattr(settings, name) is not None]
    if len(found) > 1:
        raise flaw(f"{' and '.join(found)} stand side by side", expected=f"at most one of {', '.join(names)}")


def exactly_one(settings: Settings, *names: str) -> None:
    """Raise a flaw if not exactly one of the fields `names` is set."""
    at_most_one(settings, *names)
    if all(getattr(settings, name) is None for name in names):
        raise flaw(f"{' or '.join(names)} is missing", expected=f"one of {', '.join(names)}", fix="add it")


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise flaw("this is not a URL", expected="http://host/... or https://host/...")
    return value


def _secret_url(value: pydantic.SecretStr) -> pydantic.SecretStr:
    _url(value.get_secret_value())
    return value


def _go_duration(value: object) -> float:
    if not isinstance(value, bool) and value in (0, "0"):  # a tuple: the file may hold a list here
        return 0.0
    parts = _GO_PART.findall(value) if isinstance(value, str) else []
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise flaw("this is not a duration", expected="a Go duration such as 10s or 1.5m")
    return sum(float(number) * _GO_UNITS[unit] for number, unit in parts)


Url = Annotated[str, pydantic.AfterValidator(_url)]
"""An http(s) URL that is no secret."""
SecretUrl = Annotated[pydantic.SecretStr, pydantic.AfterValidator(_secret_url)]
"""An http(s) URL that whoever knows it can post to."""
GoDuration = Annotated[float, pydantic.BeforeValidator(_go_duration)]
"""Seconds, written as Go writes them; 0 means the default."""
