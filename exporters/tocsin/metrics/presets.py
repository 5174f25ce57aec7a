"""Requests counted under the names of the library that an application comes from, so that its dashboards go on.

Names, labels and buckets are the defaults of prometheus-fastapi-instrumentator 8 and of starlette_exporter 0.24. What
is different on purpose: methods that do not exist are one label value, `_OTHER`; durations end with the last byte of
the answer; sizes are those of the body also where no `Content-Length` was sent; a method that a route does not allow is
counted under its template; scrapes of the metrics page are not counted; there are no `_created` series.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from tocsin.metrics.families import Families
from tocsin.metrics.store import Exemplar, Store
from tocsin.names import HTTP_SECONDS, Metric
from tocsin.request import Facts

REQUESTS = Metric("http_requests_total", "counter", "Requests answered.", ("method", "status", "handler"))
REQUEST_SIZE = Metric(
    "http_request_size_bytes", "summary", "Bytes of requests, as their Content-Length says.", ("handler",)
)
RESPONSE_SIZE = Metric("http_response_size_bytes", "summary", "Bytes of answers, without headers.", ("handler",))
DURATION_HIGHR = Metric(
    "http_request_duration_highr_seconds",
    "histogram",
    "Seconds of all requests together, in many buckets.",
    (),
    (0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60),
)
DURATION_LOWR = Metric(
    "http_request_duration_seconds",
    "histogram",
    "Seconds of requests by method and handler, in few buckets.",
    ("method", "handler"),
    (0.1, 0.5, 1),
)

STARLETTE_REQUESTS = Metric(
    "starlette_requests_total", "counter", "Requests answered.", ("method", "path", "status_code", "app_name")
)
STARLETTE_DURATION = Metric(
    "starlette_request_duration_seconds",
    "histogram",
    "Seconds of requests.",
    ("method", "path", "status_code", "app_name"),
    HTTP_SECONDS,
)
STARLETTE_ACTIVE = Metric(
    "starlette_requests_in_progress", "gauge", "Requests being answered now.", ("method", "app_name")
)

UNMATCHED = "none"
"""The handler that the instrumentator gives requests that no route matched."""


class Instrumentator:
    """The default metrics of prometheus-fastapi-instrumentator: five families, statuses in groups, none in progress."""

    sizes = True
    open: Mapping[str, list[int]] | None = None
    """Nothing is kept apart: requests are counted at once."""

    def __init__(self, families: Families, buckets: tuple[float, ...] | None, labels: tuple[str, ...]) -> None:
        self._families = families
        self._store = families.store
        self._requests = families.declare(with_labels(REQUESTS, labels))
        self._request_size = families.declare(with_labels(REQUEST_SIZE, labels))
        self._response_size = families.declare(with_labels(RESPONSE_SIZE, labels))
        lowr = replace(DURATION_LOWR, buckets=buckets or families.buckets_of(DURATION_LOWR))
        self._lowr = families.declare(with_labels(lowr, labels))
        self._highr = families.declare(DURATION_HIGHR)

    def started(self, method: str) -> None:
        """Nothing to do: by default the instrumentator does not count what is in progress."""

    def ended_all(self, ended: Iterable[Facts]) -> list[Exception]:
        """Count requests out, and return what went wrong."""
        return _each(self.ended, ended)

    def ended(self, facts: Facts) -> None:
        """Count a request out."""
        method, handler, labels = facts.method, facts.route or UNMATCHED, facts.labels
        status = f"{str(facts.status)[0]}xx"
        families, store = self._families, self._store
        with store.lock:
            requests, received, sent, lowr, highr = families.places(
                (self._requests, (method, status, handler, *labels)),
                (self._request_size, (handler, *labels)),
                (self._response_size, (handler, *labels)),
                (self._lowr, (method, handler, *labels)),
                (self._highr, ()),
            )
            cells = store.cells
            cells[requests] += 1.0
            cells[received] += 1.0
            cells[received + 1] += facts.request_bytes
            cells[sent] += 1.0
            cells[sent + 1] += facts.response_bytes
            _observe(store, self._lowr.metric, lowr, facts)
            _observe(store, self._highr.metric, highr, facts)
        if families.overflowed:
            families.settle()


class StarletteExporter:
    """The default metrics of starlette_exporter. As there, requests that no route matched are only seen in progress."""

    sizes = False
    open: Mapping[str, list[int]] | None = None
    """Nothing is kept apart: requests are counted at once."""

    def __init__(
        self,
        families: Families,
        buckets: tuple[float, ...] | None,
        labels: tuple[str, ...],
        app_name: str = "starlette",
    ) -> None:
        self._app_name = app_name
        self._families = families
        self._store = families.store
        self._requests = families.declare(with_labels(STARLETTE_REQUESTS, labels))
        duration = replace(STARLETTE_DURATION, buckets=buckets or families.buckets_of(STARLETTE_DURATION))
        self._duration = families.declare(with_labels(duration, labels))
        self._active = families.declare(STARLETTE_ACTIVE)

    def started(self, method: str) -> None:
        """Count a request in."""
        with self._store.lock:
            (active,) = self._families.places((self._active, (method, self._app_name)))
            self._store.cells[active] += 1.0

    def ended(self, facts: Facts) -> None:
        """Count a request out that was counted in, with what it was."""
        with self._store.lock:
            (active,) = self._families.places((self._active, (facts.method, self._app_name)))
            self._store.cells[active] -= 1.0
        self._count(facts)

    def ended_all(self, ended: Iterable[Facts]) -> list[Exception]:
        """Count requests that were not counted in, and return what went wrong."""
        return _each(self._count, ended)

    def _count(self, facts: Facts) -> None:
        if not facts.route:
            return
        families, store = self._families, self._store
        labels = (facts.method, facts.route, str(facts.status), self._app_name, *facts.labels)
        with store.lock:
            requests, duration = families.places((self._requests, labels), (self._duration, labels))
            store.cells[requests] += 1.0
            _observe(store, self._duration.metric, duration, facts)
        if families.overflowed:
            families.settle()


def _each(count: Callable[[Facts], None], ended: Iterable[Facts]) -> list[Exception]:
    failures: list[Exception] = []
    for facts in ended:
        try:
            count(facts)
        except Exception as error:  # a status that is no number, labels that do not fit
            failures.append(error)
    return failures


def with_labels(metric: Metric, labels: tuple[str, ...]) -> Metric:
    """Return the metric with further labels.

    Raises:
        ValueError: a label is there already.
    """
    twice = [label for number, label in enumerate(labels) if label in (*metric.labels, *labels[:number])]
    if twice:
        raise ValueError(f"label {twice[0]!r} cannot be added: {metric.name} has the labels {metric.labels}")
    return replace(metric, labels=(*metric.labels, *labels)) if labels else metric


def _observe(store: Store, metric: Metric, index: int, facts: Facts) -> None:
    """Count the duration of a request into a histogram that begins at this cell."""
    bucket = bisect_left(metric.buckets, facts.seconds)
    cells = store.cells
    cells[index + bucket] += 1.0
    cells[index + len(metric.buckets) + 1] += facts.seconds
    trace = facts.trace
    if trace is not None and trace.sampled:
        store.exemplify(index, bucket, Exemplar(trace.trace_id, trace.span_id, facts.seconds, facts.ended))
