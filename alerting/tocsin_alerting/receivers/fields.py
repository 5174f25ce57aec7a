"""Types of the fields that receivers have: URLs, secrets, durations as Go writes them, templates."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import pydantic

from tocsin_alerting.templates import TemplateError, Templates
from tocsin_service.settings import Settings, flaw

_GO_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PROXY_SCHEMES: Final = frozenset({"http", "https", "socks5", "socks5h"})
_GO_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


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


def is_url(text: str) -> bool:
    """Return whether `text` is an http(s) URL with a host."""
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


def _url(value: str) -> str:
    if not is_url(value):
        raise flaw("this is not a URL", expected="http://host/... or https://host/...")
    return value


def _secret_url(value: pydantic.SecretStr) -> pydantic.SecretStr:
    _url(value.get_secret_value())
    return value


def _secret_url_text(value: pydantic.SecretStr) -> pydantic.SecretStr:
    text = value.get_secret_value()
    if "{{" in text:
        _template(text)  # what it makes of an address is known only when it is called
    else:
        _url(text)
    return value


def _proxy_url(value: pydantic.SecretStr) -> pydantic.SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        good = parts.scheme in _PROXY_SCHEMES and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise flaw("this is not the URL of a proxy", expected="http://host:port, https:// or socks5://")
    return value


def _go_duration(value: object) -> float:
    if not isinstance(value, bool) and value in (0, "0"):  # a tuple: the file may hold a list here
        return 0.0
    parts = _GO_PART.findall(value) if isinstance(value, str) else []
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise flaw("this is not a duration", expected="a Go duration such as 10s or 1.5m")
    return sum(float(number) * _GO_UNITS[unit] for number, unit in parts)


def _host(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not host or not colon or not port:
        raise flaw("this is not an address", expected="host:port, for example mail.example:587")
    return value


def _secret_path(path: Path, info: pydantic.ValidationInfo) -> Path:
    # Alertmanager takes these from the working directory; beside the file is where people look for them.
    folder: Path = (info.context or {}).get("folder", Path())
    beside = folder / path.expanduser()
    return beside if beside.exists() else path.expanduser()


@functools.cache
def _syntax() -> Templates:
    return Templates()


def _template(value: str, *, html: bool = False) -> str:
    try:
        _syntax().check(value, html=html)
    except TemplateError as error:
        where = f"line {error.line}, column {error.column} of the text"
        raise flaw(f"broken template: {where}: {error.what}", expected="a Go template") from error
    return value


def _html_template(value: str) -> str:
    return _template(value, html=True)


def _tree(value: Any) -> Any:
    if isinstance(value, str):
        _template(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            _template(key)
            _tree(item)
    elif isinstance(value, list):
        for item in value:
            _tree(item)
    return value


Url = Annotated[str, pydantic.AfterValidator(_url)]
"""An http(s) URL that is no secret."""
SecretUrl = Annotated[pydantic.SecretStr, pydantic.AfterValidator(_secret_url)]
"""An http(s) URL that whoever knows it can post to."""
SecretUrlText = Annotated[pydantic.SecretStr, pydantic.AfterValidator(_secret_url_text)]
"""Such a URL, or a template that makes one."""
ProxyUrl = Annotated[pydantic.SecretStr, pydantic.AfterValidator(_proxy_url)]
"""The address of a proxy, which may hold a password."""
GoDuration = Annotated[float, pydantic.BeforeValidator(_go_duration)]
"""Seconds, written as Go writes them; 0 means the default."""
Host = Annotated[str, pydantic.AfterValidator(_host)]
"""`host:port`."""
SecretPath = Annotated[Path, pydantic.AfterValidator(_secret_path)]
"""A file that holds a secret, read whenever it is needed: beside the configuration, or from the working directory."""
Text = Annotated[str, pydantic.AfterValidator(_template)]
"""A Go text/template, parsed when the configuration is loaded."""
Html = Annotated[str, pydantic.AfterValidator(_html_template)]
"""A Go html/template."""
Tree = Annotated[Any, pydantic.AfterValidator(_tree)]
"""Any YAML whose texts are Go templates; `trees.render` fills it in."""
