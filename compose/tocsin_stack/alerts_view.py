"""Alerts, reasons and drills as text for a person at 3 a.m. Pure; times are the reader's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tocsin_service.clock import parse_rfc3339
from tocsin_service.durations import human
from tocsin_stack.alerts_client import acknowledged

_RANK: Final = ("page", "critical", "error", "ticket", "warning", "info", "none")
_STYLE: Final = {
    "page": "bold red",
    "critical": "bold red",
    "error": "bold red",
    "warning": "yellow",
    "ticket": "yellow",
}
_STATE_STYLE: Final = {"delivered": "green", "failed": "bold red", "pending": "yellow"}
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_WORDS: Final = ("summary", "description", "message")


def clean(text: object) -> str:
    """Return `text` without what makes a terminal act instead of show: alerts come from anywhere."""
    return _CONTROL.sub("?", str(text))


def clock(text: str, now: float) -> str:
    """Return an instant as the reader's clock shows it, with the date unless it is today."""
    try:
        at = datetime.fromtimestamp(parse_rfc3339(text), UTC).astimezone()
    except ValueError:
        return clean(text)
    today = datetime.fromtimestamp(now, UTC).astimezone().date()
    return f"{at:%H:%M}" if at.date() == today else f"{at:%Y-%m-%d %H:%M}"


def instant(text: str, now: float) -> str:
    """Return an instant with how far away it is: `21:59 (in 2 min)`, `19:48 (2 h ago)`."""
    try:
        away = parse_rfc3339(text) - now
    except ValueError:
        return clean(text)
    return f"{clock(text, now)} ({f'in {human(away)}' if away > 0 else f'{human(-away)} ago'})"


def table(
    alerts: Sequence[Mapping[str, Any]],
    silences: Mapping[str, Mapping[str, Any]],
    now: float,
    *,
    acks: Sequence[Mapping[str, Any]] = (),
) -> RenderableType:
    """Return the list of alerts, loudest and youngest first."""
    if not alerts:
        return Text("nothing fires")
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("severity", "alert", "service", "since", "state", "receivers", "fingerprint"):
        shown.add_column(name, overflow="fold", no_wrap=name in {"severity", "since", "fingerprint"})
    for alert in sorted(alerts, key=_order):
        labels = alert["labels"]
        severity = labels.get("severity", "")
        shown.add_row(
            Text(clean(severity), _STYLE.get(severity, "")),
            Text(clean(labels.get("alertname", "")), "bold"),
            Text(clean(labels.get("service", labels.get("job", "")))),
            Text(instant(alert["startsAt"], now)),
            Text("; ".join([*_acked(alert, acks, now), *mutes(alert["status"], silences, now)]) or "active"),
            Text(", ".join(dict.fromkeys(clean(each["name"]) for each in alert["receivers"]))),
            Text(alert["fingerprint"][:8], "dim"),
        )
    return shown


def _acked(alert: Mapping[str, Any], acks: Sequence[Mapping[str, Any]], now: float) -> Iterable[str]:
    ack = acknowledged(alert, acks)
    if ack is not None:
        comment = f": {clean(ack['comment'])}" if ack.get("comment") else ""
        yield f"acknowledged by {clean(ack.get('createdBy') or 'somebody')} until {clock(ack['endsAt'], now)}{comment}"


def _order(alert: Mapping[str, Any]) -> tuple[int, float]:
    severity = alert["labels"].get("severity", "")
    rank = _RANK.index(severity) if severity in _RANK else len(_RANK) - 2
    return rank, -parse_rfc3339(alert["startsAt"])


