"""How a metric is described in a segment, and how the numbers of several workers become one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tocsin.names import Metric


@dataclass(frozen=True, slots=True)
class Adopted:
    """A metric of prometheus_client, whose values are kept in a segment. Each value is a series of its own."""

    kind: str
    """counter, gauge, histogram, summary: as prometheus_client has it."""
    name: str
    """Without `_total`."""
    labels: tuple[str, ...]
    help: str
    mode: str
    """The `multiprocess_mode` of a gauge, else empty."""


class Rule(Enum):
    """How the values of one series in several processes become one."""

    SUM = "sum"
    SUM_LIVING = "sum over living processes"
    MAX = "max"
    MAX_LIVING = "max over living processes"
    MIN = "min"
    MIN_LIVING = "min over living processes"
    NEWEST = "set last"
    NEWEST_LIVING = "set last by a living process"
    EACH_LIVING = "one each per living process"

    @property
    def survives(self) -> bool:
        """Whether what a process counted stays when it is dead."""
        return self in (Rule.SUM, Rule.MAX, Rule.MIN, Rule.NEWEST)

    @property
    def adds(self) -> bool:
        """Whether the values are added up."""
        return self in (Rule.SUM, Rule.SUM_LIVING)


_MERGES = {"sum": Rule.SUM_LIVING, "max": Rule.MAX_LIVING, "min": Rule.MIN_LIVING, "max_ever": Rule.MAX}
_MODES = {
    "all": Rule.EACH_LIVING,
    "liveall": Rule.EACH_LIVING,
    "sum": Rule.SUM_LIVING,
    "livesum": Rule.SUM_LIVING,
    "max": Rule.MAX,
    "livemax": Rule.MAX_LIVING,
    "min": Rule.MIN,
    "livemin": Rule.MIN_LIVING,
    "mostrecent": Rule.NEWEST,
    "livemostrecent": Rule.NEWEST_LIVING,
}

_texts: dict[Metric | Adopted, str] = {}
_described: dict[str, Metric | Adopted] = {}
_rules: dict[str, Rule] = {}


def text_of(family: Metric | Adopted) -> str:
    """Return the description of a metric as it stands in a segment."""
    text = _texts.get(family)
    if text is None:
        fields: list[Any]
        if isinstance(family, Metric):
            fields = ["m", family.name, family.kind, family.help, family.labels, family.buckets, family.merge]
        else:
            fields = ["p", family.kind, family.name, family.labels, family.help, family.mode]
        text = _texts[family] = json.dumps(fields, separators=(",", ":"))
        _described[text] = family  # this very object, so that readers of this process find their own
    return text


def is_adopted(text: str) -> bool:
    """Whether a description is of a metric of prometheus_client."""
    return text.startswith('["p"')


def described(text: str) -> Metric | Adopted:
    """Return the metric that a description is of."""
    family = _described.get(text)
    if family is None:
        mark, *fields = json.loads(text)
        if mark == "m":
            name, kind, what, labels, buckets, merge = fields
            family = Metric(name, kind, what, tuple(labels), tuple(buckets), merge)
        else:
            kind, name, labels, what, mode = fields
            family = Adopted(kind, name, tuple(labels), what, mode)
        _described[text] = family
    return family


def rule_of(text: str) -> Rule:
    """Return how the values of a metric of several workers become one."""
    rule = _rules.get(text)
    if rule is None:
        rule = _rules[text] = _rule(described(text))
    return rule


def _rule(family: Metric | Adopted) -> Rule:
    if isinstance(family, Adopted):
        return _MODES.get(family.mode, Rule.EACH_LIVING) if family.kind == "gauge" else Rule.SUM
    if family.kind == "info":
        return Rule.SUM_LIVING
    return _MERGES[family.merge] if family.kind == "gauge" else Rule.SUM
