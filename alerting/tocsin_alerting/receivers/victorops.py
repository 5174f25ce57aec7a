"""VictorOps (Splunk On-Call): an entity per group, known by the hash of the group's key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

import pydantic

from tocsin_alerting.model import Notification
from tocsin_alerting.receivers.addresses import below
from tocsin_alerting.receivers.cutting import characters
from tocsin_alerting.receivers.fields import SecretPath, Text, Url, at_most_one
from tocsin_alerting.receivers.inheriting import secret_from
from tocsin_alerting.receivers.sending import ReceiverSettings, Sending, reveal
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_service.settings import flaw

STATE_LIMIT: Final = 20480
"""Characters of `state_message`."""
_MESSAGE_TYPES: Final = frozenset({"CRITICAL", "WARNING", "INFO"})
_RESERVED: Final = frozenset(
    {
        *("routing_key", "message_type", "state_message", "entity_display_name", "monitoring_tool", "entity_id"),
        "entity_state",
    }
)


class VictorOpsSettings(ReceiverSettings):
    """`victorops_configs`."""

    api_key: pydantic.SecretStr | None = None
    api_key_file: SecretPath | None = None
    api_url: Url = ""
    routing_key: Text = ""
    message_type: Text = "CRITICAL"
    state_message: Text = '{{ template "victorops.default.state_message" . }}'
    entity_display_name: Text = '{{ template "victorops.default.entity_display_name" . }}'
    monitoring_tool: Text = '{{ template "victorops.default.monitoring_tool" . }}'
    custom_fields: dict[str, Text] = pydantic.Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        at_most_one(self, "api_key", "api_key_file")
        if not self.routing_key:
            raise flaw("routing_key is missing", expected="the key of a team in VictorOps", fix="add it")
        if taken := sorted(_RESERVED & self.custom_fields.keys()):
            raise flaw(
                f"custom_fields cannot set {', '.join(taken)}", expected="names that the message has no other use for"
            )
        return self

    def inherit(self, shared: GlobalSettings) -> Self:
        """Return the settings with key and address from `global` where there are none."""
        taken = secret_from(self, shared, "api_key", "victorops_api_key")
        return super().inherit(shared).model_copy(update={**taken, "api_url": self.api_url or shared.victorops_api_url})


async def send(notification: Notification, settings: VictorOpsSettings, sending: Sending) -> None:
    """POST the state of the entity.

    Raises:
        RequestError: it was not taken.
    """

    def text(source: str) -> str:
        return sending.text(source, notification)

    key = reveal(settings.api_key, settings.api_key_file)
    url = below(settings.api_url, f"{key}/{text(settings.routing_key)}")
    await sending.post_json(url, payload(notification, settings, text), settings, secrets=(key,))


def payload(notification: Notification, settings: VictorOpsSettings, text: Callable[[str], str]) -> dict[str, str]:
    """Return the body; `text` renders a template."""
    asked = text(settings.message_type)
    # Anything else would be refused, and nobody would hear of the alert.
    message_type = asked if asked in _MESSAGE_TYPES else "CRITICAL"
    return {
        "message_type": "RECOVERY" if notification.status == "resolved" else message_type,
        "entity_id": notification.group_hash,
        "entity_display_name": text(settings.entity_display_name),
        "state_message": characters(text(settings.state_message), STATE_LIMIT),
        "monitoring_tool": text(settings.monitoring_tool),
        **{name: text(value) for name, value in settings.custom_fields.items()},
    }