def mutes(status: Mapping[str, Any], silences: Mapping[str, Mapping[str, Any]], now: float) -> list[str]:
    """Say who keeps an alert quiet, and until when."""
    found = []
    for name in status.get("silencedBy", ()):
        silence = silences.get(name)
        if silence is None:
            found.append(f"silenced ({name[:8]})")
        else:
            comment = f": {clean(silence['comment'])}" if silence.get("comment") else ""
            who = clean(silence.get("createdBy") or "somebody")
            found.append(f"silenced by {who} until {clock(silence['endsAt'], now)}{comment}")
    found += [f"inhibited by {name[:8]}" for name in status.get("inhibitedBy", ())]
    found += [f"muted by the time interval {clean(name)}" for name in status.get("mutedBy", ())]
    return found


def explanation(found: Mapping[str, Any], now: float) -> RenderableType:
    """Return what an alert is, and who was told when or why not."""
    alert = found["alert"]
    labels, annotations = alert["labels"], alert["annotations"]
    severity = labels.get("severity", "")
    head = Text.assemble(
        (clean(labels.get("alertname", "(no alertname)")), "bold"),
        "  ",
        (clean(severity), _STYLE.get(severity, "")),
        "  ",
        (alert["fingerprint"], "dim"),
    )
    lines: list[RenderableType] = [head]
    lines += [Text(clean(annotations[name])) for name in _WORDS if annotations.get(name)]
    lines.append(Text(f"since {instant(alert['startsAt'], now)}"))
    rest = {name: value for name, value in labels.items() if name not in {"alertname", "severity"}}
    lines.append(Text(pairs(rest), "dim"))
    lines += [Text(f"{clean(name)}: {clean(text)}") for name, text in annotations.items() if name not in _WORDS]
    if alert.get("generatorURL"):
        lines.append(Text(f"graph: {clean(alert['generatorURL'])}"))
    for route in found["routes"]:
        lines += ["", *_route(route, now)]
    if not found["routes"]:
        lines += ["", Text("no route handles it: nobody is told")]
    return Group(*lines)


def _route(route: Mapping[str, Any], now: float) -> Iterable[RenderableType]:
    yield Text.assemble("to ", (clean(route["receiver"]), "bold"), f"   by {way(route['path'])}")
    group = route["group"]
    timers = f"looks again every {group['group_interval']}, repeats after {group['repeat_interval']}"
    due = f", next look {instant(group['due'], now)}" if group.get("due") else ""
    yield _in(Text(f"group {pairs(group['labels']) or 'of all'}; waits {group['group_wait']}, {timers}{due}", "dim"))
    for line in _muted(route["muted"], now):
        yield _in(Text(line, "yellow"))
    if not route["integrations"]:
        yield _in(Text("this receiver has no integration: it swallows what it gets"))
    for each in route["integrations"]:
        yield from map(_in, _integration(each, now))


def _muted(muted: Mapping[str, Any], now: float) -> Iterable[str]:
    for silence in muted.get("silences", ()):
        comment = f": {clean(silence['comment'])}" if silence.get("comment") else ""
        until = instant(silence.get("until") or silence["endsAt"], now)
        yield f"silenced by {clean(silence.get('createdBy') or 'somebody')} until {until}{comment}  [{silence['id']}]"
    for source in muted.get("inhibitedBy", ()):
        rule = f" (rule {clean(source['rule'])})" if source.get("rule") else ""
        name = clean(source.get("labels", {}).get("alertname", ""))
        yield f"inhibited by {name or 'the alert'} {source['fingerprint'][:8]}{rule}"
    for name in muted.get("intervals", ()):
        yield f"muted by the time interval {clean(name)}"
    if muted.get("until"):
        yield f"it can be told again from {instant(muted['until'], now)}"


def _integration(each: Mapping[str, Any], now: float) -> Iterable[RenderableType]:
    number = f" #{each['position'] + 1}" if each.get("position") else ""
    upcoming = ""
    if each.get("next"):
        upcoming = ("" if each["decision"].endswith(" at") else "; next look") + f" {instant(each['next'], now)}"
    yield Text.assemble((f"{each['integration']}{number}: ", "bold"), clean(each["decision"]), upcoming)
    for message in each.get("messages", ()):
        state = message["state"]
        line = f"{clock(message['at'], now)} {message['status']}: {clean(message['reason'])}, "
        yield _in(Text.assemble(line, (state, _STATE_STYLE.get(state, ""))))
        yield from map(_in, map(_in, _attempts(message.get("attempts", ()), now)))


