"""What the instrumentation costs, beside its peers, in one run: requests, pages, log events,
installation, scrapes of several workers, and memory if asked for.

    python benchmarks/instrumentation/bench.py            # about two minutes
    python benchmarks/instrumentation/bench.py --check    # and exit with 1 if a target is missed
    python benchmarks/instrumentation/bench.py --memory   # and growth over 200,000 requests: two more minutes
    python benchmarks/instrumentation/bench.py --profile "tocsin everything"

Times are CPU times, the best of several rounds that take turns. Compare ratios, not microseconds: machines differ.
How each is measured stands at the top of its module: request_cost, page_cost, event_cost, install_cost, scrape_cost,
memory_cost.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import event_cost
import install_cost
import memory_cost
import page_cost
import request_cost
import scrape_cost
from variants import ALL, ALL_SAMPLED, DOCUMENTED, INSTRUMENTATOR, LEAN, METRICS, VARIANTS


@dataclass(frozen=True, slots=True)
class Target:
    """A limit that was promised, and what was measured; None if it could not be."""

    what: str
    limit: float
    measured: float | None
    unit: str = "x"

    @property
    def met(self) -> bool:
        return self.measured is not None and 0.0 <= self.measured <= self.limit


def requests(rounds: int, count: int) -> list[Target]:
    """Measure and show the CPU added to a request."""
    costs = request_cost.measure(VARIANTS, rounds, count)
    added = {name: cost.added for name, cost in costs.items() if not cost.failure}
    bare = min((min(cost.bare) for cost in costs.values() if cost.bare), default=float("nan"))
    print(f"CPU added to a request of {bare:.1f} us, best and median of {rounds} rounds of {count} requests")
    print(f"{'':<38}{'us':>8}{'median':>9}{'x PFI':>8}{'x line':>8}{'x lean':>8}{'spans received/request':>24}")
    for name, cost in costs.items():
        if cost.failure:
            print(f"{name:<38}not measured: {cost.failure}")
            continue
        ratios = "".join(f"{_ratio(added, name, peer) or 0:>8.2f}" for peer in (INSTRUMENTATOR, DOCUMENTED, LEAN))
        spans = f"{cost.spans / cost.requests:>24.3f}" if VARIANTS[name].spans else ""
        print(f"{name:<38}{cost.added:>8.1f}{cost.median:>9.1f}{ratios}{spans}")
    print(f"PFI: {INSTRUMENTATOR}; line: {DOCUMENTED}; lean: {LEAN}")
    whole = costs[ALL]
    return [
        Target("everything / PFI's metrics", 0.5, _ratio(added, ALL, INSTRUMENTATOR)),
        Target("everything / a structlog line as documented", 1.0, _ratio(added, ALL, DOCUMENTED)),
        Target("everything at 1 % / PFI's metrics", 0.5, _ratio(added, ALL_SAMPLED, INSTRUMENTATOR)),
        Target("metrics / PFI's metrics", 0.15, _ratio(added, METRICS, INSTRUMENTATOR)),
        Target("spans lost of everything", 0.0, None if whole.failure else whole.requests - whole.spans, "spans"),
    ]


def _ratio(added: dict[str, float], name: str, peer: str) -> float | None:
    return added[name] / added[peer] if name in added and peer in added else None


def pages() -> list[Target]:
    """Measure and show the time of a page of metrics."""
    costs = page_cost.measure()
    print("A page of metrics, ms")
    print(f"{'':<38}{'lines':>8}{'tocsin':>9}{'prometheus_client':>19}{'ratio':>8}")
    for cost in costs:
        what = f"{cost.what}, {cost.format}"
        print(f"{what:<38}{cost.lines:>8}{cost.tocsin:>9.2f}{cost.peer:>19.2f}{cost.ratio:>8.3f}")
    return [
        Target(f"{cost.lines} lines, {cost.what}, {cost.format} / prometheus_client", 0.15, cost.ratio)
        for cost in costs
        if cost.lines == page_cost.LINES
    ]


def events() -> list[Target]:
    """Measure and show the time of a log event."""
    cost = event_cost.measure()
    print("One structlog event with trace ids in a request, us")
    print(f"{'tocsin':<38}{cost.tocsin:>8.2f}")
    print(f"{'usual chain with orjson':<38}{cost.structlog:>8.2f}   ratio {cost.ratio:.2f}")
    return [Target("log event / structlog's usual chain with orjson", 7 / 5.9, cost.ratio)]


def installs() -> list[Target]:
    """Measure and show the time of an installation."""
    costs = install_cost.measure()
    print("Import and install in a process that has FastAPI, ms, best of 7 processes")
    print(f"{'':<38}{'wall':>8}{'cpu':>9}  imports the OpenTelemetry SDK")
    for name, cost in costs.items():
        print(f"{name:<38}{cost.wall:>8.1f}{cost.cpu:>9.1f}  {'yes' if cost.sdk else 'no'}")
    found = []
    for name in (install_cost.TOCSIN, install_cost.TOCSIN_EXPORTING):
        found.append(Target(f"installation of {name}", 50.0, costs[name].cpu, "ms"))
        found.append(Target(f"{name} imports the OpenTelemetry SDK", 0.0, float(costs[name].sdk), "times"))
    return found


def workers() -> list[Target]:
    """Measure and show the time of a page that sums several workers."""
    cost = scrape_cost.measure()
    print(f"A page of {scrape_cost.LINES} lines that sums {scrape_cost.WORKERS} workers, ms")
    print(f"{'tocsin':<38}{cost.tocsin:>8.1f}")
    print(f"{'prometheus_client, multiprocess':<38}{cost.peer:>8.1f}   ratio {cost.ratio:.3f}")
    return [Target(f"scrape of {scrape_cost.WORKERS} workers / prometheus_client", 0.15, cost.ratio)]


def memory() -> list[Target]:
    """Measure and show the growth of memory."""
    growths = memory_cost.measure([ALL])
    print(f"Memory that stays after {growths[ALL].requests} requests to paths that are all different")
    print(f"{'':<38}{'resident KiB':>14}{'blocks':>9}{f'traced KiB after {memory_cost.TRACED}':>26}")
    for name, growth in growths.items():
        print(f"{name:<38}{growth.resident_kib:>14.0f}{growth.blocks:>9}{growth.traced_kib:>26.1f}")
    # A growth per request of one small object would be 10 MiB; allocators breathe by less than one.
    return [Target("growth of resident memory", 1024.0, growths[ALL].resident_kib, "KiB")]


def verdict(targets: list[Target]) -> bool:
    """Show what was promised and what was measured; return whether all was kept."""
    print(f"{'target':<68}{'limit':>12}{'measured':>16}")
    for target in targets:
        measured = "not measured" if target.measured is None else f"{target.measured:.3f} {target.unit}"
        limit = f"{target.limit:.3f}" if target.unit == "x" else f"{target.limit:g}"
        print(f"{target.what:<68}{limit:>12}{measured:>16}  {'met' if target.met else 'MISSED'}")
    return all(target.met for target in targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=25, help="of requests (25)")
    parser.add_argument("--requests", type=int, default=400, help="per round and variant (400)")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="a part of it; may be repeated")
    parser.add_argument("--memory", action="store_true", help="growth of memory too; takes minutes")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--profile", choices=VARIANTS, help="show where the time of this variant goes, and end")
    options = parser.parse_args()
    if options.profile:
        request_cost.profile(options.profile)
        return
    sections = options.only or [name for name in SECTIONS if name != "memory" or options.memory]
    print(f"Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d')}")
    targets = []
    for name in sections:
        print()
        targets += SECTIONS[name](options)
    print()
    if not verdict(targets) and options.check:
        raise SystemExit(1)


SECTIONS: dict[str, Callable[[argparse.Namespace], list[Target]]] = {
    "requests": lambda options: requests(options.rounds, options.requests),
    "pages": lambda _: pages(),
    "events": lambda _: events(),
    "installs": lambda _: installs(),
    "workers": lambda _: workers(),
    "memory": lambda _: memory(),
}


if __name__ == "__main__":
    main()
