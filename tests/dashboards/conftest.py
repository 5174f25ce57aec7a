"""The real promtool and prometheus, and a way to ask promtool what fires when."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tocsin_dashboards import rules
from tocsin_stack import debian


def _program(name: str) -> Path:
    found = debian.find(name)
    if found is None:
        try:
            debian.fetch("prometheus")
        except debian.FetchError as error:
            pytest.fail(f"these tests need {name} (Debian package prometheus), and it could not be fetched: {error}")
        found = debian.find(name)
    if found is None:
        pytest.fail(f"these tests need {name}; put it on PATH, or look into {debian.cache_folder()}")
    return found


@pytest.fixture(scope="session")
def promtool() -> Path:
    """The path of the real promtool."""
    return _program("promtool")


@pytest.fixture(scope="session")
def prometheus() -> Path:
    """The path of the real prometheus."""
    return _program("prometheus")


@dataclass(frozen=True)
class Scenario:
    """A history for promtool: what was scraped, and what must be found at which minute.

    `found` maps (minutes, expression) to the samples expected: labels in PromQL notation to value.
    `alerts` maps (minutes, alert) to what must fire: labels and annotations.
    """

    rules: rules.Document
    series: Mapping[str, str]
    found: Mapping[tuple[float, str], Mapping[str, float]] = field(default_factory=dict)
    alerts: Mapping[tuple[float, str], Sequence[Mapping[str, Mapping[str, str]]]] = field(default_factory=dict)
    interval: str = "1m"


Judge = Callable[[Scenario], None]


@pytest.fixture
def judge(promtool: Path, tmp_path: Path) -> Judge:
    """A function that lets promtool run a scenario and fails with its words if an expectation does not hold."""

    def run(scenario: Scenario) -> None:
        (tmp_path / "rules.yml").write_text(rules.render(scenario.rules), encoding="utf-8")
        test = {
            "rule_files": ["rules.yml"],
            "evaluation_interval": scenario.interval,
            "tests": [
                {
                    "interval": scenario.interval,
                    "input_series": [{"series": name, "values": text} for name, text in scenario.series.items()],
                    "promql_expr_test": [
                        {
                            "expr": expr,
                            "eval_time": f"{round(minute * 60)}s",
                            "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
                        }
                        for (minute, expr), samples in scenario.found.items()
                    ],
                    "alert_rule_test": [
                        {"alertname": name, "eval_time": f"{round(minute * 60)}s", "exp_alerts": list(expected)}
                        for (minute, name), expected in scenario.alerts.items()
                    ],
                }
            ],
        }
        (tmp_path / "test.yml").write_text(yaml.safe_dump(test, sort_keys=False), encoding="utf-8")
        done = subprocess.run(
            [promtool, "test", "rules", "test.yml"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    return run


@pytest.fixture
def scenario() -> type[Scenario]:
    """The class of scenarios, for test modules, which cannot import from here."""
    return Scenario
