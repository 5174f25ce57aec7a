"""Where in a JSON document a value stands: `$.` and a JMESPath expression. Pure.

JMESPath (https://jmespath.org) has a specification, other users, and no way to call out, loop or run long: an
expression costs what it looks at.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, Final

import jmespath
import orjson
import pydantic
from jmespath.exceptions import JMESPathError, JMESPathTypeError

from tocsin_service.settings import flaw

_ALERT: Final = "$"
_BODY: Final = "^"
_MARKS: Final = (_ALERT, _BODY)


class PathError(ValueError):
    """A path that gives something that cannot be used; the message quotes the path."""


class NothingThereError(PathError):
    """A path at which there is nothing."""


@functools.lru_cache(maxsize=1024)
def _compiled(path: str) -> Any:
    expression = path[1:].removeprefix(".")
    return jmespath.compile(expression or "@")


def find(path: str, alert: object, body: object) -> object:
    """Return what stands at `path`, or None: `$.` begins at the alert, `^.` at the whole body.

    Raises:
        PathError: a function of the expression does not take what it was given.
    """
    try:
        return _compiled(path).search(body if path.startswith(_BODY) else alert)
    except (JMESPathError, RecursionError) as error:
        raise PathError(f"{path}: {str(error) or 'nested too deeply'}") from error


def text(value: str, alert: object, body: object) -> str:
    """Return a constant as it stands, and a path as the text, number, true or false at it; "" if there is nothing.

    Raises:
        PathError: there is a list or an object.
    """
    return word(find(value, alert, body), value) if is_path(value) else value


def word(found: object, path: str) -> str:
    """Return a scalar as text: 5 -> `5`, true -> `true`, null -> ``; see `text`."""
    if found is None or isinstance(found, str):
        return found or ""
    if isinstance(found, bool | int | float):
        return orjson.dumps(found).decode()
    kind = "a list" if isinstance(found, list) else "an object"
    raise PathError(f"{path} is {kind}; expected text or a number: pick one value, or write $.to_string(...)")


def is_path(value: str) -> bool:
    """Return whether it is a path and not a constant."""
    return value.startswith(_MARKS)


def _value(value: str) -> str:
    if not is_path(value):
        return value
    try:
        # Unknown functions and wrong numbers of arguments show only when it is asked something.
        _compiled(value).search(None)
    except JMESPathTypeError:
        pass  # there is nothing at its arguments yet
    except JMESPathError as error:
        what = str(error).partition("\n")[0]
        raise flaw(
            f'"{value}" is not a path: {what}', expected="$. and a JMESPath expression, as in $.labels.host"
        ) from error
    return value


def _path(value: str) -> str:
    if not is_path(value):
        raise flaw(f'"{value}" is not a path', expected="$. and a JMESPath expression", fix=f"write $.{value}")
    return _value(value)


Value = Annotated[str, pydantic.AfterValidator(_value)]
"""A constant, or a path."""
Path = Annotated[str, pydantic.AfterValidator(_path)]
"""A path."""
