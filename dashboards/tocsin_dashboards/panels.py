"""Grafana dashboards as plain dicts: variables, panels, a grid. Pure; for Grafana 10 and newer.

Ids, refIds and places are given out here, so that no two panels can share one. Every panel reads from the datasource
variable, never from a datasource by name: a dashboard then works wherever it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any, Literal, TypeAlias

Json: TypeAlias = dict[str, Any]
"""A JSON object as Grafana reads it; its shape is Grafana's, described nowhere but there."""

Kind = Literal["stat", "timeseries", "heatmap", "table"]

COLUMNS = 24
SCHEMA = 39
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL query of a panel.

    Attributes:
        legend: how a series is called, with `{{label}}` filled in.
        exemplars: show the traces that stand behind the samples.
        instant: one value for now instead of a line over time.
    """

    expr: str
    legend: str = ""
    exemplars: bool = False
    instant: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: what it shows, in which unit, how large.

    Attributes:
        unit: Grafana's id of the unit, such as `s` or `percentunit`.
        description: for the reader at 3 a.m.: what it means and what is normal.
        width: columns, of 24.
        height: rows of about 30 pixels.
        warn: value at which the colour turns orange, or None.
        bad: value at which the colour turns red, or None. Below `warn`: less is worse.
        stacked: areas on top of each other (timeseries only).
        units: units of single columns by their name (table only), where they differ from `unit`.
        transformations: what Grafana does to the answers before it shows them, in its own notation.
    """

    title: str
    kind: Kind
    unit: str
    description: str
    queries: tuple[Query, ...]
    width: int
    height: int
    warn: float | None = None
    bad: float | None = None
    decimals: int | None = None
    stacked: bool = False
    units: Mapping[str, str] = field(default_factory=dict)
    transformations: tuple[Json, ...] = ()


def datasource_variable() -> Json:
    """Return the variable by which the reader chooses a Prometheus."""
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "options": [],
    }


def label_variable(name: str, label: str, selector: str, *, multi: bool) -> Json:
    """Return a variable `name` that offers the values of the label of the same name found on `selector`.

    `All` stands for `.*`, so that series without the label are part of it.
    """
    query = f"label_values({selector}, {name})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"variable-{name}"},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "multi": multi,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"] if multi else "All", "value": ["$__all"] if multi else "$__all"},
        "options": [],
    }


def dashboard(
    *, uid: str, title: str, description: str, variables: Sequence[Json], rows: Sequence[Sequence[Panel]]
) -> Json:
    """Return a dashboard whose panels stand in `rows`, from left to right.

    Raises:
        ValueError: a row is wider than 24 columns.
    """
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["tocsin"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(variables)},
        "annotations": {"list": [_alerts_annotation()]},
        "links": [
            {
                "type": "dashboards",
                "title": "tocsin",
                "tags": ["tocsin"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "panels": _place(rows),
    }


def _alerts_annotation() -> Json:
    return {
        "name": "Alerts",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertstate="firing",service=~"$service"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{severity}}",
        "step": "30s",
    }


def _place(rows: Sequence[Sequence[Panel]]) -> list[Json]:
    placed: list[Json] = []
    y = 0
    for row in rows:
        x = 0
        for panel in row:
            if x + panel.width > COLUMNS:
                raise ValueError(f'panel "{panel.title}" ends at column {x + panel.width}; a row has {COLUMNS}')
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            placed.append(_panel(panel, identity=len(placed) + 1, place=place))
            x += panel.width
        y += max(panel.height for panel in row)
    return placed


def _panel(panel: Panel, *, identity: int, place: Json) -> Json:
    return {
        "id": identity,
        "title": panel.title,
        "description": panel.description,
        "type": panel.kind,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": _OPTIONS[panel.kind],
        "targets": [
            _target(query, letter, panel.kind) for letter, query in zip(ascii_uppercase, panel.queries, strict=False)
        ],
        "transformations": list(panel.transformations),
    }


def _target(query: Query, letter: str, kind: Kind) -> Json:
    return {
        "refId": letter,
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend,
        "range": not query.instant,
        "instant": query.instant,
        "exemplar": query.exemplars,
        "format": kind if kind in ("heatmap", "table") else "time_series",
    }


def _defaults(panel: Panel) -> Json:
    defaults: Json = {
        "unit": panel.unit,
        "color": {"mode": "thresholds" if panel.kind in ("stat", "table") else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": _steps(panel)},
    }
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.kind == "stat":
        defaults["noValue"] = "nothing measured"
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 30 if panel.stacked else 10,
            "lineWidth": 1,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    return defaults


def _overrides(panel: Panel) -> list[Json]:
    return [
        {"matcher": {"id": "byName", "options": column}, "properties": [{"id": "unit", "value": unit}]}
        for column, unit in panel.units.items()
    ]


def _steps(panel: Panel) -> list[Json]:
    """Return the colours by value; with `bad` below `warn`, less is worse."""
    lowest, colours = "green", [("orange", panel.warn), ("red", panel.bad)]
    if panel.warn is not None and panel.bad is not None and panel.bad < panel.warn:
        lowest, colours = "red", [("orange", panel.bad), ("green", panel.warn)]
    steps: list[Json] = [{"color": lowest, "value": None}]
    return steps + [{"color": colour, "value": value} for colour, value in colours if value is not None]


_OPTIONS: dict[Kind, Json] = {
    "stat": {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value",
    },
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"unit": "short"},
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "fill": "dark-orange", "reverse": False},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "unit": "s"},
    },
    "table": {
        "cellHeight": "sm",
        "footer": {"show": False, "reducer": ["sum"], "countRows": False, "fields": ""},
        "showHeader": True,
    },
}
