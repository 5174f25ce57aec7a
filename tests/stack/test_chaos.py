"""kill -9 at random instants, again and again, while a target comes and goes."""

import asyncio
import json
import random
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse, Response

from tocsin_service.testing import Received, Sink, eventually, sink
from tocsin_stack.testing import up

CONFIG = """
uptime:
  defaults: {{interval: 1s, timeout: 500ms, confirm: {{failures: 1, every: 200ms, recover: 1}}}}
  endpoints: [{{name: target, service: shop, url: "{target}"}}]
alerting:
  route: {{receiver: hook, group_by: [service], group_wait: 100ms, group_interval: 500ms, repeat_interval: 1h}}
  receivers: [{{name: hook, webhook_configs: [{{url: "{hook}/hook"}}]}}]
"""
LIVES = 12


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
async def test_killed_at_random_it_tells_every_end_and_nothing_twice(tmp_path: Path, seed: int) -> None:
    """After a dozen violent deaths nobody is left with an alarm that is over, and no message was taken twice."""
    dice = random.Random(seed)
    status = 200

    def target_answer(_: Received) -> Response:
        return PlainTextResponse("x", status)

    async with sink(target_answer) as target, sink() as hook:
        file = tmp_path / "tocsin.yml"
        file.write_text(CONFIG.format(target=target.url, hook=hook.url))
        environ = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
        flags = ["--config.file", str(file), "--web.listen-address", "127.0.0.1:0"]
        for _ in range(LIVES):
            async with up(tmp_path / "data", *flags, environ=environ) as tocsin:
                for _ in range(dice.randint(1, 3)):
                    status = dice.choice([200, 503])
                    await asyncio.sleep(dice.uniform(0.2, 2.0))
                await tocsin.kill()
        status = 200
        async with up(tmp_path / "data", *flags, environ=environ) as tocsin:

            async def settled() -> bool:
                rows = await tocsin.get("alerting", "/api/v1/notifications")
                checks = await tocsin.get("uptime", "/api/v1/checks")
                quiet = not await tocsin.get("alerting", "/api/v2/alerts")
                return quiet and checks[0]["state"] == "up" and all(row["state"] != "pending" for row in rows)

            await eventually(settled, timeout=60)
            assert (await tocsin.terminate())[0] == 0
        _judge(hook)


def _judge(hook: Sink) -> None:
    """A key that comes again is the same message again: the receiver drops it, and its body must be the same."""
    bodies: dict[str, bytes] = {}
    for request in hook.received:
        assert bodies.setdefault(request.headers["idempotency-key"], request.body) == request.body
    states = [json.loads(body)["status"] for body in bodies.values()]
    assert states
    assert states == (["firing", "resolved"] * len(states))[: len(states)]
    assert states[-1] == "resolved"
