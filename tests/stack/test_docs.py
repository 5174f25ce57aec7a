"""What README and docs say is so: examples load, links lead somewhere, commands and flags exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY

from tocsin_service.settings import Document
from tocsin_stack import config

TOP = Path(__file__).parents[2]
PAGES = [TOP / "README.md", TOP / "CONTRIBUTING.md", *sorted((TOP / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/up.md"])
def test_every_configuration_shown_is_taken(page: str, tmp_path: Path) -> None:
    """A person may paste it."""
    (tmp_path / "alertmanager.yml").write_text("route: {receiver: a}\nreceivers: [{name: a}]\n")
    environ = {"ELASTIC_URL": "https://elastic.example:9200"}
    found = blocks(TOP / page, "yaml")
    assert found
    for text in found:
        config.load(Document.parse(text, file=page, folder=tmp_path, environ=environ), environ=environ)


def test_the_readme_instruments_an_application() -> None:
    """The Python example runs as it stands."""
    (text,) = blocks(TOP / "README.md", "python")
    before = set(REGISTRY._collector_to_names)
    scope: dict[str, object] = {}
    exec(text, scope)  # noqa: S102 our own README
    assert isinstance(scope["app"], FastAPI)
    for collector in set(REGISTRY._collector_to_names) - before:
        REGISTRY.unregister(collector)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """No page points at a file that is not there."""
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_every_flag_and_command_named_exists() -> None:
    """`tocsin X --y` in the docs is what the command line knows."""
    used = re.findall(r"tocsin (up|alerting|uptime|ship|check|demo|fetch)\b([^`\n#]*)", (TOP / "README.md").read_text())
    assert used
    for command, rest in used:
        shown = subprocess.run(
            [sys.executable, "-m", "tocsin_stack", command, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={"COLUMNS": "200", "PATH": "/usr/bin:/bin", "NO_COLOR": "1", "TERM": "dumb"},
        ).stdout
        for flag in re.findall(r"--[\w.-]+", rest):
            assert flag in shown, f"tocsin {command} {flag}"
