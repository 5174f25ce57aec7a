"""`tocsin alerts`: what fires, why somebody was told of it or not; acknowledging, silencing, and drills."""

from __future__ import annotations

import asyncio
import getpass
import json
import sys
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import typer.core
from rich.console import Console, Group, RenderableType

from tocsin_alerting import drill
from tocsin_alerting.receivers.clients import Clients
from tocsin_service.clock import rfc3339
from tocsin_service.settings import Document, SettingsError, environment
from tocsin_stack import alerting_check, alertmanager_flags, alerts_view
from tocsin_stack.alerts_client import AlertsError, Client, Connection, Refused, is_fingerprint, matchers, pick, plain

_WIDE: Final = 10_000
_SHOWN: Final = 3
"""Alerts that `show` explains at once."""
_SHARED: Final = frozenset(
    {"--alertmanager.url", "--storage.path", "--user", "--password-file", "--token-file", "--ca-file", "-o", "--output"}
)
"""Options of all commands; they may stand before or after the command."""


class Output(StrEnum):
    """How it is printed."""

    TEXT = "text"
    JSON = "json"


class _Group(typer.core.TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, shared_first(args))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (AlertsError, SettingsError) as error:
            sys.stderr.write(f"{alerts_view.clean(error)}\n")
            raise typer.Exit(1) from error


