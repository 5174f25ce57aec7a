"""What the supervised Prometheus is told: the section `prometheus` of tocsin.yml -> prometheus.yml. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import yaml

from tocsin_service import durations, web
from tocsin_service.settings import ConfigPath, Document, Duration, Settings, flaw

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_RESERVED = frozenset({"service", "job", "instance"})

_HEADING = "# Written by tocsin at each start and reload; change the section `prometheus` of tocsin.yml instead.\n"

DAY = 86_400.0


def _target(value: object) -> str:
    if isinstance(value, str):
        host, colon, port = value.rpartition(":")
        if host and colon and port.isdecimal() and 0 < int(port) < 65536 and "/" not in host:
            return value
        if "://" in value:
            raise flaw(f'"{value}" is a URL', expected="host:port", fix="leave the scheme and the path out")
    raise flaw(f'"{value}" is not a target', expected="host:port, for example 127.0.0.1:8000")


def _some(targets: tuple[str, ...]) -> tuple[str, ...]:
    if targets:
        return targets
    raise flaw("there is no target", expected="at least one host:port")


def _label(name: str) -> str:
    if _LABEL.fullmatch(name) and not name.startswith("__"):
        if name in _RESERVED:
            raise flaw(f'the label "{name}" is set by tocsin', fix="remove it, or use the key of that name")
        return name
    raise flaw(f'"{name}" is not a label name', expected="letters, digits and _, not starting with a digit")


def _positive(value: float) -> float:
    if value > 0:
        return value
    raise flaw("the duration is zero", expected="more than nothing, for example 5s")


Target = Annotated[str, pydantic.BeforeValidator(_target)]
Label = Annotated[str, pydantic.AfterValidator(_label)]
Interval = Annotated[Duration, pydantic.AfterValidator(_positive)]


class Scrape(Settings):
    """An application whose /metrics Prometheus reads; every series gets `service` as a label."""

    service: Annotated[str, pydantic.Field(min_length=1)]
    job: str = ""
    """The label `job`; by default the service's name."""
    targets: Annotated[tuple[Target, ...], pydantic.AfterValidator(_some)]
    metrics_path: Annotated[str, pydantic.Field(pattern="^/")] = "/metrics"
    interval: Interval | None = None
    """Seconds between two scrapes; None takes `scrape_interval`."""
    labels: Mapping[Label, str] = {}


class SloSettings(Settings):
    """A promise: `objective` percent of the requests of `service` succeed over `window` seconds."""

    name: Annotated[str, pydantic.Field(pattern=r"^[a-zA-Z0-9_-]+$")]
    service: Annotated[str, pydantic.Field(min_length=1)]
    objective: Annotated[float, pydantic.Field(gt=0, lt=100)]
    window: Annotated[Duration, pydantic.Field(ge=60)] = 30 * DAY
    route: str | None = None
    """A route template such as `/checkout`; None takes all routes together."""
    min_bad_events: Annotated[int, pydantic.Field(ge=1)] = 10
    """Failures within an alert's long window below which it stays quiet."""
    severities: Annotated[tuple[Literal["page", "ticket"], ...], pydantic.Field(min_length=1)] = ("page", "ticket")
    """Which of its alerts it has: those that wake somebody, those that wait for the morning."""


class EngineConfig(Settings):
    """The section `prometheus`: which binary, what it scrapes, what is promised."""

    binary: ConfigPath | None = None
    """None: the one on PATH, or the one unpacked in the user's cache."""
    scrape: tuple[Scrape, ...] = ()
    scrape_interval: Interval = 5.0
    evaluation_interval: Interval = 5.0
    retention: Interval = 15 * DAY
    rule_files: tuple[ConfigPath, ...] = ()
    slos: tuple[SloSettings, ...] = ()

    @pydantic.field_validator("slos")
    @classmethod
    def _names_differ(cls, slos: tuple[SloSettings, ...]) -> tuple[SloSettings, ...]:
        # Their recorded series would be one and the same.
        seen: set[tuple[str, str]] = set()
        for slo in slos:
            if (slo.service, slo.name) in seen:
                raise flaw(f'two slos of "{slo.service}" are called "{slo.name}"', fix="give one another name")
            seen.add((slo.service, slo.name))
        return slos


def load(document: Document, *at: str | int, without: frozenset[str] = frozenset()) -> EngineConfig:
    """Read the section at `at`.

    Raises:
        SettingsError: all that is wrong with it.
    """
    return document.read(EngineConfig, *at, without=without)


def prometheus_yml(
    config: EngineConfig,
    *,
    listen: web.Address,
    router: web.Address | None,
    parts: Mapping[str, web.Address],
    rules: Path | None,
) -> str:
    """Return the text of prometheus.yml.

    Args:
        listen: Prometheus' own address, which it scrapes too.
        router: where alerts are sent; None for nowhere.
        parts: our own parts that have a /metrics, by name.
        rules: the file of generated rules.
    """
    document: dict[str, object] = {
        "global": {
            "scrape_interval": durations.render(config.scrape_interval),
            "evaluation_interval": durations.render(config.evaluation_interval),
        },
        "rule_files": [str(path) for path in (*([rules] if rules else []), *config.rule_files)],
        "scrape_configs": [*_scrapes(config.scrape), *_own(listen, parts)],
    }
    if router is not None:
        document["alerting"] = {
            "alertmanagers": [{"api_version": "v2", "static_configs": [{"targets": [_reach(router)]}]}]
        }
    heading = (
        "# Written by `tocsin up` at each start and reload; change the section `prometheus` of tocsin.yml instead.\n"
    )
    return heading + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _scrapes(scrapes: Sequence[Scrape]) -> list[dict[str, object]]:
    result: list[dict[str, object]] = []
    for number, scrape in enumerate(scrapes, start=1):
        labels = {**scrape.labels, "service": scrape.service, "job": scrape.job or scrape.service}
        # Prometheus wants unique job names here; the label `job` below is what a query sees.
        item: dict[str, object] = {"job_name": f"{number}-{scrape.service}", "metrics_path": scrape.metrics_path}
        if scrape.interval is not None:
            item["scrape_interval"] = durations.render(scrape.interval)
        result.append({**item, "static_configs": [{"targets": list(scrape.targets), "labels": labels}]})
    return result


def _own(listen: web.Address, parts: Mapping[str, web.Address]) -> list[dict[str, object]]:
    """Return the scrapes of Prometheus itself and of our parts: who watches is watched."""
    targets = {"prometheus": listen, **{f"tocsin-{name}": address for name, address in parts.items()}}
    return [
        {"job_name": name, "static_configs": [{"targets": [_reach(address)], "labels": {"service": name}}]}
        for name, address in targets.items()
    ]


def _reach(address: web.Address) -> str:
    """Return host:port that a client on this machine can connect to."""
    return address.url.partition("://")[2]
