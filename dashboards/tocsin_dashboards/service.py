"""The dashboard of one service: how many requests, how many fail, how long they take, what is left of the promise."""

from __future__ import annotations

from tocsin.names import HTTP_SERVER_ACTIVE_REQUESTS, HTTP_SERVER_REQUEST_DURATION
from tocsin_dashboards.panels import Json, Panel, Query, dashboard, datasource_variable, label_variable
from tocsin_dashboards.promql import select, total
from tocsin_dashboards.slo import BUDGET_LEFT, DASHBOARD, FAILED, FAILURES_LEFT, REQUESTS

UID = DASHBOARD

_BUCKETS = f"{HTTP_SERVER_REQUEST_DURATION.name}_bucket"
_SERVICE = 'service=~"$service"'
_INSTANCE = 'instance=~"$instance"'
_ROUTE = 'http_route=~"$http_route"'
_SCOPE = (_SERVICE, _INSTANCE, _ROUTE)
_TINY = "1e-9"
"""Divisor of last resort: without traffic a share is 0, not NaN."""


def build() -> Json:
    """Return the dashboard as Grafana reads it."""
    return dashboard(
        uid=UID,
        title="Service",
        description="Rate, errors and duration of one service, and what is left of its error budget.",
        variables=[
            datasource_variable(),
            label_variable("service", "Service", REQUESTS, multi=False),
            label_variable("instance", "Instance", select(REQUESTS, (_SERVICE,)), multi=True),
            label_variable("http_route", "Route", select(REQUESTS, (_SERVICE,)), multi=True),
        ],
        rows=[
            _now(),
            [_rate_by_route(), _failing_by_route()],
            [_latency(), _heatmap()],
            [_statuses(), _in_flight_by_method()],
            [_slow_routes()],
            [_budget(), _failures_left()],
        ],
    )


def _rate(*matchers: str, by: tuple[str, ...] = (), window: str = "$__rate_interval") -> str:
    return total(by, f"rate({select(REQUESTS, (*_SCOPE, *matchers))}[{window}])")


def _failing(by: tuple[str, ...] = (), window: str = "$__rate_interval") -> str:
    """Return the failing share of requests; 0 where none failed or none came."""
    every = _rate(by=by, window=window)
    return f"({_rate(FAILED, by=by, window=window)} or 0 * {every}) / clamp_min({every}, {_TINY})"


def _quantile(share: float, by: tuple[str, ...] = (), window: str = "$__rate_interval") -> str:
    """Return a quantile of the duration in seconds; no value, rather than NaN, where no request came."""
    buckets = total((*by, "le"), f"rate({select(_BUCKETS, _SCOPE)}[{window}])")
    return f"histogram_quantile({share:g}, {buckets}) >= 0"


def _now() -> list[Panel]:
    budget = select(BUDGET_LEFT, (_SERVICE,))
    in_flight = select(HTTP_SERVER_ACTIVE_REQUESTS.name, (_SERVICE, _INSTANCE))
    firing = select("ALERTS", ('alertstate="firing"', _SERVICE))
    return [
        Panel(
            "Requests",
            "stat",
            "reqps",
            "Requests answered each second, all statuses. A sudden drop to 0 is as bad as errors.",
            (Query(_rate()),),
            width=4,
            height=4,
        ),
        Panel(
            "Failing",
            "stat",
            "percentunit",
            "Share of requests answered with a 5xx status. Normal is 0; what is allowed depends on the objective.",
            (Query(_failing()),),
            width=4,
            height=4,
            warn=0.001,
            bad=0.01,
            decimals=2,
        ),
        Panel(
            "Slowest 5 %",
            "stat",
            "s",
            "95 of 100 requests are faster than this. Estimated from buckets, so it moves in steps.",
            (Query(_quantile(0.95)),),
            width=4,
            height=4,
            warn=0.5,
            bad=2,
        ),
        Panel(
            "In flight",
            "stat",
            "short",
            "Requests being answered right now. Growing without more traffic: something behind the service is stuck.",
            (Query(f"sum({in_flight}) or vector(0)"),),
            width=4,
            height=4,
        ),
        Panel(
            "Alerts firing",
            "stat",
            "short",
            "Prometheus alerts that fire for this service. 0 is normal. Silenced alerts count too.",
            (Query(f"count({firing}) or vector(0)"),),
            width=4,
            height=4,
            bad=1,
        ),
        Panel(
            "Error budget left",
            "stat",
            "percentunit",
            "Share of the failures the objective allows that is not yet spent. Below 0 the promise is broken.",
            (Query(f"min({budget})"),),
            width=4,
            height=4,
            warn=0.5,
            bad=0.1,
            decimals=1,
        ),
    ]


