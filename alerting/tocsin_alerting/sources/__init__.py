"""The kinds of sources beside Prometheus, found by name. A new one is a module, a line here, a test, and docs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final

import pydantic

from tocsin_alerting.sources import alertmanager, generic, grafana, sentry
from tocsin_alerting.sources.report import Report
from tocsin_service.settings import flaw

KINDS: Final[Mapping[str, Callable[..., Report]]] = {
    "grafana": grafana.read,
    "alertmanager": alertmanager.read,
    "sentry": sentry.read,
    "json": generic.read,
}
"""`read(body, headers, settings, now)`: what a request says. Names of headers are in lower case."""


def _kind(value: object) -> object:
    return value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)


SourceSettings = Annotated[
    Annotated[grafana.GrafanaSettings, pydantic.Tag("grafana")]
    | Annotated[alertmanager.AlertmanagerSettings, pydantic.Tag("alertmanager")]
    | Annotated[sentry.SentrySettings, pydantic.Tag("sentry")]
    | Annotated[generic.JsonSettings, pydantic.Tag("json")],
    pydantic.Discriminator(
        _kind,
        custom_error_type="tocsin",
        custom_error_message="{what}",
        custom_error_context={"what": "no such kind of source", "expected": f"kind: {', '.join(KINDS)}", "fix": ""},
    ),
]
"""An entry of `sources`."""


def _distinct(sources: Sequence[Any]) -> Sequence[Any]:
    names = [source.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise flaw(f'two sources are called "{twice}"', expected="names that differ: they are addresses")
    return sources


Sources = Annotated[tuple[SourceSettings, ...], pydantic.AfterValidator(_distinct)]
"""The field `sources` of the second configuration file; by default `()`."""
