"""Webhook: Alertmanager's JSON, version 4, with an `Idempotency-Key` header."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import pydantic

from tocsin_alerting.model import ZERO_TIME, Alert, Notification, common, go_quote_meta
from tocsin_alerting.receivers.sending import GoDuration, ReceiverSettings, SecretUrl, Sending, exactly_one, reveal
from tocsin_service.clock import rfc3339
from tocsin_service.http import Failure, RequestError
from tocsin_service.settings import ConfigPath


class WebhookSettings(ReceiverSettings):
    """`webhook_configs`: exactly one of `url` and `url_file`; `max_alerts: 0` sends all alerts of a group."""

    later: ClassVar[frozenset[str]] = frozenset({"http_config", "payload"})

    url: SecretUrl | None = None
    url_file: ConfigPath | None = None
    max_alerts: Annotated[int, pydantic.Field(ge=0)] = 0
    timeout: GoDuration = 0.0

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "url", "url_file")
        return self


async def send(notification: Notification, settings: WebhookSettings, sending: Sending) -> None:
    """POST the payload.

    Raises:
        RequestError: it was not taken. A 429 that names no time to wait is final, as it is for Alertmanager.
    """
    url = reveal(settings.url, settings.url_file)
    headers = {"Idempotency-Key": notification.key}
    try:
        await sending.post_json(url, payload(notification, settings), headers=headers, timeout=settings.timeout)
    except RequestError as error:
        if error.reason is Failure.RATE_LIMITED and error.retry_after is None:
            raise RequestError(str(error), reason=error.reason, permanent=True) from error
        raise


def payload(notification: Notification, settings: WebhookSettings) -> dict[str, Any]:
    """Return the body. Source: Alertmanager's webhook data, version 4."""
    shown = notification.alerts[: settings.max_alerts or None]
    return {
        "receiver": go_quote_meta(notification.receiver),
        "status": notification.status,
        "alerts": [_alert(alert, notification.now) for alert in shown],
        "notification_reason": notification.reason,
        "groupLabels": notification.group_labels,
        "commonLabels": common(alert.labels for alert in shown),
        "commonAnnotations": common(alert.annotations for alert in shown),
        "externalURL": notification.external_url,
        "version": "4",
        "groupKey": notification.group_key,
        "truncatedAlerts": len(notification.alerts) - len(shown),
    }


def _alert(alert: Alert, now: float) -> dict[str, Any]:
    return {
        "status": alert.status(now),
        "labels": alert.labels,
        "annotations": alert.annotations,
        "startsAt": rfc3339(alert.starts_at),
        # The end of a firing alert is when it will be forgotten; nobody should read it as an end.
        "endsAt": rfc3339(alert.ends_at) if alert.resolved(now) else ZERO_TIME,
        "generatorURL": alert.generator_url,
        "fingerprint": alert.fingerprint,
    }
