"""`tocsin alerts` against a real router: what a person sees, what a program reads, and what is said when it fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, Response
from typer.testing import CliRunner

from tocsin_alerting import testing
from tocsin_alerting.testing import Served
from tocsin_service.db import sqlite_url
from tocsin_service.testing import Received, Sink, eventually, sink
from tocsin_stack import alerts_view, cli, state
from tocsin_stack.alerts_client import AlertsError, Connection, acknowledged, matchers
from tocsin_stack.cli_alerts import shared_first

CONFIG = """
global: {resolve_timeout: 1h}
route:
  receiver: team
  group_by: [alertname]
  group_wait: 0s
  routes:
    - {matchers: [severity="page"], receiver: pager}
receivers:
  - name: team
  - name: pager
    webhook_configs: [{url: 'URL/SECRET-PATH'}]
inhibit_rules:
  - {source_matchers: [alertname="Down"], target_matchers: [alertname="Slow"], equal: [service]}
"""


@dataclass
class Ended:
    code: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


Run = Callable[..., Awaitable[Ended]]


@pytest.fixture
async def hook() -> AsyncIterator[Sink]:
    async with sink() as found:
        yield found


@pytest.fixture
async def router(tmp_path: Path, hook: Sink) -> AsyncIterator[Served]:
    text = CONFIG.replace("URL", hook.url)
    async with testing.serving(text, database_url=sqlite_url(tmp_path / "cli.db")) as served:
        await served.post(
            _alert("Down", severity="page", service="shop", summary="40 % of checkouts fail"),
            _alert("Slow", severity="warning", service="shop", summary="It takes 4 s"),
            _alert("Full", severity="warning", service="db", summary="Full in 4 hours"),
        )
        yield served


@pytest.fixture
def tocsin(router: Served, tmp_path: Path) -> Run:
    """Run `tocsin alerts ...` against the router."""

    async def run(*arguments: str, url: str | None = router.url) -> Ended:
        words = ["alerts", *arguments, "--storage.path", str(tmp_path), *(["--alertmanager.url", url] if url else [])]
        found = await asyncio.to_thread(CliRunner().invoke, cli.app, words, catch_exceptions=False)
        # The router runs in this process, and its log goes where the command prints.
        lines = [line for line in found.output.splitlines(keepends=True) if not line.startswith('{"@timestamp"')]
        return Ended(found.exit_code, "".join(lines))

    return run


def _alert(name: str, *, summary: str, **labels: str) -> dict[str, object]:
    return {"labels": {"alertname": name, **labels}, "annotations": {"summary": summary}}


async def test_list_shows_what_fires_loudest_first(tocsin: Run) -> None:
    """One line each; silenced and inhibited ones only when asked for, with who mutes them."""
    found = await tocsin("list")
    assert found.code == 0
    lines = [line.split() for line in found.text.splitlines() if "db" in line or "shop" in line]
    assert [line[:3] for line in lines] == [["page", "Down", "shop"], ["warning", "Full", "db"]]
    assert lines[0][-2] == "pager"
    every = await tocsin("list", "--inhibited")
    assert "inhibited by" in next(line for line in every.text.splitlines() if "Slow" in line)
    assert "Full" not in (await tocsin("list", "severity=page")).text
    assert "Full" in (await tocsin("list", "--receiver", "te.m")).text
    assert (await tocsin("list", 'service="none"')).text == "nothing fires\n"


async def test_list_is_what_the_api_says_for_a_program(tocsin: Run) -> None:
    """`-o json` before or after the command."""
    found = (await tocsin("list", "Full", "-o", "json")).json()
    assert [each["labels"]["alertname"] for each in found] == ["Full"]
    assert (await tocsin("-o", "json", "list", "Full")).json() == found


async def test_show_says_who_was_told_and_what_they_answered(tocsin: Run, hook: Sink, router: Served) -> None:
    """For a person who was woken: what, since when, who was told when."""

    async def delivered() -> bool:
        return any(each["state"] == "delivered" for each in await router.notifications())

    await hook.take(1)
    await eventually(delivered)
    (alert,) = (await tocsin("list", "Down", "-o", "json")).json()
    text = (await tocsin("show", alert["fingerprint"][:6])).text
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == f"Down  page  {alert['fingerprint']}"
    assert lines[1] == "40 % of checkouts fail"
    assert lines[2].startswith("since ")
    assert 'to pager   by every alert → severity="page"' in lines
    assert any(line.startswith("webhook: told at ") for line in lines)
    assert any("firing: first notification, delivered" in line for line in lines)
    assert (await tocsin("show", "alertname=Down", "-o", "json")).json()[0]["routes"][0]["receiver"] == "pager"


async def test_show_says_why_nobody_was_told(tocsin: Run) -> None:
    """The silence, who made it and why, and when that changes."""
    assert (await tocsin("silence", "Full", "--for", "2h", "-c", "Disk is being grown", "-a", "ann")).code == 0
    text = (await tocsin("show", "Full")).text
    assert "silenced by ann until" in text
    assert "Disk is being grown" in text
    assert "it can be told again from" in text
    assert "inhibited by Down" in (await tocsin("show", "Slow")).text


async def test_too_many_alerts_are_listed_to_choose_from(tocsin: Run, router: Served) -> None:
    """More than three explanations are a wall of text."""
    await router.post(*(_alert("Many", summary="", instance=str(number)) for number in range(5)))
    found = await tocsin("show", "Many")
    assert found.code == 1
    assert "5 alerts match; name one by its fingerprint" in found.text
    assert "nothing has" not in found.text


async def test_a_silence_is_tried_made_and_ended(tocsin: Run) -> None:
    """--dry-run changes nothing; the beginning of an id is enough to end it."""
    assert "Full" in (await tocsin("silence", "service=db", "--for", "2h", "-c", "x", "--dry-run")).text
    assert "Full" in (await tocsin("list")).text
    made = await tocsin("silence", "service=db", "--for=90m", "-c", "x", "-o", "json")
    assert "Full" not in (await tocsin("list")).text
    assert "silenced by" in (await tocsin("list", "--silenced")).text
    name = made.json()["silenceID"]
    ended = await tocsin("unsilence", name[:8])
    assert ended.text == f"the silence {name} has ended\n"
    assert "Full" in (await tocsin("list")).text
    assert "no silence that has not ended begins with" in (await tocsin("unsilence", name)).text


async def test_an_acknowledgement_is_made_and_taken_back(tocsin: Run) -> None:
    """By fingerprint or by matchers; the list says who is on it."""
    (alert,) = (await tocsin("list", "Down", "-o", "json")).json()
    made = await tocsin("ack", alert["fingerprint"][:8], "-c", "on it", "-a", "bob", "-o", "json")
    text = (await tocsin("list")).text
    assert "acknowledged by bob until" in next(line for line in text.splitlines() if "Down" in line)
    (name,) = made.json()["acknowledged"]
    assert (await tocsin("unack", name[:6])).code == 0
    assert "acknowledged" not in (await tocsin("list")).text
    await tocsin("ack", "service=db", "-a", "bob", "--for", "1h")
    text = (await tocsin("list")).text
    assert [line.split()[1] for line in text.splitlines() if "acknowledged by bob" in line] == ["Full"]


async def test_a_drill_shows_the_way_and_the_message(tocsin: Run, hook: Sink) -> None:
    """By the running router; nothing is sent, and no secret is shown."""
    await hook.take(1)
    found = await tocsin("test", "--label", "severity=page", "--label", "service=api", "--annotation", "summary=a b")
    assert found.code == 0
    assert '▶ severity="page"  -> pager' in found.text
    assert "group {}/{severity=" in found.text
    assert '"summary": "a b"' in found.text
    assert "SECRET-PATH" not in found.text
    assert len(hook.received) == 1


async def test_a_drill_is_sent_and_the_answer_shown(tocsin: Run, hook: Sink) -> None:
    """Marked as what it is; exit 1 if anybody refused it."""
    await hook.take(1)
    found = await tocsin("test", "-l", "severity=page", "--send")
    assert found.code == 0
    assert "webhook: sent and taken" in found.text
    assert "answered 200 ok" in found.text
    assert hook.received[-1].json()["alerts"][0]["labels"] == {"severity": "page", "drill": "true"}
    hook.answer = lambda _: Response("go away", 403)
    found = await tocsin("test", "-l", "severity=page", "--send", "--resolved")
    assert found.code == 1
    assert "refused: " in found.text
    assert "answered 403: go away" in found.text


async def test_a_drill_needs_no_router(tocsin: Run, tmp_path: Path, hook: Sink) -> None:
    """--config.file asks a file: in CI, before it is taken into use."""
    await hook.take(1)
    (tmp_path / "am.yml").write_text(CONFIG.replace("URL", hook.url))
    file = str(tmp_path / "am.yml")
    found = await tocsin("test", "-l", "severity=page", "--config.file", file, "-o", "json", url=None)
    assert found.json()["routes"][0]["receiver"] == "pager"
    assert len(hook.received) == 1
    found = await tocsin("test", "-l", "severity=page", "--config.file", file, "--send", url=None)
    assert found.code == 0
    assert len(hook.received) == 2
    (tmp_path / "am.yml").write_text("route: {receiver: nobody}")
    found = await tocsin("test", "-l", "severity=page", "--config.file", file)
    assert found.code == 1
    assert "am.yml:1:9: " in found.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "a=~("], "is not a regular expression"),
        (["list", 'a="b'], "quote"),
        (["show", "Nothing"], "no alert that fires is Nothing"),
        (["show", "abcdef0123"], "no alert that fires is abcdef0123"),
        (["test", "-l", "severity"], '"severity" is no label; write name=value'),
        (["unsilence", "x"], "no silence that has not ended begins with x"),
        (["list", "--password-file", "/none"], "cannot read the secret file /none"),
    ],
)
async def test_mistakes_are_said_in_a_sentence(tocsin: Run, arguments: list[str], message: str) -> None:
    """Exit 1, and no traceback."""
    found = await tocsin(*arguments)
    assert message in found.text
    assert found.code == 1


async def test_a_router_that_is_away_is_said(tocsin: Run) -> None:
    """With what to do about it."""
    found = await tocsin("list", url="http://127.0.0.1:1")
    assert found.code == 1
    assert "http://127.0.0.1:1 does not answer" in found.text
    assert "--alertmanager.url" in found.text


async def test_what_alertmanager_itself_lacks_is_said(tocsin: Run) -> None:
    """The commands work against it as far as its API goes."""

    def answer(request: Received) -> Response:
        if request.path == "/api/v2/alerts":
            labels = {"alertname": "Down"}
            alert = {"labels": labels, "annotations": {}, "fingerprint": "0123456789abcdef", "receivers": []}
            times = {"startsAt": "2026-01-01T00:00:00Z", "endsAt": "2026-01-01T00:00:00Z"}
            return JSONResponse(
                [{**alert, **times, "status": {"state": "active", "silencedBy": [], "inhibitedBy": []}}]
            )
        return JSONResponse([]) if request.path == "/api/v2/silences" else Response(status_code=404)

    async with sink(answer) as alertmanager:
        assert "Down" in (await tocsin("list", url=alertmanager.url)).text
        assert "this router keeps no reasons" in (await tocsin("show", "Down", url=alertmanager.url)).text
        assert "takes no acknowledgements" in (await tocsin("ack", "Down", url=alertmanager.url)).text


async def test_who_asks_is_said_to_the_router(tocsin: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Basic auth and tokens, from files or the environment."""
    given: list[str] = []

    def answer(request: Received) -> Response:
        given.append(request.headers.get("authorization", ""))
        return JSONResponse([]) if given[-1] else Response(status_code=401)

    (tmp_path / "secret").write_text("s3cret\n")
    async with sink(answer) as guarded:
        refused = await tocsin("list", url=guarded.url)
        assert "wants to know who asks: use --user and --password-file" in refused.text
        await tocsin("list", "--user", "ann", "--password-file", str(tmp_path / "secret"), url=guarded.url)
        assert given[-1] == httpx.BasicAuth("ann", "s3cret")._auth_header
        await tocsin("list", "--token-file", str(tmp_path / "secret"), url=guarded.url)
        assert given[-1] == "Bearer s3cret"
        monkeypatch.setenv("TOCSIN_ALERTS_TOKEN", "from-the-environment")
        await tocsin("list", url=guarded.url)
        assert given[-1] == "Bearer from-the-environment"


