"""docs/uptime.md keeps its promises: examples load, and no reason, key or metric is missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tocsin import names
from tocsin_uptime import schema
from tocsin_uptime.conditions import Place
from tocsin_uptime.config import Config
from tocsin_uptime.result import Reason, State

_PAGE = (Path(__file__).parents[2] / "docs" / "uptime.md").read_text(encoding="utf-8")


def test_the_example_is_a_configuration(load: Callable[[str], Config]) -> None:
    """What people copy works."""
    (example,) = re.findall(r"```yaml\n(.*?)```", _PAGE, re.DOTALL)
    assert [check.name for check in load(example).checks] == ["front page", "checkout", "database"]


@pytest.mark.parametrize("word", [*Reason, *State])
def test_every_reason_and_state_has_its_line(word: str) -> None:
    """The word in an alert can be looked up."""
    assert f"| `{word}` |" in _PAGE


@pytest.mark.parametrize("place", Place)
def test_every_place_has_its_line(place: Place) -> None:
    """What a condition can look at."""
    assert f"| `{place}` |" in _PAGE


@pytest.mark.parametrize(
    "metric", [metric for metric in names.METRICS if metric.name.startswith(("tocsin_probe_", "tocsin_uptime_"))]
)
def test_every_metric_has_a_query(metric: names.Metric) -> None:
    """A metric nobody can ask something is no use."""
    assert re.search(rf"^\| `{metric.name}` \| .*`.*{metric.name}.*`", _PAGE, re.MULTILINE)


@pytest.mark.parametrize(
    "key",
    [
        *schema.Endpoint.model_fields,
        *schema.Defaults.model_fields,
        *schema.ConfirmSettings.model_fields,
        *schema.TlsConfig.model_fields,
        *schema.AlertmanagerSettings.model_fields,
    ],
)
def test_every_key_is_described(key: str) -> None:
    """The reference is complete."""
    assert re.search(rf"^\| .*`(\w+\.)?{key}`.* \|", _PAGE, re.MULTILINE) or key in {"confirm", "tls_config"}
