"""What is recorded of one application: the three signals behind one object, which ASGI and WSGI layers share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextvars import Token
from dataclasses import dataclass, field
from typing import Any, Protocol

from tocsin.backlog import BATCH, Backlog
from tocsin.bound import bound
from tocsin.logs.pipeline import Pipeline, mark_told
from tocsin.metrics.families import Families
from tocsin.names import Field
from tocsin.request import Facts, Running
from tocsin.settings import Paths
from tocsin.tracing.context import Trace

_log = logging.getLogger("tocsin")

RouteOf = Callable[[Mapping[str, Any], str], str]
"""(scope or environ after the application ran, path without the root path) -> template, or "" if none matched."""


class HttpMetrics(Protocol):
    """Counts requests under one set of names. Thread-safe, and called on every request."""

    sizes: bool
    """Whether `request_bytes` and `response_bytes` of the facts are wanted."""

    @property
    def open(self) -> Mapping[str, list[int]] | None:
        """Open requests by method, in lists of one number, for the caller to raise and lower by itself.

        Such a request is then counted by `ended_all`, a little later. None: `started` and `ended` do it, at once;
        so it is where other workers see the counts, which outlive a worker that is killed.
        """

    def started(self, method: str) -> None:
        """Count a request in."""

    def ended(self, facts: Facts) -> None:
        """Count a request out that `started` counted in, with what it was."""

    def ended_all(self, ended: Iterable[Facts]) -> list[Exception]:
        """Count requests that were open in the lists, and return what went wrong."""


class Tracer(Protocol):
    """Names the span of a request and tells somebody when it is over. Called on every request."""

    exporting: bool
    """Whether we export spans: then the facts of sampled requests carry `wire`."""
    foreign: bool
    """Whether other code (OpenTelemetry's instrumentation) makes the server spans inside of ours: the ids of the one
    that is current at the end of the answer (`context.server_span`) are then the request's."""

    def begin(self, headers: Iterable[tuple[bytes, bytes]], method: str = "", path: str = "") -> Trace:
        """Return the server span of a request: continued from its headers (lower-case names), or new.

        Method and path are for the sampler of a provider of the application's own.
        """

    def enter(self, trace: Trace, running: Running) -> Token[Any] | None:
        """Make the request current, and its span for the OpenTelemetry API, if that is loaded.

        Returns what `tracing.spans.leave` takes.
        """

    def ended(self, facts: Facts, error: BaseException | None) -> None:
        """Take a request that is over, with the exception that left the application."""

    def close(self, timeout: float = 5.0) -> bool:
        """Export what is queued, and stop; return whether that was done within so many seconds."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Instrumentation:
    """What is recorded of one application, and where. Only `active` and `tracer` change.

    The tracer changes if OpenTelemetry's own instrumentation comes after ours.
    """

    families: Families
    paths: Paths
    page: Callable[[str, Iterable[tuple[bytes, bytes]]], tuple[int, list[tuple[bytes, bytes]], bytes]]
    """(method, request headers) -> (status, headers, body) of the metrics page."""
    http: HttpMetrics | None
    tracer: Tracer | None
    pipeline: Pipeline | None
    labels: tuple[str | Callable[[Mapping[str, Any]], str], ...] = ()
    """Values of added labels: constants, or functions of the scope or environ after the application ran."""
    sizes: bool = False
    """Whether the facts carry sizes of bodies."""
    personal: bool = True
    """Whether code inside a request finds anything else than it would find outside: a trace, a log, a registry."""
    on_startup: Callable[[], None] | None = None
    active: bool = True
    failures_reported: set[str] = field(default_factory=set)
    backlog: Backlog[Facts] = field(init=False)
    undo: list[Callable[[], object]] = field(default_factory=list)
    """What ends with the instrumentation."""
    extras: bool = field(init=False)
    """Whether a request is asked for more than usual when it ends: one question instead of three."""

    def __post_init__(self) -> None:
        self.extras = bool(self.labels) or self.sizes
        synchronous = self.pipeline is not None and self.pipeline.synchronous
        self.backlog = Backlog(self._tell_all, limit=1 if synchronous else BATCH)
        if self.pipeline is not None:
            self.pipeline.before_event = self.backlog.drain
        if self.http is not None:
            self.undo.append(self.families.before_collect(self._tell_before))

    def _tell_before(self, _families: Families) -> None:
        self.backlog.drain()

    def count(self, facts: Facts) -> Facts:
        """Count a request that is over at once; return its facts, marked as counted."""
        if self.http is not None:
            try:
                self.http.ended(facts)
            except Exception as error:  # a guard: a status that is no number, a clock that runs backwards
                self.failed("metrics", "record", error)
        return facts._replace(counted=True)

    def close(self) -> None:
        """End it: tell what waits, and let go of what others hold for it. Later calls do nothing."""
        self.active = False
        self.backlog.limit = 1  # requests that are still open are told as they end: nobody drains for them any more
        self.backlog.drain()
        while self.undo:
            self.undo.pop()()
        if self.tracer is not None:
            self.tracer.close()
        if self.pipeline is not None:
            self.pipeline.close()

    def _tell_all(self, ended: list[Facts]) -> None:
        """Tell of requests that went well. One signal after the other: each loop stays in the caches."""
        bound()  # finds structlog's list of them, if that was loaded since
        if self.http is not None:
            for failure in self.http.ended_all(facts for facts in ended if not facts.counted):
                self.failed("metrics", "record", failure)
        if self.tracer is not None:
            tell = self.tracer.ended
            for facts in ended:
                try:
                    tell(facts, None)
                except Exception as failure:
                    self.failed("traces", "span", failure)
        if self.pipeline is not None:
            self.pipeline.access_all(ended)  # never raises

    def end(self, facts: Facts, error: BaseException | None) -> None:
        """Record a request that is over, with the exception that left the application, at once and after those before.

        Requests that went well may go into the backlog instead.
        """
        self.backlog.drain()
        if self.http is not None and not facts.counted:
            for failure in self.http.ended_all((facts,)):
                self.failed("metrics", "record", failure)
        self.tell(facts, error)

    def failed_after(self, facts: Facts, error: Exception) -> None:
        """Tell an exception that came after the answer, as of a background task: a line of its own, with the ids."""
        if self.pipeline is not None:
            message = f"{facts.method} {facts.path} failed after its answer {facts.status}"
            self.pipeline.event("error", message, {Field.ROUTE: facts.route, Field.METHOD: facts.method}, error=error)
            mark_told(error)

    def tell(self, facts: Facts, error: BaseException | None) -> None:
        """Hand something that is over to traces and logs alone: what is counted elsewhere, as a WebSocket is."""
        try:
            if self.tracer is not None:
                self.tracer.ended(facts, error)
        except Exception as failure:
            self.failed("traces", "span", failure)
        try:
            if self.pipeline is not None:
                self.pipeline.access(facts, error)
        except Exception as failure:
            self.failed("logs", "access", failure)

    def failed(self, signal: str, reason: str, error: BaseException) -> None:
        """Count telemetry that was lost to an error of our own, and say so the first time."""
        self.families.dropped(signal, reason)
        if reason not in self.failures_reported:
            self.failures_reported.add(reason)
            _log.warning("%s of a request not recorded (%s): %r; counted from now on", signal, reason, error)

    def label_values(self, scope: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the values of the labels that `instrument(labels=...)` added; a failing function gives ""."""
        values = []
        for label in self.labels:
            if isinstance(label, str):
                values.append(label)
                continue
            try:
                values.append(str(label(scope)))
            except Exception as error:  # the application's own function
                self.failed("metrics", "label", error)
                values.append("")
        return tuple(values)
