"""PagerDuty, Events API v2: one incident per group, opened by `trigger` and closed by `resolve` with one dedup_key."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Self

import orjson
import pydantic

from tocsin_alerting import messages
from tocsin_alerting.model import Alert, Notification
from tocsin_alerting.receivers.sending import GoDuration, ReceiverSettings, Sending, Url, exactly_one, reveal
from tocsin_service.clock import rfc3339
from tocsin_service.settings import ConfigPath

DEFAULT_URL: Final = "https://events.pagerduty.com/v2/enqueue"
SUMMARY_LIMIT: Final = 1024
EVENT_LIMIT: Final = 512_000
"""Bytes PagerDuty takes; the details are left out of a larger event."""


class PagerDutySettings(ReceiverSettings):
    """`pagerduty_configs`; texts are taken as they stand."""

    later: ClassVar[frozenset[str]] = frozenset({"http_config", "service_key", "service_key_file", "images", "links"})

    routing_key: pydantic.SecretStr | None = None
    routing_key_file: ConfigPath | None = None
    url: Url | None = None
    client: str = "tocsin"
    client_url: str = ""
    description: str = ""
    severity: str = "error"
    source: str = ""
    class_: str = pydantic.Field("", alias="class")
    component: str = ""
    group: str = ""
    details: dict[str, str] = pydantic.Field(default_factory=dict)
    timeout: GoDuration = 0.0

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "routing_key", "routing_key_file")
        return self


async def send(notification: Notification, settings: PagerDutySettings, sending: Sending) -> None:
    """POST the event.

    Raises:
        RequestError: it was not taken.
    """
    key = reveal(settings.routing_key, settings.routing_key_file)
    body = payload(notification, settings, routing_key=key)
    url = settings.url or DEFAULT_URL
    await sending.post_json(url, body, headers={}, timeout=settings.timeout, secret=key)


def payload(notification: Notification, settings: PagerDutySettings, *, routing_key: str) -> dict[str, Any]:
    """Return the event. The same state sent twice changes nothing: PagerDuty folds it by `dedup_key`."""
    details = {
        "firing": [_alert(alert) for alert in notification.firing],
        "resolved": [_alert(alert) for alert in notification.resolved],
        "num_firing": str(len(notification.firing)),
        "num_resolved": str(len(notification.resolved)),
        **settings.details,
    }
    event = _event(notification, settings, routing_key, details)
    if len(orjson.dumps(event)) <= EVENT_LIMIT:
        return event
    note = f"The alerts were left out: the event was larger than {EVENT_LIMIT} bytes. See {notification.external_url}"
    return _event(notification, settings, routing_key, {"error": note})


def _event(
    notification: Notification, settings: PagerDutySettings, routing_key: str, details: dict[str, Any]
) -> dict[str, Any]:
    content = {
        "summary": messages.cut(settings.description or messages.subject(notification), SUMMARY_LIMIT),
        "source": settings.source or messages.source(notification) or "tocsin",
        "severity": settings.severity,
        "class": settings.class_,
        "component": settings.component,
        "group": settings.group,
        "custom_details": details,
    }
    runbook = messages.runbook(notification)
    event = {
        "routing_key": routing_key,
        "dedup_key": notification.group_hash,
        "event_action": "trigger" if notification.firing else "resolve",
        "payload": {name: value for name, value in content.items() if value},
        "client": settings.client,
        "client_url": settings.client_url or messages.link(notification),
    }
    return event | ({"links": [{"href": runbook, "text": "Runbook"}]} if runbook else {})


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "labels": alert.labels,
        "annotations": alert.annotations,
        "since": rfc3339(alert.starts_at),
        "source": alert.generator_url,
    }
