from __future__ import annotations

from pathlib import Path

import pytest

from tocsin_service.db import sqlite_url


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """A SQLite database of its own for each test."""
    return sqlite_url(tmp_path / "alerting.db")
