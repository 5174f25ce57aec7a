"""Several processes that count as one: whose counts are whose after a fork, and what becomes of the app's metrics."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tocsin import names
from tocsin.metrics import group
from tocsin.metrics.families import Families
from tocsin.metrics.shared import SharedStore
from tocsin.metrics.store import HeapStore
from tocsin.metrics.workers import store_for

PRELUDE = '''
import json, multiprocessing, os, resource, shutil, signal, subprocess, sys, threading, time
from pathlib import Path
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.registry import Collector
from tocsin import names
from tocsin.metrics import group, workers
from tocsin.metrics.families import families_of

def page(registry=REGISTRY):
    """All samples, with those labels that say which is which."""
    shown = {}
    for collector in workers.collectors(registry):
        for family in collector.collect():
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                shown[sample.name + ("{" + labels + "}" if labels else "")] = sample.value
    return shown

class Child:
    """A forked process that does something, then waits to be killed."""
    def __init__(self, work):
        read, write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                result = work()
            except BaseException as error:
                result = repr(error)
            os.write(write, json.dumps(result).encode() + b"\\n")
            signal.pause()
        os.close(write)
        with os.fdopen(read) as file:
            self.result = json.loads(file.readline())
    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

def files():
    found = [path for folder in group.root().glob(group.folders_of(os.getpid())) for path in folder.iterdir()]
    return sorted(path.name.partition("-")[0] for path in found)

def give(**results):
    print(json.dumps(results))
'''

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a script in a process of its own, and return what it gives."""

    def begin(script: str, **environ: str) -> dict[str, Any]:
        file = tmp_path / "script.py"
        file.write_text(PRELUDE + textwrap.dedent(script))
        command = [sys.executable, "-W", "error", str(file)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environ}
        )
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return {**result, "stderr": done.stderr}

    return begin


# --- one process --------------------------------------------------------------------------------------------------


def test_a_process_by_itself_shares_nothing(run: Run) -> None:
    """Without other workers cells are a list, prometheus_client is untouched, and no file is made."""
    result = run(
        """
        from prometheus_client import values
        families = families_of()
        families.add(names.AUTH_FAILURES, "expired")
        subprocess.run(["true"], check=True)
        page()
        loaded = [name for name in sys.modules if name.startswith("tocsin.metrics.")]
        give(cells=type(families.store.cells).__name__, sharing=families.store.sharing,
             value=values.ValueClass.__name__, loaded=loaded, files=files(),
             same=workers.collectors(REGISTRY) == list(REGISTRY._collector_to_names))
        """
    )
    assert (result["cells"], result["value"], result["files"]) == ("list", "MutexValue", [])
    assert not result["sharing"]
    assert result["same"]
    # What only several workers need is not even loaded: it would take time at every start.
    assert not {"adopt", "joint", "jointpage", "segment", "merge"} & {name.split(".")[2] for name in result["loaded"]}


@pytest.mark.parametrize("value", ["off", "OFF", "0", "false", "no"])
def test_switched_off_it_is_a_plain_store(value: str) -> None:
    """TOCSIN_WORKERS=off leaves everything to the process itself."""
    assert type(store_for("", None, {"TOCSIN_WORKERS": value})) is HeapStore


