"""Checks on dashboards and rules: what makes a panel empty, an alert mute or a page unreadable. Pure.

Every check returns sentences for a person, each with the place it is about; an empty list is a pass.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import combinations

import promql_parser

from tocsin.names import METRICS
from tocsin_dashboards.panels import COLUMNS, Json
from tocsin_dashboards.rules import Document

MAXIMUM_PANELS = 16
"""Panels beyond which nobody finds anything at 3 a.m."""

PROMETHEUS_OWN = frozenset({"up", "ALERTS"})
"""Series that Prometheus writes by itself."""

MACROS = {"__rate_interval": "1m", "__interval": "15s", "__range": "1h"}
"""Grafana's own variables, with durations that let a query be parsed."""

_LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+), (?P<label>\w+)\)")
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
_ANNOTATIONS = ("summary", "description", "runbook_url")
_SEVERITIES = ("page", "ticket", "none")


def resolve(expr: str, values: Mapping[str, str]) -> str:
    """Return `expr` with its `$variables` filled in from `values` and Grafana's own from MACROS.

    Raises:
        KeyError: a variable that neither knows.
    """
    known = {**MACROS, **values}
    return _VARIABLE.sub(lambda match: known[match[1] or match[2]], expr)


def series_of_metrics() -> frozenset[str]:
    """Return every series name that tocsin's metrics appear under when scraped."""
    names: set[str] = set(PROMETHEUS_OWN)
    for metric in METRICS:
        names |= (
            {f"{metric.name}{suffix}" for suffix in ("_bucket", "_sum", "_count")}
            if metric.kind == "histogram"
            else {metric.name}
        )
    return frozenset(names)


def recorded(document: Document) -> frozenset[str]:
    """Return the names of the series that a rules file records."""
    return frozenset(str(rule["record"]) for _, rule in each_rule(document) if "record" in rule)


def metrics_in(expr: str) -> frozenset[str]:
    """Return the names of the series that an expression reads; "" stands for a selector without a name.

    Raises:
        ValueError: not PromQL.
    """
    names: set[str] = set()

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            names.add(node.name or "")

    promql_parser.walk(promql_parser.parse(expr), visit)
    return frozenset(names)


def each_rule(document: Document) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the rules of a file, each with `group/name` to speak of it."""
    for group in document["groups"]:
        for rule in group["rules"]:
            if isinstance(rule, dict):
                yield f"{group['name']}/{rule.get('alert', rule.get('record'))}", rule


def rules(document: Document) -> list[str]:
    """Return what is wrong with a rules file."""
    known = series_of_metrics() | recorded(document)
    problems: list[str] = []
    for where, rule in each_rule(document):
        problems += _expression(where, str(rule["expr"]), known)
        if "alert" in rule:
            problems += _alert(where, rule)
    return problems


def dashboard(board: Json, *, known: Collection[str]) -> list[str]:
    """Return what is wrong with a dashboard whose queries may read the series `known`."""
    panels: list[Json] = board["panels"]
    problems = []
    if len(panels) > MAXIMUM_PANELS:
        problems.append(f"{board['uid']}: {len(panels)} panels; at most {MAXIMUM_PANELS} can be taken in")
    problems += _repeated(board["uid"], "panel id", (panel["id"] for panel in panels))
    problems += _layout(panels)
    problems += _datasources(board)
    variables = {variable["name"]: ".*" for variable in board["templating"]["list"]}
    for where, expr in _page_queries(board):
        problems += _query(where, expr, variables, known)
    for panel in panels:
        problems += _panel(panel, variables, known)
    return problems


def _page_queries(board: Json) -> Iterator[tuple[str, str]]:
    """Yield the queries that belong to no panel: those of annotations and variables."""
    for annotation in board["annotations"]["list"]:
        yield f'annotation "{annotation["name"]}"', annotation["expr"]
    for variable in board["templating"]["list"]:
        match = _LABEL_VALUES.fullmatch(variable.get("definition", ""))
        if match:
            yield f"variable ${variable['name']}", match["selector"]


def _panel(panel: Json, variables: Mapping[str, str], known: Collection[str]) -> Iterator[str]:
    where = f'panel "{panel["title"]}"'
    for name, value in (("unit", panel["fieldConfig"]["defaults"].get("unit")), ("description", panel["description"])):
        if not value:
            yield f"{where}: no {name}"
    if not panel["targets"]:
        yield f"{where}: no query"
    yield from _repeated(where, "refId", (target["refId"] for target in panel["targets"]))
    for target in panel["targets"]:
        yield from _query(where, target["expr"], variables, known)


def _query(where: str, text: str, variables: Mapping[str, str], known: Collection[str]) -> Iterator[str]:
    try:
        expr = resolve(text, variables)
    except KeyError as unknown:
        yield f"{where}: the variable ${unknown.args[0]} is not defined"
    else:
        yield from _expression(where, expr, known)


def _expression(where: str, expr: str, known: Collection[str]) -> Iterator[str]:
    try:
        names = metrics_in(expr)
    except ValueError as error:
        yield f"{where}: not PromQL: {error}: {expr}"
        return
    for name in sorted(names - set(known)):
        yield f"{where}: nothing writes the series {name or '(without a name)'}: {expr}"


def _alert(where: str, rule: Mapping[str, object]) -> Iterator[str]:
    labels, annotations = rule.get("labels", {}), rule.get("annotations", {})
    severity = labels.get("severity") if isinstance(labels, Mapping) else None
    if severity not in _SEVERITIES:
        yield f"{where}: severity is {severity}; write one of {', '.join(_SEVERITIES)}"
    for name in _ANNOTATIONS:
        if not isinstance(annotations, Mapping) or not annotations.get(name):
            yield f"{where}: no annotation {name}"


def _repeated(where: str, what: str, values: Iterable[object]) -> Iterator[str]:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{where}: {what} {value} stands {count} times"


def _layout(panels: list[Json]) -> Iterator[str]:
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] < 0 or place["w"] < 1 or place["h"] < 1 or place["x"] + place["w"] > COLUMNS:
            yield f'panel "{panel["title"]}": {place} does not fit into {COLUMNS} columns'
    for one, other in combinations(panels, 2):
        if _overlap(one["gridPos"], other["gridPos"]):
            yield f'panel "{one["title"]}" and panel "{other["title"]}" lie on top of each other'


def _overlap(one: Json, other: Json) -> bool:
    return bool(
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def _datasources(board: Json) -> Iterator[str]:
    """Yield the places that name a datasource instead of a variable: empty wherever that name does not exist."""
    for where, found in _find(board, "datasource", board["uid"]):
        uid = found.get("uid") if isinstance(found, Mapping) else found
        if not isinstance(uid, str) or not uid.startswith("${"):
            yield f"{where}: datasource {found}; write a variable such as ${{datasource}}"


def _find(node: object, key: str, where: str) -> Iterator[tuple[str, object]]:
    """Yield every value of `key` within nested objects and lists, with the path to it."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name == key:
                yield f"{where}.{name}", value
            else:
                yield from _find(value, key, f"{where}.{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _find(value, key, f"{where}[{index}]")
