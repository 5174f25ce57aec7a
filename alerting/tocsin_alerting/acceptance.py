"""A small language for acceptance tests over time, and the servers they run against: ours and the real Alertmanager.

    Scenario("two alerts of a group come in one message",
        steps=[At(0, Post("a")), At(0.4, Post("b"))],
        expected=[Message(Between(1, 2), firing="a b")])

All scenarios run at once in one server: each has a route, a receiver and a group of its own, by the label `scenario`.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from starlette.responses import Response

from tocsin_service.testing import Received, eventually, sink

WAIT, INTERVAL = 1.0, 2.0
"""group_wait and group_interval of all scenarios, in seconds."""


@dataclass(frozen=True)
class Between:
    """A span of seconds after the start."""

    start: float
    end: float


@dataclass(frozen=True)
class Post:
    """Post alerts (names, apart by blanks); `ends` is seconds from then, negative for resolved ones."""

    names: str
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    started: float | None = None
    ends: float | None = 600.0


@dataclass(frozen=True)
class Silence:
    """Silence an alert by its name."""

    name: str


@dataclass(frozen=True)
class Unsilence:
    """Take all silences of the scenario back."""


Action = Post | Silence | Unsilence


@dataclass(frozen=True)
class At:
    """Do something so many seconds after the start."""

    seconds: float
    action: Action


@dataclass(frozen=True)
class Message:
    """One message: when, about which alerts (names), and to which receiver of the scenario."""

    when: Between
    firing: str = ""
    resolved: str = ""
    receiver: str = ""


@dataclass(frozen=True)
class Scenario:
    """What is done, and all messages that come of it in `seconds`.

    Args:
        route: members of the scenario's route beside its matcher, receiver and timers.
        receivers: further receivers, by a suffix of their name; `route` may name them as `NAME-suffix`.
        hook: members of the webhook.
        answers: statuses that the receiver gives, one after the other, before it takes whatever comes.
    """

    name: str
    steps: Sequence[At]
    expected: Sequence[Message]
    route: dict[str, Any] = field(default_factory=dict)
    receivers: Sequence[str] = ()
    hook: dict[str, Any] = field(default_factory=dict)
    answers: Sequence[int] = ()

    @property
    def slug(self) -> str:
        """The value of the label `scenario`."""
        return self.name.replace(" ", "-").replace(",", "")


def configuration(scenarios: Sequence[Scenario], url: str) -> str:
    """Return the alertmanager.yml of all scenarios; receivers post to `url`/NAME."""
    routes: list[dict[str, Any]] = []
    receivers: list[dict[str, Any]] = [{"name": "nobody"}]
    for item in scenarios:
        route = _named(item.route, item.slug)
        own = {"matchers": [f'scenario="{item.slug}"'], "receiver": item.slug, "group_by": ["scenario"]}
        routes.append(own | route)
        names = (item.slug, *(f"{item.slug}-{suffix}" for suffix in item.receivers))
        receivers += [{"name": name, "webhook_configs": [{"url": f"{url}/{name}", **item.hook}]} for name in names]
    data = {
        "route": {
            "receiver": "nobody",
            "group_wait": "1s",
            "group_interval": "2s",
            "repeat_interval": "1h",
            "routes": routes,
        },
        "receivers": receivers,
        "inhibit_rules": [
            {"source_matchers": ["kind=source"], "target_matchers": ["kind=target"], "equal": ["scenario", "place"]}
        ],
        "time_intervals": [
            {"name": "always", "time_intervals": [{"times": [{"start_time": "00:00", "end_time": "24:00"}]}]},
            {"name": "never", "time_intervals": [{"years": ["1999"]}]},
        ],
    }
    return yaml.safe_dump(data)


def _named(value: Any, slug: str) -> Any:
    """Put the scenario's name where `route` says NAME."""
    if isinstance(value, dict):
        return {key: _named(item, slug) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item, slug) for item in value]
    return value.replace("NAME", slug) if isinstance(value, str) else value


@dataclass
class Outcome:
    """What receivers got: (seconds after the start, receiver, firing, resolved), in order, taken messages only."""

    messages: list[tuple[float, str, str, str]] = field(default_factory=list)

    def of(self, scenario: Scenario) -> list[tuple[float, str, str, str]]:
        """Return the messages of one scenario; the receiver by its suffix."""
        names = {scenario.slug: "", **{f"{scenario.slug}-{suffix}": suffix for suffix in scenario.receivers}}
        return [(at, names[name], firing, over) for at, name, firing, over in self.messages if name in names]


