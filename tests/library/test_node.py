"""The recipe for Node.js (docs/recipes/node) under a real Node: Express, Next.js, and a trace through Python and back.

Needs node and npm; what the recipe names is installed once into the user's cache, under the hash of its lock file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import tocsin
from tocsin import names, redact
from tocsin.request import KNOWN_METHODS
from tocsin.testing import Capture

pytestmark = pytest.mark.timeout(420)  # the first time everything is downloaded

RECIPE = Path(__file__).parents[2] / "docs" / "recipes" / "node"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tocsin" / "node"
OLDEST = 20
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}

SHOP = """
import express from 'express';
import client from 'prom-client';
import { authFailed, errors, log, rateLimited } from './tocsin/index.cjs';

const orders = new client.Counter({ name: 'shop_orders_total', help: 'Orders.', labelNames: ['kind'] });
const app = express();
app.use((request, response, next) => next());

const empty = express.Router();
app.use('/shops/:shop', empty);
const shop = express.Router();
shop.get('/items/:item', (request, response) => response.json(request.params));
app.use('/shops/:shop', shop);

const admin = express();
admin.get('/users/:user', (request, response) => response.json(request.params));
app.use('/admin/:tenant', admin);
app.get('/next/:item', (request, response, next) => next());
app.get('/:kind/late/:item', (request, response) => setTimeout(() => response.json(request.params), 5));

