"""The `global` section of `alertmanager.yml`: what receivers take where they say nothing themselves."""

from __future__ import annotations

from typing import Self

import pydantic

from tocsin_alerting.receivers.fields import Host, SecretPath, SecretUrl, Url, at_most_one
from tocsin_alerting.receivers.http_config import HttpConfig, TlsConfig
from tocsin_service.settings import Duration, Settings


class GlobalSettings(Settings):
    """`global`. Defaults stand here, except addresses that a kind of receiver knows by itself."""

    resolve_timeout: Duration = 300.0
    http_config: HttpConfig | None = None
    smtp_from: str = ""
    smtp_smarthost: Host | None = None
    smtp_hello: str = "localhost"
    smtp_auth_username: str = ""
    smtp_auth_password: pydantic.SecretStr | None = None
    smtp_auth_password_file: SecretPath | None = None
    smtp_auth_secret: pydantic.SecretStr | None = None
    smtp_auth_secret_file: SecretPath | None = None
    smtp_auth_identity: str = ""
    smtp_require_tls: bool = True
    smtp_tls_config: TlsConfig | None = None
    smtp_force_implicit_tls: bool | None = None
    slack_api_url: SecretUrl | None = None
    slack_api_url_file: SecretPath | None = None
    slack_app_token: pydantic.SecretStr | None = None
    slack_app_token_file: SecretPath | None = None
    slack_app_url: Url = "https://slack.com/api/chat.postMessage"
    pagerduty_url: Url = "https://events.pagerduty.com/v2/enqueue"
    opsgenie_api_url: Url = "https://api.opsgenie.com/"
    opsgenie_api_key: pydantic.SecretStr | None = None
    opsgenie_api_key_file: SecretPath | None = None
    victorops_api_url: Url = "https://alert.victorops.com/integrations/generic/20131114/alert/"
    victorops_api_key: pydantic.SecretStr | None = None
    victorops_api_key_file: SecretPath | None = None
    wechat_api_url: Url = "https://qyapi.weixin.qq.com/cgi-bin/"
    wechat_api_secret: pydantic.SecretStr | None = None
    wechat_api_secret_file: SecretPath | None = None
    wechat_api_corp_id: str = ""
    telegram_api_url: Url = "https://api.telegram.org"
    telegram_bot_token: pydantic.SecretStr | None = None
    telegram_bot_token_file: SecretPath | None = None
    webex_api_url: Url = "https://webexapis.com/v1/messages"
    rocketchat_api_url: Url = "https://open.rocket.chat/"
    rocketchat_token: pydantic.SecretStr | None = None
    rocketchat_token_file: SecretPath | None = None
    rocketchat_token_id: pydantic.SecretStr | None = None
    rocketchat_token_id_file: SecretPath | None = None
    jira_api_url: Url | None = None
    mattermost_webhook_url: SecretUrl | None = None
    mattermost_webhook_url_file: SecretPath | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name in type(self).model_fields:
            if name.endswith("_file"):
                at_most_one(self, name.removesuffix("_file"), name)
        at_most_one(self, "slack_api_url", "slack_api_url_file", "slack_app_token", "slack_app_token_file")
        return self
