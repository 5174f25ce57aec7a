"""The alert router beside the real Alertmanager, in one run: taking alerts in, giving them out, telling receivers.

    python benchmarks/alerting/bench.py            # some six minutes
    python benchmarks/alerting/bench.py --check    # and exit with 1 if a target is missed
    python benchmarks/alerting/bench.py --only slack --full    # 200 groups at 1 message/s: seven minutes more

CPU is user and system time of the server's process, the best of several rounds. Compare ratios, not seconds: machines
differ. How each is measured stands at the top of its module: intake_cost, delivery_cost, slack_limit. Alertmanager is
Debian's newest, fetched without root; where that does not run, the one of this Debian.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import delivery_cost
import intake_cost
import servers
import slack_limit
from servers import ALERTMANAGER, TOCSIN, Peer


@dataclass(frozen=True, slots=True)
class Target:
    """A limit that was promised, and what was measured."""

    what: str
    limit: float
    measured: float
    unit: str = "x"

    @property
    def met(self) -> bool:
        return self.measured <= self.limit


def intake(peer: Peer, options: argparse.Namespace) -> list[Target]:
    """Measure and show posts, answers and memory."""
    targets: list[Target] = []
    for count in options.alerts:
        ours, theirs = (
            intake_cost.measure(name, peer, count, rounds=options.rounds, asks=options.asks)
            for name in (TOCSIN, ALERTMANAGER)
        )
        print(f"{count} alerts in requests of 64; {theirs.size / 1e6:.1f} MB as JSON")
        print(f"{'':<44}{'tocsin':>10}{'Alertmanager':>14}{'ratio':>9}")
        _row("CPU of the first post, s", ours.first, theirs.first)
        _row("CPU of a re-post, s", ours.again, theirs.again)
        if count == min(options.alerts):
            _row(
                "the same with all that follows from it, s",
                *(intake_cost.keep_up(name, peer, count) for name in (TOCSIN, ALERTMANAGER)),
            )
        for what in ours.answers:
            _row(f"GET, {what}, ms", ours.answers[what] * 1e3, theirs.answers[what] * 1e3)
        _row("resident memory, idle, MiB", ours.idle, theirs.idle)
        _row("resident memory after the posts, MiB", ours.rss, theirs.rss)
        _row("most resident memory, with the GETs, MiB", ours.peak, theirs.peak)
        print()
        targets.append(Target(f"CPU of a re-post of {count}", 0.2, ours.again / theirs.again))
        if count == min(options.alerts):
            for what, limit in (("all", 0.3), ("filtered", 1.0), ("groups", 0.3)):
                ratio = ours.answers[what] / theirs.answers[what]
                targets.append(Target(f"GET of {count}, {what}", limit, ratio))
        else:
            targets.append(Target(f"resident memory of {count}", 2.0, ours.rss / theirs.rss))
    return targets


def delivery(peer: Peer, options: argparse.Namespace) -> list[Target]:
    """Measure and show how late notifications are."""
    print(f"Beyond group_wait, ms; {options.groups} groups of one alert, then 5000 alerts of 100 groups at once")
    print(f"{'':<30}{'p50':>8}{'p95':>8}{'max':>8}{'storm':>9}{'its groups':>12}")
    found = {}
    for name in (TOCSIN, ALERTMANAGER):
        late = delivery_cost.lateness(name, peer, options.groups)
        storm = delivery_cost.storm(name, peer, 5000, 100)
        found[name] = late, storm
        shown = "".join(f"{late.quantile(q) * 1e3:>8.1f}" for q in (0.5, 0.95, 1.0))
        print(f"{name:<30}{shown}{storm.whole * 1e3:>9.0f}{storm.group * 1e3:>12.0f}")
    late, storm = found[TOCSIN]
    return [
        Target("notification beyond group_wait, p95", 10.0, late.quantile(0.95) * 1e3, "ms"),
        Target("storm of 5000 alerts in 100 groups, beyond group_wait", 500.0, storm.whole * 1e3, "ms"),
    ]


def slack(peer: Peer, options: argparse.Namespace) -> list[Target]:
    """Measure and show what becomes of messages to a channel that takes few of them."""
    groups, rate = (200, 1.0) if options.full else (40, 5.0)
    print(f"{groups} groups on one Slack channel that takes {rate:g} message/s; every third is over after 3 s")
    print(f"{'':<30}{'seconds':>9}{'refused':>9}{'never told':>12}{'last is wrong':>15}{'resolved first':>16}")
    found = {}
    for name in (TOCSIN, ALERTMANAGER):
        outcome = slack_limit.measure(name, peer, groups, rate, limited_by_itself=options.full)
        found[name] = outcome
        print(
            f"{name:<30}{outcome.seconds:>9.0f}{outcome.refusals:>9}{len(outcome.lost):>12}{len(outcome.wrong):>15}"
            f"{len(outcome.out_of_order):>16}"
        )
    ours = found[TOCSIN]
    return [
        Target("groups nobody was told of", 0.0, len(ours.lost), "groups"),
        Target("groups whose last message is not true", 0.0, len(ours.wrong), "groups"),
        Target('groups told "resolved" before "firing"', 0.0, len(ours.out_of_order), "groups"),
    ]


def _row(what: str, ours: float, theirs: float) -> None:
    print(f"{what:<44}{ours:>10.3f}{theirs:>14.3f}{ours / theirs:>8.2f}x")


def verdict(targets: list[Target]) -> bool:
    """Show what was promised and what was measured; return whether all was kept."""
    print(f"{'target':<68}{'limit':>12}{'measured':>18}")
    for target in targets:
        measured = f"{target.measured:.3f} {target.unit}"
        print(f"{target.what:<68}{target.limit:>12g}{measured:>18}  {'met' if target.met else 'MISSED'}")
    return all(target.met for target in targets)


SECTIONS: dict[str, Callable[[Peer, argparse.Namespace], list[Target]]] = {
    "intake": intake,
    "delivery": delivery,
    "slack": slack,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=SECTIONS, action="append", help="a part of it; may be repeated")
    parser.add_argument("--alerts", type=int, action="append", help="how many; may be repeated (10000 and 50000)")
    parser.add_argument("--rounds", type=int, default=4, help="re-posts of all alerts (4)")
    parser.add_argument("--asks", type=int, default=5, help="GETs of each kind (5)")
    parser.add_argument("--groups", type=int, default=50, help="of which lateness is measured (50)")
    parser.add_argument("--full", action="store_true", help="the Slack channel at its real rate; takes minutes")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    options = parser.parse_args()
    options.alerts = sorted(options.alerts or [10_000, 50_000])
    peer = servers.find_peer()
    print(f"Alertmanager {peer.version}, Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d')}. {peer.note}")
    targets: list[Target] = []
    for name in options.only or SECTIONS:
        print()
        targets += SECTIONS[name](peer, options)
    print()
    if not verdict(targets) and options.check:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
