"""The keys of `alertmanager.yml`, one class per section: types, defaults, and what is not supported yet (`later`)."""

from __future__ import annotations

from typing import ClassVar

import pydantic

from tocsin_alerting import receivers
from tocsin_alerting.receivers import sending
from tocsin_alerting.receivers.console import ConsoleSettings
from tocsin_alerting.receivers.pagerduty import PagerDutySettings
from tocsin_alerting.receivers.slack import SlackSettings
from tocsin_alerting.receivers.webhook import WebhookSettings
from tocsin_alerting.unsupported import Known
from tocsin_service.settings import ConfigPath, Duration


class GlobalSection(Known):
    """`global`."""

    later: ClassVar[frozenset[str]] = frozenset(
        {
            *("http_config", "smtp_from", "smtp_smarthost", "smtp_hello", "smtp_auth_username", "smtp_auth_password"),
            *("smtp_auth_password_file", "smtp_auth_secret", "smtp_auth_secret_file", "smtp_auth_identity"),
            *("smtp_require_tls", "smtp_tls_config", "smtp_force_implicit_tls"),
            *("opsgenie_api_url", "opsgenie_api_key", "opsgenie_api_key_file"),
            *("victorops_api_url", "victorops_api_key", "victorops_api_key_file"),
            *("wechat_api_url", "wechat_api_secret", "wechat_api_secret_file", "wechat_api_corp_id"),
            *("telegram_api_url", "telegram_bot_token", "telegram_bot_token_file", "webex_api_url"),
            *("rocketchat_api_url", "rocketchat_token", "rocketchat_token_file", "rocketchat_token_id"),
            *("rocketchat_token_id_file", "jira_api_url", "mattermost_webhook_url", "mattermost_webhook_url_file"),
        }
    )

    resolve_timeout: Duration = 300.0
    slack_api_url: sending.SecretUrl | None = None
    slack_api_url_file: ConfigPath | None = None
    slack_app_token: pydantic.SecretStr | None = None
    slack_app_token_file: ConfigPath | None = None
    slack_app_url: sending.Url | None = None
    pagerduty_url: sending.Url | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> GlobalSection:
        sending.at_most_one(self, "slack_api_url", "slack_api_url_file")
        sending.at_most_one(self, "slack_app_token", "slack_app_token_file")
        return self


class RouteSection(Known):
    """A node of `route`; what is None is inherited."""

    later: ClassVar[frozenset[str]] = frozenset({"mute_time_intervals", "active_time_intervals", "labels"})

    receiver: str | None = None
    group_by: list[str] | None = None
    group_wait: Duration | None = None
    group_interval: Duration | None = None
    repeat_interval: Duration | None = None
    matchers: list[str] = pydantic.Field(default_factory=list)
    match: dict[str, str] = pydantic.Field(default_factory=dict)
    match_re: dict[str, str] = pydantic.Field(default_factory=dict)
    continue_: bool = pydantic.Field(False, alias="continue")
    routes: list[object] = pydantic.Field(default_factory=list)
    """Each is read by itself, so that one mistake hides no other."""


class ReceiverSection(Known):
    """An entry of `receivers`; a field per kind."""

    later: ClassVar[frozenset[str]] = frozenset({"labels", *(f"{kind}_configs" for kind in receivers.LATER)})

    name: str
    webhook_configs: list[WebhookSettings] = pydantic.Field(default_factory=list)
    slack_configs: list[SlackSettings] = pydantic.Field(default_factory=list)
    pagerduty_configs: list[PagerDutySettings] = pydantic.Field(default_factory=list)
    console_configs: list[ConsoleSettings] = pydantic.Field(default_factory=list)


class FileSection(Known):
    """The top level."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"inhibit_rules", "templates", "time_intervals", "mute_time_intervals", "tracing", "event_recorder"}
    )

    global_: object = pydantic.Field(None, alias="global")
    route: object
    receivers: list[object] = pydantic.Field(default_factory=list)
