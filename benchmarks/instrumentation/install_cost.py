"""Time that importing and installing an instrumentation adds to the start of a process that has FastAPI already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass

_PROGRAM = """
import gc, json, sys, time
import fastapi
app = fastapi.FastAPI()
@app.get("/items/{item}")
async def item(item: int) -> None: ...
had = "opentelemetry.sdk" in sys.modules
gc.collect()  # what FastAPI has left to collect would else fall to whoever allocates next
began, cpu = time.perf_counter(), time.process_time()
%s
wall, cpu = time.perf_counter() - began, time.process_time() - cpu
print(json.dumps({"wall": wall * 1e3, "cpu": cpu * 1e3, "had": had, "sdk": "opentelemetry.sdk" in sys.modules}))
"""

TOCSIN, TOCSIN_EXPORTING = "tocsin", "tocsin with OTLP export"
INSTALLS = {
    TOCSIN: 'import tocsin\ntocsin.instrument(app, service_name="shop")',
    TOCSIN_EXPORTING: (
        'import os\nos.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"\n'
        'import tocsin\ntocsin.instrument(app, service_name="shop")'
    ),
    "prometheus-fastapi-instrumentator": (
        "from prometheus_fastapi_instrumentator import Instrumentator\nInstrumentator().instrument(app).expose(app)"
    ),
    "starlette-exporter": (
        "from starlette_exporter import PrometheusMiddleware, handle_metrics\n"
        'app.add_middleware(PrometheusMiddleware)\napp.add_route("/metrics", handle_metrics)'
    ),
    "OpenTelemetry contrib + SDK + OTLP": (
        "from opentelemetry import trace\n"
        "from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter\n"
        "from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import BatchSpanProcessor\n"
        "provider = TracerProvider()\n"
        "provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))\n"
        "trace.set_tracer_provider(provider)\n"
        "FastAPIInstrumentor.instrument_app(app)"
    ),
}


@dataclass(frozen=True, slots=True)
class InstallCost:
    """Milliseconds, the best of several processes."""

    wall: float
    cpu: float
    sdk: bool
    """Whether the OpenTelemetry SDK was imported by it."""


def measure(processes: int = 7) -> dict[str, InstallCost]:
    """Return what each installation costs, measured in turns, each time in a fresh process."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in INSTALLS}
    with tempfile.TemporaryDirectory(prefix="bytecode-") as folder:
        # As installed packages are: compiled. Some environments write no bytecode beside sources.
        environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
        for _ in range(processes + 1):  # the first one compiles
            for name, statements in INSTALLS.items():
                command = [sys.executable, "-c", _PROGRAM % statements]
                done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
                if done.returncode != 0:
                    raise RuntimeError(f"installation of {name}: {done.stderr[-1000:]}")
                # Its first line: a process that cannot reach its collector at the end may say so after it.
                runs[name].append(json.loads(done.stdout.partition("\n")[0]))
    return {
        name: InstallCost(
            min(run["wall"] for run in found),
            min(run["cpu"] for run in found),
            any(run["sdk"] and not run["had"] for run in found),
        )
        for name, found in runs.items()
    }
