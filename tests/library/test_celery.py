"""Tasks of real Celery workers are measured, belong to the trace that sent them, and report to a prober."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals
from celery.exceptions import Ignore, Reject
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import tocsin
from tocsin import lifecycle, names
from tocsin.integrations.celery import instrument, uninstrument
from tocsin.metrics.families import families_of
from tocsin.request import CURRENT, Current
from tocsin.testing import Capture, dropped
from tocsin.tracing.context import Trace

SECONDS = 100.0
"""How long anything may take on a machine that is busy with something else."""

pytestmark = pytest.mark.timeout(3 * SECONDS)

PROGRAM = '''
"""The Celery application of the tests: imported by the worker and by the test, as a web process would."""
import json, os, time, uuid
from celery import Celery
from celery.exceptions import Ignore, Reject
from celery.utils.log import get_task_logger
import tocsin
from tocsin.integrations.celery import instrument
from tocsin.integrations.heartbeat import Heartbeat
from tocsin.request import current_trace

from kombu.transport import filesystem

class Channel(filesystem.Channel):
    def _put(self, queue, payload, **_):
        """Give a message its name when it is whole: kombu's worker may read half of one, and ends."""
        path = f"{self.data_folder_out}/{time.monotonic_ns() // 1_000_000}_{uuid.uuid4()}.{queue}.msg"
        with open(path + ".part", "w") as file:
            file.write(json.dumps(payload))
        os.rename(path + ".part", path)

filesystem.Transport.Channel = Channel

folder, prober = os.environ["BROKER"], os.environ["PROBER"]
app = Celery("shop", broker="filesystem://")
app.conf.update(
    broker_transport_options={
        "data_folder_in": folder, "data_folder_out": folder, "control_folder": folder + "/control",
        "polling_interval": 0.05,
    },
    task_ignore_result=True,
    worker_lost_wait=0.2,
    worker_prefetch_multiplier=1,
)
tocsin.configure_logs(service_name="shop-worker")
instrument(
    app,
    service_name="shop-worker",
    port=int(os.environ["PORT"]),
    heartbeats={"good": prober + "/good", "bad": Heartbeat(prober + "/bad", start=True, fail=True)},
)
log = tocsin.get_logger("shop")

def told(text):
    trace = current_trace()
    log.info(text, parent=trace.parent_id, child=os.getpid())

@app.task(name="good")
def good(seconds=0.0):
    time.sleep(seconds)
    told("good runs")
    get_task_logger("shop.tasks").warning("said by Celery's logger")

@app.task(name="counted")
def counted(seconds=0.0):
    time.sleep(seconds)

@app.task(name="bad")
def bad():
    raise OSError("no disk")

@app.task(name="again", bind=True, max_retries=2)
def again(self):
    told("again runs")
    if self.request.retries < 2:
        raise self.retry(countdown=0)

@app.task(name="parent")
def parent():
    told("parent runs")
    good.delay()

@app.task(name="rejecting")
def rejecting():
    raise Reject("poison", requeue=False)

@app.task(name="ignoring")
def ignoring():
    raise Ignore()

@app.task(name="slow", time_limit=1)
def slow():
    time.sleep(60)

@app.task(name="napping")
def napping():
    time.sleep(60)

@app.task(name="dying")
def dying():
    os._exit(3)

@app.task(name="exiting")
def exiting():
    raise SystemExit(3)
