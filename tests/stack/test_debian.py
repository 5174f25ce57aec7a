"""Debian packages are unpacked into the user's cache, without root and without the machine's package lists."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tocsin_stack import debian

needs_apt = pytest.mark.skipif(
    shutil.which("apt-get") is None, reason="needs apt-get: run on Debian or Ubuntu, or in their container"
)
NOBODY = 65534


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that a user without rights may write to (pytest's own is closed to others)."""
    with tempfile.TemporaryDirectory(prefix="tocsin-debian-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        yield folder


def program(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/ann"}, "/home/ann/.cache/tocsin/debian"),
        ({"HOME": "/home/ann", "XDG_CACHE_HOME": "/var/cache/ann"}, "/var/cache/ann/tocsin/debian"),
        ({"HOME": "/home/ann", "XDG_CACHE_HOME": ""}, "/home/ann/.cache/tocsin/debian"),
    ],
)
def test_the_cache_is_where_the_xdg_convention_says(environ: dict[str, str], expected: str) -> None:
    """XDG_CACHE_HOME wins, an empty one counts as none."""
    assert debian.cache_folder(environ) == Path(expected)


def test_a_program_on_path_is_preferred_to_an_unpacked_one(tmp_path: Path) -> None:
    """What the user installed is what runs."""
    environ = {"PATH": str(tmp_path / "bin"), "XDG_CACHE_HOME": str(tmp_path)}
    unpacked = program(tmp_path / "tocsin/debian/usr/bin", "bell")
    assert debian.find("bell", environ) == unpacked
    installed = program(tmp_path / "bin", "bell")
    assert debian.find("bell", environ) == installed


@pytest.mark.parametrize("folder", ["usr/bin", "usr/sbin", "usr/lib/postgresql/15/bin", "usr/lib/bell"])
def test_every_place_of_programs_in_a_package_is_searched(tmp_path: Path, folder: str) -> None:
    """PostgreSQL and Chromium keep their programs in folders of their own."""
    environ = {"PATH": "", "XDG_CACHE_HOME": str(tmp_path)}
    assert debian.find("bell", environ) is None
    path = program(tmp_path / "tocsin/debian" / folder, "bell")
    assert debian.find("bell", environ) == path


def test_without_apt_the_error_says_where_to_get_the_program(tmp_path: Path) -> None:
    """On macOS, say, a person learns the two ways that work there."""
    with pytest.raises(debian.FetchError) as caught:
        debian.fetch("prometheus", environ={"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})
    message = str(caught.value)
    assert message.startswith("no apt-get here: install prometheus yourself: https://prometheus.io/download/")
    assert "brew install prometheus" in message


def test_each_suite_has_a_cache_of_its_own(tmp_path: Path) -> None:
    """Who asks for a suite gets its program, not the one on PATH nor that of another suite."""
    environ = {"PATH": str(tmp_path / "bin"), "XDG_CACHE_HOME": str(tmp_path)}
    program(tmp_path / "bin", "bell")
    ours = program(tmp_path / "tocsin/debian/usr/bin", "toll")
    assert debian.cache_folder(environ, suite="sid") == tmp_path / "tocsin/debian-sid"
    assert debian.find("bell", environ, suite="sid") is None
    assert debian.find("toll", environ, suite="sid") is None
    newer = program(tmp_path / "tocsin/debian-sid/usr/bin", "toll")
    assert debian.find("toll", environ, suite="sid") == newer
    assert debian.find("toll", environ) == ours


@pytest.mark.parametrize("suite", ["", "../sid", "sid main", "-o", "Sid"])
def test_a_suite_is_a_name(tmp_path: Path, suite: str) -> None:
    """It becomes part of a path and of apt's list of sources."""
    with pytest.raises(debian.FetchError, match="is not the name of a Debian suite"):
        debian.fetch("hello", suite=suite, environ={"PATH": "", "XDG_CACHE_HOME": str(tmp_path)})


@needs_apt
def test_a_package_of_another_suite_is_fetched_beside_the_others(tmp_path: Path) -> None:
    """From the mirror that this machine uses, with Debian's keys."""
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    root = debian.fetch("hello", suite="sid", environ=environ)
    assert root == tmp_path / "tocsin/debian-sid"
    assert debian.find("hello", environ, suite="sid") == root / "usr/bin/hello"
    assert not (tmp_path / "tocsin/debian").exists()
    (source,) = (root / ".apt/sources.list").read_text().splitlines()
    assert source.startswith(f"deb [signed-by={debian.KEYRING}] http")
    assert source.endswith("/debian sid main")


@needs_apt
def test_a_user_without_rights_gets_a_package_that_runs(shared_folder: Path) -> None:
    """The whole way, as nobody, with empty lists: update, download, unpack, find, run."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(shared_folder), "XDG_CACHE_HOME": str(shared_folder)}
    # The interpreter may lie where only root reads: import first, then become nobody.
    source = f"""
import os
from tocsin_stack import debian
if os.geteuid() == 0:
    os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})