def test_a_folder_that_cannot_be_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing can be shared every worker shows its own counts, after one warning."""
    (tmp_path / "file").write_text("")
    store = SharedStore("", 0, {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "file")})
    families = Families(store)
    with caplog.at_level(logging.WARNING, "tocsin"):
        for _ in range(3):
            families.add(names.AUTH_FAILURES, "expired")
    assert [reading.values for reading in store.readings()] == [[3.0]]
    assert len(caplog.records) == 1
    assert "every one shows its own counts" in caplog.text


# --- forks ----------------------------------------------------------------------------------------------------------


def test_a_forked_worker_begins_with_nothing_and_its_parents_counts_stay(run: Run) -> None:
    """Each counts for itself, each shows the sum, and a dead child has counted for ever."""
    result = run(
        """
        families = families_of()
        families.add(names.AUTH_FAILURES, "expired", amount=100)
        def work():
            families.add(names.AUTH_FAILURES, "expired", amount=10)
            return page()["tocsin_auth_failures_total{reason=expired}"]
        children = [Child(work) for _ in range(3)]
        before = page()["tocsin_auth_failures_total{reason=expired}"]
        for child in children:
            child.kill()
        give(children=[child.result for child in children], before=before,
             after=page()["tocsin_auth_failures_total{reason=expired}"], files=files())
        """
    )
    assert result["children"] == [110, 120, 130]
    assert result["before"] == result["after"] == 130
    assert len(result["files"]) == 3  # its own, the base, the lock


def test_children_that_never_count_leave_no_trace(run: Run) -> None:
    """A pool for work, a forked process and a subprocess are no workers, and share nothing."""
    result = run(
        """
        families = families_of()
        families.add(names.AUTH_FAILURES, "expired")
        child = Child(lambda: None)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.map(abs, [1, 2])
        subprocess.run(["true"], check=True)
        shown = page()
        give(workers=shown["tocsin_workers"], count=shown["tocsin_auth_failures_total{reason=expired}"], files=files(),
             threads=child.kill())
        """
    )
    assert result["workers"] == result["count"] == 1
    assert len(result["files"]) == 2


def test_a_child_outlives_its_parent_without_holding_its_place(run: Run) -> None:
    """Locks are not inherited: a dead worker is folded though a process forked from it lives on."""
    result = run(
        """
        families = families_of()
        def work():
            families.add(names.AUTH_FAILURES, "expired", amount=10)
            return Child(lambda: os.getpid()).result
        child = Child(work)
        page()
        before = files()
        child.kill()
        shown = page()["tocsin_auth_failures_total{reason=expired}"]
        os.kill(child.result, signal.SIGKILL)
        give(before=before, after=files(), shown=shown)
        """
    )
    assert result["shown"] == 10
    assert "base" not in result["before"]
    assert "base" in result["after"]


def test_a_fork_at_any_moment_locks_up_nobody(run: Run) -> None:
    """Threads count and scrape while the process forks; every child can count and scrape at once."""
    result = run(
        """
        families = families_of()
        counter = Counter("jobs", "Jobs.", ["kind"])
        done = threading.Event()
        def busy(number):
            while not done.is_set():
                families.add(names.AUTH_FAILURES, str(number))
                counter.labels(number).inc()
                page()
        threads = [threading.Thread(target=busy, args=(number,), daemon=True) for number in range(4)]
        for thread in threads:
            thread.start()
        def work():
            signal.alarm(20)
            families.add(names.AUTH_FAILURES, "child")
            counter.labels("child").inc()
            return page()["tocsin_auth_failures_total{reason=child}"]
        results = []
        for _ in range(15):
            child = Child(work)
            results.append(child.result)
            child.kill()
        done.set()
        for thread in threads:
            thread.join()
        shown = page()
        give(results=results, ours=shown["tocsin_auth_failures_total{reason=child}"],
             theirs=shown["jobs_total{kind=child}"])
        """
    )
    assert result["results"] == list(range(1, 16))
    assert result["ours"] == result["theirs"] == 15


def test_processes_that_multiprocessing_spawns_are_counted_too(run: Run, tmp_path: Path) -> None:
    """A spawned process shares what it counts with the process that started it."""
    (tmp_path / "task.py").write_text(
        "from tocsin import names\nfrom tocsin.metrics.families import families_of\n"
        "def work(_): families_of().add(names.AUTH_FAILURES, 'spawned')\n"
    )
    result = run(
        """
        import task
        if __name__ == "__main__":
            families = families_of()
            families.add(names.AUTH_FAILURES, "spawned")
            with multiprocessing.get_context("spawn").Pool(2) as pool:
                pool.map(task.work, range(10))
            give(shown=page()["tocsin_auth_failures_total{reason=spawned}"])
        """,
        PYTHONPATH=str(tmp_path),
    )
    assert result["shown"] == 11


def test_removed_files_are_made_again(run: Run) -> None:
    """Should somebody clear the folder, living workers write it again with everything they have counted."""
    result = run(
        """
        families = families_of()
        families.add(names.AUTH_FAILURES, "expired", amount=3)
        counter = Counter("jobs", "Jobs.")
        child = Child(lambda: families.add(names.AUTH_FAILURES, "expired", amount=10))
        counter.inc()
        for folder in group.root().glob(group.folders_of(os.getpid())):
            shutil.rmtree(folder)
        first = page()
        families.add(names.AUTH_FAILURES, "expired")
        counter.inc()
        second = page()
        give(first=first, second=second, files=files(), kill=child.kill())
        """
    )
    assert result["first"]["tocsin_auth_failures_total{reason=expired}"] == 3
    assert result["second"]["tocsin_auth_failures_total{reason=expired}"] == 4
    assert result["second"]["jobs_total"] == 2


def test_without_room_the_application_goes_on(run: Run) -> None:
    """When no more can be shared new series are not counted, which is counted and said once; others go on."""
    result = run(
        """
        families = families_of()
        families.add(names.AUTH_FAILURES, "known")
        Child(lambda: None).kill()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        for number in range(1500):
            families.add(names.AUTH_FAILURES, f"reason {number}")
            families.observe(names.OPERATION_DURATION, f"operation {number}", "ok", value=1.0)
        families.add(names.AUTH_FAILURES, "known")
        shown = page()
        give(known=shown["tocsin_auth_failures_total{reason=known}"],
             lost=shown["tocsin_dropped_total{reason=no_room,signal=metrics}"])
        """
    )
    assert result["known"] == 2
    assert result["lost"] > 1000
    assert result["stderr"].count("no room") == 1


# --- the application's own metrics --------------------------------------------------------------------------------


def test_metrics_of_prometheus_client_are_summed(run: Run) -> None:
    """Counters, histograms and summaries, labelled or not, made before or after, in any registry that is watched."""
    result = run(
        """
        registry = CollectorRegistry()
        before = Counter("before", "B.", ["kind"], registry=registry)
        child_of = before.labels("a")
        child_of.inc(5)
        plain = Counter("plain", "P.", registry=registry)
        families_of(registry)
        histogram = Histogram("wait_seconds", "S.", ["route"], registry=registry, buckets=(1, 2), unit="seconds")
        summary = Summary("size", "S.", registry=registry)
        def work():
            child_of.inc()
            before.labels("b").inc()
            plain.inc(2)
            histogram.labels("/").observe(1.5)
            summary.observe(7)
            Counter("late", "Only one worker has it.", ["kind"], registry=registry).labels("x").inc(3)
        children = [Child(work) for _ in range(2)]
        alive = page(registry)
        for child in children:
            child.kill()
        give(alive=alive, dead=page(registry))
        """
    )
    expected = {
        "before_total{kind=a}": 7,
        "before_total{kind=b}": 2,
        "plain_total": 4,
        "wait_seconds_bucket{le=1.0,route=/}": 0,
        "wait_seconds_bucket{le=2.0,route=/}": 2,
        "wait_seconds_bucket{le=+Inf,route=/}": 2,
        "wait_seconds_count{route=/}": 2,
        "wait_seconds_sum{route=/}": 3,
        "size_count": 2,
        "size_sum": 14,
        "late_total{kind=x}": 6,
    }
    for shown in (result["alive"], result["dead"]):
        assert {series: value for series, value in shown.items() if not series.startswith("tocsin_")} == expected


@pytest.mark.parametrize(
    ("mode", "alive", "dead"),
    [
        ("all", {"pid=A": 1, "pid=B": 5, "pid=0": 0}, {"pid=B": 5, "pid=0": 0}),
        ("liveall", {"pid=A": 1, "pid=B": 5, "pid=0": 0}, {"pid=B": 5, "pid=0": 0}),
        ("sum", {"": 6}, {"": 5}),
        ("livesum", {"": 6}, {"": 5}),
        ("max", {"": 5}, {"": 5}),
        ("livemax", {"": 5}, {"": 5}),
        ("min", {"": 0}, {"": 0}),
        ("livemin", {"": 0}, {"": 0}),
        ("mostrecent", {"": 5}, {"": 5}),
        ("livemostrecent", {"": 5}, {"": 5}),
    ],
)
def test_gauges_obey_their_multiprocess_mode(run: Run, mode: str, alive: dict[str, int], dead: dict[str, int]) -> None:
    """As prometheus_client defines its modes, but for values of dead processes, which `all` and `sum` forget."""
    result = run(
        f"""
        gauge = Gauge("level", "L.", multiprocess_mode="{mode}")
        families_of()
        def work(value):
            gauge.set(value)
            return os.getpid()
        first, second = Child(lambda: work(1)), Child(lambda: work(5))
        pids = {{str(first.pid): "A", str(second.pid): "B", str(os.getpid()): "0"}}
        def shown():
            found = {{name[5:].strip("{{}}"): value for name, value in page().items() if name[:5] == "level"}}
            return {{"pid=" + pids[name[4:]] if name else "": value for name, value in found.items()}}
        alive = shown()
        first.kill()
        give(alive=alive, dead=shown(), kill=second.kill())
        """
    )
    assert result["alive"] == alive
    assert result["dead"] == dead


def test_values_set_before_the_fork_are_shown_by_every_worker(run: Run) -> None:
    """A gauge and an Info that were set while the application was loaded are on the page a child serves."""
    result = run(
        """
        Gauge("version", "V.", ["number"], multiprocess_mode="max").labels("1.2").set(1)
        Info("build", "B.").info({"commit": "abc"})
        Enum("state", "S.", states=["up", "down"]).state("down")
        Gauge("computed", "C.").set_function(lambda: 42)
        families_of()
        child = Child(page)
        give(shown=child.result, kill=child.kill())
        """
    )
    shown = result["shown"]
    assert shown["version{number=1.2}"] == 1
    assert shown["build_info{commit=abc}"] == 1
    assert (shown["state{state=up}"], shown["state{state=down}"]) == (0, 1)
    assert shown["computed"] == 42


def test_removed_series_go_and_come_back_from_zero(run: Run) -> None:
    """`remove` and `clear` take this worker's series off the page."""
    result = run(
        """
        gauge = Gauge("depth", "D.", ["queue"], multiprocess_mode="sum")
        counter = Counter("jobs", "J.", ["kind"])
        families_of()
        def work():
            gauge.labels("a").set(3)
            gauge.labels("b").set(4)
            counter.labels("x").inc(5)
            before = page()
            gauge.remove("a")
            counter.clear()
            gone = page()
            counter.labels("x").inc()
            return [{k: v for k, v in shown.items() if k[:4] in ("dept", "jobs")} for shown in (before, gone, page())]
        child = Child(work)
        give(shown=child.result, kill=child.kill())
        """
    )
    before, gone, back = result["shown"]
    assert before == {"depth{queue=a}": 3, "depth{queue=b}": 4, "jobs_total{kind=x}": 5}
    assert gone == {"depth{queue=b}": 4}
    assert back == {"depth{queue=b}": 4, "jobs_total{kind=x}": 1}


