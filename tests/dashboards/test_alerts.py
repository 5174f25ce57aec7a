"""Each alert, judged by the real promtool: it fires, it stays quiet, it ends."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tocsin.names import (
    HTTP_SERVER_REQUEST_DURATION,
    NOTIFICATIONS_FAILED,
    OUTBOX_OLDEST,
    SHIP_DEAD,
    SHIP_LAG_SECONDS,
)
from tocsin_dashboards import Slo, build, lint, rules

REQUESTS = f"{HTTP_SERVER_REQUEST_DURATION.name}_count"
HOUR = 60
"""Minutes; histories below are told in minutes."""


def document(slo: Slo | None = None, *, every: float = 15) -> rules.Document:
    """Return the rules for one objective, scraped and evaluated every so many seconds."""
    return rules.build([slo] if slo else build.DEFAULT_SLOS, scrape_interval=every, evaluation_interval=every)


def counter(*phases: tuple[int, float], start: float = 0) -> str:
    """Return a counter in promtool's notation: phases of (steps, growth per step), each going on from the last."""
    parts, value = [f"{start:g}"], start
    for steps, growth in phases:
        parts.append(f"{value + growth:.10g}+{growth:.10g}x{steps - 1}")
        value += steps * growth
    return " ".join(parts)


def requests(*phases: tuple[int, float, float], service: str = "shop") -> dict[str, str]:
    """Return the request counters of a service from phases of (minutes, requests per minute, failing share)."""
    labels = f'service="{service}",instance="a:80",http_request_method="GET",http_route="/buy"'
    return {
        f'{REQUESTS}{{{labels},http_response_status_code="200"}}': counter(
            *((minutes, rate * (1 - share)) for minutes, rate, share in phases)
        ),
        f'{REQUESTS}{{{labels},http_response_status_code="503"}}': counter(
            *((minutes, rate * share) for minutes, rate, share in phases)
        ),
    }


def firing(alert: str) -> str:
    return f'count by (severity, service) (ALERTS{{alertname="{alert}",alertstate="firing"}})'


PAGE_SHOP = {'{severity="page", service="shop"}': 1}
TICKET_SHOP = {'{severity="ticket", service="shop"}': 1}
NOTHING: dict[str, float] = {}


