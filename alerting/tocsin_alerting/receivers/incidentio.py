"""incident.io: the alerts in the form of Alertmanager's webhook, with a bearer token."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

import orjson
import pydantic

from tocsin_alerting.model import Notification
from tocsin_alerting.receivers import webhook
from tocsin_alerting.receivers.fields import GoDuration, SecretPath, Url, at_most_one, exactly_one
from tocsin_alerting.receivers.sending import Missing, ReceiverSettings, Sending, reveal
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_service.settings import flaw

BODY_LIMIT: Final = 512 * 1024
"""Bytes that incident.io takes."""
_RETRY: Final = frozenset({429})


class IncidentIoSettings(ReceiverSettings):
    """`incidentio_configs`; `max_alerts: 0` sends all alerts of a group."""

    url: Url | None = None
    url_file: SecretPath | None = None
    alert_source_token: pydantic.SecretStr | None = None
    alert_source_token_file: SecretPath | None = None
    max_alerts: Annotated[int, pydantic.Field(ge=0)] = 0
    timeout: GoDuration = 0.0

    @property
    def _has_token(self) -> bool:
        return self.alert_source_token is not None or self.alert_source_token_file is not None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "url", "url_file")
        at_most_one(self, "alert_source_token", "alert_source_token_file")
        if self._has_token and self.http_config is not None and self.http_config.credentials is not None:
            what = "alert_source_token and http_config.authorization stand side by side"
            raise flaw(what, expected="one of them", fix="remove the authorization")
        return self

    def inherit(self, shared: GlobalSettings) -> Self:
        """Return the settings, once it is certain that there is a token.

        Raises:
            Missing: there is none, in an `http_config` either.
        """
        settings = super().inherit(shared)
        authorized = settings.http_config is not None and settings.http_config.credentials is not None
        # The token may also be a parameter of the address.
        if not self._has_token and not authorized and "?" not in (self.url or "?"):
            expected = "alert_source_token, alert_source_token_file or http_config.authorization"
            raise Missing("incident.io has no token", expected=expected, fix="add one of them")
        return settings


async def send(notification: Notification, settings: IncidentIoSettings, sending: Sending) -> None:
    """POST the alerts.

    Raises:
        RequestError: they were not taken.
    """
    url = settings.url or reveal(None, settings.url_file)
    token = reveal(settings.alert_source_token, settings.alert_source_token_file) if settings._has_token else ""
    await sending.post_json(
        url,
        payload(notification, settings),
        settings,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=settings.timeout,
        secrets=(token,) if token else (),
        retry=_RETRY,
    )


def payload(notification: Notification, settings: IncidentIoSettings) -> dict[str, Any]:
    """Return the body: the first alert alone where all of them are too much."""
    body = _body(notification, settings.max_alerts)
    if len(notification.alerts) > 1 and len(orjson.dumps(body)) >= BODY_LIMIT:
        body = _body(notification, 1)
    return body


def _body(notification: Notification, shown: int) -> dict[str, Any]:
    plain = webhook.WebhookSettings.model_construct(max_alerts=shown)
    return {**webhook.payload(notification, plain), "version": "1"}
