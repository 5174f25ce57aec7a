"""`tocsin up` from flags alone, and the demo: both are nothing but a tocsin.yml made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tocsin_service import durations


@dataclass(frozen=True, slots=True)
class Flags:
    """What can be said on the command line instead of in a file."""

    probe: Sequence[str] = ()
    """URLs to probe."""
    slack_webhook_file: Path | None = None
    pagerduty_key_file: Path | None = None
    pagerduty_url: str | None = None
    """Another PagerDuty than the one of the US region, for example https://events.eu.pagerduty.com/v2/enqueue."""
    webhook: Sequence[str] = ()
    """URLs that get each notification as JSON, in Alertmanager's webhook form."""
    scrape: Sequence[str] = ()
    """`service=host:port`: applications whose /metrics Prometheus scrapes."""
    logs: Sequence[str] = ()
    """Paths of JSON log files, globs allowed."""

    def __bool__(self) -> bool:
        pagerduty = self.pagerduty_key_file or self.pagerduty_url
        return any((self.probe, self.slack_webhook_file, pagerduty, self.webhook, self.scrape, self.logs))


class FlagError(Exception):
    """A flag that cannot be used; the message says which and why."""


def document(flags: Flags) -> dict[str, object]:
    """Return the tocsin.yml that `flags` stand for.

    Raises:
        FlagError: a `--scrape` that is not `service=host:port`, or a PagerDuty URL without a key.
    """
    if flags.pagerduty_url and flags.pagerduty_key_file is None:
        raise FlagError("--pagerduty-url goes with --pagerduty-key-file")
    data: dict[str, object] = {
        "uptime": {"endpoints": [_endpoint(url) for url in flags.probe]},
        "alerting": alerting(flags),
        "prometheus": {"scrape": [_scrape(text) for text in flags.scrape]},
    }
    if flags.logs:
        data["ship"] = {"inputs": [{"path": path} for path in flags.logs], "outputs": [{"kind": "store"}]}
    return data


def demo(flags: Flags, *, shop: str, log_file: Path) -> dict[str, object]:
    """Return the tocsin.yml of the demo: the shop at URL `shop`, watched closely, in a hurry.

    Intervals are seconds where production has a minute, and the error budget is that of 12 hours instead of 30
    days, so that one minute shows what takes an hour elsewhere. Its slow alerts are left out: they would go on for
    minutes after the fix.
    """
    data = document(flags)
    checks = {"front page": "/", "health": "/healthz", "checkout": "/healthz/checkout", "search": "/healthz/search"}
    endpoints = [{"name": name, "service": "shop", "url": f"{shop}{path}"} for name, path in checks.items()]
    data["uptime"] = {
        "defaults": {"interval": "5s", "timeout": "2s", "confirm": {"failures": 2, "every": "1s", "recover": 2}},
        "endpoints": [*endpoints, *map(_endpoint, flags.probe)],
    }
    data["alerting"] = alerting(flags, group_wait=6.0, group_interval=10.0)
    promise = {"name": "checkout", "service": "shop", "route": "/checkout", "objective": 99.0, "window": "12h"}
    data["prometheus"] = {
        "scrape_interval": "2s",
        "evaluation_interval": "2s",
        "scrape": [{"service": "shop", "targets": [urlsplit(shop).netloc]}, *map(_scrape, flags.scrape)],
        "slos": [{**promise, "severities": ["page"]}],
    }
    data["ship"] = {"inputs": [{"path": str(log_file)}], "outputs": [{"kind": "store"}]}
    return data


def alerting(
    flags: Flags | None = None, *, group_wait: float = 10.0, group_interval: float = 60.0
) -> Mapping[str, object]:
    """Return an alertmanager.yml: everything to the terminal and to whom `flags` name. Times are seconds."""
    flags = flags or Flags()
    receiver: dict[str, object] = {"name": "default", "console_configs": [{}]}
    # Files are resolved against the folder of the configuration; here that is the folder the command runs in.
    if flags.slack_webhook_file:
        file = str(flags.slack_webhook_file.absolute())
        receiver["slack_configs"] = [{"api_url_file": file, "send_resolved": True}]
    if flags.pagerduty_key_file:
        pagerduty = {"routing_key_file": str(flags.pagerduty_key_file.absolute())}
        receiver["pagerduty_configs"] = [pagerduty | ({"url": flags.pagerduty_url} if flags.pagerduty_url else {})]
    if flags.webhook:
        receiver["webhook_configs"] = [{"url": url} for url in flags.webhook]
    return {
        "route": {
            "receiver": "default",
            # One message for each service and each error budget, however many checks fail.
            "group_by": ["service", "slo"],
            "group_wait": durations.render(group_wait),
            "group_interval": durations.render(group_interval),
            # The alert that always fires, to prove that alerting works, is no news to a person.
            "routes": [{"matchers": ['alertname="Watchdog"'], "receiver": "nobody"}],
        },
        "receivers": [receiver, {"name": "nobody"}],
    }


def _endpoint(url: str) -> dict[str, object]:
    try:
        host = urlsplit(url).hostname
    except ValueError:  # the prober says what is wrong with it
        host = None
    # A name is part of paths and URLs, so it has no slash.
    name = " ".join(part for part in url.split("://", 1)[-1].split("?", maxsplit=1)[0].split("/") if part)
    return {"name": name, "service": host or name, "url": url}


def _scrape(text: str) -> dict[str, object]:
    service, equals, target = text.partition("=")
    if not equals or not service or ":" not in target:
        raise FlagError(f'--scrape "{text}": write service=host:port, for example shop=127.0.0.1:8000')
    return {"service": service, "targets": [target]}
