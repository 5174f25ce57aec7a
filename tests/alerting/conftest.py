from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tocsin_service.db import sqlite_url


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """A SQLite database of its own for each test."""
    return sqlite_url(tmp_path / "alerting.db")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server that this run started, up to its database name."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    server = shutil.which("postgres") or next((str(folder / "postgres") for folder in folders), None)
    if server is None or not Path(server).exists():
        pytest.skip("no PostgreSQL server on PATH or in /usr/lib/postgresql; install the package postgresql")
    binaries = Path(server).resolve().parent
    with tempfile.TemporaryDirectory(prefix="tocsin-pg-") as name:
        folder = Path(name)
        unprivileged = _unprivileged(folder)
        data = folder / "data"
        initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "tocsin", "-A", "trust", "--no-sync", "-E", "UTF8"]
        subprocess.run([*unprivileged, *initdb], check=True, capture_output=True, cwd=folder)
        port = _free_port()
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={name} -c fsync=off"
        control = [*unprivileged, str(binaries / "pg_ctl"), "-D", str(data), "-l", str(folder / "log"), "-w"]
        # pg_ctl hands its pipes on to the server, which would keep them open: it gets none.
        subprocess.run([*control, "-o", options, "start"], check=True, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            yield f"postgresql://tocsin@127.0.0.1:{port}"
        finally:
            subprocess.run([*control, "-m", "fast", "stop"], check=True, cwd=folder, stdout=subprocess.DEVNULL)


def _unprivileged(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root; then it runs as the user its package made."""
    if os.geteuid() != 0:
        return []
    try:
        shutil.chown(folder, "postgres", "postgres")
    except LookupError:
        pytest.skip("this runs as root, and there is no user postgres for the server; run as another user")
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(params=["sqlite", "postgresql"])
async def any_database_url(request: pytest.FixtureRequest, database_url: str) -> str:
    """A fresh database, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return database_url
    server: str = request.getfixturevalue("postgres")
    name = f"t{time.monotonic_ns()}"
    connection = await asyncpg.connect(f"{server}/postgres")
    await connection.execute(f"create database {name}")
    await connection.close()
    return f"{server}/{name}"
