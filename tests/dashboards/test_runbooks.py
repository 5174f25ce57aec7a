"""Every alert has a runbook that a tired person can read in two minutes."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from tocsin_dashboards import build, lint, rules

FOLDER = Path(__file__).parents[2] / "docs" / "runbooks"
HEADINGS = [
    "What you see",
    "Who is hurt",
    "First five minutes",
    "Is it a false alarm?",
    "Likely causes",
    "Mitigate",
    "Fix",
    "Silence safely",
    "Tune",
]
RAISED_ELSEWHERE = {"ProbeDown"}
"""Alerts that the prober raises itself, without a Prometheus rule."""

MAXIMUM_WORDS = 400


def alerts() -> set[str]:
    document = rules.build(build.DEFAULT_SLOS, scrape_interval=15)
    return {str(rule["alert"]) for _, rule in lint.each_rule(document) if "alert" in rule} | RAISED_ELSEWHERE


def test_there_is_one_runbook_for_each_alert_and_none_for_others() -> None:
    """No link in an alert leads nowhere, and no page explains an alert that is gone."""
    assert {path.stem for path in FOLDER.glob("*.md")} == alerts()


@pytest.mark.parametrize("name", sorted(alerts()))
def test_a_runbook_has_its_headings_and_its_length(name: str) -> None:
    """The same nine headings in the same order, each with something under it, in at most 400 words."""
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    _, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    assert [section.split("\n", 1)[0] for section in sections] == HEADINGS
    assert all(section.split("\n", 1)[1].strip() for section in sections)
    assert len(text.split()) <= MAXIMUM_WORDS


@pytest.mark.parametrize("name", sorted(alerts()))
def test_a_runbook_comes_with_the_package(name: str) -> None:
    """An installed tocsin can show its runbooks without the repository."""
    inside = files("tocsin_dashboards") / "runbooks" / f"{name}.md"
    assert inside.read_text(encoding="utf-8") == (FOLDER / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(alerts()))
def test_links_between_runbooks_lead_somewhere(name: str) -> None:
    """A link to another page of the documentation is the path of a file."""
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+\.md)", text):
        assert (FOLDER / target).is_file(), target


@pytest.mark.parametrize("name", sorted(alerts()))
def test_queries_in_runbooks_read_what_exists(name: str) -> None:
    """A PromQL query that somebody pastes at night parses, and reads series that tocsin writes."""
    document = rules.build(build.DEFAULT_SLOS, scrape_interval=15)
    known = lint.series_of_metrics() | lint.recorded(document)
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    for query in re.findall(r"```promql\n(.*?)```", text, flags=re.DOTALL):
        assert lint.metrics_in(query) <= known, query
