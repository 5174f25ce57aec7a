"""The `tocsin` command. Exit codes: 0 ok, 1 failed, 2 usage or bad configuration."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

import tocsin
import tocsin_ship.config
import tocsin_uptime.config
from tocsin_alerting.lint import Finding, Severity
from tocsin_service import db, web
from tocsin_service.db import DatabaseError
from tocsin_service.settings import Document, SettingsError, environment
from tocsin_service.web import AddressError
from tocsin_ship.shipper import Shipper
from tocsin_stack import alerting_check, cli_alerting, cli_alerts, debian, quick, state, up
from tocsin_stack import config as stack_config
from tocsin_stack.cli_part import (
    ConfigFile,
    DataFolder,
    ExternalUrl,
    Flags,
    Level,
    Listen,
    LogForm,
    LogFormat,
    LogLevel,
    Place,
    Source,
    StorageUrl,
    WebConfig,
    one_listener,
    run_part,
)
from tocsin_uptime.prober import Prober

app = typer.Typer(
    name="tocsin",
    help="Watches a web application and rings: prober, alert router, log shipper and console.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Verb(StrEnum):
    """What to do with the demo shop."""

    BREAK = "break"
    FIX = "fix"
    STATE = "state"


app.add_typer(cli_alerting.app, name="alerting")
app.add_typer(cli_alerts.app, name="alerts")

_EXPECTED = (SettingsError, AddressError, DatabaseError, quick.FlagError, state.StateError, debian.FetchError)
_DATA = Path("tocsin-data")


def main() -> None:
    """Run the command line; what a person can mend is said in words, not as a traceback."""
    try:
        app()
    except _EXPECTED as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


@app.command("up")
def up_command(
    config_file: Annotated[
        Path | None, typer.Option("--config.file", help="The configuration; tocsin.yml where nothing else is said.")
    ] = None,
    data: DataFolder = _DATA,
    demo: Annotated[bool, typer.Option("--demo", help="Start a small web shop to watch, with traffic.")] = False,
    probe: Annotated[list[str] | None, typer.Option(help="A URL to probe; may be repeated.")] = None,
    slack_webhook_file: Annotated[Path | None, typer.Option(help="A file that holds a Slack webhook URL.")] = None,
    pagerduty_key_file: Annotated[Path | None, typer.Option(help="A file that holds a PagerDuty routing key.")] = None,
    pagerduty_url: Annotated[str | None, typer.Option(help="PagerDuty's events URL, for the EU region.")] = None,
    webhook: Annotated[list[str] | None, typer.Option(help="A URL that gets each notification as JSON.")] = None,
    scrape: Annotated[list[str] | None, typer.Option(help="service=host:port of an app to scrape.")] = None,
    logs: Annotated[list[str] | None, typer.Option(help="Path of a JSON log file to follow.")] = None,
    listen: Annotated[str | None, typer.Option("--web.listen-address", help="Where the console listens.")] = None,
    level: LogLevel = Level.INFO,
) -> None:
    """Run everything in one process, with a Prometheus beside it."""
    flags = quick.Flags(
        probe=tuple(probe or ()),
        slack_webhook_file=_existing(slack_webhook_file, "--slack-webhook-file"),
        pagerduty_key_file=_existing(pagerduty_key_file, "--pagerduty-key-file"),
        pagerduty_url=pagerduty_url,
        webhook=tuple(webhook or ()),
        scrape=tuple(scrape or ()),
        logs=tuple(logs or ()),
    )
    if config_file is not None and (demo or flags):
        raise quick.FlagError("--config.file goes with neither --demo nor --probe and the like; put them into the file")
    if config_file is None and not demo and not flags:
        config_file = Path("tocsin.yml")
        if not config_file.exists():
            raise quick.FlagError(
                "there is no tocsin.yml here. Try: tocsin up --demo, or: tocsin up --probe https://shop.example"
            )
    options = up.Options(
        data_folder=data,
        config_file=config_file,
        flags=flags,
        demo=demo,
        console=web.Address.parse(listen) if listen else None,
        log_level=level,
    )
    raise typer.Exit(up.main(options, environ=environment(), started=_started()))


@app.command()
def check(files: Annotated[list[Path], typer.Argument(help="tocsin.yml, alertmanager.yml, ...")]) -> None:
    """Say everything that is wrong with configuration files, as file:line:column."""
    bad = False
    for file in files:
        try:
            findings = _check_any(file, environment())
        except SettingsError as error:
            bad = True
            typer.echo(str(error))
            continue
        for finding in findings:
            typer.echo(alerting_check.line(finding))
        if any(finding.severity is Severity.ERROR for finding in findings):
            bad = True
        else:
            typer.echo(f"{file}: ok")
    raise typer.Exit(2 if bad else 0)


@app.command()
def demo(
    verb: Verb,
    what: Annotated[str | None, typer.Argument(help="checkout, search, ...; nothing fixes everything.")] = None,
    data: DataFolder = _DATA,
) -> None:
    """Break the demo shop, or fix it."""
    shop = state.read(data).urls.get("demo")
    if shop is None:
        raise state.StateError("this tocsin runs without the demo; start one with: tocsin up --demo")
    if verb is Verb.BREAK and what is None:
        raise quick.FlagError("say what to break, for example: tocsin demo break checkout")
    path = "/demo/state" if verb is Verb.STATE else f"/demo/{verb.value}" + (f"/{what}" if what else "")
    try:
        answer = httpx.request("GET" if verb is Verb.STATE else "POST", shop + path, timeout=5.0)
    except httpx.HTTPError as error:
        raise state.StateError(f"the demo shop at {shop} does not answer: {error}") from error
    if answer.is_error:
        detail = answer.json().get("detail", answer.text)
        raise quick.FlagError(f"the demo shop refused: {detail}")
    broken = answer.json()["broken"]
    typer.echo(f"broken: {', '.join(broken)}" if broken else "nothing is broken")


@app.command()
def fetch(
    packages: Annotated[list[str], typer.Argument(help="Debian packages, for example: prometheus")],
    with_dependencies: Annotated[bool, typer.Option(help="Also what they need.")] = False,
    suite: Annotated[
        str | None, typer.Option(help="From this suite of Debian, sid for example.", show_default=False)
    ] = None,
) -> None:
    """Unpack programs from Debian packages into your cache folder, without root."""
    for package in packages:
        program = debian.find(package, suite=suite)
        if program is None:
            typer.echo(f"fetching {package} ...")
            debian.fetch(package, suite=suite, with_dependencies=with_dependencies)
            program = debian.find(package, suite=suite)
        typer.echo(f"{package}: {program or debian.cache_folder(environment(), suite=suite)}")


@app.command()
def uptime(
    config_file: ConfigFile = Path("uptime.yml"),
    data: DataFolder = Path("data"),
    storage_url: StorageUrl = None,
    listen: Listen = "127.0.0.1:9115",
    external_url: ExternalUrl = None,
    web_config: WebConfig = None,
    level: LogLevel = Level.INFO,
    form: LogForm = LogFormat.LOGFMT,
) -> None:
    """Run the prober alone."""

    def build(config: tocsin_uptime.config.Config, place: Place) -> Prober:
        database = storage_url or db.sqlite_url(data.absolute() / "uptime.db")
        return Prober(
            config,
            database_url=database,
            external_url=external_url or place.url,
            registry=place.registry,
            reread=place.reread,
        )

    source = Source(config_file, tocsin_uptime.config.load, environ=environment())
    flags = Flags(one_listener(listen), web_config, level, form)
    raise typer.Exit(run_part("uptime", source, build, flags))


@app.command()
def ship(
    config_file: ConfigFile = Path("ship.yml"),
    data: DataFolder = Path("data"),
    listen: Listen = "127.0.0.1:9600",
    web_config: WebConfig = None,
    level: LogLevel = Level.INFO,
    form: LogForm = LogFormat.LOGFMT,
) -> None:
    """Run the log shipper alone."""

    def build(config: tocsin_ship.config.Config, place: Place) -> Shipper:
        return Shipper(config, data_folder=data.absolute(), registry=place.registry, reread=place.reread)

    source = Source(config_file, tocsin_ship.config.load, environ=environment())
    flags = Flags(one_listener(listen), web_config, level, form)
    raise typer.Exit(run_part("ship", source, build, flags))


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Print the version, or go on to the command."""
    if version:
        typer.echo(f"tocsin {tocsin.__version__}")
        raise typer.Exit


def _started() -> float:
    """Return when this process began, on the scale of `time.monotonic`; elsewhere than on Linux, now."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        age = 0.0
    return time.monotonic() - age


def _existing(file: Path | None, flag: str) -> Path | None:
    """Return the file of a secret; that it cannot be read is better said now than when the first alert fires."""
    if file is not None and not file.is_file():
        raise quick.FlagError(f"{flag}: there is no file {file}")
    return file


def _check_any(file: Path, environ: Mapping[str, str]) -> Sequence[Finding]:
    """Load a file as what its keys say it is, and return what else there is to say about it."""
    # Alertmanager replaces no variables in its file: the keys are looked for before that is done.
    document = Document.open(file)
    keys = set(document.data) if isinstance(document.data, Mapping) else set()
    if "route" in keys:
        return alerting_check.report(file, document, alerting_check.loader(None)(document)).findings
    document = Document.open(file, environ=environ)
    loaders: tuple[tuple[str, Callable[[Document], Any]], ...] = (
        ("endpoints", tocsin_uptime.config.load),
        ("inputs", tocsin_ship.config.load),
    )
    for key, load in loaders:
        if key in keys:
            load(document)
            return ()
    stack_config.load(document, environ=environ)
    return ()
