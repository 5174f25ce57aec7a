"""Rules that the shipped compose stack keeps; its images are not run here, its files and health commands are."""

from __future__ import annotations

import asyncio
import base64
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.responses import Response

from tocsin_service.settings import Document
from tocsin_service.testing import Received, sink
from tocsin_ship import config as ship_config
from tocsin_stack import config as stack_config

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose"
FILES = COMPOSE / "tocsin_stack" / "files"
TEXT = (COMPOSE / "docker-compose.yml").read_text(encoding="utf-8")
STACK: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = STACK["services"]

WRITES_INTO_ITSELF = {"elasticsearch", "logstash", "kibana"}
"""Elastic's entry points write their configuration at each start; the compose file says so."""
RUNS_ONCE = {"elk-init"}
CORE_LIMIT = 0.9 * 1024
"""MiB the services without a profile may take together."""
TOTAL_LIMIT = 4.5 * 1024

each_service = pytest.mark.parametrize("name", sorted(SERVICES))


def memory(service: dict[str, Any]) -> int:
    return int(service["deploy"]["resources"]["limits"]["memory"].removesuffix("M"))


def test_an_old_compose_reads_it() -> None:
    """docker-compose 1.29 refuses a top-level name and ignores configs; profiles and conditions it knows."""
    assert {key for key in STACK if not key.startswith("x-")} == {"services", "networks", "volumes"}


@each_service
def test_every_service_is_hardened(name: str) -> None:
    """No capability, no new privileges, no privileged mode, a read-only root wherever the image allows."""
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "network_mode", "user"} & service.keys()
    assert service.get("read_only", False) is (name not in WRITES_INTO_ITSELF)
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}


@each_service
def test_every_port_is_published_to_this_machine_alone(name: str) -> None:
    """What is on loopback needs no firewall."""
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:")


@each_service
def test_every_image_is_pinned(name: str) -> None:
    """A full version, never latest; our own is built."""
    assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


@each_service
def test_every_service_has_a_health_check_without_curl(name: str) -> None:
    """Images have lost curl from one release to the next."""
    check = SERVICES[name]["healthcheck"]
    if name in RUNS_ONCE:
        assert check == {"disable": True}
    else:
        assert "curl" not in str(check["test"])
        assert {"interval", "timeout", "retries", "start_period"} <= check.keys()


def test_memory_is_limited_and_adds_up() -> None:
    """Three services fit into 0.9 GiB, all of them into 4.5 GiB."""
    core = sum(memory(service) for service in SERVICES.values() if "profiles" not in service)
    assert core <= CORE_LIMIT
    assert sum(map(memory, SERVICES.values())) <= TOTAL_LIMIT


@pytest.mark.parametrize("name", ["elasticsearch", "logstash"])
def test_a_java_heap_leaves_room_in_its_container(name: str) -> None:
    """Half of the limit, or the kernel kills it."""
    options = next(value for key, value in SERVICES[name]["environment"].items() if key.endswith("JAVA_OPTS"))
    (heap,) = re.findall(r"-Xmx(\d+)m", options)
    assert int(heap) <= memory(SERVICES[name]) / 2


def test_no_password_has_a_default() -> None:
    """Every secret comes from the environment, and compose stops with a sentence where it is missing."""
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY", key):
                assert re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+docs/compose\.md\}", value), key
    assert not re.search(r"changeme|admin:admin|\$\{[A-Z_]+(:-|-)", TEXT)


def test_the_docs_name_every_variable() -> None:
    """The command in docs/compose.md writes exactly what the file asks for."""
    wanted = set(re.findall(r"\$\{([A-Z_]+):\?", TEXT))
    docs = (ROOT / "docs" / "compose.md").read_text(encoding="utf-8")
    (names,) = re.findall(r"for name in ([A-Z_ ]+); do", docs)
    assert set(names.split()) == wanted


def test_services_start_in_an_order_that_waits() -> None:
    """A dependency is healthy, or has ended well, before the next starts; and exists in the same profile."""
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            ends = other in RUNS_ONCE
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy")
            assert set(SERVICES[other].get("profiles", [])) <= set(service.get("profiles", [])), name


def test_data_is_in_named_volumes_and_files_are_read_only() -> None:
    """Nothing is written into the checkout; every mounted file exists in it."""
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source, _, mode = volume.partition(":")
            if source.startswith("."):
                assert mode.endswith(":ro")
                assert (COMPOSE / source).exists(), source
            else:
                assert source in STACK["volumes"]


# --- the files that go into the containers ----------------------------------------------------------------------


