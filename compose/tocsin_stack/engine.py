"""Supervises a real Prometheus: writes its configuration, starts it, starts it again, reloads it, stops it.

Without a `prometheus` on the machine everything else goes on; `state` is then "absent" and `hint` says what to do.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from prometheus_client import CollectorRegistry

from tocsin import names
from tocsin_service import durations, run, telemetry, web
from tocsin_service.clock import Clock
from tocsin_service.http import Outbound, RequestError
from tocsin_stack import debian
from tocsin_stack.child import Child, environment
from tocsin_stack.engine_config import EngineConfig, load, prometheus_yml

State = Literal["up", "starting", "down", "absent"]

START_PATIENCE: Final = 2.5
"""Seconds our start waits for Prometheus; a big data folder takes longer and goes on beside us."""
RELOAD_PATIENCE: Final = 10.0
"""Seconds Prometheus may take over new configuration."""
RESEND_DELAY: Final = "20s"
"""How often a firing alert is sent again; the router resolves one after four times that in silence."""
CHECK_TIMEOUT: Final = 20.0
"""Seconds promtool may take."""

_RELOADED = re.compile(r"^prometheus_config_last_reload_(successful|success_timestamp_seconds) (\S+)$", re.MULTILINE)

_ERROR = re.compile(r"\blevel=error\b", re.IGNORECASE)
_WORDS = re.compile(r'\b(?:err|msg)="((?:[^"\\]|\\.)*)"')


class EngineError(Exception):
    """New configuration that Prometheus does not take; the old one stays. The message holds Prometheus' words."""


