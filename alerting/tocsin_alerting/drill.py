"""A drill: what an alert with certain labels would do, or does where it is really sent, marked as a drill.

Each kind's own `send` makes the messages; what differs is where its requests go. Nothing here touches groups, the
outbox or what anybody is known to have been told.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as Endpoint

from tocsin_alerting import routing
from tocsin_alerting.config import Config, Integration
from tocsin_alerting.explain import path
from tocsin_alerting.model import Alert, Notification, Reason, fingerprint
from tocsin_alerting.muting import Cause, Verdict
from tocsin_alerting.receivers import KINDS, email
from tocsin_alerting.receivers.clients import Clients
from tocsin_alerting.receivers.sending import Sending
from tocsin_alerting.recording import Recorder, conceal, readable, secrets_of
from tocsin_alerting.routing import Route
from tocsin_service import durations
from tocsin_service.clock import Clock, rfc3339
from tocsin_service.http import RequestError

DRILL_LABEL: Final = "drill"
DRILL_WORDS: Final = "[DRILL] "
_LIFE: Final = 300.0
"""Seconds that an alert of a drill seems to last."""


class Mutes(Protocol):
    """Who would keep an alert quiet; `tocsin_alerting.muting.Muter` knows all of it, `Timing` the time alone."""

    def muted(self, alert: Alert, route: Route, now: float) -> dict[str, Any]:
        """Return silences, sources and intervals that mute it, as `explain` shows them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the drill is about.

    Args:
        resolved: the message says that it has ended.
        send: it is really sent, with the label `drill` and a summary that says so.
    """

    labels: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)
    resolved: bool = False
    send: bool = False


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON of `POST /api/v1/test`."""

    labels: dict[str, str]
    annotations: dict[str, str] = {}
    resolved: bool = False
    send: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a drill takes place: the configuration, who mutes, and what really sends."""

    config: Config
    mutes: Mutes
    clients: Clients
    external_url: str
    terminal: Callable[[str], None] | None = None


class Timing:
    """Knows the time intervals of a configuration, and no silences: for a drill without a running router."""

    def __init__(self, config: Config) -> None:
        self._intervals = config.intervals

    def muted(self, alert: Alert, route: Route, now: float) -> dict[str, Any]:
        """Return the intervals that mute the route now; see `Mutes`."""
        del alert
        active = [self._intervals[name] for name in route.active_time_intervals]
        names = [name for name in route.mute_time_intervals if self._intervals[name].contains(now)]
        if active and not any(each.contains(now) for each in active):
            names += [each.name for each in active]
        return {"silences": [], "inhibitedBy": [], "intervals": names, "until": None}


class Asks(Protocol):
    """The part of `tocsin_alerting.muting.Muter` that a drill asks."""

    def judge(self, labels: Mapping[str, str], now: float) -> Verdict:
        """Return which silences and sources would mute an alert with these labels."""

    def timing(self, route: Route, now: float) -> tuple[Cause | None, tuple[str, ...], float | None]:
        """Return whether the time mutes a route, by which intervals, and until when."""

    def until(self, verdict: Verdict, now: float) -> float | None:
        """Return when silences end."""

    def silences_named(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return silences for a person."""

    def sources_named(self, labels: Mapping[str, str], fingerprints: Sequence[str], now: float) -> list[dict[str, Any]]:
        """Return inhibiting alerts for a person."""


class Live:
    """Asks the muter of a running router."""

    def __init__(self, muter: Asks) -> None:
        self._muter = muter

    def muted(self, alert: Alert, route: Route, now: float) -> dict[str, Any]:
        """Return all that mutes it now; see `Mutes`."""
        verdict = self._muter.judge(alert.labels, now)
        cause, names, until = self._muter.timing(route, now)
        if cause is None:
            names, until = (), self._muter.until(verdict, now)
        return {
            "silences": self._muter.silences_named(verdict.silenced_by),
            "inhibitedBy": self._muter.sources_named(alert.labels, verdict.inhibited_by, now),
            "intervals": list(names),
            "until": None if until is None else rfc3339(until),
        }


async def rehearse(asked: Asked, stage: Stage, now: float) -> dict[str, Any]:
    """Return, as JSON, the route an alert takes, its groups and mutes, and each integration's message and its fate."""
    alert = _alert(asked, now)
    chosen = routing.match(stage.config.root, asked.labels)
    return {
        "labels": alert.labels,
        "annotations": alert.annotations,
        "fingerprint": alert.fingerprint,
        "at": rfc3339(now),
        "status": alert.status(now),
        "sent": asked.send,
        "tree": _tree(stage.config.root, asked.labels, {route.node for route in chosen}),
        "routes": [await _route(route, alert, asked, stage, now) for route in chosen],
    }


