"""Which settings of a receiver are taken, refused, or completed from `global`: as Alertmanager 0.33.1 has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml

from tocsin_alerting.receivers import KINDS
from tocsin_alerting.receivers.sending import Missing, ReceiverSettings
from tocsin_alerting.receivers.shared import GlobalSettings

URL = "http://receiver.example/hook"


def loaded(kind: str, text: str, shared: str = "{}") -> ReceiverSettings:
    """Return the settings of a receiver, completed from `global`; both are YAML."""
    settings = KINDS[kind].settings.model_validate(yaml.safe_load(text))
    return settings.inherit(GlobalSettings.model_validate(yaml.safe_load(shared)))


def refusal(kind: str, text: str, shared: str = "{}") -> str:
    """Return why the settings are refused."""
    with pytest.raises((pydantic.ValidationError, Missing)) as caught:
        loaded(kind, text, shared)
    if isinstance(caught.value, Missing):
        return f"{caught.value.what}; expected {caught.value.expected}; fix: {caught.value.fix}"
    return " / ".join(f"{each['loc']}: {each['msg']}; {each.get('ctx', {})}" for each in caught.value.errors())


# Keys that `amtool check-config` of 0.33.1 does not call unknown.
KEYS = {
    "opsgenie": """actions api_key api_key_file api_url description details entity http_config message note priority
        responders send_resolved source tags update_alerts""",
    "victorops": """api_key api_key_file api_url custom_fields entity_display_name http_config message_type
        monitoring_tool routing_key send_resolved state_message""",
    "pushover": """device expire html http_config message monospace priority retry send_resolved sound title token
        token_file ttl url url_title user_key user_key_file""",
    "telegram": """api_url bot_token bot_token_file chat_id chat_id_file disable_notifications http_config message
        message_thread_id parse_mode send_resolved""",
    "discord": """avatar_url content http_config message send_resolved title username webhook_url
        webhook_url_file""",
    "msteams": "http_config send_resolved summary text title webhook_url webhook_url_file",
    "msteamsv2": "http_config send_resolved text title webhook_url webhook_url_file",
    "webex": "api_url http_config message room_id send_resolved",
    "wechat": """agent_id api_secret api_secret_file api_url corp_id http_config message message_type send_resolved
        to_party to_tag to_user""",
    "sns": """api_url attributes http_config message phone_number send_resolved sigv4 subject target_arn topic_arn
        use_aws_http_client""",
    "jira": """api_type api_url description fields http_config issue_type labels priority project reopen_duration
        reopen_transition resolve_transition send_resolved summary wont_fix_resolution""",
    "rocketchat": """actions api_url channel color emoji fields http_config icon_url image_url link_names
        send_resolved short_fields text thumb_url title title_link token token_file token_id token_id_file""",
    "mattermost": """attachments author_icon author_link author_name channel color fallback fields footer footer_icon
        http_config icon_emoji icon_url image_url pretext priority props send_resolved text thumb_url title title_link
        type username webhook_url webhook_url_file""",
    "incidentio": """alert_source_token alert_source_token_file http_config max_alerts send_resolved timeout url
        url_file""",
}


@pytest.mark.parametrize("kind", KEYS)
def test_each_kind_has_the_keys_of_alertmanager_and_no_others(kind: str) -> None:
    """A key more would be refused by Alertmanager, a key less would refuse its configurations."""
    assert set(KINDS[kind].settings.model_fields) == set(KEYS[kind].split())


@pytest.mark.parametrize("kind", KEYS)
def test_unknown_keys_are_refused(kind: str) -> None:
    """A slip of the pen does not pass for the default."""
    assert "mesage" in refusal(kind, "{mesage: x}")


TAKEN = [
    ("opsgenie", "{api_key: a}", "{}"),
    ("opsgenie", "{}", "{opsgenie_api_key: a}"),
    ("opsgenie", "{}", "{opsgenie_api_key_file: a}"),
    ("opsgenie", "{api_key_file: a}", "{opsgenie_api_key: b}"),
    ("opsgenie", "{api_key: a, responders: [{name: x, id: y, type: team}, {username: z, type: Team}]}", "{}"),
    ("opsgenie", "{api_key: a, responders: [{name: x, type: '{{ .CommonLabels.kind }}'}]}", "{}"),
    ("opsgenie", "{api_key: a, priority: P9, api_url: 'https://x/?a=b'}", "{}"),
    ("victorops", "{routing_key: a}", "{victorops_api_key: b}"),
    ("victorops", "{routing_key: a, api_key: b, custom_fields: {timestamp: x, Message_Type: y}}", "{}"),
    ("victorops", "{routing_key: a, api_key: b, message_type: foo}", "{}"),
    ("pushover", "{user_key: a, token: b, retry: 1.5s, ttl: 0s, html: true}", "{}"),
    ("pushover", "{user_key_file: a, token_file: b, monospace: true}", "{}"),
    ("telegram", "{bot_token: a, chat_id: -1}", "{}"),
    ("telegram", "{bot_token: a, chat_id_file: b}", "{}"),
    ("telegram", "{chat_id: 1}", "{telegram_bot_token: a}"),
    ("telegram", "{chat_id: 1, bot_token_file: b}", "{telegram_bot_token: a}"),
    ("telegram", "{bot_token: a, chat_id: 1, parse_mode: Markdown}", "{}"),
    ("telegram", "{bot_token: a, chat_id: 1, parse_mode: ''}", "{}"),
    ("discord", "{webhook_url_file: a}", "{}"),
    ("msteams", f"{{webhook_url: '{URL}'}}", "{}"),
    ("msteamsv2", f"{{webhook_url: '{URL}'}}", "{}"),
    ("webex", "{room_id: a, http_config: {authorization: {credentials: b}}}", "{}"),
    ("wechat", "{}", "{wechat_api_secret: a, wechat_api_corp_id: b}"),
    ("wechat", "{api_secret: a, corp_id: b, message_type: ''}", "{}"),
    ("sns", "{topic_arn: a, use_aws_http_client: true}", "{}"),
    ("sns", "{target_arn: a, sigv4: {region: eu, service_name: x, use_fips_sts_endpoint: true}}", "{}"),
    ("sns", "{phone_number: '+1', sigv4: {role_arn: a, external_id: b}, api_url: x}", "{}"),
    ("jira", "{project: a, issue_type: b}", f"{{jira_api_url: '{URL}'}}"),
    ("jira", f"{{project: a, issue_type: b, api_url: '{URL}', api_type: cloud, reopen_duration: 1d}}", "{}"),
    ("jira", f"{{project: a, issue_type: b, api_url: '{URL}', summary: {{}}, description: {{template: x}}}}", "{}"),
    ("jira", f"{{project: a, issue_type: b, api_url: '{URL}', fields: {{a: 1, b: {{c: [1.5, true, null]}}}}}}", "{}"),
    ("rocketchat", "{token: a, token_id: b, fields: [{title: x}], actions: [{}, {type: menu, msg: y}]}", "{}"),
    ("rocketchat", "{channel: x}", "{rocketchat_token: a, rocketchat_token_id_file: b}"),
    ("mattermost", "{}", f"{{mattermost_webhook_url: '{URL}'}}"),
    ("mattermost", f"{{webhook_url: '{URL}', attachments: [{{}}], priority: {{priority: x}}}}", "{}"),
    ("incidentio", f"{{url: '{URL}', alert_source_token: a, timeout: 1.5s}}", "{}"),
    ("incidentio", f"{{url: '{URL}', http_config: {{authorization: {{credentials: a}}}}}}", "{}"),
    ("incidentio", f"{{url: '{URL}'}}", "{http_config: {authorization: {credentials: a}}}"),
    ("incidentio", f"{{url: '{URL}?token=a'}}", "{}"),
]


@pytest.mark.parametrize(("kind", "text", "shared"), TAKEN)
def test_what_alertmanager_takes_is_taken(kind: str, text: str, shared: str) -> None:
    """Nobody has to change a file that works."""
    assert isinstance(loaded(kind, text, shared), KINDS[kind].settings)


REFUSED = [
    ("opsgenie", "{}", "opsgenie_api_key"),
    ("opsgenie", "{api_key: a, api_key_file: b}", "at most one"),
    ("opsgenie", "{api_key: a, responders: [{type: team}]}", "responder without a name"),
    ("opsgenie", "{api_key: a, responders: [{name: x}]}", "not a type of responder"),
    ("opsgenie", "{api_key: a, responders: [{name: x, type: foo}]}", '"foo" is not a type'),
    ("opsgenie", "{api_key: a, api_url: foo}", "not a URL"),
    ("opsgenie", "{api_key: a, message: '{{ .X'}", "broken template"),
    ("victorops", "{api_key: a}", "routing_key is missing"),
    ("victorops", "{api_key: a, routing_key: ''}", "routing_key is missing"),
    ("victorops", "{routing_key: a}", "victorops_api_key"),
    *(
        ("victorops", f"{{routing_key: a, api_key: b, custom_fields: {{{name}: x}}}}", f"cannot set {name}")
        for name in (
            *("routing_key", "message_type", "state_message", "entity_display_name", "monitoring_tool"),
            *("entity_id", "entity_state"),
        )
    ),
    ("pushover", "{token: a}", "user_key"),
    ("pushover", "{user_key: a}", "token"),
    ("pushover", "{user_key: a, user_key_file: b, token: a}", "at most one"),
    ("pushover", "{user_key: a, token: a, html: true, monospace: true}", "html and monospace"),
    ("pushover", "{user_key: a, token: a, retry: 1d}", "Go duration"),
    ("pushover", "{user_key: a, token: a, retry: 30}", "Go duration"),
    ("telegram", "{bot_token: a}", "chat_id is missing"),
    ("telegram", "{bot_token: a, chat_id: 0}", "chat_id is missing"),
    ("telegram", "{bot_token: a, chat_id: '5'}", "chat_id"),
    ("telegram", "{bot_token: a, chat_id: 1, chat_id_file: b}", "at most one"),
    ("telegram", "{chat_id: 1}", "telegram_bot_token"),
    ("telegram", "{bot_token: a, chat_id: 1, parse_mode: html}", "parse_mode"),
    ("telegram", "{bot_token: a, chat_id: 1, message: '{{ end }}'}", "broken template"),
    ("discord", "{}", "webhook_url or webhook_url_file is missing"),
    ("discord", f"{{webhook_url: '{URL}', webhook_url_file: b}}", "at most one"),
    ("discord", "{webhook_url: x}", "not a URL"),
    ("msteams", "{}", "webhook_url or webhook_url_file is missing"),
    ("msteamsv2", "{}", "webhook_url or webhook_url_file is missing"),
    ("webex", "{room_id: a}", "no token"),
    ("webex", "{room_id: a, http_config: {basic_auth: {username: b}}}", "no token"),
    ("webex", "{http_config: {authorization: {credentials: b}}}", "room_id is missing"),
    ("wechat", "{corp_id: a}", "wechat_api_secret"),
    ("wechat", "{api_secret: a}", "wechat_api_corp_id"),
    ("wechat", "{api_secret: a, corp_id: b, message_type: Markdown}", "message_type"),
    ("sns", "{}", "nobody to send it to"),
    ("sns", "{topic_arn: a, phone_number: b}", "topic_arn and phone_number"),
    ("sns", "{topic_arn: a, sigv4: {access_key: b}}", "belong together"),
    ("sns", "{topic_arn: a, sigv4: {external_id: b}}", "role_arn"),
    ("jira", "{issue_type: b}", "project is missing"),
    ("jira", "{project: a}", "issue_type is missing"),
    ("jira", "{project: a, issue_type: b}", "jira_api_url"),
    ("jira", f"{{project: a, issue_type: b, api_url: '{URL}', api_type: foo}}", "api_type"),
    ("jira", f"{{project: a, issue_type: b, api_url: '{URL}', reopen_duration: 1.5h}}", "duration"),
    ("jira", f"{{project: a, issue_type: b, api_url: '{URL}', fields: {{a: ['{{{{ .X']}}}}", "broken template"),
    ("rocketchat", "{token: a}", "rocketchat_token_id"),
    ("rocketchat", "{token: a, token_file: b, token_id: c}", "at most one"),
    ("rocketchat", "{token: a, token_id: b, titleLink: x}", "titleLink"),
    ("mattermost", "{}", "mattermost_webhook_url"),
    ("mattermost", f"{{webhook_url: '{URL}', fields: [{{title: x}}]}}", "title and value"),
    ("mattermost", f"{{webhook_url: '{URL}', props: {{other: x}}}}", "other"),
    ("incidentio", "{}", "url or url_file is missing"),
    ("incidentio", f"{{url: '{URL}'}}", "no token"),
    ("incidentio", f"{{url: '{URL}', http_config: {{follow_redirects: true}}}}", "no token"),
    (
        "incidentio",
        f"{{url: '{URL}', alert_source_token: a, http_config: {{authorization: {{credentials: b}}}}}}",
        "side by side",
    ),
    ("incidentio", f"{{url: '{URL}', alert_source_token: a, max_alerts: -1}}", "max_alerts"),
]


@pytest.mark.parametrize(("kind", "text", "why"), REFUSED)
def test_what_cannot_work_is_refused_in_words(kind: str, text: str, why: str) -> None:
    """The message says what is wrong or missing, and where it may stand."""
    assert why in refusal(kind, text)


QUIET = {"wechat", "rocketchat"}


@pytest.mark.parametrize("kind", KEYS)
def test_resolved_is_sent_unless_the_kind_is_quiet(kind: str) -> None:
    """The default of `send_resolved` is Alertmanager's."""
    assert KINDS[kind].settings.model_fields["send_resolved"].default is (kind not in QUIET)


