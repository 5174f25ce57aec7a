"""Which traces are recorded: the six samplers of the OpenTelemetry specification, as one value."""

from __future__ import annotations

from dataclasses import dataclass

_RANGE = 2**64


@dataclass(frozen=True, slots=True)
class Sampler:
    """Records a share of the traces that begin here, and of the others what their caller records."""

    ratio: float = 1.0
    """0 to 1: the share of traces, chosen by their id, so that every service chooses the same ones."""
    parent_based: bool = True
    """Whether the caller's decision holds where there is a caller."""

    def root(self, trace_id: str) -> bool:
        """Return whether a trace that begins here is recorded.

        The last 16 digits of the id decide, compared as a number: as OpenTelemetry's TraceIdRatioBased does.
        """
        ratio = self.ratio
        return ratio >= 1.0 or (ratio > 0.0 and int(trace_id[16:], 16) < round(ratio * _RANGE))

    def continued(self, trace_id: str, *, sampled: bool) -> bool:
        """Return whether a trace that began elsewhere is recorded, where it was or was not."""
        return sampled if self.parent_based else self.root(trace_id)
