"""Programs that several parts' tests use."""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import hypothesis
import pytest

from tocsin_service import web
from tocsin_service.db import sqlite_url
from tocsin_stack import debian

# How long an example takes is the machine's business: a deadline would make every property a timed test.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{root}/usr/share/fonts</dir><dir>/usr/share/fonts</dir><cachedir>{cache}</cachedir>
<alias><family>system-ui</family><prefer><family>DejaVu Sans</family></prefer></alias>
<alias><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias>
<alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias></fontconfig>
"""
"""The same fonts on every machine, so that the README's picture does not depend on who took it."""


@dataclass(frozen=True)
class Visit:
    """What Chromium made of a page: its picture, and what it complained about (broken rules of CSP, missing files)."""

    picture: Path
    complaints: list[str]


class Browser:
    """A headless Chromium."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder
        fonts = folder / "fonts.conf"
        fonts.write_text(FONTS.format(root=debian.cache_folder(), cache=folder / "fonts"))
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "FONTCONFIG_FILE": str(fonts),
            "LD_LIBRARY_PATH": debian.library_path(),
        }

    def visit(self, url: str, name: str, *, width: int = 1100, height: int = 900) -> Visit:
        """Open `url`, take a picture of it and collect what the console of the browser says."""
        picture = self._folder / f"{name}.png"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        flags += ["--enable-logging=stderr", f"--user-data-dir={self._folder}/profile-{name}"]
        flags += [f"--window-size={width},{height}", f"--screenshot={picture}"]
        result = subprocess.run(
            [self._program, *flags, url], env=self._environ, capture_output=True, text=True, timeout=60, check=True
        )
        assert picture.exists(), f"Chromium took no picture of {url}"
        return Visit(picture, [line for line in result.stderr.splitlines() if ":CONSOLE" in line])


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """Chromium: PATH, the user's cache, or fetched into it now."""
    if debian.find("chromium") is None:
        debian.fetch("chromium", with_dependencies=True)
        debian.fetch("fonts-dejavu-core")
    program = debian.find("chromium")
    assert program is not None, "chromium was fetched and is not there"
    return Browser(program, tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A real PostgreSQL on loopback: the URL of its server, without a database."""
    if _initdb() is None:
        debian.fetch("postgresql", with_dependencies=True)
    initdb = _initdb()
    assert initdb is not None, "PostgreSQL was fetched and is not there"
    # PostgreSQL refuses to run as root; in a user namespace of its own it is somebody else.
    become = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
    with web.bind(web.Address("127.0.0.1", 0)) as free:
        port = web.bound(free).port
    with tempfile.TemporaryDirectory(prefix="tocsin-pg-") as folder:

        def run(program: str, *arguments: str) -> None:
            # pg_ctl hands its pipes on to the server, which would keep them open: it gets none.
            command = [*become, initdb.with_name(program), "-D", f"{folder}/data", *arguments]
            environ = {**os.environ, "LD_LIBRARY_PATH": _libraries(initdb)}
            with Path(folder, "output").open("ab") as log:
                subprocess.run(command, cwd=folder, env=environ, stdout=log, stderr=log, timeout=60, check=True)

        run("initdb", "-U", "tocsin", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql://tocsin@127.0.0.1:{port}"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")


@pytest.fixture(params=["sqlite", "postgresql"])
async def any_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "any.db")
    server: str = request.getfixturevalue("postgresql")
    name = f"t{uuid.uuid4().hex}"
    connection = await asyncpg.connect(f"{server}/postgres")
    await connection.execute(f"create database {name}")
    await connection.close()
    return f"{server}/{name}"


def _initdb() -> Path | None:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    return installed[0] if installed else debian.find("initdb")


def _libraries(program: Path) -> str:
    """Return the library path of a program from the cache; an installed one has its libraries where it looks."""
    return debian.library_path() if program.is_relative_to(debian.cache_folder()) else ""
