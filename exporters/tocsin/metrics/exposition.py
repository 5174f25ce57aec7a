"""The /metrics page: text or OpenMetrics, as the scraper asks, compressed if it can take it."""

from __future__ import annotations

import gzip
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import InfoMetricFamily
from prometheus_client.metrics_core import Metric as PrometheusMetric

from tocsin.metrics import foreign
from tocsin.metrics.families import Families, existing_families
from tocsin.metrics.foreign import Format
from tocsin.metrics.workers import collectors

_GZIP_LEVEL = 4  # half the time of the default 9 for 3% more bytes on a page of metrics

_SLOW = 0.002
"""Seconds for a page, above which an event loop should have it made in a thread."""

_VERSION = re.compile(r"\d+(\.\d+)*")
_log = logging.getLogger("tocsin")
_reported: set[str] = set()
_took: WeakKeyDictionary[object, float] = WeakKeyDictionary()


class Registry(Protocol):
    """What a page is made of: prometheus_client's registry, or a part of it."""

    def collect(self) -> Iterable[PrometheusMetric]:
        """Return the families."""


# --- negotiation --------------------------------------------------------------------------------------------------


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    """Return the value of an ASGI header (lower-case name), several joined by commas, or an empty string."""
    return ",".join(value.decode("latin-1") for key, value in headers if key == name)


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an `Accept-Encoding` header allows gzip (RFC 9110, 12.5.3)."""
    weights: dict[str, str] = {}
    for part in accept_encoding.lower().split(","):
        coding, _, weight = part.partition(";")
        weights[coding.strip()] = weight
    named = weights.get("gzip", weights.get("*"))
    return named is not None and re.fullmatch(r"\s*q=0(\.0*)?\s*", named) is None


def negotiate(accept: str) -> Format:
    """Return the format for an `Accept` header: of those it names the one it weighs most, else text 0.0.4."""
    for wanted in _by_weight(accept):
        kind, *parameters = (part.strip() for part in wanted.split(";"))
        version = next((p.partition("=")[2] for p in parameters if p.startswith("version=")), "")
        if version and _VERSION.fullmatch(version) is None:
            continue
        if kind in ("*/*", "text/*"):
            break
        if kind in ("text/plain", "application/openmetrics-text"):
            encode, content_type = choose_encoder(wanted)
            if content_type.startswith(kind):  # not so for an OpenMetrics older than 1.0
                return Format(content_type, encode)
    encode, content_type = choose_encoder("")
    return Format(content_type, encode)


def _by_weight(accept: str) -> list[str]:
    """Return the media ranges of an `Accept` header without their weights, the heaviest first, refused ones left out.

    prometheus_client looks at their order only; Prometheus and its relatives send weights.
    """
    found = []
    for part in accept.lower().split(","):
        weight = 1.0
        kept = []
        for parameter in part.split(";"):
            name, _, value = parameter.strip().partition("=")
            if name.lower() == "q":
                weight = float(value) if re.fullmatch(r"[01](\.\d*)?", value) else 0.0
            else:
                kept.append(parameter.strip())
        if weight > 0:
            found.append((weight, ";".join(kept)))
    return [wanted for _, wanted in sorted(found, key=lambda one: -one[0])]


# --- the page -----------------------------------------------------------------------------------------------------


def page(
    registry: Registry, request_headers: Iterable[tuple[bytes, bytes]], names: Sequence[str] = ()
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the headers and body of a scrape, as negotiated by the request's headers. Thread-safe.

    Args:
        registry: what to show.
        request_headers: as ASGI has them: lower-case names.
        names: only these samples, as prometheus_client's `?name[]=`; default: all.
    """
    began = perf_counter()
    request_headers = list(request_headers)
    shape = negotiate(header(request_headers, b"accept"))
    body = render(registry, shape, frozenset(names))
    headers = [(b"content-type", shape.content_type.encode("latin-1")), (b"vary", b"accept, accept-encoding")]
    if accepts_gzip(header(request_headers, b"accept-encoding")):
        body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        headers.append((b"content-encoding", b"gzip"))
    headers.append((b"content-length", str(len(body)).encode()))
    _took[registry] = perf_counter() - began
    return headers, body


def is_slow(registry: Registry) -> bool:
    """Whether the next page of this registry should be made in a thread: the last one took long, or was none yet."""
    return _took.get(registry, _SLOW) >= _SLOW


def render(registry: Registry, shape: Format, names: frozenset[str] = frozenset()) -> bytes:
    """Return all families of a registry in a format. What a collector fails to give is left out, counted and logged.

    Args:
        registry: what to show.
        shape: the format.
        names: only these samples; default: all.
    """
    parts: list[str] = []
    for collector in _collectors(registry):
        if names and not _may_have(registry, collector, names):
            continue
        try:
            # Family by family: what came before a failure stays.
            for text in foreign.texts(_Named(collector, names) if names else collector, shape):
                parts.append(text)  # noqa: PERF402
        except Exception as error:  # a collector of the application's own
            _failed(registry, collector, error)
    if shape.openmetrics:
        parts.append("# EOF\n")
    return "".join(parts).encode("utf-8", "replace")


def _collectors(registry: Registry) -> list[Registry]:
    """Return what a registry collects from, so that one of them can fail by itself."""
    return [_Target(registry), *collectors(registry)] if type(registry) is CollectorRegistry else [registry]


def _may_have(registry: Registry, collector: Registry, names: frozenset[str]) -> bool:
    """Whether a collector may give one of these samples: those that told their names are not asked for others."""
    if not isinstance(registry, CollectorRegistry) or isinstance(collector, Families):
        return True  # ours has what only other workers count, too
    told = registry._collector_to_names.get(collector)
    return not told or not names.isdisjoint(told)


@dataclass(frozen=True, slots=True)
class _Named:
    """A part of what a collector gives. Not prometheus_client's: that would show the numbers of this worker only."""

    collector: Registry
    names: frozenset[str]

    def collect(self) -> Iterable[PrometheusMetric]:
        for metric in self.collector.collect():
            part = metric._restricted_metric(self.names)  # type: ignore[no-untyped-call]
            if part is not None:
                yield part


class _Target:
    """The `target_info` that a registry has of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[PrometheusMetric]:
        info = self._registry.get_target_info()
        return [InfoMetricFamily("target", "Target metadata", info)] if info else []


def _failed(registry: Registry, collector: object, error: Exception) -> None:
    kind = type(collector)
    name = (
        str(collector) if kind.__module__.startswith("prometheus_client") else f"{kind.__module__}.{kind.__qualname__}"
    )
    message = "metrics of %s are not on the page: %r; counted from now on"
    families = existing_families(registry)
    if families is not None:
        families.dropped("metrics", "collector")
        families.report(name, message, name, error)
    elif name not in _reported:
        _reported.add(name)
        _log.warning(message, name, error)
