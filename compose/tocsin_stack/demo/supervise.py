"""The demo beside us, as a process of its own: what is watched should not share a fate with what watches."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tocsin_service import run, web
from tocsin_service.http import Outbound, RequestError
from tocsin_stack.child import Child, State, environment

START_PATIENCE: Final = 3.0
"""Seconds our start waits for the shop to answer."""


class Demo:
    """The shop and its customers.

    Args:
        listener: the socket the shop answers on; it stays open across restarts and is closed at the end.
        log_file: the shop's JSON log.
        folder: holds `demo.log`, what the process says besides.
        environ: None is this process'.
    """

    def __init__(
        self, listener: socket.socket, *, log_file: Path, folder: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self._listener = listener
        self.url = web.bound(listener).url
        self._http: Outbound | None = None
        command = [sys.executable, "-m", "tocsin_stack.demo", "--fd", str(listener.fileno()), "--log-file", log_file]
        self._child = Child(
            "demo",
            [str(part) for part in command],
            output=folder / "demo.log",
            answers=self._answers,
            environ=environment(os.environ if environ is None else environ),
            pass_fds=[listener.fileno()],
        )

    @property
    def state(self) -> State:
        """How it is now."""
        return self._child.state

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._child.pid

    def service(self) -> run.Service:
        """Return its life for `run.serve`."""
        return run.Service(
            "demo",
            start=self.begin,
            settle=self._settle,
            loops=[self._child.watch],
            drain=self._stop,
            close=self._stop,
        )

    async def begin(self) -> None:
        """Start the process, once: whoever is in a hurry does it before the service starts."""
        if self._http is None:
            self._http = Outbound(user_agent="tocsin", timeout=1.0)
            await self._child.begin()

    async def _settle(self) -> None:
        await self._child.settle(patience=START_PATIENCE)

    async def _stop(self) -> None:
        await self._child.stop()
        if self._http is not None:
            await self._http.close()
            self._http = None
        self._listener.close()

    async def _answers(self) -> bool:
        if self._http is None:
            return False
        try:
            await self._http.get(f"{self.url}/demo/state")
        except RequestError:
            return False
        return True
