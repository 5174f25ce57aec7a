"""Configuration files: YAML with positions -> frozen typed values, every problem at once as file:line:column.

A part declares its settings as subclasses of `Settings` and calls `Document.read`. Problems that only the part can
see (an undefined receiver, say) are located with `Document.problem` and raised together as one `SettingsError`.
"""

from __future__ import annotations

import difflib
import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar, Union

import pydantic
import yaml
from pydantic_core import ErrorDetails, PydanticCustomError

from tocsin_service import durations

Loc = tuple[str | int, ...]
"""Where in a document: keys and list indexes from its root."""


class Settings(pydantic.BaseModel):
    """Base of all settings: frozen, unknown keys are errors, a default stands once beside its field."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)


def _duration(value: object) -> float:
    # A bare 0 is a YAML int; any other number lacks its unit.
    if value == 0 and not isinstance(value, bool):
        return 0.0
    if not isinstance(value, str):
        raise flaw(f"{value!r} has no unit", expected="a duration such as 30s or 1h30m", fix=f'write "{value}s"')
    try:
        return durations.parse(value)
    except ValueError as error:
        raise flaw(
            f'"{value}" is not a duration', expected="whole numbers with y w d h m s ms, in that order"
        ) from error


def _resolve(path: Path, info: pydantic.ValidationInfo) -> Path:
    folder: Path = (info.context or {}).get("folder", Path())
    return folder / path.expanduser()


Duration = Annotated[float, pydantic.BeforeValidator(_duration)]
"""A field of float seconds, written in Prometheus notation. Defaults are seconds: `interval: Duration = 30.0`."""

ConfigPath = Annotated[Path, pydantic.AfterValidator(_resolve)]
"""A path that is taken from the folder of the configuration file."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration file. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    what: str
    expected: str = ""
    fix: str = ""

    def __str__(self) -> str:
        expected = f"; expected {self.expected}" if self.expected else ""
        fix = f"; fix: {self.fix}" if self.fix else ""
        return f"{self.file}:{self.line}:{self.column}: {self.what}{expected}{fix}"


