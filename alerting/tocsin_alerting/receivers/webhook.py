"""Webhook: Alertmanager's JSON, version 4, or a `payload` of one's own; with an `Idempotency-Key` header."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Self

import pydantic

from tocsin_alerting.model import ZERO_TIME, Alert, Notification, common, go_quote_meta
from tocsin_alerting.receivers import trees
from tocsin_alerting.receivers.fields import GoDuration, SecretPath, SecretUrlText, Tree, exactly_one, is_url
from tocsin_alerting.receivers.sending import ReceiverSettings, Sending, reveal
from tocsin_service.http import Failure, RequestError


class WebhookSettings(ReceiverSettings):
    """`webhook_configs`: exactly one of `url` and `url_file`; `max_alerts: 0` sends all alerts of a group."""

    url: SecretUrlText | None = None
    url_file: SecretPath | None = None
    max_alerts: Annotated[int, pydantic.Field(ge=0)] = 0
    timeout: GoDuration = 0.0
    payload: Tree = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "url", "url_file")
        return self


async def send(notification: Notification, settings: WebhookSettings, sending: Sending) -> None:
    """POST the message.

    Raises:
        RequestError: it was not taken. A 429 that names no time to wait is final, as it is for Alertmanager.
    """
    shown = _shown(notification, settings)
    url = sending.text(reveal(settings.url, settings.url_file), shown).strip()
    if not is_url(url):
        message = "the template of the webhook's url made no URL of these alerts"
        raise RequestError(message, reason=Failure.CLIENT_ERROR, permanent=True)
    body = payload(notification, settings)
    if settings.payload is not None:
        body = trees.render(settings.payload, lambda source: sending.text(source, shown))
    headers = {"Idempotency-Key": notification.key}
    await sending.post_json(url, body, settings, headers=headers, timeout=settings.timeout)


def payload(notification: Notification, settings: WebhookSettings) -> dict[str, Any]:
    """Return the default body. Source: Alertmanager's webhook data, version 4."""
    shown = _shown(notification, settings).alerts
    return {
        "receiver": go_quote_meta(notification.receiver),
        "status": notification.status,
        "alerts": [_alert(alert, notification.now) for alert in shown],
        "notification_reason": notification.reason,
        "groupLabels": notification.group_labels,
        "commonLabels": common(alert.labels for alert in shown),
        "commonAnnotations": common(alert.annotations for alert in shown),
        "routeLabels": notification.route_labels,
        "externalURL": notification.external_url,
        "version": "4",
        "groupKey": notification.group_key,
        "truncatedAlerts": len(notification.alerts) - len(shown),
    }


def _shown(notification: Notification, settings: WebhookSettings) -> Notification:
    """Return the message as templates see it: with the alerts that `max_alerts` leaves."""
    if not settings.max_alerts or len(notification.alerts) <= settings.max_alerts:
        return notification
    return replace(notification, alerts=notification.alerts[: settings.max_alerts])


def _alert(alert: Alert, now: float) -> dict[str, Any]:
    return {
        "status": alert.status(now),
        "labels": alert.labels,
        "annotations": alert.annotations,
        "startsAt": go_time(alert.starts_at),
        # The end of a firing alert is when it will be forgotten; nobody should read it as an end.
        "endsAt": go_time(alert.ends_at) if alert.resolved(now) else ZERO_TIME,
        "generatorURL": alert.generator_url,
        "fingerprint": alert.fingerprint,
    }


def go_time(seconds: float) -> str:
    """Return a time as Go writes it into JSON: with the digits of its fraction that are not zeros at the end."""
    moment = datetime.fromtimestamp(seconds, UTC)
    fraction = f".{moment.microsecond:06d}".rstrip("0").rstrip(".")
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"
