"""The kinds of receivers, found by name. A new one is a module, a line here, a test and a section in the docs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tocsin_alerting.receivers import (
    console,
    discord,
    email,
    incidentio,
    jira,
    mattermost,
    msteams,
    msteamsv2,
    opsgenie,
    pagerduty,
    pushover,
    rocketchat,
    slack,
    sns,
    telegram,
    victorops,
    webex,
    webhook,
    wechat,
)
from tocsin_alerting.receivers.sending import ReceiverSettings


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: the settings of `<kind>_configs`, and how a notification is sent.

    `send(notification, settings, sending)` returns what `Notification.handle` of the next message about the group
    shall hold (None: as before), and raises `tocsin_service.http.RequestError` when the message was not taken.
    """

    settings: type[ReceiverSettings]
    send: Callable[..., Awaitable[dict[str, str] | None]]


KINDS: Final[Mapping[str, Kind]] = {
    "webhook": Kind(webhook.WebhookSettings, webhook.send),
    "slack": Kind(slack.SlackSettings, slack.send),
    "pagerduty": Kind(pagerduty.PagerDutySettings, pagerduty.send),
    "email": Kind(email.EmailSettings, email.send),
    "opsgenie": Kind(opsgenie.OpsgenieSettings, opsgenie.send),
    "victorops": Kind(victorops.VictorOpsSettings, victorops.send),
    "pushover": Kind(pushover.PushoverSettings, pushover.send),
    "telegram": Kind(telegram.TelegramSettings, telegram.send),
    "discord": Kind(discord.DiscordSettings, discord.send),
    "msteams": Kind(msteams.MsTeamsSettings, msteams.send),
    "msteamsv2": Kind(msteamsv2.MsTeamsV2Settings, msteamsv2.send),
    "webex": Kind(webex.WebexSettings, webex.send),
    "wechat": Kind(wechat.WeChatSettings, wechat.send),
    "sns": Kind(sns.SnsSettings, sns.send),
    "jira": Kind(jira.JiraSettings, jira.send),
    "rocketchat": Kind(rocketchat.RocketChatSettings, rocketchat.send),
    "mattermost": Kind(mattermost.MattermostSettings, mattermost.send),
    "incidentio": Kind(incidentio.IncidentIoSettings, incidentio.send),
    "console": Kind(console.ConsoleSettings, console.send),
}