class SettingsError(Exception):
    """A configuration that cannot be used; `problems` holds all that is wrong, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems), key=lambda p: (p.file, p.line, p.column, p.what)))
        super().__init__("\n".join(map(str, self.problems)))


class SecretError(Exception):
    """A secret that cannot be had; the message names the file, never the content."""


def flaw(what: str, *, expected: str = "", fix: str = "") -> PydanticCustomError:
    """Return an error for a validator of a `Settings` field to raise; the position is added by `Document.read`."""
    context = {"what": what, "expected": expected, "fix": fix}
    return PydanticCustomError("tocsin", "{what}", context)


def secret(value: pydantic.SecretStr | None, file: Path | None) -> str:
    """Return a secret given as a value or as a file that is read now (so that it can be rotated) and trimmed.

    Raises:
        SecretError: neither is given, or the file cannot be read.
    """
    if value is not None:
        return value.get_secret_value()
    if file is None:
        raise SecretError("no secret is configured")
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SecretError(f"cannot read the secret file {file}: {reason}") from error


# --- YAML with positions ----------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """SafeLoader without dates and base-60 numbers: `2026-01-01` and `22:30` stay the text they look like.

    Tabs between tokens are blanks, as YAML has it: JSON is often indented with them.
    """

    def scan_to_next_token(self) -> None:
        super().scan_to_next_token()
        while self.peek() == "\t" and (self.flow_level or not self.allow_simple_key):
            self.forward()
            super().scan_to_next_token()


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, re.compile(r"[-+]?(?:0x[0-9a-fA-F]+|0o?[0-7]+|0|[1-9][0-9]*)\Z") if tag.endswith(":int") else regex)
        for tag, regex in resolvers
        if not tag.endswith((":timestamp", ":float"))
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?\Z|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"),
    list("-+0123456789."),
)

_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_M = TypeVar("_M", bound=Settings)
_Position = tuple[int, int]


class Document:
    """A parsed YAML file that knows where each of its values stands."""

    def __init__(
        self,
        data: object,
        *,
        file: str,
        folder: Path,
        positions: Mapping[Loc, _Position],
        written: Mapping[Loc, str] | None = None,
        blocks: Mapping[Loc, _Position] | None = None,
    ) -> None:
        self.data = data
        self.file = file
        self.folder = folder
        self._positions = positions
        self._written = written or {}
        self._blocks = blocks or {}

    @classmethod
    def open(cls, path: Path, *, environ: Mapping[str, str] | None = None) -> Document:
        """Read `path`; see `parse`. A file that cannot be read is a `SettingsError` too."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise SettingsError([Problem(str(path), 1, 1, f"cannot read the file: {reason}")]) from error
        return cls.parse(text, file=str(path), folder=path.parent, environ=environ)

    @classmethod
    def parse(
        cls, text: str, *, file: str = "<config>", folder: Path = Path(), environ: Mapping[str, str] | None = None
    ) -> Document:
        """Parse YAML text.

        `${NAME}` and `${NAME:-default}` in values are replaced from `environ` (`$$` is a plain `$`); with None
        nothing is replaced. `folder` is where relative paths start.

        Raises:
            SettingsError: broken YAML, duplicate keys, undefined variables.
        """
        loader: _Loader | None = None
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            reader = _Reader(loader, file, environ)
            data = reader.value(node, ()) if node is not None else {}
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise SettingsError([Problem(file, line, column, f"this is not YAML: {error.problem}")]) from error
        except yaml.YAMLError as error:
            reason = str(error).partition("\n")[0]
            raise SettingsError([Problem(file, 1, 1, f"this is not YAML: {reason}")]) from error
        finally:
            if loader is not None:
                loader.dispose()
        if reader.problems:
            raise SettingsError(reader.problems)
        places = {"positions": reader.positions, "blocks": reader.blocks}
        return cls(data, file=file, folder=folder, written=reader.written, **places)

    def replaced(self, data: object) -> Document:
        """Return the same file with other `data`, of which what stands at the same places is found there."""
        return Document(
            data,
            file=self.file,
            folder=self.folder,
            positions=self._positions,
            written=self._written,
            blocks=self._blocks,
        )

    def written(self, *loc: str | int) -> str | None:
        """Return the characters of a scalar that stands for something else: `007` for 7, `${NAME}` for its value."""
        return self._written.get(loc)

    def inside(self, loc: Loc, line: int, column: int) -> tuple[int, int] | None:
        """Return where a character of the text at `loc` stands in the file; None unless it is a literal block (`|`)."""
        start = self._blocks.get(loc)
        return (start[0] + line - 1, start[1] + column - 1) if start else None

    def section(self, *loc: str | int) -> object:
        """Return the plain value at `loc`, or None where there is none."""
        value = self.data
        for part in loc:
            if isinstance(value, Mapping):
                value = value.get(part)
            elif isinstance(value, Sequence) and not isinstance(value, str) and isinstance(part, int):
                value = value[part] if part < len(value) else None
            else:
                return None
        return value

    def read(self, model: type[_M], *at: str | int, without: frozenset[str] = frozenset()) -> _M:
        """Return the part of the document at `at` as `model`; an absent part is an empty one.

        Args:
            without: keys of that part which belong to somebody else and are passed over.

        Raises:
            SettingsError: all that is wrong with it.
        """
        data = self.section(*at)
        if data is None:
            data = {}
        if without and isinstance(data, Mapping):
            data = {key: value for key, value in data.items() if key not in without}
        try:
            return model.model_validate(data, context={"folder": self.folder})
        except pydantic.ValidationError as error:
            problems = [self._explain(model, at, details) for details in error.errors(include_url=False)]
            raise SettingsError(problems) from error

    def problem(self, loc: Loc, what: str, *, expected: str = "", fix: str = "") -> Problem:
        """Return a problem at `loc`, or at the nearest thing around it that stands in the file."""
        while loc not in self._positions and loc:
            loc = loc[:-1]
        line, column = self._positions.get(loc, (1, 1))
        return Problem(self.file, line, column, what, expected, fix)

    def _explain(self, model: type[Settings], at: Loc, details: ErrorDetails) -> Problem:
        loc = self._locate(at, details["loc"])
        dotted = _dotted(loc)
        context = details.get("ctx", {})
        kind = details["type"]
        if kind == "tocsin":
            return self.problem(loc, f"{dotted}: {context['what']}", expected=context["expected"], fix=context["fix"])
        if kind == "extra_forbidden":
            known = sorted(_fields(model, details["loc"][:-1]))
            near = difflib.get_close_matches(str(loc[-1]), known, n=1)
            fix = f'did you mean "{near[0]}"?' if near else "remove it"
            return self.problem(loc, f'unknown key "{loc[-1]}"', expected="one of " + ", ".join(known), fix=fix)
        if kind == "missing":
            return self.problem(loc, f'"{details["loc"][-1]}" is missing in {dotted or "the file"}', fix="add it")
        if kind in {"model_type", "dict_type"}:
            found = _kind(self.section(*loc))
            return self.problem(loc, f"{dotted}: found {found}", expected="a mapping of keys to values")
        message = details["msg"]
        expected = message[0].lower() + message[1:] if message else ""
        expected = expected.removeprefix("input should be ").removeprefix("value error, ").partition(", unable to")[0]
        return self.problem(loc, f"{dotted}: found {_kind(self.section(*loc))}", expected=expected)

    def _locate(self, at: Loc, loc: Loc) -> Loc:
        """Drop what pydantic adds to a location (names of union members) and what the file does not have."""
        found: Loc = tuple(at)
        for part in loc:
            if (*found, part) in self._positions:
                found = (*found, part)
        return found


