"""For tests of instrumented applications: what was counted, logged and traced, and a client that needs no server.

with tocsin.testing.recorded(app) as seen:
client.get("/items/7")
assert seen.requests == {("GET", "/items/{item}", "200"): 1}
assert seen.lines.access[0]["http.route"] == "/items/{item}"
assert [span["name"] for span in seen.spans] == ["GET /items/{item}"]
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from tocsin.asgi import ASGIApp, Message
from tocsin.install import instrument, instrumentation_of, uninstrument
from tocsin.logs.configure import reset_logs
from tocsin.metrics.families import Families, families_of
from tocsin.names import HTTP_SERVER_ACTIVE_REQUESTS, HTTP_SERVER_REQUEST_DURATION, TOCSIN_DROPPED, Field
from tocsin.redact import DEFAULT, Redactor
from tocsin.tracing.console import described
from tocsin.tracing.export import Exporter
from tocsin.tracing.otlp import Item
from tocsin.tracing.settings import TraceSettings, trace_settings
from tocsin.tracing.testing import reset_tracing
from tocsin.tracing.tracer import RequestTracer

__all__ = [
    "Answer",
    "Capture",
    "Recorded",
    "active",
    "call",
    "counted",
    "dropped",
    "fresh_registry",
    "recorded",
    "reset_logs",
    "reset_tracing",
    "seconds",
]


def fresh_registry() -> CollectorRegistry:
    """Return an empty registry, so that a test counts from zero."""
    return CollectorRegistry()


class Capture(io.BytesIO):
    """A stream for `log_stream=` or `configure_logs(stream=)` that gives the lines back as objects."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """All lines, parsed; fails where a line is not one JSON object."""
        return [json.loads(line) for line in self.getvalue().decode().splitlines()]

    @property
    def access(self) -> list[dict[str, Any]]:
        """The access lines."""
        return [event for event in self.events if str(event.get(Field.DATASET, "")).endswith(".access")]

    @property
    def application(self) -> list[dict[str, Any]]:
        """All other lines."""
        return [event for event in self.events if not str(event.get(Field.DATASET, "")).endswith(".access")]


class _Spans(Exporter):
    """Keeps spans instead of exporting them."""

    def __init__(self, settings: TraceSettings, families: Families, redact: Redactor) -> None:
        super().__init__(settings, families, redact)
        self.items: list[Item] = []

    def put(self, item: Item) -> None:
        """Keep a span that is over."""
        self.items.append(item)


@dataclass(slots=True)
class Recorded:
    """What was recorded of an application inside of a `with recorded(app)` block, and stays to be looked at."""

    app: Any
    """The application, wrapped if it is of a kind that is."""
    registry: CollectorRegistry
    """Its own: counts begin at zero."""
    lines: Capture
    _spans: _Spans

    @property
    def requests(self) -> dict[tuple[str, str, str], int]:
        """How many requests were counted, by (method, route, status)."""
        return counted(self.registry)

    @property
    def spans(self) -> list[dict[str, Any]]:
        """The spans that are over, in that order.

        Of each: name, kind, trace_id, span_id, parent_id ("" if it began the trace), start and end in Unix
        nanoseconds, attributes, status (unset, ok, error), message, and where there are any events.
        """
        return [described(item, self._spans.redact) for item in self._spans.items]

    def value(self, name: str, **labels: str) -> float | None:
        """Return one sample of a metric, or None: `seen.value("orders_total", kind="gift")`."""
        return self.registry.get_sample_value(name, labels)


@contextmanager
def recorded(app: Any, **options: Any) -> Iterator[Recorded]:
    """Instrument an application for the length of a test, with a registry, a log and a list of spans of its own.

    Args:
        app: not instrumented yet.
        options: those of `tocsin.instrument`, but `registry` and `log_stream`.

    Raises:
        ValueError: the application is instrumented already: its metrics would be counted elsewhere.
    """
    registry, lines = fresh_registry(), Capture()
    instrumented = instrument(app, registry=registry, log_stream=lines, **options)
    instrumentation = instrumentation_of(instrumented)
    if instrumentation is None or instrumentation.families is not families_of(registry):
        raise ValueError("the application is instrumented already; tocsin.uninstrument(app) it first")
    settings = trace_settings(None, None, None, {})
    redact = DEFAULT if instrumentation.pipeline is None else instrumentation.pipeline.redactor
    spans = _Spans(settings, instrumentation.families, redact)
    if isinstance(instrumentation.tracer, RequestTracer):
        instrumentation.tracer.send_to(spans)
    try:
        yield Recorded(instrumented, registry, lines, spans)
    finally:
        uninstrument(instrumented)


@dataclass(slots=True)
class Answer:
    """What an application sent."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The status, 0 if none was sent."""
        return next((int(m["status"]) for m in self.messages if m["type"] == "http.response.start"), 0)

    @property
    def headers(self) -> dict[str, str]:
        """The headers, names in lower case; of a repeated one the last."""
        start = next((m for m in self.messages if m["type"] == "http.response.start"), {})
        return {name.decode().lower(): value.decode("latin-1") for name, value in start.get("headers", ())}

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(m.get("body", b"") for m in self.messages if m["type"] == "http.response.body")


async def call(
    app: ASGIApp,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    root_path: str = "",
    client: str = "192.0.2.7",
    disconnect_after: int | None = None,
    answer: Answer | None = None,
) -> Answer:
    """Send one request to an ASGI application in this process and return its answer.

    Args:
        app: the application.
        path: path and query.
        method: sent as it is.
        headers: names are lowered.
        body: sent in one message.
        root_path: where a proxy serves the application.
        client: the peer's address.
        disconnect_after: the client goes away after this many body messages of the answer.
        answer: filled while the application runs, for tests that look in between or expect an exception.
    """
    answer = Answer() if answer is None else answer
    gone = asyncio.Event()
    if disconnect_after == 0:
        gone.set()
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answer.messages.append(message)
        bodies = sum(m["type"] == "http.response.body" for m in answer.messages)
        if disconnect_after is not None and bodies >= disconnect_after:
            gone.set()

    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": root_path,
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
        "client": (client, 50000),
        "server": ("testserver", 80),
        "state": {},
    }
    await app(scope, receive, send)
    return answer


def counted(registry: CollectorRegistry) -> dict[tuple[str, str, str], int]:
    """Return how many requests a registry counted, by (method, route, status)."""
    found: dict[tuple[str, str, str], int] = {}
    method, route, status = HTTP_SERVER_REQUEST_DURATION.labels
    for metric in registry.collect():
        for sample in metric.samples:
            if sample.name == f"{HTTP_SERVER_REQUEST_DURATION.name}_count":
                found[sample.labels[method], sample.labels[route], sample.labels[status]] = int(sample.value)
    return found


def seconds(registry: CollectorRegistry) -> float:
    """Return the seconds of all requests a registry counted, added up."""
    name = f"{HTTP_SERVER_REQUEST_DURATION.name}_sum"
    return sum(sample.value for metric in registry.collect() for sample in metric.samples if sample.name == name)


def active(registry: CollectorRegistry) -> int:
    """Return how many requests are being answered now."""
    name = HTTP_SERVER_ACTIVE_REQUESTS.name
    return int(sum(sample.value for metric in registry.collect() for sample in metric.samples if sample.name == name))


def dropped(registry: CollectorRegistry) -> dict[tuple[str, str], int]:
    """Return how much telemetry was lost, by (signal, reason)."""
    return {
        (sample.labels["signal"], sample.labels["reason"]): int(sample.value)
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == TOCSIN_DROPPED.name
    }
