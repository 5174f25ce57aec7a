"""The two servers, each a process of its own with the same configuration, and what their kernel says of them."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tocsin_stack import debian

ALERTMANAGER = "Alertmanager"
TOCSIN = "tocsin"
_PACKAGE = "prometheus-alertmanager"
_TEMPLATE = Path("/usr/share/prometheus/alertmanager/default.tmpl")
START_TIMEOUT = 20.0


class ServerError(Exception):
    """A server that does not run or does not answer as it should."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The real Alertmanager: its program and what it says it is."""

    command: tuple[str, ...]
    version: str
    note: str = ""


def find_peer() -> Peer:
    """Return the newest Alertmanager that Debian has, fetched into the cache; the one of this release if need be.

    Raises:
        tocsin_stack.debian.FetchError: there is none.
    """
    note = ""
    try:
        root = debian.fetch(_PACKAGE, suite="sid")
        program = debian.find(_PACKAGE, suite="sid")
        if program is None or "version" not in _version(program):
            raise debian.FetchError("the program of Debian sid does not run here")
    except (debian.FetchError, OSError) as error:
        note = f"not the newest: {str(error).partition(';')[0]}"
        root = debian.fetch(_PACKAGE)
        program = debian.find(_PACKAGE)
    if program is None:
        raise debian.FetchError(f"there is no {_PACKAGE} in {root}")
    version = _version(program).partition("version ")[2].partition(" ")[0]
    return Peer((*_wrapping(root), str(program)), version, note)


def _version(program: Path) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout


def _wrapping(root: Path) -> Sequence[str]:
    # Debian's program reads its templates from /usr/share, where a package that is only unpacked has none: it is
    # shown an /usr/share with the package's files over the machine's, in a mount name space of its own.
    if _TEMPLATE.exists():
        return ()
    if shutil.which("unshare") is None:
        raise debian.FetchError(f"there is no {_TEMPLATE} and no unshare; install {_PACKAGE}")
    script = 'mount -t overlay -o lowerdir="$0/usr/share:/usr/share" overlay /usr/share && exec "$@"'
    return ("unshare", "--mount", "--map-root-user", "sh", "-c", script, str(root))


@dataclass(slots=True)
class Server:
    """A server that runs."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def cpu(self) -> float:
        """Return the CPU seconds its threads have used, to the nanosecond (`/proc/pid/stat` counts in hundredths)."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
                total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def settled_cpu(self) -> float:
        """Return its CPU seconds once it has done what it does behind its answers."""
        last = self.cpu()
        calm = 0
        deadline = time.monotonic() + 30.0
        while calm < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
            now = self.cpu()
            calm = calm + 1 if now - last < 0.002 else 0
            last = now
        return last

    def rss(self) -> float:
        """Return its resident memory in MiB."""
        return self._memory("VmRSS")

    def peak(self) -> float:
        """Return the most resident memory it had, in MiB."""
        return self._memory("VmHWM")

    def _memory(self, name: str) -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
        raise ServerError(f"no {name} of {self.name}")


def command(name: str, peer: Peer, folder: Path, port: int, extra: str) -> list[str]:
    """Return how a server is started."""
    flags = [
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    if name == ALERTMANAGER:
        return [*peer.command, *flags, "--cluster.listen-address="]
    if extra:
        (folder / "extra.yml").write_text(extra)
        flags.append(f"--tocsin.config={folder / 'extra.yml'}")
    return [sys.executable, "-m", "tocsin_stack", "alerting", *flags]


@contextlib.contextmanager
def running(name: str, peer: Peer, config: str, *, extra: str = "") -> Iterator[Server]:
    """Run a server with a configuration; `extra` is what only tocsin reads.

    Raises:
        ServerError: it does not start; the message has the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as text:
        folder = Path(text)
        (folder / "alertmanager.yml").write_text(config)
        port = free_port()
        log = folder / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(command(name, peer, folder, port, extra), stdout=file, stderr=file, cwd=folder)
        server = Server(name, port, process, log)
        try:
            _wait(server, lambda: _ready(port))
            yield server
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/-/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _wait(server: Server, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not ready():
        if server.process.poll() is not None or time.monotonic() > deadline:
            end = server.log.read_text(errors="replace")[-2000:]
            raise ServerError(f"{server.name} did not start; its log ends with:\n{end}")
        time.sleep(0.05)
