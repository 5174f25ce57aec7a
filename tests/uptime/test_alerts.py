"""Alerts: what a router is sent, and when it is owed something."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tocsin_service.clock import parse_rfc3339
from tocsin_uptime import alerts
from tocsin_uptime.alerts import RESOLVED_RESENT, Alert, Board, Receipts
from tocsin_uptime.check import Check, Target
from tocsin_uptime.result import Phase, Reason, Result, State

_NOW = 1_763_856_000.0
_CHECK = Check(
    name="shop front",
    service="shop",
    kind="http",
    target=Target(shown="https://shop.example/health", host="shop.example", port=443),
    labels={"team": "web"},
    severity="ticket",
    runbook="https://wiki/shop",
)
_RESULT = Result(
    at=_NOW,
    verdict=State.DOWN,
    reason=Reason.STATUS,
    sentence="DNS ok, connected in 3 ms, but the answer was HTTP 503 instead of 200",
    duration=0.045,
    phases={Phase.RESOLVE: 0.001, Phase.CONNECT: 0.003},
    excerpt="out of database connections",
)
_ALERT = alerts.firing(_CHECK, _RESULT, _NOW - 60, "https://up.example/")


def test_a_firing_alert_says_everything_a_person_needs() -> None:
    """Labels to route by, one sentence, the phases, what the answer began with, where to read on."""
    assert _ALERT.payload(_NOW, 60.0) == {
        "labels": {
            "alertname": "ProbeDown",
            "service": "shop",
            "check": "shop front",
            "severity": "ticket",
            "team": "web",
        },
        "annotations": {
            "summary": "shop front is down: DNS ok, connected in 3 ms, but the answer was HTTP 503 instead of 200",
            "description": (
                "Target: https://shop.example/health\n"
                "Phases: resolve 1 ms, connect 3 ms; 45 ms in all\n"
                "The answer began: out of database connections"
            ),
            "runbook_url": "https://wiki/shop",
        },
        "startsAt": "2025-11-22T23:59:00.000Z",
        "endsAt": "2025-11-23T00:04:00.000Z",
        "generatorURL": "https://up.example/checks/shop%20front",
    }


def test_a_resolved_alert_has_the_labels_and_start_of_the_firing_one_and_its_real_end() -> None:
    """The router recognises it, and the person reads how long it took."""
    resolved = alerts.resolved(_ALERT, _CHECK, _NOW + 660)
    payload = resolved.payload(_NOW + 700, 60.0)
    assert (resolved.labels, resolved.starts_at) == (_ALERT.labels, _ALERT.starts_at)
    assert parse_rfc3339(str(payload["endsAt"])) == _NOW + 660
    assert resolved.annotations["summary"] == (
        "shop front is up again after 12 min; the failure was: "
        "DNS ok, connected in 3 ms, but the answer was HTTP 503 instead of 200"
    )


def test_an_alert_never_ends_before_it_starts() -> None:
    """A clock that was set back in the outage must not make an alert that every router refuses for ever."""
    set_back = _ALERT.starts_at - 3600
    for alert in (_ALERT, alerts.resolved(_ALERT, _CHECK, set_back)):
        payload = alert.payload(set_back, 60.0)
        assert parse_rfc3339(str(payload["startsAt"])) <= min(set_back, parse_rfc3339(str(payload["endsAt"])))


def test_a_firing_alert_is_owed_at_once_and_then_every_resend() -> None:
    """Accepted posts are repeated, so that the router does not close it."""
    board, receipts = Board(), Receipts(resend=60.0)
    assert board.post(_ALERT)
    assert receipts.owed(board, _NOW) == [_ALERT]
    receipts.accept([_ALERT], _NOW)
    assert receipts.owed(board, _NOW + 59) == []
    assert receipts.next_due(board) == _NOW + 60
    assert receipts.owed(board, _NOW + 60) == [_ALERT]


def test_new_words_are_no_news_but_go_out_with_the_next_post() -> None:
    """A failure that changes its face during an outage is not a new alert."""
    board, receipts = Board(), Receipts(resend=60.0)
    board.post(_ALERT)
    receipts.accept([_ALERT], _NOW)
    changed = alerts.firing(_CHECK, None, _NOW - 60, "https://up.example")
    assert not board.post(changed)
    assert receipts.owed(board, _NOW + 1) == []
    assert receipts.owed(board, _NOW + 60) == [changed]


def test_a_resolved_alert_is_owed_until_accepted_and_repeated_for_a_few_minutes() -> None:
    """However long the router is away it hears of the end; then it is repeated, then forgotten."""
    board, receipts = Board(), Receipts(resend=60.0)
    board.post(_ALERT)
    receipts.accept([_ALERT], _NOW)
    resolved = alerts.resolved(_ALERT, _CHECK, _NOW + 10)
    assert board.post(resolved)
    assert receipts.owed(board, _NOW + 86_400) == [resolved]
    receipts.accept([resolved], _NOW + 11)
    assert receipts.owed(board, _NOW + 71) == [resolved]
    receipts.accept([resolved], _NOW + 10 + RESOLVED_RESENT)
    assert receipts.next_due(board) is None
    board.prune([receipts], _NOW + 10 + RESOLVED_RESENT)
    assert board.alerts == {}
    assert receipts.accepted == {}


def test_an_alert_stays_up_while_one_router_has_not_heard_of_its_end() -> None:
    """Each router has its own receipts."""
    board, quick, away = Board(), Receipts(resend=60.0), Receipts(resend=60.0)
    resolved = alerts.resolved(_ALERT, _CHECK, _NOW)
    board.post(resolved)
    quick.accept([resolved], _NOW)
    board.prune([quick, away], _NOW + 86_400)
    assert away.owed(board, _NOW + 86_400) == [resolved]


def test_a_second_outage_takes_the_place_of_the_first() -> None:
    """Same labels, new start: it is news, also while the end of the first is still being repeated."""
    board, receipts = Board(), Receipts(resend=60.0)
    resolved = alerts.resolved(_ALERT, _CHECK, _NOW)
    board.post(resolved)
    receipts.accept([resolved], _NOW)
    again = alerts.firing(_CHECK, _RESULT, _NOW + 30, "https://up.example")
    assert board.post(again)
    assert receipts.owed(board, _NOW + 31) == [again]


_steps = st.lists(st.tuples(st.sampled_from(["fire", "resolve"]), st.booleans(), st.integers(1, 120)), max_size=40)


@given(_steps)
def test_a_router_is_never_left_with_an_old_truth(steps: list[tuple[str, bool, int]]) -> None:
    """Whatever happens while it is away, once it accepts again what it knows is the latest state of each alert."""
    board, receipts = Board(), Receipts(resend=60.0)
    now = _NOW
    known: dict[alerts.Key, Alert] = {}
    for what, reachable, seconds in steps:
        now += seconds
        current = board.alerts.get(_ALERT.labels)
        if what == "fire" and (current is None or current.ends_at is not None):
            board.post(alerts.firing(_CHECK, _RESULT, now, ""))
        elif what == "resolve" and current is not None and current.ends_at is None:
            board.post(alerts.resolved(current, _CHECK, now))
        if reachable:
            owed = receipts.owed(board, now)
            receipts.accept(owed, now)
            known |= {alert.labels: alert for alert in owed}
            latest = board.alerts.get(_ALERT.labels)
            assert latest is None or known[_ALERT.labels] == latest
            board.prune([receipts], now)
