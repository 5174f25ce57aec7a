"""Opsgenie: an alert per group, known by the hash of the group's key; closed when all has ended."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Self

import pydantic

from tocsin_alerting.model import Notification, common
from tocsin_alerting.receivers.addresses import below
from tocsin_alerting.receivers.cutting import characters
from tocsin_alerting.receivers.fields import SecretPath, Text, Url, at_most_one
from tocsin_alerting.receivers.inheriting import secret_from
from tocsin_alerting.receivers.sending import ReceiverSettings, Sending, reveal
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_service.settings import Settings, flaw

MESSAGE_LIMIT: Final = 130
"""Characters."""
_TYPES: Final = re.compile(r"team|teams|user|escalation|schedule", re.IGNORECASE)
_RETRY: Final = frozenset({429})


class Responder(Settings):
    """One of `responders`; the type `teams` names several teams, with commas between."""

    id: Text = ""
    name: Text = ""
    username: Text = ""
    type: Text = ""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.id or self.name or self.username):
            raise flaw("a responder without a name", expected="id, name or username", fix="add one")
        if "{{" not in self.type and not _TYPES.fullmatch(self.type):
            raise flaw(
                f'"{self.type}" is not a type of responder', expected="team, teams, user, escalation or schedule"
            )
        return self


class OpsgenieSettings(ReceiverSettings):
    """`opsgenie_configs`."""

    api_key: pydantic.SecretStr | None = None
    api_key_file: SecretPath | None = None
    api_url: Url = ""
    message: Text = '{{ template "opsgenie.default.message" . }}'
    description: Text = '{{ template "opsgenie.default.description" . }}'
    source: Text = '{{ template "opsgenie.default.source" . }}'
    details: dict[str, Text] = pydantic.Field(default_factory=dict)
    responders: tuple[Responder, ...] = ()
    tags: Text = ""
    note: Text = ""
    priority: Text = ""
    update_alerts: bool = False
    entity: Text = ""
    actions: Text = ""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        at_most_one(self, "api_key", "api_key_file")
        return self

    def inherit(self, shared: GlobalSettings) -> Self:
        """Return the settings with key and address from `global` where there are none."""
        taken = secret_from(self, shared, "api_key", "opsgenie_api_key")
        return super().inherit(shared).model_copy(update={**taken, "api_url": self.api_url or shared.opsgenie_api_url})


async def send(notification: Notification, settings: OpsgenieSettings, sending: Sending) -> None:
    """Open the alert, and where asked for say anew what it is about; or close it.

    Raises:
        RequestError: one of the requests was not taken; all may be repeated, Opsgenie knows the alert by its alias.
    """

    def text(source: str) -> str:
        return sending.text(source, notification)

    key = text(reveal(settings.api_key, settings.api_key_file))
    headers = {"Authorization": f"GenieKey {key}"}
    alert = f"v2/alerts/{notification.group_hash}"
    body = payload(notification, settings, text)
    if notification.status == "resolved":
        calls = [("POST", below(settings.api_url, f"{alert}/close", identifierType="alias"), body)]
    else:
        calls = [("POST", below(settings.api_url, "v2/alerts"), body)]
        for name in ("message", "description") if settings.update_alerts else ():
            url = below(settings.api_url, f"{alert}/{name}", identifierType="alias")
            calls.append(("PUT", url, {name: body.get(name, "")}))
    for method, url, content in calls:
        await sending.post_json(url, content, settings, method=method, headers=headers, secrets=(key,), retry=_RETRY)


def payload(notification: Notification, settings: OpsgenieSettings, text: Callable[[str], str]) -> dict[str, Any]:
    """Return what opens or closes the alert; `text` renders a template."""
    source = text(settings.source)
    if notification.status == "resolved":
        return {"source": source}
    details = common(alert.labels for alert in notification.alerts)
    details |= {name: text(value) for name, value in settings.details.items()}
    said = {
        "description": text(settings.description),
        "details": details,
        "responders": [each for responder in settings.responders for each in _responders(responder, text)],
        "tags": _list(text(settings.tags)),
        "note": text(settings.note),
        "priority": text(settings.priority),
        "entity": text(settings.entity),
        "actions": _list(text(settings.actions)),
    }
    return {
        "alias": notification.group_hash,
        "message": characters(text(settings.message), MESSAGE_LIMIT),
        "source": source,
        **{name: value for name, value in said.items() if value},
    }


def _responders(responder: Responder, text: Callable[[str], str]) -> list[dict[str, str]]:
    fields = {name: text(getattr(responder, name)) for name in ("id", "name", "username", "type")}
    if fields["type"] == "teams":
        return [{"name": name, "type": "team"} for name in _list(fields["name"])]
    return [{name: value for name, value in fields.items() if value}]


def _list(text: str) -> list[str]:
    return [part for part in text.strip().split(",") if part]
