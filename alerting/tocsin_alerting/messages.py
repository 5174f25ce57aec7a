"""The words of a notification, made once for Slack, PagerDuty, the terminal and the list of notifications. Pure.

Who reads them has just been woken up: what is broken first, then what was seen, since when, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from tocsin_alerting.model import Alert, Notification, Reason, common, go_quote_meta
from tocsin_service import durations

SHOWN: Final = 10
"""Alerts that one message lists; more are counted."""

WHAT_LIMIT: Final = 200
"""Characters of the sentence in the subject."""
TEXT_LIMIT: Final = 500
"""Characters of any other text of one alert."""
LINK_LIMIT: Final = 200
"""Characters of a link; a longer one (Prometheus puts the whole query into it) would bury the rest."""

_SEVERITIES: Final = ("critical", "page", "error", "high", "warning", "ticket", "info", "none")
"""From the one that wakes people to the one that nobody reads."""
_TITLE_LABELS: Final = frozenset({"alertname", "service", "job", "severity"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One alert of a message: a title and facts as (word, text)."""

    title: str
    facts: tuple[tuple[str, str], ...]


def subject(notification: Notification) -> str:
    """Return the whole message in a line: `ALERT page shop ProbeDown: checkout answers 500 (2 alerts)`."""
    return " ".join(part for part in (*_head(notification), _sentence(notification)) if part)


def block(notification: Notification) -> str:
    """Return the message for a terminal: a line for those who look up, then what to know and what to do."""
    status, *head = _head(notification)
    first = "  ".join([f"{status:<5}", *(part for part in head if part), _sentence(notification)])
    lines = [first]
    if found := labels(notification):
        lines.append(f"  labels {found}")
    if not notification.firing:
        return "\n".join(lines)
    lines[0] += f"     since {_since(_lead(notification.firing), notification.now)}"
    several = len(notification.alerts) > 1
    for entry in entries(notification):
        # A single alert needs no title of its own, and the first line has said since when.
        lines += [f"  - {entry.title}"] if several else []
        indent = "    " if several else "  "
        lines += [f"{indent}{name:<6} {value}" for name, value in entry.facts if several or name != "since"]
    if left := left_out(notification):
        lines.append(f"  {left}")
    return "\n".join(lines)


def text(notification: Notification) -> str:
    """Return the alerts of the message as plain lines."""
    lines = [f"labels {found}"] if (found := labels(notification)) else []
    for entry in entries(notification):
        lines += [entry.title, *(f"  {name} {value}" for name, value in entry.facts)]
    if left := left_out(notification):
        lines.append(left)
    return "\n".join(lines)


def slack_text(notification: Notification) -> str:
    """Return the alerts of the message in Slack's mrkdwn, a paragraph for each."""
    blocks = [f"_labels_ {slack_escape(found)}"] if (found := labels(notification)) else []
    for entry in entries(notification):
        lines = [f"*{slack_escape(entry.title)}*"] if len(notification.alerts) > 1 else []
        lines += [f"_{name}_ {_slack_value(value)}" for name, value in entry.facts]
        blocks.append("\n".join(lines))
    if left := left_out(notification):
        blocks.append(left)
    return "\n\n".join(blocks)


def slack_escape(text: str) -> str:
    """Return `text` so that Slack shows it as it is: a label must not ring `<!channel>`."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def entries(notification: Notification) -> list[Entry]:
    """Return what there is to say of each alert, the gravest and firing ones first, at most `SHOWN`."""
    shared = common(alert.labels for alert in notification.alerts)
    shown = _ordered(notification)[:SHOWN]
    alone = len(shown) == 1
    return [_entry(alert, notification.now, shared, alone=alone) for alert in shown]


def labels(notification: Notification) -> str:
    """Return the labels that all alerts have and the subject does not say, or nothing."""
    shared = common(alert.labels for alert in notification.alerts)
    found = _pairs({name: value for name, value in shared.items() if name not in _TITLE_LABELS})
    # An alert without a summary has them in the subject.
    said = notification.firing and found == _what(_lead(notification.firing))
    return "" if said else cut(found, TEXT_LIMIT)


def left_out(notification: Notification) -> str:
    """Return a line that counts the alerts `entries` leaves out, or nothing."""
    left = len(notification.alerts) - SHOWN
    return f"and {left} more: {link(notification)}" if left > 0 else ""


def source(notification: Notification) -> str:
    """Return the service the message is about, or nothing if there are several."""
    shared = common(alert.labels for alert in notification.alerts)
    return clean(shared.get("service") or shared.get("job") or "")


def runbook(notification: Notification) -> str:
    """Return the first runbook link, that of the gravest alert if it has one, or nothing."""
    return next((found for alert in _ordered(notification) if (found := _runbook(alert))), "")


def link(notification: Notification) -> str:
    """Return the page of the receiver's alerts, as Alertmanager links it."""
    receiver = quote(go_quote_meta(notification.receiver), safe="")
    return f"{notification.external_url.rstrip('/')}/#/alerts?receiver={receiver}"