app.get('/items/:item', async (request, response) => {
  log.info('item read', { item: request.params.item, password: 'hunter2', url: 'http://x/?token=hunter2' });
  orders.inc({ kind: 'read' });
  response.json(request.params);
});
app.get('/boom', () => {
  throw new TypeError('no password=hunter2 here');
});
app.get('/slow', (request, response) => {
  response.write('x');
});
app.get('/back', async (request, response) => {
  const answer = await fetch(request.query.url);
  response.json(await answer.json());
});
app.get('/refused', (request, response) => {
  authFailed('expired');
  rateLimited('/refused', 'per_user');
  response.sendStatus(401);
});
app.get('/healthz', (request, response) => response.send('ok'));
app.use(errors);
const server = app.listen(0, '127.0.0.1', () => log.info('listening', { port: server.address().port }));
"""


def _node() -> str:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip(f"needs node and npm {OLDEST} or later: https://nodejs.org/ or apt install nodejs npm")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    if int(version.strip().lstrip("v").partition(".")[0]) < OLDEST:
        pytest.skip(f"needs node {OLDEST} or later, found {version.strip()}")
    return node


@pytest.fixture(scope="module")
def installed() -> Path:
    """A folder with everything that the recipe's lock file names."""
    _node()
    lock = RECIPE / "package-lock.json"
    folder = CACHE / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    with CACHE.joinpath("lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # another test run may be installing
        if not folder.joinpath("installed").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(RECIPE / name, folder)
            command = ["npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, f"npm ci in {folder}: {done.stderr[-2000:]}"
            folder.joinpath("installed").touch()
    return folder


@contextlib.contextmanager
def _project(installed: Path, *folders: str) -> Iterator[Path]:
    """A copy of parts of the recipe as their user has it, where Node finds what is installed."""
    with tempfile.TemporaryDirectory(prefix="project-", dir=installed) as name:
        for folder in folders:
            shutil.copytree(RECIPE / folder, name, dirs_exist_ok=True)
        shutil.copytree(RECIPE / "tocsin", Path(name) / "tocsin")
        yield Path(name)


class Collector:
    """An OTLP/HTTP collector: the spans that were exported, with the name of their service."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        self.arrived = threading.Condition()

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            with self.arrived:
                self.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]
                self.arrived.notify_all()

    def of(self, trace_id: str, count: int) -> list[tuple[str, Span]]:
        """Wait until this many spans of a trace are there; return them."""
        found: list[tuple[str, Span]] = []

        def enough() -> bool:
            found[:] = [(service, span) for service, span in self.spans if span.trace_id.hex() == trace_id]
            return len(found) >= count

        with self.arrived:
            assert self.arrived.wait_for(enough, 20), f"{len(found)} spans of {trace_id}, expected {count}"
        return found


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[str, Collector]]:
    """The URL of a collector, and what it received."""
    kept = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.take(self._chunks() if self.headers["transfer-encoding"] else self._body())
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers["content-length"]))

        def _chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", kept
        server.shutdown()
        thread.join(10)


@dataclass(frozen=True)
class Running:
    """A Node server: its URL, its output, and a client for it."""

    process: subprocess.Popen[bytes]
    output: Path
    client: httpx.Client

    def lines(self) -> list[dict[str, Any]]:
        """Return the log lines written up to now; a line that is not ours is the framework's."""
        text = self.output.read_text().splitlines()
        return [json.loads(line) for line in text if line.startswith("{")]

    def line(self, **fields: object) -> dict[str, Any]:
        """Wait for the line with these fields (`_` for `.`), and return it."""
        found = _eventually(
            lambda: [line for line in self.lines() if all(line.get(k) == v for k, v in fields.items())],
            f"a line with {fields} in {self.output.read_text()[-2000:]}",
        )
        assert len(found) == 1
        return found[0]

    def families(self, *, openmetrics: bool = False) -> dict[str, Metric]:
        """Return the metrics page, parsed."""
        page = self.client.get("/metrics", headers=OPENMETRICS if openmetrics else {})
        assert page.status_code == 200
        parse = parse_openmetrics if openmetrics else parse_text
        return {family.name: family for family in parse(page.text)}

    def count(self, metric: names.Metric, *labels: str) -> float:
        """Return the value of a series; of a histogram its count; 0 if there is none."""
        suffix = "_count" if metric.kind == "histogram" else ""
        wanted = (metric.name + suffix, dict(zip(metric.labels, labels, strict=True)))
        samples = [sample for family in self.families().values() for sample in family.samples]
        return sum(sample.value for sample in samples if (sample.name, sample.labels) == wanted)


def _eventually(found: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 20
    while not (result := found()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return result


@contextlib.contextmanager
def _running(command: list[str], folder: Path, port: int | None, **environ: str) -> Iterator[Running]:
    """Run a Node server until the end; `port` if it does not say itself where it listens."""
    output = folder / "output"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env={**inherited, **environ}, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        if port is None:
            said = _eventually(
                lambda: [line for line in _json_lines(output) if "port" in line] or process.poll() is not None,
                f"the server's port in {output.read_text()}",
            )
            assert isinstance(said, list), f"ended with {process.poll()}: {output.read_text()}"
            port = said[0]["port"]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client:
            yield Running(process, output, client)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _json_lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text().splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def express(installed: Path, collector: tuple[str, Collector]) -> Iterator[Running]:
    """The recipe's Express server with routes to test."""
    with _project(installed, "express") as folder:
        folder.joinpath("server.mjs").write_text(SHOP)
        command = ["node", "--import", "./instrumentation.mjs", "server.mjs"]
        exporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector[0], "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with _running(command, folder, None, **exporting) as server:
            yield server


# --- what is the same as in Python ----------------------------------------------------------------------------------


def test_names_are_those_of_the_library() -> None:
    """Every metric and field of the recipe is one of the library's: name, kind, help, labels, buckets."""
    program = "const n = require('./names.cjs'); console.log(JSON.stringify([n.METRICS, n.FIELD, [...n.METHODS]]))"
    metrics, fields, methods = _evaluate(program)
    library = {metric.name: metric for metric in names.METRICS}
    for metric in metrics.values():
        same = library[metric["name"]]
        assert (metric["kind"], metric["help"], tuple(metric["labels"])) == (same.kind, same.help, same.labels)
        assert tuple(metric.get("buckets", ())) == same.buckets
    assert fields.items() <= {name: value for name, value in vars(names.Field).items() if name.isupper()}.items()
    assert set(methods) == KNOWN_METHODS


SECRETS = (
    *("password", "userPassword", "client_secret", "X-Auth-Token", "code", "status_code", "sig", "design", "apiKey"),
    *(
        "api_key",
        "APIKey",
        "private-key",
        "item",
        "sessionId",
        "session_id",
        "author",
        "authorization",
        "pin",
        "pinned",
    ),
)
TEXTS = (
    "/a?token=abc&item=7",
    "code=403 in a sentence",
    "/login?code=abc",
    "postgresql://me:hunter2@db/shop",
    "Authorization: Bearer abcdefghijkl",
    'password="two words" and more',
    "nothing to see",
)


def test_the_same_is_secret() -> None:
    """Names and texts are redacted as the library redacts them."""
    program = (
        "const r = require('./redact.cjs'); const [names, texts] = JSON.parse(process.argv[1]);"
        "console.log(JSON.stringify([names.map(r.isSecret), texts.map((text) => r.redactText(text))]))"
    )
    secret, texts = _evaluate(program, json.dumps([SECRETS, TEXTS]))
    assert secret == [redact.is_secret(name) for name in SECRETS]
    assert texts == [redact.redact_text(text) for text in TEXTS]


def _evaluate(program: str, *arguments: str) -> Any:
    command = [_node(), "-e", program, *arguments]
    done = subprocess.run(command, cwd=RECIPE / "tocsin", capture_output=True, text=True, timeout=30, check=True)
    return json.loads(done.stdout)


def test_the_readme_tells_what_is_installed_and_shown() -> None:
    """The README's command installs the tested versions, and its table has every metric with its labels."""
    readme = (RECIPE / "README.md").read_text()
    dependencies = json.loads((RECIPE / "package.json").read_text())["dependencies"]
    command = readme.partition("npm install --save-exact ")[2].partition("```")[0]
    assert sorted(command.replace("\\", "").split()) == sorted(f"{name}@{v}" for name, v in dependencies.items())
    for metric in _evaluate("console.log(JSON.stringify(require('./names.cjs').METRICS))").values():
        labels = ", ".join(f"`{label}`" for label in metric["labels"])
        assert f"| `{metric['name']}` | {labels}{' ' if labels else ''}|" in readme


def test_the_lock_file_names_no_registry() -> None:
    """Packages come from whatever registry npm is configured for."""
    packages = json.loads((RECIPE / "package-lock.json").read_text())["packages"]
    assert [name for name, package in packages.items() if "resolved" in package] == []


# --- Express --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "OpenMetrics"])
def test_the_page_shows_the_library_s_families(express: Running, openmetrics: bool) -> None:
    """Names, types, labels and buckets of the page are those of `tocsin.names`, in both formats."""
    express.client.get("/items/1")
    families = express.families(openmetrics=openmetrics)
    for metric in (names.HTTP_SERVER_REQUEST_DURATION, names.HTTP_SERVER_ACTIVE_REQUESTS, names.TARGET_INFO):
        shown = metric.name.removesuffix("_info") if openmetrics else metric.name
        kind = metric.kind if openmetrics or metric.kind != "info" else "gauge"
        assert families[shown].type == kind
        assert families[shown].documentation == metric.help
        labels = {frozenset(sample.labels) - {"le"} for sample in families[shown].samples}
        assert labels == {frozenset(metric.labels)}
    buckets = [
        sample.labels["le"]
        for sample in families[names.HTTP_SERVER_REQUEST_DURATION.name].samples
        if sample.labels.get("http_route") == "/items/:item" and "le" in sample.labels
    ]
    assert buckets == [*(str(float(bound)) for bound in names.HTTP_SECONDS), "+Inf"]
    assert families["target" if openmetrics else "target_info"].samples[0].labels["service_name"] == "shop"


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/items/7", "/items/:item", 200),
        ("GET", "/shops/3/items/7", "/shops/:shop/items/:item", 200),
        ("GET", "/admin/3/users/7", "/admin/:tenant/users/:user", 200),
        ("GET", "/next/7", "/next/:item", 404),
        ("GET", "/odd/late/7", "/:kind/late/:item", 200),
        ("GET", "/shops/3/nothing", "", 404),
        ("GET", "/nothing/at/all", "", 404),
        ("POST", "/items/7", "", 404),
        ("PURGE", "/items/7", "", 404),
    ],
)
def test_routes_are_full_templates(express: Running, method: str, path: str, route: str, status: int) -> None:
    """Mounted routers show their template, never a value; what nothing matched is one value, and counted."""
    labels = (method if method in KNOWN_METHODS else "_OTHER", route, str(status))
    before = express.count(names.HTTP_SERVER_REQUEST_DURATION, *labels)
    assert express.client.request(method, path).status_code == status
    _eventually(
        lambda: express.count(names.HTTP_SERVER_REQUEST_DURATION, *labels) == before + 1,
        f"{labels} one more than {before}",
    )


def test_the_page_and_excluded_paths_are_nobody_s_business(express: Running) -> None:
    """Neither scrapes nor excluded paths are counted, logged or traced."""
    express.client.get("/healthz")
    express.client.get("/metrics")
    assert express.client.post("/metrics").status_code == 405
    express.client.get("/items/99")
    express.line(**{"http.route": "/items/:item", "url.path": "/items/99"})
    assert not {line.get("url.path") for line in express.lines()} & {"/healthz", "/metrics"}
    text = express.client.get("/metrics").text
    assert "healthz" not in text
    assert 'http_route="/metrics"' not in text


def test_the_access_line_has_the_library_s_fields(express: Running, registry: CollectorRegistry) -> None:
    """The line of a request has exactly the fields that a FastAPI application's line has."""
    app = FastAPI()

    @app.get("/items/{item}")
    async def item(item: str) -> None: ...

    lines = Capture()
    tocsin.instrument(app, service_name="shop", registry=registry, log_stream=lines)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))

    async def ask() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            await client.get("/items/fields")

    asyncio.run(ask())
    library = next(line for line in lines.events if names.Field.ROUTE in line)
    express.client.get("/items/fields")
    line = express.line(**{"http.route": "/items/:item", "url.path": "/items/fields"})
    assert set(line) == set(library)
    for field in ("message", "ecs.version", "service.name", "event.dataset", "log.level", "http.response.status_code"):
        assert line[field] == library[field]
    assert {field: type(value) for field, value in line.items()} == {f: type(v) for f, v in library.items()}


