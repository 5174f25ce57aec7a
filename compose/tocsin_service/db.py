"""State in SQL: SQLite (WAL) by default, PostgreSQL by URL, through SQLAlchemy Core; migrations by Alembic.

Each part brings its own migrations (a package with a `versions` folder) and its own version table, so parts may
share one database or have one each.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final, TypeVar

import aiosqlite
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

_T = TypeVar("_T")
_ANSWER_LIMIT: Final = 10.0
"""Seconds that PostgreSQL may take for one statement, or to let us in."""


_SESSION: Final = {
    # Who is cut off in the middle of a transaction must not keep its locks: others go on without him.
    "idle_in_transaction_session_timeout": "2500",
    "lock_timeout": "5000",
    "application_name": "tocsin",
}


class DatabaseError(Exception):
    """A database that cannot be used; the message names it without its password."""


@dataclass(frozen=True, slots=True)
class Migrations:
    """The migrations of one part: `Migrations("alerting", "tocsin_alerting.migrations")`."""

    part: str
    package: str


class Database:
    """Connections to one database.

    `read()` gives a connection for queries, `write()` one inside a transaction that commits at the end of the block
    and rolls back on an exception. On SQLite writers queue up inside the process, so none ever sees "locked".
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writer = asyncio.Lock()
        self._thread: _SqliteThread | None = None
        self.dialect = engine.dialect.name
        """`sqlite` or `postgresql`."""

    @classmethod
    async def open(cls, url: str, migrations: Sequence[Migrations] = ()) -> Database:
        """Open `url` and bring its tables up to date.

        Args:
            url: `sqlite:///path` or `postgresql://user:password@host/name`.

        Raises:
            DatabaseError: it cannot be reached, or a migration failed.
        """
        engine = _engine(url)
        shown = engine.url.render_as_string(hide_password=True)
        try:
            _make_folder(engine.url)
            async with engine.connect() as connection:
                for part in migrations:
                    await connection.run_sync(_upgrade, part)
        except (sa.exc.SQLAlchemyError, CommandError, OSError) as error:
            await engine.dispose()
            raise DatabaseError(f"cannot use the database {shown}: {_first_line(error)}") from error
        except BaseException:
            # A start that is cut short: an open SQLite connection has a thread that would keep the process.
            await engine.dispose()
            raise
        return cls(engine)

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection for queries."""
        await asyncio.sleep(0)  # see write
        async with self._engine.connect() as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection inside a transaction."""
        if self.dialect != "sqlite":
            async with self._engine.begin() as connection:
                yield connection
            return
        await asyncio.sleep(0)  # where a cancellation that a transaction put off takes effect
        async with self._writer, self._engine.connect() as connection:
            # IMMEDIATE takes SQLite's write lock at once, so that another process' writer is waited for here.
            await connection.execution_options(sqlite_begin="IMMEDIATE")
            async with connection.begin():
                yield connection

    async def transact(self, step: Callable[[sa.Connection], _T]) -> _T:
        """Run `step` inside a transaction that commits when it returns and rolls back when it raises.

        What `write` does statement by statement, each with a change of threads and back, this does as a whole: on
        SQLite `step` runs in another thread, so that it must not touch what others change meanwhile. It is not
        interrupted: whoever is cancelled leaves it to its end.
        """
        if self.dialect != "sqlite":
            async with self._engine.begin() as connection:
                return await connection.run_sync(step)
        async with self._writer:
            if self._thread is None:
                self._thread = _SqliteThread(self._engine.url.database or "")
            return await self._thread.run(step)

    async def close(self) -> None:
        """Close all connections; SQLite then folds its write-ahead log into the file."""
        async with self._writer:
            if self._thread is not None:
                await self._thread.close()
                self._thread = None
        await self._engine.dispose()


class _SqliteThread:
    """One connection in a thread of its own, which runs whole transactions one after the other."""

    def __init__(self, path: str) -> None:
        self._engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.pool.StaticPool)
        sa.event.listen(self._engine, "connect", _configure_sqlite)
        sa.event.listen(self._engine, "begin", _begin_sqlite)
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A process that is told to end does not wait for a database.
        threading.Thread(target=self._run, name="sqlite", daemon=True).start()

    async def run(self, step: Callable[[sa.Connection], _T]) -> _T:
        """Run `step` in a transaction; once begun it is waited for, also by who is cancelled."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()

        def work() -> None:
            try:
                result = self._transaction(step)
            except BaseException as error:  # handed on to whoever waits
                _tell(loop, done.set_exception, error)
            else:
                _tell(loop, done.set_result, result)

        self._work.put(work)
        return await _to_its_end(done)

    def _transaction(self, step: Callable[[sa.Connection], _T]) -> _T:
        with self._engine.connect() as connection:
            # IMMEDIATE takes SQLite's write lock at once, so that another process' writer is waited for here.
            connection.execution_options(sqlite_begin="IMMEDIATE")
            with connection.begin():
                return step(connection)

    async def close(self) -> None:
        """Close the connection and end the thread."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def work() -> None:
            self._engine.dispose()
            _tell(loop, done.set_result, None)

        self._work.put(work)
        self._work.put(None)
        await _to_its_end(done)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