class Engine:
    """The Prometheus beside us.

    Args:
        data_folder: holds its configuration, rules, log and (in `data`) time series.
        listen: its address; the port must be free and not 0.
        router: where it sends alerts, or None.
        parts: our own parts that it scrapes, by name.
        rules_text: a rules file as text.
        registry: where the counter of restarts goes; None is one of its own.
        environ: where PATH and the cache folder come from; None is this process'.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        data_folder: Path,
        listen: web.Address,
        router: web.Address | None = None,
        parts: Mapping[str, web.Address] | None = None,
        rules_text: str = "",
        registry: CollectorRegistry | None = None,
        clock: Clock | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._config = config
        self._folder = data_folder.absolute()
        self._listen = listen
        self._router = router
        self._parts = dict(parts or {})
        self._rules = rules_text
        self._environ = os.environ if environ is None else environ
        self._binary = _executable(config.binary) if config.binary else debian.find("prometheus", self._environ)
        self._restarts = telemetry.counter(names.ENGINE_RESTARTS, registry or CollectorRegistry())
        self._clock = clock
        self._child: Child | None = None
        self._http: Outbound | None = None

    @property
    def state(self) -> State:
        """How it is now."""
        if self._binary is None:
            return "absent"
        return self._child.state if self._child is not None else "down"

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return self._listen.url

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._child.pid if self._child is not None else None

    @property
    def hint(self) -> str | None:
        """One line for a person when it is not up, else None."""
        if self.state == "absent":
            if self._config.binary is not None:
                return f"prometheus.binary: {self._config.binary} is not a program; error budgets and graphs are off"
            return (
                "no prometheus on PATH, so no error budgets and no graphs; all else works. Get it: tocsin fetch "
                "prometheus (Debian, Ubuntu), brew install prometheus, or https://prometheus.io/download/"
            )
        if self.state == "down" and self._child is not None:
            return f"prometheus ended ({self._child.ended}): {_reason(self._child.said())} (its log: {self._log})"
        return None

    def service(self) -> run.Service:
        """Return its life for `run.serve`."""
        if self._binary is None:
            return run.Service("prometheus")
        return run.Service("prometheus", start=self._start, loops=[self._watch], drain=self._stop, close=self._stop)

    async def reload(self, config: EngineConfig, *, rules_text: str | None = None) -> None:
        """Take new configuration into use: what is scraped, rules, intervals. Binary and retention need a restart.

        Raises:
            EngineError: Prometheus does not take it; the old configuration stays in use and on disk.
        """
        rules = self._rules if rules_text is None else rules_text
        if self._binary is not None:
            await self._take(config, rules)
        self._config, self._rules = config, rules

    # --- life ---------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write(self._config, self._rules, suffix="")
        self._http = Outbound(user_agent="tocsin", timeout=2.0)
        self._child = Child(
            "prometheus",
            self._command(),
            output=self._log,
            answers=self._answers,
            environ=environment(self._environ),
            on_restart=self._restarts.inc,
            clock=self._clock,
        )
        await self._child.start(patience=START_PATIENCE)

    async def _watch(self) -> None:
        if self._child is not None:
            await self._child.watch()

    async def _stop(self) -> None:
        if self._child is not None:
            await self._child.stop()
        if self._http is not None:
            await self._http.close()
            self._http = None

    def _command(self) -> list[str]:
        return [
            str(self._binary),
            f"--config.file={self._file()}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--storage.tsdb.retention.time={durations.render(self._config.retention)}",
            f"--web.listen-address={self._listen}",
            f"--web.external-url={self._listen.url}",
            # Prometheus drops alerts in the five seconds before it has discovered the router, after each start and
            # each reload, and would send them again only after a minute.
            f"--rules.alert.resend-delay={RESEND_DELAY}",
            # Not --web.enable-lifecycle: any page in a browser on this machine could then post to /-/quit.
            "--enable-feature=exemplar-storage",
        ]

    async def _answers(self) -> bool:
        return await self._get("/-/ready") is not None

    # --- configuration ------------------------------------------------------------------------------------------

    async def _take(self, config: EngineConfig, rules: str) -> None:
        texts = {self._file(): self._prometheus_yml(config, self._rules_file()), self._rules_file(): rules}
        if not config.rule_files and all(_content(file) == text for file, text in texts.items()):
            # For five seconds after a reload Prometheus knows no router and drops alerts; not without cause.
            return
        self._write(config, rules, suffix=".new")
        try:
            await self._check(self._file(".new"))
        finally:
            for file in (self._file(".new"), self._rules_file(".new")):
                file.unlink(missing_ok=True)
        child = self._child
        if child is None or child.state != "up":
            self._write(config, rules, suffix="")
            return
        before, heard = await self._last_reload(), child.written
        self._write(config, rules, suffix="")
        child.signal(signal.SIGHUP)
        if await self._reloaded(before):
            return
        words = _reason(child.said(since=heard))
        self._write(self._config, self._rules, suffix="")
        child.signal(signal.SIGHUP)
        await self._reloaded(before, despite_failure=True)
        raise EngineError(f"prometheus refuses the configuration, the old one stays: {words}")

    async def _check(self, file: Path) -> None:
        beside = self._binary.with_name("promtool") if self._binary is not None else None
        promtool = beside if beside is not None and beside.is_file() else debian.find("promtool", self._environ)
        if promtool is None:
            return  # Prometheus itself says so at the reload
        process = await asyncio.create_subprocess_exec(
            promtool,
            "check",
            "config",
            file,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=environment(self._environ),
        )
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                _, said = await process.communicate()
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise EngineError(f"promtool took longer than {CHECK_TIMEOUT:g} s; the old configuration stays") from error
        if process.returncode != 0:
            words = " ".join(said.decode(errors="replace").replace(".new", "").split())
            raise EngineError(f"prometheus refuses the configuration, the old one stays: {words}")

    async def _reloaded(self, before: float, *, despite_failure: bool = False) -> bool:
        """Wait for the outcome of a reload; `before` is the instant of the last good one.

        Args:
            despite_failure: the gauge still tells of the failure before this reload; wait for success alone.
        """
        deadline = asyncio.get_running_loop().time() + RELOAD_PATIENCE
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
            metrics = await self._reload_metrics()
            if metrics.get("successful") == 0 and not despite_failure:
                return False
            if metrics.get("success_timestamp_seconds", before) != before:
                return True
        return False

    async def _last_reload(self) -> float:
        found = (await self._reload_metrics()).get("success_timestamp_seconds")
        if found is None:
            raise EngineError("prometheus does not answer, so it took no new configuration; try again")
        return found

    async def _reload_metrics(self) -> dict[str, float]:
        text = await self._get("/metrics") or ""
        return {name: float(value) for name, value in _RELOADED.findall(text)}

    async def _get(self, path: str) -> str | None:
        if self._http is None:
            return None
        try:
            return (await self._http.get(self.url + path)).text
        except RequestError:
            return None

    def _write(self, config: EngineConfig, rules: str, *, suffix: str) -> None:
        self._rules_file(suffix).write_text(rules, encoding="utf-8")
        text = self._prometheus_yml(config, self._rules_file(suffix))
        self._file(suffix).write_text(text, encoding="utf-8")

    def _prometheus_yml(self, config: EngineConfig, rules: Path) -> str:
        return prometheus_yml(config, listen=self._listen, router=self._router, parts=self._parts, rules=rules)

    def _file(self, suffix: str = "") -> Path:
        return self._folder / f"prometheus{suffix}.yml"

    def _rules_file(self, suffix: str = "") -> Path:
        return self._folder / f"rules{suffix}.yml"

    @property
    def _log(self) -> Path:
        return self._folder / "prometheus.log"


def _executable(path: Path) -> Path | None:
    return path if path.is_file() and os.access(path, os.X_OK) else None


def _content(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return None


def _reason(lines: Sequence[str]) -> str:
    """Return what Prometheus' log says went wrong. The first error is the cause, those after it follow from it."""
    found = next((line for line in lines if _ERROR.search(line)), lines[-1] if lines else "it said nothing")
    words = _WORDS.search(found, max(0, found.find(" err=")))
    if words is None:
        return found
    return " ".join(words[1].replace('\\"', '"').replace("\\n", " ").split())


__all__ = ["Engine", "EngineConfig", "EngineError", "State", "load"]
