"""`alertmanager.yml` -> `Config`: read once, with every mistake named at its place, and never changed afterwards."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tocsin_alerting import extras as own
from tocsin_alerting import original
from tocsin_alerting.extras import Extras
from tocsin_alerting.inhibition import InhibitRule
from tocsin_alerting.matchers import Mode
from tocsin_alerting.receivers import KINDS, sending
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_alerting.routing import Route
from tocsin_alerting.schema import FileSection, ReceiverSection, TracingSection
from tocsin_alerting.sections import Caution, Sections
from tocsin_alerting.templates import TemplateError, Templates
from tocsin_alerting.timeintervals import TimeInterval, TimeIntervalSection
from tocsin_alerting.tree import Tree
from tocsin_service.settings import Document, Loc, Problem, SettingsError

EXTRAS_KEY: Final = "tocsin"
"""The key of our own settings where the configuration is a section of tocsin.yml."""
_HASH_BYTES: Final = 6
"""As many as a metric, which is a float, holds exactly."""
_OPEN_CLASS: Final = re.compile(r"\[[^\]]*\Z")


@dataclass(frozen=True, slots=True)
class Integration:
    """One entry of a receiver: its kind, its place among those of its kind, its settings."""

    kind: str
    position: int
    settings: sending.ReceiverSettings


@dataclass(frozen=True, slots=True)
class Receiver:
    """A named list of integrations; an empty one swallows what it gets. Its name is among its labels."""

    name: str
    integrations: tuple[Integration, ...]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Config:
    """All that the router runs from.

    Args:
        resolve_timeout: seconds after which an alert without an end is over.
        receivers: by name, in the order of the file.
        intervals: `time_intervals` and `mute_time_intervals`, by name.
        original: the file with defaults filled in and without secrets, as YAML that amtool can read.
        hash: changes with the configuration; 48 bits.
        extras: what Alertmanager has no words for.
        warnings: what is legal and hardly meant.
    """

    resolve_timeout: float
    root: Route
    receivers: Mapping[str, Receiver]
    inhibit_rules: tuple[InhibitRule, ...]
    intervals: Mapping[str, TimeInterval]
    templates: Templates
    original: str
    hash: int
    extras: Extras
    warnings: tuple[Caution, ...] = ()


def load(
    document: Document,
    *at: str | int,
    without: frozenset[str] = frozenset(),
    extras: Extras | None = None,
    mode: Mode = Mode.FALLBACK,
) -> Config:
    """Read the configuration that stands at `at`.

    Args:
        without: keys there that belong to somebody else.
        extras: what our own second file says. None: the key `tocsin` of a section, or defaults.
        mode: the notation of matchers.

    Raises:
        SettingsError: all that is wrong with it.
    """
    reader = _Reader(document, at, mode)
    config = reader.config(without, extras)
    if reader.problems:
        raise SettingsError(reader.problems)
    return config


class _Reader:
    """Builds a `Config` from the sections, noting what no single value can know to be wrong."""

    def __init__(self, document: Document, at: Loc, mode: Mode) -> None:
        self._document = document
        self._at = at
        self._mode = mode
        self._sections = Sections(document, at)
        self._tree = Tree(self._sections, mode, frozenset(), frozenset())
        self._shared = GlobalSettings()

    @property
    def problems(self) -> list[Problem]:
        return self._sections.problems

    def config(self, without: frozenset[str], extras: Extras | None) -> Config:
        """Return the configuration; worth something only if there are no problems."""
        sections = self._sections
        extras = self._extras(extras)
        without |= {EXTRAS_KEY}  # read, or refused with words of its own
        file = sections.read(FileSection, without=without)
        self._shared = sections.read(GlobalSettings, "global") or self._shared
        intervals = self._intervals()
        receivers = self._receivers()
        sections.problems += extras.undefined(receivers)
        tree = Tree(sections, self._mode, receivers.keys(), intervals.keys())
        root, rules = tree.root(), tree.rules()
        texts = self._template_texts(file.templates if file else [])
        templates = self._templates(texts, extras.messages)
        self._without_effect()
        shown = original.Shown(
            shared=sections.said("global") or {},
            root=root,
            receivers=[self._shown(loc, receivers) for loc in sections.entries("receivers")],
            rules=rules,
            intervals=[interval.plain() for interval in intervals.values()],
            templates=file.templates if file else [],
        )
        return Config(
            resolve_timeout=self._shared.resolve_timeout,
            root=root,
            receivers=receivers,
            inhibit_rules=rules,
            intervals=intervals,
            templates=templates,
            original="" if self.problems else original.text(shown),
            hash=self._hash(without, texts, extras),
            extras=extras,
            warnings=tuple(sorted(set(sections.warnings), key=lambda each: (each.file, each.line, each.column))),
        )

    def _hash(self, without: frozenset[str], texts: list[tuple[str, str]], extras: Extras) -> int:
        said = self._document.section(*self._at)
        data = {key: value for key, value in said.items() if key not in without} if isinstance(said, Mapping) else said
        named = [(Path(file).name, text) for file, text in texts]
        content = json.dumps([data, named, repr(extras)], sort_keys=True, default=str)
        return int.from_bytes(hashlib.sha256(content.encode(errors="replace")).digest()[:_HASH_BYTES], "big")

    # --- beside Alertmanager's ----------------------------------------------------------------------------------

    def _extras(self, extras: Extras | None) -> Extras:
        if extras is not None or not self._at:
            if self._sections.said(EXTRAS_KEY) is not None:
                # Alertmanager and amtool would refuse the file.
                what = f'"{EXTRAS_KEY}" cannot stand in an alertmanager.yml'
                fix = "put what it holds into a file of its own and name that with --tocsin.config"
                self._sections.wrong((EXTRAS_KEY,), what, fix=fix)
            return extras or Extras()
        try:
            return own.load(self._document, *self._at, EXTRAS_KEY, messages="tocsin")
        except SettingsError as error:
            self.problems.extend(error.problems)
            return Extras()

    def _without_effect(self) -> None:
        sections = self._sections
        if sections.said("tracing") is not None:
            sections.read(TracingSection, "tracing")
            fix = "remove it, where Alertmanager does not read the same file"
            sections.warn("without-effect", ("tracing",), "tracing is read, but has no effect here", fix=fix)
        recorder = sections.said("event_recorder")
        if recorder is not None:
            if not isinstance(recorder, Mapping):
                what = "event_recorder is not a mapping"
                sections.wrong(("event_recorder",), what, expected="a mapping of keys to values")
            what = "event_recorder is read, but has no effect here: what happened is kept in the database"
            sections.warn("without-effect", ("event_recorder",), what, fix="ask /api/v1/notifications")

    # --- templates ----------------------------------------------------------------------------------------------

    def _template_texts(self, patterns: list[str]) -> list[tuple[str, str]]:
        found: dict[str, str] = {}
        for index, pattern in enumerate(patterns):
            if _OPEN_CLASS.search(pattern):
                self._sections.wrong(("templates", index), f'"{pattern}" is not a pattern of paths: a [ is not closed')
                continue
            # A pattern may be absolute, which Path.glob does not take.
            for file in sorted(glob.glob(str(self._document.folder / pattern))):  # noqa: PTH207
                try:
                    found[file] = Path(file).read_text(encoding="utf-8")
                except (OSError, UnicodeDecodeError) as error:
                    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                    self._sections.wrong(("templates", index), f"cannot read the template file {file}: {reason}")
        return list(found.items())

    def _templates(self, texts: list[tuple[str, str]], words: own.Words) -> Templates:
        try:
            return Templates(texts, words=words)
        except TemplateError:
            self.problems.extend(_broken(texts))
            return Templates(words=words)

    # --- time intervals and receivers ---------------------------------------------------------------------------

    def _intervals(self) -> dict[str, TimeInterval]:
        found: dict[str, TimeInterval] = {}
        for key in ("time_intervals", "mute_time_intervals"):
            for loc in self._sections.entries(key):
                section = self._sections.read(TimeIntervalSection, *loc)
                name = str(self._sections.said(*loc, "name") or "")
                if name in found:
                    what = f'the time interval "{name}" stands here twice'
                    self._sections.wrong((*loc, "name"), what, fix="rename one of them")
                if name:
                    found[name] = section.interval() if section else TimeInterval(name)
        return found

    def _receivers(self) -> dict[str, Receiver]:
        found: dict[str, Receiver] = {}
        for loc in self._sections.entries("receivers"):
            entry = self._sections.read(ReceiverSection, *loc)
            name = str(self._sections.said(*loc, "name") or "")
            if entry is not None and not name:
                self._sections.wrong((*loc, "name"), "a receiver has no name", fix="give it one")
            elif name in found:
                what = f'the receiver "{name}" stands here twice'
                self._sections.wrong((*loc, "name"), what, fix="rename one of them")
            # Read in any case: a second one of that name may hold other mistakes.
            integrations = tuple(self._integrations(loc))
            if name:
                found[name] = Receiver(name, integrations, self._labels(name, loc))
        return found

    def _labels(self, name: str, loc: Loc) -> dict[str, str]:
        said = self._sections.said(*loc, "labels")
        labels = {str(key): str(value) for key, value in said.items()} if isinstance(said, Mapping) else {}
        for label in labels:
            self._tree.check_label(label, (*loc, "labels", label))
        if labels.get("name", name) != name:
            what = f'the label "name" of the receiver "{name}" says something else'
            self._sections.wrong((*loc, "labels", "name"), what, expected=f'"{name}"', fix="remove it: it is added")
        return labels | {"name": name}

    def _integrations(self, loc: Loc) -> Iterator[Integration]:
        for kind, known in KINDS.items():
            for entry in self._sections.entries(*loc, f"{kind}_configs"):
                settings = self._sections.read(known.settings, *entry)
                if settings is None:
                    continue
                try:
                    settings = settings.inherit(self._shared)
                except sending.Missing as missing:
                    self._sections.wrong(entry, missing.what, expected=missing.expected, fix=missing.fix)
                yield Integration(kind, int(entry[-1]), settings)

    def _shown(self, loc: Loc, receivers: Mapping[str, Receiver]) -> original.ShownReceiver:
        name = str(self._sections.said(*loc, "name") or "")
        receiver = receivers.get(name, Receiver(name, ()))
        entries = [
            original.Entry(each.kind, each.settings, self._sections.said(*loc, f"{each.kind}_configs", each.position))
            for each in receiver.integrations
        ]
        return original.ShownReceiver(name, self._sections.said(*loc, "labels") or {}, entries)


def _broken(texts: list[tuple[str, str]]) -> Iterator[Problem]:
    """Yield the mistake of each template file that has one."""
    for name, text in texts:
        try:
            Templates([(name, text)])
        except TemplateError as error:
            yield Problem(name, error.line, error.column, f"broken template: {error.what}")
