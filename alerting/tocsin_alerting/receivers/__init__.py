"""The kinds of receivers, found by name. A new one is a module, a line here, a test and a section in the docs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tocsin_alerting.receivers import console, pagerduty, slack, webhook
from tocsin_alerting.receivers.sending import ReceiverSettings


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: the settings of `<kind>_configs`, and how a notification is sent.

    `send(notification, settings, sending)` raises `tocsin_service.http.RequestError` when it was not taken.
    """

    settings: type[ReceiverSettings]
    send: Callable[..., Awaitable[None]]


KINDS: Final[Mapping[str, Kind]] = {
    "webhook": Kind(webhook.WebhookSettings, webhook.send),
    "slack": Kind(slack.SlackSettings, slack.send),
    "pagerduty": Kind(pagerduty.PagerDutySettings, pagerduty.send),
    "console": Kind(console.ConsoleSettings, console.send),
}

LATER: Final = frozenset(
    {
        *("email", "opsgenie", "victorops", "pushover", "telegram", "discord", "msteams", "msteamsv2", "webex"),
        *("wechat", "sns", "jira", "rocketchat", "mattermost", "incidentio"),
    }
)
"""Kinds that Alertmanager has and this version does not yet."""
