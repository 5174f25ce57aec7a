"""What one probe saw (`Observation`) and what that means (`Result`): the values every other module passes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class State(StrEnum):
    """The verdict on one probe, and the state a check is in; also the `state` label of metrics."""

    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"


class Phase(StrEnum):
    """The parts of a probe, in the order they happen (blackbox_exporter's names)."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    TLS = "tls"
    PROCESSING = "processing"
    """From the request being written to the first byte of the answer."""
    TRANSFER = "transfer"
    """From the first byte of the answer to its last."""


class Reason(StrEnum):
    """Why a probe ended as it did; also the `reason` label of metrics and a field of the API."""

    OK = "ok"
    DEGRADED = "degraded"
    DNS = "dns"
    CONNECT_REFUSED = "connect_refused"
    CONNECT_TIMEOUT = "connect_timeout"
    CONNECT_ERROR = "connect_error"
    """No route, network down: a failure to connect that is neither a refusal nor a time-out."""
    TLS_EXPIRED = "tls_expired"
    TLS_HOSTNAME = "tls_hostname"
    TLS_UNTRUSTED = "tls_untrusted"
    TLS = "tls"
    STATUS = "status"
    BODY = "body"
    BODY_LIMIT = "body_limit"
    CONDITION = "condition"
    TIMEOUT_HEADERS = "timeout_headers"
    TIMEOUT_BODY = "timeout_body"
    RESET = "reset"
    PROTOCOL = "protocol"
    LATE = "late"
    """A failure seen by a prober that was itself late: nobody is blamed."""
    INTERNAL = "internal"
    """The prober itself failed."""


_TCP_REASONS = (
    Reason.OK,
    Reason.DEGRADED,
    Reason.DNS,
    Reason.CONNECT_REFUSED,
    Reason.CONNECT_TIMEOUT,
    Reason.CONNECT_ERROR,
    Reason.CONDITION,
    Reason.LATE,
    Reason.INTERNAL,
)
REASONS: Mapping[str, tuple[Reason, ...]] = {"tcp": _TCP_REASONS, "http": tuple(Reason)}
"""The reasons each kind of probe can give."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Where a probe broke off: in which phase, for which reason, and the rest of the sentence "..., but {what}"."""

    reason: Reason
    phase: Phase
    what: str


@dataclass(frozen=True, slots=True)
class Observation:
    """The plain facts of one probe, before anybody judges them.

    Attributes:
        duration: seconds of the whole probe.
        phases: seconds of each phase that began, the broken one included.
        failure: None when the probe got all it asked for.
        body: at most the body limit; `truncated` says that there was more.
        location: host of a `Location` header, without the path.
    """

    duration: float
    phases: Mapping[Phase, float]
    failure: Failure | None = None
    status: int | None = None
    body: bytes = b""
    truncated: bool = False
    location: str = ""

    @property
    def connected(self) -> bool:
        """Whether a connection was made, whatever came after it."""
        broken = self.failure.phase if self.failure else None
        return Phase.CONNECT in self.phases and broken is not Phase.CONNECT


@dataclass(frozen=True, slots=True)
class Result:
    """One probe, judged.

    Attributes:
        at: Unix seconds at which the probe began, to the millisecond.
        sentence: names the broken layer in plain words.
        duration: seconds of the whole probe.
        excerpt: the beginning of the answer's body, for a probe that was not fine; secrets masked.
    """

    at: float
    verdict: State
    reason: Reason
    sentence: str
    duration: float
    phases: Mapping[Phase, float] = field(default_factory=dict)
    status: int | None = None
    excerpt: str = ""

    @property
    def success(self) -> bool:
        """Whether the target did its work, slowly or not."""
        return self.verdict in {State.UP, State.DEGRADED}
