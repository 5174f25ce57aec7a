"""Many groups on one Slack channel that takes few messages a second and answers the others 429 with Retry-After.

All groups fire; some of them are over before their first message can be out, some later, and the rest go on. In the end
each group's last message must say what is true, whoever was told "firing" of a group that is over must have been told
"resolved", and nobody is told "resolved" before "firing".
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import alerts
import client
import servers
import sink
from servers import Peer

CONFIG = """
route: {{receiver: slack, group_by: [g], group_wait: 1s, group_interval: 5s, repeat_interval: 4h}}
receivers:
- name: slack
  slack_configs:
  - {{api_url: "{url}", channel: "#ops", send_resolved: true, title: '{{{{ .Status }}}} {{{{ .GroupLabels.g }}}}'}}
"""
_TITLE = re.compile(r"(firing|resolved) g(\d+)")


@dataclass(slots=True)
class Outcome:
    """What the channel shows in the end, and how often it had to refuse."""

    groups: int
    refusals: int = 0
    seconds: float = 0.0
    lost: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    out_of_order: list[int] = field(default_factory=list)


def measure(name: str, peer: Peer, groups: int, rate: float, *, limited_by_itself: bool) -> Outcome:
    """Run the story with one server.

    Args:
        limited_by_itself: tocsin keeps the rate by itself; else only the refusals slow it down.
    """
    own = f"{rate:g}/s" if limited_by_itself else "off"
    extra = f"rate_limits: {{slack: '{own}'}}\n"
    with (
        sink.running(rate) as receiver,
        servers.running(name, peer, CONFIG.format(url=receiver.url), extra=extra) as it,
    ):
        begun = time.time()
        over = {number for number in range(groups) if number % 3 == 0}
        with client.Poster(it.port) as poster:
            poster.post(_alerts(range(groups), begun, begun + 3600))
            # Every third is over while most of the first messages still wait.
            time.sleep(3.0)
            poster.post(_alerts(sorted(over), begun, time.time()))
        # Two messages per group at most, and as long again for those who come back at their group's next tick.
        deadline = time.monotonic() + 10.0 + 4 * groups / rate
        says: dict[int, list[str]] = defaultdict(list)
        quiet_since = time.monotonic()
        while time.monotonic() < deadline:
            for arrival in receiver.arrivals():
                state, number = _said(arrival.body)
                says[number].append(state)
                quiet_since = time.monotonic()
            if _right(says, over, groups) and time.monotonic() - quiet_since > 7.0:
                break
            time.sleep(0.1)
        outcome = Outcome(groups, receiver.refusals(), time.time() - begun)
        for number in range(groups):
            told = says[number]
            if number not in over and not told:
                outcome.lost.append(number)
            elif told and told[-1] != ("resolved" if number in over else "firing"):
                outcome.wrong.append(number)
            if told and told[0] == "resolved":
                outcome.out_of_order.append(number)
        return outcome


def _right(says: dict[int, list[str]], over: set[int], groups: int) -> bool:
    return all(
        (not says[number] or says[number][-1] == "resolved") if number in over else says[number][-1:] == ["firing"]
        for number in range(groups)
    )


def _said(body: dict[str, list[dict[str, str]]]) -> tuple[str, int]:
    match = _TITLE.search(body["attachments"][0]["title"])
    assert match, body
    return match[1], int(match[2])


def _alerts(numbers: Iterable[int], starts_at: float, ends_at: float) -> list[bytes]:
    every = [alerts.alert(number, starts_at=starts_at, ends_at=ends_at, g=f"g{number}") for number in numbers]
    return alerts.post(every)