def test_secrets_stay_inside(express: Running, collector: tuple[str, Collector]) -> None:
    """Passwords and tokens are in no line and no span: not in fields, paths, queries or exceptions."""
    trace = "5ec2e7" + TRACE[6:]
    headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
    express.client.get("/items/%3Ftoken=hunter2?code=hunter2&item=7", headers=headers)
    express.client.get("/boom")
    express.line(**{"message": "item read", "trace.id": trace, "password": redact.REDACTED})
    express.line(**{"http.route": "/items/:item", "trace.id": trace})
    express.line(**{"http.route": "/boom", "error.message": f"no password={redact.REDACTED} here"})
    span = collector[1].of(trace, 1)[0][1]
    assert "hunter2" not in str(span)
    assert {a.key: a.value.string_value for a in span.attributes}["url.query"] == f"code={redact.REDACTED}&item=7"
    ours = [line for line in express.lines() if "hunter2" in json.dumps(line)]
    assert ours == []


def test_exceptions_are_counted_once_and_told(express: Running) -> None:
    """An exception that left a handler is in the access line with its type and stack, and counted once."""
    labels = ("GET", "/boom", "TypeError")
    before = express.count(names.HTTP_SERVER_EXCEPTIONS, *labels)
    headers = {"traceparent": f"00-{'e' * 32}-{PARENT}-01"}
    assert express.client.get("/boom", headers=headers).status_code == 500
    line = express.line(**{"http.route": "/boom", "trace.id": "e" * 32})
    assert line["log.level"] == "error"
    assert line["error.type"] == "TypeError"
    assert "server.mjs" in line["error.stack_trace"]
    assert express.count(names.HTTP_SERVER_EXCEPTIONS, *labels) == before + 1