def test_the_router_of_a_running_tocsin_up_is_found(tmp_path: Path) -> None:
    """Without a URL: what `tocsin up` says of itself in its data folder, else Alertmanager's port."""

    def found(environ: dict[str, str]) -> str:
        nobody = {"user": None, "password_file": None, "token_file": None, "ca_file": None}
        return Connection.find(None, data=tmp_path, environ=environ, **nobody).url  # type: ignore[arg-type]  # all None

    assert found({}) == "http://127.0.0.1:9093"
    state.write(tmp_path, {"alerting": "http://127.0.0.1:12345"})
    assert found({}) == "http://127.0.0.1:12345"
    assert found({"TOCSIN_ALERTMANAGER_URL": "https://alerts.example/"}) == "https://alerts.example"


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (["list", "a=b", "-o", "json"], ["-o", "json", "list", "a=b"]),
        (["list", "--alertmanager.url=x", "--silenced"], ["--alertmanager.url=x", "list", "--silenced"]),
        (["list", "--", "-o"], ["list", "--", "-o"]),
        (["list", "--user"], ["--user", "list"]),
    ],
)
def test_shared_options_may_stand_anywhere(given: list[str], made: list[str]) -> None:
    """Nobody remembers which go before the command."""
    assert shared_first(given) == made