def test_promtool_accepts_the_generated_rules(promtool: Path) -> None:
    """The committed rules file is one that Prometheus loads."""
    done = subprocess.run(
        [promtool, "check", "rules", build.GENERATED / build.RULES_FILE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "SUCCESS" in done.stdout


BURNING = (
    pytest.param(
        "SloBudgetBurnFast",
        PAGE_SHOP,
        [(2 * HOUR, 600, 0), (20, 600, 1), (30, 600, 0)],
        (2 * HOUR + 1, 2 * HOUR + 28),
        id="fast: an outage pages after one minute and ends within eight",
    ),
    pytest.param(
        "SloBudgetBurnFast",
        PAGE_SHOP,
        [(2 * HOUR, 600, 0), (20, 600, 1), (30, 600, 0.005)],
        (2 * HOUR + 1, 2 * HOUR + 28),
        id="fast: it ends although a few still fail",
    ),
    pytest.param(
        "SloBudgetBurnFast",
        PAGE_SHOP,
        [(2 * HOUR, 600, 0), (30, 600, 0.1), (30, 600, 0)],
        (2 * HOUR + 9, 2 * HOUR + 38),
        id="fast: one failure in ten pages after nine minutes",
    ),
    pytest.param(
        "SloBudgetBurn",
        PAGE_SHOP,
        [(HOUR, 600, 0), (5 * HOUR, 600, 0.01), (2 * HOUR, 600, 0)],
        (4 * HOUR, 6 * HOUR + 35),
        id="burn: one percent for hours",
    ),
    pytest.param(
        "SloBudgetBurnSlow",
        TICKET_SHOP,
        [(HOUR, 6000, 0), (20 * HOUR, 6000, 0.004), (3 * HOUR, 6000, 0)],
        (20 * HOUR, 23 * HOUR + 5),
        id="slow: 0.4 percent for most of a day",
    ),
    pytest.param(
        "SloBudgetBurnCreep",
        TICKET_SHOP,
        [(HOUR, 6000, 0), (12 * HOUR, 6000, 0.002), (7 * HOUR, 6000, 0)],
        (12 * HOUR, 19 * HOUR + 30),
        id="creep: twice the allowed share",
    ),
)


@pytest.mark.parametrize(("alert", "expected", "phases", "moments"), BURNING)
def test_a_burning_budget_rings_and_stops(
    judge: Callable[[Any], None],
    scenario: Callable[..., Any],
    *,
    alert: str,
    expected: dict[str, float],
    phases: list[tuple[int, float, float]],
    moments: tuple[int, int],
) -> None:
    """Each pace of burning raises its own alert, with its severity, not before the trouble and not long after it."""
    fires, ends = moments
    judge(
        scenario(
            document(),
            requests(*phases),
            found={
                (phases[0][0], firing(alert)): NOTHING,
                (fires, firing(alert)): expected,
                (ends, firing(alert)): NOTHING,
            },
        )
    )


JUST_BELOW = (
    ("SloBudgetBurnFast", 0.0140),
    ("SloBudgetBurn", 0.0055),
    ("SloBudgetBurnSlow", 0.0028),
    ("SloBudgetBurnCreep", 0.0009),
)


@pytest.mark.parametrize(("alert", "share"), JUST_BELOW)
def test_a_pace_just_below_the_limit_is_quiet(
    judge: Callable[[Any], None], scenario: Callable[..., Any], alert: str, share: float
) -> None:
    """An alert keeps quiet as long as the share of failures stays under its own limit."""
    judge(
        scenario(
            document(),
            requests((8 * HOUR, 60_000, share)),
            found={(minute, firing(alert)): NOTHING for minute in (10, HOUR, 4 * HOUR, 8 * HOUR)},
        )
    )


ANY_SLO_ALERT = 'count by (alertname) (ALERTS{alertname=~"SloBudget.*",alertstate="firing"})'


@pytest.mark.parametrize(
    "phases",
    [
        pytest.param([(30, 0, 0), (7, 1, 0), (1, 1, 1), (90, 0, 0)], id="one failure among eight at night"),
        pytest.param([(2 * HOUR, 0, 0)], id="no request at all"),
        pytest.param([(HOUR, 600, 0), (2 * HOUR, 0, 0)], id="traffic stops"),
        pytest.param([(3 * HOUR, 600, 0)], id="all is well"),
    ],
)
def test_low_traffic_silence_and_health_are_quiet(
    judge: Callable[[Any], None], scenario: Callable[..., Any], phases: list[tuple[int, float, float]]
) -> None:
    """Nobody is woken by a single failure, nor by silence; and no recorded series is ever NaN."""
    end = sum(minutes for minutes, _, _ in phases)
    moments = range(5, end, 10)
    names = sorted(lint.recorded(document()))
    judge(
        scenario(
            document(),
            requests(*phases),
            found={
                **{(minute, ANY_SLO_ALERT): NOTHING for minute in moments},
                **{(minute, f"{name} != {name}"): NOTHING for minute in moments for name in names},
            },
        )
    )


def test_the_words_of_an_alert_say_what_failed_and_what_it_costs(
    judge: Callable[[Any], None], scenario: Callable[..., Any]
) -> None:
    """The text names the measured share, the promise and how long the budget lasts at this pace."""
    loaded = rules.build(
        build.DEFAULT_SLOS,
        scrape_interval=15,
        runbook_base="https://git.example/shop/docs/runbooks/",
        grafana_base="https://grafana.example/",
    )
    text = (
        "50% of the requests of web shop failed in the last 60 min. 99.9 % over 30 d must succeed, so 0.1 % may fail. "
        "At this pace the whole month's error budget is gone in 1h 26m 24s."
    )
    judge(
        scenario(
            loaded,
            requests((90, 600, 0.5), service="web shop"),
            alerts={
                (80, "SloBudgetBurnFast"): [
                    {
                        "exp_labels": {"severity": "page", "service": "web shop", "slo": "availability"},
                        "exp_annotations": {
                            "summary": "web shop fails 50% of its requests",
                            "description": text,
                            "runbook_url": "https://git.example/shop/docs/runbooks/SloBudgetBurnFast.md",
                            "dashboard_url": "https://grafana.example/d/tocsin-service?var-service=web+shop",
                        },
                    }
                ]
            },
        )
    )


def test_a_service_is_judged_by_itself(judge: Callable[[Any], None], scenario: Callable[..., Any]) -> None:
    """A large healthy service does not hide a small broken one, nor is it blamed for it."""
    judge(
        scenario(
            document(),
            {**requests((2 * HOUR, 60_000, 0), service="big"), **requests((2 * HOUR, 60, 0.5))},
            found={(HOUR, firing("SloBudgetBurnFast")): PAGE_SHOP},
        )
    )


def test_an_objective_for_one_route_looks_at_that_route_only(
    judge: Callable[[Any], None], scenario: Callable[..., Any]
) -> None:
    """An alert about a route carries the route, and failures elsewhere do not raise it."""
    paid = Slo("pay", "shop", 99.9, route="/buy")
    healthy = {name.replace("/buy", "/see"): text for name, text in requests((2 * HOUR, 600, 0)).items()}
    expr = 'count by (alertname, service, http_route, slo) (ALERTS{alertname="SloBudgetBurnFast"})'
    judge(
        scenario(
            document(paid),
            {**requests((2 * HOUR, 600, 0.5)), **healthy},
            found={
                (HOUR, expr): {
                    '{alertname="SloBudgetBurnFast", service="shop", http_route="/buy", slo="pay"}': 1,
                }
            },
        )
    )
    judge(
        scenario(
            document(Slo("see", "shop", 99.9, route="/see")),
            {**requests((2 * HOUR, 600, 0.5)), **healthy},
            found={(HOUR, expr): NOTHING},
        )
    )


@pytest.mark.parametrize("window", [30 * 86_400, 4 * 3600])
def test_the_budget_that_is_left_is_counted(
    judge: Callable[[Any], None], scenario: Callable[..., Any], window: float
) -> None:
    """Half the allowed failures spent leaves half; none spent leaves all, even without a request."""
    slo = Slo("availability", None, 99.9, window=window)
    left = "round(slo:error_budget_remaining:ratio, 0.1)"
    allowed = "round(slo:error_budget_remaining:requests, 100)"
    length = "30d" if window > 86_400 else "4h"
    labels = f'{{service="shop", slo="availability", slo_window="{length}"}}'
    judge(
        scenario(
            document(slo),
            requests((3 * HOUR, 6000, 0.0005)),
            found={(3 * HOUR, left): {labels: 0.5}, (3 * HOUR, allowed): {labels: 500}},
        )
    )
    judge(scenario(document(slo), requests((HOUR, 0, 0)), found={(HOUR, left): {labels: 1}}))


def test_the_demo_pages_within_seconds(judge: Callable[[Any], None], scenario: Callable[..., Any]) -> None:
    """Over a window of 12 hours scraped every 2 s, an outage under light traffic pages within 10 s."""
    slo = Slo("availability", None, 99.9, window=12 * 3600)
    outage = requests((60, 10, 0), (30, 10, 1))
    judge(
        scenario(
            document(slo, every=2),
            outage,
            found={
                (2, firing("SloBudgetBurnFast")): NOTHING,
                (2 + 10 / 60, firing("SloBudgetBurnFast")): PAGE_SHOP,
            },
            interval="2s",
        )
    )


UP = 'up{job="shop",instance="%s"}'
ROUTER_UP = 'up{job="tocsin",instance="r"}'
FAILED_LABELS = 'job="tocsin",instance="r",service="tocsin",integration="slack",reason="clientError"'
FAILED = f"{NOTIFICATIONS_FAILED.name}{{{FAILED_LABELS}}}"
SHIP_UP = 'up{job="ship",instance="s"}'
DEAD = f'{SHIP_DEAD.name}{{job="ship",instance="s",service="ship",output="es",reason="mapping"}}'
OLDEST = f'{OUTBOX_OLDEST.name}{{service="tocsin",instance="r"}}'
LAG = f'{SHIP_LAG_SECONDS.name}{{service="ship",instance="s",input="app",output="es"}}'


FIRING = (
    pytest.param(
        "TargetDown",
        "page",
        {UP % "a": "1x10 0x5 1x10", UP % "b": "1x10 0x5 1x10"},
        (13, 17),
        id="TargetDown: all targets of a job",
    ),
    pytest.param(
        "TargetDown",
        "ticket",
        {UP % "a": "1x10 0x10 1x10", UP % "b": "1x40"},
        (17, 22),
        id="TargetDown: half the targets of a job",
    ),
    pytest.param(
        "NotifyFailing", "page", {FAILED: "_x10 1x40", ROUTER_UP: "1x60"}, (11, 28), id="NotifyFailing: the first ever"
    ),
    pytest.param(
        "NotifyFailing", "page", {FAILED: "3x20 4x40", ROUTER_UP: "1x60"}, (22, 38), id="NotifyFailing: one more"
    ),
    pytest.param("OutboxStuck", "page", {OLDEST: "0x10 130+60x5 0x10"}, (13, 18), id="OutboxStuck"),
    pytest.param("LogShipperLag", "ticket", {LAG: "1x10 61+60x10 0x10"}, (18, 23), id="LogShipperLag"),
    pytest.param("LogsDead", "ticket", {DEAD: "_x10 1x40", SHIP_UP: "1x60"}, (11, 28), id="LogsDead: the first ever"),
    pytest.param("LogsDead", "ticket", {DEAD: "0x10 5x40", SHIP_UP: "1x60"}, (12, 28), id="LogsDead: more of them"),
)


@pytest.mark.parametrize(("alert", "severity", "series", "moments"), FIRING)
def test_an_alert_fires_and_ends(
    judge: Callable[[Any], None],
    scenario: Callable[..., Any],
    *,
    alert: str,
    severity: str,
    series: dict[str, str],
    moments: tuple[int, int],
) -> None:
    """Quiet before, firing with its severity during, quiet after."""
    fires, ends = moments
    expr = f'count by (severity) (ALERTS{{alertname="{alert}",alertstate="firing"}})'
    judge(
        scenario(
            document(),
            series,
            found={
                (9, expr): NOTHING,
                (fires, expr): {f'{{severity="{severity}"}}': 1},
                (ends, expr): NOTHING,
            },
        )
    )


QUIET = (
    pytest.param("TargetDown", {UP % "a": "1x5 0 1x30", UP % "b": "1x5 0 1x30"}, id="TargetDown: one restart"),
    pytest.param(
        "TargetDown", {UP % "a": "0x30", UP % "b": "1x30", UP % "c": "1x30"}, id="TargetDown: one target of three"
    ),
    pytest.param("NotifyFailing", {FAILED: "7x30", ROUTER_UP: "1x30"}, id="NotifyFailing: an old failure"),
    pytest.param(
        "NotifyFailing",
        {FAILED: "7x10 _x5 7x15", ROUTER_UP: "1x10 0x4 1x15"},
        id="NotifyFailing: an old failure seen again after an outage",
    ),
    pytest.param("OutboxStuck", {OLDEST: "0x5 100x20"}, id="OutboxStuck: slow, but moving"),
    pytest.param("LogShipperLag", {LAG: "5x5 90x2 5x20"}, id="LogShipperLag: a short jam"),
    pytest.param("LogsDead", {DEAD: "7x30", SHIP_UP: "1x30"}, id="LogsDead: old dead letters"),
)


@pytest.mark.parametrize(("alert", "series"), QUIET)
def test_an_alert_stays_quiet(
    judge: Callable[[Any], None], scenario: Callable[..., Any], alert: str, series: dict[str, str]
) -> None:
    """What passes by itself, or lies in the past, wakes nobody."""
    expr = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    judge(scenario(document(), series, found={(minute, expr): NOTHING for minute in range(1, 30)}))


def test_the_watchdog_always_fires(judge: Callable[[Any], None], scenario: Callable[..., Any]) -> None:
    """Watchdog needs no metric and never ends, so that its absence means something."""
    expr = 'count by (severity) (ALERTS{alertname="Watchdog",alertstate="firing"})'
    judge(scenario(document(), {}, found={(minute, expr): {'{severity="none"}': 1} for minute in (0, 1, 600)}))


def test_every_alert_has_its_cases_here() -> None:
    """An alert added to the rules without a case that fires and one that stays quiet fails this test."""
    alerts = {str(rule["alert"]) for _, rule in lint.each_rule(document()) if "alert" in rule}
    fires = {case.values[0] for case in (*BURNING, *FIRING)} | {"Watchdog"}
    quiet = {case.values[0] for case in QUIET} | {alert for alert, _ in JUST_BELOW} | {"Watchdog"}
    assert fires == alerts
    assert quiet == alerts
