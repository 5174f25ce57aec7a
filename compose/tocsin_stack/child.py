"""A program that is kept running beside us: started, waited for, started again with backoff, and stopped in time.

On Linux it ends with us even when we are killed with -9; it has a session of its own, so that Ctrl-C in a terminal
reaches us alone and we stop it in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from tocsin_service import telemetry
from tocsin_service.clock import Clock, SystemClock
from tocsin_service.http import Backoff

State = Literal["up", "starting", "down"]
"""`up`: it runs and answered once; `starting`: it runs; `down`: it ended and will be started again, or was stopped."""

STOP_GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL."""
STEADY: Final = 60.0
"""Seconds a program must have run for its next end to count as the first."""
BACKOFF: Final = Backoff(initial=0.5, factor=2.0, maximum=30.0, jitter=0.2)
LOG_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of output kept; a file that has grown past them is emptied."""

_PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
_TRIM_EVERY = 60.0
_EXCERPT = 16 * 1024

# Run by a bare interpreter (10 ms) between fork and exec: code of ours there could meet a lock that a thread held at
# the fork. PR_SET_PDEATHSIG (1) asks the kernel for a SIGTERM (15) when we die, and lasts through exec. A parent
# that died before the call is seen by its number.
_TIE = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
try:
    os.execv(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"cannot run {sys.argv[2]}: {error.strerror}")
"""


def tied(command: Sequence[str], *, parent: int) -> list[str]:
    """Return the command that runs `command` until it ends or process `parent`, its starter, does."""
    return [sys.executable, "-I", "-S", "-c", _TIE, str(parent), *command]


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of `environ` a child needs; secrets that were given to us stay with us."""
    return {name: environ[name] for name in _PASSED if name in environ}


class Child:
    """One program and its supervision.

    Args:
        name: what logs call it.
        command: the program's full path and its arguments.
        output: the file that gets its stdout and stderr; emptied at the start, and whenever it grows past 4 MiB.
        answers: asked while the program starts; True when it is ready. Its exceptions count as False.
        pass_fds: file descriptors it inherits under the same numbers.
        on_restart: called each time it ended by itself and is started again.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        output: Path,
        answers: Callable[[], Awaitable[bool]],
        environ: Mapping[str, str],
        pass_fds: Sequence[int] = (),
        on_restart: Callable[[], None] = lambda: None,
        backoff: Backoff = BACKOFF,
        clock: Clock | None = None,
    ) -> None:
        self.state: State = "down"
        self._name = name
        self._command = command
        self._output_path = output
        self._answers = answers
        self._environ = environ
        self._pass_fds = tuple(pass_fds)
        self._on_restart = on_restart
        self._backoff = backoff
        self._clock: Clock = clock or SystemClock()
        self._log = telemetry.logger("tocsin.child")
        self._process: asyncio.subprocess.Process | None = None
        self._output: int | None = None
        self._started = 0.0
        self._began = 0
        self._code: int | None = None

    @property
    def written(self) -> int:
        """Bytes of output there are now; 0 where somebody removed the file."""
        try:
            return self._output_path.stat().st_size
        except OSError:
            return 0

    @property
    def ended(self) -> str:
        """How it ended, in words; empty while it runs or before its first end."""
        if self._code is None:
            return ""
        if self._code >= 0:
            return f"exit code {self._code}"
        return f"killed: {signal.strsignal(-self._code) or f'signal {-self._code}'}"

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self, *, patience: float) -> None:
        """Start the program and wait at most `patience` seconds for it to be ready or to end."""
        await self.begin()
        await self.settle(patience=patience)

    async def begin(self) -> None:
        """Start the program; others may start while it does."""
        self._output_path.parent.mkdir(parents=True, exist_ok=True)
        # Appending, so that emptying the file while the program writes leaves no hole of zeros.
        self._output = os.open(self._output_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o644)
        await self._spawn()

    async def settle(self, *, patience: float) -> None:
        """Wait at most `patience` seconds for what was begun to be ready or to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._become_ready()

    async def watch(self) -> None:
        """Keep the program running; a loop for `run.Service` that ends only by being cancelled."""
        attempt = -1
        while True:
            await self._live()
            self.state = "down"
            attempt = 0 if time.monotonic() - self._started > STEADY else attempt + 1
            wait = self._backoff.delay(attempt)
            self._log.warning("ended, starting again", child=self._name, ended=self.ended, in_seconds=round(wait, 1))
            await self._clock.sleep(wait)
            self._on_restart()
            await self._spawn()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it runs."""
        if (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def said(self, *, since: int | None = None) -> list[str]:
        """Return the lines written after `since`, a value of `written`, or after its last start; 16 KiB at most."""
        end = self.written
        begin = self._began if since is None else since
        try:
            with self._output_path.open("rb") as file:
                file.seek(max(0, end - _EXCERPT, begin if begin <= end else 0))
                lines = file.read(_EXCERPT).decode(errors="replace").split("\n")
        except OSError:
            return []
        return [line.strip() for line in lines if line.strip()]

    async def stop(self, *, grace: float = STOP_GRACE) -> None:
        """End the program: SIGTERM, and SIGKILL to its whole session after `grace` seconds.

        Cancel `watch` first, or it starts the program again. May be called twice.
        """
        process, self._process = self._process, None
        try:
            if process is not None and process.returncode is None:
                await _end(process, grace)
        finally:
            self.state = "down"
            if self._output is not None:
                os.close(self._output)
                self._output = None

    async def _spawn(self) -> None:
        self._started = time.monotonic()
        self._began = self.written
        try:
            self._process = await asyncio.create_subprocess_exec(
                *tied(self._command, parent=os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env=self._environ,
                pass_fds=self._pass_fds,
                start_new_session=True,
            )
        except OSError as error:  # no memory or no more processes; it may pass
            self._log.warning("cannot be started", child=self._name, reason=error.strerror)
            self._process = None
            return
        self.state = "starting"

    async def _become_ready(self) -> None:
        wait = 0.02
        while self.state == "starting" and self.pid is not None:
            if await self._ready():
                self.state = "up"
                return
            await asyncio.sleep(wait)
            wait = min(1.0, wait * 1.3)

    async def _ready(self) -> bool:
        try:
            return await self._answers() and self.pid is not None
        except Exception:
            # Whatever went wrong while asking, the answer was not yes; it is asked again.
            return False

    async def _live(self) -> None:
        """Wait until the program ends."""
        process = self._process
        if process is None:
            return
        await self._become_ready()
        while process.returncode is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TRIM_EVERY):
                    await process.wait()
            self._trim()
        self._code = process.returncode

    def _trim(self) -> None:
        if self._output is not None and os.fstat(self._output).st_size > LOG_LIMIT:
            os.ftruncate(self._output, 0)


async def _end(process: asyncio.subprocess.Process, grace: float) -> None:
    try:
        process.terminate()
        async with asyncio.timeout(grace):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        # Also when we are cancelled ourselves: better cut off than left behind.
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
