"""Every configuration shown in the docs is one that loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tocsin_alerting.config import load
from tocsin_service.settings import Document

_PAGE = Path(__file__).parents[2] / "docs" / "alerting.md"
_EXAMPLES = [
    text
    for text in re.findall(r"```yaml\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    if "receivers:" in text
]


@pytest.mark.parametrize("text", _EXAMPLES, ids=[re.sub(r"\W+", "-", text)[:40] for text in _EXAMPLES])
def test_an_example_of_the_docs_loads(text: str) -> None:
    """As a file of its own, or as the section of tocsin.yml it is."""
    document = Document.parse(text, file="docs/alerting.md")
    at = ("alerting",) if "alerting" in yaml.safe_load(text) else ()
    assert load(document, *at, without=frozenset({"listen_address"})).receivers


def test_there_is_an_example_of_every_receiver() -> None:
    """And one for the whole."""
    shown = "".join(_EXAMPLES)
    assert all(f"{kind}_configs" in shown for kind in ("webhook", "slack", "pagerduty", "console"))
