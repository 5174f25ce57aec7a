"""Writing across processes: exits, kills, forks, shared files and pipes. Each test runs real programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

HEAD = """
import atexit, os, sys, threading, time, tocsin
def configure(**options):
    tocsin.configure_logs(service_name="shop", **options)
log = tocsin.get_logger()
"""


def run(source: str, *arguments: str, flags: tuple[str, ...] = (), status: int = 0) -> bytes:
    """Run a program to its end and return what it wrote to stdout."""
    result = subprocess.run(
        [sys.executable, "-W", "error", *flags, "-c", HEAD + source, *arguments],
        capture_output=True,
        timeout=60,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    assert result.returncode == status, result.stderr.decode()
    return result.stdout


def messages(data: bytes) -> list[str]:
    return [json.loads(line)["message"] for line in data.splitlines()]


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise SystemExit('x')", 1),
        ("threading.Thread(target=lambda: (time.sleep(0.1), log.info('thread'))).start()", 0),
        ("atexit.register(log.info, 'atexit')", 0),
    ],
    ids=["end", "exit", "error", "thread", "atexit"],
)
def test_nothing_is_lost_at_the_end(ending: str, status: int) -> None:
    """However the interpreter ends by itself: what was queued is written, in order."""
    found = messages(run(f"configure()\nfor n in range(200): log.info(str(n))\n{ending}", status=status))
    assert found[:200] == [str(n) for n in range(200)]
    assert found[200:] == [word for word in ("thread", "atexit") if f"'{word}'" in ending]


def test_lines_from_the_very_end_are_written() -> None:
    """By exit functions that were registered before us; a finalizer may log while the interpreter goes away."""
    source = """
class Late:
    def __del__(self, info=log.info):
        info("finalizer")
late = Late()
atexit.register(lambda: log.info("after ours"))
configure()
log.info("first")
"""
    found = messages(run(source))
    assert found[:2] == ["first", "after ours"]
    assert found[2:] in (["finalizer"], [])  # Python does not promise to call it


def test_a_killed_process_loses_the_last_moment_only(tmp_path: Path) -> None:
    """SIGKILL: what is older than a batch (200 ms) is in the file, in whole lines."""
    path = tmp_path / "app.log"
    source = HEAD + "configure(file=sys.argv[1])\nlog.info('before')\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", source, str(path)]) as process:
        deadline = time.monotonic() + 20
        while not (path.exists() and path.read_bytes()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert messages(path.read_bytes()) == ["before"]


def test_a_program_without_stdout_runs() -> None:
    """Daemons close their standard streams; the next file they open may have the number 1."""
    source = """
configure()
log.info("lost")
with open(sys.argv[1], "w") as file:
    log.info("lost too")
    tocsin.force_flush()
    assert file.fileno() == 1, file.fileno()
"""
    for redirect in ("1>&-", "1>&- 2>&- 0>&-"):
        command = f'exec "$0" -c "$1" /dev/null {redirect}'
        result = subprocess.run(
            ["/bin/sh", "-c", command, sys.executable, HEAD + source], check=False, timeout=60, capture_output=True
        )
        wanted = 1 if "0>&-" in redirect else 0  # then the first free number is another one: the assertion says so
        assert result.returncode in (0, wanted), result.stderr


def test_a_reader_that_leaves_does_not_end_the_program() -> None:
    """EPIPE from the first line on."""
    source = """
configure()
for _ in range(1000): log.info("x" * 1000)
tocsin.force_flush()
sys.stderr.write("done")
sys.stdout = None  # or Python itself complains about the pipe at exit
"""
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + source], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b"done"
    assert process.returncode == 0


@pytest.mark.parametrize("flags", [(), ("-u",)], ids=["buffered", "unbuffered"])
def test_prints_and_lines_do_not_cut_each_other(flags: tuple[str, ...]) -> None:
    """On one stdout, from one thread and from several: every print and every line is whole."""
    source = """
configure()
def work(name):
    for n in range(1500):
        print(f"<{name} {n} {'y' * (n % 90)}>")
        log.info("line", n=n, name=name, text="x" * (n % 200))
work("main")
threads = [threading.Thread(target=lambda: [log.info("other", n=n) for n in range(1500)]) for _ in range(2)]
for thread in threads: thread.start()
work("again")
for thread in threads: thread.join()
"""
    seen: Counter[str] = Counter()
    for line in run(source, flags=flags).splitlines():
        if line.startswith(b"<"):
            assert line.endswith(b">")
            assert line.count(b"<") == 1
            seen["print"] += 1
        else:
            seen[json.loads(line)["message"]] += 1
    assert seen == {"print": 3000, "line": 3000, "other": 3000}


# --- several processes --------------------------------------------------------------------------------------------


def test_processes_share_a_file(tmp_path: Path) -> None:
    """Appended in whole lines, long ones too."""
    path = tmp_path / "app.log"
    source = (
        HEAD
        + """