def test_a_client_that_goes_away_is_counted(express: Running) -> None:
    """A request whose client left before the end has status 499, and is no longer active."""
    with socket.create_connection((express.client.base_url.host, express.client.base_url.port or 0)) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nhost: shop\r\n\r\n")
        assert connection.recv(64)
        assert express.count(names.HTTP_SERVER_ACTIVE_REQUESTS, "GET") == 1
    express.line(**{"http.route": "/slow", "http.response.status_code": 499})
    assert express.count(names.HTTP_SERVER_ACTIVE_REQUESTS, "GET") == 0
    assert express.count(names.HTTP_SERVER_REQUEST_DURATION, "GET", "/slow", "499") == 1


def test_only_what_is_sampled_is_exported(express: Running, collector: tuple[str, Collector]) -> None:
    """An unsampled request has its ids in the line, but no span and no exemplar; a sampled one has both."""
    sampled, unsampled = "a" * 32, "b" * 32
    express.client.get("/items/1", headers={"traceparent": f"00-{unsampled}-{PARENT}-00"})
    express.line(**{"http.route": "/items/:item", "trace.id": unsampled})
    express.client.get("/items/1", headers={"traceparent": f"00-{sampled}-{PARENT}-01"})
    express.line(**{"http.route": "/items/:item", "trace.id": sampled})
    (service, span), *others = collector[1].of(sampled, 1)
    assert (service, span.name, span.kind, others) == ("shop", "GET /items/:item", Span.SPAN_KIND_SERVER, [])
    assert span.parent_span_id.hex() == PARENT
    assert unsampled not in {span.trace_id.hex() for _, span in collector[1].spans}
    samples = express.families(openmetrics=True)[names.HTTP_SERVER_REQUEST_DURATION.name].samples
    exemplars = {sample.exemplar.labels["trace_id"] for sample in samples if sample.exemplar}
    assert sampled in exemplars
    assert unsampled not in exemplars
    _eventually(lambda: express.count(names.SPANS_EXPORTED) > 0, "spans counted as exported")


