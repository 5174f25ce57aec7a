"""tocsin behind a real Alertmanager: what it posts is what we read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from tocsin_alerting.model import Incoming
from tocsin_alerting.sources import Sources, endpoint
from tocsin_alerting.sources.telemetry import SourceTelemetry
from tocsin_service import web
from tocsin_service.clock import SystemClock, rfc3339
from tocsin_service.settings import Document, Settings
from tocsin_service.testing import eventually, serving
from tocsin_stack import debian

_CONFIG = """
route: {{receiver: tocsin, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 4h}}
receivers:
  - name: tocsin
    webhook_configs:
      - url: {url}/api/v1/sources/upstream
        http_config: {{basic_auth: {{username: am, password: sesame}}}}
"""


class SecondFile(Settings):
    sources: Sources


@contextlib.asynccontextmanager
async def _alertmanager(folder: Path, config: str) -> AsyncIterator[str]:
    """Run the real one and give its URL."""
    if debian.find("prometheus-alertmanager") is None:
        debian.fetch("prometheus-alertmanager")
    program = debian.find("prometheus-alertmanager")
    assert program is not None, "no alertmanager: install prometheus-alertmanager, or put it on PATH"
    (folder / "alertmanager.yml").write_text(config)
    with web.bind(web.Address("127.0.0.1", 0)) as free:
        address = web.bound(free)
    process = await asyncio.create_subprocess_exec(
        *debian.command(program),
        f"--config.file={folder}/alertmanager.yml",
        f"--storage.path={folder}/data",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=address.url) as client:

            async def ready() -> bool:
                with contextlib.suppress(httpx.HTTPError):
                    return (await client.get("/-/ready")).is_success
                return False

            await eventually(ready, timeout=30.0)
        yield address.url
    finally:
        process.kill()
        await process.wait()


async def test_an_alert_arrives_with_its_labels_and_ends_as_there(tmp_path: Path) -> None:
    """Firing, then resolved at the time that Alertmanager gives."""
    text = "sources: [{name: upstream, kind: alertmanager, basic_auth: {username: am, password: sesame}}]"
    sources = Document.parse(text).read(SecondFile).sources
    accepted: list[Incoming] = []

    async def accept(alerts: list[Incoming]) -> list[str]:
        accepted.extend(alerts)
        return []

    routes = endpoint.routes(
        sources=lambda: sources,
        accept=accept,
        firing=lambda: (),
        clock=SystemClock(),
        telemetry=SourceTelemetry(CollectorRegistry()),
    )
    clock = SystemClock()
    alert = {"labels": {"alertname": "NodeDown", "instance": "a"}, "annotations": {"summary": "it is down"}}
    start = clock.now() - 60
    async with (
        serving(Starlette(routes=routes)) as url,
        _alertmanager(tmp_path, _CONFIG.format(url=url)) as upstream,
        httpx.AsyncClient(base_url=upstream) as prometheus,
    ):
        posted = await prometheus.post("/api/v2/alerts", json=[alert | {"startsAt": rfc3339(start)}])
        assert posted.is_success
        await eventually(lambda: accepted)
        (firing,) = accepted
        assert firing.labels == alert["labels"]
        assert firing.annotations == alert["annotations"]
        assert firing.starts_at is not None
        assert abs(firing.starts_at - start) < 0.01
        assert firing.ends_at is not None
        assert firing.ends_at > clock.now() + 86_000
        end = clock.now()
        await prometheus.post("/api/v2/alerts", json=[alert | {"startsAt": rfc3339(start), "endsAt": rfc3339(end)}])
        await eventually(lambda: len(accepted) > 1)
        assert accepted[1].labels == firing.labels
        assert accepted[1].ends_at is not None
        assert abs(accepted[1].ends_at - end) < 0.01
