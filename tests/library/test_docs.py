"""The library's documentation is true: its programs run, its queries read what exists, its links lead somewhere."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest

from tocsin import integrations, names, reference
from tocsin.names import METRICS, Metric

DOCS = Path(__file__).parents[2] / "docs"
METRICS_PAGE = DOCS / "metrics.md"
PAGES = [DOCS / f"{name}.md" for name in ("instrument", "integrations", "workers", "migrate")]
LIBRARY = METRICS[: METRICS.index(names.PROBE_SUCCESS)]
"""What an instrumented application may show; the metrics of the services come after."""

OWN_SERIES = frozenset({"up", "ALERTS"})
"""Series that Prometheus writes by itself."""

TARGET_LABELS = frozenset({"job", "instance", "le"})
"""Labels that the scrape adds, and the one that buckets have."""


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def series() -> dict[str, frozenset[str]]:
    """Return the labels of all series that a scrape of the library finds, by name."""
    found: dict[str, frozenset[str]] = {}
    for metric in LIBRARY:
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        found |= {f"{metric.name}{suffix}": frozenset(metric.labels) for suffix in suffixes}
    return found


def problems(query: str) -> list[str]:
    """Return what a query asks for that does not exist: series, and labels that none of its series has."""
    known = series()
    selectors: list[tuple[str, set[str]]] = []
    labels: set[str] = set()

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            selectors.append((node.name or "", {matcher.name for matcher in node.matchers.matchers}))
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            labels.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(query), visit)
    found = [f"no series {name}" for name, _ in selectors if name not in known and name not in OWN_SERIES]
    had = TARGET_LABELS.union(*(known.get(name, frozenset()) for name, _ in selectors))
    for name, asked in selectors:
        found += [f"{name} has no label {label}" for label in asked - TARGET_LABELS - known.get(name, asked)]
    return found + [f"nothing in it has the label {label}" for label in labels - had]


# --- queries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", LIBRARY, ids=lambda metric: metric.name)
def test_every_metric_of_the_library_has_a_query_about_it(metric: Metric) -> None:
    """An example for a person, which parses, reads the metric itself, and names only what exists."""
    assert metric.name in metric.query
    assert problems(metric.query) == []


@pytest.mark.parametrize(
    ("page", "query"),
    [(page, query) for page in PAGES for query in blocks(page, "promql")],
    ids=lambda value: value.name if isinstance(value, Path) else None,
)
def test_queries_on_the_pages_read_what_exists(page: Path, query: str) -> None:
    """Series and labels alike."""
    assert problems(query) == []


def test_a_query_for_what_does_not_exist_is_found() -> None:
    """The check above is one."""
    assert problems("sum by (path) (rate(http_server_requests_total[5m]))") == [
        "no series http_server_requests_total",
        "nothing in it has the label path",
    ]
    assert problems('tocsin_dropped_total{route="/"}') == ["tocsin_dropped_total has no label route"]


# --- metrics --------------------------------------------------------------------------------------------------------


def test_the_page_of_metrics_is_what_the_names_say() -> None:
    """Generated; `make generate` writes it again."""
    assert METRICS_PAGE.read_text(encoding="utf-8") == reference.page()


@pytest.mark.parametrize("metric", LIBRARY, ids=lambda metric: metric.name)
def test_every_metric_is_documented(metric: Metric) -> None:
    """With its help, all its labels and its query."""
    (entry,) = re.findall(rf"^## {metric.name}\n(.*?)(?=^## |\Z)", METRICS_PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert metric.help in entry
    assert metric.query in entry
    assert all(f"`{label}`" in entry for label in metric.labels)


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "migrate"], ids=lambda page: page.name)
def test_metrics_named_on_a_page_exist(page: Path) -> None:
    """In its running text and tables. The page about migration names those of others too."""
    labels = {label for metric in LIBRARY for label in metric.labels}
    allowed = {*series(), *(metric.name for metric in LIBRARY), *labels, "tocsin_role"}
    written = re.findall(
        r"`((?:http_server|http_client|db_client|tocsin)_\w+)",
        re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL),
    )
    assert set(written) - allowed == set()
    assert written


# --- programs -------------------------------------------------------------------------------------------------------


def programs() -> Iterator[object]:
    """Yield the python blocks of all pages."""
    for page in PAGES:
        for number, program in enumerate(blocks(page, "python"), 1):
            yield pytest.param(program, id=f"{page.stem}-{number}")


@pytest.mark.parametrize("program", list(programs()))
def test_examples_run(program: str, tmp_path: Path) -> None:
    """Each python block of the pages is a whole program that runs as it stands, without a warning."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert re.search("^(Traceback|Exception ignored)", result.stderr, re.MULTILINE) is None, (
        result.stderr
    )  # of a thread


# --- what leads where -----------------------------------------------------------------------------------------------


@functools.cache
def anchors(page: Path) -> set[str]:
    """Return what a link may name after `#`, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and a heading that it has."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_integration_has_a_section() -> None:
    """With a query and a trap; those for a framework are in the quick start instead."""
    text = (DOCS / "integrations.md").read_text()
    folder = Path(next(iter(integrations.__path__)))
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    inner = {"heartbeat", "jobs", "outgoing", "servers", "statements"}  # parts of others
    frameworks = {"starlette", "flask", "django", "litestar"}
    sections = {
        re.sub(r"\W", "", heading.lower()): body
        for heading, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    }
    assert {module for module in modules - inner - frameworks if module not in sections} == {"logstash"}
    assert set(sections) - modules == {"pythonlogstash", "nodejs"}
    for heading, body in sections.items():
        assert "```promql" in body, heading
        assert "**Trap:**" in body, heading
