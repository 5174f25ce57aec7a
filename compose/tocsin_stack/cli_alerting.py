"""`tocsin alerting`: the alert router alone, with Alertmanager's flags, and `check-config`.

A configuration that is missing or wrong ends it with 1, as scripts written for Alertmanager expect.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import typer.core

import tocsin
import tocsin_alerting.config
from tocsin_alerting.options import Options
from tocsin_alerting.router import Router
from tocsin_service import db, telemetry, web
from tocsin_service.settings import SettingsError, environment
from tocsin_stack import alerting_check, alertmanager_flags
from tocsin_stack.cli_part import (
    ConfigFile,
    DataFolder,
    ExternalUrl,
    Flags,
    Level,
    LogForm,
    LogFormat,
    LogLevel,
    Place,
    Source,
    StorageUrl,
    WebConfig,
    run_part,
)
from tocsin_stack.screen import Screen

_UNUSED: Final = "tocsin.unused_flags"
_DEFAULT: Final = Options()


class _Group(typer.core.TyperGroup):
    """The command line as Alertmanager reads it: flags that mean nothing here are taken out before click looks."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        kept, unused = alertmanager_flags.sort(args)
        ctx.meta[_UNUSED] = unused
        return super().parse_args(ctx, kept)


app = typer.Typer(cls=_Group, invoke_without_command=True, add_completion=False)


def _duration(flag: str, words: str, shown: str) -> Any:
    return typer.Option(flag, parser=alertmanager_flags.duration, metavar="DURATION", help=words, show_default=shown)


@app.callback()
def alerting(
    ctx: typer.Context,
    config_file: ConfigFile = Path("alertmanager.yml"),
    tocsin_config: Annotated[
        Path | None, typer.Option("--tocsin.config", help="What Alertmanager's file has no place for.")
    ] = None,
    data: DataFolder = Path("data"),
    storage_url: StorageUrl = None,
    listen: Annotated[
        list[str] | None,
        typer.Option("--web.listen-address", help="host:port, repeatable; :9093 listens everywhere."),
    ] = None,
    systemd_socket: Annotated[bool, typer.Option("--web.systemd-socket", help="Take systemd's sockets.")] = False,
    external_url: ExternalUrl = None,
    route_prefix: Annotated[
        str | None, typer.Option("--web.route-prefix", help="Prefix of every path; that of the external URL.")
    ] = None,
    web_config: WebConfig = None,
    get_concurrency: Annotated[int, typer.Option("--web.get-concurrency", help="GETs answered at once.")] = 0,
    web_timeout: Annotated[float, _duration("--web.timeout", "Limit of a request; 0 is none.", "0")] = 0.0,
    retention: Annotated[
        float, _duration("--data.retention", "How long ended silences and what was told are kept.", "120h")
    ] = _DEFAULT.retention,
    gc_interval: Annotated[
        float, _duration("--alerts.gc-interval", "How often ended alerts are forgotten.", "30m")
    ] = _DEFAULT.gc_interval,
    per_alertname: Annotated[
        int, typer.Option("--alerts.per-alertname-limit", help="Alerts of one name; 0 is no limit.")
    ] = 0,
    start_delay: Annotated[
        float, _duration("--dispatch.start-delay", "Wait before the first notification.", "0s")
    ] = 0.0,
    log_silences: Annotated[bool, typer.Option("--log.silences/--no-log.silences", help="Log each change.")] = False,
    max_silences: Annotated[int, typer.Option("--silences.max-silences", help="0 is no limit.")] = 0,
    max_silence_size: Annotated[int, typer.Option("--silences.max-silence-size-bytes", help="0 is no limit.")] = 0,
    features: Annotated[
        list[str] | None, typer.Option("--enable-feature", help="Comma-separated; Alertmanager's names.")
    ] = None,
    level: LogLevel = Level.INFO,
    form: LogForm = LogFormat.LOGFMT,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Run the alert router alone, from Alertmanager's file and flags."""
    if ctx.invoked_subcommand is not None:
        return
    if version:
        typer.echo(f"tocsin alerting, version {tocsin.__version__}")
        raise typer.Exit

    def listeners() -> Sequence[socket.socket]:
        if systemd_socket:
            return alertmanager_flags.systemd_sockets(environment(), os.getpid())
        return [web.bind(web.Address.parse(each)) for each in listen or ["127.0.0.1:9093"]]

    def build(config: tocsin_alerting.config.Config, place: Place) -> Router:
        url = alertmanager_flags.external_url(external_url, place.url, hostname=socket.gethostname())
        options = Options(
            external_url=url,
            route_prefix=alertmanager_flags.route_prefix(route_prefix, url),
            retention=retention,
            gc_interval=gc_interval,
            per_alertname_limit=per_alertname,
            start_delay=start_delay,
            get_concurrency=max(0, get_concurrency),
            web_timeout=max(0.0, web_timeout),
            log_silences=log_silences,
            max_silences=max_silences,
            max_silence_size=max_silence_size,
            features=enabled,
        )
        log = telemetry.logger("tocsin.alerting")
        for reason, flags in alertmanager_flags.without_effect(ctx.meta.get(_UNUSED, ())).items():
            log.info("flags without effect", flags=" ".join(flags), reason=reason)
        database = storage_url or db.sqlite_url(data.absolute() / "alerting.db")
        return Router(
            config,
            database_url=database,
            options=options,
            registry=place.registry,
            terminal=screen.say,
            reread=place.reread,
        )

    try:
        enabled = alertmanager_flags.features(features or ())
        # Alertmanager replaces no variables in its file, and its templates use `$`.
        source = Source(config_file, alerting_check.loader(tocsin_config, enabled), environ=None)
        with Screen() as screen:
            code = run_part("alerting", source, build, Flags(listeners, web_config, level, form))
    except (SettingsError, alertmanager_flags.FlagError) as error:
        raise _failed(str(error)) from error
    raise typer.Exit(code)


@app.command("check-config")
def check_config(
    files: Annotated[list[Path], typer.Argument(help="alertmanager.yml, ...")],
    tocsin_config: Annotated[Path | None, typer.Option("--tocsin.config", help="The second file, if any.")] = None,
    form: Annotated[alerting_check.Format, typer.Option("--format", help="text, json, or github's annotations.")] = (
        alerting_check.Format.TEXT
    ),
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
) -> None:
    """Check configuration files beyond their syntax; exit 1 if one cannot be used."""
    reports = [alerting_check.check(file, tocsin_config) for file in files]
    typer.echo(alerting_check.render(reports, form))
    raise typer.Exit(1 if any(report.failed(strict=strict) for report in reports) else 0)


def _failed(message: str) -> typer.Exit:
    sys.stderr.write(f"{message}\n")
    return typer.Exit(1)