configure(file=sys.argv[1])
for n in range(1500): log.info("m", who=sys.argv[2], n=n, text="x" * (n * 37 % 9000))
"""
    )
    running = [subprocess.Popen([sys.executable, "-c", source, str(path), str(who)]) for who in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    events = [json.loads(line) for line in path.read_bytes().splitlines()]
    for who in "012":
        assert [event["n"] for event in events if event["who"] == who] == list(range(1500))


def test_processes_share_a_pipe() -> None:
    """As the workers of a server do: lines of up to 4,096 bytes are never mixed, also when the reader is slow."""
    source = """
configure()
for _ in range(2): os.fork()
for n in range(800): log.info("m", pid=os.getpid(), n=n, text="x" * (n * 37 % 3000))
"""
    read, write = os.pipe()
    with subprocess.Popen([sys.executable, "-c", HEAD + source], stdout=write) as process:
        os.close(write)
        found = bytearray()
        while data := os.read(read, 3_000):
            found += data
    os.close(read)
    assert process.returncode == 0
    events = [json.loads(line) for line in bytes(found).splitlines()]
    by_process: dict[int, list[int]] = {}
    for event in events:
        by_process.setdefault(event["pid"], []).append(event["n"])
    assert list(by_process.values()) == [list(range(800))] * 4


FORKS = {
    "os.fork": """
def fork(work):
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit()
    return lambda: os.waitpid(pid, 0)
""",
    "multiprocessing": """
import multiprocessing
def fork(work):
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process.join
""",
}


@pytest.mark.parametrize("way", FORKS)
def test_a_forked_child_writes_its_own_lines_once(way: str, tmp_path: Path) -> None:
    """What the parent had queued is the parent's; the child has a thread of its own, and flushes at its end."""
    path = tmp_path / "app.log"
    source = (
        FORKS[way]
        + """
configure(file=sys.argv[1])
stop = threading.Event()
def busy():
    while not stop.wait(0.0005):
        log.info("busy")
threading.Thread(target=busy, daemon=True).start()
waits = []
for child in range(10):
    log.info("parent", n=child)
    waits.append(fork(lambda: [log.info("child", child=child, n=n) for n in range(100)]))
for wait in waits: wait()
stop.set()
log.info("parent", n=10)
"""
    )
    run(source, str(path))
    events = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [event["n"] for event in events if event["message"] == "parent"] == list(range(11))
    for child in range(10):
        assert [event["n"] for event in events if event.get("child") == child] == list(range(100))


def test_a_child_forked_while_the_reader_is_stuck_goes_on() -> None:
    """It waits for nobody, and has nothing of the parent's queue."""
    source = """
configure()
for _ in range(2000): log.info("x" * 500)
pid = os.fork()
began = time.monotonic()
for _ in range(2000): log.info("y" * 500)
took = time.monotonic() - began
if pid == 0:
    os._exit(0 if took < 5 else 1)
status = os.waitpid(pid, 0)[1]
sys.stderr.write(f"{status} {took < 5}")
sys.stderr.close()
os._exit(0)
"""
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HEAD + source], stdout=write, stderr=subprocess.PIPE
    ) as process:
        os.close(write)
        assert process.stderr is not None
        assert process.stderr.read() == b"0 True"
    os.close(read)


def test_writing_goes_on_when_the_disk_has_room_again(tmp_path: Path) -> None:
    """A line that was cut by a full disk (here: a limit on the size of files) ends there; the next begins anew."""
    path = tmp_path / "app.log"
    source = """
import resource
from prometheus_client import generate_latest
configure(file=sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for n in range(20):
    log.info(f"cut {n}")
    assert tocsin.force_flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.info("room")
assert tocsin.force_flush()
lost = [line for line in generate_latest().decode().splitlines() if line.startswith("tocsin_dropped_total{")]
sys.stderr.write(f"{lost}")
sys.exit(0 if 'signal="logs"' in lost[0] and 'reason="write"' in lost[0] else 1)
"""
    run(source, str(path))
    lines = path.read_bytes().splitlines()
    whole = []
    for line in lines:
        try:
            whole.append(json.loads(line)["message"])
        except ValueError:
            whole.append("torn")
    kept = whole.index("torn")
    assert whole == [*(f"cut {n}" for n in range(kept)), "torn", "room"]
