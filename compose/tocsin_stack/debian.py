"""Programs from Debian packages without root: downloaded by apt, unpacked into the user's cache, never installed.

apt gets folders of its own, so that a machine with empty package lists, a user without rights and several test runs
at once all work. Nothing runs a package's maintainer scripts. Functions block; call them in a thread from a loop.

A package may also come from another suite of Debian than this machine's (`suite="sid"`), for a program that is newer
there. Each suite has a cache folder of its own, so that neither is taken for the other.

    FetchError
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

LISTS_MAXIMUM_AGE: Final = 86_400.0
"""Seconds after which the private package lists are fetched again."""
COMMAND_TIMEOUT: Final = 300.0
"""Seconds one apt command may take."""
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""The keys of Debian's archives, from the package debian-archive-keyring."""

_SUITE: Final = re.compile(r"[a-z][a-z0-9.-]*")
_RELEASE_URI: Final = re.compile(r"'(\S+/debian)/dists/[^/']+/InRelease'")

_ELSEWHERE: Final = {
    "prometheus": "https://prometheus.io/download/ or brew install prometheus",
    "prometheus-alertmanager": "https://prometheus.io/download/ or brew install alertmanager",
    "prometheus-node-exporter": "https://prometheus.io/download/ or brew install node_exporter",
    "chromium": "https://www.chromium.org/getting-involved/download-chromium/ or brew install chromium",
    "postgresql": "https://www.postgresql.org/download/ or brew install postgresql",
}

