"""`tocsin up` as a process: what happens to it while it runs."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx

from tocsin_service import web
from tocsin_service.testing import eventually, sink
from tocsin_stack import state
from tocsin_stack.testing import Up, up

OLD = """
uptime:
  defaults: {interval: 1s, timeout: 500ms, confirm: {failures: 1, every: 500ms, recover: 1}}
  endpoints: [{name: old, url: "tcp://127.0.0.1:1"}]
prometheus: {scrape: [{service: old, targets: ["127.0.0.1:1"]}]}
"""
NEW = OLD.replace("old", "new") + "ship: {inputs: [{path: app.log}], outputs: [{kind: store}]}\n"


async def _checks(tocsin: Up) -> list[str]:
    return [check["name"] for check in await tocsin.get("uptime", "/api/v1/checks")]


async def _reload(tocsin: Up) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.post(tocsin.urls["console"] + "/-/reload", timeout=20)


async def _reload_ok(tocsin: Up) -> bool:
    return 'tocsin_config_last_reload_successful{part="stack"} 1.0' in await tocsin.get("console", "/metrics")


async def test_a_reload_is_taken_by_all_parts_or_by_none(tmp_path: Path, prometheus: Path) -> None:
    """Whether the file is wrong or one part cannot do what it says, what runs is the old configuration."""
    file, data = tmp_path / "tocsin.yml", tmp_path / "data"
    file.write_text(OLD)
    async with up(data, "--config.file", str(file), "--web.listen-address", "127.0.0.1:0") as tocsin:
        written = data / "prometheus" / "prometheus.yml"
        file.write_text(NEW.replace("kind: store", "kind: stork"))
        tocsin.process.send_signal(signal.SIGHUP)
        await eventually(lambda: "stork" in (data / "tocsin.log").read_text())
        assert not await _reload_ok(tocsin)

        # The file is right, but the shipper cannot open its folder.
        file.write_text(NEW)
        (data / "ship" / "positions").touch()
        refused = await _reload(tocsin)
        assert refused.status_code == 500
        assert "positions" in refused.text
        assert await _checks(tocsin) == ["old"]
        assert "service: old" in written.read_text()
        assert not await _reload_ok(tocsin)

        (data / "ship" / "positions").unlink()
        assert (await _reload(tocsin)).status_code == 200
        assert await _checks(tocsin) == ["new"]
        assert "service: new" in written.read_text()
        assert await _reload_ok(tocsin)
        assert (await tocsin.terminate())[0] == 0


async def test_it_rings_on_when_nobody_reads_its_screen(tmp_path: Path) -> None:
    """`tocsin up | head -1` ends the screen, not the watch: the webhook is told, and SIGTERM still gives 0."""
    async with sink() as hook:
        with web.bind(web.Address("127.0.0.1", 0)) as free:
            nobody = web.bound(free)
        reading, writing = os.pipe()
        flags = ["--probe", f"tcp://{nobody}", "--webhook", hook.url, "--web.listen-address", "127.0.0.1:0"]
        command = [sys.executable, "-m", "tocsin_stack", "up", "--storage.path", str(tmp_path), *flags]
        environ = {**os.environ, "PATH": "/nowhere", "XDG_CACHE_HOME": str(tmp_path)}
        process = await asyncio.create_subprocess_exec(
            *command, stdout=writing, stderr=asyncio.subprocess.PIPE, env=environ
        )
        os.close(reading)
        os.close(writing)
        try:
            post: dict[str, Any] = {"labels": {"alertname": "Fire"}}
            async with httpx.AsyncClient() as client:
                router = await eventually(lambda: _router(tmp_path), timeout=30)
                assert (await client.post(f"{router}/api/v2/alerts", json=[post])).status_code == 200
            await hook.take(1, timeout=30)
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")


def _router(folder: Path) -> str:
    try:
        return state.read(folder).urls["alerting"]
    except state.StateError:
        return ""