def test_the_application_s_own_metrics_are_on_the_page(express: Running) -> None:
    """What is kept in prom-client, its process metrics too, is shown in both formats beside ours."""
    express.client.get("/items/1")
    for families in (express.families(), express.families(openmetrics=True)):
        assert families["shop_orders"].samples[0].labels == {"kind": "read"}
        assert families["process_resident_memory_bytes"].samples[0].value > 1e6
        assert families["tocsin_event_loop_lag_seconds"].type == "histogram"


def test_refusals_are_counted_by_reason(express: Running) -> None:
    """One call counts a refused credential, one a rate limit."""
    assert express.client.get("/refused").status_code == 401
    assert express.count(names.AUTH_FAILURES, "expired") == 1
    assert express.count(names.RATELIMIT_REJECTED, "/refused", "per_user") == 1


def test_one_trace_through_python_and_node_and_back(
    express: Running, collector: tuple[str, Collector], serve: Callable[..., str], registry: CollectorRegistry
) -> None:
    """FastAPI calls Express, which calls FastAPI: one trace id, each the child of the one that called."""
    lines = Capture()
    app = FastAPI()

    @app.get("/out")
    async def out(url: str) -> Any:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(url, params={"url": f"{here}/home"}, headers=tocsin.trace_headers())
            return answer.json()

    @app.get("/home")
    async def home() -> dict[str, str]:
        return tocsin.trace_headers()

    here = serve(tocsin.instrument(app, service_name="python", registry=registry, log_stream=lines))
    node = f"{express.client.base_url}/back"
    answer = httpx.get(
        f"{here}/out", params={"url": node}, headers={"traceparent": f"00-{'c' * 32}-{PARENT}-01"}, trust_env=False
    )
    assert answer.json()["traceparent"].split("-")[1] == "c" * 32
    express.line(**{"http.route": "/back", "trace.id": "c" * 32})
    spans = {span.kind: span for _, span in collector[1].of("c" * 32, 2)}
    first, last = spans[Span.SPAN_KIND_SERVER], spans[Span.SPAN_KIND_CLIENT]
    python = {line["http.route"]: line for line in _eventually(lambda: _access(lines, 2), "two lines of Python")}
    assert first.parent_span_id.hex() == python["/out"]["span.id"]
    assert last.parent_span_id == first.span_id
    assert {line["trace.id"] for line in python.values()} == {"c" * 32}


def _access(lines: Capture, count: int) -> list[dict[str, Any]]:
    found = [line for line in lines.events if names.Field.ROUTE in line]
    return found if len(found) >= count else []


COMMONJS = """
const express = require('express');
const { log } = require('./tocsin/index.cjs');
const app = express();
const shop = express.Router();
shop.get('/items/:item', (request, response) => response.json(request.params));
app.use('/shops/:shop', shop);
const server = app.listen(0, '127.0.0.1', () => log.info('listening', { port: server.address().port }));
"""


def test_commonjs_and_the_end_of_the_process(installed: Path, collector: tuple[str, Collector]) -> None:
    """An application with `require` needs nothing else; SIGTERM ends it as ever, after its spans have left."""
    with _project(installed, "express") as folder:
        folder.joinpath("server.cjs").write_text(COMMONJS)
        command = ["node", "--import", "./instrumentation.mjs", "server.cjs"]
        with _running(command, folder, None, OTEL_EXPORTER_OTLP_ENDPOINT=collector[0]) as server:
            assert server.client.get("/shops/1/items/2", headers={"traceparent": f"00-{'d' * 32}-{PARENT}-01"})
            server.line(**{"http.route": "/shops/:shop/items/:item"})
            server.process.terminate()
            assert server.process.wait(10) == -signal.SIGTERM
    assert len(collector[1].of("d" * 32, 1)) == 1


def test_the_recipe_s_own_server_runs(installed: Path) -> None:
    """What the README starts answers, without a collector, and counts what it lost: nothing."""
    with _project(installed, "express") as folder:
        command = ["node", "--import", "./instrumentation.mjs", "server.mjs"]
        with _running(command, folder, None, PORT="0") as server:
            assert server.client.get("/items/7").json() == {"item": "7"}
            assert server.line(message="item read")["item"] == "7"
            assert not server.families()["tocsin_dropped"].samples


