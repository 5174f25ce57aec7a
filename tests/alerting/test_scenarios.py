"""One table of scenarios, run against the real Alertmanager and against ours: what is told, to whom, and when."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tocsin_alerting.acceptance import (
    INTERVAL,
    WAIT,
    At,
    Between,
    Message,
    Outcome,
    Post,
    Scenario,
    Silence,
    Unsilence,
    alertmanager,
    play,
)
from tocsin_stack import debian

pytestmark = pytest.mark.quiet

SECONDS: Final = 8.4
LATE: Final = 0.95
"""How late a message may be, in seconds: two servers and other tests share the machine."""


def _at(seconds: float) -> Between:
    return Between(seconds - 0.1, seconds + LATE)


def _tick(number: int, begun: float = 0.0) -> Between:
    """Return when the look number `number` (from 0) at a group comes whose first alert came at `begun`."""
    return _at(begun + WAIT + number * INTERVAL)


SAME: Final[Sequence[Scenario]] = [
    Scenario("one alert is told after group_wait", [At(0, Post("a"))], [Message(_tick(0), "a")]),
    Scenario(
        "alerts of group_wait come in one message",
        [At(0, Post("a")), At(0.5, Post("b"))],
        [Message(_tick(0), "a b")],
    ),
    Scenario(
        "a later alert waits for the next look",
        [At(0, Post("a")), At(1.6, Post("b"))],
        [Message(_tick(0), "a"), Message(_tick(1), "a b")],
    ),
    Scenario(
        "the end is told at the next look",
        [At(0, Post("a")), At(1.6, Post("a", ends=-0.1))],
        [Message(_tick(0), "a"), Message(_tick(1), "", "a")],
    ),
    Scenario(
        "the end of one of two",
        [At(0, Post("a b")), At(1.6, Post("a", ends=-0.1))],
        [Message(_tick(0), "a b"), Message(_tick(1), "b", "a")],
    ),
    Scenario(
        "an end that passes by itself",
        [At(0, Post("a", ends=2.0))],
        [Message(_tick(0), "a"), Message(_tick(1), "", "a")],
    ),
    Scenario(
        "what ends before group_wait is never told",
        [At(0, Post("a")), At(0.4, Post("a", ends=-0.1))],
        [],
    ),
    Scenario("what was over before it came is never told", [At(0, Post("a", started=-60, ends=-10))], []),
    Scenario(
        "ending and firing again between two looks is invisible",
        [At(0, Post("a")), At(1.5, Post("a", ends=-0.1)), At(2.0, Post("a"))],
        [Message(_tick(0), "a")],
    ),
    Scenario(
        "an old alert is told at once",
        [At(0, Post("a", started=-60))],
        [Message(_at(0), "a")],
    ),
    Scenario(
        "an alert sent again is not told again",
        [At(0, Post("a")), At(1.5, Post("a")), At(3.5, Post("a"))],
        [Message(_tick(0), "a")],
    ),
    Scenario(
        "other annotations are no news",
        [At(0, Post("a")), At(1.6, Post("a", annotations={"summary": "worse"}))],
        [Message(_tick(0), "a")],
    ),
    Scenario(
        "a repeat comes at a look",
        [At(0, Post("a"))],
        [Message(_tick(0), "a"), Message(_tick(2), "a")],
        route={"repeat_interval": "3s"},
    ),
    Scenario(
        "without send_resolved the end is silent and the next is a first",
        [At(0, Post("a")), At(1.6, Post("a", ends=-0.1)), At(5.6, Post("a"))],
        [Message(_tick(0), "a"), Message(_at(6.6), "a")],
        hook={"send_resolved": False},
    ),
    Scenario(
        "groups are told apart",
        [At(0, Post("a", {"place": "x"})), At(0.3, Post("b", {"place": "y"}))],
        [Message(_at(1), "a"), Message(_at(1.3), "b")],
        route={"group_by": ["place"]},
    ),
    Scenario(
        "grouping by all labels",
        [At(0, Post("a b"))],
        [Message(_at(1), "a"), Message(_at(1), "b")],
        route={"group_by": ["..."]},
    ),
    Scenario(
        "continue tells two receivers",
        [At(0, Post("a", {"severity": "page"}))],
        [Message(_at(1), "a", receiver="x"), Message(_at(1), "a", receiver="y")],
        route={
            "routes": [
                {"matchers": ["severity=page"], "receiver": "NAME-x", "continue": True},
                {"matchers": ["severity=~p.*"], "receiver": "NAME-y"},
                {"matchers": ["severity=page"], "receiver": "NAME"},
            ]
        },
        receivers=["x", "y"],
    ),
    Scenario(
        "a child that matches takes it from its parent",
        [At(0, Post("a", {"severity": "page"})), At(0, Post("b"))],
        [Message(_at(1), "a", receiver="x"), Message(_at(1), "b")],
        route={"routes": [{"match_re": {"severity": "page|critical"}, "receiver": "NAME-x"}]},
        receivers=["x"],
    ),
    Scenario("a muted time tells nothing", [At(0, Post("a"))], [], route={"mute_time_intervals": ["always"]}),
    Scenario(
        "outside of its active time nothing is told", [At(0, Post("a"))], [], route={"active_time_intervals": ["never"]}
    ),
    Scenario(
        "inside of its active time it is told",
        [At(0, Post("a"))],
        [Message(_tick(0), "a")],
        route={"active_time_intervals": ["always"], "mute_time_intervals": ["never"]},
    ),
    Scenario("a silenced alert is not told", [At(0, Silence("a")), At(0.2, Post("a"))], []),
    Scenario(
        "a silence lets others through",
        [At(0, Silence("a")), At(0.2, Post("a b"))],
        [Message(_at(1.2), "b")],
    ),
    Scenario(
        "an unsilenced alert is told at the next look",
        [At(0, Silence("a")), At(0.2, Post("a")), At(2.0, Unsilence())],
        [Message(_at(3.2), "a")],
    ),
    Scenario(
        "a silence stops repeats",
        [At(0, Post("a")), At(1.6, Silence("a"))],
        [Message(_tick(0), "a")],
        route={"repeat_interval": "2s"},
    ),
    Scenario(
        "an inhibited alert is not told",
        [At(0, Post("s", {"kind": "source", "place": "x"})), At(0.1, Post("t", {"kind": "target", "place": "x"}))],
        [Message(_at(1), "s")],
    ),
    Scenario(
        "inhibition needs equal labels",
        [At(0, Post("s", {"kind": "source", "place": "x"})), At(0.1, Post("t", {"kind": "target", "place": "y"}))],
        [Message(_at(1), "s t")],
    ),
    Scenario(
        "a target is told once its source has ended",
        [
            At(0, Post("s", {"kind": "source"})),
            At(0.1, Post("t", {"kind": "target"})),
            At(1.6, Post("s", {"kind": "source"}, ends=-0.1)),
        ],
        [Message(_at(1), "s"), Message(_at(3), "t", "s")],
    ),
    Scenario(
        "a server error is tried again until it is taken",
        [At(0, Post("a"))],
        [Message(Between(1.1, 4.5), "a")],
        answers=[500, 503],
    ),
    Scenario(
        "a client error is final until the next look",
        [At(0, Post("a"))],
        [Message(_tick(1), "a")],
        answers=[400],
    ),
    Scenario(
        "an end that was refused is told at the next look",
        [At(0, Post("a")), At(1.6, Post("a", ends=-0.1))],
        [Message(_tick(0), "a"), Message(_tick(2), "", "a")],
        answers=[200, 400],
    ),
    Scenario(
        "only so many alerts are in a message",
        [At(0, Post("a b c"))],
        [Message(_tick(0), "a b")],
        hook={"max_alerts": 2},
    ),
]
"""Where we promise what Alertmanager does."""

DIFFERENT: Final[Sequence[tuple[Scenario, Sequence[Message]]]] = [
    (
        Scenario(
            "after an end was told the group waits anew",
            [At(0, Post("a")), At(1.6, Post("a", ends=-0.1)), At(5.0, Post("a"))],
            [Message(_tick(0), "a"), Message(_tick(1), "", "a"), Message(_at(6.0), "a")],
        ),
        [Message(_tick(0), "a"), Message(_tick(1), "", "a"), Message(_tick(2), "a")],
    ),
    (
        Scenario(
            "an end under a silence is told when the silence ends",
            [At(0, Post("a")), At(1.6, Silence("a")), At(2.0, Post("a", ends=-0.1)), At(4.0, Unsilence())],
            [Message(_tick(0), "a"), Message(_tick(2), "", "a")],
        ),
        [Message(_tick(0), "a")],
    ),
    (
        Scenario(
            "an end under inhibition is told when that ends",
            [
                At(0, Post("t", {"kind": "target"})),
                At(1.6, Post("s", {"kind": "source"})),
                At(1.7, Post("t", {"kind": "target"}, ends=-0.1)),
                At(4.0, Post("s", {"kind": "source"}, ends=-0.1)),
            ],
            [Message(_tick(0), "t"), Message(_tick(1), "s"), Message(_tick(2), "", "s t")],
        ),
        [Message(_tick(0), "t"), Message(_tick(1), "s"), Message(_tick(2), "", "s")],
    ),
]
"""Where we do something else, with what Alertmanager does.