def _tell(loop: asyncio.AbstractEventLoop, tell: Callable[[Any], None], value: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(tell, value)


async def _to_its_end(begun: asyncio.Future[_T]) -> _T:
    """Wait for what cannot be taken back; a cancellation is put off to the next await that is none of this kind."""
    task, put_off = asyncio.current_task(), 0
    while not begun.done():
        try:
            await asyncio.wait([begun])
        except asyncio.CancelledError:
            put_off += 1
            if task is not None:
                task.uncancel()
    for _ in range(put_off):
        if task is not None:
            task.cancel()
    return begun.result()


class _SqliteConnection(aiosqlite.Connection):
    """aiosqlite's connection, safe to cancel.

    What its thread has begun cannot be taken back, so a cancellation is put off to the next await that is no statement
    of a transaction; SQLAlchemy would close the connection under the running statement. And it ends once: whoever
    waited for a second `stop` of the thread would wait for ever.
    """

    def __init__(self, connector: Callable[[], sqlite3.Connection], iter_chunk_size: int) -> None:
        super().__init__(connector, iter_chunk_size)
        self._thread.daemon = True  # a process that is told to end does not wait for a database
        self._stopped = False

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        statement: Callable[..., Coroutine[Any, Any, Any]] = super()._execute
        return await _to_its_end(asyncio.ensure_future(statement(fn, *args, **kwargs)))

    def stop(self) -> asyncio.Future[Any] | None:
        """End the thread once; a second call has nothing to wait for."""
        if self._stopped:
            return None
        self._stopped = True
        return super().stop()


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file."""
    return f"sqlite:///{path}"


def _engine(url: str) -> AsyncEngine:
    try:
        parsed = make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise DatabaseError("this is not a database URL; write sqlite:///path or postgresql://...") from error
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
    name = parsed.get_backend_name()
    if name not in drivers:
        raise DatabaseError(f"{name} is not supported; use sqlite:///path or postgresql://...")
    parsed = parsed.set(drivername=drivers[name])
    if name == "sqlite" and parsed.database in {None, "", ":memory:"}:
        # Its one connection would be shared by readers and the writer, and their transactions would mix.
        raise DatabaseError("a database in memory forgets everything; write sqlite:///path")
    if drivers[name].startswith("postgresql"):
        # A connection that hangs, as behind a switch that has died, must not be waited for for ever.
        limits = {"timeout": _ANSWER_LIMIT, "command_timeout": _ANSWER_LIMIT, "server_settings": _SESSION}
        return create_async_engine(parsed, pool_pre_ping=True, pool_timeout=_ANSWER_LIMIT, connect_args=limits)
    path = parsed.database or ""

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=5.0)

    def open_connection() -> _SqliteConnection:
        return _SqliteConnection(connect, iter_chunk_size=64)

    engine = create_async_engine(parsed, async_creator=open_connection)
    sa.event.listen(engine.sync_engine, "connect", _configure_sqlite)
    sa.event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _make_folder(url: sa.URL) -> None:
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)


def _configure_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # pysqlite must not begin transactions by itself: _begin_sqlite does
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000", "cache_size=-2000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    kind = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {kind}")


def _upgrade(connection: sa.Connection, migrations: Migrations) -> None:
    with as_file(files(migrations.package)) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder))
        config.set_main_option("path_separator", "os")
        script = ScriptDirectory.from_config(config)

        def steps(revision: Any, _: object) -> Any:
            return script._upgrade_revs("head", revision)

        with EnvironmentContext(config, script, fn=steps) as environment:
            environment.configure(
                connection=connection,
                version_table=f"tocsin_{migrations.part}_version",
                transactional_ddl=True,
            )
            with environment.begin_transaction():
                environment.run_migrations()
        connection.commit()


def _first_line(error: BaseException) -> str:
    text = str(error) if isinstance(error, OSError) else str(error.args[0] if error.args else "")
    return text.partition("\n")[0] or type(error).__name__