def _attempts(attempts: Sequence[Mapping[str, Any]], now: float) -> Iterable[RenderableType]:
    """Yield a line for each answer; the same one many times over is one line."""
    for (outcome, detail), same in groupby(attempts, key=lambda each: (each["outcome"], each.get("detail") or "")):
        times = [clock(each["at"], now) for each in same]
        when = times[0] if len(times) == 1 else f"{times[0]} to {times[-1]}, {len(times)} times:"
        yield Text(f"{when} {clean(outcome)}" + (f"  {clean(detail)}" if detail else ""), "dim")


def drill(found: Mapping[str, Any], now: float) -> RenderableType:
    """Return where an alert would go and what each receiver would get, or has got."""
    lines: list[RenderableType] = [Text("routes", "bold"), *_tree(found["tree"])]
    for route in found["routes"]:
        lines += ["", Text.assemble("to ", (clean(route["receiver"]), "bold"), f"   by {way(route['path'])}")]
        lines.append(_in(Text(f"group {clean(route['group']['key'])}", "dim")))
        lines += [_in(Text(line, "yellow")) for line in _muted(route["muted"], now)]
        if not route["integrations"]:
            lines.append(_in(Text("this receiver has no integration: it swallows what it gets")))
        for each in route["integrations"]:
            lines += map(_in, _drilled(each))
    return Group(*lines)


def _tree(nodes: Sequence[Mapping[str, Any]]) -> Iterable[RenderableType]:
    for node in nodes:
        words = ", ".join(map(clean, node["matchers"])) or "every alert"
        mark, style = ("▶ ", "bold green") if node["chosen"] else ("· ", "" if node["matched"] else "dim")
        onward = "  continue" if node["continue"] else ""
        yield Text(f"{'  ' * (node['depth'] + 1)}{mark}{words}  -> {clean(node['receiver'])}{onward}", style)


def _drilled(each: Mapping[str, Any]) -> Iterable[RenderableType]:
    number = f" #{each['position'] + 1}" if each.get("position") else ""
    name = (f"{each['integration']}{number}: ", "bold")
    if each.get("skipped"):
        yield Text.assemble(name, clean(each["skipped"]))
        return
    verdict: tuple[str, str] = ("rendered", "")
    if each.get("problem"):
        verdict = (f"{'refused' if each.get('taken') is False else 'broken'}: {clean(each['problem'])}", "bold red")
    elif each.get("taken"):
        verdict = ("sent and taken", "green")
    yield Text.assemble(name, verdict)
    for request in each["requests"]:
        yield _in(Text(f"{request['method']} {clean(request['url'])}"))
        yield _in(Text("".join(f"{header}: {clean(value)}\n" for header, value in request["headers"].items()).rstrip()))
        body = request["body"]
        yield _in(
            Text(clean(json.dumps(body, indent=2, ensure_ascii=False) if isinstance(body, dict | list) else body))
        )
        if answer := request.get("answer"):
            yield _in(Text(f"answered {answer['status']} {clean(answer['text'])}", "green"))
    if each.get("text"):
        yield _in(Text(clean(each["text"])))


def way(path: Sequence[Mapping[str, Any]]) -> str:
    """Return a route as its matchers, from the root on."""
    return " → ".join(clean(", ".join(node["matchers"])) or "every alert" for node in path)


def pairs(labels: Mapping[str, str]) -> str:
    """Return labels as `a=1, b=2`."""
    return ", ".join(f"{clean(name)}={clean(value)}" for name, value in labels.items())


def _in(what: RenderableType) -> RenderableType:
    return Padding(what, (0, 0, 0, 2))
