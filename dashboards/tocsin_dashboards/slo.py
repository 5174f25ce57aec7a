"""A promise about a service, and the rules that watch over it. Pure.

The measure is the share of requests not answered with a 5xx status. It is always a sum divided by a sum: a quiet
night weighs as little as it should and silence gives no number at all, never NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tocsin.names import HTTP_SERVER_REQUEST_DURATION
from tocsin_dashboards import burn
from tocsin_dashboards.promql import equals, select, total
from tocsin_dashboards.rule import Group, Links, Rule, Severity, alert, group, recording
from tocsin_service import durations

REQUESTS = f"{HTTP_SERVER_REQUEST_DURATION.name}_count"
FAILED = 'http_response_status_code=~"5.."'
"""Matcher of the requests that count against a promise."""

DIRECT_UP_TO = 6 * burn.HOUR
"""Seconds up to which a window is read from the raw metric, which is exact and alerts about two minutes sooner; longer
windows add up recorded rates, which costs a tenth of the samples."""

BUDGET_LEFT = "slo:error_budget_remaining:ratio"
FAILURES_LEFT = "slo:error_budget_remaining:requests"
DASHBOARD = "tocsin-service"


@dataclass(frozen=True, slots=True)
class Slo:
    """A service level objective: of the requests of `service`, `objective` percent succeed over `window` seconds.

    Attributes:
        name: value of the label `slo`; short and lower case, such as `availability`.
        service: value of the label `service`, or None for every service, each with a budget of its own.
        objective: percent, between 0 and 100, such as 99.9.
        window: seconds looked back over.
        route: a route template such as `/checkout`, or None for all routes together.
        min_bad_events: failures within an alert's long window below which it stays quiet.
        severities: which of its alerts it has: `page` for the fast ones, `ticket` for the slow ones.

    Raises:
        ValueError: a value outside its bounds.
    """

    name: str
    service: str | None
    objective: float
    window: float = burn.MONTH
    route: str | None = None
    min_bad_events: int = 10
    severities: tuple[Severity, ...] = ("page", "ticket")

    def __post_init__(self) -> None:
        """Refuse what could not be watched."""
        where = f"slo {self.name!r}"
        if not self.name:
            raise ValueError("slo: the name is empty; give it a short one, such as availability")
        if not 0 < self.objective < 100:
            raise ValueError(
                f"{where}: objective is {self.objective:g}; write percent between 0 and 100, such as 99.9 "
                "(100 leaves no failure to spend, so nothing could be measured against it)"
            )
        if self.window < burn.MINUTE:
            raise ValueError(f"{where}: window is {self.window:g} s; at least 60 s are needed")
        if self.min_bad_events < 1:
            raise ValueError(f"{where}: min_bad_events is {self.min_bad_events}; write 1 or more")

    @property
    def budget(self) -> float:
        """Share of requests that may fail: 0.001 for an objective of 99.9."""
        # Twelve digits: 1 - 0.999 is 0.0010000000000000009 in floating point, which nobody wants to read in a rule.
        return round(1 - self.objective / 100, 12)

    @property
    def by(self) -> tuple[str, ...]:
        """The labels that each budget is kept by."""
        return ("service",) if self.route is None else ("service", "http_route")

    @property
    def scope(self) -> tuple[str, ...]:
        """The matchers of the requests that the promise is about."""
        service = () if self.service is None else (equals("service", self.service),)
        return service if self.route is None else (*service, equals("http_route", self.route))


def plan(slo: Slo, *, scrape_interval: float) -> tuple[tuple[burn.Pair, ...], tuple[burn.Dropped, ...]]:
    """Return the alerts that `slo` gets, and those it cannot have with the reason. Scrape interval in seconds."""
    pairs, dropped = burn.plan(budget=slo.budget, window=slo.window, scrape_interval=scrape_interval)
    return tuple(pair for pair in pairs if pair.severity in slo.severities), dropped


def groups(slo: Slo, *, scrape_interval: float, evaluation_interval: float, links: Links) -> list[Group]:
    """Return the rule groups of one objective: `...` read from the metric, `...-long` from recorded rates.

    Arguments:
        scrape_interval: seconds between two samples of the metric.
        evaluation_interval: seconds between two evaluations; the long windows take up to a minute.
    """
    pairs, _ = plan(slo, scrape_interval=scrape_interval)
    windows = sorted({slo.window} | {w for pair in pairs for w in (pair.short, pair.long)})
    direct = [w for w in windows if w <= DIRECT_UP_TO]
    summed = [w for w in windows if w > DIRECT_UP_TO]
    # One sample a minute describes a five-minute rate well; the demo's twelve hours are walked in smaller steps.
    step = max(evaluation_interval, min(burn.MINUTE, round(slo.window / 43_200)))
    base = max(5 * burn.MINUTE, burn.SAMPLES * scrape_interval)

    quick = [rule for window in direct for rule in _direct(slo, window)]
    quick += [_alert(slo, pair, links) for pair in pairs if pair.long <= DIRECT_UP_TO]
    slow = list(_rates(slo, base)) if summed else []
    slow += [rule for window in summed for rule in _summed(slo, window, base, step)]
    slow += [_alert(slo, pair, links) for pair in pairs if pair.long > DIRECT_UP_TO]
    slow += _budget(slo)
    name = f"tocsin-slo-{slo.name}-{slo.service or 'any'}"
    both = group(name, evaluation_interval, quick), group(f"{name}-long", step, slow)
    return [each for each in both if each["rules"]]


def _labels(slo: Slo) -> dict[str, str]:
    return {"slo": slo.name}


def _series(slo: Slo, what: str, window: float) -> str:
    """Return the selector of our own recorded series, of this objective only."""
    return select(f"slo:{what}{durations.render(window)}", (equals("slo", slo.name), *slo.scope))


def _or_zero(slo: Slo, failed: str, of: str) -> str:
    # The recorded total carries the label `slo`, which the sum beside it does not have yet: hence `on`.
    return f"{failed}\nor on ({', '.join(slo.by)})\n0 * {of}"


def _direct(slo: Slo, window: float) -> Iterator[Rule]:
    """Yield the requests and failures within `window`, counted on the metric itself."""
    length = durations.render(window)
    seen = total(slo.by, f"increase({select(REQUESTS, slo.scope)}[{length}])")
    failed = total(slo.by, f"increase({select(REQUESTS, (*slo.scope, FAILED))}[{length}])")
    yield recording(f"slo:total:increase{length}", seen, _labels(slo))
    yield recording(
        f"slo:errors:increase{length}",
        _or_zero(slo, failed, _series(slo, "total:increase", window)),
        _labels(slo),
    )


def _rates(slo: Slo, base: float) -> Iterator[Rule]:
    """Yield the rates that long windows are added up from."""
    length = durations.render(base)
    seen = total(slo.by, f"rate({select(REQUESTS, slo.scope)}[{length}])")
    failed = total(slo.by, f"rate({select(REQUESTS, (*slo.scope, FAILED))}[{length}])")
    yield recording(f"slo:total:rate{length}", seen, _labels(slo))
    yield recording(f"slo:errors:rate{length}", _or_zero(slo, failed, _series(slo, "total:rate", base)), _labels(slo))


def _summed(slo: Slo, window: float, base: float, step: float) -> Iterator[Rule]:
    """Yield the requests and failures within `window`, added up from rates recorded every `step` seconds."""
    length = durations.render(window)
    for what in ("total", "errors"):
        added = f"sum_over_time({_series(slo, f'{what}:rate', base)}[{length}]) * {step:g}"
        yield recording(f"slo:{what}:increase{length}", added, _labels(slo))


def _budget(slo: Slo) -> list[Rule]:
    seen = _series(slo, "total:increase", slo.window)
    failed = _series(slo, "errors:increase", slo.window)
    # Without a single request nothing has been spent: 0 / tiny, not 0 / 0.
    labels = {**_labels(slo), "slo_window": durations.render(slo.window)}
    left = f"1 - {failed} / clamp_min({seen}, 1e-9) / {slo.budget:.10g}"
    return [
        recording(BUDGET_LEFT, left, labels),
        recording(FAILURES_LEFT, f"{slo.budget:.10g} * {seen} - {failed}", labels),
    ]


def _share(slo: Slo, window: float) -> str:
    seen, failed = (_series(slo, f"{what}:increase", window) for what in ("total", "errors"))
    return f"{failed} / ({seen} > 0)"


def _alert(slo: Slo, pair: burn.Pair, links: Links) -> Rule:
    threshold = f"{pair.factor * slo.budget:.10g}"
    expr = (
        f"{_share(slo, pair.long)} > {threshold}\n"
        f"and\n{_share(slo, pair.short)} > {threshold}\n"
        f"and\n{_series(slo, 'errors:increase', pair.long)} >= {slo.min_bad_events}"
    )
    where = "{{ $labels.service }}" + ("" if slo.route is None else " on {{ $labels.http_route }}")
    budget = "the whole month's error budget" if slo.window == burn.MONTH else "the whole error budget"
    # The query only divides two numbers: alert templates have no arithmetic of their own.
    left = f'{{{{ printf "{slo.window * slo.budget:.10g} / %g" $value | query | first | value | humanizeDuration }}}}'
    return alert(
        pair.alert,
        expr,
        severity=pair.severity,
        summary=f"{where} fails {{{{ $value | humanizePercentage }}}} of its requests",
        description=(
            f"{{{{ $value | humanizePercentage }}}} of the requests of {where} failed in the last "
            f"{durations.human(pair.long)}. {slo.objective:g} % over {durations.human(slo.window)} must succeed, so "
            f"{slo.budget * 100:.10g} % may fail. At this pace {budget} is gone in {left}."
        ),
        links=links,
        labels={"slo": slo.name},
        dashboard=DASHBOARD,
    )
