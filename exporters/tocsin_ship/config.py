"""What the shipper is told: which files, to which outputs. See docs/ship.md for the reference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

import pydantic

from tocsin_service import web
from tocsin_service.settings import ConfigPath, Document, Duration, Problem, Settings, SettingsError, flaw

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_INDEX = re.compile(r"[a-z0-9][^A-Z\\/*?\"<>|,#:\s]{0,254}")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        # Names become file names and metric labels.
        raise flaw(f'"{value}" cannot be a name', expected="small letters, digits, - and _, at most 63 of them")
    return value


def _host(value: str) -> web.Address:
    try:
        address = web.Address.parse(value)
    except web.AddressError as error:
        raise flaw(f'"{value}" is not an address', expected="host:port, for example 127.0.0.1:50000") from error
    if value.startswith(":") or address.port == 0:
        raise flaw(f'"{value}" names no server', expected="host:port, for example 127.0.0.1:50000")
    return address


def _url(value: str) -> str:
    # The value is not shown: an address may hold a password.
    try:
        parts = urlsplit(value)
        complete = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        complete = False
    if not complete:
        raise flaw("this is not a server's address", expected="for example https://elastic.example.com:9200")
    if parts.username or parts.password:
        raise flaw("the address holds credentials", fix="move them to username and password_file, or api_key_file")
    if parts.query or parts.fragment:
        raise flaw("the address holds a query", expected="scheme, host, port and path only")
    return value.rstrip("/")


def _index(value: str) -> str:
    if not _INDEX.fullmatch(value) or len(value.encode()) > 255:
        expected = 'small letters, digits, "-", "_" and ".", for example logs-shop-default'
        raise flaw(f'"{value}" cannot be the name of a data stream or index', expected=expected)
    return value


Name = Annotated[str, pydantic.AfterValidator(_name)]


class FileInput(Settings):
    """Files to follow.

    `path` may hold `*`, `?`, `[...]` and `**`; it is taken from the folder of the configuration file. `service` is
    the `service.name` of lines that have none.
    """

    path: ConfigPath
    service: Annotated[str, pydantic.Field(min_length=1)] | None = None
    format: Literal["json"] = "json"


class LogstashTcp(Settings):
    """Logstash's tcp input with `codec => json_lines`."""

    kind: Literal["logstash_tcp"]
    name: Name = "logstash_tcp"
    host: Annotated[web.Address, pydantic.BeforeValidator(_host, json_schema_input_type=str)]


class Elasticsearch(Settings):
    """Elasticsearch's or OpenSearch's `_bulk`; at most one of api_key, api_key_file and username."""

    kind: Literal["elasticsearch"]
    name: Name = "elasticsearch"
    url: Annotated[str, pydantic.AfterValidator(_url)]
    index: Annotated[str, pydantic.AfterValidator(_index)] = "logs-tocsin-default"
    api_key: pydantic.SecretStr | None = None
    api_key_file: ConfigPath | None = None
    username: str | None = None
    password: pydantic.SecretStr | None = None
    password_file: ConfigPath | None = None


class Store(Settings):
    """The embedded full-text store. `retention` is the age, `max_bytes` the size from which old lines are deleted."""

    kind: Literal["store"]
    name: Name = "store"
    retention: Duration = 3 * 86_400.0
    max_bytes: Annotated[int, pydantic.Field(ge=1_000_000)] | None = None


Output = Annotated[LogstashTcp | Elasticsearch | Store, pydantic.Field(discriminator="kind")]


class Config(Settings):
    """All of it; at least one of each."""

    inputs: tuple[FileInput, ...]
    outputs: tuple[Output, ...]


def load(document: Document, *at: str | int, without: frozenset[str] = frozenset()) -> Config:
    """Return the shipper's part of `document`, found at `at`.

    Raises:
        SettingsError: all that is wrong with it.
    """
    config = document.read(Config, *at, without=without)
    problems = [*_names(document, at, config.outputs), *_stores(document, at, config.outputs)]
    for key, found in (("inputs", config.inputs), ("outputs", config.outputs)):
        if not found:
            problems.append(document.problem((*at, key), f"{key} is empty", expected="at least one"))
    for index, output in enumerate(config.outputs):
        if isinstance(output, Elasticsearch):
            problems += _credentials(document, (*at, "outputs", index), output)
        if isinstance(output, Store) and output.retention <= 0:
            loc = (*at, "outputs", index, "retention")
            problems.append(document.problem(loc, "nothing would be kept", expected="a duration such as 3d"))
    if problems:
        raise SettingsError(problems)
    return config


def _names(document: Document, at: tuple[str | int, ...], outputs: Sequence[Output]) -> list[Problem]:
    seen: set[str] = set()
    problems = []
    for index, output in enumerate(outputs):
        if output.name in seen:
            what = f'two outputs are called "{output.name}"'
            problems.append(document.problem((*at, "outputs", index, "name"), what, fix="give one of them a name"))
        seen.add(output.name)
    return problems


def _stores(document: Document, at: tuple[str | int, ...], outputs: Sequence[Output]) -> list[Problem]:
    found = [index for index, output in enumerate(outputs) if isinstance(output, Store)]
    return [
        document.problem((*at, "outputs", index), "there is a store already", fix="keep one output of this kind")
        for index in found[1:]
    ]


def _credentials(document: Document, loc: tuple[str | int, ...], output: Elasticsearch) -> list[Problem]:
    problems = []

    def add(key: str, what: str, fix: str) -> None:
        problems.append(document.problem((*loc, key), what, fix=fix))

    if output.api_key is not None and output.api_key_file is not None:
        add("api_key_file", "api_key and api_key_file are both given", "keep one of them")
    if output.password is not None and output.password_file is not None:
        add("password_file", "password and password_file are both given", "keep one of them")
    has_key = output.api_key is not None or output.api_key_file is not None
    has_password = output.password is not None or output.password_file is not None
    if has_key and (output.username is not None or has_password):
        add("username", "an API key and a user name are both given", "keep one way to sign in")
    elif output.username is not None and not has_password:
        add("username", "username has no password", "add password_file")
    elif output.username is None and has_password:
        add("password", "the password has no user name", "add username")
    return problems
