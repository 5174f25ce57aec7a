"""Webhooks of Sentry's integration platform: issue alerts, metric alerts and the life of issues.

An issue is one alert, and so is a metric alert rule, whatever level they are at: when the level changes, the alert of
the former level ends as the new one begins, and when Sentry says "resolved", whatever fires for it ends.

Source: Sentry's pages on integration platform webhooks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Self, TypeVar

import msgspec
import pydantic

from tocsin_alerting.model import Incoming
from tocsin_alerting.receivers.fields import SecretPath, exactly_one
from tocsin_alerting.sources.auth import Check, Signature, filled, opened
from tocsin_alerting.sources.report import Report, Times, UnreadableError, moment
from tocsin_alerting.sources.settings import BaseSource

ISSUE: Final = "SentryIssue"
METRIC: Final = "SentryMetricAlert"
_RESOURCE: Final = "sentry-hook-resource"
_OVER: Final = frozenset({"resolved", "archived", "ignored"})
_BEGUN: Final = frozenset({"created", "unresolved"})
_OWN: Final = frozenset({"alertname", "project", "issue", "alert_rule", "level"})
"""Labels that come from Sentry; those of the settings do not replace them."""
_PROJECT: Final = re.compile(r"/projects/[^/]+/([^/]+)/")


class SentrySettings(BaseSource):
    """`kind: sentry`: signed with the client secret of an internal integration.

    Args:
        new_issues: an issue that is created or comes back is an alert; with false only alert rules make alerts, and
            the life of issues only ends them.
    """

    kind: Literal["sentry"]
    client_secret: pydantic.SecretStr | None = None
    client_secret_file: SecretPath | None = None
    new_issues: bool = True

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "client_secret", "client_secret_file")
        filled(self.client_secret)
        return self

    def check(self) -> Check:
        """Return who may post.

        Raises:
            SecretError: the secret cannot be had.
        """
        return Signature("Sentry-Hook-Signature", "", opened(self.client_secret, self.client_secret_file))


class _Event(msgspec.Struct, frozen=True):
    issue_id: str | int
    title: str | None = None
    culprit: str | None = None
    level: str | None = None
    project: str | int | None = None
    url: str | None = None
    web_url: str | None = None
    datetime: str | None = None
    environment: str | None = None
    release: str | None = None
    tags: Any = None


class _EventAlert(msgspec.Struct, frozen=True):
    event: _Event
    triggered_rule: str | None = None


class _Project(msgspec.Struct, frozen=True):
    slug: str | None = None
    id: str | int | None = None


class _Issue(msgspec.Struct, frozen=True, rename="camel"):
    id: str | int
    title: str | None = None
    culprit: str | None = None
    level: str | None = None
    project: _Project = _Project()
    short_id: str | None = None
    first_seen: str | None = None
    permalink: str | None = None
    web_url: str | None = msgspec.field(default=None, name="web_url")


class _IssueChange(msgspec.Struct, frozen=True):
    issue: _Issue


class _Rule(msgspec.Struct, frozen=True):
    id: str | int
    name: str | None = None
    environment: str | None = None


class _Incident(msgspec.Struct, frozen=True):
    alert_rule: _Rule
    projects: list[str] | None = None
    date_started: str | None = None


class _MetricAlert(msgspec.Struct, frozen=True):
    metric_alert: _Incident
    description_title: str | None = None
    description_text: str | None = None
    web_url: str | None = None


class _Envelope(msgspec.Struct, frozen=True):
    action: str
    data: msgspec.Raw


_D = TypeVar("_D")


def read(body: bytes, headers: Mapping[str, str], settings: SentrySettings, now: float) -> Report:
    """Return what a request says. Resources that are no alerts are passed over, with a note that says so.

    Raises:
        UnreadableError: it is not such a webhook.
    """
    resource = headers.get(_RESOURCE, "")
    if not resource:
        raise UnreadableError("the header Sentry-Hook-Resource is missing: this is not an integration platform webhook")
    envelope = _decode(body, _Envelope, resource)
    translate = _RESOURCES.get(resource)
    if translate is None:
        return Report(note=f"{resource} is no alert and was passed over")
    return translate(envelope, settings, now)


def _decode(raw: bytes | msgspec.Raw, shape: type[_D], resource: str) -> _D:
    try:
        return msgspec.json.decode(raw, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(f"the body is not a webhook of Sentry about {resource}: {error}") from error


def _event_alert(envelope: _Envelope, settings: SentrySettings, now: float) -> Report:
    data = _decode(envelope.data, _EventAlert, "event_alert")
    event = data.event
    found = _PROJECT.search(event.url or "")
    labels = {
        "alertname": ISSUE,
        "project": found[1] if found else _text(event.project),
        "issue": _text(event.issue_id),
        "level": event.level or "",
    }
    annotations = {
        "summary": event.title,
        "description": event.culprit,
        "link": event.web_url,
        "rule": data.triggered_rule,
        "environment": event.environment or _tag(event.tags, "environment"),
        "release": event.release,
    }
    return _firing(labels, annotations, event.web_url, event.datetime, settings, now)


def _issue(envelope: _Envelope, settings: SentrySettings, now: float) -> Report:
    action = envelope.action
    issue = _decode(envelope.data, _IssueChange, "issue").issue
    link = issue.web_url or issue.permalink
    labels = {
        "alertname": ISSUE,
        "project": issue.project.slug or _text(issue.project.id),
        "issue": _text(issue.id),
        "level": issue.level or "",
    }
    annotations = {"summary": issue.title, "description": issue.culprit, "link": link, "short_id": issue.short_id}
    if action in _OVER:
        return _ended(labels, annotations, link, settings, now)
    if action not in _BEGUN:
        return Report(note=f"issue {action} is no alert and was passed over")
    if not settings.new_issues:
        return Report(note=f"issue {action} was passed over: this source has new_issues: false")
    # An issue that comes back was first seen long ago; this occurrence begins now.
    start = issue.first_seen if action == "created" else None
    return _firing(labels, annotations, link, start, settings, now)


def _metric_alert(envelope: _Envelope, settings: SentrySettings, now: float) -> Report:
    data = _decode(envelope.data, _MetricAlert, "metric_alert")
    rule = data.metric_alert.alert_rule
    labels = {
        "alertname": METRIC,
        "project": ",".join(sorted(data.metric_alert.projects or [])),
        "alert_rule": _text(rule.id),
    }
    annotations = {
        "summary": data.description_title or rule.name,
        "description": data.description_text,
        "link": data.web_url,
        "rule": rule.name,
        "environment": rule.environment,
    }
    if envelope.action == "resolved":
        return _ended(labels, annotations, data.web_url, settings, now)
    labels["level"] = envelope.action
    start = data.metric_alert.date_started
    return _firing(labels, annotations, data.web_url, start, settings, now)


_RESOURCES: Final[Mapping[str, Callable[[_Envelope, SentrySettings, float], Report]]] = {
    "event_alert": _event_alert,
    "issue": _issue,
    "metric_alert": _metric_alert,
}


def _firing(
    labels: dict[str, str],
    annotations: Mapping[str, str | None],
    link: str | None,
    start: str | None,
    settings: SentrySettings,
    now: float,
) -> Report:
    try:
        times = Times(moment(start), None).settled(firing=True, now=now, resolve_after=settings.resolve_after)
    except ValueError as error:
        raise UnreadableError(f'"{start}" is {error}') from error
    alert = Incoming(labels, _filled(annotations), times.starts_at, times.ends_at, link or "")
    return Report((alert,), over=_identity(labels, settings))


def _ended(
    labels: dict[str, str],
    annotations: Mapping[str, str | None],
    link: str | None,
    settings: SentrySettings,
    now: float,
) -> Report:
    alert = Incoming(labels, _filled(annotations), None, now, link or "")
    return Report((alert,), over=_identity(labels, settings))


def _identity(labels: Mapping[str, str], settings: SentrySettings) -> dict[str, str]:
    """Return what all alerts about one issue or rule have in common: all but the level."""
    configured = {name: value for name, value in settings.labels.items() if name not in _OWN}
    return configured | {name: value for name, value in labels.items() if value and name != "level"}


def _filled(annotations: Mapping[str, str | None]) -> dict[str, str]:
    return {name: text for name, text in annotations.items() if text}


def _text(value: str | int | None) -> str:
    return "" if value is None else str(value)


def _tag(tags: object, name: str) -> str:
    pairs = tags if isinstance(tags, list) else []
    return next((str(pair[1]) for pair in pairs if isinstance(pair, list) and len(pair) == 2 and pair[0] == name), "")