It keeps the timer of an empty group until its next clean-up, and it loses ends (prometheus/alertmanager#226).
"""


def _judge(scenarios: Sequence[Scenario], outcome: Outcome) -> list[str]:
    """Return in words what came otherwise than expected."""
    wrong = []
    for item in scenarios:
        got = outcome.of(item)
        wanted = [(m.receiver, m.firing, m.resolved) for m in item.expected]
        shown = ", ".join(f"{at:.2f}s {who or 'it'}: +[{on}] -[{off}]" for at, who, on, off in got) or "nothing"
        if sorted((who, on, off) for _, who, on, off in got) != sorted(wanted):
            wrong.append(f"{item.name}: expected {wanted}, got {shown}")
            continue
        times = sorted(at for at, *_ in got)
        for at, message in zip(times, sorted(item.expected, key=lambda m: m.when.start), strict=True):
            if not message.when.start <= at <= message.when.end:
                wrong.append(f"{item.name}: expected between {message.when.start} and {message.when.end}, got {shown}")
    return wrong


def _alertmanagers_own(item: tuple[Scenario, Sequence[Message]]) -> Scenario:
    scenario, expected = item
    return Scenario(scenario.name, scenario.steps, expected, scenario.route, scenario.receivers, scenario.hook)


async def test_ours_keeps_every_promise(tmp_path: Path, any_database_url: str) -> None:
    """The command takes the same flags and the same file; on SQLite and on PostgreSQL."""
    command = [sys.executable, "-m", "tocsin_stack", "alerting", f"--storage.url={any_database_url}"]
    scenarios = [*SAME, *(scenario for scenario, _ in DIFFERENT)]
    outcome = await play(scenarios, lambda text: alertmanager(command, tmp_path, text), seconds=SECONDS)
    assert "\n".join(_judge(scenarios, outcome)) == ""


async def test_alertmanager_does_the_same(tmp_path: Path) -> None:
    """The table says what the real one does, and where it differs from ours."""
    if debian.find("prometheus-alertmanager") is None:
        debian.fetch("prometheus-alertmanager")
    program = debian.find("prometheus-alertmanager")
    assert program is not None, "no alertmanager: install prometheus-alertmanager, or put it on PATH"
    scenarios = [*SAME, *map(_alertmanagers_own, DIFFERENT)]
    command = debian.command(program)
    outcome = await play(scenarios, lambda text: alertmanager(command, tmp_path, text), seconds=SECONDS)
    assert "\n".join(_judge(scenarios, outcome)) == ""
