"""The configuration as it is shown: an alertmanager.yml with defaults filled in and without secrets. Pure.

amtool reads it back to draw routes and to test them, and refuses keys it does not know. So what Alertmanager 0.25
(Debian 12's) does not know stands in comments at the end, where people see it and parsers do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pydantic
import yaml

from tocsin_alerting.inhibition import InhibitRule
from tocsin_alerting.matchers import Matcher
from tocsin_alerting.reading import Kinds, below
from tocsin_alerting.receivers.sending import ReceiverSettings
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_alerting.routing import Route
from tocsin_service import durations

CONCEALED: Final = "<secret>"
"""What stands in a secret's place; amtool takes it for a URL where one is wanted."""
CONCEALED_URL: Final = "http://<secret>"
"""The same where a version of amtool wants a scheme."""
OURS: Final = frozenset({"console"})
"""Kinds that Alertmanager does not know; they are not shown."""

NEWER_KINDS: Final = frozenset({"msteams", "msteamsv2", "jira", "rocketchat", "mattermost", "incidentio"})
NEWER_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "global": frozenset(
        {
            *("jira_api_url", "mattermost_webhook_url", "mattermost_webhook_url_file", "rocketchat_api_url"),
            *("rocketchat_token", "rocketchat_token_file", "rocketchat_token_id", "rocketchat_token_id_file"),
            *("slack_app_token", "slack_app_token_file", "slack_app_url", "smtp_auth_secret_file"),
            *("smtp_force_implicit_tls", "smtp_tls_config", "telegram_bot_token", "telegram_bot_token_file"),
            "wechat_api_secret_file",
        }
    ),
    "basic_auth": frozenset({"username_file"}),
    "discord": frozenset({"avatar_url", "content", "username", "webhook_url_file"}),
    "email": frozenset({"auth_secret_file", "force_implicit_tls", "http_config", "threading"}),
    "http_config": frozenset({"http_headers", "no_proxy", "proxy_from_environment"}),
    "oauth2": frozenset({"no_proxy", "proxy_connect_header", "proxy_from_environment"}),
    "pagerduty": frozenset({"timeout"}),
    "pushover": frozenset({"device", "monospace", "token_file", "ttl", "user_key_file"}),
    "slack": frozenset({"app_token", "app_token_file", "app_url", "message_text", "timeout", "update_message"}),
    "telegram": frozenset({"bot_token_file", "chat_id_file", "message_thread_id"}),
    "tls_config": frozenset({"ca", "cert", "key"}),
    "webhook": frozenset({"payload", "timeout", "url_file"}),
    "wechat": frozenset({"api_secret_file"}),
}
"""What came after 0.25: by kind of receiver, or by the section it stands in."""

_SHARED_DEFAULTS: Final = frozenset(
    field.default for field in GlobalSettings.model_fields.values() if isinstance(field.default, str)
)
_PASSWORD: Final = re.compile(r"(?<=://)([^/@:]*):[^/@]*(?=@)")
_NOTE: Final = "# Not shown above, because amtool of Alertmanager 0.25 could not read it:\n"


@dataclass(frozen=True, slots=True)
class Entry:
    """One integration: as it is in force, and as it was written."""

    kind: str
    settings: ReceiverSettings
    written: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class ShownReceiver:
    """A receiver with the labels that were written."""

    name: str
    labels: Mapping[str, str]
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Shown:
    """All that is shown; `shared` is what `global` says."""

    shared: Mapping[str, object]
    root: Route
    receivers: Sequence[ShownReceiver]
    rules: Sequence[InhibitRule]
    intervals: Sequence[Mapping[str, object]]
    templates: Sequence[str]


def text(shown: Shown) -> str:
    """Return the configuration as YAML."""
    known, newer = _global(shown.shared)
    receivers = [_receiver(each) for each in shown.receivers]
    routes = _newer_routes(shown.root)
    names = [{"name": rule.name, **_rule(rule)} for rule in shown.rules if rule.name]
    data: dict[str, object] = {
        "global": known,
        "route": _route(shown.root),
        "inhibit_rules": [_rule(rule) for rule in shown.rules],
        "receivers": [each for each, _ in receivers],
        "templates": list(shown.templates),
        "time_intervals": list(shown.intervals),
    }
    later: dict[str, object] = {
        "global": newer,
        "routes": routes,
        "inhibit_rules": names,
        "receivers": [each for _, each in receivers if len(each) > 1],
    }
    late = {key: value for key, value in later.items() if value}
    return _yaml({key: value for key, value in data.items() if value}) + (_commented(_yaml(late)) if late else "")


