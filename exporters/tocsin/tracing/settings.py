"""How traces are sampled and where they go: arguments first, then the standard `OTEL_*` variables, then defaults."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from tocsin.settings import installed_version
from tocsin.settings import service_name as named
from tocsin.tracing.proxy import Proxy, proxy_for
from tocsin.tracing.sampling import Sampler

_log = logging.getLogger("tocsin")

ALL = Sampler()

_SAMPLERS = {
    "always_on": (1.0, False),
    "always_off": (0.0, False),
    "traceidratio": (None, False),
    "parentbased_always_on": (1.0, True),
    "parentbased_always_off": (0.0, True),
    "parentbased_traceidratio": (None, True),
}
_DEFAULT_ENDPOINT = "http://localhost:4318"
_PATH = "/v1/traces"
_TOKEN = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
_FIELD = re.compile(r"[\x20-\x7e\xa0-\xff\t]*")
_URL_SAFE = "%/?&=+,;:@~!$'()*[]"
_SECONDS_BELOW = 100.0


@dataclass(frozen=True, slots=True)
class Otlp:
    """A collector that takes spans by OTLP over HTTP."""

    scheme: str
    """`http` or `https`."""
    host: str
    port: int
    path: str
    """With the query, if there is one."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Sent with every post. Credentials: never shown."""
    timeout: float = 10.0
    """Seconds for one post."""
    gzip: bool = False
    certificate: str | None = None
    """File with the authorities to trust; None: those of the system."""
    client_certificate: str | None = None
    client_key: str | None = None
    proxy: Proxy | None = None

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def shown(self) -> str:
        """The address for log lines: without credentials and query."""
        return f"{self.origin}{self.path.partition('?')[0]}"


@dataclass(frozen=True, slots=True)
class Batching:
    """How spans wait and travel together."""

    delay: float = 5.0
    """Seconds a span waits for others."""
    queue_size: int = 2048
    """Spans that wait at most; more are dropped and counted."""
    batch_size: int = 512


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """Everything about traces that is decided before the first request."""

    resource: tuple[tuple[str, str], ...]
    """What the spans are about: `service.name` and the like."""
    sampler: Sampler = ALL
    otlp: Otlp | None = None
    console: bool = False
    """Whether spans are written to stdout, one JSON object a line."""
    batching: Batching = Batching()
    propagators: frozenset[str] = frozenset(("tracecontext", "baggage"))
    value_limit: int = 16_384
    """Characters of one attribute; longer texts are cut."""
    attribute_limit: int = 128
    event_limit: int = 128
    link_limit: int = 128

    @property
    def exporting(self) -> bool:
        """Whether somebody receives the spans."""
        return self.otlp is not None or self.console


def trace_settings(
    service_name: str | None, service_version: str | None, sample: float | None, environ: Mapping[str, str]
) -> TraceSettings:
    """Return the settings. A variable with a value that cannot be is reported in one warning, and its default used.

    Spans are exported only where an endpoint or an exporter is named: nothing is posted to a default address unasked.

    Args:
        service_name: None: `OTEL_SERVICE_NAME`, else `service.name` of `OTEL_RESOURCE_ATTRIBUTES`.
        service_version: None: `service.version` of `OTEL_RESOURCE_ATTRIBUTES`, if it is there.
        sample: share of traces to record, 0 to 1, where no caller has decided; None: `OTEL_TRACES_SAMPLER`.
        environ: usually `os.environ`.

    Raises:
        ValueError: `sample` is not between 0 and 1.
    """
    if sample is not None and not 0.0 <= sample <= 1.0:
        raise ValueError(f"sample is {sample}, expected a share of traces between 0 and 1")
    found = _Environment(environ)
    disabled = found.flag("OTEL_SDK_DISABLED")
    exporters = frozenset[str]() if disabled else _exporters(found)
    sampler = _sampler(found) if sample is None else Sampler(sample)
    return TraceSettings(
        resource=_resource(found, service_name, service_version),
        # Without the SDK nobody begins to record; what a caller records stays marked for those further down.
        sampler=Sampler(0.0) if disabled else sampler,
        otlp=_otlp(found) if "otlp" in exporters else None,
        console="console" in exporters,
        batching=_batching(found),
        propagators=_propagators(found),
        value_limit=found.whole(found.name_of(*_either("VALUE_LENGTH_LIMIT")), 16_384),
        attribute_limit=found.whole(found.name_of(*_either("COUNT_LIMIT")), 128),
        event_limit=found.whole("OTEL_SPAN_EVENT_COUNT_LIMIT", 128),
        link_limit=found.whole("OTEL_SPAN_LINK_COUNT_LIMIT", 128),
    )


