"""The keys of `alertmanager.yml`, one class per section; what is None is not said and perhaps inherited.

Lists whose entries are large are lists of anything here: each entry is read by itself, so that one mistake hides no
other.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import pydantic

from tocsin_alerting.receivers import KINDS
from tocsin_service.settings import Duration, Settings

_NAMES = pydantic.Field(default_factory=list[str])
_PAIRS = pydantic.Field(default_factory=dict[str, str])
_ENTRIES = pydantic.Field(default_factory=list[object])


class FileSection(Settings):
    """The top level."""

    global_: object = pydantic.Field(None, alias="global")
    route: object
    receivers: list[object] = _ENTRIES
    inhibit_rules: list[object] = _ENTRIES
    templates: list[str] = _NAMES
    time_intervals: list[object] = _ENTRIES
    mute_time_intervals: list[object] = _ENTRIES
    tracing: object = None
    event_recorder: object = None


class RouteSection(Settings):
    """A node of `route`."""

    receiver: str = ""
    group_by: list[str] | None = None
    group_wait: Duration | None = None
    group_interval: Duration | None = None
    repeat_interval: Duration | None = None
    matchers: list[str] = _NAMES
    match: dict[str, str] = _PAIRS
    match_re: dict[str, str] = _PAIRS
    continue_: bool = pydantic.Field(False, alias="continue")
    mute_time_intervals: list[str] = _NAMES
    active_time_intervals: list[str] = _NAMES
    labels: dict[str, str] = _PAIRS
    routes: list[object] = _ENTRIES


class InhibitSection(Settings):
    """An entry of `inhibit_rules`."""

    name: str = ""
    source_matchers: list[str] = _NAMES
    source_match: dict[str, str] = _PAIRS
    source_match_re: dict[str, str] = _PAIRS
    target_matchers: list[str] = _NAMES
    target_match: dict[str, str] = _PAIRS
    target_match_re: dict[str, str] = _PAIRS
    equal: list[str] = _NAMES


class TracingSection(Settings):
    """`tracing`: read, and without effect."""

    client_type: Literal["grpc", "http"] = "grpc"
    endpoint: str = pydantic.Field(min_length=1)
    sampling_fraction: float = 0.0
    insecure: bool = False
    tls_config: dict[str, object] | None = None
    headers: dict[str, object] | None = None
    compression: str = ""
    timeout: Duration = 0.0


def _receiver_section() -> type[Settings]:
    entries: dict[str, Any] = {f"{kind}_configs": (list[object], _ENTRIES) for kind in KINDS}
    return pydantic.create_model(
        "ReceiverSection",
        __base__=Settings,
        __doc__="An entry of `receivers`; a list per kind.",
        name=(str, ""),
        labels=(dict[str, str], _PAIRS),
        **entries,
    )


ReceiverSection: Final[type[Settings]] = _receiver_section()