def test_words_are_matchers_or_the_name_of_an_alert() -> None:
    """As with amtool."""
    assert [str(each) for each in matchers(["Down", "a=~b|c", '{x="1",y!="2"}'])] == [
        'alertname="Down"',
        'a=~"b|c"',
        'x="1"',
        'y!="2"',
    ]
    with pytest.raises(AlertsError):
        matchers(["a=~["])


def test_the_acknowledgement_that_holds_longest_is_shown() -> None:
    """Of those of this alert, by fingerprint or by matchers."""
    alert = {"fingerprint": "f", "labels": {"a": "b"}}
    no = {"fingerprint": "g", "endsAt": "2099"}
    short = {"fingerprint": "f", "endsAt": "2030"}
    wide = {"matchers": [{"name": "a", "value": "b|c", "isRegex": True, "isEqual": True}], "endsAt": "2031"}
    other = {"matchers": [{"name": "a", "value": "b", "isRegex": False, "isEqual": False}], "endsAt": "2032"}
    assert acknowledged(alert, [no, short, wide, other]) == wide
    assert acknowledged(alert, [no]) is None


def test_what_would_steer_a_terminal_is_not_printed() -> None:
    """Alerts come from anywhere: an escape sequence in a label must not clear the screen."""
    assert alerts_view.clean("a\x1b[2Jb\x07\u009bc") == "a?[2Jb??c"