class _Environment:
    """Reads variables, and says what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, *names: str) -> str:
        """Return the first of these that is set and not empty, else ""."""
        return next((value for name in names if (value := self._environ.get(name, "").strip())), "")

    def name_of(self, *names: str) -> str:
        """Return the name of the first of these that is set."""
        return next((name for name in names if self._environ.get(name, "").strip()), names[0])

    def wrong(self, name: str, expected: str, consequence: str, *, secret: bool = False) -> None:
        """Warn about a variable."""
        shown = "a value" if secret else repr(self._environ.get(name, "")[:200])
        _log.warning("%s has %s, expected %s; %s", name, shown, expected, consequence)

    def proxy(self, scheme: str, host: str, port: int) -> Proxy | None:
        """Return the proxy through which an address is reached."""
        try:
            return proxy_for(scheme, host, port, self._environ)
        except ValueError as error:
            _log.warning("%s", error)
            return None

    def flag(self, name: str) -> bool:
        """Return whether a variable says true."""
        value = self.text(name).lower()
        if value not in ("", "true", "false"):
            self.wrong(name, "true or false", "taken as false")
        return value == "true"

    def whole(self, name: str, default: int, least: int = 1) -> int:
        """Return a whole number that is not below `least`."""
        value = self.text(name)
        if not value:
            return default
        if value.isascii() and value.isdigit() and int(value) >= least:
            return int(value)
        self.wrong(name, f"a whole number from {least} up", f"{default} is used")
        return default


def _exporters(found: _Environment) -> frozenset[str]:
    asked = found.text("OTEL_TRACES_EXPORTER").lower()
    if not asked:
        endpoint = found.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
        return frozenset(("otlp",)) if endpoint else frozenset()
    names = frozenset(name.strip() for name in asked.split(",")) - {""}
    if not names <= {"otlp", "console", "none"}:
        found.wrong("OTEL_TRACES_EXPORTER", "otlp, console or none", "the others are left out")
    return names & {"otlp", "console"}


def _sampler(found: _Environment) -> Sampler:
    name = found.text("OTEL_TRACES_SAMPLER").lower()
    if name and name not in _SAMPLERS:
        found.wrong("OTEL_TRACES_SAMPLER", f"one of {', '.join(_SAMPLERS)}", "parentbased_always_on is used")
        name = ""
    ratio, parent_based = _SAMPLERS[name or "parentbased_always_on"]
    return Sampler(_ratio(found) if ratio is None else ratio, parent_based)


def _ratio(found: _Environment) -> float:
    value = found.text("OTEL_TRACES_SAMPLER_ARG")
    try:
        ratio = float(value or 1.0)
    except ValueError:
        ratio = -1.0
    if 0.0 <= ratio <= 1.0:
        return ratio
    found.wrong("OTEL_TRACES_SAMPLER_ARG", "a number between 0 and 1", "1.0 is used")
    return 1.0


def _otlp(found: _Environment) -> Otlp | None:
    own = found.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    shared = found.text("OTEL_EXPORTER_OTLP_ENDPOINT") or _DEFAULT_ENDPOINT
    try:
        url = urlsplit(own or f"{shared.rstrip('/')}{_PATH}")
        port = url.port or {"http": 80, "https": 443}.get(url.scheme, 0)
    except ValueError:
        url, port = urlsplit(""), 0
    if url.scheme not in ("http", "https") or not url.hostname:
        name = found.name_of("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
        found.wrong(
            name, "a URL such as http://collector:4318", "spans are not exported", secret="@" in (own or shared)
        )
        return None
    _check_protocol(found)
    return Otlp(
        scheme=url.scheme,
        host=url.hostname,
        port=port,
        path=quote((url.path or "/") + (f"?{url.query}" if url.query else ""), safe=_URL_SAFE),
        headers=_headers(found, url),
        timeout=_timeout(found),
        gzip=_gzip(found),
        certificate=_file(found, "CERTIFICATE"),
        client_certificate=_file(found, "CLIENT_CERTIFICATE"),
        client_key=_file(found, "CLIENT_KEY"),
        proxy=found.proxy(url.scheme, url.hostname, port),
    )


def _both(setting: str) -> tuple[str, str]:
    """Return the variable for traces, which wins, and the one for all signals."""
    return f"OTEL_EXPORTER_OTLP_TRACES_{setting}", f"OTEL_EXPORTER_OTLP_{setting}"


def _either(limit: str) -> tuple[str, str]:
    """Return the variable for spans, which wins, and the one for all signals."""
    return f"OTEL_SPAN_ATTRIBUTE_{limit}", f"OTEL_ATTRIBUTE_{limit}"


def _check_protocol(found: _Environment) -> None:
    names = _both("PROTOCOL")
    if found.text(*names) not in ("", "http/protobuf"):
        found.wrong(
            found.name_of(*names),
            "http/protobuf",
            "http/protobuf is used: the endpoint must be the collector's HTTP port, usually 4318",
        )


def _headers(found: _Environment, url: SplitResult) -> tuple[tuple[str, str], ...]:
    names = _both("HEADERS")
    pairs: list[tuple[str, str]] = []
    bad = False
    for part in found.text(*names).split(","):
        name, separator, value = part.partition("=")
        name, value = unquote(name).strip(), unquote(value).strip()
        if separator and _TOKEN.fullmatch(name) and _FIELD.fullmatch(value):
            pairs.append((name, value))
        elif part.strip():
            bad = True
    if bad:
        found.wrong(found.name_of(*names), "name=value pairs with commas between", "a pair is left out", secret=True)
    if url.username is not None:
        credentials = f"{unquote(url.username)}:{unquote(url.password or '')}"
        pairs.append(("Authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}"))
    return tuple(pairs)


def _timeout(found: _Environment) -> float:
    """Return seconds. The specification counts milliseconds and Python's SDK seconds: below 100 it must be seconds."""
    names = _both("TIMEOUT")
    value = found.text(*names)
    try:
        number = float(value or 10_000)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        found.wrong(found.name_of(*names), "a number of milliseconds above 0", "10 seconds are used")
        return 10.0
    return number if number < _SECONDS_BELOW else number / 1000.0


