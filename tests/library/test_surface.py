"""The public surface: what is exported, what importing it loads, and that every option is documented."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import tocsin
from tocsin import testing

DOCUMENT = Path(__file__).parents[2] / "docs" / "instrument.md"
TEXT = DOCUMENT.read_text() if DOCUMENT.exists() else ""


def test_everything_exported_is_there_and_documented() -> None:
    """`__all__`, the module and the page agree; everything has a docstring."""
    assert sorted(tocsin.__all__) == tocsin.__all__
    for name in tocsin.__all__:
        assert f"tocsin.{name}" in TEXT, f"docs/instrument.md does not mention tocsin.{name}"
        if callable(getattr(tocsin, name)):
            assert inspect.getdoc(getattr(tocsin, name))
    public = {name for name, value in vars(tocsin).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public | {"__version__"} == set(tocsin.__all__)


def test_the_version_is_the_distributions() -> None:
    """Read when asked for."""
    assert tocsin.__version__ == metadata.version("tocsin")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tocsin.__getattr__("nonsense")


def test_importing_loads_no_framework_and_no_service() -> None:
    """An application pays for what it uses: no OpenTelemetry, no web framework, no part of the services."""
    program = "import tocsin, tocsin.testing, sys, json; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
    )
    roots = {name.partition(".")[0] for name in loaded}
    unwanted = {"opentelemetry", "starlette", "fastapi", "uvicorn", "httpx", "pydantic", "sqlalchemy", "anyio"}
    assert roots & unwanted == set()
    assert {root for root in roots if root.startswith("tocsin")} == {"tocsin"}


def test_the_bare_dependencies_are_enough(tmp_path: Path) -> None:
    """Without orjson, OpenTelemetry and any framework: counting, logging and tracing work."""
    program = """
import sys
for missing in ("orjson", "opentelemetry", "starlette", "fastapi", "httpx"):
    sys.modules[missing] = None
import asyncio, tocsin
from tocsin.testing import Capture, call, counted, fresh_registry
async def app(scope, receive, send):
    tocsin.get_logger().info("inside", value=float("nan"), **tocsin.trace_headers())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
registry, lines = fresh_registry(), Capture()
asyncio.run(call(tocsin.instrument(app, registry=registry, log_stream=lines)))
assert counted(registry) == {("GET", "", "200"): 1}
assert [line["message"] for line in lines.events] == ["inside", "GET / 200"]
assert lines.events[0]["trace.id"] in lines.events[0]["traceparent"]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=tmp_path)


def test_importing_changes_nothing() -> None:
    """No metric, no handler, no structlog configuration before `instrument` is called."""
    program = """
import logging, structlog, prometheus_client
before = prometheus_client.generate_latest().count(b"# TYPE")
import tocsin
log = tocsin.get_logger()
assert prometheus_client.generate_latest().count(b"# TYPE") == before
assert not logging.getLogger().handlers
assert not structlog.is_configured()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def rows(heading: str) -> list[str]:
    """Return the first column of the table under a heading of the page."""
    (section,) = re.findall(rf"^### {re.escape(heading)}\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def test_every_option_is_documented() -> None:
    """A table row for each argument of `instrument`, in its order, and none for what is no argument."""
    assert rows("`tocsin.instrument(app, ...)`") == list(inspect.signature(tocsin.instrument).parameters)[1:]


def test_every_log_option_is_documented() -> None:
    """A table row for each argument of `configure_logs`, and none else."""
    assert rows("`tocsin.configure_logs(...)`") == list(inspect.signature(tocsin.configure_logs).parameters)


def test_every_environment_variable_is_documented() -> None:
    """What the code looks for by name, the page names."""
    sources = Path(inspect.getfile(tocsin)).parent.rglob("*.py")
    wanted = {
        name
        for source in sources
        for name in re.findall(r'"((?:OTEL|TOCSIN|PROMETHEUS)_[A-Z_]+)"', source.read_text())
        if not name.startswith("OTEL_EXPORTER_OTLP_TRACES_")  # documented together
    }
    assert {name for name in wanted if f"`{name}`" not in TEXT} == set()
    assert "OTEL_SERVICE_NAME" in wanted


def test_the_testing_module_exports_what_it_lists() -> None:
    """What the library's own tests use is there for everybody's."""
    assert all(hasattr(testing, name) for name in testing.__all__)
