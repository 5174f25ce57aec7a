"""`tocsin.yml`: one file whose sections hold what the parts' own files hold, or name them with `config_file`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import tocsin_alerting.config
import tocsin_ship.config
import tocsin_uptime.config
from tocsin_alerting import extras
from tocsin_alerting.config import EXTRAS_KEY
from tocsin_service import web
from tocsin_service.settings import Document, Loc, Problem, Settings, SettingsError
from tocsin_stack import engine, quick

SECTIONS = ("uptime", "alerting", "ship", "prometheus", "console")
_OURS = frozenset({"config_file", "listen_address"})
"""Keys of a section that belong to the stack, not to the part."""

DEFAULT_LISTEN: Mapping[str, web.Address] = {
    "console": web.Address("127.0.0.1", 9095),
    "alerting": web.Address("127.0.0.1", 9093),
    "uptime": web.Address("127.0.0.1", 9115),
    "ship": web.Address("127.0.0.1", 9600),
    "prometheus": web.Address("127.0.0.1", 9090),
}

# The shipper's own file must name inputs and outputs; a stack without logs is fine.
NO_SHIPPING = tocsin_ship.config.Config.model_construct(inputs=(), outputs=())

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a part listens, and whether somebody asked for that address (then a taken one is an error)."""

    address: web.Address
    asked: bool = False


@dataclass(frozen=True, slots=True)
class StackConfig:
    """Everything `tocsin up` runs from."""

    uptime: tocsin_uptime.config.Config
    alerting: tocsin_alerting.config.Config
    ship: tocsin_ship.config.Config
    prometheus: engine.EngineConfig
    listen: Mapping[str, Listen]
    files: tuple[Path, ...] = field(default=())
    """The files it was read from, `tocsin.yml` first."""


class _Stack(Settings):
    """The top level of tocsin.yml; the sections are read by their parts."""

    uptime: dict[str, object] | None = None
    alerting: dict[str, object] | None = None
    ship: dict[str, object] | None = None
    prometheus: dict[str, object] | None = None
    console: dict[str, object] | None = None


class _Console(Settings):
    """The section `console` has no settings of its own yet beside its address."""


def load(document: Document, *, environ: Mapping[str, str]) -> StackConfig:
    """Read all sections.

    Raises:
        SettingsError: everything that is wrong, in this file and in those it names.
    """
    reader = _Sections(document, environ)
    reader.attempt(lambda: document.read(_Stack))
    uptime = reader.part("uptime", tocsin_uptime.config.load)
    alerting = reader.part("alerting", tocsin_alerting.config.load, default=quick.alerting())
    ship = NO_SHIPPING if document.section("ship") is None else reader.part("ship", tocsin_ship.config.load)
    prometheus = reader.part("prometheus", engine.load)
    reader.part("console", _load_console)
    listen = {name: reader.listen(name) for name in DEFAULT_LISTEN}
    if reader.problems or uptime is None or alerting is None or ship is None or prometheus is None:
        raise SettingsError(reader.problems)
    return StackConfig(uptime, alerting, ship, prometheus, listen, tuple(reader.files))


def _load_console(document: Document, *at: str | int, without: frozenset[str] = frozenset()) -> _Console:
    return document.read(_Console, *at, without=without)


class _Sections:
    """Reads the sections one by one, keeping problems so that all are reported at once."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.problems: list[Problem] = []
        self.files = [Path(document.file)]
        self._document = document
        self._environ = environ

    def attempt(self, read: Callable[[], _T]) -> _T | None:
        try:
            return read()
        except SettingsError as error:
            self.problems.extend(error.problems)
            return None

    def part(self, name: str, load: Callable[..., _T], *, default: Mapping[str, object] | None = None) -> _T | None:
        section = self._document.section(name)
        if section is None and default is not None:
            # As the section it stands for, which is ours where a file of its own is another tool's.
            made = Document({name: dict(default)}, file=f"<default {name}>", folder=Path(), positions={})
            return load(made, name)
        if not isinstance(section, Mapping) or "config_file" not in section:
            return self.attempt(lambda: load(self._document, name, without=_OURS))
        return self._from_file(name, section, load)

    def _from_file(self, name: str, section: Mapping[str, object], load: Callable[..., _T]) -> _T | None:
        known = _OURS | {EXTRAS_KEY} if name == "alerting" else _OURS
        self._report_mixed((name,), [key for key in section if key not in known])
        path = self._document.folder / str(section["config_file"])
        self.files.append(path)
        # Alertmanager replaces no variables in its file, and its templates use `$`; ours must read it as it does.
        if name != "alerting":
            return self.attempt(lambda: load(Document.open(path, environ=self._environ)))
        own = self.attempt(lambda: extras.load(self._document, name, EXTRAS_KEY))
        return self.attempt(lambda: load(Document.open(path), extras=own))

    def _report_mixed(self, loc: Loc, keys: Iterable[str]) -> None:
        for key in keys:
            what = f'"{key}" stands beside config_file'
            fix = "move it into that file, or remove config_file"
            self.problems.append(self._document.problem((*loc, key), what, fix=fix))

    def listen(self, name: str) -> Listen:
        text = self._document.section(name, "listen_address")
        if text is None:
            return Listen(DEFAULT_LISTEN[name])
        try:
            return Listen(web.Address.parse(str(text)), asked=True)
        except web.AddressError as error:
            problem = self._document.problem((name, "listen_address"), f"{name}.listen_address: {error}")
            self.problems.append(problem)
            return Listen(DEFAULT_LISTEN[name])