def test_prometheus_takes_its_configuration(prometheus: Path) -> None:
    """promtool has nothing to say against it, and it scrapes every part that the compose file's tocsin has."""
    promtool = prometheus.with_name("promtool")
    command = [promtool, "check", "config", FILES / "prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    settings = yaml.safe_load((FILES / "prometheus.yml").read_text(encoding="utf-8"))
    jobs = {job["job_name"]: job["static_configs"][0] for job in settings["scrape_configs"]}
    assert all(job["labels"] == {"service": name} for name, job in jobs.items())
    listens = yaml.safe_load((FILES / "tocsin.yml").read_text(encoding="utf-8"))
    for part, section in listens.items():
        port = section["listen_address"].rpartition(":")[2]
        assert jobs[f"tocsin-{part}"]["targets"] == [f"tocsin:{port}"]


def test_tocsin_takes_its_configuration() -> None:
    """The mounted tocsin.yml and ship.yml are read without a problem."""
    config = stack_config.load(Document.open(FILES / "tocsin.yml", environ={}), environ={})
    assert {str(config.listen[name].address) for name in ("console", "alerting", "uptime")} == {
        "0.0.0.0:9095",
        "0.0.0.0:9093",
        "0.0.0.0:9115",
    }
    (output,) = ship_config.load(Document.open(FILES / "ship.yml", environ={})).outputs
    assert isinstance(output, ship_config.LogstashTcp)
    assert str(output.host) == "logstash:50000"
    assert "port => 50000" in (FILES / "logstash" / "tocsin.conf").read_text(encoding="utf-8")


def test_grafana_is_given_what_dashboards_ask_for() -> None:
    """The two data sources with their fixed uids, and the folder of generated dashboards."""
    sources = yaml.safe_load((FILES / "grafana/datasources/tocsin.yml").read_text(encoding="utf-8"))["datasources"]
    assert {source["uid"]: source["type"] for source in sources} == {
        "prometheus": "prometheus",
        "elasticsearch-logs": "elasticsearch",
    }
    (provider,) = yaml.safe_load((FILES / "grafana/dashboards/tocsin.yml").read_text(encoding="utf-8"))["providers"]
    mounts = [volume.split(":") for volume in SERVICES["grafana"]["volumes"]]
    (folder,) = [source for source, target, *_ in mounts if target == provider["options"]["path"]]
    assert list((COMPOSE / folder).glob("*.json"))


# --- health commands, run by a real shell against a real server -------------------------------------------------


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize(
    ("name", "port", "path"),
    [
        ("tocsin", 9095, "/-/ready"),
        ("elasticsearch", 9200, "/_cluster/health"),
        ("logstash", 9600, "/"),
        ("kibana", 5601, "/api/status"),
        ("ship", 9600, "/-/healthy"),
    ],
)
async def test_a_health_command_tells_ready_from_not_ready(name: str, port: int, path: str, status: int) -> None:
    """Exit code 0 for an answer 200, another for 503; Elasticsearch is asked with the password."""

    def answer(received: Received) -> Response:
        if name == "elasticsearch":
            credentials = base64.b64encode(b"elastic:geheim!").decode()
            assert received.headers["authorization"] == f"Basic {credentials}"
        return Response(status_code=status)

    async with sink(answer) as server:
        where = server.url.removeprefix("http://")
        kind, *words = SERVICES[name]["healthcheck"]["test"]
        words = [word.replace("$$", "$") for word in words]
        words = [word.replace(f"127.0.0.1:{port}", where) for word in words]
        words = [word.replace(f"127.0.0.1/{port}", where.replace(":", "/")) for word in words]
        if kind == "CMD-SHELL":
            words = ["/bin/sh", "-c", *words]
        process = await asyncio.create_subprocess_exec(
            *words,
            env={"ELASTIC_PASSWORD": "geheim!", "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(20):
            code = await process.wait()
        assert (code == 0) is (status == 200)
        assert [received.path for received in server.received] == [path]


# --- the image --------------------------------------------------------------------------------------------------


def test_the_image_runs_as_a_user_without_rights() -> None:
    """Two stages, and the last one switches to a numbered user before it starts."""
    dockerfile = (COMPOSE / "Dockerfile").read_text(encoding="utf-8")
    stages = re.split(r"^FROM ", dockerfile, flags=re.MULTILINE)[1:]
    assert len(stages) == 2
    assert all(stage.startswith("python:3.11-slim") for stage in stages)
    assert re.search(r"^USER tocsin$", stages[-1], re.MULTILINE)
    assert "--uid 10001" in stages[-1]
    assert "COPY . " not in dockerfile, "the checkout may hold secrets and a .git folder"


def test_the_image_gets_every_package() -> None:
    """What pyproject.toml packs is what the build copies."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dockerfile = (COMPOSE / "Dockerfile").read_text(encoding="utf-8")
    (block,) = re.findall(r"\[tool\.hatch\.build\.targets\.wheel\]\npackages = \[(.*?)\]", pyproject, re.DOTALL)
    for folder in {name.split("/")[0] for name in re.findall(r'"([^"]+)"', block)}:
        assert f"\nCOPY {folder} {folder}\n" in dockerfile
