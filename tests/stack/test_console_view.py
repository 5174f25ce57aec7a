from tocsin_service.clock import rfc3339
from tocsin_stack.console import view
from tocsin_stack.console.sources import Alert, Check, Last, Notification, Sample, Snapshot, Traffic

NOW = 1_763_856_000.0


def _at(seconds_ago: float) -> str:
    return rfc3339(NOW - seconds_ago)


def _check(name: str, state: str = "up", *, service: str = "shop", history: tuple[Sample, ...] = ()) -> Check:
    last = Last(_at(1), state == "up", f"{name} in words", 0.01)
    return Check(name, service, "http", f"https://shop.example/{name}", state, _at(60), 30.0, last, history, 0.9995)


def _alert(name: str, severity: str, *, seconds_ago: float = 90, **labels: str) -> Alert:
    return Alert(
        {"alertname": name, "service": "shop", "severity": severity, **labels},
        {"summary": f"{name} summary", "runbook_url": f"https://wiki/{name}"},
        _at(seconds_ago),
        "f" * 16,
    )


def test_the_verdict_says_how_much_where_and_since_when() -> None:
    """The first line answers the first question."""
    alerts = (_alert("ProbeDown", "page"), _alert("Slow", "ticket", seconds_ago=300))
    page = view.page(Snapshot(alerts=alerts), NOW)
    assert (page.tone, page.verdict) == ("bad", "2 alerts are firing in shop, the first since 5 min.")
    assert [row.name for row in page.alerts] == ["ProbeDown", "Slow"]
    assert page.alerts[0].since == "90 s"


def test_the_watchdog_is_no_alarm() -> None:
    """The always-firing alert proves that alerting works; it hurts nobody."""
    page = view.page(Snapshot(alerts=(_alert("Watchdog", "none"),), checks=(_check("home"),)), NOW)
    assert (page.tone, page.verdict, page.alerts) == ("ok", "All is well.", ())


def test_a_part_that_cannot_be_asked_is_not_all_is_well() -> None:
    """Silence of the router must not look like peace."""
    page = view.page(Snapshot(missing=("The alert router cannot be asked: refused.",)), NOW)
    assert page.tone == "unknown"
    assert page.missing


def test_an_empty_installation_says_so() -> None:
    """Nothing to watch is not health."""
    assert view.page(Snapshot(), NOW).verdict == "Nothing is watched yet."


def test_a_check_that_fails_before_its_alert_is_mentioned() -> None:
    """Between the confirmation and the alert the page does not say that all is well."""
    page = view.page(Snapshot(checks=(_check("pay", "down"),)), NOW)
    assert (page.tone, page.verdict) == ("unknown", "No alert is firing, but pay is down.")


def test_the_first_failures_are_not_health() -> None:
    """Before the first confirmation the page says what is being tried, and before any result that it waits."""
    failed = Check("pay", "shop", "tcp", "x", "unknown", _at(1), 5.0, Last(_at(1), False, "refused", 0.0))
    assert view.page(Snapshot(checks=(failed,)), NOW).verdict == (
        "No alert is firing, but pay failed and is being tried again."
    )
    waiting = Check("pay", "shop", "tcp", "x", "unknown", _at(1), 5.0)
    assert view.page(Snapshot(checks=(waiting,)), NOW).verdict == "Waiting for the first results."


def test_services_put_together_checks_traffic_and_alerts_worst_first() -> None:
    """Down beats degraded beats up, and each says why."""
    snapshot = Snapshot(
        alerts=(_alert("SloBudgetBurnFast", "page"),),
        checks=(_check("a", service="web"), _check("b", "down", service="pay"), _check("c")),
        traffic={"web": Traffic(up=True, rate=9.96, errors=0.0, p95=0.0213), "shop": Traffic(up=True)},
    )
    rows = {row.name: row for row in view.page(snapshot, NOW).services}
    assert (rows["pay"].state, rows["pay"].why) == ("down", "b down")
    assert (rows["shop"].state, rows["shop"].why) == ("degraded", "SloBudgetBurnFast")
    assert (rows["web"].state, rows["web"].rate, rows["web"].errors, rows["web"].p95) == (
        "up",
        "10.0/s",
        "0.0 %",
        "21 ms",
    )
    assert list(rows)[-1] == "web"


def test_a_service_that_is_only_scraped_has_a_state() -> None:
    """Metrics that can be read are a sign of life; metrics that cannot are not."""
    snapshot = Snapshot(traffic={"a": Traffic(up=True), "b": Traffic(up=False), "c": Traffic()})
    states = {row.name: row.state for row in view.page(snapshot, NOW).services}
    assert states == {"a": "up", "b": "down", "c": "unknown"}


def test_history_is_drawn_to_scale_and_failures_stand_out() -> None:
    """Heights follow durations; a failure is red at full height and says why."""
    history = (
        Sample(_at(20), True, 0.010, "ok"),
        Sample(_at(10), True, 0.020, "ok"),
        Sample(_at(5), False, 0.001, "connect_refused"),
    )
    bars = view.page(Snapshot(checks=(_check("home", history=history),)), NOW).checks[0].bars
    assert [(bar.kind, bar.height) for bar in bars] == [("up", 12.0), ("up", 24.0), ("down", 24.0)]
    assert bars[2].title == "5 s ago: failed: connect_refused"


def test_links_of_alerts_are_followed_only_to_the_web() -> None:
    """Alerts come from anywhere; a script is not a runbook."""
    alert = Alert({"alertname": "x"}, {"runbook_url": "javascript:alert(1)"}, _at(1), "f", generatorURL="data:x")
    row = view.page(Snapshot(alerts=(alert,)), NOW).alerts[0]
    assert (row.runbook, row.source) == ("", "")


def test_who_was_told_shows_what_went_wrong() -> None:
    """A delivery that failed carries its error."""
    item = Notification(_at(30), "team", "slack", "firing", "failed", "title", "hooks.slack.com answered 404", 3)
    row = view.page(Snapshot(notifications=(item,)), NOW).notifications[0]
    assert (row.ago, row.state, row.receiver, row.error) == ("30 s", "failed", "team", "hooks.slack.com answered 404")
