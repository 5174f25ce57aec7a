from __future__ import annotations

from msgspec.structs import replace

from tocsin_alerting import messages
from tocsin_alerting.model import Reason
from tocsin_alerting.testing import NOW, alert, notification

_SHOP = {"service": "shop", "severity": "page"}


def test_one_alert_on_a_terminal() -> None:
    """What is broken, since when, what was seen, what to do."""
    one = alert(
        "ProbeDown",
        **_SHOP,
        summary="https://shop.example/checkout answered 500",
        description="connect ok, HTTP status 500 instead of 200",
        runbook_url="https://run.example/probe-down",
    )
    assert messages.block(notification(one, now=NOW + 35)) == (
        "ALERT  page  shop  ProbeDown: https://shop.example/checkout answered 500     since 00:00:00 UTC (35 s)\n"
        "  what   connect ok, HTTP status 500 instead of 200\n"
        "  do     runbook https://run.example/probe-down"
    )


def test_the_end_is_one_line() -> None:
    """OK, and how long it lasted."""
    ended = alert("ProbeDown", **_SHOP, end=NOW + 130)
    told = notification(ended, reason=Reason.ALL_RESOLVED, now=NOW + 200)
    assert messages.block(told) == "OK     page  shop  ProbeDown resolved after 2 min"
    assert messages.subject(told) == "OK page shop ProbeDown resolved after 2 min"


def test_several_alerts_are_listed_with_what_tells_them_apart() -> None:
    """Labels that all share are not repeated."""
    told = notification(
        alert("ProbeDown", **_SHOP, check="checkout", summary="checkout answers 500"),
        alert("ProbeDown", **_SHOP, check="search", start=NOW + 10, summary="search times out"),
        alert("ProbeDown", **_SHOP, check="home", end=NOW + 20),
        now=NOW + 35,
    )
    assert messages.block(told) == (
        "ALERT  page  shop  ProbeDown: checkout answers 500 (2 firing, 1 resolved)     since 00:00:00 UTC (35 s)\n"
        "  - ProbeDown (check=checkout)\n"
        "    what   checkout answers 500\n"
        "    since  00:00:00 UTC (35 s)\n"
        "  - ProbeDown (check=search)\n"
        "    what   search times out\n"
        "    since  00:00:10 UTC (25 s)\n"
        "  - ProbeDown (check=home) is over\n"
        "    lasted 20 s"
    )


def test_a_repeat_says_that_it_is_one() -> None:
    """Nobody looks for a new outage."""
    told = notification(
        alert("Slow", end=NOW + 99_999, summary="p99 is 3 s"), reason=Reason.REPEAT, now=NOW + 86_400 + 60
    )
    assert messages.subject(told) == "STILL Slow: p99 is 3 s"
    assert "since 2025-11-23 00:00 UTC (24 h 1 min)" in messages.block(told)


def test_the_gravest_severity_stands_first() -> None:
    """A page is not hidden behind a ticket."""
    told = notification(alert("A", severity="ticket"), alert("B", severity="page"))
    assert messages.subject(told).startswith("ALERT page B, A")


def test_the_subject_is_about_the_gravest_alert() -> None:
    """Not about an older ticket of the same group, and its entry and runbook come first too."""
    told = notification(
        alert("DiskFilling", start=NOW - 7200, severity="ticket", summary="disk 80% full", runbook_url="http://disk"),
        alert("CheckoutDown", severity="page", summary="checkout answers 500", runbook_url="http://checkout"),
    )
    assert messages.subject(told) == "ALERT page CheckoutDown, DiskFilling: checkout answers 500 (2 alerts)"
    assert "since 00:00:00 UTC (30 s)" in messages.block(told).splitlines()[0]
    assert [entry.title.partition(" ")[0] for entry in messages.entries(told)] == ["CheckoutDown", "DiskFilling"]
    assert messages.runbook(told) == "http://checkout"


def test_a_message_says_which_one_is_down() -> None:
    """Summaries often do not: the labels that the subject leaves out have a line of their own, also at the end."""
    down = {"job": "node", "cluster": "eu", "summary": "Host is down"}
    one = notification(alert("HostDown", instance="db1", **down))
    assert messages.block(one).splitlines()[1] == "  labels cluster=eu, instance=db1"
    assert messages.text(one).splitlines()[0] == "labels cluster=eu, instance=db1"
    ended = notification(alert("HostDown", instance="db1", end=NOW + 10, **down), reason=Reason.ALL_RESOLVED)
    assert messages.block(ended).splitlines()[1] == "  labels cluster=eu, instance=db1"
    two = notification(alert("HostDown", instance="db1", **down), alert("HostDown", instance="db2", **down))
    assert messages.block(two).splitlines()[1:3] == ["  labels cluster=eu", "  - HostDown (instance=db1)"]


def test_alerts_of_several_services_name_theirs() -> None:
    """The subject can name a service only if all have the same."""
    told = notification(alert("Down", service="blog", severity="page"), alert("Down", service="shop", severity="page"))
    assert [entry.title for entry in messages.entries(told)] == ["Down (service=blog)", "Down (service=shop)"]


def test_an_alert_without_a_summary_shows_its_labels() -> None:
    """There is always something to go by."""
    assert messages.subject(notification(alert("Down", instance="web-1:80"))) == "ALERT Down: instance=web-1:80"


def test_labels_cannot_write_on_the_terminal() -> None:
    """Escape sequences and newlines of a label are taken out."""
    told = notification(alert("Evil\x1b[2J", summary="one\ntwo\rthree\x07"))
    assert messages.block(told).splitlines()[0].startswith("ALERT  Evil [2J: one two three")


def test_a_crowd_is_counted() -> None:
    """Ten are listed, the others are behind the link."""
    told = notification(*(alert("Down", instance=f"web-{n:02}") for n in range(14)))
    assert messages.text(told).endswith("and 4 more: http://router:9093/#/alerts?receiver=team")
    assert messages.text(told).count("Down (instance=") == 10


def test_a_link_that_fills_the_screen_is_left_out_and_lines_stay_apart() -> None:
    """Prometheus puts whole queries into its links; a description of several lines reads as several statements."""
    told = alert("ProbeDown", **_SHOP, summary="s", description="Target: x\nPhases: y")
    shown = messages.block(notification(replace(told, generator_url="http://p/" + "q" * 200)))
    assert "http://p/" not in shown
    assert "Target: x; Phases: y" in shown
