"""Every example of docs/sources.md is one that works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tocsin.names import HEARTBEAT_LAST_SEEN, HEARTBEAT_PINGS, SOURCE_REQUESTS
from tocsin_alerting.config import load
from tocsin_alerting.heartbeats import HeartbeatList
from tocsin_alerting.pings import PingList
from tocsin_alerting.sources import KINDS, Sources
from tocsin_service.settings import Document, Settings
from tocsin_service.testing import FakeClock

_PAGE = (Path(__file__).parents[3] / "docs" / "sources.md").read_text(encoding="utf-8")
_BLOCKS = re.findall(r"^```yaml\n(.*?)^```", _PAGE, re.MULTILINE | re.DOTALL)
_OURS = [text for text in _BLOCKS if re.match("sources|heartbeats|pings", text)]


class SecondFile(Settings):
    sources: Sources = ()
    heartbeats: HeartbeatList = ()
    pings: PingList = ()


def _read(text: str) -> SecondFile:
    return Document.parse(text, file="docs/sources.md").read(SecondFile)


@pytest.mark.parametrize("text", _OURS, ids=[text.partition("kind: ")[2][:8].strip() or text[:10] for text in _OURS])
def test_an_example_of_the_second_file_loads(text: str) -> None:
    """As it stands."""
    assert _read(text).model_fields_set


def test_the_upstream_alertmanager_is_configured_as_shown() -> None:
    """We read the same file."""
    (text,) = (text for text in _BLOCKS if "receivers:" in text and "route:" in text)
    assert load(Document.parse(text, file="docs/sources.md")).receivers


def test_examples_of_other_programs_are_yaml() -> None:
    """For Grafana and Prometheus."""
    others = [yaml.safe_load(text) for text in _BLOCKS if text not in _OURS]
    assert {"contactPoints", "groups"} <= {key for data in others for key in data}


def test_the_curl_posts_what_the_mapping_reads() -> None:
    """The body of the command, by the mapping above it."""
    (body,) = re.findall(r"--data '(.*?)'$", _PAGE, re.MULTILINE)
    (text,) = (text for text in _OURS if "name: deploys" in text)
    settings = _read(text).sources[0]
    report = KINDS[settings.kind](body.encode(), {}, settings, FakeClock().now())
    assert report.problems == ()
    assert report.alerts[0].labels == {
        "alertname": "DeployFailed",
        "service": "shop",
        "host": "web-1",
        "cluster": "eu-1",
    }


def test_every_kind_and_metric_is_described() -> None:
    """By its name."""
    assert all(f"kind: {kind}" in _PAGE for kind in KINDS)
    assert all(metric.name in _PAGE for metric in (SOURCE_REQUESTS, HEARTBEAT_LAST_SEEN, HEARTBEAT_PINGS))