def shared_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the shared options in front, wherever they stood before `--`."""
    first: list[str] = []
    rest: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if argument == "--":
            rest += [argument, *left]
            break
        name, equals, _ = argument.partition("=")
        if name in _SHARED:
            first += [argument] if equals or not left else [argument, left.pop(0)]
        else:
            rest.append(argument)
    return first + rest


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Words = Annotated[list[str], typer.Argument(help="Matchers (severity=page), the name of an alert, or a fingerprint.")]
Comment = Annotated[str, typer.Option("--comment", "-c", help="Why.")]
Author = Annotated[str | None, typer.Option("--author", "-a", help="Who; you, if nothing is said.")]
Length = Annotated[
    float, typer.Option("--for", "-d", parser=alertmanager_flags.duration, metavar="DURATION", help="How long.")
]


Identifier = Annotated[str, typer.Argument(metavar="ID", help="Its beginning is enough.")]


class _Session:
    """What the shared options say."""

    def __init__(self, connection: Connection, output: Output) -> None:
        self.connection = connection
        self.output = output

    def show(self, data: object, text: RenderableType) -> None:
        """Print for a program, or for a person."""
        if self.output is Output.JSON:
            typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
            return
        if sys.stdout.isatty():
            Console(highlight=False, markup=False, emoji=False).print(text)
            return
        # A pipe has no width of its own: nothing is folded there, and nothing is filled up with blanks.
        console = Console(highlight=False, markup=False, emoji=False, width=_WIDE, no_color=True)
        with console.capture() as shown:
            console.print(text)
        typer.echo("\n".join(line.rstrip() for line in shown.get().splitlines()))


@app.callback()
def alerts(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Option("--alertmanager.url", help="The router; that of a running `tocsin up`, or port 9093 here."),
    ] = None,
    data: Annotated[Path, typer.Option("--storage.path", help="Data folder of that `tocsin up`.")] = Path(
        "tocsin-data"
    ),
    user: Annotated[str | None, typer.Option("--user", help="For basic auth; or $TOCSIN_ALERTS_USER.")] = None,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", help="Its password; or $TOCSIN_ALERTS_PASSWORD.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="A bearer token; or $TOCSIN_ALERTS_TOKEN.")
    ] = None,
    ca_file: Annotated[Path | None, typer.Option("--ca-file", help="Who signed the router's certificate.")] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="text or json.")] = Output.TEXT,
) -> None:
    """See what fires and why somebody was told of it or not; acknowledge, silence, and try."""
    connection = Connection.find(
        url,
        data=data,
        user=user,
        password_file=password_file,
        token_file=token_file,
        ca_file=ca_file,
        environ=environment(),
    )
    ctx.obj = _Session(connection, output)


@app.command("list")
def list_command(
    ctx: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(help="Matchers, or the name of an alert.")] = None,
    silenced: Annotated[bool, typer.Option("--silenced", help="Silenced ones too.")] = False,
    inhibited: Annotated[bool, typer.Option("--inhibited", help="Inhibited ones too.")] = False,
    receiver: Annotated[str, typer.Option("--receiver", help="Only those for receivers that match this.")] = "",
) -> None:
    """List what fires."""
    session: _Session = ctx.obj
    query = {"silenced": _word(silenced), "inhibited": _word(inhibited)} | ({"receiver": receiver} if receiver else {})
    with Client(session.connection) as client:
        found = client.alerts(matchers(words or ()), **query)
        # For a program it is what the API says, and nothing else is asked.
        silences = {each["id"]: each for each in client.silences()} if session.output is Output.TEXT else {}
        acks = client.acks() if session.output is Output.TEXT else []
    session.show(found, alerts_view.table(found, silences, time.time(), acks=acks))


@app.command("show")
def show_command(ctx: typer.Context, words: Words) -> None:
    """Say who was told of an alert when, or why nobody was."""
    session: _Session = ctx.obj
    with Client(session.connection) as client:
        found = pick(client, words)
        now = time.time()
        if len(found) > _SHOWN:
            silences = {each["id"]: each for each in client.silences()}
            session.show(found, alerts_view.table(found, silences, now))
            raise AlertsError(f"{len(found)} alerts match; name one by its fingerprint: tocsin alerts show FINGERPRINT")
        try:
            reasons = [client.explain(alert["fingerprint"]) for alert in found]
        except Refused as error:
            if error.status != 404:
                raise
            raise AlertsError("this router keeps no reasons (Alertmanager does not); tocsin's does") from error
    parts = [part for each in reasons for part in (alerts_view.explanation(each, now), "")]
    session.show(reasons, Group(*parts[:-1]))


@app.command()
def silence(
    ctx: typer.Context,
    words: Words,
    length: Length,
    comment: Comment,
    author: Author = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would mute.")] = False,
) -> None:
    """Keep alerts quiet for a while."""
    session: _Session = ctx.obj
    with Client(session.connection) as client:
        found = matchers(words)
        affected = client.alerts(found)
        now = time.time()
        if dry_run:
            session.show(affected, alerts_view.table(affected, {}, now))
            return
        name = client.silence(_body(plain(found), length, author, comment, now))
    told = {"silenceID": name, "matches": [each["fingerprint"] for each in affected]}
    session.show(told, f"silenced {_count(affected)} until {_until(now, length)}\nundo: tocsin alerts unsilence {name}")


@app.command()
def ack(
    ctx: typer.Context,
    words: Words,
    length: Length = 7200.0,
    comment: Comment = "",
    author: Author = None,
) -> None:
    """Say that you are on it: nobody is reminded for a while; what is new, and the end, are still told."""
    session: _Session = ctx.obj
    with Client(session.connection) as client:
        affected = pick(client, words)
        now = time.time()
        if is_fingerprint(words) and affected[0]["fingerprint"].startswith(words[0]):
            about: list[dict[str, Any]] = [{"fingerprint": each["fingerprint"]} for each in affected]
        else:
            about = [{"matchers": plain(matchers(words))}]
        end = {"endsAt": rfc3339(now + length), "createdBy": _author(author), "comment": comment}
        names = [client.acknowledge({**each, **end}) for each in about]
    undo = "\n".join(f"undo: tocsin alerts unack {name}" for name in names)
    session.show({"acknowledged": names}, f"acknowledged {_count(affected)} until {_until(now, length)}\n{undo}")


@app.command()
def unack(ctx: typer.Context, name: Identifier) -> None:
    """Take an acknowledgement back."""
    session: _Session = ctx.obj
    with Client(session.connection) as client:
        found = _one("acknowledgement", name, [each["id"] for each in client.acks()])
        client.unacknowledge(found)
    session.show({"id": found}, f"the acknowledgement {found} is taken back")


@app.command()
def unsilence(ctx: typer.Context, name: Identifier) -> None:
    """End a silence."""
    session: _Session = ctx.obj
    with Client(session.connection) as client:
        known = [each["id"] for each in client.silences() if each["status"]["state"] != "expired"]
        found = _one("silence", name, known)
        client.unsilence(found)
    session.show({"silenceID": found}, f"the silence {found} has ended")


def _one(what: str, beginning: str, known: Sequence[str]) -> str:
    found = [each for each in known if each.startswith(beginning)]
    if len(found) != 1:
        how = f"no {what} that has not ended begins" if not found else f"{len(found)} {what}s begin"
        raise AlertsError(f"{how} with {beginning}")
    return found[0]


@app.command("test")
def rehearse(
    ctx: typer.Context,
    labels: Annotated[list[str], typer.Option("--label", "-l", help="name=value; repeatable.")],
    annotations: Annotated[list[str] | None, typer.Option("--annotation", help="name=value; repeatable.")] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config.file", help="Ask this file instead of a running router.")
    ] = None,
    tocsin_config: Annotated[Path | None, typer.Option("--tocsin.config", help="The second file, if any.")] = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="As if it had ended.")] = False,
    send: Annotated[bool, typer.Option("--send", help="Really send it, marked as a drill.")] = False,
) -> None:
    """Show the way of an alert and its messages; with --send, send them. Exit 1 if a message is broken or refused."""
    session: _Session = ctx.obj
    asked = drill.Asked(_pairs(labels), _pairs(annotations or ()), resolved=resolved, send=send)
    if config_file is None:
        body = {"labels": asked.labels, "annotations": asked.annotations, "resolved": resolved, "send": send}
        with Client(session.connection) as client:
            found = client.drill(body)
    else:
        found = asyncio.run(_locally(asked, config_file, tocsin_config, session.connection.url))
    session.show(found, alerts_view.drill(found, time.time()))
    problems = [each for route in found["routes"] for each in route["integrations"] if each.get("problem")]
    raise typer.Exit(1 if problems else 0)


async def _locally(asked: drill.Asked, file: Path, second: Path | None, url: str) -> dict[str, Any]:
    config = alerting_check.loader(second)(Document.open(file))
    clients = Clients(user_agent=f"tocsin/{version('tocsin')}", environ=environment())
    try:
        stage = drill.Stage(config, drill.Timing(config), clients, external_url=url, terminal=typer.echo)
        return await drill.rehearse(asked, stage, time.time())
    finally:
        await clients.close()


def _pairs(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise AlertsError(f'"{word}" is no label; write name=value')
        quoted = len(value) > 1 and value.startswith('"') and value.endswith('"')
        found[name] = value[1:-1] if quoted else value
    return found


def _body(
    found: list[dict[str, Any]], length: float, author: str | None, comment: str, now: float
) -> Mapping[str, Any]:
    return {
        "matchers": found,
        "startsAt": rfc3339(now),
        "endsAt": rfc3339(now + length),
        "createdBy": _author(author),
        "comment": comment,
    }


def _author(given: str | None) -> str:
    return given or getpass.getuser()


def _until(now: float, length: float) -> str:
    return alerts_view.instant(rfc3339(now + length), now)


def _count(found: Sequence[object]) -> str:
    return "1 alert" if len(found) == 1 else f"{len(found)} alerts"


def _word(value: bool) -> str:
    return "true" if value else "false"
