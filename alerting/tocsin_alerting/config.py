"""`alertmanager.yml` -> `Config`. What Alertmanager knows and this version does not is refused, never passed over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import pydantic
import yaml

from tocsin_alerting import receivers
from tocsin_alerting.matchers import Matcher, MatcherError, Op, parse, render, valid_label
from tocsin_alerting.receivers import sending
from tocsin_alerting.receivers.pagerduty import PagerDutySettings
from tocsin_alerting.receivers.slack import SlackSettings
from tocsin_alerting.routing import Route
from tocsin_alerting.schema import FileSection, GlobalSection, ReceiverSection, RouteSection
from tocsin_alerting.unsupported import Known, refused, templated
from tocsin_service import durations
from tocsin_service.settings import Document, Loc, Problem, SettingsError

ALL_LABELS: Final = "..."
"""As the only name in `group_by`: every label."""


@dataclass(frozen=True, slots=True)
class Integration:
    """One entry of a receiver: its kind, its place among those of its kind, its settings."""

    kind: str
    position: int
    settings: sending.ReceiverSettings


@dataclass(frozen=True, slots=True)
class Receiver:
    """A named list of integrations; an empty one swallows what it gets."""

    name: str
    integrations: tuple[Integration, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """All that the router runs from.

    `original` is the file with defaults filled in and without secrets, as YAML that amtool can read.
    """

    resolve_timeout: float
    root: Route
    receivers: Mapping[str, Receiver]
    original: str


_M = TypeVar("_M", bound=Known)


def load(document: Document, *at: str | int, without: frozenset[str] = frozenset()) -> Config:
    """Read the configuration that stands at `at`.

    Args:
        without: keys there that belong to somebody else.

    Raises:
        SettingsError: all that is wrong with it.
    """
    reader = _Reader(document, at)
    reader.problems += _unsupported(document, at)
    config = reader.config(without)
    if reader.problems:
        raise SettingsError(reader.problems)
    return config


def _unsupported(document: Document, at: Loc) -> Iterator[Problem]:
    yield from refused(document, at, FileSection.later)
    yield from refused(document, (*at, "global"), GlobalSection.later)
    yield from _unsupported_routes(document, (*at, "route"))
    for loc in _items(document, (*at, "receivers")):
        yield from refused(document, loc, ReceiverSection.later)
        for name, kind in receivers.KINDS.items():
            for entry in _items(document, (*loc, f"{name}_configs")):
                yield from refused(document, entry, kind.settings.later)
                yield from templated(document, entry, kind.settings.later)


def _unsupported_routes(document: Document, loc: Loc) -> Iterator[Problem]:
    yield from refused(document, loc, RouteSection.later)
    for child in _items(document, (*loc, "routes")):
        yield from _unsupported_routes(document, child)


def _items(document: Document, loc: Loc) -> list[Loc]:
    found = document.section(*loc)
    return [(*loc, index) for index in range(len(found))] if isinstance(found, list) else []


class _Reader:
    """Builds a `Config` from the parsed file, noting what no single value can know to be wrong."""

    def __init__(self, document: Document, at: Loc) -> None:
        self.problems: list[Problem] = []
        self._document = document
        self._at = at
        self._shared = GlobalSection()

    def config(self, without: frozenset[str]) -> Config:
        """Return the configuration; worth something only if there are no problems."""
        self._read(FileSection, without=without)
        self._shared = self._read(GlobalSection, "global") or self._shared
        found = self._receivers()
        root = Route("0", "{}", "", frozenset(), 30.0, 300.0, 14_400.0)
        if self._document.section(*self._at, "route") is not None:
            root = self._route(("route",), root, frozenset(found))
        return Config(self._shared.resolve_timeout, root, found, _original(self._shared, root, found))

    def _read(self, model: type[_M], *loc: str | int, without: frozenset[str] = frozenset()) -> _M | None:
        try:
            return self._document.read(model, *self._at, *loc, without=without)
        except SettingsError as error:
            self.problems += error.problems
            return None

    def _wrong(self, loc: Loc, what: str, *, expected: str = "", fix: str = "") -> None:
        self.problems.append(self._document.problem((*self._at, *loc), what, expected=expected, fix=fix))

    # --- receivers ----------------------------------------------------------------------------------------------

    def _receivers(self) -> dict[str, Receiver]:
        found: dict[str, Receiver] = {}
        for loc in _items(self._document, (*self._at, "receivers")):
            here = loc[len(self._at) :]
            entry = self._read(ReceiverSection, *here)
            name = str(self._document.section(*loc, "name") or "")
            if entry is not None and not name:
                self._wrong((*here, "name"), "a receiver has no name", fix="give it one")
            elif name in found:
                self._wrong((*here, "name"), f'the receiver "{name}" stands here twice', fix="rename one of them")
            if name:
                found[name] = Receiver(name, tuple(self._integrations(entry, here)) if entry else ())
        return found

    def _integrations(self, entry: ReceiverSection, loc: Loc) -> Iterator[Integration]:
        for kind in receivers.KINDS:
            name = f"{kind}_configs"
            for position, settings in enumerate(getattr(entry, name)):
                yield Integration(kind, position, self._with_globals(settings, (*loc, name, position)))

    def _with_globals(self, settings: sending.ReceiverSettings, loc: Loc) -> sending.ReceiverSettings:
        shared = self._shared
        if isinstance(settings, PagerDutySettings) and settings.url is None:
            return settings.model_copy(update={"url": shared.pagerduty_url})
        if isinstance(settings, SlackSettings):
            return self._slack(settings, shared, loc)
        return settings

    def _slack(self, settings: SlackSettings, shared: GlobalSection, loc: Loc) -> SlackSettings:
        names = ("api_url", "api_url_file", "app_token", "app_token_file")
        update: dict[str, object] = {"app_url": settings.app_url or shared.slack_app_url}
        if all(getattr(settings, name) is None for name in names):
            update |= {name: getattr(shared, f"slack_{name}") for name in names}
            if update["api_url"] or update["api_url_file"]:
                update |= {"app_token": None, "app_token_file": None}
            elif update["app_token"] or update["app_token_file"]:
                if not settings.channel:
                    self._wrong(loc, "a Slack app needs a channel", expected='channel: "#alerts"', fix="add it")
            else:
                fix = "add api_url_file here, or slack_api_url_file under global"
                self._wrong(loc, "Slack has no address", expected="api_url, api_url_file or app_token", fix=fix)
        return settings.model_copy(update=update)

    # --- routes -------------------------------------------------------------------------------------------------

    def _route(self, loc: Loc, parent: Route, known: frozenset[str]) -> Route:
        found = self._read(RouteSection, *loc)
        entry = found or RouteSection()
        is_root = loc == ("route",)
        matchers = self._matchers(entry, loc)
        if is_root and found:
            self._check_root(entry, loc)
        if entry.receiver and entry.receiver not in known:
            what = f'undefined receiver "{entry.receiver}" used in route'
            expected = "one of " + ", ".join(sorted(known)) if known else "a receiver of that name"
            self._wrong((*loc, "receiver"), what, expected=expected)
        for name in ("group_interval", "repeat_interval"):
            if getattr(entry, name) == 0:
                self._wrong((*loc, name), f"{name} is zero", expected="a duration such as 5m")
        node = Route(
            node=parent.node if is_root else f"{parent.node}.{loc[-1]}",
            key="{}" if is_root else f"{parent.key}/{render(matchers)}",
            receiver=entry.receiver or parent.receiver,
            group_by=self._group_by(entry, loc, parent),
            group_wait=parent.group_wait if entry.group_wait is None else entry.group_wait,
            group_interval=entry.group_interval or parent.group_interval,
            repeat_interval=entry.repeat_interval or parent.repeat_interval,
            matchers=matchers,
            descend=entry.continue_,
        )
        below = (self._route((*loc, "routes", index), node, known) for index in range(len(entry.routes)))
        return replace(node, routes=tuple(below))

    def _check_root(self, entry: RouteSection, loc: Loc) -> None:
        if not entry.receiver:
            self._wrong(loc, "the root route has no receiver", expected="receiver: NAME", fix="add it")
        for name, value in (("matchers", entry.matchers), ("match", entry.match), ("match_re", entry.match_re)):
            if value:
                what = f"the root route has {name}, but it must match every alert"
                self._wrong((*loc, name), what, fix="move it to a route under routes")
        if entry.continue_:
            self._wrong((*loc, "continue"), "the root route cannot continue: nothing follows it", fix="remove it")

    def _group_by(self, entry: RouteSection, loc: Loc, parent: Route) -> frozenset[str] | None:
        names = entry.group_by
        if names is None:
            return parent.group_by
        loc = (*loc, "group_by")
        if ALL_LABELS in names and len(names) > 1:
            self._wrong(loc, '"..." stands for all labels and cannot stand beside others', fix="keep one of the two")
        for index, name in enumerate(names):
            if not name:
                self._wrong((*loc, index), "a label name in group_by is empty", fix="remove it")
            elif name in names[:index]:
                self._wrong((*loc, index), f'the label "{name}" stands in group_by twice', fix="remove one")
        return None if ALL_LABELS in names else frozenset(names)

    def _matchers(self, entry: RouteSection, loc: Loc) -> tuple[Matcher, ...]:
        found: list[Matcher] = []
        for index, text in enumerate(entry.matchers):
            try:
                parsed = parse(text)
            except MatcherError as error:
                self._wrong((*loc, "matchers", index), str(error))
                continue
            if not parsed:
                self._wrong((*loc, "matchers", index), "a matcher is empty", fix='write name="value"')
            found += parsed
        for key, op, pattern in (("match", Op.EQUAL, "{}"), ("match_re", Op.REGEX, "^(?:{})$")):
            for name, value in getattr(entry, key).items():
                if not valid_label(name):
                    self._wrong((*loc, key, name), f'"{name}" is not a label name', expected="[a-zA-Z_][a-zA-Z0-9_]*")
                try:
                    found.append(Matcher(name, op, pattern.replace("{}", value)))
                except MatcherError as error:
                    self._wrong((*loc, key, name), str(error))
        return tuple(found)


# --- as amtool reads it back -------------------------------------------------------------------------------------


def _original(shared: GlobalSection, root: Route, found: Mapping[str, Receiver]) -> str:
    data = {
        "global": _plain(shared),
        "route": _plain_route(root),
        "receivers": [_plain_receiver(receiver) for receiver in found.values()],
    }
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _plain(settings: Known) -> dict[str, object]:
    data = settings.model_dump(by_alias=True, exclude_defaults=True, exclude_none=True)
    return {name: _plain_value(name, value) for name, value in data.items()}


def _plain_value(name: str, value: object) -> object:
    if isinstance(value, pydantic.SecretStr):
        return "<secret>"
    if isinstance(value, float):
        return durations.render(value) if name in {"resolve_timeout", "timeout"} else value
    return value if isinstance(value, str | int | bool | dict) else str(value)


def _plain_route(route: Route) -> dict[str, object]:
    data: dict[str, object] = {
        "receiver": route.receiver,
        "group_by": [ALL_LABELS] if route.group_by is None else sorted(route.group_by),
        "matchers": [str(matcher) for matcher in route.matchers],
        "continue": route.descend,
        "group_wait": durations.render(route.group_wait),
        "group_interval": durations.render(route.group_interval),
        "repeat_interval": durations.render(route.repeat_interval),
        "routes": [_plain_route(child) for child in route.routes],
    }
    return {name: value for name, value in data.items() if value}


def _plain_receiver(receiver: Receiver) -> dict[str, object]:
    data: dict[str, object] = {"name": receiver.name}
    for integration in receiver.integrations:
        # amtool refuses kinds it does not know; the terminal is ours alone.
        if integration.kind != "console":
            entries = data.setdefault(f"{integration.kind}_configs", [])
            if isinstance(entries, list):
                entries.append(_plain(integration.settings))
    return data