print(debian.fetch("hello"), debian.find("hello"))
"""
    done = subprocess.run(
        [sys.executable, "-c", source], env=environ, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    root, path = done.stdout.split()
    assert (root, path) == (f"{shared_folder}/tocsin/debian", f"{shared_folder}/tocsin/debian/usr/bin/hello")
    assert subprocess.run([path], capture_output=True, text=True, check=True).stdout == "Hello, world!\n"
    assert not list(Path(root).glob(".new-*"))


@needs_apt
def test_runs_at_the_same_time_wait_and_share_one_download(tmp_path: Path) -> None:
    """Two test runs on one machine do not unpack over each other: the second finds what the first did."""
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    threads = [threading.Thread(target=debian.fetch, args=("hello",), kwargs={"environ": environ}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(110)
    root = debian.cache_folder(environ)
    assert (root / ".apt/apt.log").read_text().count("$ apt-get download hello") == 1
    files = json.loads((root / ".apt/unpacked/hello.json").read_text())
    assert "usr/bin/hello" in files
    (root / "usr/bin/hello").unlink()
    debian.fetch("hello", environ=environ)
    assert (root / "usr/bin/hello").is_file(), "a file that went missing is fetched again"


@needs_apt
def test_dependencies_that_are_not_installed_come_along(tmp_path: Path) -> None:
    """A program with libraries is complete: they are unpacked beside it and `library_path` names them."""
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    root = debian.fetch("cowsay", with_dependencies=True, environ=environ)
    assert (root / "usr/games/cowsay").is_file()
    records = json.loads((root / ".apt/unpacked/cowsay+dependencies.json").read_text())
    assert {Path(name).parts[:2] for name in records} >= {("usr", "games"), ("usr", "share")}


def test_unpacked_libraries_are_named_for_the_loader(tmp_path: Path) -> None:
    """A program from the cache finds the libraries that came with it, wherever the package put them."""
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    root = debian.cache_folder(environ)
    assert debian.library_path(environ) == ""
    for folder in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu"):
        (root / folder).mkdir(parents=True)
    (root / "usr/lib/x86_64-linux-gnu/libbell.so.1").touch()
    (root / "lib/x86_64-linux-gnu/libtoll.so").touch()
    assert debian.library_path(environ) == f"{root}/lib/x86_64-linux-gnu:{root}/usr/lib/x86_64-linux-gnu"


@needs_apt
def test_an_unknown_package_is_an_error_that_names_the_log(tmp_path: Path) -> None:
    """The message says what to do, and apt's own words (with their host names) stay in the log."""
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    with pytest.raises(debian.FetchError) as caught:
        debian.fetch("no-such-package-of-bells", environ=environ)
    message = str(caught.value)
    log = debian.cache_folder(environ) / ".apt/apt.log"
    assert message.startswith("apt could not download no-such-package-of-bells")
    assert str(log) in message
    assert "://" not in message
    assert "Unable to locate package" in log.read_text()
