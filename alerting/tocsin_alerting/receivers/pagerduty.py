"""PagerDuty: one incident per group, opened by `trigger` and closed by `resolve` with one key, so repeats do no harm.

Events API v2 with `routing_key`; the older generic API, which knows neither images nor severity, with `service_key`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Self

import orjson
import pydantic

from tocsin_alerting.messages import cut
from tocsin_alerting.model import Notification
from tocsin_alerting.receivers import trees
from tocsin_alerting.receivers.fields import GoDuration, SecretPath, Text, Tree, Url, at_most_one
from tocsin_alerting.receivers.sending import ReceiverSettings, Sending, reveal
from tocsin_alerting.receivers.shared import GlobalSettings
from tocsin_service.http import Failure, RequestError
from tocsin_service.settings import Settings, flaw

DEFAULT_URL: Final = "https://events.pagerduty.com/v2/enqueue"
GENERIC_URL: Final = "https://events.pagerduty.com/generic/2010-04-15/create_event.json"
SUMMARY_LIMIT: Final = 1024
EVENT_LIMIT: Final = 512_000
"""Bytes PagerDuty takes; the details are left out of a larger event."""

# How each of the two says that there are too many events.
_RETRY: Final = frozenset({429})
_RETRY_GENERIC: Final = frozenset({403, 429})

_DETAILS: Final = {
    "firing": "{{ .Alerts.Firing | toJson }}",
    "resolved": "{{ .Alerts.Resolved | toJson }}",
    "num_firing": "{{ .Alerts.Firing | len }}",
    "num_resolved": "{{ .Alerts.Resolved | len }}",
}


class Image(Settings):
    """One of `images`; left out of the event where its `src` renders to nothing."""

    href: Text = ""
    src: Text = ""
    alt: Text = ""


class Link(Settings):
    """One of `links`; left out of the event where its `href` renders to nothing."""

    href: Text = ""
    text: Text = ""


class PagerDutySettings(ReceiverSettings):
    """`pagerduty_configs`; `details` of the file stand beside the four that are always there, or replace them."""

    routing_key: pydantic.SecretStr | None = None
    routing_key_file: SecretPath | None = None
    service_key: pydantic.SecretStr | None = None
    service_key_file: SecretPath | None = None
    url: Url | None = None
    client: Text = '{{ template "pagerduty.default.client" . }}'
    client_url: Text = '{{ template "pagerduty.default.clientURL" . }}'
    description: Text = '{{ template "pagerduty.default.description" .}}'
    severity: Text = ""
    source: Text = ""
    class_: Text = pydantic.Field("", alias="class")
    component: Text = ""
    group: Text = ""
    details: dict[str, Tree] = pydantic.Field(default_factory=dict)
    images: tuple[Image, ...] = ()
    links: tuple[Link, ...] = ()
    timeout: GoDuration = 0.0

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        at_most_one(self, "routing_key", "routing_key_file")
        at_most_one(self, "service_key", "service_key_file")
        if self.routing_key is None and self.routing_key_file is None and not self.generic:
            what = "routing_key or routing_key_file is missing"
            raise flaw(what, expected="the integration key of a PagerDuty service", fix="add it")
        return self

    @property
    def generic(self) -> bool:
        """Whether the older API is used: it goes before, where both keys are given."""
        return self.service_key is not None or self.service_key_file is not None

    def inherit(self, shared: GlobalSettings) -> Self:
        """Take `url` from `global` where it is not given."""
        url = self.url if self.url or self.generic else shared.pagerduty_url
        return super().inherit(shared).model_copy(update={"url": url})


async def send(notification: Notification, settings: PagerDutySettings, sending: Sending) -> None:
    """POST the event.

    Raises:
        RequestError: it was not taken.
    """

    def text(source: str) -> str:
        return sending.text(source, notification)

    if settings.generic:
        key, retry = text(reveal(settings.service_key, settings.service_key_file)), _RETRY_GENERIC
        event = generic_payload(notification, settings, text, service_key=key)
    else:
        key, retry = text(reveal(settings.routing_key, settings.routing_key_file)), _RETRY
        event = payload(notification, settings, text, routing_key=key)
    if not key:
        raise RequestError("the key for PagerDuty is empty", reason=Failure.CLIENT_ERROR, permanent=True)
    url, timeout = address(settings), settings.timeout
    await sending.post_json(url, event, settings, timeout=timeout, secrets=(key,), retry=retry)


def payload(
    notification: Notification, settings: PagerDutySettings, text: Callable[[str], str], *, routing_key: str
) -> dict[str, Any]:
    """Return the event of Events API v2, rendered by `text`."""
    about = {
        "summary": cut(text(settings.description), SUMMARY_LIMIT),
        "source": text(settings.source or settings.client),
        "severity": text(settings.severity) or "error",
        "class": text(settings.class_),
        "component": text(settings.component),
        "group": text(settings.group),
    }
    images = [{name: text(getattr(image, name)) for name in ("src", "alt", "href")} for image in settings.images]
    links = [{name: text(getattr(link, name)) for name in ("href", "text")} for link in settings.links]
    event: dict[str, Any] = {
        "routing_key": routing_key,
        "dedup_key": notification.group_hash,
        "event_action": "trigger" if notification.firing else "resolve",
        "payload": {k: v for k, v in about.items() if v or k in {"summary", "source"}},
        **{k: v for k, v in _client(settings, text).items() if v},
    }
    event |= {"images": kept} if (kept := [image for image in images if image["src"]]) else {}
    event |= {"links": kept_links} if (kept_links := [link for link in links if link["href"]]) else {}
    details = _details(settings, text)
    return _bounded(
        notification, lambda found: {**event, "payload": {**event["payload"], "custom_details": found}}, details
    )


def generic_payload(
    notification: Notification, settings: PagerDutySettings, text: Callable[[str], str], *, service_key: str
) -> dict[str, Any]:
    """Return the event of the generic API; two members of v2 stand in it empty, as Alertmanager has them."""
    firing = bool(notification.firing)
    event: dict[str, Any] = {
        "service_key": service_key,
        "incident_key": notification.group_hash,
        "event_type": "trigger" if firing else "resolve",
        "description": cut(text(settings.description), SUMMARY_LIMIT),
        "event_action": "",
        "payload": None,
        **({k: v for k, v in _client(settings, text).items() if v} if firing else {}),
    }
    return _bounded(notification, lambda found: {**event, "details": found}, _details(settings, text))


def _client(settings: PagerDutySettings, text: Callable[[str], str]) -> dict[str, str]:
    return {"client": text(settings.client), "client_url": text(settings.client_url)}


def _details(settings: PagerDutySettings, text: Callable[[str], str]) -> dict[str, Any]:
    return {name: trees.render(tree, text) for name, tree in {**_DETAILS, **settings.details}.items()}


def _bounded(
    notification: Notification, event: Callable[[dict[str, Any]], dict[str, Any]], details: dict[str, Any]
) -> dict[str, Any]:
    """Return the event with its details, or, where that is larger than PagerDuty takes, with a note in their place."""
    found = event(details)
    if len(orjson.dumps(found)) <= EVENT_LIMIT:
        return found
    note = f"The alerts were left out: the event was larger than {EVENT_LIMIT} bytes. See {notification.external_url}"
    return event({"error": note})


def address(settings: PagerDutySettings) -> str:
    """Return where the event goes."""
    if not settings.generic:
        return settings.url or DEFAULT_URL
    # Alertmanager passes over `url` here; one that is plainly for the other API means nothing to us either.
    if settings.url is None or settings.url.rstrip("/").endswith("/v2/enqueue"):
        return GENERIC_URL
    return settings.url