def _gzip(found: _Environment) -> bool:
    names = _both("COMPRESSION")
    value = found.text(*names).lower()
    if value not in ("", "none", "gzip"):
        found.wrong(found.name_of(*names), "gzip or none", "spans are not compressed")
    return value == "gzip"


def _file(found: _Environment, setting: str) -> str | None:
    names = _both(setting)
    value = found.text(*names)
    if value and not Path(value).is_file():
        found.wrong(found.name_of(*names), "the path of a file that can be read", "it is left out")
        return None
    return value or None


def _batching(found: _Environment) -> Batching:
    queue_size = found.whole("OTEL_BSP_MAX_QUEUE_SIZE", 2048)
    return Batching(
        delay=found.whole("OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000.0,
        queue_size=queue_size,
        batch_size=min(found.whole("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512), queue_size),
    )


def _propagators(found: _Environment) -> frozenset[str]:
    text = found.text("OTEL_PROPAGATORS").lower()
    names = frozenset(name.strip() for name in text.split(",")) - {""}
    return names or frozenset(("tracecontext", "baggage"))


def _resource(
    found: _Environment, service_name: str | None, service_version: str | None
) -> tuple[tuple[str, str], ...]:
    attributes: dict[str, str] = {
        "telemetry.sdk.name": "tocsin",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": installed_version(),
    }
    text = found.text("OTEL_RESOURCE_ATTRIBUTES")
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if all(separator and name.strip() for name, separator, _ in pairs):
        attributes.update({name.strip(): unquote(value.strip()) for name, _, value in pairs})
    else:
        # The specification: one bad pair, and none is taken.
        found.wrong("OTEL_RESOURCE_ATTRIBUTES", "name=value pairs with commas between", "left out", secret=True)
    fallback = attributes.get("service.name") or "unknown_service"
    attributes["service.name"] = named(service_name, {"OTEL_SERVICE_NAME": found.text("OTEL_SERVICE_NAME")}, fallback)
    if service_version:
        attributes["service.version"] = service_version
    return tuple(attributes.items())
