"""A configuration from YAML, and the bodies that real senders post."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tocsin_alerting.sources import Sources, SourceSettings
from tocsin_service.settings import Document, Settings

_PAYLOADS = Path(__file__).parent / "payloads"


class SecondFile(Settings):
    sources: Sources = ()


@pytest.fixture
def payload() -> Callable[[str], bytes]:
    """Return the body of a webhook by the name of its file."""
    return lambda name: (_PAYLOADS / f"{name}.json").read_bytes()


@pytest.fixture
def configured(tmp_path: Path) -> Callable[[str], tuple[SourceSettings, ...]]:
    """Return the sources of a file; files that it names stand in `tmp_path`."""

    def read(text: str) -> tuple[SourceSettings, ...]:
        return Document.parse(text, file="tocsin.yml", folder=tmp_path).read(SecondFile).sources

    return read


@pytest.fixture
def source(configured: Callable[[str], tuple[SourceSettings, ...]]) -> Callable[[str], Any]:
    """Return the settings of one source, given in YAML as one line."""
    return lambda line: configured(f"sources: [{{{line}}}]")[0]