def _yaml(data: object) -> str:
    return yaml.dump(data, Dumper=_Plain, sort_keys=False, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Without anchors: the same list twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _commented(block: str) -> str:
    return _NOTE + "".join(f"# {line}\n" for line in block.splitlines())


# --- routes and rules --------------------------------------------------------------------------------------------


def _route(route: Route) -> dict[str, object]:
    data: dict[str, object] = {
        "receiver": route.receiver,
        "group_by": ["..."] if route.group_by is None else sorted(route.group_by),
        "matchers": _matchers(route.matchers),
        "mute_time_intervals": list(route.mute_time_intervals),
        "active_time_intervals": list(route.active_time_intervals),
        "continue": route.descend,
        "group_wait": durations.render(route.group_wait),
        "group_interval": durations.render(route.group_interval),
        "repeat_interval": durations.render(route.repeat_interval),
        "routes": [_route(child) for child in route.routes],
    }
    return {name: value for name, value in data.items() if value or name == "continue"}


def _newer_routes(route: Route, above: Mapping[str, str] | None = None) -> list[dict[str, object]]:
    """Return the labels of routes, each with its route's key."""
    here: list[dict[str, object]] = []
    if route.labels != (above or {}):
        here.append({"route": route.key, "labels": dict(route.labels)})
    return here + [each for child in route.routes for each in _newer_routes(child, route.labels)]


def _rule(rule: InhibitRule) -> dict[str, object]:
    data: dict[str, object] = {
        "source_matchers": _matchers(rule.source_matchers),
        "target_matchers": _matchers(rule.target_matchers),
        "equal": list(rule.equal),
    }
    return {name: value for name, value in data.items() if value}


def _matchers(matchers: Sequence[Matcher]) -> list[str]:
    return [str(matcher) for matcher in matchers]


# --- global and receivers ----------------------------------------------------------------------------------------


def _global(written: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Return what 0.25 knows of `global` with defaults, and what came after it."""
    allowed = (GlobalSettings,)
    said = {key: _concealed(value, below(allowed, key), key) for key, value in written.items()}
    newer = {key: value for key, value in said.items() if _is_newer("global", {key: value})}
    defaults = {
        key: value
        for key, value in _defaults(GlobalSettings).items()
        if key not in said and key not in NEWER_KEYS["global"]
    }
    known = {key: value for key, value in said.items() if key not in newer}
    return {"resolve_timeout": "5m", **defaults, **known}, newer


def _receiver(receiver: ShownReceiver) -> tuple[dict[str, object], dict[str, object]]:
    known: dict[str, object] = {"name": receiver.name}
    newer: dict[str, object] = {"name": receiver.name}
    if labels := {name: value for name, value in receiver.labels.items() if name != "name"}:
        newer["labels"] = labels
    for entry in receiver.entries:
        if entry.kind in OURS:
            continue
        data = _entry(entry)
        late = entry.kind in NEWER_KINDS or _is_newer(entry.kind, data)
        entries = (newer if late else known).setdefault(f"{entry.kind}_configs", [])
        if isinstance(entries, list):
            entries.append(data)
    return known, newer


def _entry(entry: Entry) -> dict[str, object]:
    """Return what an integration says, what it has from `global`, and its defaults."""
    allowed = (type(entry.settings),)
    written = entry.written or {}
    said = {key: _concealed(value, below(allowed, key), key) for key, value in written.items()}
    newer = NEWER_KEYS.get(entry.kind, frozenset())
    defaults = {k: v for k, v in _defaults(type(entry.settings)).items() if k not in said and k not in newer}
    return {**defaults, **_inherited(entry.kind, entry.settings, said), **said}


def _defaults(model: type[pydantic.BaseModel]) -> dict[str, object]:
    """Return the defaults that say something and are written as they are: texts, numbers and truth values."""
    found = {field.alias or name: field.default for name, field in model.model_fields.items()}
    return {
        key: value
        for key, value in found.items()
        if (isinstance(value, bool) and (value or key == "send_resolved"))
        or (isinstance(value, str | int) and not isinstance(value, bool) and value)
    }


def _inherited(kind: str, settings: ReceiverSettings, said: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    newer = NEWER_KEYS.get(kind, frozenset())
    for name, field in type(settings).model_fields.items():
        value, key = getattr(settings, name), field.alias or name
        if key in said or value is None or value == field.get_default(call_default_factory=True):
            continue
        if isinstance(value, str) and value in _SHARED_DEFAULTS and key in newer:
            continue
        # Options of TLS and HTTP stand under `global`, and are taken from there by whoever reads this.
        if isinstance(value, pydantic.SecretStr):
            found[key] = CONCEALED
        elif isinstance(value, str | bool | int | Path):
            found[key] = str(value) if isinstance(value, Path) else value
    return found


def _is_newer(section: str, value: object) -> bool:
    """Return whether anything in `value` came after 0.25."""
    if isinstance(value, Mapping):
        late = NEWER_KEYS.get(section, frozenset())
        return any(key in late or _is_newer(key, item) for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return any(_is_newer(section, item) for item in value)
    return False


def _concealed(value: object, allowed: Kinds, key: str = "") -> object:
    """Return `value` without secrets: those are known by their type."""
    if isinstance(value, Mapping):
        return {name: _concealed(item, below(allowed, name), name) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_concealed(item, below(allowed, index), key) for index, item in enumerate(value)]
    if pydantic.SecretStr in allowed:
        return CONCEALED_URL if key == "url" else CONCEALED
    return _PASSWORD.sub(r"\1:xxxxx", value) if isinstance(value, str) else value
