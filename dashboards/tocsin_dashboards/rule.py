"""One Prometheus rule, one group of rules and the links an alert carries, as plain values for YAML. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tocsin_service import durations

Severity = Literal["page", "ticket", "none"]
"""`page` wakes somebody, `ticket` can wait for the morning, `none` is for machines."""

Rule: TypeAlias = dict[str, str | dict[str, str]]
"""One rule as Prometheus reads it: `record` or `alert`, `expr`, and where needed `for`, `labels`, `annotations`."""

Group: TypeAlias = dict[str, str | list[Rule]]
"""One group of rules as Prometheus reads it: `name`, `interval`, `rules`."""

RUNBOOKS = "docs/runbooks"
"""Where the runbooks stand in the repository: the default base of every `runbook_url`."""


@dataclass(frozen=True, slots=True)
class Links:
    """Where the links in an alert point to.

    Attributes:
        runbook_base: folder or URL that holds `<AlertName>.md`.
        grafana_base: URL of Grafana without a path, or None for no dashboard link.
    """

    runbook_base: str = RUNBOOKS
    grafana_base: str | None = None

    def runbook(self, alert: str) -> str:
        """Return the address of the runbook of `alert`."""
        return f"{self.runbook_base.rstrip('/')}/{alert}.md"

    def dashboard(self, uid: str) -> str | None:
        """Return the address of a dashboard, opened for the alert's service, as an alert template."""
        if self.grafana_base is None:
            return None
        return f"{self.grafana_base.rstrip('/')}/d/{uid}?var-service={{{{ $labels.service | urlquery }}}}"


def recording(name: str, expr: str, labels: Mapping[str, str] | None = None) -> Rule:
    """Return a rule that records `expr` under `name`."""
    rule: Rule = {"record": name, "expr": expr}
    return {**rule, "labels": dict(labels)} if labels else rule


def alert(
    name: str,
    expr: str,
    *,
    severity: Severity,
    summary: str,
    description: str,
    links: Links,
    hold: float = 0,
    labels: Mapping[str, str] | None = None,
    dashboard: str | None = None,
) -> Rule:
    """Return a rule that fires where `expr` has held for `hold` seconds.

    Arguments:
        summary: one line for a person; may hold alert templates, like `description`.
        labels: more labels than `severity` and those of the expression.
        dashboard: uid of the dashboard to look at; linked only if `links` knows a Grafana.
    """
    annotations = {"summary": summary, "description": description, "runbook_url": links.runbook(name)}
    address = links.dashboard(dashboard) if dashboard else None
    if address:
        annotations["dashboard_url"] = address
    rule: Rule = {"alert": name, "expr": expr}
    if hold:
        rule["for"] = durations.render(hold)
    return {**rule, "labels": {"severity": severity, **(labels or {})}, "annotations": annotations}


def group(name: str, interval: float, rules: Iterable[Rule]) -> Group:
    """Return a group whose rules are evaluated together, in order, every `interval` seconds."""
    return {"name": name, "interval": durations.render(interval), "rules": list(rules)}