def test_a_closed_stdout_costs_lines_not_answers(installed: Path) -> None:
    """When the reader of the lines goes away, the server goes on answering and counts what is lost."""
    with _project(installed, "express") as folder:
        command = ["node", "--import", "./instrumentation.mjs", "server.mjs"]
        environ = {**os.environ, "PORT": "0"}
        with subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
            process.stdout.close()
            try:
                for _ in range(3):
                    assert httpx.get(f"{url}/items/7", trust_env=False).status_code == 200
                lost = f'{names.TOCSIN_DROPPED.name}{{signal="logs",reason="write"}}'
                _eventually(lambda: lost in httpx.get(f"{url}/metrics", trust_env=False).text, "lost lines counted")
            finally:
                process.terminate()


# --- Next.js --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def next_js(installed: Path, collector: tuple[str, Collector], express: Running) -> Iterator[Running]:
    """The recipe's Next.js application, built for production; its pages read from the Express server."""
    with _project(installed, "next") as folder:
        program = [_node(), str(installed / "node_modules" / "next" / "dist" / "bin" / "next")]
        quiet = {"NEXT_TELEMETRY_DISABLED": "1"}
        build = [*program, "build"]
        done = subprocess.run(
            build, cwd=folder, env={**os.environ, **quiet}, capture_output=True, text=True, timeout=110, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environ = {
            **quiet,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector[0],
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "SHOP_URL": str(express.client.base_url),
        }
        with _running([*program, "start", "-H", "127.0.0.1", "-p", str(port)], folder, port, **environ) as server:

            def ready() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return server.client.get("/metrics").status_code == 200
                return False

            _eventually(ready, "Next.js to answer")
            yield server


@pytest.mark.parametrize(
    ("path", "route", "status"),
    [
        ("/items/7", "/items/[item]", 200),
        ("/api/items/7", "/api/items/[item]", 200),
        ("/nothing", "", 404),
        ("/_next/static/nothing.js", "/_next/*", 404),
    ],
)
@pytest.mark.parametrize("flags", ["01", "00"], ids=["sampled", "unsampled"])
def test_next_routes_are_templates(next_js: Running, path: str, route: str, status: int, flags: str) -> None:
    """Pages and API routes show their template whether or not the request is sampled; the rest is bounded."""
    labels = ("GET", route, str(status))
    before = next_js.count(names.HTTP_SERVER_REQUEST_DURATION, *labels)
    trace = f"{hashlib.sha256((path + flags).encode()).hexdigest()[:32]}"
    answer = next_js.client.get(path, headers={"traceparent": f"00-{trace}-{PARENT}-{flags}"})
    assert answer.status_code == status
    _eventually(
        lambda: next_js.count(names.HTTP_SERVER_REQUEST_DURATION, *labels) == before + 1,
        f"{labels} one more than {before}",
    )
    assert next_js.count(names.HTTP_SERVER_ACTIVE_REQUESTS, "GET") == 0


def test_next_passes_the_trace_on(next_js: Running, express: Running, collector: tuple[str, Collector]) -> None:
    """A route handler's `fetch` carries the trace; lines of both services and the spans have its id."""
    trace = "f" * 32
    next_js.client.get("/api/items/8", headers={"traceparent": f"00-{trace}-{PARENT}-01"})
    line = next_js.line(**{"trace.id": trace, "http.route": "/api/items/[item]"})
    assert next_js.line(**{"trace.id": trace, "message": "item read"})["item"] == "8"
    express.line(**{"trace.id": trace, "http.route": "/items/:item"})
    spans = _eventually(lambda: _servers(collector[1], trace), "a server span of both services")
    assert spans["shop-web"].span_id.hex() == line["span.id"]
    assert spans["shop-web"].parent_span_id.hex() == PARENT
    assert spans["shop-web"].name == "GET /api/items/[item]"


def _servers(collector: Collector, trace_id: str) -> dict[str, Span]:
    spans = collector.of(trace_id, 2)
    found = {service: span for service, span in spans if span.kind == Span.SPAN_KIND_SERVER}
    return found if len(found) == 2 else {}


def test_next_exceptions_are_counted_once_and_told(next_js: Running) -> None:
    """What a route handler throws is in the access line, and counted once."""
    assert next_js.client.get("/api/boom").status_code == 500
    line = next_js.line(**{"http.route": "/api/boom"})
    assert (line["log.level"], line["error.type"], line["error.message"]) == ("error", "TypeError", "boom")
    assert next_js.count(names.HTTP_SERVER_EXCEPTIONS, "GET", "/api/boom", "TypeError") == 1
