"""Webhooks of Grafana's unified alerting, version 1. Source: Grafana's page on the webhook contact point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from tocsin_alerting.sources.alertmanager import PostedAlert, read_alerts
from tocsin_alerting.sources.auth import TokenOrPassword
from tocsin_alerting.sources.report import Report

_SHOWN: Final = 40
"""Values of one alert that are shown: an expression over many series has one for each."""


class GrafanaSettings(TokenOrPassword):
    """`kind: grafana`."""

    kind: Literal["grafana"]


class _GrafanaAlert(PostedAlert, frozen=True, rename="camel"):
    dashboard_url: str | None = msgspec.field(default=None, name="dashboardURL")
    panel_url: str | None = msgspec.field(default=None, name="panelURL")
    silence_url: str | None = msgspec.field(default=None, name="silenceURL")
    image_url: str | None = msgspec.field(default=None, name="imageURL")
    values: dict[str, Any] | None = None
    value_string: str | None = None


def read(body: bytes, headers: Mapping[str, str], settings: GrafanaSettings, now: float) -> Report:
    """Return what a request says; links and values become annotations where the rule has none of that name.

    Raises:
        UnreadableError: it is not such a webhook.
    """
    return read_alerts(body, _GrafanaAlert, _annotations, settings, now)


def _annotations(alert: _GrafanaAlert) -> dict[str, str]:
    found = {
        "dashboard_url": alert.dashboard_url,
        "panel_url": alert.panel_url,
        "silence_url": alert.silence_url,
        "image_url": alert.image_url,
        "values": _values(alert),
    }
    return {name: text for name, text in found.items() if text} | (alert.annotations or {})


def _values(alert: _GrafanaAlert) -> str:
    if not alert.values:
        return alert.value_string or ""
    pairs = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in alert.values.items()
    ]
    return ", ".join(pairs[:_SHOWN]) + (", ..." if len(pairs) > _SHOWN else "")