@pytest.mark.parametrize(
    ("kind", "text", "shared", "expected"),
    [
        ("opsgenie", "{api_key: a}", "{}", {"api_url": "https://api.opsgenie.com/"}),
        ("opsgenie", "{api_key: a}", f"{{opsgenie_api_url: '{URL}'}}", {"api_url": URL}),
        ("opsgenie", f"{{api_key: a, api_url: '{URL}'}}", "{opsgenie_api_url: 'http://x'}", {"api_url": URL}),
        ("opsgenie", "{}", "{opsgenie_api_key_file: f}", {"api_key": None, "api_key_file": Path("f")}),
        ("opsgenie", "{api_key_file: f}", "{opsgenie_api_key: k}", {"api_key": None, "api_key_file": Path("f")}),
        ("telegram", "{chat_id: 1, bot_token: a}", "{}", {"api_url": "https://api.telegram.org"}),
        ("webex", "{room_id: a}", "{http_config: {authorization: {credentials: b}}}", {"room_id": "a"}),
        ("wechat", "{api_secret: a}", "{wechat_api_corp_id: b}", {"corp_id": "b"}),
        ("jira", "{project: a, issue_type: b}", f"{{jira_api_url: '{URL}'}}", {"api_url": URL}),
    ],
)
def test_global_completes_what_a_receiver_does_not_say(
    kind: str, text: str, shared: str, expected: dict[str, Any]
) -> None:
    """A value, or its file, of the receiver itself goes before either of `global`."""
    settings = loaded(kind, text, shared)
    assert {name: getattr(settings, name) for name in expected} == expected


def test_a_template_is_checked_as_what_it_makes() -> None:
    """A pointed bracket that is never closed is fine in Markdown."""
    odd = "<a {{ .CommonLabels.x }}"
    base = f"bot_token: a, chat_id: 1, message: '{odd}'"
    assert "broken template" in refusal("telegram", f"{{{base}}}")
    assert loaded("telegram", f"{{{base}, parse_mode: Markdown}}")
    assert loaded("pushover", f"{{user_key: a, token: b, message: '{odd}'}}")
    assert "broken template" in refusal("pushover", f"{{user_key: a, token: b, message: '{odd}', html: true}}")