class _Reader:
    """Turns YAML nodes into plain values while noting positions and problems."""

    def __init__(self, loader: _Loader, file: str, environ: Mapping[str, str] | None) -> None:
        self.positions: dict[Loc, _Position] = {}
        self.written: dict[Loc, str] = {}
        self.blocks: dict[Loc, _Position] = {}
        self.problems: list[Problem] = []
        self._loader = loader
        self._file = file
        self._environ = environ
        self._inside: set[int] = set()

    def value(self, node: yaml.Node, loc: Loc, key: yaml.Node | None = None) -> object:
        # A value is found by its key: that is where a person looks.
        mark = (key or node).start_mark
        self.positions[loc] = (mark.line + 1, mark.column + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, loc)
        if id(node) in self._inside:
            self._problem(node, "this contains itself", fix="write it out without the alias")
            return None
        self._inside.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, loc)
            return [self.value(item, (*loc, index)) for index, item in enumerate(node.value)]
        finally:
            self._inside.discard(id(node))

    def _scalar(self, node: yaml.ScalarNode, loc: Loc) -> object:
        if node.style == "|":
            self.blocks[loc] = _block_start(node)
        try:
            value = self._loader.construct_object(node)
        except (ValueError, LookupError):
            self._problem(node, f"this is not a {node.tag.rpartition(':')[2]}", fix="put it in quotes if it is text")
            return None
        found = self._expand(value, node) if isinstance(value, str) else value
        if found != node.value:
            self.written[loc] = node.value
        return found

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, object]:
        self._loader.flatten_mapping(node)  # `<<` merge keys
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(key_node, "a list or mapping cannot be a key", fix="use text")
                continue
            key = str(self._loader.construct_object(key_node))
            if key in result:
                self._problem(key_node, f'the key "{key}" stands here twice', fix="keep one of them")
            result[key] = self.value(value_node, (*loc, key), key_node)
        return result

    def _expand(self, text: str, node: yaml.Node) -> str:
        environ = self._environ
        if environ is None or "$" not in text:
            return text

        def replace(match: re.Match[str]) -> str:
            name, default = match.groups()
            if name is None:
                return "$"
            value = environ.get(name, default)
            if value is None:
                self._problem(
                    node, f"the environment variable {name} is not set", fix=f"set it, or write ${{{name}:-default}}"
                )
                return ""
            return value

        return _VARIABLE.sub(replace, text)

    def _problem(self, node: yaml.Node, what: str, *, fix: str) -> None:
        self.problems.append(Problem(self._file, node.start_mark.line + 1, node.start_mark.column + 1, what, fix=fix))


def _block_start(node: yaml.ScalarNode) -> _Position:
    """Return line and column, from 1, at which the text of a literal block starts."""
    mark = node.start_mark
    following = (mark.buffer or "")[mark.pointer :].splitlines()[1:]
    first = next((line for line in following if line.strip()), "")
    return mark.line + 2, len(first) - len(first.lstrip(" ")) + 1


def _fields(model: object, loc: Loc) -> set[str]:
    """Return the keys that the settings at `loc` below `model` may have (of all members of a union)."""
    models = set(_models(model))
    for part in loc:
        below = [
            item.model_fields[part].annotation for item in models if isinstance(part, str) and part in item.model_fields
        ]
        if below:
            models = {found for annotation in below for found in _models(annotation)}
    return {field.alias or name for item in models for name, field in item.model_fields.items()}


def _models(annotation: object) -> Iterator[type[Settings]]:
    """Yield every settings class inside `annotation`: Optional, list, dict, Annotated and unions are looked into."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    origin = typing.get_origin(annotation)
    if origin in {Union, types.UnionType, Annotated} or isinstance(origin, type):
        for argument in typing.get_args(annotation):
            yield from _models(argument)


def _dotted(loc: Loc) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".")


def _kind(value: object) -> str:
    """Name what was found without showing it: it may be a secret."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case Mapping():
            return "a mapping"
        case _:
            return "a list"


def environment() -> Mapping[str, str]:
    """Return the process' environment, the usual `environ` argument of `Document.open`."""
    return os.environ


__all__ = [
    "ConfigPath",
    "Document",
    "Duration",
    "Loc",
    "Problem",
    "SecretError",
    "Settings",
    "SettingsError",
    "environment",
    "flaw",
    "secret",
]