def test_registries_of_one_process_do_not_mix(run: Run) -> None:
    """Two applications with metrics of the same names, each in a registry of its own, stay apart in all workers."""
    result = run(
        """
        one, two = CollectorRegistry(), CollectorRegistry()
        first = Counter("jobs", "J.", ["kind"], registry=one)
        second = Counter("jobs", "J.", ["kind"], registry=two)
        first.labels("x"), second.labels("x")
        ours, theirs = families_of(one), families_of(two)
        def work():
            first.labels("x").inc()
            second.labels("x").inc(10)
            ours.add(names.AUTH_FAILURES, "expired")
            theirs.add(names.AUTH_FAILURES, "expired", amount=10)
        children = [Child(work) for _ in range(2)]
        give(one=page(one), two=page(two), kill=[child.kill() for child in children])
        """
    )
    for registry, amount in (("one", 2), ("two", 20)):
        assert result[registry]["jobs_total{kind=x}"] == amount
        assert result[registry]["tocsin_auth_failures_total{reason=expired}"] == amount


def test_a_registry_that_is_dropped_takes_its_counts_along(run: Run) -> None:
    """What comes after it in the same process begins with nothing, and no file is left of it."""
    result = run(
        """
        import gc
        kept = families_of()
        def round():
            registry = CollectorRegistry()
            families = families_of(registry)
            families.add(names.AUTH_FAILURES, "expired")
            child = Child(lambda: families.add(names.AUTH_FAILURES, "expired"))
            shown = page(registry)["tocsin_auth_failures_total{reason=expired}"]
            child.kill()
            return shown
        shown = []
        for _ in range(4):
            shown.append(round())
            gc.collect()
        page()
        give(shown=shown, files=files())
        """
    )
    assert result["shown"] == [2, 2, 2, 2]
    assert len(result["files"]) == 3  # those of the registry that is kept: its own, the base, the lock


