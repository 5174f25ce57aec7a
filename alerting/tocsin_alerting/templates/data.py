"""What a template sees of a notification: `.` at the top, its alerts, and their labels.

The names are Alertmanager's: https://prometheus.io/docs/alerting/latest/notifications/. `.Tocsin` is our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from tocsin_alerting import messages
from tocsin_alerting.model import Notification, common, go_quote_meta
from tocsin_alerting.templates import times
from tocsin_alerting.templates.values import STRINGS, Function, Strings, Struct, Value


class Pair(Struct):
    """A label or annotation."""

    __slots__ = ("name", "value")
    go_type: ClassVar[str] = "template.Pair"
    fields: ClassVar[Mapping[str, str]] = {"Name": "name", "Value": "value"}

    def __init__(self, name: str, value: str) -> None:
        self.name = name
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pair) and (self.name, self.value) == (other.name, other.value)

    def __hash__(self) -> int:
        return hash((self.name, self.value))

    members: ClassVar[Mapping[str, Function | str]] = fields


class Pairs(list[Pair]):
    """Labels or annotations in order."""

    __slots__ = ()
    go_type: ClassVar[str] = "template.Pairs"
    members: ClassVar[Mapping[str, Function | str]] = {
        "Names": Function("Names", lambda self: self.names()),
        "Values": Function("Values", lambda self: self.values()),
        "String": Function("String", lambda self: self.go_string()),
    }

    def names(self) -> Strings:
        """Return the names in order."""
        return Strings(pair.name for pair in self)

    def values(self) -> Strings:
        """Return the values in order."""
        return Strings(pair.value for pair in self)

    def go_string(self) -> str:
        """Return `a=1, b=2`."""
        return ", ".join(f"{pair.name}={pair.value}" for pair in self)


class KV(dict[str, str]):
    """Labels or annotations by name."""

    __slots__ = ()
    go_type: ClassVar[str] = "template.KV"
    members: ClassVar[Mapping[str, Function | str]] = {
        "SortedPairs": Function("SortedPairs", lambda self: self.sorted_pairs()),
        "Names": Function("Names", lambda self: self.sorted_pairs().names()),
        "Values": Function("Values", lambda self: self.sorted_pairs().values()),
        "Remove": Function("Remove", lambda self, names: self.without(names), (STRINGS,)),
        "String": Function("String", lambda self: self.go_string()),
    }

    def sorted_pairs(self) -> Pairs:
        """Return the pairs by name, `alertname` first."""
        return Pairs(Pair(name, self[name]) for name in sorted(self, key=lambda name: (name != "alertname", name)))

    def without(self, names: Iterable[str]) -> KV:
        """Return the pairs of other names."""
        left = set(names)
        return KV({name: value for name, value in self.items() if name not in left})

    def go_string(self) -> str:
        """Return `a=1, b=2`."""
        return self.sorted_pairs().go_string()


class Alert(Struct):
    """One alert."""

    __slots__ = ("annotations", "ends_at", "fingerprint", "generator_url", "labels", "starts_at", "status")
    go_type: ClassVar[str] = "template.Alert"
    comparable: ClassVar[bool] = False
    fields: ClassVar[Mapping[str, str]] = {
        "Status": "status",
        "Labels": "labels",
        "Annotations": "annotations",
        "StartsAt": "starts_at",
        "EndsAt": "ends_at",
        "GeneratorURL": "generator_url",
        "Fingerprint": "fingerprint",
    }
    members: ClassVar[Mapping[str, Function | str]] = fields
    json_names: ClassVar[Mapping[str, str]] = {
        "Status": "status",
        "Labels": "labels",
        "Annotations": "annotations",
        "StartsAt": "startsAt",
        "EndsAt": "endsAt",
        "GeneratorURL": "generatorURL",
        "Fingerprint": "fingerprint",
    }

    def __init__(
        self,
        status: str,
        labels: KV,
        annotations: KV,
        starts_at: times.Time,
        ends_at: times.Time,
        generator_url: str,
        fingerprint: str,
    ) -> None:
        self.status = status
        self.labels = labels
        self.annotations = annotations
        self.starts_at = starts_at
        self.ends_at = ends_at
        self.generator_url = generator_url
        self.fingerprint = fingerprint


class SomeAlerts(list[Alert]):
    """Those of the alerts that fire, or that do not."""

    __slots__ = ()
    go_type: ClassVar[str] = "[]template.Alert"


class Alerts(list[Alert]):
    """All alerts of the message."""

    __slots__ = ()
    go_type: ClassVar[str] = "template.Alerts"
    members: ClassVar[Mapping[str, Function | str]] = {
        "Firing": Function("Firing", lambda self: self.having("firing")),
        "Resolved": Function("Resolved", lambda self: self.having("resolved")),
    }

    def having(self, status: str) -> SomeAlerts:
        """Return those of a status."""
        return SomeAlerts(alert for alert in self if alert.status == status)


class Words(Struct):
    """`.Tocsin`: the wording of `tocsin_alerting.messages`, each made when it is asked for."""

    __slots__ = ("_notification",)
    go_type: ClassVar[str] = "tocsin.Words"
    comparable: ClassVar[bool] = False
    _TEXTS: ClassVar[Mapping[str, Callable[[Notification], str]]] = {
        "Subject": messages.subject,
        "Text": messages.text,
        "Slack": messages.slack_text,
        "Block": messages.block,
        "Runbook": messages.runbook,
        "Source": messages.source,
    }
    members: ClassVar[Mapping[str, Function | str]] = {
        name: Function(name, lambda self, name=name: self.say(name)) for name in _TEXTS
    }

    def __init__(self, notification: Notification) -> None:
        self._notification = notification

    def say(self, name: str) -> str:
        """Return the text that is called `name`."""
        return self._TEXTS[name](self._notification)

    def shown_fields(self) -> list[tuple[str, Value]]:
        """Return all texts."""
        return [(name, self.say(name)) for name in self._TEXTS]


@dataclass(slots=True, eq=False)
class Data(Struct):
    """The dot at the top: one message about a group of alerts."""

    receiver: str
    status: str
    alerts: Alerts
    notification_reason: str
    group_labels: KV
    common_labels: KV
    common_annotations: KV
    external_url: str
    route_labels: KV
    tocsin: Words

    go_type: ClassVar[str] = "template.Data"
    comparable: ClassVar[bool] = False
    fields: ClassVar[Mapping[str, str]] = {
        "Receiver": "receiver",
        "Status": "status",
        "Alerts": "alerts",
        "NotificationReason": "notification_reason",
        "GroupLabels": "group_labels",
        "CommonLabels": "common_labels",
        "CommonAnnotations": "common_annotations",
        "ExternalURL": "external_url",
    }
    members: ClassVar[Mapping[str, Function | str]] = {**fields, "RouteLabels": "route_labels", "Tocsin": "tocsin"}
    json_names: ClassVar[Mapping[str, str]] = {
        "Receiver": "receiver",
        "Status": "status",
        "Alerts": "alerts",
        "NotificationReason": "notification_reason",
        "GroupLabels": "groupLabels",
        "CommonLabels": "commonLabels",
        "CommonAnnotations": "commonAnnotations",
        "ExternalURL": "externalURL",
        "RouteLabels": "routeLabels",
    }

    def shown_fields(self) -> list[tuple[str, Value]]:
        """Return the fields; labels of the route only where it has some, since most Alertmanagers know of none."""
        # Not super(): a dataclass with slots is another class than the one its methods were written in.
        shown = Struct.shown_fields(self)
        return [*shown, ("RouteLabels", self.route_labels)] if self.route_labels else shown


KV_FIELDS: Final = frozenset(
    {"Labels", "Annotations", "GroupLabels", "CommonLabels", "CommonAnnotations", "RouteLabels"}
)
"""The fields of `Data` and `Alert` that hold labels or annotations."""


def data(notification: Notification) -> Data:
    """Return what templates see of `notification`. A firing alert has no end: it is Go's zero time."""
    shown = Alerts(
        Alert(
            alert.status(notification.now),
            KV(alert.labels),
            KV(alert.annotations),
            times.from_unix(alert.starts_at),
            times.from_unix(alert.ends_at) if alert.resolved(notification.now) else times.ZERO,
            alert.generator_url,
            alert.fingerprint,
        )
        for alert in notification.alerts
    )
    return Data(
        receiver=go_quote_meta(notification.receiver),
        status=notification.status,
        alerts=shown,
        notification_reason=str(notification.reason),
        group_labels=KV(notification.group_labels),
        common_labels=KV(common(alert.labels for alert in notification.alerts)),
        common_annotations=KV(common(alert.annotations for alert in notification.alerts)),
        external_url=notification.external_url,
        route_labels=KV(notification.route_labels),
        tocsin=Words(notification),
    )