'''


SENDER = """
import contextvars, json, sys
import shop
for line in sys.stdin:
    try:
        contextvars.copy_context().run(exec, json.loads(line), {"shop": shop})
        print("sent", flush=True)
    except Exception as error:
        print("failed", repr(error), flush=True)
"""


class Prober:
    """A real HTTP server that keeps which paths were called; also takes spans, as a collector does."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.spans: list[Any] = []
        prober = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.path == "/v1/traces":
                    plain = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
                    prober.keep(ExportTraceServiceRequest.FromString(plain))
                else:
                    prober.asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def keep(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            names_of = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(names_of["service.name"], span) for span in scope.spans]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Worker:
    """A real `celery worker` in a process of its own, on a broker of files."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.prober = Prober()
        (folder / "control").mkdir(parents=True)
        self._program = folder / "program"
        self._program.mkdir()
        (self._program / "shop.py").write_text(PROGRAM)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environ = {
            **os.environ,
            "BROKER": str(folder),
            "PROBER": self.prober.url,
            "PORT": str(self.port),
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.prober.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "PYTHONPATH": os.pathsep.join([str(self._program), *sys.path]),
            "C_FORCE_ROOT": "1",
        }
        self._output = folder / "program" / "stdout"
        self._errors = folder / "program" / "stderr"
        self._sender: subprocess.Popen[str] | None = None
        with self._output.open("wb") as stdout, self._errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                (
                    *(sys.executable, "-m", "celery", "-A", "shop", "worker", "-l", "info", "-c", "2"),
                    *("--without-gossip", "--without-mingle", "--without-heartbeat", *options),
                ),
                env=self.environ,
                cwd=self._program,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    def send(self, code: str) -> None:
        """Run code in the process that sends tasks: one for all, for it takes a while to start."""
        if self._sender is None:
            self._sender = subprocess.Popen(
                [sys.executable, "-c", SENDER],
                env=self.environ,
                cwd=self._program,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._sender.stdin is not None
        assert self._sender.stdout is not None
        self._sender.stdin.write(json.dumps(code) + "\n")
        self._sender.stdin.flush()
        for said in self._sender.stdout:  # log lines among them
            assert not said.startswith("failed"), said
            if said == "sent\n":
                return
        raise AssertionError("the process that sends tasks ended")

    def page(self) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def counts(self) -> dict[tuple[str, str], int]:
        return {
            (sample.labels["job"], sample.labels["outcome"]): int(sample.value)
            for sample in self._samples()
            if sample.name == f"{names.JOB_DURATION.name}_count"
        }

    def values(self, name: str) -> dict[str, float]:
        return {sample.labels["job"]: sample.value for sample in self._samples() if sample.name == name}

    def _samples(self) -> list[Any]:
        return [sample for family in text_string_to_metric_families(self.page()) for sample in family.samples]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What the worker wrote to stdout that is JSON: Celery's banner is not."""
        found = []
        for line in self._output.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{self.counts()}\n{self._output.read_text()[-4_000:]}"
            assert self.process.poll() is None, (self._output.read_text() + self._errors.read_text())[-4_000:]
            threading.Event().wait(0.05)

    def stop(self) -> None:
        """End worker and children at once: Celery's own way takes it 4 to 6 seconds."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self._sender is not None:
            self._sender.communicate()  # its standard input ends, so it does
        self.prober.close()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("broker"))
    try:
        worker.until(worker.page)
        yield worker
    finally:
        worker.stop()


def test_a_prefork_worker_shows_what_its_children_did(worker: Worker) -> None:
    """On its own port: outcomes, durations, last success; nothing runs any more."""
    before = time.time()
    worker.send("shop.counted.delay(0.05); shop.counted.delay(); shop.ignoring.delay(); shop.rejecting.delay()")
    expected = {("counted", "ok"): 2, ("ignoring", "cancelled"): 1, ("rejecting", "error"): 1}
    worker.until(lambda: worker.counts().items() >= expected.items())
    assert worker.values(f"{names.JOB_DURATION.name}_sum")["counted"] >= 0.05
    worker.until(lambda: set(worker.values(names.JOB_ACTIVE.name).values()) == {0})
    last = worker.values(names.JOB_LAST_SUCCESS.name)
    assert not {"ignoring", "rejecting"} & last.keys()
    assert before <= last["counted"] <= time.time()
    assert 'target_info{service_name="shop-worker"' in worker.page()


def test_heartbeats_are_sent_by_the_children(worker: Worker) -> None:
    """After a success, and around a failure where asked for."""
    worker.send("shop.good.delay(); shop.bad.delay()")
    worker.until(lambda: {"/good", "/bad/fail"} <= set(worker.prober.asked))
    assert set(worker.prober.asked) <= {"/good", "/bad/start", "/bad/fail"}


def test_a_task_belongs_to_the_trace_that_sent_it(worker: Worker) -> None:
    """Its lines have the trace's id, its span is below the sender's, and so are the tasks it sends itself."""
    worker.send(
        """
from tocsin.metrics.families import families_of
from tocsin.request import CURRENT, Current
from tocsin.tracing.context import Trace
CURRENT.set(Current(Trace("a" * 32, "b" * 16, True), families_of(), None))
shop.parent.delay()
"""
    )

    def lines() -> list[dict[str, Any]]:
        return [line for line in worker.lines if line.get("trace.id") == "a" * 32 and "parent" in line]

    worker.until(lambda: len(lines()) == 2)
    # By name: the other child may well be the first to write.
    first, second = sorted(lines(), key=lambda line: line["message"], reverse=True)
    assert (first["message"], second["message"]) == ("parent runs", "good runs")
    assert first["parent"] == "b" * 16
    assert second["parent"] == first["span.id"]
    worker.until(lambda: any("said by Celery" in line["message"] for line in worker.lines))
    by_celery = [
        line for line in worker.lines if "said by Celery" in line["message"] and line.get("trace.id") == "a" * 32
    ]
    assert [line["span.id"] for line in by_celery] == [second["span.id"]]
    worker.until(lambda: len(_exported(worker, "a" * 32)) == 2)
    service, span = _exported(worker, "a" * 32)[0]
    assert (service, span.name, span.parent_span_id.hex()) == ("shop-worker", "parent", "b" * 16)
    assert span.kind == span.SPAN_KIND_CONSUMER
    assert {attribute.key for attribute in span.attributes} >= {"celery.task_id", "celery.retries"}


def _exported(worker: Worker, trace_id: str) -> list[Any]:
    """Return (service, span) of a trace, in the order the spans began."""
    found = [(service, span) for service, span in list(worker.prober.spans) if span.trace_id.hex() == trace_id]
    return sorted(found, key=lambda pair: pair[1].start_time_unix_nano)


def test_a_failed_run_has_an_error_on_its_span(worker: Worker) -> None:
    """With the exception; a collector has it before the child ends."""
    worker.send("shop.bad.delay()")
    worker.until(lambda: any(span.name == "bad" for _, span in worker.prober.spans))
    span = next(span for _, span in worker.prober.spans if span.name == "bad")
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert [event.name for event in span.events] == ["exception"]


def test_a_retry_is_an_outcome_and_follows_from_the_run_before(worker: Worker) -> None:
    """Three runs, one trace; each begins where the one before it ended."""
    worker.send("shop.again.delay()")
    worker.until(lambda: worker.counts().get(("again", "ok")))
    assert worker.counts()["again", "retry"] == 2
    worker.until(lambda: len([line for line in worker.lines if line["message"] == "again runs"]) == 3)
    runs = sorted(
        (line for line in worker.lines if line["message"] == "again runs"), key=lambda line: line["@timestamp"]
    )
    assert len({run["trace.id"] for run in runs}) == 1
    assert [run["parent"] for run in runs] == ["", runs[0]["span.id"], runs[1]["span.id"]]


def test_what_a_child_does_not_live_to_count_is_counted(worker: Worker) -> None:
    """A hard time limit, a crash, an exit: errors, each once; a gauge does not stay up."""
    worker.send("shop.slow.delay(); shop.dying.delay(); shop.exiting.delay()")
    lost = {("slow", "error"): 1, ("dying", "error"): 1, ("exiting", "error"): 1}
    worker.until(lambda: worker.counts().items() >= lost.items())
    worker.send("shop.good.delay()")
    worker.until(worker.page)
    assert {name: count for name, count in worker.counts().items() if name in lost} == lost
    assert worker.values(f"{names.JOB_DURATION.name}_sum")["slow"] >= 0.9
    worker.until(lambda: not any(worker.values(names.JOB_ACTIVE.name).values()))


def test_what_expired_before_it_began_is_missed(worker: Worker) -> None:
    """Nothing ran, and nothing is wrong but that it did not."""
    worker.send("shop.good.apply_async(expires=-1)")
    worker.until(lambda: worker.counts().get(("good", "missed")) == 1)


def test_a_task_that_is_revoked_while_it_runs_is_cancelled(worker: Worker) -> None:
    """It is seen running until then."""
    task = "5f0c3a52-0000-4000-8000-000000000001"
    worker.send(f"shop.napping.apply_async(task_id={task!r})")
    worker.until(lambda: worker.values(names.JOB_ACTIVE.name).get("napping") == 1)
    worker.send(f"shop.app.control.revoke({task!r}, terminate=True)")
    worker.until(lambda: worker.counts().get(("napping", "cancelled")) == 1)
    worker.until(lambda: not worker.values(names.JOB_ACTIVE.name).get("napping"))


def test_a_pool_of_threads_needs_no_shared_memory(tmp_path: Path) -> None:
    """The same page from one process."""
    worker = Worker(tmp_path / "broker", "--pool", "threads")
    try:
        worker.until(worker.page)
        worker.send("shop.good.delay(); shop.bad.delay(); shop.exiting.delay()")
        worker.until(lambda: worker.counts().items() >= {("good", "ok"): 1, ("bad", "error"): 1}.items())
        worker.until(lambda: {"/good", "/bad/fail"} <= set(worker.prober.asked))
    finally:
        worker.stop()


# --- in one process -------------------------------------------------------------------------------------------------


@pytest.fixture
def app(registry: CollectorRegistry) -> Iterator[Celery]:
    app = Celery("here", broker="memory://", set_as_current=False)
    instrument(app, registry)
    yield app
    uninstrument()
    app.close()


def counts(registry: CollectorRegistry) -> dict[tuple[str, str], int]:
    return {
        (sample.labels["job"], sample.labels["outcome"]): int(sample.value)
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == f"{names.JOB_DURATION.name}_count"
    }


def sent_headers(app: Celery, **options: Any) -> dict[str, Any]:
    """Send a task and return the headers of its message."""
    with app.connection_for_write() as connection:
        app.send_task("somewhere.else", connection=connection, **options)
        with contextlib.closing(connection.SimpleQueue("celery")) as queue:
            message = queue.get(timeout=SECONDS)
            message.ack()
            headers: dict[str, Any] = message.headers
            return headers


def test_the_trace_is_in_the_message(app: Celery, registry: CollectorRegistry) -> None:
    """As OpenTelemetry's instrumentation writes it; what the caller gives goes first; nothing outside of a trace."""
    assert "traceparent" not in sent_headers(app)
    token = CURRENT.set(Current(Trace("a" * 32, "b" * 16, True, "vendor=1"), families_of(registry), None))
    try:
        headers = sent_headers(app)
        assert headers["traceparent"] == f"00-{'a' * 32}-{'b' * 16}-01"
        assert headers["tracestate"] == "vendor=1"
        own = f"00-{'c' * 32}-{'d' * 16}-01"
        assert sent_headers(app, headers={"traceparent": own})["traceparent"] == own
    finally:
        CURRENT.reset(token)


def test_an_eager_task_runs_inside_of_what_calls_it(app: Celery, registry: CollectorRegistry, lines: Capture) -> None:
    """As in tests of an application: in the request's trace, which is current again afterwards."""
    tocsin.configure_logs(service_name="here", stream=lines, registry=registry)

    @app.task(name="work")
    def work(outcome: str) -> str:
        tocsin.get_logger().info(outcome)
        errors = {"fail": OSError("no disk"), "ignore": Ignore(), "requeue": Reject("later", requeue=True)}
        if outcome in errors:
            raise errors[outcome]
        return outcome

    current = Current(Trace("a" * 32, "b" * 16, True), families_of(registry), None)
    token = CURRENT.set(current)
    try:
        assert work.apply(("ok",)).result == "ok"
        assert isinstance(work.apply(("fail",)).result, OSError)
        work.apply(("ignore",))
        with contextlib.suppress(Reject):
            work.apply(("requeue",))
        assert work("called directly") == "called directly"
        assert CURRENT.get() is current
    finally:
        CURRENT.reset(token)
    assert counts(registry) == {("work", "ok"): 1, ("work", "error"): 1, ("work", "cancelled"): 1, ("work", "retry"): 1}
    assert lifecycle.force_flush(SECONDS)
    told = [line for line in lines.application if line["message"] in {"ok", "fail", "ignore", "requeue"}]
    assert {line["trace.id"] for line in told} == {"a" * 32}
    assert len({line["span.id"] for line in told} - {"b" * 16}) == 4
    assert dropped(registry) == {}


def test_only_the_applications_own_tasks_are_measured(app: Celery, registry: CollectorRegistry) -> None:
    """Where one is given; without, all of the process."""
    other = Celery("other", broker="memory://", set_as_current=False)

    @other.task(name="elsewhere")
    def elsewhere() -> None: ...

    elsewhere.apply()
    assert counts(registry) == {}
    instrument(registry=registry)
    elsewhere.apply()
    assert counts(registry) == {("elsewhere", "ok"): 1}
    other.close()


def test_uninstrument_leaves_no_receiver(registry: CollectorRegistry) -> None:
    """Also after instrumenting twice."""
    listened = [value for value in vars(signals).values() if hasattr(value, "receivers")]
    before = [len(each.receivers or ()) for each in listened]
    instrument(registry=CollectorRegistry())
    instrument(registry=registry)
    assert sum(len(each.receivers or ()) for each in listened) > sum(before)
    uninstrument()
    uninstrument()
    assert [len(each.receivers or ()) for each in listened] == before


def test_a_run_under_way_is_recorded_where_it_began(app: Celery, registry: CollectorRegistry) -> None:
    """Whoever instruments again or uninstruments meanwhile: its gauge goes down, and then nothing listens any more."""
    other = CollectorRegistry()

    @app.task(name="work")
    def work(then: Callable[[], None]) -> None:
        active = registry.get_sample_value(names.JOB_ACTIVE.name, {"job": "work"})
        assert active == 1
        then()

    assert work.apply((lambda: instrument(app, other),)).state == "SUCCESS"
    assert (counts(registry), counts(other)) == ({("work", "ok"): 1}, {})
    instrument(app, registry)
    assert work.apply((uninstrument,)).state == "SUCCESS"
    assert counts(registry) == {("work", "ok"): 2}
    assert registry.get_sample_value(names.JOB_ACTIVE.name, {"job": "work"}) == 0
    assert not [receiver for receiver in signals.task_postrun.receivers or () if "tocsin" in repr(receiver)]


def test_a_child_hands_on_what_it_has_before_it_leaves(tmp_path: Path) -> None:
    """Celery's children leave without what `atexit` has: lines, spans and heartbeats go out before that."""
    prober = Prober()
    program = f"""
import os
from celery import Celery, signals
import tocsin
from tocsin.integrations.celery import instrument
app = Celery("shop", broker="memory://")
tocsin.configure_logs(service_name="shop")
instrument(app, service_name="shop", heartbeats={{"work": "{prober.url}/work"}})

@app.task(name="work")
def work():
    tocsin.get_logger().info("work runs")

child = os.fork()
if child == 0:
    signals.worker_process_init.send(sender=None)
    work.apply()
    signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
os._exit(0)
"""
    environ = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": prober.url, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], env=environ, cwd=tmp_path, capture_output=True, timeout=SECONDS, check=True
        )
        assert prober.asked == ["/work"]
        assert [span.name for _, span in prober.spans] == ["work"]
        assert json.loads(done.stdout.splitlines()[0])["message"] == "work runs"
    finally:
        prober.close()


def test_a_heartbeat_that_cannot_work_is_refused() -> None:
    """Before anything is connected."""
    with pytest.raises(ValueError, match="heartbeat of job 'nightly'"):
        instrument(heartbeats={"nightly": "prober"})
