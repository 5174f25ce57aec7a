"""YAML the way Alertmanager reads it, where that differs from Python: pure, guided by the types of the settings.

A key without a value counts as absent, a text without one as empty. Where text is wanted, a number or truth value is
the characters it was written with: `routing_key: 007` is "007" and `match: {beta: yes}` is "yes".
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import pydantic

from tocsin_service.settings import Document, Loc, Settings

Kinds = tuple[Any, ...]
"""The types that a value may have, without unions and annotations around them."""


def kinds(annotation: Any) -> Kinds:
    """Return what an annotation allows, unions and `Annotated` looked into."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return kinds(typing.get_args(annotation)[0])
    if origin in {Union, types.UnionType}:
        return tuple(found for each in typing.get_args(annotation) for found in kinds(each))
    return (annotation,)


def below(allowed: Kinds, key: str | int) -> Kinds:
    """Return what the value of a key, or an item of a list, may be; empty where nothing is known of it."""
    found: list[Any] = []
    for kind in allowed:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if is_settings(kind):
            found += [each for name, each in fields(kind).items() if name == key]
        elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(key, str) and len(arguments) == 2:
            found.append(arguments[1])
        elif isinstance(origin, type) and issubclass(origin, Sequence) and isinstance(key, int) and arguments:
            found.append(arguments[0])
    return tuple(each for annotation in found for each in kinds(annotation))


def is_settings(kind: Any) -> bool:
    """Return whether a type is a class of settings."""
    return isinstance(kind, type) and issubclass(kind, Settings)


def fields(model: type[pydantic.BaseModel]) -> dict[str, Any]:
    """Return the keys of a class of settings as they stand in a file, with their types."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def fitted(document: Document, loc: Loc, allowed: Kinds) -> object:
    """Return the value at `loc` as Alertmanager would hand it to something of these types."""
    value = document.section(*loc)
    if isinstance(value, Mapping):
        known = {key for kind in allowed if is_settings(kind) for key in fields(kind)}
        return {
            key: fitted(document, (*loc, key), below(allowed, key))
            for key, item in value.items()
            if not (item is None and key in known)
        }
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [fitted(document, (*loc, index), below(allowed, index)) for index in range(len(value))]
    if value is None and _text_only(allowed):
        return ""
    if isinstance(value, bool | int | float) and _text_only(allowed):
        written = document.written(*loc)
        return str(value).lower() if written is None and isinstance(value, bool) else written or str(value)
    return value


def _text_only(allowed: Kinds) -> bool:
    """Return whether text is wanted, and nothing a number could stand for."""
    wanted = [kind for kind in allowed if kind is not type(None)]
    return bool(wanted) and all(_is_text(kind) for kind in wanted)


def _is_text(kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return all(isinstance(each, str) for each in typing.get_args(kind))
    return isinstance(kind, type) and issubclass(kind, str | pydantic.SecretStr | Path)
