"""Receivers: those nobody uses, those that are insecure or end, and what their templates read."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pydantic

from tocsin_alerting.checks.finding import Finding, Subject
from tocsin_alerting.checks.secrets import pieces
from tocsin_alerting.config import Integration, Receiver
from tocsin_alerting.routing import Route, walk
from tocsin_service.settings import Loc

_LOOPBACK = ("localhost", "127.", "::1")


def check(subject: Subject) -> Iterator[Finding]:
    """Yield findings on every receiver."""
    routes: dict[str, list[Route]] = {}
    for route in walk(subject.config.root):
        routes.setdefault(route.receiver, []).append(route)
    for loc in subject.entries("receivers"):
        receiver = subject.config.receivers.get(str(subject.said(*loc, "name")))
        if receiver is None:
            continue
        if receiver.name not in routes:
            what = f'no route uses the receiver "{receiver.name}"'
            fix = "name it in a route, or remove it"
            yield subject.warning("unused-receiver", loc, what, why="it is never told anything", fix=fix)
        for integration in receiver.integrations:
            entry = (*loc, f"{integration.kind}_configs", integration.position)
            yield from _integration(subject, integration, entry)
            yield from _templates(subject, receiver, entry, routes.get(receiver.name, []))


def _integration(subject: Subject, integration: Integration, loc: Loc) -> Iterator[Finding]:
    if integration.kind == "opsgenie":
        why = "Opsgenie ends on 2027-04-05"
        fix = "plan the move: pagerduty_configs, incidentio_configs, jira_configs (Jira Service Management)"
        yield subject.warning("opsgenie-end-of-life", loc, "this goes to Opsgenie", why=why, fix=fix)
    http = integration.settings.http_config
    # An e-mail server has the options beside, not inside, `http_config`.
    tls = (None if http is None else http.tls_config, getattr(integration.settings, "tls_config", None))
    if any(each is not None and each.insecure_skip_verify for each in tls):
        why = "anybody on the way can pose as the receiver and read the messages"
        fix = "give its authority as tls_config.ca_file and remove insecure_skip_verify"
        what = f"the certificate of this {integration.kind} receiver is not checked"
        yield subject.warning("insecure-skip-verify", loc, what, why=why, fix=fix)
    yield from _plain_http(subject, integration, loc)


def _plain_http(subject: Subject, integration: Integration, loc: Loc) -> Iterator[Finding]:
    settings = integration.settings
    http = settings.http_config
    authenticated = http is not None and any((http.basic_auth, http.authorization, http.oauth2))
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        url = value.get_secret_value() if isinstance(value, pydantic.SecretStr) else value
        if not isinstance(url, str) or not url.startswith("http://") or "{{" in url:
            continue
        parts = urlsplit(url)
        if (parts.hostname or "").startswith(_LOOPBACK) or not (authenticated or parts.password or parts.username):
            continue
        what = "credentials go over plain http"
        why = "anybody on the way can read them"
        yield subject.warning("plain-http-credentials", (*loc, field.alias or name), what, why=why, fix="use https")


def _templates(subject: Subject, receiver: Receiver, entry: Loc, routes: list[Route]) -> Iterator[Finding]:
    templates = subject.config.templates
    grouped: set[str] | None = set()
    for route in routes:
        grouped = None if route.group_by is None or grouped is None else grouped | route.group_by
    for loc, source in _sources(subject.said(*entry), entry):
        for name in templates.undefined(source):
            what = f'the template "{name}" is not defined'
            fix = "correct the name, or add the file that defines it to templates"
            yield subject.error("undefined-template", loc, what, why="messages to this receiver will fail", fix=fix)
        for where, label in sorted(templates.labels_read(source)):
            if where != "GroupLabels" or grouped is None or label in grouped or not routes:
                continue
            what = f'this reads the group label "{label}", which no route to "{receiver.name}" groups by'
            why = "it is always empty"
            fix = f'add "{label}" to group_by, or read .CommonLabels.{label}'
            yield subject.warning("label-not-grouped", loc, what, why=why, fix=fix)


def _sources(value: object, loc: Loc) -> Iterator[tuple[Loc, str]]:
    """Yield the texts at and below `loc` that hold a template."""
    for place, piece in pieces(value, loc):
        if isinstance(piece, str) and "{{" in piece:
            yield place, piece
