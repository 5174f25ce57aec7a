"""The loop, on a clock turned by hand: when it probes, what it decides, and whom it does not blame."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from tocsin_service.testing import FakeClock, settle
from tocsin_uptime.check import Check, Target
from tocsin_uptime.config import DEFAULT_HTTP
from tocsin_uptime.result import Observation, Phase, Reason, Result, State
from tocsin_uptime.state import Change, Confirm, Event, Step
from tocsin_uptime.watch import Watch, Watched


def _check(name: str = "shop", **settings: object) -> Check:
    target = Target(shown="http://shop.example/", host="shop.example", port=80)
    return replace(
        Check(name=name, service=name, kind="http", target=target, conditions=DEFAULT_HTTP),
        **settings,  # type: ignore[arg-type]  # the fields of Check
    )


class Machine(FakeClock):
    """A clock that can also go wrong."""

    def stand_still(self, seconds: float) -> None:
        """Let time pass without anybody being woken, as a machine that is starved of CPU does."""
        self._now += seconds

    def set_back(self, seconds: float) -> None:
        """Set the time back; sleepers still wake after the time they asked for, as with a real clock."""
        self._now -= seconds
        self._sleepers = [(at - seconds, order, woken) for at, order, woken in self._sleepers]


@dataclass
class Scripted:
    """A target whose status at an instant is decided by `status`; it answers after `takes` seconds."""

    clock: FakeClock
    status: Callable[[float], int] = field(default=lambda _: 200)
    takes: float = 0.0
    visits: list[tuple[float, str]] = field(default_factory=list)
    running: int = 0
    most: int = 0

    async def __call__(self, check: Check) -> Observation:
        self.visits.append((self.clock.now(), check.name))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.takes:
                await self.clock.sleep(self.takes)
            return Observation(self.takes, {Phase.CONNECT: 0.0}, status=self.status(self.clock.now()))
        finally:
            self.running -= 1


@dataclass
class Told:
    """What an observer was told."""

    results: list[tuple[str, Result]] = field(default_factory=list)
    events: list[tuple[str, Event]] = field(default_factory=list)
    latest: float = 0.0

    def result(self, watched: Watched, result: Result, step: Step) -> None:
        self.results.append((watched.check.name, result))
        if step.event is not None:
            self.events.append((watched.check.name, step.event))

    def lateness(self, seconds: float) -> None:
        self.latest = max(self.latest, seconds)


@contextlib.asynccontextmanager
async def _watching(
    checks: Sequence[Check], target: Scripted, told: Told, *, concurrency: int = 500
) -> AsyncIterator[Watch]:
    watch = Watch(told, clock=target.clock, probes={"http": target}, concurrency=concurrency)
    watch.replace(checks)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_newcomer_has_a_result_within_two_seconds_and_then_one_an_interval() -> None:
    """The first probe is prompt, the rest stand on the steady phase."""
    clock = FakeClock()
    target = Scripted(clock)
    start = clock.now()
    async with _watching([_check(interval=30.0)], target, Told()) as watch:
        await clock.advance(2.0)
        assert len(target.visits) == 1
        assert watch.watched["shop"].standing.state is State.UP
        await clock.advance(298.0)
    instants = [at for at, _ in target.visits]
    assert instants[0] - start <= 2.0
    assert len(instants) in {10, 11, 12}
    assert all(later - earlier == pytest.approx(30.0) for earlier, later in itertools.pairwise(instants[1:]))


async def test_a_day_with_blips_and_one_outage_tells_of_the_outage_only() -> None:
    """2,880 probes, a blip every hour that the re-check finds gone, and one outage of ten minutes: two events."""
    clock = FakeClock()
    start = clock.now()
    outage = (start + 40_000, start + 40_600)

    blips: set[int] = set()

    def status(now: float) -> int:
        hour = int((now - start) // 3600)
        blip = hour not in blips
        blips.add(hour)
        return 503 if blip or outage[0] <= now < outage[1] else 200

    target = Scripted(clock, status)
    told = Told()
    async with _watching([_check(interval=30.0)], target, told) as watch:
        await clock.advance(86_400)
        assert watch.watched["shop"].standing.state is State.UP
        uptime = watch.watched["shop"].history.uptime(clock.now())
    (_, down), (_, up) = told.events
    assert (down.change, up.change) == (Change.WENT_DOWN, Change.RECOVERED)
    assert outage[0] <= down.since <= outage[0] + 30
    assert outage[1] <= (up.until or 0) <= outage[1] + 30
    failed = len([1 for _, result in told.results if not result.success])
    assert 24 + 20 <= failed <= 24 + 24
    assert uptime == pytest.approx(1 - failed / len(told.results))


async def test_an_outage_is_confirmed_by_quick_rechecks() -> None:
    """From the first failure to the event it takes (failures - 1) * every, not as many intervals."""
    clock = FakeClock()
    target = Scripted(clock, lambda _: 503)
    told = Told()
    confirm = Confirm(failures=3, every=5.0, recover=2)
    async with _watching([_check(interval=60.0, confirm=confirm)], target, told):
        await clock.advance(12.0)
        first = target.visits[0][0]
        assert [at - first for at, _ in target.visits] == pytest.approx([0.0, 5.0, 10.0])
        assert [(name, event.since) for name, event in told.events] == [("shop", pytest.approx(first, abs=0.001))]
        target.status = lambda _: 200
        await clock.advance(60.0)
        back = target.visits[3][0]
        assert [at - back for at, _ in target.visits[3:5]] == pytest.approx([0.0, 5.0])
    assert told.events[1][1] == Event(
        Change.RECOVERED, since=pytest.approx(first, abs=0.001), until=pytest.approx(back, abs=0.001)
    )


async def test_a_check_never_runs_twice_at_once() -> None:
    """A target that takes longer than its re-check is waited for."""
    clock = FakeClock()
    target = Scripted(clock, lambda _: 503, takes=1.0)
    async with _watching([_check(interval=1.0, confirm=Confirm(3, 0.1, 2))], target, Told()):
        await clock.advance(30.0)
    assert target.most == 1
    assert len(target.visits) >= 14


async def test_no_more_probes_run_at_once_than_there_are_places() -> None:
    """The cap holds, everybody gets a turn, and waiting for a place shows as lateness."""
    clock = FakeClock()
    target = Scripted(clock, takes=0.5)
    told = Told()
    checks = [_check(f"check {index}", interval=60.0) for index in range(40)]
    async with _watching(checks, target, told, concurrency=4):
        await clock.advance(10.0)
    assert target.most == 4
    assert {name for name, _ in told.results} == {check.name for check in checks}
    assert told.latest > 1.0


async def test_a_late_prober_blames_nobody() -> None:
    """Failures seen more than a second late are unknown; they never make an outage."""
    clock = FakeClock()
    target = Scripted(clock, lambda _: 503, takes=0.5)
    told = Told()
    checks = [_check(f"check {index}", interval=60.0) for index in range(40)]
    async with _watching(checks, target, told, concurrency=1) as watch:
        await clock.advance(22.0)
        late = [result for _, result in told.results if result.verdict is State.UNKNOWN]
        assert len(late) > 30
        assert {result.reason for result in late} == {Reason.LATE}
        assert all(item.standing.state is State.UNKNOWN for item in watch.watched.values())
    assert told.events == []


async def test_a_prober_that_stood_still_during_a_probe_blames_nobody() -> None:
    """Starved of CPU in the middle of a probe, the time-out it sees is its own."""
    clock = Machine()
    told = Told()
    entered = asyncio.Event()

    class Starved(Scripted):
        async def __call__(self, check: Check) -> Observation:
            entered.set()
            await settle(3)
            clock.stand_still(3.0)
            return await super().__call__(check)

    async with _watching([_check()], Starved(clock, lambda _: 503), told):
        await clock.advance(2.0)
        await entered.wait()
        await settle()
    assert told.results[0][1].reason is Reason.LATE
    assert told.events == []


async def test_good_news_of_a_late_prober_is_believed() -> None:
    """A target that answers is up, however late we looked."""
    clock = FakeClock()
    target = Scripted(clock, takes=0.5)
    told = Told()
    async with _watching([_check(f"check {index}") for index in range(20)], target, told, concurrency=1):
        await clock.advance(11.0)
    assert {result.verdict for _, result in told.results} == {State.UP}


async def test_a_clock_set_back_does_not_stop_the_probing() -> None:
    """After the time server took an hour back, probing goes on within one interval."""
    clock = Machine()
    target = Scripted(clock)
    async with _watching([_check(interval=30.0)], target, Told()):
        await clock.advance(60.0)
        clock.set_back(3600)
        before = len(target.visits)
        await clock.advance(60.0)
        assert len(target.visits) >= before + 1


async def test_a_failure_inside_the_prober_is_unknown_and_ends_nothing() -> None:
    """A bug in one probe is not an outage of its target, and the others are watched on."""
    clock = FakeClock()

    class Broken(Scripted):
        async def __call__(self, check: Check) -> Observation:
            if check.name == "broken":
                raise RuntimeError("a bug")
            return await super().__call__(check)

    target = Broken(clock)
    told = Told()
    async with _watching([_check("broken"), _check("fine")], target, told) as watch:
        await clock.advance(100.0)
        assert watch.watched["broken"].standing.state is State.UNKNOWN
        assert watch.watched["fine"].standing.state is State.UP
    assert {result.reason for name, result in told.results if name == "broken"} == {Reason.INTERNAL}
    assert len([1 for name, _ in told.results if name == "broken"]) >= 3


async def test_an_observer_that_fails_stops_nothing() -> None:
    """Storage and alerts may break; probing goes on."""
    clock = FakeClock()

    class Failing(Told):
        def result(self, watched: Watched, result: Result, step: Step) -> None:
            super().result(watched, result, step)
            raise RuntimeError("disk on fire")

    told = Failing()
    async with _watching([_check()], Scripted(clock), told):
        await clock.advance(100.0)
    assert len(told.results) >= 3


async def test_a_reload_keeps_state_history_and_phase_of_unchanged_checks() -> None:
    """What did not change goes on as if nothing had happened; a newcomer is probed promptly."""
    clock = FakeClock()
    target = Scripted(clock)
    async with _watching([_check("stays"), _check("goes")], target, Told()) as watch:
        await clock.advance(45.0)
        since = watch.watched["stays"].standing.since
        seen = len(watch.watched["stays"].history.recent)
        watch.replace([_check("stays"), _check("comes")])
        target.visits.clear()
        await clock.advance(60.0)
        assert watch.watched.keys() == {"stays", "comes"}
        assert watch.watched["stays"].standing.since == since
        assert len(watch.watched["stays"].history.recent) == seen + 2
    assert not [name for _, name in target.visits if name == "goes"]
    assert [name for _, name in target.visits if name == "comes"]


async def test_a_changed_check_is_probed_at_once_and_not_judged_by_its_old_target() -> None:
    """A probe under way when its check changes is thrown away."""
    clock = FakeClock()
    target = Scripted(clock, lambda _: 503, takes=5.0)
    told = Told()
    async with _watching([_check(confirm=Confirm(1, 5.0, 1))], target, told) as watch:
        await clock.advance(3.0)
        assert target.running == 1
        target.takes = 0.0
        target.status = lambda _: 200
        watch.replace([_check(timeout=4.0, confirm=Confirm(1, 5.0, 1))])
        await clock.advance(4.0)
        assert watch.watched["shop"].standing.state is State.UP
    assert told.events == []


async def test_stopping_cancels_probes_under_way() -> None:
    """A slow target does not hold up the shutdown."""
    clock = FakeClock()
    target = Scripted(clock, takes=1000.0)
    async with _watching([_check()], target, Told()):
        await clock.advance(3.0)
        assert target.running == 1
    assert target.running == 0