def cut(line: str, limit: int) -> str:
    """Return at most `limit` characters; what was cut ends with an ellipsis."""
    return line if len(line) <= limit else line[: limit - 1] + "…"


def clean(value: str) -> str:
    """Return text from outside as one printable line: a label cannot move the cursor or begin a new line."""
    return " ".join("".join(char if char.isprintable() else " " for char in value).split())


def _slack_value(text: str) -> str:
    link = text.startswith(("http://", "https://")) and " " not in text
    return f"<{slack_escape(text)}>" if link else slack_escape(text)


def _head(notification: Notification) -> tuple[str, str, str]:
    status = "OK"
    if notification.firing:
        status = "STILL" if notification.reason is Reason.REPEAT else "ALERT"
    return status, _severity(notification.firing or notification.alerts), source(notification)


def _rank(alert: Alert) -> int:
    """Return how grave an alert is: 0 is the gravest."""
    severity = alert.labels.get("severity", "")
    return _SEVERITIES.index(severity) if severity in _SEVERITIES else len(_SEVERITIES)


def _ordered(notification: Notification) -> list[Alert]:
    return [*sorted(notification.firing, key=_rank), *notification.resolved]


def _lead(alerts: Sequence[Alert]) -> Alert:
    """Return the alert that the subject is about: the gravest, and of those the oldest."""
    return min(alerts, key=lambda alert: (_rank(alert), alert.starts_at))


def _severity(alerts: Sequence[Alert]) -> str:
    """Return the gravest severity; one we have no rank for stands only where all agree."""
    found = {alert.labels.get("severity", "") for alert in alerts}
    known = [name for name in _SEVERITIES if name in found]
    return clean(known[0] if known else (found.pop() if len(found) == 1 else ""))


def _sentence(notification: Notification) -> str:
    firing, resolved = notification.firing, notification.resolved
    lead = _lead(firing or resolved)
    name = _name([lead, *(firing or resolved)])
    if not firing:
        count = f" ({len(resolved)} alerts)" if len(resolved) > 1 else ""
        started = min(alert.starts_at for alert in resolved)
        ended = max(alert.ends_at for alert in resolved)
        took = f" after {durations.human(ended - started)}" if ended - started >= 1 else ""
        return f"{name} resolved{took}{count}"
    what = _what(lead)
    count = ""
    if resolved:
        count = f" ({len(firing)} firing, {len(resolved)} resolved)"
    elif len(firing) > 1:
        count = f" ({len(firing)} alerts)"
    return f"{name}: {cut(what, WHAT_LIMIT)}{count}" if what else f"{name}{count}"


def _name(alerts: Sequence[Alert]) -> str:
    names = list(dict.fromkeys(clean(alert.labels.get("alertname", "")) or "alert" for alert in alerts))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _entry(alert: Alert, now: float, shared: dict[str, str], *, alone: bool) -> Entry:
    own = {name: value for name, value in alert.labels.items() if name != "alertname" and name not in shared}
    name = clean(alert.labels.get("alertname", "")) or "alert"
    title = f"{name} ({_pairs(own)})" if own else name
    if alert.resolved(now):
        took = durations.human(max(0.0, alert.ends_at - alert.starts_at))
        return Entry(f"{title} is over", (("lasted", took),))
    what = _what(alert)
    more = "; ".join(filter(None, map(clean, alert.annotations.get("description", "").splitlines())))
    # The subject says what of a single alert; do not say it twice.
    said = [] if alone and len(what) <= WHAT_LIMIT else [what]
    if more and more != what:
        said.append(more)
    facts = [("what" if index == 0 else "more", text) for index, text in enumerate(said)]
    facts += [("since", _since(alert, now))]
    facts += [("do", f"runbook {found}")] if (found := _runbook(alert)) else []
    graph = clean(alert.generator_url)
    facts += [("graph", graph)] if len(graph) <= LINK_LIMIT else []
    return Entry(title, tuple((word, cut(text, TEXT_LIMIT)) for word, text in facts if text))


def _what(alert: Alert) -> str:
    notes = alert.annotations
    found = clean(notes.get("summary") or notes.get("description") or notes.get("message") or "")
    return found or _pairs({k: v for k, v in alert.labels.items() if k not in _TITLE_LABELS})


def _runbook(alert: Alert) -> str:
    return clean(alert.annotations.get("runbook_url") or alert.annotations.get("runbook") or "")


def _pairs(labels: dict[str, str]) -> str:
    return ", ".join(f"{clean(name)}={clean(value)}" for name, value in sorted(labels.items()))


def _since(alert: Alert, now: float) -> str:
    start, today = datetime.fromtimestamp(alert.starts_at, UTC), datetime.fromtimestamp(now, UTC)
    shown = f"{start:%H:%M:%S} UTC" if start.date() == today.date() else f"{start:%Y-%m-%d %H:%M} UTC"
    ago = now - alert.starts_at
    return f"{shown} ({durations.human(ago) if ago >= 1 else 'just now'})"