Serve = Callable[[str], "contextlib.AbstractAsyncContextManager[str]"]
"""Runs a server with a configuration and gives its URL."""


async def play(scenarios: Sequence[Scenario], serve: Serve, *, seconds: float) -> Outcome:
    """Run all scenarios at once against a server and return what was told."""
    outcome = Outcome()
    loop = asyncio.get_running_loop()
    start = loop.time()
    answers = {item.slug: list(item.answers) for item in scenarios}

    def answer(received: Received) -> Response:
        name = received.path.lstrip("/")
        left = answers.get(name)
        if left and (status := left.pop(0)) != 200:
            return Response(status_code=status)
        alerts = received.json()["alerts"]
        by_status = {
            status: " ".join(sorted(item["labels"]["alertname"] for item in alerts if item["status"] == status))
            for status in ("firing", "resolved")
        }
        outcome.messages.append((loop.time() - start, name, by_status["firing"], by_status["resolved"]))
        return Response()

    async with (
        sink(answer) as got,
        serve(configuration(scenarios, got.url)) as url,
        httpx.AsyncClient(base_url=url, timeout=10.0) as client,
    ):
        start = loop.time()
        await asyncio.gather(*(_act(item, client, start) for item in scenarios))
        await asyncio.sleep(max(0.0, start + seconds - loop.time()))
    return outcome


async def _act(scenario: Scenario, client: httpx.AsyncClient, start: float) -> None:
    loop = asyncio.get_running_loop()
    silences: list[str] = []
    for step in scenario.steps:
        await asyncio.sleep(max(0.0, start + step.seconds - loop.time()))
        await _do(step.action, scenario, client, silences)


async def _do(action: Action, scenario: Scenario, client: httpx.AsyncClient, silences: list[str]) -> None:
    now = datetime.datetime.now(datetime.UTC)
    if isinstance(action, Post):
        alerts = [_alert(name, action, scenario, now) for name in action.names.split()]
        answered = await client.post("/api/v2/alerts", json=alerts)
    elif isinstance(action, Silence):
        answered = await client.post("/api/v2/silences", json=_silence(action, scenario, now))
        silences.append(answered.json()["silenceID"])
    else:
        for name in silences:
            answered = await client.delete(f"/api/v2/silence/{name}")
    answered.raise_for_status()


def _alert(name: str, post: Post, scenario: Scenario, now: datetime.datetime) -> dict[str, Any]:
    alert: dict[str, Any] = {
        "labels": {"alertname": name, "scenario": scenario.slug, **post.labels},
        "annotations": post.annotations,
    }
    if post.started is not None:
        alert["startsAt"] = (now + datetime.timedelta(seconds=post.started)).isoformat()
    if post.ends is not None:
        alert["endsAt"] = (now + datetime.timedelta(seconds=post.ends)).isoformat()
    return alert


def _silence(action: Silence, scenario: Scenario, now: datetime.datetime) -> dict[str, Any]:
    matchers = [("alertname", action.name), ("scenario", scenario.slug)]
    return {
        "matchers": [{"name": name, "value": value, "isRegex": False, "isEqual": True} for name, value in matchers],
        "startsAt": now.isoformat(),
        "endsAt": (now + datetime.timedelta(hours=1)).isoformat(),
        "createdBy": "test",
        "comment": "test",
    }


@contextlib.asynccontextmanager
async def alertmanager(command: Sequence[str], folder: Path, text: str) -> AsyncIterator[str]:
    """Run the real Alertmanager (its command line without flags) with a configuration, and give its URL."""
    file = folder / "alertmanager.yml"
    await asyncio.to_thread(file.write_text, text)
    port = _free_port()
    process = await asyncio.create_subprocess_exec(
        *command,
        *(f"--config.file={file}", f"--storage.path={folder / 'data'}", "--cluster.listen-address="),
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url) as client:
            await _until_ready(client, process)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _until_ready(client: httpx.AsyncClient, process: asyncio.subprocess.Process) -> None:
    async def answers() -> bool:
        if process.returncode is not None:
            raise RuntimeError(f"alertmanager ended at once with {process.returncode}")
        with contextlib.suppress(httpx.HTTPError):
            return (await client.get("/-/ready")).status_code == 200
        return False

    await eventually(answers, timeout=20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