def _alert(asked: Asked, now: float) -> Alert:
    labels = {name: value for name, value in sorted(asked.labels.items()) if value}
    annotations = dict(asked.annotations)
    if asked.send:
        labels[DRILL_LABEL] = "true"
        annotations["summary"] = DRILL_WORDS + (annotations.get("summary") or labels.get("alertname", "")).strip()
    starts, ends = (now - _LIFE, now) if asked.resolved else (now, now + _LIFE)
    return Alert(labels, annotations, starts, ends, now, fingerprint(labels))


def _tree(root: Route, labels: Mapping[str, str], chosen: set[str]) -> list[dict[str, Any]]:
    """Return all nodes in tree order, with whether each was reached and whether it handles the alert."""
    found: list[dict[str, Any]] = []

    def visit(route: Route, depth: int, *, reached: bool) -> bool:
        matched = reached and bool(routing.match(route, labels))
        found.append(
            {
                "node": route.node,
                "depth": depth,
                "receiver": route.receiver,
                "matchers": [str(matcher) for matcher in route.matchers],
                "continue": route.descend,
                "matched": matched,
                "chosen": matched and route.node in chosen,
            }
        )
        looking = matched
        for child in route.routes:
            below = visit(child, depth + 1, reached=looking)
            looking = looking and (not below or child.descend)
        return matched

    visit(root, 0, reached=True)
    return found


async def _route(route: Route, alert: Alert, asked: Asked, stage: Stage, now: float) -> dict[str, Any]:
    labels = route.group_labels(asked.labels)
    if asked.send:
        # A group of its own: a drill must not open, or worse resolve, the incident of a real one.
        labels = {**labels, DRILL_LABEL: "true"}
    receiver = stage.config.receivers[route.receiver]
    notification = Notification(
        key=uuid.uuid4().hex,
        group_key=route.group_key(labels),
        group_labels=labels,
        receiver=route.receiver,
        integration="",
        reason=Reason.ALL_RESOLVED if asked.resolved else Reason.FIRST,
        now=now,
        alerts=(alert,),
        external_url=stage.external_url,
        route_labels=dict(route.labels),
    )
    # Silences are about the alert as it would come, without the mark of the drill.
    plain = _alert(replace(asked, send=False), now)
    return {
        "receiver": route.receiver,
        "node": route.node,
        "path": path(stage.config.root, route),
        "group": {
            "key": notification.group_key,
            "labels": labels,
            "group_wait": durations.render(route.group_wait),
            "group_interval": durations.render(route.group_interval),
            "repeat_interval": durations.render(route.repeat_interval),
        },
        "muted": stage.mutes.muted(plain, route, now),
        "integrations": [await _integration(each, notification, asked, stage) for each in receiver.integrations],
    }


async def _integration(
    integration: Integration, notification: Notification, asked: Asked, stage: Stage
) -> dict[str, Any]:
    notification = replace(notification, integration=integration.kind)
    settings = integration.settings
    shown: dict[str, Any] = {"integration": integration.kind, "position": integration.position}
    if asked.resolved and not settings.send_resolved:
        return shown | {"skipped": "send_resolved is false: it is not told of ends", "requests": []}
    secrets = secrets_of(settings)
    recorder = Recorder(integration.kind, stage.clients if asked.send else None)
    lines: list[str] = []

    def terminal(text: str) -> None:
        lines.append(text)
        if asked.send and stage.terminal is not None:
            stage.terminal(text)

    sending = Sending(recorder, stage.config.templates, now=lambda: notification.now, terminal=terminal)
    problem: str | None = None
    try:
        if isinstance(settings, email.EmailSettings):
            lines.append(readable(email.message(notification, settings, sending)))
        if asked.send or not isinstance(settings, email.EmailSettings):
            await KINDS[integration.kind].send(notification, settings, sending)
    except RequestError as error:
        problem = conceal(str(error), secrets)
    except Exception as error:  # what a bug in a kind would do to a real message must be seen in a drill
        problem = f"the message could not be made: {type(error).__name__}"
    return shown | {
        "requests": [each.plain(secrets) for each in recorder.requests],
        "text": conceal("\n".join(lines), secrets) or None,
        "problem": problem,
        "taken": (problem is None) if asked.send else None,
    }


def routes(stage: Callable[[], Stage], clock: Clock) -> list[Endpoint]:
    """Return `POST /api/v1/test`, a drill by a running router."""

    async def test(request: Request) -> Response:
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind != "application/json":
            return _refused(415, f'unsupported media type "{kind}", only [application/json] are allowed')
        try:
            body = msgspec.json.decode(await request.body(), type=Body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _refused(400, str(error))
        if not any(body.labels.values()) or not all(body.labels):
            return _refused(422, "labels: at least one label pair required, and no empty name")
        asked = Asked(body.labels, body.annotations, resolved=body.resolved, send=body.send)
        found = await rehearse(asked, stage(), clock.now())
        return JSONResponse(found, headers={"Cache-Control": "no-store"})

    return [Endpoint("/api/v1/test", test, methods=["POST"])]


def _refused(status: int, message: str) -> Response:
    return JSONResponse({"code": status, "message": message}, status_code=status, headers={"Cache-Control": "no-store"})
