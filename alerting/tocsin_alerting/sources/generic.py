"""JSON of any shape, by a mapping that says where the parts of an alert stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

import orjson
import pydantic

from tocsin_alerting.model import Incoming
from tocsin_alerting.sources.auth import Check, Signature, SignatureSettings, TokenOrPassword, opened
from tocsin_alerting.sources.paths import NothingThereError, Path, PathError, Value, find, text, word
from tocsin_alerting.sources.report import Report, Times, UnreadableError, moment
from tocsin_service.settings import Settings, flaw

_NAME: Final = "alertname"
_EXCERPT: Final = 40


def _word(value: object) -> object:
    # YAML reads `true`, `ok: 1` and the like as what they look like.
    return word(value, "") if isinstance(value, bool | int | float) else value


Word = Annotated[str, pydantic.BeforeValidator(_word)]
"""A value of a state, compared as text."""


class StatusSettings(Settings):
    """How the state of an alert is told: the values at `path` that mean firing, resolved, or both lists.

    Of a list that is left out, all values are meant that the other does not name.
    """

    path: Path
    firing: list[Word] | None = None
    resolved: list[Word] | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if not self.firing and not self.resolved:
            raise flaw("no state is named", expected="firing: [...] or resolved: [...] or both")
        if both := set(self.firing or ()) & set(self.resolved or ()):
            raise flaw(f'"{sorted(both)[0]}" stands in both lists', fix="keep it in one of them")
        return self


class MappingSettings(Settings):
    """`mapping`: texts are constants, or paths that begin with `$.`."""

    alerts: Path = "$"
    labels: dict[str, Value]
    annotations: dict[str, Value] = pydantic.Field(default={})
    status: StatusSettings | None = None
    starts_at: Path | None = None
    ends_at: Path | None = None
    generator_url: Value = ""


class JsonSettings(TokenOrPassword):
    """`kind: json`."""

    kind: Literal["json"]
    signature: SignatureSettings | None = None
    mapping: MappingSettings

    @pydantic.model_validator(mode="after")
    def _named(self) -> Self:
        if _NAME not in self.mapping.labels and _NAME not in self.labels:
            raise flaw(
                "nothing says what an alert is called", expected=f"labels with {_NAME}", fix=f"add {_NAME} to them"
            )
        return self

    @classmethod
    def ways(cls) -> tuple[str, ...]:
        """Return the fields of which one must be set."""
        return (*super().ways(), "signature")

    def check(self) -> Check:
        """Return who may post.

        Raises:
            SecretError: a secret cannot be had.
        """
        if self.signature is None:
            return super().check()
        key = opened(self.signature.secret, self.signature.secret_file)
        return Signature(self.signature.header, self.signature.prefix, key)


def read(body: bytes, headers: Mapping[str, str], settings: JsonSettings, now: float) -> Report:
    """Return what a request says; an alert that cannot be read does not stop the others.

    Raises:
        UnreadableError: it is not JSON.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UnreadableError(f"the body is not JSON: {error}") from error
    mapping = settings.mapping
    try:
        found = _alerts(mapping, document)
    except PathError as error:
        return Report(problems=(f"alerts: {error}",), status=422)
    alerts: list[Incoming] = []
    problems: list[str] = []
    status = 400
    for index, item in enumerate(found):
        try:
            alerts.append(_incoming(item, document, settings, now))
        except NothingThereError as error:
            problems.append(f"alerts[{index}]: {error}")
            status = 422
        except ValueError as error:
            problems.append(f"alerts[{index}]: {error}")
    return Report(tuple(alerts), tuple(problems), status)


def _alerts(mapping: MappingSettings, document: object) -> list[object]:
    found = find(mapping.alerts, document, document)
    if found is None:
        raise NothingThereError(f"{mapping.alerts} finds nothing in this body")
    return found if isinstance(found, list) else [found]


def _incoming(item: object, document: object, settings: JsonSettings, now: float) -> Incoming:
    mapping = settings.mapping
    if not isinstance(item, dict):
        raise ValueError("not an object")
    labels = _texts("labels", mapping.labels, item, document)
    if _NAME not in labels and _NAME not in settings.labels:
        raise NothingThereError(f"labels.{_NAME}: {mapping.labels[_NAME]} finds nothing")
    starts_at = _time("starts_at", mapping.starts_at, item, document)
    ends_at = _time("ends_at", mapping.ends_at, item, document)
    firing = ends_at is None or ends_at > now
    if mapping.status is not None:
        firing = _firing(mapping.status, item, document)
    times = Times(starts_at, ends_at).settled(firing=firing, now=now, resolve_after=settings.resolve_after)
    return Incoming(
        labels,
        _texts("annotations", mapping.annotations, item, document),
        times.starts_at,
        times.ends_at,
        text(mapping.generator_url, item, document),
    )


def _texts(where: str, values: Mapping[str, str], item: object, document: object) -> dict[str, str]:
    result = {}
    for name, value in values.items():
        try:
            found = text(value, item, document)
        except PathError as error:
            raise PathError(f"{where}.{name}: {error}") from error
        if found:
            result[name] = found
    return result


def _firing(status: StatusSettings, item: object, document: object) -> bool:
    found = find(status.path, item, document)
    if found is None:
        raise NothingThereError(f"status: {status.path} finds nothing")
    state = word(found, status.path)
    if status.firing is not None and state in status.firing:
        return True
    if status.resolved is not None and state in status.resolved:
        return False
    if status.firing is not None and status.resolved is not None:
        known = ", ".join([*status.firing, *status.resolved])
        raise ValueError(f'status: {status.path} is "{state[:_EXCERPT]}"; expected one of {known}')
    return status.firing is None


def _time(where: str, path: str | None, item: object, document: object) -> float | None:
    if path is None:
        return None
    try:
        return moment(find(path, item, document))
    except PathError:
        raise
    except ValueError as error:
        raise ValueError(f"{where}: {path} is {error}") from error
