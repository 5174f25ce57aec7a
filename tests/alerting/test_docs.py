"""Every configuration shown in the docs is one that loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tocsin_alerting import extras
from tocsin_alerting.config import load
from tocsin_alerting.receivers import KINDS
from tocsin_service.settings import Document

_DOCS = Path(__file__).parents[2] / "docs"
_PAGES = ("alerting.md", "receivers.md", "migrate-alertmanager.md")
_BLOCK = re.compile(r"```ya?ml\n(.*?)```", re.DOTALL)


def _examples() -> list[tuple[str, str]]:
    found = []
    for page in _PAGES:
        file = _DOCS / page
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        found += [(f"docs/{page}", match[1]) for match in _BLOCK.finditer(text)]
    return found


def _sections(text: str) -> list[tuple[str, ...]]:
    """Return where in an example a configuration of the router stands."""
    data = yaml.safe_load(text)
    if "route" in data or "receivers" in data:
        return [()]
    return [("alerting",)] if "route" in data.get("alerting", {}) else []


_EXAMPLES = _examples()


@pytest.mark.parametrize(("page", "text"), _EXAMPLES, ids=[f"{page}-{n}" for n, (page, _) in enumerate(_EXAMPLES)])
def test_an_example_of_the_docs_loads(page: str, text: str) -> None:
    """As a file of its own, as the section of tocsin.yml it is, or as our second file."""
    document = Document.parse(text, file=page, environ=_Anything())
    data = yaml.safe_load(text)
    if data.keys() & extras.ExtrasSection.model_fields.keys() - {"receivers"}:
        assert extras.load(document)
        return
    for at in _sections(text):
        assert load(_whole(document, at), *at, without=frozenset({"listen_address"})).receivers


def _whole(document: Document, at: tuple[str, ...]) -> Document:
    """Return a document in which what an example leaves out is there: a route to the receivers it shows."""
    data = document.section(*at)
    if at or not isinstance(data, dict) or "route" in data:
        return document
    return document.replaced({"route": {"receiver": data["receivers"][0]["name"]}, **data})


def test_there_is_an_example_of_every_receiver() -> None:
    """A new kind comes with its docs."""
    shown = "".join(text for _, text in _EXAMPLES)
    assert [kind for kind in KINDS if f"{kind}_configs" not in shown] == []


class _Anything(dict[str, str]):
    """An environment in which every variable is set."""

    def get(self, name: str, default: str | None = None) -> str:  # type: ignore[override] # never None
        return default or f"value-of-{name}"