# The file given with -c is read last, so that it can also clear the hooks of the system's own configuration:
# they write where only root may.
_CONFIGURATION: Final = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear Acquire::IndexTargets::deb::DEP-11;
Dir::State "{apt}/state";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "{apt}/cache";
Dir::Log "{apt}/log";
Debug::NoLocking "1";
APT::Sandbox::User "";
APT::Install-Recommends "0";
APT::Get::List-Cleanup "0";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"""
_ONLY_SOURCE: Final = """\
Dir::Etc::sourcelist "{apt}/sources.list";
Dir::Etc::sourceparts "/dev/null";
"""


class FetchError(Exception):
    """A package that could not be had; the message says what to do instead."""


def cache_folder(environ: Mapping[str, str] | None = None, *, suite: str | None = None) -> Path:
    """Return the folder packages are unpacked into: `$XDG_CACHE_HOME/tocsin/debian`, by default under `~/.cache`.

    Args:
        suite: another suite than this machine's; its folder is `debian-<suite>` beside that one.
    """
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or Path.home()) / ".cache")
    return Path(base) / "tocsin" / (f"debian-{suite}" if suite else "debian")


def find(program: str, environ: Mapping[str, str] | None = None, *, suite: str | None = None) -> Path | None:
    """Return where `program` is, on PATH or else unpacked in the cache, or None.

    Args:
        suite: only what was unpacked from that suite: who asks for it wants its version, not the one on PATH.
    """
    environ = os.environ if environ is None else environ
    if suite is None and (found := shutil.which(program, path=environ.get("PATH", os.defpath))):
        return Path(found)
    root = cache_folder(environ, suite=suite)
    # The program's own folder comes first: in usr/bin Chromium has a script that expects to be installed.
    folders = [root / "usr/lib" / program, *(root / name for name in ("usr/bin", "usr/sbin", "bin", "sbin"))]
    folders += sorted(root.glob("usr/lib/postgresql/*/bin"), reverse=True)
    for folder in folders:
        path = folder / program
        if path.is_file() and os.access(path, os.X_OK):
            return path
    return None


def library_path(environ: Mapping[str, str] | None = None) -> str:
    """Return the LD_LIBRARY_PATH for a program whose libraries were fetched with it; empty where there are none."""
    root = cache_folder(environ)
    # Some libraries keep their own helpers a folder deeper (pulseaudio/libpulsecommon-*.so).
    patterns = ("usr/lib/*-linux-gnu*", "usr/lib/*-linux-gnu*/*", "lib/*-linux-gnu*", "usr/lib")
    folders = [folder for pattern in patterns for folder in root.glob(pattern) if folder.is_dir()]
    return ":".join(str(folder) for folder in sorted(folders) if any(folder.glob("*.so*")))


def command(program: Path, *, suite: str | None = None) -> list[str]:
    """Return the command line of a program that was unpacked, so that it finds its package's files where they belong.

    Debian's Alertmanager, for one, reads its templates from /usr/share. The program gets a view of the file system of
    its own, with the cache laid over /usr/share; nobody else sees it, and it needs no root.
    """
    shared = cache_folder(suite=suite) / "usr/share"
    if not program.is_relative_to(cache_folder(suite=suite)) or not shared.is_dir():
        return [str(program)]
    mount = f'mount -t overlay overlay -o "lowerdir={shared}:/usr/share" /usr/share && exec "$0" "$@"'
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(program)]


def fetch(
    package: str,
    *,
    suite: str | None = None,
    with_dependencies: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Path:
    """Download `package`, unpack it into the cache and return the cache folder; do nothing when it is there already.

    Args:
        suite: another suite of Debian than this machine's, `sid` for example. Its programs may need a newer C library
            than is here; those that bring all they need (Go's, for example) run.
        with_dependencies: also unpack what the package needs and this machine has not installed.
        environ: the environment to take the cache folder and PATH from; None is this process'.

    Raises:
        FetchError: no apt on this machine, no such package, or it could not be downloaded.
    """
    environ = os.environ if environ is None else environ
    if suite is not None and _SUITE.fullmatch(suite) is None:
        raise FetchError(f'"{suite}" is not the name of a Debian suite; write sid, for example')
    root = cache_folder(environ, suite=suite)
    tools = {name: shutil.which(name, path=environ.get("PATH", os.defpath)) for name in ("apt-get", "dpkg-deb")}
    apt_get, dpkg_deb = tools["apt-get"], tools["dpkg-deb"]
    if apt_get is None or dpkg_deb is None:
        raise FetchError(f"no {'apt-get' if apt_get is None else 'dpkg-deb'} here: {_elsewhere(package)}")
    record = root / ".apt" / "unpacked" / (f"{package}+dependencies.json" if with_dependencies else f"{package}.json")
    try:
        with _locked(root / ".apt"):
            if not _complete(root, record):
                with tempfile.TemporaryDirectory(prefix=".new-", dir=root) as folder:
                    new = Path(folder)
                    apt = _Apt(apt_get, root / ".apt", environ, suite)
                    archives = apt.download(package, new / "archives", with_dependencies=with_dependencies)
                    files = _unpack(dpkg_deb, archives, new / "files", root)
                record.parent.mkdir(exist_ok=True)
                record.write_text(json.dumps(files), encoding="utf-8")
    except OSError as error:
        raise FetchError(f"cannot unpack {package} into {root}: {error.strerror or error}") from error
    return root


class _Apt:
    """apt-get with folders of its own; with `suite`, that suite of Debian is its only source."""

    def __init__(self, program: str, folder: Path, environ: Mapping[str, str], suite: str | None = None) -> None:
        self._program = program
        self._folder = folder
        self._environ = {**environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        self._updated = folder / "updated"
        self._log = folder / "apt.log"
        for name in ("state/lists/partial", "cache/archives/partial", "log"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        configuration = _CONFIGURATION.format(apt=folder)
        if suite is not None:
            source = f"deb [signed-by={KEYRING}] {_mirror(program, self._environ)} {suite} main\n"
            (folder / "sources.list").write_text(source, encoding="utf-8")
            configuration += _ONLY_SOURCE.format(apt=folder)
        (folder / "apt.conf").write_text(configuration, encoding="utf-8")
        self._log.write_text("", encoding="utf-8")

    def download(self, package: str, into: Path, *, with_dependencies: bool) -> list[Path]:
        """Download the archives of `package` into the new folder `into` and return their paths.

        Raises:
            FetchError: apt refused or found nothing.
        """
        (into / "partial").mkdir(parents=True)
        command = ["download", package]
        if with_dependencies:
            # apt's own resolver against the system's package status: exactly what is missing, checked by hash.
            archives = f"Dir::Cache::archives={into}"
            command = ["install", "--reinstall", "--download-only", "--yes", "-o", archives, package]
        fresh = not self._stale(time.time())
        if not fresh:
            self._update()
        done = self._run(command, into)
        if not done and fresh:  # the lists may be older than the mirror
            self._update()
            done = self._run(command, into)
        found = sorted(into.glob("*.deb"))
        if not done or not found:
            raise FetchError(
                f"apt could not download {package} (what it said is in {self._log}): "
                f"check the network and the name, or {_elsewhere(package)}"
            )
        return found

    def _stale(self, now: float) -> bool:
        return not self._updated.exists() or now - self._updated.stat().st_mtime > LISTS_MAXIMUM_AGE

    def _update(self) -> None:
        # One source of several that does not answer fails the command; the others' lists are usable all the same.
        if self._run(["update"], self._folder):
            self._updated.touch()

    def _run(self, command: Sequence[str], folder: Path) -> bool:
        # The arguments are ours, and no shell reads them.
        arguments = [self._program, "-c", str(self._folder / "apt.conf"), "-q", *command]
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"$ apt-get {' '.join(command)}\n")
            log.flush()
            try:
                done = subprocess.run(  # noqa: S603 see above
                    arguments,
                    cwd=folder,
                    env=self._environ,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=COMMAND_TIMEOUT,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                log.write(f"stopped after {COMMAND_TIMEOUT:g} s\n")
                return False
        return done.returncode == 0


def _mirror(apt_get: str, environ: Mapping[str, str]) -> str:
    """Return the mirror of Debian that this machine is set up with: the one that is reachable from it.

    Raises:
        FetchError: it is set up with none.
    """
    command = [apt_get, "update", "--print-uris"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(  # noqa: S603 our own arguments
            command, env=environ, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False
        )
        if found := _RELEASE_URI.search(done.stdout):
            return found[1]
    raise FetchError("this machine has no mirror of Debian among apt's sources; without one there is no other suite")


def _unpack(dpkg_deb: str, archives: Sequence[Path], staging: Path, root: Path) -> list[str]:
    """Unpack `archives` beside `root`'s files, move each file to its place and return their names under `root`."""
    staging.mkdir()
    for archive in archives:
        command = [dpkg_deb, "-x", str(archive), str(staging)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 our own arguments
        if done.returncode != 0:
            raise FetchError(f"cannot unpack {archive.name}: {done.stderr.strip()}; try again")
    files: list[str] = []
    for folder, folders, names in os.walk(staging):
        here = root / Path(folder).relative_to(staging)
        here.mkdir(parents=True, exist_ok=True)
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in [*names, *links]:
            # A rename on one file system: a program that is being looked for is there whole or not at all.
            (Path(folder) / name).replace(here / name)
            files.append(str((here / name).relative_to(root)))
    return files


def _complete(root: Path, record: Path) -> bool:
    """Say whether all files that an earlier run unpacked are still there."""
    try:
        files = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all(os.path.lexists(root / name) for name in files)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; others wait, and their wait ends with our commands' timeouts."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _elsewhere(package: str) -> str:
    return f"install {package} yourself: {_ELSEWHERE.get(package, 'with the package manager of this machine')}"