def _rate_by_route() -> Panel:
    return Panel(
        "Requests by route",
        "timeseries",
        "reqps",
        "Requests each second by route template. One route that stops alone is usually a routing or release mistake.",
        (Query(_rate(by=("http_route",)), "{{http_route}}"),),
        width=12,
        height=8,
    )


def _failing_by_route() -> Panel:
    return Panel(
        "Failing by route",
        "timeseries",
        "percentunit",
        "Share of each route's requests answered with a 5xx status. One route: its code. All routes: what they share.",
        (Query(_failing(by=("http_route",)), "{{http_route}}"),),
        width=12,
        height=8,
    )


def _latency() -> Panel:
    return Panel(
        "Duration",
        "timeseries",
        "s",
        "Half, 95 and 99 of 100 requests are faster than these lines. The dots are single requests: click one to see "
        "its trace.",
        tuple(Query(_quantile(share), f"p{share * 100:g}", exemplars=True) for share in (0.5, 0.95, 0.99)),
        width=12,
        height=8,
    )


def _heatmap() -> Panel:
    buckets = select(_BUCKETS, _SCOPE)
    return Panel(
        "Duration, all requests",
        "heatmap",
        "short",
        "How many requests took how long. Two bands mean two kinds of requests, such as cached and not cached.",
        (Query(total(("le",), f"increase({buckets}[$__rate_interval])"), "{{le}}", exemplars=True),),
        width=12,
        height=8,
    )


def _statuses() -> Panel:
    return Panel(
        "Status codes",
        "timeseries",
        "reqps",
        "Requests each second by status. Look for 401 and 403 (credentials), 429 (rate limit), 499 and 5xx.",
        (Query(_rate(by=("http_response_status_code",)), "{{http_response_status_code}}"),),
        width=12,
        height=8,
        stacked=True,
    )


def _in_flight_by_method() -> Panel:
    in_flight = select(HTTP_SERVER_ACTIVE_REQUESTS.name, (_SERVICE, _INSTANCE))
    return Panel(
        "In flight by method",
        "timeseries",
        "short",
        "Requests being answered at each moment. It follows traffic times duration; if it only climbs, requests hang.",
        (Query(total(("http_request_method",), in_flight), "{{http_request_method}}"),),
        width=12,
        height=8,
        stacked=True,
    )


def _slow_routes() -> Panel:
    by = ("http_route",)
    columns = {"http_route": "Route", "Value #A": "p95", "Value #B": "Requests/s", "Value #C": "Failing"}
    return Panel(
        "Slowest routes",
        "table",
        "s",
        "The ten slowest routes over the time shown, with how often they are called and how many of those calls fail.",
        (
            Query(f"topk(10, {_quantile(0.95, by, '$__range')})", instant=True),
            Query(_rate(by=by, window="$__range"), instant=True),
            Query(_failing(by, "$__range"), instant=True),
        ),
        width=24,
        height=9,
        units={"Requests/s": "reqps", "Failing": "percentunit"},
        transformations=(
            {"id": "joinByField", "options": {"byField": "http_route", "mode": "outer"}},
            {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
            {"id": "organize", "options": {"excludeByName": {}, "indexByName": {}, "renameByName": columns}},
            {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": "p95", "desc": True}]}},
            {"id": "limit", "options": {"limitField": 10}},
        ),
    )


def _budget() -> Panel:
    return Panel(
        "Error budget left over time",
        "timeseries",
        "percentunit",
        "What is left of each objective's error budget. A flat line is peace; a cliff is an incident; below 0 the "
        "promise is broken. Needs the rules of tocsin in Prometheus.",
        (Query(select(BUDGET_LEFT, (_SERVICE,)), "{{service}} {{slo}} ({{slo_window}})"),),
        width=12,
        height=8,
    )


def _failures_left() -> Panel:
    return Panel(
        "Failures still allowed",
        "timeseries",
        "short",
        "How many more requests may fail before the objective is missed. Needs the rules of tocsin in Prometheus.",
        (Query(select(FAILURES_LEFT, (_SERVICE,)), "{{service}} {{slo}} ({{slo_window}})"),),
        width=12,
        height=8,
    )
