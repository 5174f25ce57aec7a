"""Why somebody was told of an alert, or was not: the answer to a question that is asked at 3 a.m.

Made from what the router knows now (routes, groups, mutes) and what it has written down (messages, attempts).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tocsin_alerting import dedup
from tocsin_alerting.alerts import Entry
from tocsin_alerting.dispatch import Dispatcher
from tocsin_alerting.grouping import DETACHED, Group
from tocsin_alerting.look import Look, look
from tocsin_alerting.routing import Route
from tocsin_alerting.storage import Message, Storage
from tocsin_alerting.tables import LaneKey, State
from tocsin_service import durations
from tocsin_service.clock import rfc3339

MESSAGES: Final = 20
"""Messages and decisions that one answer lists for each integration."""


async def explain(entry: Entry, dispatcher: Dispatcher, storage: Storage, *, now: float) -> list[dict[str, Any]]:
    """Return one item for each group that an alert is in or would be in: route, group, mutes, and who was told what."""
    groups = dispatcher.groups.of(entry.alert.fingerprint)
    nodes = {group.route.node for group in groups}
    items = [await _in_group(entry, group, dispatcher, storage, now) for group in groups]
    for route in entry.routes:
        if route.node not in nodes:
            labels = route.group_labels(entry.alert.labels)
            alone = Group(route, labels, route.group_key(labels), due=now)
            items.append(await _in_group(entry, alone, dispatcher, storage, now))
    return items


async def _in_group(entry: Entry, group: Group, dispatcher: Dispatcher, storage: Storage, now: float) -> dict[str, Any]:
    found = look(group, dispatcher.muter, now)
    alive = bool(group.alerts or group.strays)
    receiver = dispatcher.config.receivers.get(group.route.receiver)
    integrations = []
    for integration in receiver.integrations if receiver else ():
        lane = LaneKey(group.key, group.route.receiver, integration.kind, integration.position)
        state, messages, decided = await storage.history(lane, limit=MESSAGES)
        at_once = dispatcher.config.extras.resolves_at_once(group.route.receiver)
        tick = found.tick(send_resolved=integration.settings.send_resolved, at_once=at_once)
        decision, upcoming = _decision(state, tick, found, messages, alive=alive)
        integrations.append(
            {
                "integration": integration.kind,
                "position": integration.position,
                "decision": decision,
                "next": None if upcoming is None else rfc3339(upcoming),
                "told": _told(entry, state),
                "messages": [_message(message) for message in messages],
                "history": [{"at": rfc3339(at), "what": what} for at, what in decided],
            }
        )
    return {
        "receiver": group.route.receiver,
        "path": path(dispatcher.config.root, group.route),
        "group": _group(group, alive=alive),
        "muted": _muted(entry, group, dispatcher, now),
        "integrations": integrations,
    }


def path(root: Route, route: Route) -> list[dict[str, Any]]:
    """Return the nodes from the root to `route`, as a person reads them."""
    if route.node.startswith(DETACHED):
        return [{"node": route.node, "matchers": [], "continue": False}]
    nodes, here = [root], root
    for index in route.node.split(".")[1:]:
        here = here.routes[int(index)]
        nodes.append(here)
    return [
        {"node": node.node, "matchers": [str(item) for item in node.matchers], "continue": node.descend}
        for node in nodes
    ]


def _group(group: Group, *, alive: bool) -> dict[str, Any]:
    route = group.route
    return {
        "key": group.key,
        "labels": group.labels,
        "alerts": len(group.alerts) + len(group.strays),
        "due": rfc3339(group.due) if alive else None,
        "ticked": group.ticked,
        "group_wait": durations.render(route.group_wait),
        "group_interval": durations.render(route.group_interval),
        "repeat_interval": durations.render(route.repeat_interval),
    }


def _muted(entry: Entry, group: Group, dispatcher: Dispatcher, now: float) -> dict[str, Any]:
    verdict = dispatcher.muter.verdict(entry, now)
    cause, names, until = dispatcher.muter.timing(group.route, now)
    if not cause:
        names, until = (), dispatcher.muter.until(verdict, now)
    return {
        "silences": dispatcher.muter.silences_named(verdict.silenced_by),
        "inhibitedBy": dispatcher.muter.sources_named(entry.alert.labels, verdict.inhibited_by, now),
        "intervals": list(names),
        "until": None if until is None else rfc3339(until),
    }


def _decision(
    state: dedup.Lane, tick: dedup.Tick, found: Look, messages: list[Message], *, alive: bool
) -> tuple[str, float | None]:
    """Return what is the case in words, and when it is looked at again."""
    waiting = next((message for message in messages if message.row.state is State.PENDING), None)
    if waiting is not None:
        row = waiting.row
        tries = f"tried {row.attempts} times" if row.attempts else "not tried yet"
        return f"a message waits to be delivered ({tries}{f': {row.error}' if row.error else ''})", None
    if not alive:
        return "it has ended and everybody who was told of it knows", None
    plan, due = dedup.plan(state, tick), found.group.due
    if isinstance(plan, dedup.Leave):
        return _quiet(plan.why, state, tick, found)
    if isinstance(plan, dedup.Note):
        return "all has ended; this receiver does not want to know (send_resolved: false)", due
    return f"will be told at the next look: {plan.reason}", due


def _quiet(why: dedup.Quiet, state: dedup.Lane, tick: dedup.Tick, found: Look) -> tuple[str, float | None]:
    due = found.group.due
    if why is dedup.Quiet.MUTED:
        return f"not told: {found.why or 'it is told elsewhere since the routes have changed'}", due
    if why is dedup.Quiet.UNCHANGED and state.told is not None:
        repeat = state.told.at + tick.repeat_interval
        return f"told at {rfc3339(state.told.at)}, nothing has changed since; a reminder follows at", max(repeat, due)
    return f"not told: {why}", due


def _told(entry: Entry, state: dedup.Lane) -> dict[str, Any]:
    told = state.told
    name = entry.alert.fingerprint
    return {
        "firing": told is not None and name in told.owed,
        "at": None if told is None else rfc3339(told.at),
    }


def _message(message: Message) -> Mapping[str, Any]:
    row = message.row
    return {
        "at": rfc3339(row.notification.now),
        "reason": row.notification.reason,
        "status": row.notification.status,
        "alerts": len(row.notification.alerts),
        "state": row.state,
        "attempts": [
            {"at": rfc3339(at), "outcome": outcome, "detail": detail} for at, outcome, detail in message.attempts
        ],
    }
