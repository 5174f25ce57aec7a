"""The page about the shipper says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tocsin import names
from tocsin_service.settings import Document
from tocsin_ship import config
from tocsin_ship.outputs import OUTPUTS

PAGE = (Path(__file__).parents[2] / "docs" / "ship.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_is_a_configuration(text: str) -> None:
    """It can be copied and used."""
    assert config.load(Document.parse(text)).outputs


def test_every_kind_and_every_setting_is_explained() -> None:
    """Nothing can be configured that the page does not name."""
    assert {kind for text in EXAMPLES for kind in re.findall(r"kind: (\w+)", text)} == set(OUTPUTS)
    for model in (config.FileInput, config.LogstashTcp, config.Elasticsearch, config.Store):
        for name in model.model_fields:
            assert re.search(rf"\b{name}\b", PAGE), name


def test_every_metric_has_a_query() -> None:
    """In the table, with its labels."""
    for metric in names.METRICS:
        if metric.name.startswith("tocsin_ship_"):
            assert f"`{metric.name}{{{','.join(metric.labels)}}}`" in PAGE
            assert PAGE.count(metric.name) >= 2