def test_files_stay_few_though_nobody_asks_for_a_page(run: Run) -> None:
    """Workers that come fold those that went."""
    result = run(
        """
        families = families_of()
        for _ in range(10):
            Child(lambda: families.add(names.AUTH_FAILURES, "expired")).kill()
        give(files=files(), shown=page()["tocsin_auth_failures_total{reason=expired}"])
        """
    )
    assert len(result["files"]) <= 4
    assert result["shown"] == 10


def test_other_peoples_collectors_show_the_worker_that_answers(run: Run) -> None:
    """Nothing is known of what a collector of somebody else would show in another process."""
    result = run(
        """
        from prometheus_client.core import GaugeMetricFamily
        class Own(Collector):
            def collect(self):
                yield GaugeMetricFamily("own_pid", "P.", os.getpid())
        REGISTRY.register(Own())
        families_of()
        child = Child(lambda: [page()["own_pid"], os.getpid()])
        give(child=child.result, kill=child.kill(), parent=[page()["own_pid"], os.getpid()])
        """
    )
    assert result["child"][0] == result["child"][1]
    assert result["parent"][0] == result["parent"][1]


# --- which processes belong together ------------------------------------------------------------------------------


def test_a_pid_used_again_is_another_group() -> None:
    """Groups are named after when their leader started, and after the service."""
    names_ = {
        group.folder_name(group.Leader(10, 5), "shop", 0),
        group.folder_name(group.Leader(10, 6), "shop", 0),
        group.folder_name(group.Leader(10, 5), "mail", 0),
        group.folder_name(group.Leader(10, 5), "shop", 1),
    }
    assert len(names_) == 4


def test_a_group_is_forsaken_when_its_leader_is_gone() -> None:
    """Judged by pid and start; of another container only by how long nothing has happened in it."""
    own = group.leader()
    living = group.folder_name(group.Leader(os.getpid(), group.started(os.getpid())), "", 0)
    reused = group.folder_name(group.Leader(os.getpid(), own.started + 1), "", 0)
    elsewhere = "1-" + living.partition("-")[2]
    assert not group.forsaken(living, 1e9)
    assert group.forsaken(reused, 0.0)
    assert not group.forsaken(elsewhere, 3600.0)
    assert group.forsaken(elsewhere, 1e6)
    assert not group.forsaken("somebody else's folder", 1e9)


def test_a_folder_others_may_write_to_is_refused(tmp_path: Path) -> None:
    """A link, a file, or a folder open to others is not trusted with counts."""
    (tmp_path / "own").mkdir(mode=0o700)
    group.private(tmp_path / "own")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    for name in ("open", "link"):
        with pytest.raises(PermissionError, match="nobody else writes to"):
            group.private(tmp_path / name)
